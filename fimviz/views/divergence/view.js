// The divergence view: how much of what tells two classes apart does F know of?
// State shared with Python or the stand-in host: quantity (of the map), pair (its place), position (along its line), steps.
import { roving } from "../kit/keys.js";
import { escape, series } from "../kit/chart.js";
import { nearOne, number, probability } from "../kit/numbers.js";
import { blend } from "../kit/pixels.js";
import { gainControl } from "../kit/contrast.js";
import { canvasIn, fillTables, limitsOf, mounted, photographic, View } from "../kit/stage.js";
import { QUANTITIES, withClassPairs } from "./classpairs.js";
import { withDistributions } from "./distributions.js";
import { withLine } from "./pairline.js";

function layout(data) {
  const image = (part, more = "") => `<figure class="fv-${part}"><figcaption></figcaption><div class="fv-plate"></div><div class="fv-under"></div>${more}</figure>`;
  const options = Object.entries(QUANTITIES).map(([key, q]) => `<option value="${key}">${q.name}</option>`).join("");
  return `
    <div class="fv-head"><h3 class="fv-title">${escape(data.title)}</h3>
      <details class="fv-help"><summary aria-label="What is this?">?</summary><p>For two samples of different classes, <b>KL</b> =
      Σ p_i log(p_i/p_j) says how well the model’s answers tell x_i from x_j; its mean over pairs is <b>CCKL</b>. <b>G1</b> = ½ (x_j − x_i)ᵀF(x_i)(x_j − x_i)
      is what the Fisher information at x_i alone promises, the part that a small perturbation can use too. <b>G2</b> = KL − G1 is all the rest; it is negative
      where the quadratic form promises more than there is, and G1 ≤ ½ λ₁ ‖x_j − x_i‖² always.</p></details></div>
    <p class="fv-sub">${escape(data.summary)}</p>${limitsOf(data) ? `<p class="fv-quiet fv-left">${escape(limitsOf(data))}</p>` : ""}<p class="fv-quiet fv-bound">${escape(data.theorem)}</p>
    <div class="fv-dists">${data.distributions.map((d) => `<div class="fv-dist"><h4>${escape(d.title)}</h4><div class="fv-hist"></div><ul></ul></div>`).join("")}</div>
    <div class="fv-cross">
      <div class="fv-classes"><h4>By class${data.of ? `, ${escape(data.of)}` : ""}: from (row) to (column)</h4>
        <div class="fv-set"><label>the map shows <select aria-label="What the map shows">${options}</select></label></div>
        <div class="fv-matrix fv-heat"></div><p class="fv-quiet fv-legend"></p>
        <h4 class="fv-listed"></h4><div class="fv-examples" role="listbox"></div></div>
      <div class="fv-line"><h4 class="fv-pairname"></h4>
        <div class="fv-slider"><label>from x_i <input type="range" aria-label="Share of the way from x_i to x_j" min="0" step="1"> to x_j</label><output></output></div>
        <p class="fv-step" aria-live="polite"></p>
        <div class="fv-path"><div class="fv-hand"><div class="fv-images">${image("start")}${image("moved")}${image("end")}${image("direction", `<div class="fv-contrast"></div>`)}</div><div class="fv-look"></div></div>
        <div class="fv-charts"><div class="fv-keys"><span><i></i>KL from x_i</span><span><i class="fv-dashed"></i>its quadratic part, t² G1</span></div><div class="fv-kl"></div></div></div>
      </div>
    </div>
    <div class="fv-tables"></div>`;
}

class Divergence extends withLine(withClassPairs(withDistributions(View))) {
  constructor(model, root, packed) {
    super(model, root, packed);
    this.cell = null;
    const { data, part } = packed;
    this.samples = new Map(data.samples.map((s) => [s.index, s]));
    const Kind = data.kind === "series" ? Float32Array : Uint8Array;
    data.samples.forEach((s) => (s.values = new Kind(part(s.image))));
    root.innerHTML = layout(data);
    this.contrast = gainControl(this.$(".fv-contrast"), () => this.differ());
    this.$(".fv-contrast").hidden = data.kind === "series";
    if (data.kind === "image") this.looking();
    this.range = this.$("input[type=range]");
    this.range.addEventListener("input", () => this.set("position", Number(this.range.value)));
    this.$(".fv-set select").addEventListener("change", (event) => this.set("quantity", event.target.value));
    roving(this.$(".fv-examples"), (option) => this.set("pair", Number(option.dataset.place)));
    this.mapKeys();
    this.dragging();
  }

  get pair() { return this.data.pairs.find((p) => p.place === this.model.get("pair")) ?? null; }
  get steps() { return this.model.get("steps"); }
  get position() { return Math.max(0, Math.min(this.steps, this.model.get("position"))); }
  name(c) { return this.data.classes[c]; }
  ends(pair) { return [this.samples.get(pair.i), this.samples.get(pair.j)]; }
  sits(pair) { return this.ends(pair).map((s) => s.label); }

  picture(plate, values, target, label) {
    const { kind, shape, range } = this.data;
    if (kind === "series") {
      const pad = 0.05 * (range[1] - range[0]);
      plate.innerHTML = series({ width: target, height: Math.round(target * 0.6), values, range: [Math.min(0, range[0]) - pad, range[1] + pad], ghost: null, color: "var(--fv-accent)", label });
      return;
    }
    const [h, w, channels] = shape;
    const canvas = canvasIn(plate, w, h, target, label);
    const frame = canvas.getContext("2d").createImageData(w, h);
    this.zero ??= new Int8Array(values.length);
    blend(frame.data, values, this.zero, 0, channels);
    canvas.getContext("2d").putImageData(frame, 0, 0);
  }

  tables() {
    const { data } = this;
    const key = this.model.get("quantity");
    const names = data.shown.map((c) => this.name(c));
    const cell = (v) => (v === null ? "–" : key === "ratio" ? nearOne(v) : number(v, 4));
    const { pair, steps } = this;
    const line = pair ? [[`Table: along the line from sample ${pair.i} to ${pair.j}`, ["t", "KL", "t² G1", "the model says", "p"], pair.along.map((v, k) =>
      [(k / steps).toFixed(2), number(v, 5), number((k / steps) ** 2 * pair.g1, 5), ...(pair.p[k] === null ? ["not known", "–"] : [this.name(pair.says[k]), probability(pair.p[k])])])]] : [];
    return [
      ["Table: over all pairs", ["model", "quantity", "lower quartile", "median", "upper quartile", "left out"], data.models.flatMap((m, n) =>
        data.distributions.map((d) => [m.name, d.title, d.models[n].text[0], d.models[n].text[1], d.models[n].text[2], d.models[n].note]))],
      [`Table: by class, ${QUANTITIES[key].says}`, ["from \\ to", ...names], data.tables[key].map((row, a) => [names[a], ...row.map(cell)])],
      ["Table: the pairs of this page", ["i", "j", "from", "to", "which", "KL", "G1", "G2", "G2/KL", "½ λ₁ ‖Δ‖²", "‖Δ‖"], data.pairs.map((p) => [p.i, p.j, ...this.sits(p).map((c) => this.name(c)), p.role,
        number(p.kl, 5), number(p.g1, 5), number(p.kl - p.g1, 5), p.kl > 0 ? nearOne((p.kl - p.g1) / p.kl) : "–", number(p.limit, 5), number(p.l2, 4)])],
      ...line,
    ];
  }

  changed() {
    if (this.pair) this.cell = this.sits(this.pair);
    this.show();
  }

  show() {
    if (!this.width) return;
    this.keep({ pair: this.pair?.place ?? -1 });
    this.cell ??= this.pair ? this.sits(this.pair) : this.sits(this.data.pairs[0]);
    this.pressed(this.$(".fv-heat").contains(document.activeElement));
    const key = this.cell.join();
    if (this.$(".fv-examples").dataset.cell !== key) {
      this.$(".fv-examples").dataset.cell = key;
      this.list();
    } else this.selected();
    this.line();
    fillTables(this.$(".fv-tables"), this.tables());
  }

  quantityChanged() {
    this.$(".fv-set select").value = this.model.get("quantity");
    if (!this.width) return;
    this.map();
    fillTables(this.$(".fv-tables"), this.tables());
  }

  resize() {
    const { width, columns } = this;
    this.root.dataset.columns = columns;
    this.mapWidth = columns === 3 ? Math.min(0.46 * width, 110 + 40 * this.data.shown.length) : width;
    const matrix = Math.max(320, this.mapWidth);
    this.root.style.setProperty("--fv-matrix", `${matrix}px`);
    this.root.style.setProperty("--fv-names", `${Math.max(84, Math.min(matrix, width) - 44 * this.data.shown.length - 16)}px`);
    const right = columns === 3 ? width - matrix - 32 : width;
    const beside = right >= 760;
    this.root.dataset.beside = beside;
    const large = photographic(this.data);
    const hand = beside ? (large ? Math.min(480, right / 2) : 376) : right;
    const [across, gap] = [columns === 2 ? 4 : 2, columns === 1 ? 8 : 16];
    this.root.style.setProperty("--fv-hand", `${hand}px`);
    this.root.style.setProperty("--fv-across", across);
    this.target = Math.floor(Math.max(72, Math.min(large ? 232 : 128, (hand - (across - 1) * gap) / across)));
    if (large) this.root.style.setProperty("--fv-bar", `${this.target}px`);
    this.chartWidth = Math.floor(beside ? right - hand - 32 : Math.min(right, 720));
    this.distributions();
    this.quantityChanged();
    this.show();
  }
}

const render = mounted(Divergence, {
  "change:quantity": "quantityChanged",
  "change:pair": "changed",
  "change:position": "move",
});

export default { render };
