// The divergence view: how much of what tells two classes apart does F know of?
// State shared with Python or the stand-in host: quantity (of the map), pair (its place), position (along its line), steps.
import { escape, lineChart, locate, MARGIN, number, probability, scale, series, ticks } from "./chart.js";
import { blend, diverging } from "./pixels.js";
import { canvasIn, fillTables, mounted, roving } from "./stage.js";

const QUANTITIES = {
  kl: { name: "KL", says: "mean KL, in nats", log: true },
  g1: { name: "G1", says: "mean G1, the second-order part, in nats", log: true },
  g2: { name: "G2", says: "mean G2, the part of higher order, in nats", signed: true },
  ratio: { name: "G2/KL", says: "mean G2 ÷ mean KL: 1 where F knows nothing of it", signed: true },
};

/** A number that says what is missing where it is nearly 1. */
export function share(value) {
  return value !== null && value > 0.9995 && value < 1 ? `1 − ${number(1 - value, 2)}` : number(value);
}

/** In two or three signs, as a small cell can hold. */
export function brief(value) {
  if (value === null) return "";
  const size = Math.abs(value);
  if (size >= 999.5 || (size > 0 && size < 0.005)) return `${value < 0 ? "−" : ""}10${[...String(Math.round(Math.log10(size)))].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻").join("")}`;
  const text = size >= 10 ? value.toFixed(0) : size >= 1 ? value.toFixed(1) : value.toFixed(2).replace("0.", ".");
  return text.replace("-", "−").replace(/^(−?)\.00$/, "0");
}

/**
 * The colour of a cell and of the text on it: a grey that grows with the logarithm of a positive quantity, or vik around 0
 * for a signed one. Values that no number is known for have none.
 */
export function shade(value, values, signed) {
  if (value === null) return ["transparent", "inherit"];
  if (!signed) {
    const logs = values.filter((v) => v > 0).map(Math.log10);
    const [low, high] = [Math.min(...logs), Math.max(...logs)];
    const t = value > 0 ? (high - low > 1e-9 ? (Math.log10(value) - low) / (high - low) : 0.5) : 0;
    return [`color-mix(in srgb, currentColor ${(4 + 34 * t).toFixed(1)}%, transparent)`, "inherit"];
  }
  // by a root, so that small ones are seen beside large ones
  const most = Math.max(...values.map(Math.abs), 1e-300);
  const rgb = diverging(Math.sign(value) * Math.sqrt(Math.abs(value) / most) * 0.9).map(Math.round);
  // WCAG's relative luminance: at 0.179 black and white stand out equally well
  const linear = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  const light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return [`rgb(${rgb})`, light > 0.179 ? "#000" : "#fff"];
}

/** Histograms of several models on one axis, as outlines; a triangle marks each median. */
export function histogram({ width, height, distribution: d, colors, label }) {
  const [left, right, top, bottom] = [8, width - 8, 16, height - 40];
  const sx = scale([d.low, d.high], [left, right]);
  const most = Math.max(...d.models.flatMap((m) => m.shares), 1e-9);
  const sy = scale([0, most], [bottom, top]);
  const n = d.models[0].shares.length;
  const edge = (k) => sx(d.low + ((d.high - d.low) * k) / n).toFixed(1);
  const outline = (shares) => `M${edge(0)},${bottom}${shares.map((s, k) => `V${sy(s).toFixed(1)}H${edge(k + 1)}`).join("")}V${bottom}`;
  const shapes = d.models.map((m, i) => `<path fill="${colors[i]}" fill-opacity="${d.models.length > 1 ? 0.1 : 0.22}" stroke="${colors[i]}" stroke-width="1.5" d="${outline(m.shares)}"/>`);
  const medians = d.models.map((m, i) => m.places[1] === null ? "" :
    `<path class="fv-median" fill="${colors[i]}" d="M${sx(m.places[1]).toFixed(1)},${bottom}l-5,9h10Z"/>`);
  let last = -1e9;
  const axis = d.ticks.map(([at, text]) => {
    const x = Math.max(left + 3 * text.length, Math.min(right - 3 * text.length, sx(at)));
    if (x - last < 7 * text.length + 4) return "";
    last = x;
    return `<line class="grid" x1="${sx(at)}" x2="${sx(at)}" y1="${top}" y2="${bottom}"/><text class="tick" x="${x}" y="${bottom + 22}" text-anchor="middle">${escape(text)}</text>`;
  });
  return `<svg role="img" aria-label="${escape(label)}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${axis.join("")}` +
    `<line class="axis" x1="${left}" x2="${right}" y1="${bottom}" y2="${bottom}"/>${shapes.join("")}${medians.join("")}` +
    `<text class="tick direct" x="${left}" y="${top - 5}">${number(100 * most, 2)} % of the pairs in a bin</text>` +
    `<text class="tick" x="${right}" y="${height - 2}" text-anchor="end">${escape(d.axis)}</text></svg>`;
}

function layout(data) {
  const image = (part) => `<figure class="fv-${part}"><figcaption></figcaption><div class="fv-plate"></div><div class="fv-under"></div></figure>`;
  const options = Object.entries(QUANTITIES).map(([key, q]) => `<option value="${key}">${q.name}</option>`).join("");
  return `
    <div class="fv-head"><h3 class="fv-title">${escape(data.title)}</h3>
      <details class="fv-help"><summary aria-label="What is this?">?</summary><p>For two samples of different classes, <b>KL</b> =
      Σ p_i log(p_i/p_j) says how well the model’s answers tell x_i from x_j; its mean over pairs is <b>CCKL</b>. <b>G1</b> = ½ (x_j − x_i)ᵀF(x_i)(x_j − x_i)
      is what the Fisher information at x_i alone promises, the part that a small perturbation can use too. <b>G2</b> = KL − G1 is all the rest; it is negative
      where the quadratic form promises more than there is, and G1 ≤ ½ λ₁ ‖x_j − x_i‖² always.</p></details></div>
    <p class="fv-sub">${escape(data.summary)}</p><p class="fv-quiet fv-bound">${escape(data.theorem)}</p>
    <div class="fv-dists">${data.distributions.map((d) => `<div class="fv-dist"><h4>${escape(d.title)}</h4><div class="fv-hist"></div><ul></ul></div>`).join("")}</div>
    <div class="fv-cross">
      <div class="fv-classes"><h4>By class${data.of ? `, ${escape(data.of)}` : ""}: from (row) to (column)</h4>
        <div class="fv-set"><label>the map shows <select aria-label="What the map shows">${options}</select></label></div>
        <div class="fv-matrix fv-heat"></div><p class="fv-quiet fv-legend"></p>
        <h4 class="fv-listed"></h4><div class="fv-examples" role="listbox"></div></div>
      <div class="fv-line"><h4 class="fv-pairname"></h4>
        <div class="fv-path"><div class="fv-hand"><div class="fv-images">${image("start")}${image("moved")}${image("end")}</div></div>
        <div class="fv-charts"><div class="fv-keys"><span><i></i>KL from x_i</span><span><i class="fv-dashed"></i>its quadratic part, t² G1</span></div><div class="fv-kl"></div></div></div>
        <div class="fv-slider"><label>from x_i <input type="range" aria-label="Share of the way from x_i to x_j" min="0" step="1"> to x_j</label><output></output></div>
        <p class="fv-step" aria-live="polite"></p></div>
    </div>
    <div class="fv-tables"></div>`;
}

class Divergence {
  constructor(model, root, { data, part }) {
    Object.assign(this, { model, root, data, width: 0, cell: null });
    this.samples = new Map(data.samples.map((s) => [s.index, s]));
    const Kind = data.kind === "series" ? Float32Array : Uint8Array;
    data.samples.forEach((s) => (s.values = new Kind(part(s.image))));
    root.innerHTML = layout(data);
    this.$ = (selector) => root.querySelector(selector);
    this.range = this.$("input[type=range]");
    this.range.addEventListener("input", () => this.set("position", Number(this.range.value)));
    this.$("select").addEventListener("change", (event) => this.set("quantity", event.target.value));
    roving(this.$(".fv-examples"), (option) => this.open(Number(option.dataset.place)));
    this.mapKeys();
    this.dragging();
  }

  get pair() { return this.data.pairs.find((p) => p.place === this.model.get("pair")) ?? null; }
  get steps() { return this.model.get("steps"); }
  get position() { return Math.max(0, Math.min(this.steps, this.model.get("position"))); }
  name(c) { return this.data.classes[c]; }
  ends(pair) { return [this.samples.get(pair.i), this.samples.get(pair.j)]; }
  sits(pair) { return this.ends(pair).map((s) => s.label); }

  set(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
  }

  open(place) {
    this.model.set("pair", place);
    this.model.save_changes();
  }

  // ---- the distributions ----

  distributions() {
    const columns = this.width >= 900 ? 3 : 1;
    const width = Math.floor((this.width - 32 * (columns - 1)) / columns);
    const { models, distributions } = this.data;
    const several = models.length > 1;
    this.root.querySelectorAll(".fv-dist").forEach((box, k) => {
      const d = distributions[k];
      const said = d.models.map((m, i) => `${several ? `${models[i].name}: ` : ""}median ${m.text[1]}, quartiles ${m.text[0]} and ${m.text[2]}`);
      box.querySelector(".fv-hist").innerHTML = histogram({ width, height: columns === 1 ? 130 : 170, distribution: d, colors: models.map((m) => m.color), label: `${d.title}. ${said.join("; ")}` });
      box.querySelector("ul").innerHTML = d.models.map((m, i) => `<li>${several ? `<span style="color:${models[i].color}">■</span> ${escape(models[i].name)}: ` : `▲ `}` +
        `median <b>${m.text[1]}</b>, half of the pairs from ${m.text[0]} to ${m.text[2]}${m.negative ? `; ${percent(m.negative)} negative` : ""}${m.note ? `; ${escape(m.note)}` : ""}</li>`).join("");
    });
  }

  // ---- the map of class pairs ----

  map() {
    const { shown, tables, left_out, drawn } = this.data;
    const key = this.model.get("quantity");
    const q = QUANTITIES[key];
    const table = tables[key];
    const values = table.flat().filter((v) => v !== null);
    const room = Math.max(24, Math.min(44, Math.floor((this.mapWidth - 100) / shown.length)));
    const names = shown.map((c) => this.name(c));
    const upright = names.every((n) => n.length < 4);
    const rows = shown.map((c, a) => `<tr><th scope="row"><span title="${escape(names[a])}">${escape(names[a])}</span></th>${shown.map((d, b) => {
      const value = table[a][b];
      if (value === null) return `<td class="fv-self"></td>`;
      const [back, ink] = shade(value, values, q.signed);
      const said = `from ${names[a]} to ${names[b]}: ${q.name} ${key === "ratio" ? share(value) : number(value)}, ${tables.pairs[a][b]} pairs`;
      return `<td><button type="button" tabindex="-1" data-a="${c}" data-b="${d}" style="background:${back};color:${ink};min-width:${room}px" title="${escape(said)}" aria-label="${escape(said)}" aria-pressed="false">${room >= 32 ? brief(value) : ""}</button></td>`;
    }).join("")}</tr>`).join("");
    const box = this.$(".fv-heat");
    const focused = box.contains(document.activeElement);
    box.innerHTML = `<table class="${upright ? "fv-upright" : ""}"><thead><tr><td></td>${names.map((n) => `<th scope="col"><span title="${escape(n)}">${escape(n)}</span></th>`).join("")}</tr></thead><tbody>${rows}</tbody></table>`;
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const say = (v) => (key === "ratio" ? share(v) : number(v));
    const stops = Array.from({ length: 17 }, (_, i) => `rgb(${diverging((i / 8 - 1) * 0.9).map(Math.round)})`);
    const most = Math.max(...values.map(Math.abs));
    const bar = q.signed ? `<span class="fv-bar" style="background:linear-gradient(90deg,${stops})"></span><span class="fv-ends"><span>−${number(most, 2)}</span><span>0</span><span>${number(most, 2)}</span></span>` : "";
    this.$(".fv-legend").innerHTML = `${q.says}, from ${say(low)} to ${say(high)}${q.log ? ", darker on a log scale" : ", coloured by the root of its size"}.${left_out ? ` ${left_out} classes of fewer pairs are left out.` : ""}${drawn ? " Pairs drawn by chance: cells may hold few." : ""}${bar}`;
    box.querySelectorAll("button").forEach((button) => button.addEventListener("click", () => this.choose(Number(button.dataset.a), Number(button.dataset.b))));
    this.pressed(focused);
  }

  pressed(focus = false) {
    const [a, b] = this.cell ?? [];
    const buttons = [...this.root.querySelectorAll(".fv-heat button")];
    const on = buttons.find((button) => Number(button.dataset.a) === a && Number(button.dataset.b) === b);
    buttons.forEach((button) => {
      button.setAttribute("aria-pressed", button === on);
      button.tabIndex = button === (on ?? buttons[0]) ? 0 : -1;
    });
    if (focus) on?.focus();
  }

  mapKeys() {
    this.$(".fv-heat").addEventListener("keydown", (event) => {
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      if (!step || !event.target.dataset.a) return;
      event.preventDefault();
      const { shown } = this.data;
      let [a, b] = [event.target.dataset.a, event.target.dataset.b].map((c) => shown.indexOf(Number(c)));
      do [a, b] = [a + step[0], b + step[1]]; while (shown[a] !== undefined && shown[b] !== undefined && this.data.tables.kl[a][b] === null);
      if (shown[a] === undefined || shown[b] === undefined) return;
      this.choose(shown[a], shown[b]);
      this.pressed(true);
    });
  }

  /** Open a class pair, at the pair of median KL where it carries its line. */
  choose(a, b) {
    this.cell = [a, b];
    const own = this.examples();
    if (own.length) this.open((own.find((p) => p.role.includes("median")) ?? own[0]).place);
    else this.set("pair", -1);
    this.show();
  }

  examples() {
    const [a, b] = this.cell;
    return this.data.pairs.filter((p) => this.sits(p).join() === `${a},${b}`).sort((p, q) => p.kl - q.kl);
  }

  list() {
    const box = this.$(".fv-examples");
    const [a, b] = this.cell;
    const own = this.examples();
    this.$(".fv-listed").textContent = `From ${this.name(a)} to ${this.name(b)}`;
    box.setAttribute("aria-label", `pairs from ${this.name(a)} to ${this.name(b)}`);
    box.innerHTML = own.length ? "" : `<p class="fv-quiet">No pair of these classes carries its line on this page: view(pairs=[(i, j)]) chooses which do.</p>`;
    own.forEach((p) => {
      const item = document.createElement("div");
      item.className = "fv-example";
      item.setAttribute("role", "option");
      item.dataset.place = p.place;
      item.innerHTML = `<span class="fv-plate"></span><span class="fv-plate"></span><span><b>${escape(p.role)} KL</b><br>${number(p.kl)} nats</span>`;
      item.setAttribute("aria-label", `${p.role} KL, ${number(p.kl)} nats: samples ${p.i} and ${p.j}`);
      this.ends(p).forEach((s, k) => this.picture(item.children[k], s.values, 40, ""));
      box.append(item);
    });
    this.selected();
  }

  selected() {
    const options = [...this.root.querySelectorAll(".fv-example")];
    const at = options.findIndex((o) => Number(o.dataset.place) === this.model.get("pair"));
    options.forEach((o, k) => {
      o.setAttribute("aria-selected", k === at);
      o.tabIndex = k === Math.max(0, at) ? 0 : -1;
    });
  }

  // ---- the line between two samples ----

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

  line() {
    const { pair } = this;
    this.$(".fv-line").hidden = !pair;
    if (!pair) return;
    const [a, b] = this.ends(pair);
    const names = [a, b].map((s) => this.name(s.label));
    const ratio = pair.kl > 0 ? (pair.kl - pair.g1) / pair.kl : null;
    const told = ratio === null ? "the answers are the same" : ratio >= 0 ? `F at x_i promises ${number(pair.g1)} of it` : `F at x_i promises more than there is, ${number(pair.g1)}`;
    this.$(".fv-pairname").textContent = `${names[0]} → ${names[1]}: KL = ${number(pair.kl)} nats, ${told}`;
    [["start", "x_i", a], ["end", "x_j", b]].forEach(([where, name, s]) => {
      const box = this.$(`.fv-${where}`);
      box.querySelector("figcaption").textContent = `${name}, sample ${s.index}`;
      this.picture(box.querySelector(".fv-plate"), s.values, this.target, `${name}: sample ${s.index}, labelled ${this.name(s.label)}`);
      const right = s.prediction === s.label ? "" : `, the label says ${escape(this.name(s.label))}`;
      box.querySelector(".fv-under").innerHTML = `<strong>${escape(this.name(s.prediction))}</strong><br>p = ${probability(s.confidence, s.doubt)}${right}<br>λ₁ = ${number(s.norm)}`;
    });
    this.range.max = this.steps;
    this.chart();
    this.move();
  }

  chart() {
    const { pair, steps } = this;
    const top = Math.max(...pair.along, 1e-300);
    const quadratic = pair.along.map((_, k) => (k / steps) ** 2 * pair.g1);
    const most = Math.min(Math.max(top, pair.g1), 2.5 * top) * 1.06;
    const beyond = pair.g1 > most;
    // a quadratic part that leaves the chart is cut where it does
    const inside = quadratic.map((v, k) => [k / steps, v]).filter((p) => p[1] <= most);
    if (beyond) inside.push([Math.sqrt(most / pair.g1), most]);
    const yTicks = ticks(0, most, 4).filter((v) => v <= most);
    const svg = lineChart({ width: this.chartWidth, height: 220, x: [0, 1], y: [0, most], yTicks, xTicks: [0, 0.25, 0.5, 0.75, 1], xLabel: "share of the way, t", label: `KL along the line, up to ${number(pair.along.at(-1))}; its quadratic part, up to ${number(pair.g1)}`,
      lines: [{ points: inside, color: "var(--fv-quiet)", width: 1.5, dash: "5 4" }, { points: pair.along.map((v, k) => [k / steps, v ?? NaN]), color: "currentColor", width: 2 }] });
    this.$(".fv-charts .fv-kl").innerHTML = `<p class="fv-quiet">KL(f(x_i) ‖ f(x_i + t (x_j − x_i))), in nats</p>${svg}` +
      `<p class="fv-quiet">${beyond ? `The quadratic part leaves the chart and ends at ${number(pair.g1)}. ` : ""}‖x_j − x_i‖ = ${number(pair.l2)}; at most ½ λ₁ ‖x_j − x_i‖² = ${number(pair.limit)} could be second-order.</p>`;
  }

  /** What depends on the place along the line. */
  move() {
    const { pair, position, steps } = this;
    if (!pair || !this.width) return;
    const t = position / steps;
    const [a, b] = this.ends(pair);
    const mixed = a.values.map === undefined ? [] : Float32Array.from(a.values, (v, k) => v + t * (b.values[k] - v));
    this.range.value = position;
    const said = `${this.name(pair.says[position])} (p = ${probability(pair.p[position])})`;
    this.$(".fv-moved figcaption").textContent = "on the way";
    this.picture(this.$(".fv-moved .fv-plate"), mixed, this.target, `the image ${Math.round(100 * t)} % of the way, read as ${said}`);
    this.$(".fv-moved .fv-under").innerHTML = `<strong>${escape(this.name(pair.says[position]))}</strong><br>p = ${probability(pair.p[position])}`;
    this.$(".fv-slider output").textContent = `t = ${t.toFixed(2)}`;
    const text = `At t = ${t.toFixed(2)} KL is ${number(pair.along[position])} nats, the quadratic part ${number(t * t * pair.g1)}; the model says ${said}.`;
    this.$(".fv-step").textContent = text;
    this.range.setAttribute("aria-valuetext", text);
    const x = scale([0, 1], [MARGIN.left, this.chartWidth - MARGIN.right])(t);
    this.root.querySelectorAll(".fv-charts .cursor").forEach((c) => ["x1", "x2"].forEach((end) => c.setAttribute(end, x)));
  }

  /** The chart takes the pointer as the slider does. */
  dragging() {
    const box = this.$(".fv-charts .fv-kl");
    const at = (event) => {
      const svg = event.target.closest("svg");
      if (!svg || !(event.buttons & 1)) return;
      const t = scale([MARGIN.left, this.chartWidth - MARGIN.right], [0, 1])(event.clientX - svg.getBoundingClientRect().left);
      const nodes = Array.from({ length: this.steps + 1 }, (_, k) => k / this.steps);
      const [k, rest] = locate(nodes, Math.max(0, Math.min(1, t)));
      this.set("position", k + (rest >= 0.5 ? 1 : 0));
    };
    box.addEventListener("pointerdown", at);
    box.addEventListener("pointermove", at);
  }

  tables() {
    const { data } = this;
    const key = this.model.get("quantity");
    const names = data.shown.map((c) => this.name(c));
    const cell = (v) => (v === null ? "–" : key === "ratio" ? share(v) : number(v, 4));
    const { pair, steps } = this;
    const line = pair ? [[`Table: along the line from sample ${pair.i} to ${pair.j}`, ["t", "KL", "t² G1", "the model says", "p"], pair.along.map((v, k) =>
      [(k / steps).toFixed(2), number(v, 5), number((k / steps) ** 2 * pair.g1, 5), this.name(pair.says[k]), probability(pair.p[k])])]] : [];
    return [
      ["Table: over all pairs", ["model", "quantity", "lower quartile", "median", "upper quartile", "left out"], data.models.flatMap((m, n) =>
        data.distributions.map((d) => [m.name, d.title, d.models[n].text[0], d.models[n].text[1], d.models[n].text[2], d.models[n].note]))],
      [`Table: by class, ${QUANTITIES[key].says}`, ["from \\ to", ...names], data.tables[key].map((row, a) => [names[a], ...row.map(cell)])],
      ["Table: the pairs of this page", ["i", "j", "from", "to", "which", "KL", "G1", "G2", "G2/KL", "½ λ₁ ‖Δ‖²", "‖Δ‖"], data.pairs.map((p) => [p.i, p.j, ...this.sits(p).map((c) => this.name(c)), p.role,
        number(p.kl, 5), number(p.g1, 5), number(p.kl - p.g1, 5), p.kl > 0 ? share((p.kl - p.g1) / p.kl) : "–", number(p.limit, 5), number(p.l2, 4)])],
      ...line,
    ];
  }

  changed() {
    if (this.pair) this.cell = this.sits(this.pair);
    this.show();
  }

  show() {
    if (!this.width) return;
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
    this.$("select").value = this.model.get("quantity");
    if (!this.width) return;
    this.map();
    fillTables(this.$(".fv-tables"), this.tables());
  }

  resize(width) {
    if (Math.abs(width - this.width) < 2) return;
    this.width = width;
    const columns = width >= 900 ? 3 : width >= 560 ? 2 : 1;
    this.root.dataset.columns = columns;
    this.mapWidth = columns === 3 ? Math.min(0.46 * width, 110 + 40 * this.data.shown.length) : width;
    this.root.style.setProperty("--fv-matrix", `${Math.max(320, this.mapWidth)}px`);
    const right = columns === 3 ? width - Math.max(320, this.mapWidth) - 32 : width;
    const beside = right >= 760;
    this.root.dataset.beside = beside;
    this.target = Math.max(72, Math.min(128, Math.floor(((beside ? 376 : right) - 32) / 3)));
    this.chartWidth = Math.floor(beside ? right - 376 - 32 : Math.min(right, 720));
    this.distributions();
    this.quantityChanged();
    this.show();
  }
}

const percent = (v) => `${number(100 * v, 2)} %`;

const render = mounted((model, root, packed) => new Divergence(model, root, packed), {
  "change:quantity": "quantityChanged",
  "change:pair": "changed",
  "change:position": "move",
});

export default { render };
