// The perturbation panel of one sample: image, direction and moved image, the slider, and what the model says along it.
// Pure functions first: node and the browser test them.
import { escape, lineChart, logDots } from "../kit/chart.js";
import { number, probability } from "../kit/numbers.js";
import { across, along, locate, ticks } from "../kit/axes.js";
import { gainControl, legend } from "../kit/contrast.js";
import { difference, picture, readDirection, readInput, signedPicture } from "../kit/inputs.js";
import { Lens, ofImage, ofMap } from "../kit/lens.js";
import { classColor } from "../kit/palette.js";
import { columnsOf, fillTables, photographic } from "../kit/stage.js";

const NAMED = 5; // numbers of one answer that are said in words
const GREY = "var(--fv-faint)";

/** "37 %", or "28 to 46 %" where errors leave it open: the part of the whole, each with its error. */
export function shareOf(part, partError, whole, wholeError) {
  const percent = (p, w) => 100 * Math.max(0, Math.min(1, p / w));
  const [low, high] = [percent(part - partError, whole + wholeError), percent(part + partError, Math.max(whole - wholeError, part + partError))];
  if (high - low < 0.5) return `${number(percent(part, whole))} %`;
  const [from, to] = [Math.floor(low), Math.ceil(high)];
  return to - from <= 1 ? `${Math.round(percent(part, whole))} %` : `${from} to ${to} %`;
}

/**
 * What the model says at ε, between the distances at which it was asked: log-probabilities are interpolated linearly, as
 * a ReLU network's logits run; KL through the logarithm of its ratio to ½ε²λ, which varies slowly where KL spans decades.
 * Of a model that gives numbers, their means, which are its outcome.
 */
export function curveAt(direction, epsilon, exclusive) {
  const { eps, kl, value, outcomes, shown } = direction;
  const [i, t] = locate(eps, epsilon);
  const raw = (direction.logp ?? direction.means).map((row) => row[i] + t * (row[i + 1] - row[i]));
  const shift = exclusive && t > 0 && t < 1 ? Math.log(raw.reduce((sum, l) => sum + Math.exp(l), 0)) : 0;
  const logp = raw.map((l) => l - shift);
  const quadratic = 0.5 * epsilon ** 2 * value;
  const ratio = (j) => Math.log(kl[j] / (0.5 * eps[j] ** 2 * value));
  const [a, b] = eps[i] === 0 ? [ratio(i + 1), ratio(i + 1)] : eps[i + 1] === 0 ? [ratio(i), ratio(i)] : [ratio(i), ratio(i + 1)];
  const smooth = Number.isFinite(a) && Number.isFinite(b);
  const [before, after] = [outcomes[i], outcomes[i + 1]];
  const likely = (o) => (Array.isArray(o) ? -Math.abs(epsilon - eps[o === before ? i : i + 1]) : logp[shown.indexOf(o)]);
  const outcome = direction.means ? raw : t === 0 ? before : t === 1 ? after : likely(after) > likely(before) ? after : before;
  return { logp, outcome, quadratic, kl: smooth ? quadratic * Math.exp(a + t * (b - a)) : kl[i] + t * (kl[i + 1] - kl[i]) };
}

/** The distances at which a direction was asked: an even grid over ±reach and two more, the flips or the ends again; or all that `at` holds. */
export function nodes(reach, at, count = 33) {
  return [...Array.from({ length: count }, (_, i) => ((2 * i) / (count - 1) - 1) * reach), ...at].sort((a, b) => a - b);
}

/** A sample as it came from Python, with what its bytes stand for: done once. */
export function readSample(sample, inputs, part) {
  readInput(sample, inputs, part);
  for (const d of sample.directions) {
    readDirection(d, inputs, part);
    d.eps = nodes(sample.reach, d.at, d.kl.length - d.at.length);
    for (const rows of ["logp", "means"]) d[rows] = d[rows]?.map((row) => row.map((l) => l ?? NaN)); // JSON's null is a number that does not exist
    d.kl = d.kl.map((l) => l ?? NaN);
  }
  return sample;
}

/** The direction and ε nearest to those asked for that a sample can show. */
export function within(sample, direction, epsilon) {
  return [Math.max(0, Math.min(direction, sample.directions.length - 1)), Math.max(-sample.reach, Math.min(sample.reach, epsilon))];
}

/** The outcome that a model gives, in words: a class, the labels that are on, or the numbers of the outputs `shown`. */
export function outcomeOf(data, outcome, shown = data.classes.map((_, c) => c)) {
  const name = (c) => (c < 0 ? "others" : data.classes[c]);
  if (data.numbers) {
    const said = shown.slice(0, NAMED).map((c, i) => (data.classes.length > 1 ? `${name(c)} ` : "") + number(outcome[i]));
    return said.join(", ") + (data.classes.length > NAMED ? " …" : "");
  }
  return Array.isArray(outcome) ? (outcome.map(name).join(" + ") || "no label") : name(outcome);
}

/** The range of values that are finite, with a little room. */
export function rangeOf(values) {
  const real = values.filter(Number.isFinite);
  const [low, high] = real.length ? [Math.min(...real), Math.max(...real)] : [0, 0];
  const room = 0.05 * (high - low) || 1;
  return [low - room, high + room];
}

/** Where a sample lies on a kink of the network, what that means for its numbers; else nothing. */
export function kink(sample) {
  if (!sample.oneSided.some((r) => r !== null && Math.abs(r - 1) > 0.01)) return "";
  return ` It lies on a kink of the network: just beside it, KL is ${sample.oneSided.map((r) => number(r, 2)).join(" and ")} of ½ε²λ₁ toward −v₁ and +v₁.`;
}

/** The probability of a sample's prediction in words; a dash where there is none. */
export const sureness = (sample) => (sample.doubt === null ? "–" : probability(1 - sample.doubt, sample.doubt));

const TIMES = [1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000];

/** How many times a change of this size is drawn at first: so that its larger part spans a quarter of the range. */
export function timesOf(size, range) {
  const wanted = (0.25 * (range[1] - range[0])) / size;
  return TIMES.findLast((t) => t <= wanted) ?? 1;
}

function layout(images, photographs) {
  const image = (part, name, more = "") => `<figure class="fv-${part}"><figcaption>${name}</figcaption><div class="fv-plate"></div><div class="fv-under"></div>${more}</figure>`;
  const direction = image("direction", "", images ? `<div class="fv-contrast"></div>` : "");
  const changed = images ? image("changed", "", `<div class="fv-gain"><label>amplify <select class="fv-times" aria-label="How many times as strong the change is drawn">${TIMES.map((t) => `<option value="${t}">×${t}</option>`).join("")}</select></label>
    <div class="fv-switch" role="group" aria-label="What is amplified"><button type="button" data-whole="">difference</button><button type="button" data-whole="1">image</button></div></div>`) : "";
  const [original, moved] = [image("original", "input x"), image("moved", "")];
  const steps = `<div class="fv-steps-of"><div class="fv-slider"><label>ε <input type="range" class="fv-epsilon" aria-label="ε, step along the direction"></label><output></output>
      <button type="button" class="fv-zero">ε = 0</button><button type="button" class="fv-toflip">to the flip</button></div><p class="fv-step"></p></div>`;
  return `
    <div class="fv-main">
      <div class="fv-hand">
        <div class="fv-images">${photographs ? original + moved + steps + direction + changed : original + direction + moved + changed}</div>
        ${photographs ? "" : steps}${images ? `<div class="fv-look"></div>` : ""}
      </div>
      <div class="fv-says"><div class="fv-prob"></div><div class="fv-kl"></div></div>
    </div>
    <div class="fv-foot"><div class="fv-spectrum"></div><div class="fv-tables"></div></div>`;
}

/**
 * data: what all samples share; state: {get, set} of direction, epsilon and flipped, which whoever owns the panel keeps;
 * more: tables besides the sample's own.
 */
export class Panel {
  constructor(box, data, state, more = () => []) {
    this.box = box;
    this.data = data;
    this.state = state;
    this.more = more;
    this.channel = "strongest";
    this.width = 0;
    this.logKl = false;
    this.sample = null;
    this.images = data.kind === "image";
    this.photographs = photographic(data);
    this.times = null; // as the change wants it, until the reader has chosen
    this.whole = false;
    box.classList.add("fv-panel");
    box.classList.toggle("fv-photographs", this.photographs);
    box.innerHTML = layout(this.images, this.photographs);
    this.$ = (selector) => box.querySelector(selector);
    if (this.images) this.looking();
    this.range = this.$(".fv-epsilon");
    this.range.addEventListener("input", () => this.set("epsilon", Number(this.range.value)));
    this.$(".fv-zero").addEventListener("click", () => this.set("epsilon", 0));
    this.$(".fv-toflip").addEventListener("click", () => this.set("epsilon", this.nextFlip()));
    for (const part of ["prob", "kl"]) this.draggable(this.$(`.fv-${part}`));
    this.unit = data.kind === "image" ? "ε (L2, pixel units)" : "ε (L2, units of the input)";
  }

  /** What the reader does to see an invisible change: contrast, amplify, and a lens. */
  looking() {
    const { data } = this;
    this.contrast = gainControl(this.$(".fv-contrast"), () => this.showDirection());
    this.$(".fv-times").addEventListener("change", (event) => {
      this.times = Number(event.target.value);
      this.change();
    });
    this.box.querySelectorAll("[data-whole]").forEach((b) => b.addEventListener("click", () => {
      this.whole = !!b.dataset.whole;
      this.change();
    }));
    this.lens = new Lens(this.$(".fv-images"), this.$(".fv-look"), data.shape, { read: () => this.values(), map: () => this.direction.bytes });
  }

  /** The bytes of each figure, and how they are said. */
  values() {
    const { data: { range }, sample, direction, sign, epsilon } = this;
    const step = (255 * sign * epsilon * direction.scale) / 127 / (range[1] - range[0]);
    const moved = (b, i) => ofImage(range)(b + (direction.bytes[i] === -128 ? 0 : step * direction.bytes[i]));
    const of = { original: [sample.bytes, ofImage(range)], direction: [direction.bytes, ofMap(sign * direction.scale)], moved: [sample.bytes, moved], changed: [direction.bytes, ofMap(sign * epsilon * direction.scale)] };
    return [...this.box.querySelectorAll(".fv-images figure")].map((f) => of[f.className.slice(3)]);
  }

  get order() { return Math.max(0, Math.min(this.state.get("direction"), this.sample.directions.length - 1)); }
  get direction() { return this.sample.directions[this.order]; }
  get sign() { return this.state.get("flipped") ? -1 : 1; }
  get epsilon() { return Math.max(-this.sample.reach, Math.min(this.sample.reach, this.state.get("epsilon"))); }
  set(name, value) { this.state.set(name, value); }
  name(outcome) { return outcomeOf(this.data, outcome); }
  output(c) { return c < 0 ? "others" : this.data.classes[c]; }

  /** The nearest flips on the −ε and +ε side as the reader has turned the direction. */
  flips() {
    const [minus, plus] = this.direction.flips.map((f, side) => f === null ? null : { at: this.sign * f, to: this.name(this.direction.becomes[side]) });
    return [minus, plus].filter(Boolean).sort((a, b) => a.at - b.at);
  }

  nextFlip() {
    const near = this.flips().sort((a, b) => Math.abs(a.at) - Math.abs(b.at)).map((f) => f.at);
    return near.find((f) => Math.abs(f - this.epsilon) > 1e-9) ?? near[0] ?? 0;
  }

  /** The curves at ε as the reader has turned the direction. */
  curve(epsilon) { return curveAt(this.direction, this.sign * epsilon, this.data.exclusive); }

  /** Everything that depends on the sample and the direction. */
  show(sample) {
    const other = sample !== this.sample;
    this.sample = sample;
    if (other) this.lens?.forget();
    if (!this.width) return;
    picture(this.$(".fv-original .fv-plate"), sample, this.data, this.target, `input ${sample.index}`);
    this.$(".fv-original .fv-under").innerHTML = `<strong>${escape(this.name(sample.prediction))}${this.data.numbers ? "" : ` (p = ${sureness(sample)})`}</strong>`;
    this.showDirection();
    Object.assign(this.range, { min: -sample.reach, max: sample.reach, step: sample.reach / 200 });
    Object.assign(this.$(".fv-toflip"), { disabled: this.flips().length === 0, hidden: !!this.data.numbers });
    this.shownColors = this.direction.shown.map((c) => classColor(c, this.data.order));
    this.spectrum();
    this.charts();
    this.move();
  }

  showDirection() {
    const { direction, sign, data } = this;
    const figure = this.$(".fv-direction");
    figure.querySelector("figcaption").textContent = `direction v${subscript(this.order + 1)}`;
    const plate = figure.querySelector(".fv-plate");
    signedPicture(plate, direction, data, { sign, channel: this.channel, target: this.target, name: `direction ${this.order + 1}`, gain: this.contrast?.gain });
    const buttons = this.sample.directions.map((d, i) =>
      `<button type="button" data-rank="${i}" aria-pressed="${i === this.order}" title="λ${subscript(i + 1)} = ${number(d.value)}">${i + 1}</button>`);
    const channels = data.kind === "image" && data.shape[2] === 3
      ? `<select aria-label="Which channel of the direction">${["strongest", "mean", "red", "green", "blue"].map((c, i) =>
          `<option value="${i < 2 ? c : i - 2}" ${String(this.channel) === String(i < 2 ? c : i - 2) ? "selected" : ""}>${c === "strongest" ? "strongest channel" : c}</option>`).join("")}</select>` : "";
    const under = figure.querySelector(".fv-under");
    const focused = under.contains(document.activeElement) ? [...under.querySelectorAll("button,select")].indexOf(document.activeElement) : -1;
    const unknown = direction.scale > 0 ? "" : `<div>${direction.value > 0 ? "lost in rounding: λ is below its error" : "λ is 0: no direction matters"}</div>`;
    under.innerHTML = (unknown || legend(direction, this.contrast?.gain, data)) +
      `<div class="fv-buttons" role="group" aria-label="Which direction">${buttons.join("")}<button type="button" class="fv-sign" aria-pressed="${sign < 0}" aria-label="Flip the sign of the direction" title="flip the sign">±</button>${channels}</div>`;
    under.querySelectorAll("[data-rank]").forEach((b) => b.addEventListener("click", () => this.set("direction", Number(b.dataset.rank))));
    under.querySelector(".fv-sign").addEventListener("click", () => this.set("flipped", !this.state.get("flipped")));
    under.querySelector("select")?.addEventListener("change", (event) => {
      this.channel = Number.isNaN(Number(event.target.value)) ? event.target.value : Number(event.target.value);
      this.showDirection();
    });
    if (focused >= 0) under.querySelectorAll("button,select")[focused]?.focus();
    this.lens?.show();
  }

  /** What the step changes, drawn so many times as strong: by itself, or on the image. */
  change() {
    const { sample, direction, epsilon, sign, data, whole } = this;
    const times = this.times ?? timesOf(Math.abs(epsilon) * direction.limit, data.range);
    const plate = this.$(".fv-changed .fv-plate");
    const what = `${whole ? "image with its change" : "difference"}, ×${times}`;
    const outside = whole ? picture(plate, sample, data, this.target, what, [[direction, times * sign * epsilon]])
      : difference(plate, direction, data, this.target, what, sign * epsilon, times);
    this.$(".fv-changed figcaption").textContent = what;
    this.$(".fv-changed .fv-under").textContent = (times > 1 ? `drawn ${times} times as strong as it is` : "drawn as strong as it is") + (whole ? "" : "; grey is no change") + (outside ? `; ${outside} values clipped` : "");
    this.$(".fv-times").value = times;
    this.box.querySelectorAll("[data-whole]").forEach((b) => b.setAttribute("aria-pressed", !!b.dataset.whole === whole));
    this.lens?.show();
  }

  spectrum() {
    const { sample } = this;
    const rows = sample.directions.map((d, i) => ({ name: `λ${subscript(i + 1)}`, value: d.value, doubtful: d.error >= d.value && d.value > 0,
      text: d.error >= d.value && d.value > 0 ? `≤ ${number(d.value + d.error)}` : number(d.value) }));
    const [first] = sample.directions;
    const share = sample.trace > 0 ? ` — λ₁ is ${shareOf(first.value, first.error, sample.trace, sample.traceError)} of the trace` : "";
    const width = Math.min(420, this.width);
    this.$(".fv-spectrum").innerHTML = `<h4>Spectrum${share}</h4>${logDots({ width, rows, chosen: this.order, label: `eigenvalues: ${rows.map((r) => r.text).join(", ")}` })}`;
    this.tables();
  }

  tables() {
    const { sample, direction } = this;
    const order = direction.eps.map((_, i) => (this.sign < 0 ? direction.eps.length - 1 - i : i)).filter((i) => direction.eps[i] !== direction.eps[i + 1]);
    const curve = order.map((i) => [number(this.sign * direction.eps[i]), ...(direction.means?.map((row) => number(row[i])) ?? direction.logp.map((row) => probability(Math.exp(row[i]), -Math.expm1(row[i])))),
      number(direction.kl[i]), number(0.5 * direction.eps[i] ** 2 * direction.value)]);
    const spectrum = sample.directions.map((d, i) => [`λ${subscript(i + 1)}`, number(d.value, 6), number(d.error, 2), ...d.flips.map((f) => (f === null ? "none" : number(f)))]);
    fillTables(this.$(".fv-tables"), [
      ["Table: the spectrum of this sample", ["", "eigenvalue", "error", "flip at −ε", "flip at +ε"], spectrum],
      [`Table: along v${subscript(this.order + 1)}`, ["ε", ...direction.shown.map((c) => (direction.means ? this.output(c) : `p(${this.output(c)})`)), "KL (nats)", "½ε²λ"], curve],
      ...this.more(),
    ]);
  }

  charts() {
    const { direction, sample, shownColors } = this;
    const width = this.chartWidth;
    const x = [-sample.reach, sample.reach];
    const marks = this.flips().filter((f) => Math.abs(f.at) <= sample.reach).map((f) => ({ x: f.at, label: `→ ${f.to}` }));
    const predicted = Array.isArray(sample.prediction) ? sample.prediction : [sample.prediction];
    const fine = [...Array.from({ length: 161 }, (_, i) => (i / 80 - 1) * sample.reach), ...marks.map((m) => m.x)].sort((a, b) => a - b);
    const curves = fine.map((e) => this.curve(e));
    const { means } = direction;
    const tall = means ? rangeOf(means.flat()) : [0, 1];
    const value = (l) => (means ? l : Math.exp(l));
    const named = (j) => (means ? this.data.classes.length > 1 : direction.logp[j].some((l) => l > Math.log(0.08)));
    this.$(".fv-prob").innerHTML = `<h4>${means ? "Prediction" : "Probability"} along ε</h4>` + lineChart({ width, height: 170, x, y: tall, yTicks: means ? ticks(...tall, 3) : [0, 0.5, 1], xLabel: this.unit, marks,
      label: means ? "predicted numbers along the direction" : "class probabilities along the direction",
      lines: direction.shown.map((c, j) => ({ points: fine.map((e, i) => [e, value(curves[i].logp[j])]), color: shownColors[j],
        width: !means && predicted.includes(c) ? 3 : 1.5, label: named(j) ? this.output(c) : null })) });
    const real = curves.map((c) => c.kl).filter((v) => v > 0 && Number.isFinite(v));
    const [low, high] = real.length ? [Math.min(...real), Math.max(...real)] : [0.1, 1];
    const decades = Math.min(12, Math.max(1, Math.ceil(Math.log10(high / low))));
    const top = Math.ceil(Math.log10(high));
    const y = this.logKl ? [top - decades, top] : [0, high * 1.05];
    const height = (v) => (this.logKl ? (v > 0 ? Math.max(Math.log10(v), y[0]) : y[0]) : v);
    const yTicks = this.logKl ? ticks(y[0], y[1], 3).filter(Number.isInteger) : ticks(0, y[1], 3);
    const solid = fine.map((e, i) => [e, Number.isNaN(curves[i].kl) ? NaN : height(curves[i].kl)]);
    const dashed = fine.map((e, i) => [e, height(curves[i].quadratic)]).filter((p) => p[1] <= y[1]);
    const box = this.$(".fv-kl");
    const focused = box.contains(document.activeElement);
    box.innerHTML = `<h4>Change of the prediction, KL in nats</h4><div class="fv-keys"><span><i class="fv-solid"></i>measured</span>` +
      `<span><i class="fv-dashed"></i>½ε²λ, predicted</span><button type="button" aria-pressed="${this.logKl}">log axis</button></div>` +
      lineChart({ width, height: 150, x, y, yTicks, yText: this.logKl ? (t) => number(10 ** t, 1) : number, xLabel: this.unit,
        label: "KL divergence along the direction and its quadratic prediction",
        lines: [{ points: solid, color: "currentColor", width: 2 }, { points: dashed, color: GREY, width: 1.5, dash: "5 4" }] }) + `<div class="fv-read"></div>`;
    box.querySelector("button").addEventListener("click", () => {
      this.logKl = !this.logKl;
      this.charts();
      this.move();
    });
    if (focused) box.querySelector("button").focus();
  }

  /** Everything that follows the slider: pictures, cursor and words. Nothing here asks Python. */
  move() {
    if (!this.width) return;
    const { sample, direction, epsilon, sign } = this;
    const now = this.curve(epsilon);
    const outside = picture(this.$(".fv-moved .fv-plate"), sample, this.data, this.target, "the input moved along the direction", [[direction, sign * epsilon]]);
    this.$(".fv-moved figcaption").textContent = `x ${epsilon < 0 ? "−" : "+"} ${number(Math.abs(epsilon))} v${subscript(this.order + 1)}`;
    const same = this.data.numbers || String(now.outcome) === String(sample.prediction);
    const at = direction.shown.indexOf(now.outcome);
    const chance = !this.data.exclusive ? "" : ` (p = ${probability(Math.exp(now.logp[at]), -Math.expm1(now.logp[at]))})`;
    const words = Number.isNaN(now.kl) ? `now: ${this.data.changed ? "not known" : "the model returns NaN"}` : `now: ${outcomeOf(this.data, now.outcome, direction.means && direction.shown)}${chance}`;
    const range = this.data.range.map((r) => number(r)).join(", ");
    const under = this.$(".fv-moved .fv-under");
    under.innerHTML = `<strong>${escape(words)}</strong><br><span class="fv-quiet">${outside ? `${outside} ${outside === 1 ? "value leaves" : "values leave"} [${range}], shown clipped` : `every value within [${range}]`}</span>`;
    under.classList.toggle("fv-flipped", !same);
    if (this.images) this.change();
    this.range.value = epsilon;
    this.range.setAttribute("aria-valuetext", `ε = ${number(epsilon)}, ${words}`);
    this.$(".fv-slider output").textContent = `ε = ${number(epsilon)}`;
    const flips = this.flips().map((f) => `${number(f.at)} (→ ${f.to})`).join(" and ");
    this.$(".fv-step").textContent = `Step: L2 ${number(Math.abs(epsilon))} · L∞ ${number(Math.abs(epsilon) * direction.linf)}${this.data.numbers ? "" : " · "}` +
      (this.data.numbers ? "" : flips ? `the prediction flips at ε = ${flips}` : this.data.changed ? "where the prediction flips is not known" : `no flip within ±${number(sample.reach)}`);
    this.$(".fv-read").textContent = `here: KL ${number(now.kl)} measured, ${number(now.quadratic)} predicted`;
    const x = along(this.chartWidth, sample.reach)(epsilon);
    this.box.querySelectorAll(".cursor").forEach((line) => {
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
    });
  }

  /** Dragging on a chart is the slider. */
  draggable(box) {
    const to = (event) => {
      const { reach } = this.sample;
      const raw = across(this.chartWidth, reach)(event.clientX - box.querySelector("svg").getBoundingClientRect().left);
      this.set("epsilon", (Math.round(Math.max(-1, Math.min(1, raw / reach)) * 200) / 200) * reach);
    };
    box.addEventListener("pointerdown", (event) => {
      if (!event.target.closest("svg")) return;
      box.setPointerCapture(event.pointerId);
      to(event);
    });
    box.addEventListener("pointermove", (event) => box.hasPointerCapture(event.pointerId) && to(event));
  }

  resize(width) {
    if (Math.abs(width - this.width) < 2) return;
    this.width = width;
    const columns = columnsOf(width);
    const images = columns === 3 ? (this.photographs ? (width > 1250 ? 0.5 : 0.6) : 0.62) * width - 24 : width;
    const row = !this.images ? 3 : this.photographs || columns === 1 ? 2 : 4;
    const gap = columns === 1 ? 8 : 16;
    this.target = Math.floor(Math.min(this.photographs ? (columns === 3 ? 336 : 448) : columns === 3 ? 224 : 256, (images - (row - 1) * gap) / row));
    const hand = row * this.target + (row - 1) * gap;
    if (this.photographs) this.box.style.setProperty("--fv-bar", `${this.target}px`);
    this.box.style.setProperty("--fv-across", row);
    this.chartWidth = Math.floor(columns === 3 ? Math.min(640, width - hand - 32) : columns === 2 ? (width - 24) / 2 : width);
    this.box.style.setProperty("--fv-hand", `${hand}px`);
    this.box.dataset.columns = columns;
    if (this.sample) this.show(this.sample);
  }
}

function subscript(n) {
  return [...String(n)].map((d) => "₀₁₂₃₄₅₆₇₈₉"[d]).join("");
}
