// The training view: what did training do to accuracy and to sensitivity?
// State shared with Python or the stand-in host: payload (grows while a run goes on), step (−1 follows the newest record),
// quantity (which number of the Fisher information).
import { escape, lineChart } from "../kit/chart.js";
import { number } from "../kit/numbers.js";
import { decadeTicks, MARGIN, scale, spread, ticks } from "../kit/axes.js";
import { PALETTE } from "../kit/palette.js";
import { fillTables, mounted, View } from "../kit/stage.js";
import { unpack } from "../kit/pixels.js";

/** The steps at which any run has a record, ascending. */
export const allSteps = (runs) => [...new Set(runs.flatMap((r) => r.step))].sort((a, b) => a - b);

/** The place of a run's last record at or before a step; −1 before its first. */
export const recordAt = (run, step) => run.step.findLastIndex((s) => s <= step);

/** A step in few characters. */
export const stepText = (s) => (Math.abs(s) >= 1e6 ? `${Number((s / 1e6).toPrecision(4))} M` : Math.abs(s) >= 1e4 ? `${Number((s / 1e3).toPrecision(4))} k` : String(s));

/** An axis for values: {y, yTicks, yText, at, log}; a logarithmic one begins at `from`. */
export function axisOf(values, { log = false, zero = false, most = Infinity, room = 130, from = 0 } = {}) {
  const known = values.filter((v) => v !== null && Number.isFinite(v));
  const positive = known.filter((v) => v > 0 && v >= from);
  if (log && positive.length) {
    const logs = positive.map(Math.log10);
    const [low, high] = [Math.min(...logs), Math.max(...logs)];
    const air = Math.max(0.1, 0.08 * (high - low));
    const round = new Map(decadeTicks([low - air, high + air], room, 24));
    return { log: true, y: [low - air, high + air], yTicks: [...round.keys()], yText: (t) => round.get(t), at: (v) => (v > 0 ? Math.log10(v) : NaN) };
  }
  const [low, high] = known.length ? [Math.min(...known, zero ? 0 : Infinity), Math.max(...known)] : [0, 1];
  const air = 0.06 * (high - low) || Math.abs(high) * 0.1 || 1;
  const y = [zero ? low : low - air, Math.min(most, high + air)];
  return { log: false, y, yTicks: ticks(...y, 3).filter((t) => t >= y[0] && t <= y[1]), yText: (t) => number(t), at: (v) => v ?? NaN };
}

const QUANTITIES = {
  mean_frobenius: ["mean ‖F‖_F", "Frobenius norm of F, mean over the images"],
  mean_spectral_norm: ["mean λ₁", "largest eigenvalue of F, mean over the images"],
  median_spectral_norm: ["median λ₁", "largest eigenvalue of F, median over the images"],
  mean_trace: ["mean trace", "trace of F, mean over the images"],
};

const MOST_LABELS = 6; // names that fit beside the ends of their lines
const LABEL_ROOM = 128; // pixels right of the newest record for them

function layout(data) {
  const buttons = Object.entries(QUANTITIES).map(([name, [short]]) =>
    `<button type="button" data-quantity="${name}" aria-pressed="false">${escape(short)}</button>`).join("");
  const chart = (name) => `<section class="fv-of" data-of="${name}"><h4></h4><div class="fv-keys"></div><div class="fv-chart"></div></section>`;
  return `
    <div class="fv-head"><h3 class="fv-title"></h3>
      <details class="fv-help"><summary aria-label="What is this?">?</summary><p>${escape(data.help)}</p></details></div>
    <p class="fv-sub"></p>
    <div class="fv-slider"><label>step <input type="range" min="0" step="1" aria-label="Step of the training run"></label><output></output>
      <button type="button" class="fv-newest" aria-pressed="true">newest</button></div>
    <p class="fv-step" aria-live="off"></p>
    <div class="fv-training">${["accuracy", "loss", "cckl"].map(chart).join("")}
      <section class="fv-of" data-of="fisher"><h4></h4><div class="fv-buttons" role="group" aria-label="Which number of the Fisher information">${buttons}</div>
      <div class="fv-keys"></div><div class="fv-chart"></div></section></div>
    <div class="fv-tables"></div>`;
}

class Training extends View {
  constructor(model, root, packed) {
    super(model, root, packed);
    this.asked = 0;
    const { data } = packed;
    root.innerHTML = layout(data);
    this.range = this.$("input[type=range]");
    this.range.addEventListener("input", () => this.go(Number(this.range.value)));
    this.$(".fv-newest").addEventListener("click", () => this.set("step", -1));
    root.querySelectorAll("[data-quantity]").forEach((b) => b.addEventListener("click", () => this.set("quantity", b.dataset.quantity)));
    this.draggable(this.$(".fv-training"));
  }

  get steps() { return allSteps(this.data.runs); }
  get step() {
    const { steps } = this;
    const wanted = this.model.get("step");
    return wanted < 0 || !steps.length ? steps.at(-1) ?? 0 : steps[Math.max(0, steps.findLastIndex((s) => s <= wanted))];
  }
  get quantity() { return QUANTITIES[this.model.get("quantity")] ? this.model.get("quantity") : "mean_frobenius"; }
  get chartWidth() { return Math.max(200, this.columns > 1 ? (this.width - 32) / 2 : this.width); }
  /** Whether names stand at the ends of the lines; where not, they stand above the charts only. */
  get named() { return this.data.runs.length > 1 && this.data.runs.length <= MOST_LABELS && this.chartWidth >= 480; }
  /** First and last value of the step axis. */
  get span() {
    const { steps } = this;
    if (steps.length < 2) return [(steps[0] ?? 0) - 1, (steps[0] ?? 0) + 1];
    const room = this.chartWidth - MARGIN.left - MARGIN.right;
    return [steps[0], steps[0] + ((steps.at(-1) - steps[0]) * room) / (room - (this.named ? LABEL_ROOM : 0))];
  }

  /** Choose the record at a place of the slider; its end follows what is still to come. */
  go(place) {
    this.set("step", place >= this.steps.length - 1 ? -1 : this.steps[Math.max(0, place)]);
  }

  draggable(box) {
    const to = (event) => {
      const svg = event.target.closest?.(".fv-of")?.querySelector("svg");
      if (!svg || !this.steps.length) return;
      const x = scale([MARGIN.left, this.chartWidth - MARGIN.right], this.span)(event.clientX - svg.getBoundingClientRect().left);
      const { steps } = this;
      this.go(steps.reduce((best, s, i) => (Math.abs(s - x) < Math.abs(steps[best] - x) ? i : best), 0));
    };
    let held = false;
    box.addEventListener("pointerdown", (event) => {
      if (!event.target.closest("svg")) return;
      held = true;
      to(event);
    });
    box.addEventListener("pointermove", (event) => held && to(event));
    ["pointerup", "pointercancel", "pointerleave"].forEach((name) => box.addEventListener(name, () => (held = false)));
  }

  /** A record has arrived: read what travelled, unless a newer one has overtaken it. */
  async reread() {
    const mine = ++this.asked;
    const { data } = await unpack(this.model.get("payload"));
    if (mine !== this.asked) return;
    this.data = data;
    this.show();
  }

  show() {
    if (!this.width) return;
    const { data } = this;
    this.colors = data.runs.map((_, i) => PALETTE[i % PALETTE.length]);
    this.$(".fv-title").textContent = data.title;
    this.$(".fv-sub").textContent = data.summary;
    this.charts();
    this.tables();
    this.move();
  }

  chart(name, title, unit, columns, options) {
    const box = this.$(`[data-of=${name}]`);
    const { runs } = this.data;
    const shown = Object.entries(columns).filter(([column]) => runs.some((r) => r[column].some((v) => v !== null)));
    box.querySelector("h4").textContent = title;
    if (!shown.length) {
      box.querySelector(".fv-chart").innerHTML = `<p class="fv-quiet">no number yet</p>`;
      return;
    }
    const axis = axisOf(shown.flatMap(([column]) => runs.flatMap((r) => r[column])), options);
    const points = (r, column) => r.step.map((s, i) => [s, r[column][i] === null ? NaN : axis.at(r[column][i])]);
    const lines = shown.flatMap(([column, dash]) => runs.map((r, i) => ({ points: points(r, column), color: runs.length > 1 ? this.colors[i] : "currentColor", width: dash ? 1.2 : 2, dash })));
    const [main] = shown[0];
    const lost = runs.flatMap((r) => r.step.filter((_, i) => r.note[i]).slice(0, 1));
    const hidden = lines.some((l) => l.points.some((q) => q[1] < axis.y[0]));
    const over = (sx, sy) => this.marked(runs, (r) => points(r, main), sx, sy, axis.y);
    box.querySelector(".fv-chart").innerHTML = lineChart({
      width: this.chartWidth, height: 190, x: this.span, xTicks: ticks(...this.span, this.chartWidth < 300 ? 2 : 4).filter((t) => Number.isInteger(t) && t >= this.span[0] && t <= (this.steps.at(-1) ?? 0)), xText: stepText,
      y: axis.y, yTicks: axis.yTicks, yText: axis.yText, xLabel: `${axis.log ? (hidden ? "log axis, first records below it · " : "log axis · ") : ""}${unit ? `${unit} · ` : ""}training step`, lines, over,
      marks: lost.map((x) => ({ x, label: "no number" })),
      label: runs.map((r) => `${r.name}: ${title} from ${number(r[main].find((v) => v !== null) ?? null)} to ${number(r[main].findLast((v) => v !== null) ?? null)}`).join("; "),
    });
  }

  /** Dots where there are few records, and the runs' names at the ends of their lines. */
  marked(runs, points, sx, sy, ends) {
    const [low, high] = ends;
    const inside = (v) => sy(Math.max(low, Math.min(high, v)));
    const known = runs.map((r) => points(r).filter(([, b]) => !Number.isNaN(b)));
    const color = (i) => (runs.length > 1 ? this.colors[i] : "currentColor");
    const dots = known.flatMap((list, i) => list.length > 30 ? [] : list.map(([a, b]) =>
      `<circle cx="${sx(a).toFixed(1)}" cy="${inside(b).toFixed(1)}" r="2.2" style="fill:${color(i)}"/>`));
    const named = runs.map((_, i) => i).filter((i) => known[i].length);
    if (!this.named) return dots.join("");
    const heights = spread(named.map((i) => inside(known[i].at(-1)[1]) + 4), 13, [MARGIN.top + 8, sy(low) - 4]);
    return dots.join("") + named.map((i, k) => {
      const name = runs[i].name.length > 16 ? `${runs[i].name.slice(0, 15)}…` : runs[i].name;
      return `<text class="direct" x="${(sx(known[i].at(-1)[0]) + 8).toFixed(1)}" y="${heights[k].toFixed(1)}"><tspan fill="${color(i)}">■ </tspan>${escape(name)}</text>`;
    }).join("");
  }

  charts() {
    const { quantity, data } = this;
    const alone = data.runs.length === 1;
    const values = (name) => data.runs.flatMap((r) => r[name]).filter((v) => v > 0);
    const decades = (name) => Math.max(...values(name)) > 30 * Math.min(...values(name));
    this.chart("accuracy", "Accuracy, and mean confidence dashed", "", { accuracy: "", confidence: "4 3" }, { zero: true, most: 1.02 });
    this.chart("loss", `Cross-entropy${alone && data.runs[0].train_loss.some((v) => v !== null) ? ", and the training loss dashed" : ""}`, "nats", alone ? { loss: "", train_loss: "4 3" } : { loss: "" }, { log: decades("loss"), zero: true });
    this.chart("cckl", "Cross-category KL divergence", "nats", { cckl: "" }, { zero: true });
    // An untrained network's F is smaller by decades, in which later differences would be lost.
    const begun = this.steps[0] + 0.1 * (this.steps.at(-1) - this.steps[0]);
    const later = data.runs.flatMap((r) => r[quantity].filter((v, i) => v > 0 && r.step[i] >= begun));
    this.chart("fisher", QUANTITIES[quantity][1], "nats ÷ squared pixel unit", { [quantity]: "" }, { log: true, from: later.length ? Math.min(...later) : 0 });
    this.root.querySelectorAll("[data-quantity]").forEach((b) => b.setAttribute("aria-pressed", b.dataset.quantity === quantity));
  }

  /** What depends on the step alone. */
  move() {
    if (!this.width) return;
    const { steps, step, data } = this;
    if (this.model.get("step") >= 0 && steps.length) this.keep({ step });
    const place = steps.indexOf(step);
    Object.assign(this.range, { max: Math.max(0, steps.length - 1), disabled: steps.length < 2 });
    this.range.value = place;
    this.range.setAttribute("aria-valuetext", `step ${step}`);
    this.$("output").textContent = steps.length ? `step ${step}` : "no record yet";
    this.$(".fv-newest").setAttribute("aria-pressed", this.model.get("step") < 0);
    const x = scale(this.span, [MARGIN.left, this.chartWidth - MARGIN.right])(step);
    this.root.querySelectorAll(".cursor").forEach((line) => ["x1", "x2"].forEach((end) => line.setAttribute(end, x)));
    const shown = { accuracy: ["accuracy", "confidence"], loss: data.runs.length === 1 ? ["loss", "train_loss"] : ["loss"], cckl: ["cckl"], fisher: [this.quantity] };
    for (const [name, columns] of Object.entries(shown)) {
      this.$(`[data-of=${name}] .fv-keys`).innerHTML = data.runs.map((r, i) => {
        const at = recordAt(r, step);
        const [first, second] = columns.map((c) => (at < 0 ? null : r[c][at]));
        const what = data.runs.length > 1 ? "" : `${columns[1]?.replace("train_loss", "training")} `;
        const beside = second === undefined || second === null ? "" : ` (${what}${number(second)})`;
        const mark = data.runs.length > 1 ? `<i style="color:${this.colors[i]}"></i>${escape(r.name)}` : "";
        return `<span>${mark} <b>${number(first)}</b>${beside}</span>`;
      }).join("");
    }
    const notes = data.runs.flatMap((r) => {
      const at = recordAt(r, step);
      return at >= 0 && r.note[at] ? [`${data.runs.length > 1 ? `${r.name}: ` : ""}${r.note[at]}.`] : [];
    });
    this.$(".fv-step").textContent = notes.join(" ");
    this.$(".fv-step").classList.toggle("fv-failed", notes.length > 0);
  }

  tables() {
    const columns = [["step", "step"], ["accuracy", "accuracy"], ["confidence", "confidence"], ["loss", "loss"], ["train_loss", "training loss"], ["cckl", "CCKL"],
      ...Object.entries(QUANTITIES).map(([name, [short]]) => [name, short]), ["seconds", "seconds"]];
    const cell = (r, i, name) => (name === "step" ? String(r.step[i]) : number(r[name][i]));
    fillTables(this.$(".fv-tables"), this.data.runs.map((r) => [
      `Table: ${r.name}, ${r.step.length} of ${r.records} records`, [...columns.map(([, title]) => title), "note"],
      r.step.map((_, i) => [...columns.map(([name]) => cell(r, i, name)), r.note[i] ?? ""]),
    ]));
  }

  resize() {
    this.root.dataset.columns = this.columns;
    this.show();
  }
}

const render = mounted(Training, { "change:payload": "reread", "change:step": "move", "change:quantity": "show" });

export default { render };
