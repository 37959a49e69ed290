// The comparison view: how close do estimates and formulas come to the truth, at what cost?
// State shared with Python or the stand-in host: index (of the chosen sample).
import { escape, number, scale } from "./chart.js";
import { fillTables, mounted } from "./stage.js";

// What a guarantee looks like: by shape, so that it needs no colour.
const SHAPES = {
  exact: (x, y) => `<circle cx="${x}" cy="${y}" r="5"/>`,
  interval: (x, y) => `<path d="M${x},${y - 6}V${y + 6}M${x - 4},${y}H${x + 4}" class="fv-stroke"/>`,
  lower: (x, y) => `<path d="M${x},${y - 6}L${x + 6},${y + 5}H${x - 6}Z"/>`,
  upper: (x, y) => `<path d="M${x},${y + 6}L${x + 6},${y - 5}H${x - 6}Z"/>`,
  statistical: (x, y) => `<circle cx="${x}" cy="${y}" r="5" class="fv-stroke" stroke-dasharray="3 2"/>`,
};
const MEANING = {
  exact: "exact up to rounding",
  interval: "the truth lies in the interval",
  lower: "a guaranteed lower bound",
  upper: "a guaranteed upper bound",
  statistical: "a confidence interval",
};

/** The decades that hold all positive finite values, with some air. */
export function decades(values) {
  const logs = values.filter((v) => v > 0 && Number.isFinite(v)).map(Math.log10);
  if (!logs.length) return [-1, 1];
  const [low, high] = [Math.min(...logs), Math.max(...logs)];
  const air = Math.max(0.15, 0.06 * (high - low));
  return [low - air, high + air];
}

/** Round places on a log axis: decades, or 1-2-5 within one. */
export function logTicks([low, high], count = 6) {
  const marks = high - low > 2 ? [1] : high - low > 0.8 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
  const out = [];
  for (let e = Math.floor(low); e <= high; e++) out.push(...marks.map((m) => Math.log10(m) + e));
  const inside = out.filter((t) => t >= low && t <= high);
  const every = Math.ceil(inside.length / count);
  return inside.filter((_, i) => i % every === 0);
}

/** One row a method on a common log axis, the reference as a line through all. */
export function ladder({ width, rows, reference, label }) {
  const line = 30;
  const names = Math.min(170, 0.36 * width);
  const axis = decades([...rows.flatMap((r) => [r.value, r.low, r.high]), reference]);
  const sx = scale(axis, [names, width - 96]);
  const at = (v) => (v > 0 ? Math.max(names, Math.min(width - 96, sx(Math.log10(v)))) : names);
  const bottom = rows.length * line + 4;
  const grid = logTicks(axis, width < 520 ? 3 : 6).map((t) => `<line class="grid" x1="${sx(t)}" x2="${sx(t)}" y1="0" y2="${bottom}"/>` +
    `<text class="tick" x="${sx(t)}" y="${bottom + 14}" text-anchor="middle">${number(10 ** t, 2)}</text>`);
  const truth = reference > 0 ? `<line class="fv-truth" x1="${at(reference)}" x2="${at(reference)}" y1="0" y2="${bottom}"/>` : "";
  const drawn = rows.map((r, i) => {
    const y = i * line + line / 2;
    const bar = r.low !== r.high && (r.high > r.low)
      ? `<path class="fv-stroke" d="M${at(r.low)},${y - 4}V${y + 4}M${at(r.low)},${y}H${at(r.high)}M${at(r.high)},${y - 4}V${y + 4}"/>` : "";
    const ratio = reference > 0 && r.method !== "exact" ? ` ×${number(r.value / reference, 3)}` : "";
    return `<g><title>${escape(`${r.method}: ${number(r.value, 4)}, ${MEANING[r.guarantee]}, from ${number(r.low, 4)} to ${number(r.high, 4)}`)}</title>` +
      `<text x="0" y="${y + 4}">${escape(r.method)}</text>${bar}${SHAPES[r.guarantee](at(r.value), y)}` +
      `<text class="tick" x="${width - 90}" y="${y + 4}">${number(r.value)}${ratio}</text></g>`;
  });
  const height = bottom + 34;
  return `<svg class="fv-ladder" role="img" aria-label="${escape(label)}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">` +
    `${grid.join("")}${truth}${drawn.join("")}<text class="tick" x="${width - 96}" y="${height - 4}" text-anchor="end">nats per squared unit of the input, log axis</text></svg>`;
}

/** Running estimates against their cost, both on log axes, the reference as a line. */
export function convergence({ width, height, traces, reference, colors, label }) {
  const [left, right, top, bottom] = [56, 150, 10, height - 34];
  const x = decades(traces.flatMap((t) => t.cost));
  const y = decades([...traces.flatMap((t) => t.value), reference]);
  const [sx, sy] = [scale(x, [left, width - right]), scale(y, [bottom, top])];
  const vertical = logTicks(x, width < 420 ? 3 : 5).map((t) => `<line class="grid" x1="${sx(t)}" x2="${sx(t)}" y1="${top}" y2="${bottom}"/>` +
    `<text class="tick" x="${sx(t)}" y="${bottom + 14}" text-anchor="middle">${number(10 ** t, 2)}</text>`);
  const horizontal = logTicks(y, 5).map((t) => `<line class="grid" x1="${left}" x2="${width - right}" y1="${sy(t)}" y2="${sy(t)}"/>` +
    `<text class="tick" x="${left - 6}" y="${sy(t) + 4}" text-anchor="end">${number(10 ** t, 2)}</text>`);
  const truth = reference > 0 ? `<line class="fv-truth" x1="${left}" x2="${width - right}" y1="${sy(Math.log10(reference))}" y2="${sy(Math.log10(reference))}"/>` : "";
  const ends = [];
  const drawn = traces.map((t, i) => {
    const points = t.cost.map((c, j) => [c, t.value[j]]).filter(([c, v]) => c > 0 && v > 0).map(([c, v]) => [sx(Math.log10(c)), sy(Math.log10(v))]);
    if (!points.length) return "";
    let ey = points.at(-1)[1];
    while (ends.some((e) => Math.abs(e - ey) < 13)) ey += 13;
    ends.push(ey);
    const dots = points.length < 25 ? points.map(([a, b]) => `<circle cx="${a}" cy="${b}" r="2.5" fill="${colors[i]}"/>`).join("") : "";
    return `<path fill="none" stroke="${colors[i]}" stroke-width="1.5" d="M${points.map((p) => p.map((v) => v.toFixed(1)).join(",")).join("L")}"/>${dots}` +
      `<text class="direct" x="${width - right + 8}" y="${ey + 4}"><tspan fill="${colors[i]}">■ </tspan>${escape(t.method)}</text>`;
  });
  return `<svg role="img" aria-label="${escape(label)}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${vertical.join("")}${horizontal.join("")}` +
    `${truth}${drawn.join("")}<text class="tick" x="${width - right}" y="${height - 4}" text-anchor="end">cost in forward passes of this input</text></svg>`;
}

const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

function layout() {
  return `
    <div class="fv-head"><h3 class="fv-title"></h3>
      <details class="fv-help"><summary aria-label="What is this?">?</summary><p>λ₁, the largest eigenvalue of the Fisher information of
      an input, says how fast the prediction can change there. Each row is one way to find it; the line is the exact value. The sign tells
      what is promised: ${Object.entries(MEANING).map(([name, text]) => `<span class="fv-sign"><svg width="16" height="16">${SHAPES[name](8, 8)}</svg> ${text}</span>`).join(" ")}
      The number behind × is the ratio to the exact value.</p></details></div>
    <p class="fv-sub"></p>
    <div class="fv-slider"><label>sample <input type="range" aria-label="Which sample, by fragility" step="1"></label><output></output></div>
    <div class="fv-pair"><div><h4>Value</h4><div class="fv-ladder-box"></div></div><div class="fv-conv"><h4>Convergence</h4><div class="fv-conv-box"></div></div></div>
    <div class="fv-tables"></div>`;
}

class Comparison {
  constructor(model, root, { data }) {
    Object.assign(this, { model, root, data, width: 0 });
    root.innerHTML = layout();
    this.$ = (selector) => root.querySelector(selector);
    this.range = this.$("input");
    Object.assign(this.range, { min: 0, max: data.samples.length - 1 });
    this.range.disabled = data.samples.length < 2;
    this.range.addEventListener("input", () => {
      model.set("index", data.samples[this.range.value].index);
      model.save_changes();
    });
  }

  get at() { return Math.max(0, this.data.samples.findIndex((s) => s.index === this.model.get("index"))); }

  show() {
    if (!this.width) return;
    const sample = this.data.samples[this.at];
    const exact = sample.rows.find((r) => r.method === "exact");
    const reference = (exact ?? sample.rows.find((r) => r.guarantee === "interval") ?? {}).value ?? 0;
    const worst = sample.rows.filter((r) => r !== exact && r.value > 0).map((r) => [Math.abs(Math.log(r.value / reference)), r])
      .sort((a, b) => b[0] - a[0])[0]?.[1];
    this.$(".fv-title").textContent = reference > 0 && worst
      ? `λ₁ = ${number(reference)} — ${worst.method} says ${number(worst.value)}, ×${number(worst.value / reference, 2)}` : `λ₁ = ${number(reference)}`;
    this.$(".fv-sub").textContent = `Sample ${sample.index}: the model says ${sample.prediction} with probability ${number(sample.confidence)}. Number ${this.at + 1} of ${this.data.samples.length} by fragility.`;
    this.range.value = this.at;
    this.range.setAttribute("aria-valuetext", `sample ${sample.index}`);
    this.$("output").textContent = `sample ${sample.index}`;
    const wide = this.width >= 900;
    const half = wide ? (this.width - 32) / 2 : this.width;
    this.$(".fv-ladder-box").innerHTML = ladder({ width: half, rows: sample.rows, reference, label: sample.rows.map((r) => `${r.method} ${number(r.value)}`).join(", ") });
    this.$(".fv-conv").hidden = !sample.traces.length;
    if (sample.traces.length) {
      const colors = sample.traces.map((_, i) => COLORS[i % COLORS.length]);
      this.$(".fv-conv-box").innerHTML = convergence({ width: half, height: 280, traces: sample.traces, reference, colors, label: "running estimates against cost" });
    }
    this.tables(sample);
  }

  tables(sample) {
    fillTables(this.$(".fv-tables"), [
      ["Table: the values", ["method", "value", "low", "high", "guarantee", "forwards", "VJPs", "JVPs"],
        sample.rows.map((r) => [r.method, number(r.value, 6), number(r.low, 6), number(r.high, 6), r.guarantee, r.forwards, r.vjps, r.jvps])],
      ["Table: the convergence", ["method", "cost", "value"], sample.traces.flatMap((t) => t.cost.map((c, j) => [t.method, number(c), number(t.value[j], 5)]))],
    ]);
  }

  resize(width) {
    if (Math.abs(width - this.width) < 2) return;
    this.width = width;
    this.root.dataset.columns = width >= 900 ? 3 : width >= 560 ? 2 : 1;
    this.show();
  }
}

const render = mounted((model, root, packed) => new Comparison(model, root, packed), { "change:index": "show" });

export default { render };
