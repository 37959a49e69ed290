// The bound view, right: how estimates come closer to the truth as they cost more.
import { PALETTE } from "../kit/palette.js";
import { escape, marksBelow, marksBeside } from "../kit/chart.js";
import { number, powerOfTen } from "../kit/numbers.js";
import { decadeTicks, scale, spread } from "../kit/axes.js";
import { quartiles } from "../kit/quantiles.js";


/** Running values (log₁₀) against cost, both on log axes, the truth as a line. lines: {name, color, points: [[cost, log]]}. */
function convergence({ width, height, lines, truth, truthText, dot, chosen, times, label }) {
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
  const vertical = marksBelow(decadeTicks(x, right - left, 60), sx, [top, bottom]);
  const horizontal = marksBeside(decadeTicks(y, bottom - top, 30).map(([t, text]) => [t, times + text]), sy, [left, right]);
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

/** The view with this part of it. @param {any} Base @returns {any} */
export const withConvergence = (Base) => class extends Base {
  curves() {
    const { all, at, data } = this;
    const traces = data.curves.map((c, i) => {
      const steps = c.cost.length;
      const m = this.methods.findIndex((k) => k.name === c.method);
      const value = (s, j) => c.logs[s * steps + j];
      const points = c.cost.map((cost, j) => [cost, all ? quartiles(data.samples.map((_, s) => value(s, j) - this.log(s, this.reference)))?.[2] ?? NaN : value(at, j)]);
      const known = points.filter((p) => !Number.isNaN(p[1]));
      const end = known.at(-1)?.[1] ?? NaN;
      return { name: c.method, color: PALETTE[i % PALETTE.length], points: known, m,
        said: `${c.method}: ${all ? `×${powerOfTen(end)} of ${this.truthName} in the median` : powerOfTen(end, 4)} after ${number(known.at(-1)?.[0] ?? NaN)} forward passes` };
    }).filter((t) => t.points.length > 1 && t.points.some((p) => Number.isFinite(p[1])));
    this.traces = traces;
    this.$(".fv-conv").hidden = !traces.length;
    this.root.classList.toggle("fv-noconv", !traces.length);
    if (!traces.length) return;
    const undrawn = this.methods.filter((m, i) => m.group === "estimate" && m.name !== "exact" && i !== this.reference && !traces.some((t) => t.m === i)).map((m) => m.name);
    this.$(".fv-undrawn").textContent = undrawn.length ? `Not drawn: ${undrawn.join(", ")}, of which no running values are kept.` : "";
    const exact = this.methods[this.reference].guarantee === "exact";
    const dot = exact ? this.passes(this.reference, at) : NaN;
    const truth = all ? 0 : this.truth;
    this.$(".fv-conv h4").textContent = all ? `Convergence against cost: the median ratio to ${this.truthName}` : `Convergence against cost${exact ? ` (● exact, ${number(dot)} passes)` : ""}`;
    this.$(".fv-conv-box").innerHTML = convergence({ width: this.sideWidth, height: 250, lines: traces, truth, dot, chosen: this.methods[this.chosen].name, times: all ? "×" : "",
      truthText: `exact: ${powerOfTen(this.truth, 4)} after ${number(dot)} forward passes`, label: traces.map((t) => t.said).join("; ") });
  }
};
