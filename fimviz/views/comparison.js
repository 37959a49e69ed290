// The bound view: how close do formulas and estimates come to the truth, and at what cost?
// State shared with Python or the stand-in host: index (of the chosen sample), method (the chosen row), everything (all samples).
import { brokenAxis, decadeTicks, escape, number, powerOfTen, probability, scale, spread } from "./chart.js";
import { fillTables, mounted, roving } from "./stage.js";
import { calledInFull, costliest, fall, matters, placeOf, profile, stepAt, stepRows } from "./waterfall.js";

const bracket = (from, to, y) => `<path class="fv-stroke" d="M${from},${y - 5}V${y + 5}M${from},${y}H${to}M${to},${y - 5}V${y + 5}"/>`;

// What a guarantee looks like: by shape, so that it needs no colour.
const SHAPES = {
  exact: (x, y) => `<circle cx="${x}" cy="${y}" r="5"/>`,
  interval: (x, y) => bracket(x - 5, x + 5, y),
  lower: (x, y) => `<path d="M${x},${y - 6}L${x + 6},${y + 5}H${x - 6}Z"/>`,
  upper: (x, y) => `<path d="M${x},${y + 6}L${x + 6},${y - 5}H${x - 6}Z"/>`,
  statistical: (x, y) => `<circle cx="${x}" cy="${y}" r="5" class="fv-stroke fv-hollow" stroke-dasharray="2.5 2"/>`,
  none: () => "",
};
const MEANING = {
  exact: "exact up to rounding",
  interval: "the truth lies in the interval",
  upper: "guaranteed, the truth is not above it",
  lower: "guaranteed, the truth is not below it",
  statistical: "a confidence interval, no guarantee",
};
const GROUPS = { estimate: "Computed and estimated", ladder: "Upper bounds by formula", lower: "Lower bounds by formula" };
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/** Minimum, quartiles and maximum of the numbers among values; null where there is none. */
export function quartiles(values) {
  const known = [...values].filter((v) => !Number.isNaN(v)).sort((a, b) => a - b);
  if (!known.length) return null;
  return [0, 0.25, 0.5, 0.75, 1].map((q) => {
    const at = q * (known.length - 1);
    const [a, b] = [known[Math.floor(at)], known[Math.ceil(at)]];
    return a === b ? a : a + (at - Math.floor(at)) * (b - a);
  });
}

/** Running values (log₁₀) against cost, both on log axes, the truth as a line. lines: {name, color, points: [[cost, log]]}. */
export function convergence({ width, height, lines, truth, truthText, dot, chosen, times, label }) {
  const labelled = width >= 380;
  const [left, right, top, bottom] = [52, labelled ? width - 148 : width - 10, 10, height - 34];
  const padded = (values, air) => {
    const known = values.filter(Number.isFinite);
    if (!known.length) return [-1, 1];
    return [Math.min(...known) - air, Math.max(...known) + air];
  };
  const x = padded([...lines.flatMap((l) => l.points.map((p) => Math.log10(p[0]))), dot ? Math.log10(dot) : NaN], 0.06);
  const y = padded([...lines.flatMap((l) => l.points.map((p) => Math.max(p[1], truth - 6))), truth], 0.12);
  const [sx, sy] = [scale(x, [left, right]), scale(y, [bottom, top])];
  const low = (v) => sy(Math.max(y[0], Math.min(y[1], v)));
  const vertical = decadeTicks(x, right - left, 60).map(([t, text]) => `<line class="grid" x1="${sx(t)}" x2="${sx(t)}" y1="${top}" y2="${bottom}"/>` +
    `<text class="tick" x="${sx(t)}" y="${bottom + 14}" text-anchor="middle">${text}</text>`);
  const horizontal = decadeTicks(y, bottom - top, 30).map(([t, text]) => `<line class="grid" x1="${left}" x2="${right}" y1="${sy(t)}" y2="${sy(t)}"/>` +
    `<text class="tick" x="${left - 6}" y="${sy(t) + 4}" text-anchor="end">${times}${text}</text>`);
  const line = Number.isFinite(truth) ? `<line class="fv-truth" x1="${left}" x2="${right}" y1="${sy(truth)}" y2="${sy(truth)}"/>` +
    (dot ? `<circle cx="${sx(Math.log10(dot))}" cy="${sy(truth)}" r="5"><title>${escape(truthText)}</title></circle>` : "") : "";
  const paths = lines.map((l) => {
    const on = chosen === l.name;
    const points = l.points.filter(([c, v]) => c > 0 && !Number.isNaN(v)).map(([c, v]) => [sx(Math.log10(c)), low(v)]);
    const dots = points.length < 20 ? points.map(([a, b]) => `<circle cx="${a.toFixed(1)}" cy="${b.toFixed(1)}" r="${on ? 3.5 : 2.2}" style="fill:${l.color}"/>`).join("") : "";
    return `<g><title>${escape(l.said)}</title><path fill="none" stroke="${l.color}" stroke-width="${on ? 3 : 1.5}" d="M${points.map((p) => p.map((v) => v.toFixed(1)).join(",")).join("L")}"/>${dots}</g>`;
  });
  const ends = lines.map((l) => low(l.points.filter((p) => !Number.isNaN(p[1])).at(-1)[1]));
  const heights = spread(ends, 14, [top + 4, bottom]);
  const names = lines.map((l, i) => {
    const name = l.name.length > 19 ? `${l.name.slice(0, 18)}…` : l.name;
    return `<path fill="none" stroke="${l.color}" d="M${right + 1},${ends[i]}L${right + 8},${heights[i]}"/>` +
      `<text class="direct ${chosen === l.name ? "fv-on" : ""}" x="${right + 11}" y="${heights[i] + 4}">${escape(name)}</text>`;
  });
  return `<svg role="img" aria-label="${escape(label)}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${vertical.join("")}${horizontal.join("")}` +
    `${line}${paths.join("")}${labelled ? names.join("") : ""}<text class="tick" x="${right}" y="${height - 4}" text-anchor="end">cost of one input, in forward passes</text></svg>` +
    (labelled ? "" : `<div class="fv-keys">${lines.map((l) => `<span><i style="border-color:${l.color}"></i>${escape(l.name)}</span>`).join("")}</div>`);
}

function layout(methods) {
  const signs = Object.entries(MEANING).filter(([name]) => methods.some((m) => m.guarantee === name)).map(([name, text]) =>
    `<span class="fv-sign"><svg width="16" height="16" aria-hidden="true">${SHAPES[name](8, 8)}</svg> ${text}</span>`).join(" ");
  const rungs = methods.filter((m) => m.group !== "estimate" && m.formula).map((m) =>
    `<tr><th>${escape(m.name)}</th><td>${escape(m.formula)}</td><td>${escape(m.needs)}</td></tr>`).join("");
  const row = (m) => `<div role="option" class="fv-row" data-method="${escape(m.name)}" tabindex="-1"><span class="fv-name"><b>${escape(m.name)}</b> <span class="fv-needs">${escape(m.short)}</span></span>` +
    `<span class="fv-plot"></span><span class="fv-value"></span><span class="fv-times"></span></div>`;
  const groups = Object.entries(GROUPS).map(([group, title]) => [title, methods.filter((m) => m.group === group)]).filter(([, rows]) => rows.length);
  return `
    <div class="fv-head"><h3 class="fv-title"></h3>
      <details class="fv-help"><summary aria-label="What is this?">?</summary><div class="fv-note"><p>λ₁, the largest eigenvalue of the Fisher
      information F of an input, says how fast the prediction can change there: a step of length ε changes it by at most about ½ε²λ₁ nats.
      Each row is one way to know λ₁, and the number behind × is its ratio to the truth.</p>
      ${rungs ? `<table class="fv-formulas"><tr><th></th><th>formula</th><th>needs</th></tr>${rungs}</table><p>J_i: gradient of logit i;
      J_h: Jacobian of the features that the last layer reads; L_h: a bound on ‖J_h‖ for every input, the layers’ norms carried through the network;
      W: the last layer’s weights, Δ: the largest distance of two of its rows; c(p) ≤ ¼: the largest variance that the probabilities
      allow. Where a network does not end in a linear layer, its logits stand for h and W = 1; for yes/no labels max p(1 − p) stands for c(p), and ‖W‖ for Δ.</p>` : ""}</div></details></div>
    <p class="fv-sub"></p>
    <div class="fv-slider"><span class="fv-switch" role="group" aria-label="What the rows show"><button type="button" data-all="">this sample</button><button type="button" data-all="1">all samples</button></span>
      <label>sample <input type="range" aria-label="Which sample, by fragility" step="1"></label><output></output></div>
    <div class="fv-bounds">
      <div class="fv-ladder"><svg class="fv-marks" aria-hidden="true"></svg><div role="listbox" aria-label="Ways to know λ₁" class="fv-rows">
        ${groups.map(([title, rows]) => `<div role="group" aria-label="${title}"><h4 aria-hidden="true">${title}</h4>${rows.map(row).join("")}</div>`).join("")}</div>
        <div class="fv-axis"></div><p class="fv-signs">${signs}</p></div>
      <div class="fv-conv"><h4>Convergence against cost</h4><div class="fv-conv-box"></div><p class="fv-quiet fv-undrawn"></p></div>
      <div class="fv-detail" aria-live="polite"><h4></h4><p class="fv-read fv-what"></p>
        <div class="fv-fall"><div class="fv-profile"></div><div class="fv-steps" role="listbox" aria-label="Layers of the bound"></div>
        <p class="fv-read fv-formula"></p><button type="button" class="fv-fold"></button></div></div>
    </div>
    <div class="fv-tables"></div>`;
}

class Comparison {
  constructor(model, root, { data, part }) {
    Object.assign(this, { model, root, data, part, width: 0, step: -1, unfolded: false });
    this.logs = new Float64Array(part(data.values)); // samples × methods × (value, low, high), log₁₀
    for (const c of data.curves) c.logs = new Float32Array(part(c.values));
    this.methods = data.methods;
    this.unit = data.unit; // what a forward pass, a VJP and a JVP cost
    this.reference = this.methods.findIndex((m) => m.name === data.reference);
    root.innerHTML = layout(this.methods);
    this.$ = (selector) => root.querySelector(selector);
    this.range = this.$("input");
    Object.assign(this.range, { min: 0, max: data.samples.length - 1 });
    this.range.disabled = data.samples.length < 2;
    this.range.addEventListener("input", () => this.set("index", data.samples[this.range.value].index));
    for (const button of root.querySelectorAll(".fv-switch button")) button.addEventListener("click", () => this.set("everything", !!button.dataset.all));
    roving(this.$(".fv-rows"), (option) => this.set("method", option.dataset.method));
    roving(this.$(".fv-steps"), (option) => this.pick(Number(option.dataset.i)));
    this.$(".fv-fold").addEventListener("click", () => {
      this.unfolded = !this.unfolded;
      this.waterfall();
    });
    const over = (event) => this.pick(stepAt(event.clientX - this.$(".fv-profile").getBoundingClientRect().left, this.fallWidth, this.steps.length));
    this.$(".fv-profile").addEventListener("pointermove", (event) => event.target.closest("svg") && over(event));
    this.$(".fv-profile").addEventListener("pointerdown", (event) => event.target.closest("svg") && over(event));
  }

  get at() { return Math.max(0, this.data.samples.findIndex((s) => s.index === this.model.get("index"))); }
  get chosen() { return Math.max(0, this.methods.findIndex((m) => m.name === this.model.get("method"))); }
  get all() { return !!this.model.get("everything"); }
  get truth() { return this.log(this.at, this.reference); }
  get truthName() { return this.methods[this.reference].guarantee === "exact" ? "the truth" : this.methods[this.reference].name; }

  set(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
  }

  /** log₁₀ of value (0), low (1) or high (2) of a method at a sample. */
  log(sample, method, part = 0) { return this.logs[(sample * this.methods.length + method) * 3 + part]; }

  /** log₁₀ of a method ÷ the truth at a sample; NaN where either is no positive number. */
  ratio(sample, method) {
    const truth = this.log(sample, this.reference);
    const ratio = this.log(sample, method) - truth;
    return Number.isFinite(truth) ? ratio : NaN;
  }

  cost(method, sample) {
    const { costs } = this.methods[method];
    return costs && (costs[costs.length === 1 ? 0 : sample]);
  }

  passes(method, sample) {
    const cost = this.cost(method, sample);
    return cost ? cost.reduce((sum, passes, kind) => sum + passes * this.unit[kind], 0) : NaN;
  }

  show() {
    if (!this.width) return;
    const { data, at } = this;
    const sample = data.samples[at];
    this.$(".fv-title").textContent = this.all ? this.sentenceOfAll() : this.sentence();
    const sure = probability(sample.confidence);
    const whole = data.samples.length < data.total ? `the ${data.samples.length} most fragile of ${data.total}` : `${data.total}`;
    this.$(".fv-sub").textContent = this.all
      ? `Each row: median, quartiles and range of its ratio to ${this.truthName} over ${whole} samples${this.left()}. The coloured tick is sample ${sample.index}.`
      : `Sample ${sample.index}: the model says ${sample.prediction} with probability ${sure}.${this.truth === -Infinity ? " To first order, no small change of this input moves the prediction: as in a last layer that starts from zeros, or a prediction too sure for any gradient to be left." : ""}`;
    this.range.value = at;
    const place = `sample ${sample.index}`;
    this.$("output").textContent = `${place} · ${at + 1} of ${data.samples.length}`;
    this.range.setAttribute("aria-valuetext", `${place}, ${sample.prediction}, probability ${sure}, λ₁ = ${powerOfTen(this.truth)}`);
    for (const button of this.root.querySelectorAll(".fv-switch button")) button.setAttribute("aria-pressed", !!button.dataset.all === this.all);
    this.rows();
    this.curves();
    this.detail();
    this.tables();
  }

  /** Samples that have no ratio, in words. */
  left() {
    const none = this.data.samples.filter((_, s) => !Number.isFinite(this.log(s, this.reference))).length;
    return none ? `; ${none} without a positive value of ${this.truthName} are left out` : "";
  }

  sentence() {
    const { truth, at } = this;
    const start = Number.isNaN(truth) ? `${this.truthName} has no value here` : `λ₁ = ${powerOfTen(truth)}`;
    if (truth === -Infinity) return "λ₁ is 0 here: nothing to compare with";
    if (!Number.isFinite(truth)) return start;
    return this.compared(start, (m) => this.ratio(at, m), "");
  }

  sentenceOfAll() {
    const values = quartiles(this.data.samples.map((_, s) => this.log(s, this.reference)));
    if (values?.[4] === -Infinity) return "λ₁ is 0 at every sample: nothing to compare with";
    return this.compared(`λ₁ from ${powerOfTen(values?.[0] ?? NaN, 2)} to ${powerOfTen(values?.[4] ?? NaN, 2)}`,
      (m) => quartiles(this.data.samples.map((_, s) => this.ratio(s, m)))?.[2] ?? NaN, " in the median");
  }

  /** What the rows say of the truth, in a sentence: the tightest guarantee, and the one that needs least. */
  compared(start, ratioOf, how) {
    const known = this.methods.map((m, i) => ({ ...m, ratio: ratioOf(i) })).filter((m) => !Number.isNaN(m.ratio));
    const rungs = known.filter((m) => m.group === "ladder");
    const above = (m) => `×${powerOfTen(m.ratio, 2)}`;
    if (rungs.length) {
      const best = rungs.reduce((a, b) => (b.ratio < a.ratio ? b : a));
      const least = rungs.filter((m) => m.short.includes("weights only")).sort((a, b) => a.ratio - b.ratio)[0];
      return `${start} — the best formula is ${above(best)} above ${this.truthName}${how}${least && least !== best ? `, the weights alone say ${above(least)}` : ""}`;
    }
    const others = known.filter((m) => m.name !== this.data.reference && Number.isFinite(m.ratio));
    if (!others.length) return start;
    const worst = others.reduce((a, b) => (Math.abs(b.ratio) > Math.abs(a.ratio) ? b : a));
    return `${start} — the farthest, ${worst.name}, says ${above(worst)} of ${this.truthName}${how}`;
  }

  /** The rows' words, then the marks at the heights that the rows have. */
  rows() {
    const { all, at, data } = this;
    const spans = this.methods.map((_, m) => (all ? quartiles(data.samples.map((_, s) => this.ratio(s, m))) : null));
    const middle = this.methods.map((_, m) => (all ? spans[m]?.[2] ?? NaN : this.log(at, m)));
    this.options = [...this.root.querySelectorAll(".fv-row")];
    this.options.forEach((row) => {
      const m = this.methods.findIndex((k) => k.name === row.dataset.method);
      const method = this.methods[m];
      const none = Number.isNaN(middle[m]);
      const times = all ? middle[m] : this.ratio(at, m);
      row.setAttribute("aria-selected", m === this.chosen);
      row.tabIndex = m === this.chosen ? 0 : -1;
      // a reason that several rows share is said at the first of them
      const first = none && method.reason && this.methods.findIndex((k, i) => k.reason === method.reason && Number.isNaN(middle[i]));
      row.querySelector(".fv-plot").innerHTML = none ? `<span class="fv-why">${first !== false && first < m && method.reason ? `none, as for ${escape(this.methods[first].name)}` : escape(this.why(method))}</span>` : "";
      row.classList.toggle("fv-none", none);
      row.querySelector(".fv-value").textContent = none ? "" : all ? range(spans[m]) : powerOfTen(middle[m]);
      row.querySelector(".fv-times").textContent = none ? "" : m === this.reference && !all ? "" : Number.isNaN(times) ? (!all && this.truth === -Infinity ? "" : "–") : `×${powerOfTen(times, 2)}`;
      row.title = none ? this.why(method) : all
        ? `${method.name}: ×${powerOfTen(spans[m][2])} in the median, half of the samples from ×${powerOfTen(spans[m][1])} to ×${powerOfTen(spans[m][3])}, all from ×${powerOfTen(spans[m][0])} to ×${powerOfTen(spans[m][4])}`
        : this.words(m);
    });
    const box = this.$(".fv-ladder");
    const plots = this.options.map((row) => row.querySelector(".fv-plot"));
    const edge = box.getBoundingClientRect();
    const places = plots.map((plot) => plot.getBoundingClientRect());
    const [left, right] = [places[0].left - edge.left + 8, places[0].right - edge.left - 10];
    const rowsOf = this.options.map((row) => this.methods.findIndex((k) => k.name === row.dataset.method));
    const truth = all ? 0 : this.truth;
    const logs = all ? spans.flatMap((s) => s ?? []) : rowsOf.flatMap((m) => [this.log(at, m), ...(shows(this.methods[m]) ? [this.log(at, m, 1), this.log(at, m, 2)].filter((v) => v > truth - 3) : [])]);
    const axis = brokenAxis(logs, truth, [left, right]);
    const top = places[0].top - edge.top - 4;
    const axisBox = this.$(".fv-axis").getBoundingClientRect();
    const bottom = axisBox.top - edge.top;
    const marks = [];
    // on a narrow page words stand between the rows' pictures, and no line may cross them
    const stretches = this.root.dataset.columns === "1" ? [...places.map((p) => [p.top - edge.top, p.bottom - edge.top]), [bottom - 4, bottom]] : [[top, bottom]];
    const vertical = (x, name) => `<path class="${name}" d="${stretches.map(([from, to]) => `M${x},${from}V${to}`).join("")}"/>`;
    const empty = !middle.some(Number.isFinite); // nothing but zeros: they have no place on a log axis
    if (!empty) axis.zones.forEach((zone, z) => {
      const sx = scale([zone.from, zone.to], [zone.start, zone.end]);
      for (const [t, text] of decadeTicks([zone.from, zone.to], zone.end - zone.start)) {
        const x = sx(t).toFixed(1);
        marks.push(`${vertical(x, "grid")}<text class="tick" x="${x}" y="${bottom + 15}" text-anchor="middle">${all ? "×" : ""}${text}</text>`);
      }
      if (z) marks.push(breakMark((axis.zones[z - 1].end + zone.start) / 2, top, bottom));
    });
    if (Number.isFinite(truth)) {
      marks.push(vertical(axis.at(truth).toFixed(1), "fv-truth"));
    }
    if (!empty) marks.push(this.stairs(rowsOf, places, edge, axis, middle, truth));
    rowsOf.forEach((m, i) => {
      if (Number.isNaN(middle[m]) || empty) return;
      const y = (places[i].top + places[i].bottom) / 2 - edge.top;
      const x = axis.at(middle[m]);
      const method = this.methods[m];
      if (all) {
        const [low, q1, , q3, high] = spans[m].map(axis.at);
        const here = this.ratio(at, m);
        marks.push(`<path class="fv-stroke fv-thin" d="M${low},${y}H${high}"/><path class="fv-box" d="M${q1 - 0.5},${y - 4}H${q3 + 0.5}V${y + 4}H${q1 - 0.5}Z"/>` +
          (SHAPES[method.guarantee] ?? SHAPES.none)(x, y) + (Number.isNaN(here) ? "" : `<path class="fv-here" d="M${axis.at(here)},${y - 12}V${y - 6}M${axis.at(here)},${y + 6}V${y + 12}"/>`));
        return;
      }
      const [low, high] = [axis.at(this.log(at, m, 1)), axis.at(this.log(at, m, 2))];
      const wide = shows(method) && high - low > 10;
      marks.push((wide ? bracket(low, high, y) : "") + (wide && method.guarantee === "interval" ? "" : (SHAPES[method.guarantee] ?? SHAPES.none)(x, y)));
    });
    const broken = axis.zones.slice(1).map((zone, z) => [Math.ceil(axis.zones[z].to), Math.floor(zone.from)]).filter(([a, b]) => b > a).map(([a, b]) => `10${sup(a)} to 10${sup(b)}`);
    const unit = all ? `ratio to ${this.truthName}` : "λ₁ in nats per squared unit of the input";
    const note = `${unit}, log axis${axis.zones.length > 1 ? `, broken at //${broken.length ? ` (${broken.join(" and ")} left out)` : ""}` : ""}`;
    this.$(".fv-axis").textContent = empty ? "no value above 0: nothing to place on a log axis" : note;
    const svg = this.$(".fv-marks");
    svg.setAttribute("width", edge.width);
    svg.setAttribute("height", edge.height);
    svg.innerHTML = marks.join("");
  }

  /** The rungs as one descending line from the truth. */
  stairs(rowsOf, places, edge, axis, middle, truth) {
    let path = "";
    let first = 0;
    rowsOf.forEach((m, i) => {
      if (this.methods[m].group !== "ladder" || Number.isNaN(middle[m])) return;
      const y = (places[i].top + places[i].bottom) / 2 - edge.top;
      if (!path) {
        first = Number.isFinite(truth) ? axis.at(truth) : axis.at(middle[m]);
        path = `M${first},${y - 14}`;
      }
      path += `V${y}H${axis.at(middle[m]).toFixed(1)}`;
    });
    return path ? `<path class="fv-stairs" d="${path}"/>` : "";
  }

  why(method) {
    return method.reason || (this.all ? `no ratio to ${this.truthName} on any sample` : `no number at this sample`);
  }

  /** A row in words. */
  words(m) {
    const { at } = this;
    const method = this.methods[m];
    const interval = shows(method) && this.log(at, m, 2) > this.log(at, m, 1) ? `, from ${powerOfTen(this.log(at, m, 1), 4)} to ${powerOfTen(this.log(at, m, 2), 4)}` : "";
    const ratio = this.ratio(at, m);
    const against = m === this.reference || Number.isNaN(ratio) ? "" : `, ×${powerOfTen(ratio)} of ${this.truthName}`;
    const cost = this.cost(m, at);
    const spent = cost && cost.some(Boolean) ? `. Cost: ${cost.map((c, i) => [c, ["forward passes", "passes back to the input", "forward-mode passes"][i]]).filter(([c]) => c).map((c) => c.join(" ")).join(", ")}` : "";
    return `${method.name} = ${powerOfTen(this.log(at, m), 4)}${interval}${against}: ${MEANING[method.guarantee] ?? "no value"}${spent}.`;
  }

  curves() {
    const { all, at, data } = this;
    const traces = data.curves.map((c, i) => {
      const steps = c.cost.length;
      const m = this.methods.findIndex((k) => k.name === c.method);
      const value = (s, j) => c.logs[s * steps + j];
      const points = c.cost.map((cost, j) => [cost, all ? quartiles(data.samples.map((_, s) => value(s, j) - this.log(s, this.reference)).filter(Number.isFinite))?.[2] ?? NaN : value(at, j)]);
      const known = points.filter((p) => !Number.isNaN(p[1]));
      const end = known.at(-1)?.[1] ?? NaN;
      return { name: c.method, color: COLORS[i % COLORS.length], points: known, m,
        said: `${c.method}: ${all ? `×${powerOfTen(end)} of ${this.truthName} in the median` : powerOfTen(end, 4)} after ${number(known.at(-1)?.[0] ?? NaN)} forward passes` };
    }).filter((t) => t.points.length > 1 && t.points.some((p) => Number.isFinite(p[1])));
    this.traces = traces;
    this.$(".fv-conv").hidden = !traces.length;
    this.root.classList.toggle("fv-noconv", !traces.length);
    if (!traces.length) return;
    const undrawn = this.methods.filter((m, i) => m.group === "estimate" && m.guarantee !== "exact" && i !== this.reference && !traces.some((t) => t.m === i)).map((m) => m.name);
    this.$(".fv-undrawn").textContent = undrawn.length ? `Not drawn: ${undrawn.join(", ")}, of which no running values are kept.` : "";
    const exact = this.methods[this.reference].guarantee === "exact";
    const dot = exact ? this.passes(this.reference, at) : NaN;
    const truth = all ? 0 : this.truth;
    this.$(".fv-conv h4").textContent = all ? `Convergence against cost: the median ratio to ${this.truthName}` : `Convergence against cost${exact ? ` (● exact, ${number(dot)} passes)` : ""}`;
    this.$(".fv-conv-box").innerHTML = convergence({ width: this.sideWidth, height: 250, lines: traces, truth, dot, chosen: this.methods[this.chosen].name, times: all ? "×" : "",
      truthText: `exact: ${powerOfTen(this.truth, 4)} after ${number(dot)} forward passes`, label: traces.map((t) => t.said).join("; ") });
  }

  /** What the chosen row says, and its waterfall where it is a product over layers. */
  detail() {
    const { chosen: m, at } = this;
    const method = this.methods[m];
    const value = this.log(at, m);
    const packed = method.falls && !Number.isNaN(value) && value !== -Infinity ? (method.local ? this.data.local?.[at] : null) ?? this.data.layers : null;
    this.steps = [];
    const means = method.formula ? `${method.name} = ${method.formula}. ` : "";
    this.$(".fv-what").textContent = Number.isNaN(value) ? `${means}${this.why(method)}` : `${means}${method.needs ? `Needs ${method.needs}. ` : ""}${this.words(m)}`;
    if (packed) {
      const rows = this.data.tables[packed.table].map(([name, kind, formula]) => [name, this.data.words[kind], this.data.words[formula]]);
      const numbers = new Float32Array(this.part(packed.numbers));
      this.steps = fall(rows, numbers.subarray(0, rows.length), numbers.subarray(rows.length), value, method.falls);
      const most = costliest(this.steps);
      const where = method.local && this.data.local?.[at] ? ` at sample ${this.data.samples[at].index}` : "";
      this.$(".fv-detail h4").textContent = most.length
        ? `${method.name}${where}: ${most.map((s, i) => `${calledInFull(s)} ${i ? "" : "costs "}×${powerOfTen(s.gain, 2)}`).join(", ")}`
        : `${method.name}${where}: no layer costs a tenth`;
    } else {
      this.$(".fv-detail h4").textContent = Number.isNaN(value) ? `${method.name}: no value here` : `${method.name} = ${powerOfTen(value)}`;
      if (method.group !== "estimate" && !Number.isNaN(value)) this.$(".fv-what").textContent += ["L4", "L5", "L6"].includes(method.name) ? "" : " No layers are multiplied: it reads the network’s own derivatives at the input.";
    }
    this.$(".fv-fall").hidden = !packed;
    if (this.step >= this.steps.length) this.step = -1;
    if (packed) this.waterfall();
  }

  waterfall() {
    const { steps } = this;
    const few = steps.map((_, i) => i).filter((i) => matters(steps[i]));
    const quiet = steps.length - few.length;
    const shown = this.unfolded || quiet < 3 ? steps.map((_, i) => i) : few;
    const box = this.$(".fv-steps");
    box.innerHTML = stepRows(steps, shown, this.step);
    if (!shown.includes(this.step)) box.firstElementChild?.setAttribute("tabindex", 0);
    const fold = this.$(".fv-fold");
    fold.hidden = quiet < 3;
    fold.textContent = this.unfolded ? `fold the ${quiet} steps that change it by less than a tenth` : `show the ${quiet} steps that change it by less than a tenth`;
    this.$(".fv-profile").innerHTML = profile({ width: this.fallWidth, height: 112, steps, label: `the bound after each of ${steps.length} steps, up to ${powerOfTen(steps.at(-1).to, 2)}` });
    this.said();
  }

  /** Choose a step of the waterfall. */
  pick(i) {
    this.step = i;
    const box = this.$(".fv-steps");
    const listed = [...box.children];
    const chosen = listed.find((row) => Number(row.dataset.i) === i);
    listed.forEach((row) => {
      row.setAttribute("aria-selected", row === chosen);
      row.tabIndex = row === chosen || (!chosen && row === listed[0]) ? 0 : -1;
    });
    if (chosen) { // scrollIntoView would move the page too
      if (chosen.offsetTop < box.scrollTop) box.scrollTop = chosen.offsetTop;
      if (chosen.offsetTop + chosen.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = chosen.offsetTop + chosen.offsetHeight - box.clientHeight;
    }
    this.said();
  }

  /** The chosen step on the profile and in words. */
  said() {
    const { steps, step } = this;
    const s = steps[step];
    const cursor = this.$(".fv-profile .cursor");
    const x = placeOf(step, this.fallWidth, steps.length);
    cursor.toggleAttribute("hidden", !s);
    if (s) ["x1", "x2"].forEach((name) => cursor.setAttribute(name, x));
    this.$(".fv-formula").textContent = s
      ? `${s.name}, ${s.kind}: ${s.joins ? "joins tensors" : `×${powerOfTen(s.gain)}`}, bound so far ${powerOfTen(s.to)}. ${s.formula}`
      : "λ grows with the square of the Jacobian, so a layer of norm 3 counts ×9. Choose a step for its formula.";
  }

  tables() {
    const { at, methods } = this;
    const values = methods.map((m, i) => [m.name, powerOfTen(this.log(at, i), 6), powerOfTen(this.log(at, i, 1), 6), powerOfTen(this.log(at, i, 2), 6), `×${powerOfTen(this.ratio(at, i), 4)}`,
      m.guarantee === "none" ? "–" : m.guarantee, ...(this.cost(i, at) ?? ["–", "–", "–"]), m.needs, m.reason]);
    const looseness = methods.map((m, i) => {
      const span = quartiles(this.data.samples.map((_, s) => this.ratio(s, i)));
      return [m.name, ...(span ?? Array(5).fill(NaN)).map((v) => `×${powerOfTen(v, 4)}`), m.seconds === null ? "–" : number(m.seconds)];
    });
    const tables = [
      [`Table: sample ${this.data.samples[at].index}`, ["method", "value", "low", "high", "÷ truth", "guarantee", "forwards", "VJPs", "JVPs", "needs", "why not"], values],
      ["Table: all samples, ratio to the truth", ["method", "lowest", "quartile", "median", "quartile", "highest", "seconds a sample"], looseness],
      ["Table: the convergence", ["method", "cost", this.all ? "median ratio" : "value"], this.traces.flatMap((t) => t.points.map(([c, v]) => [t.name, number(c), powerOfTen(v, 5)]))],
    ];
    if (this.steps.length) tables.push([`Table: the layers of ${methods[this.chosen].name}`, ["layer", "kind", "factor of λ", "bound so far", "formula"],
      this.steps.map((s) => [s.name, s.kind, s.joins ? "joins" : `×${powerOfTen(s.gain, 4)}`, powerOfTen(s.to, 4), s.formula])]);
    fillTables(this.$(".fv-tables"), tables);
  }

  resize(width) {
    if (Math.abs(width - this.width) < 2) return;
    this.width = width;
    const columns = width >= 900 ? 3 : width >= 560 ? 2 : 1;
    this.root.dataset.columns = columns;
    this.sideWidth = Math.floor(columns === 3 ? 0.46 * (width - 40) : width);
    this.fallWidth = this.sideWidth;
    this.show();
  }
}

/** Whether a method's low and high are an interval to draw; bounds have one side. */
const shows = (method) => ["exact", "interval", "statistical"].includes(method.guarantee);

const range = (span) => `${powerOfTen(span[0], 2)} … ${powerOfTen(span[4], 2)}`;

const sup = (exponent) => [...String(exponent)].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("");

/** Two slanted strokes through the rows where an axis is broken. */
function breakMark(x, top, bottom) {
  const slash = (at) => `M${at - 3},${bottom + 6}L${at + 3},${bottom - 6}`;
  return `<rect class="fv-gap" x="${x - 4}" y="${top}" width="8" height="${bottom - top}"/><path class="fv-stroke" d="${slash(x - 3)}${slash(x + 3)}"/>`;
}

const render = mounted((model, root, packed) => new Comparison(model, root, packed), {
  "change:index": "show", "change:method": "show", "change:everything": "show",
});

export default { render };
