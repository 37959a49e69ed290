// The bound view: how close do formulas and estimates come to the truth, and at what cost?
// State shared with Python or the stand-in host: index (of the chosen sample), method (the chosen row), everything (all samples).
import { roving } from "../kit/keys.js";
import { escape } from "../kit/chart.js";
import { number, powerOfTen, probability } from "../kit/numbers.js";
import { quartiles } from "../kit/quantiles.js";
import { fillTables, mounted, View } from "../kit/stage.js";
import { SHAPES, shows, withRows } from "./boundrows.js";
import { withConvergence } from "./convergence.js";
import { stepAt, withWaterfall } from "./waterfall.js";

const MEANING = {
  exact: "exact up to rounding",
  interval: "the truth lies in the interval",
  upper: "guaranteed, the truth is not above it",
  lower: "guaranteed, the truth is not below it",
  statistical: "a 95 % confidence interval, no guarantee",
  unverified: "in float32 alone: rounding may have crossed a kink",
  void: "says nothing: the gradient does not describe this model",
};
const GROUPS = { estimate: "Computed and estimated", ladder: "Upper bounds by formula", lower: "Lower bounds by formula" };
function layout(methods, legend) {
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
      W: the last layer’s weights. ${escape(legend)} Where a network does not end in a linear layer, its logits stand for h and W = 1.</p>` : ""}</div></details></div>
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

/** A factor by its logarithm, as the tables have it. */
const times = (log) => (Number.isNaN(log) ? "–" : `×${powerOfTen(log, 4)}`);

class Comparison extends withWaterfall(withConvergence(withRows(View))) {
  constructor(model, root, packed) {
    super(model, root, packed);
    this.step = -1;
    this.unfolded = false;
    const { data, part } = packed;
    this.logs = new Float64Array(part(data.values)); // samples × methods × (value, low, high), log₁₀
    for (const c of data.curves) c.logs = new Float32Array(part(c.values));
    this.methods = data.methods;
    this.unit = data.unit; // what a forward pass, a VJP and a JVP cost
    this.reference = this.methods.findIndex((m) => m.name === data.reference);
    root.innerHTML = layout(this.methods, this.data.legend);
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
    this.keep({ index: sample.index, method: this.methods[this.chosen].name });
    this.$(".fv-title").textContent = this.all ? this.sentenceOfAll() : this.sentence();
    const sure = sample.confidence === null ? "" : `probability ${probability(sample.confidence)}`;
    const whole = data.samples.length < data.total ? `the ${data.samples.length} most fragile of ${data.total}` : `${data.total}`;
    this.$(".fv-sub").textContent = this.all
      ? `Each row: median, quartiles and range of its ratio to ${this.truthName} over ${whole} samples${this.left()}. The coloured tick is sample ${sample.index}.`
      : `Sample ${sample.index}: the model says ${sample.prediction}${sure && ` with ${sure}`}.${this.truth === -Infinity ? " To first order, no small change of this input moves the prediction: as in a last layer that starts from zeros, or a prediction too sure for any gradient to be left." : ""}`;
    this.range.value = at;
    const place = `sample ${sample.index}`;
    this.$("output").textContent = `${place} · ${at + 1} of ${data.samples.length}`;
    this.range.setAttribute("aria-valuetext", `${place}, ${sample.prediction}, ${sure && `${sure}, `}λ₁ = ${powerOfTen(this.truth)}`);
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

  tables() {
    const { at, methods } = this;
    const values = methods.map((m, i) => [m.name, powerOfTen(this.log(at, i), 6), powerOfTen(this.log(at, i, 1), 6), powerOfTen(this.log(at, i, 2), 6), times(this.ratio(at, i)),
      m.guarantee === "none" ? "–" : m.guarantee, ...(this.cost(i, at) ?? ["–", "–", "–"]), m.needs, m.reason]);
    const looseness = methods.map((m, i) => {
      const span = quartiles(this.data.samples.map((_, s) => this.ratio(s, i)));
      return [m.name, ...(span ?? Array(5).fill(NaN)).map(times), m.seconds === null ? "–" : number(m.seconds)];
    });
    const tables = [
      [`Table: sample ${this.data.samples[at].index}`, ["method", "value", "low", "high", "÷ truth", "guarantee", "forwards", "VJPs", "JVPs", "needs", "why not"], values],
      ["Table: all samples, ratio to the truth", ["method", "lowest", "quartile", "median", "quartile", "highest", "seconds a sample"], looseness],
      ["Table: the convergence", ["method", "cost", this.all ? "median ratio" : "value"], this.traces.flatMap((t) => t.points.map(([c, v]) => [t.name, number(c), powerOfTen(v, 5)]))],
    ];
    if (this.steps.length) tables.push([`Table: the layers of ${methods[this.chosen].name}`, ["layer", "kind", "factor of λ", "bound so far", "formula"],
      this.steps.map((s) => [s.name, s.kind, s.joins ? "joins" : times(s.gain), powerOfTen(s.to, 4), s.formula])]);
    fillTables(this.$(".fv-tables"), tables);
  }

  resize() {
    const { width, columns } = this;
    this.root.dataset.columns = columns;
    this.sideWidth = Math.floor(columns === 3 ? 0.46 * (width - 40) : width);
    this.fallWidth = this.sideWidth;
    this.show();
  }
}

const render = mounted(Comparison, { "change:index": "show", "change:method": "show", "change:everything": "show" });

export default { render };
