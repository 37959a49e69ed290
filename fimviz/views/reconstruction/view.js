// The view of a reconstruction: what of an image does the model's answer tell, and how well?
// State shared with Python or the stand-in host: sample (place among those shown), draws (how many labels).
import { roving } from "../kit/keys.js";
import { escape, marksBelow, series } from "../kit/chart.js";
import { number, probability } from "../kit/numbers.js";
import { decadeTicks, scale } from "../kit/axes.js";
import { blend, paint, signedMap } from "../kit/pixels.js";
import { ends, gainControl, legend } from "../kit/contrast.js";
import { Lens, ofImage, ofMap } from "../kit/lens.js";
import { canvasIn, fillTables, limitsOf, mounted, photographic, View } from "../kit/stage.js";

const MOST = 9; // decades of labels on the slider

/** Directions that so many labels can tell better than a guess. */
export const told = (sample, draws) => sample.one.filter((s, k) => s !== null && sample.guess[k] !== null && s / Math.sqrt(draws) < sample.guess[k]).length;

/** One row a direction on a log axis: a dot at the least standard deviation, a dashed tick where a guess is. */
export function deviations({ width, sample, draws, span, label }) {
  const line = 22;
  const [left, right, top] = [40, width - 84, 8];
  const height = top + line * sample.one.length + 34;
  const bottom = height - 34;
  const sx = scale(span, [left, right]);
  const at = (v) => Math.max(left, Math.min(right, sx(Math.log10(v))));
  const axis = marksBelow(decadeTicks(span, right - left, 60), sx, [top, bottom]);
  const rows = sample.one.map((one, k) => {
    const y = top + line * (k + 0.5);
    const name = `<text x="0" y="${y + 4}">v${[...String(k + 1)].map((c) => "₀₁₂₃₄₅₆₇₈₉"[c]).join("")}</text>`;
    if (one === null) return `${name}<text class="tick" x="${left}" y="${y + 4}">unseen: λ is 0 or lost in rounding</text>`;
    const std = one / Math.sqrt(draws);
    const guess = sample.guess[k];
    const better = guess !== null && std < guess;
    const tick = guess === null ? "" : `<line class="fv-floor" x1="${at(guess)}" x2="${at(guess)}" y1="${y - 9}" y2="${y + 9}"/>`;
    const gap = guess === null ? "" : `<line class="axis" x1="${at(std)}" x2="${at(guess)}" y1="${y}" y2="${y}"/>`;
    return `${name}${gap}${tick}<circle class="${better ? "fv-told" : "fv-untold"}" cx="${at(std)}" cy="${y}" r="5"/><text class="tick" x="${right + 10}" y="${y + 4}">${number(std, 2)}</text>`;
  });
  return `<svg role="img" aria-label="${escape(label)}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${axis.join("")}` +
    `<line class="axis" x1="${left}" x2="${right}" y1="${bottom}" y2="${bottom}"/>${rows.join("")}<text class="tick" x="${right}" y="${height - 4}" text-anchor="end">least standard deviation of vᵀx, L2 pixel units, log axis</text></svg>`;
}

function layout() {
  const image = (part, name) => `<figure class="fv-${part}"><figcaption>${name}</figcaption><div class="fv-plate"></div><div class="fv-under"></div>${part === "direction" ? `<div class="fv-contrast"></div>` : ""}</figure>`;
  return `
    <div class="fv-head"><h3 class="fv-title"></h3>
      <details class="fv-help"><summary aria-label="What is this?">?</summary><p>Suppose that somebody sees labels which the model draws at an image, and knows the model. The bound of
      Cramér and Rao says how well the image can be told: along an eigenvector v of F with eigenvalue λ, n labels leave a standard deviation of at least
      <b>1/√(nλ)</b>; where λ is 0 nothing is told, whatever n. The dashed tick is a <b>guess</b>: how wrong the middle of the range of all images can be. Of the image itself only its part
      along the visible directions matters to the answer, near this image. F speaks of the neighbourhood: a standard deviation as large as the image is an order of magnitude.</p></details></div>
    <p class="fv-sub"></p>
    <div class="fv-gallery" role="listbox" aria-orientation="horizontal" aria-label="Images"></div>
    <div class="fv-slider"><label>labels drawn <input type="range" aria-label="Labels drawn" min="0" max="${MOST}" step="0.25"></label><output></output></div>
    <div class="fv-recon"><div class="fv-hand"><div class="fv-images">${image("original", "image")}${image("direction", "visible part")}${image("moved", "mean + visible")}</div>
      <div class="fv-look"></div></div><div><div class="fv-keys"><span>● told better than by a guess</span><span>○ not</span><span><i class="fv-dashed"></i>a guess</span></div><div class="fv-std"></div></div></div>
    <div class="fv-tables"></div>`;
}

class Reconstruction extends View {
  constructor(model, root, packed) {
    super(model, root, packed);
    const { data, part } = packed;
    const series_ = data.kind === "series";
    data.samples.forEach((s) => {
      s.values = new (series_ ? Float32Array : Uint8Array)(part(s.image));
      s.bytes = s.map = new (series_ ? Float32Array : Int8Array)(part(s.map));
    });
    root.innerHTML = layout();
    this.contrast = gainControl(this.$(".fv-contrast"), () => this.show());
    this.$(".fv-contrast").hidden = series_;
    const read = () => [[this.sample.values, ofImage(data.range)], [this.sample.map, ofMap(this.sample.scale)], [this.seen, ofImage(data.range)]];
    if (!series_) this.lens = new Lens(this.$(".fv-images"), this.$(".fv-look"), data.shape, { read, map: () => this.sample.map });
    if (limitsOf(data)) this.$(".fv-sub").insertAdjacentHTML("afterend", `<p class="fv-quiet fv-left">${escape(limitsOf(data))}</p>`);
    this.range = this.$(".fv-slider input");
    this.range.addEventListener("input", () => this.set("draws", Math.round(10 ** Number(this.range.value))));
    roving(this.$(".fv-gallery"), (option) => this.set("sample", Number(option.dataset.place)));
    const known = data.samples.flatMap((s) => [...s.one, ...s.guess]).filter((v) => v > 0).map(Math.log10).sort((a, b) => a - b);
    // saturated images have directions that nobody will ever tell: they stand at the axis' end
    const [low, high] = known.length ? [Math.max(known[0], -4), Math.min(known.at(-1), 6)] : [-1, 1];
    this.span = [low - 1.2, Math.max(high, low + 1) + 0.2];
    fillTables(this.$(".fv-tables"), [["Table: least standard deviations for one label", ["sample", "direction", "least std", "guess", "labels needed"],
      data.samples.flatMap((s) => s.one.map((one, k) => [s.index, `v${k + 1}`, number(one ?? Infinity), number(s.guess[k] ?? Infinity), one === null || s.guess[k] === null ? "∞" : number(Math.max(1, Math.ceil((one / s.guess[k]) ** 2)))]))]]);
  }

  get place() { return Math.max(0, Math.min(this.data.samples.length - 1, this.model.get("sample"))); }
  get sample() { return this.data.samples[this.place]; }
  get draws() { return Math.max(1, this.model.get("draws")); }

  /** Fill a plate: an image, its values plus a signed part, or the signed part alone. */
  plate(box, values, target, label, signed = null) {
    const { kind, shape, range } = this.data;
    if (kind === "series") {
      const most = Math.max(1e-300, ...Array.from(values, Math.abs));
      const pad = 0.05 * (range[1] - range[0]);
      box.innerHTML = series({ width: target, height: Math.round(target * 0.6), values, range: signed ? [-most, most] : [Math.min(0, range[0]) - pad, range[1] + pad], ghost: null, color: "var(--fv-accent)", label });
      return;
    }
    const [h, w, channels] = shape;
    const canvas = canvasIn(box, w, h, target, label);
    const frame = canvas.getContext("2d").createImageData(w, h);
    if (signed) paint(frame.data, signedMap(values, channels, "strongest"), w, 1, signed.scale / ends(signed, this.contrast.gain)[0] || 1);
    else blend(frame.data, values, new Int8Array(values.length), 0, channels);
    canvas.getContext("2d").putImageData(frame, 0, 0);
  }

  gallery() {
    const box = this.$(".fv-gallery");
    box.hidden = this.data.samples.length < 2;
    box.replaceChildren(...this.data.samples.map((s, k) => {
      const item = document.createElement("div");
      item.className = `fv-thumb${s.wrong ? " fv-wrong" : ""}`;
      item.setAttribute("role", "option");
      item.dataset.place = k;
      item.setAttribute("aria-label", `sample ${s.index}, read as ${s.says}`);
      item.innerHTML = `<div class="fv-plate"></div>`;
      this.plate(item.firstChild, s.values, 40, "");
      return item;
    }));
  }

  show() {
    if (!this.width) return;
    const { sample, data } = this;
    this.root.querySelectorAll(".fv-thumb").forEach((item, k) => {
      item.setAttribute("aria-selected", k === this.place);
      item.tabIndex = k === this.place ? 0 : -1;
    });
    const share = sample.share === null ? "the image is flat" : `${number(100 * sample.share, 2)} % of its squared deviation from its mean`;
    const count = sample.one.filter((s) => s !== null).length;
    this.$(".fv-sub").textContent = `Sample ${sample.index}, read as ${sample.says}${sample.doubt === null ? "" : ` (p = ${probability(sample.confidence, sample.doubt)})`}: ${count} of ${data.size} directions are visible; they hold ${share} (${number((100 * count) / data.size, 2)} % by chance).`;
    this.plate(this.$(".fv-original .fv-plate"), sample.values, this.target, `sample ${sample.index}`);
    this.plate(this.$(".fv-direction .fv-plate"), sample.map, this.target, `the visible part, colours from −${number(sample.limit / this.contrast.gain)} to ${number(sample.limit / this.contrast.gain)}`, sample);
    this.$(".fv-direction .fv-under").innerHTML = data.kind === "image" ? legend(sample, this.contrast.gain, data) : "";
    const mean = sample.values.reduce((a, b) => a + b, 0) / sample.values.length;
    const gain = data.kind === "image" ? (255 * sample.scale) / 127 / (data.range[1] - data.range[0]) : 1;
    this.seen = Float32Array.from(sample.map, (v) => mean + gain * (v === -128 ? 0 : v));
    this.plate(this.$(".fv-moved .fv-plate"), this.seen, this.target, "the mean brightness with the visible part");
    if (this.opened !== sample) this.lens?.forget();
    this.opened = sample;
    this.lens?.show();
    this.$(".fv-moved .fv-under").textContent = data.kind === "image" ? `the mean is ${ofImage(data.range)(mean)}; 99.5 % of the values lie within ±${number(sample.limit, 2)} of it` : "";
    this.labels();
  }

  /** What depends on the number of labels. */
  labels() {
    if (!this.width) return;
    const { sample, draws } = this;
    this.keep({ sample: this.place, draws });
    const drawn = draws === 1 ? "one label" : `${number(draws, 3)} labels`;
    const better = told(sample, draws);
    this.$(".fv-title").textContent = `${drawn[0].toUpperCase()}${drawn.slice(1)} could at best tell ${better === 0 ? "no direction" : `${better} of ${sample.one.length} directions`} of this image better than a guess`;
    this.range.value = Math.log10(draws);
    this.range.setAttribute("aria-valuetext", drawn);
    this.$(".fv-slider output").textContent = `n = ${number(draws, 3)}`;
    this.$(".fv-std").innerHTML = deviations({ width: this.chartWidth, sample, draws, span: this.span, label: `least standard deviations with ${drawn}: ${sample.one.map((s) => number(s === null ? Infinity : s / Math.sqrt(draws), 2)).join(", ")}` });
  }

  resize() {
    const { width, columns } = this;
    this.root.dataset.columns = columns;
    const beside = columns === 3;
    this.root.dataset.beside = beside;
    const large = photographic(this.data);
    const [hand, gap] = [beside ? Math.floor((large ? 0.58 : 0.5) * width) - 16 : width, columns === 1 ? 8 : 24];
    this.root.style.setProperty("--fv-hand", `${hand}px`);
    this.target = Math.max(72, Math.min(large ? 240 : 160, Math.floor((hand - 2 * gap) / 3)));
    if (large) this.root.style.setProperty("--fv-bar", `${this.target}px`);
    this.chartWidth = Math.floor(beside ? width - hand - 32 : Math.min(width, 640));
    this.gallery();
    this.show();
  }
}

const render = mounted(Reconstruction, { "change:sample": "show", "change:draws": "labels" });

export default { render };
