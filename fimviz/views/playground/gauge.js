// Strings in, strings out: the answer's bars and the gauge of λ₁.
import { decadeTicks, scale } from "../kit/axes.js";
import { escape, widthOf } from "../kit/chart.js";
import { number, probability } from "../kit/numbers.js";
import { classColor } from "../kit/palette.js";

const ROWS = 12; // classes that have a bar; of more, the likeliest

/** The classes to show, in their own order. */
export function rowsOf(p, moved) {
  const most = Array.from(p, (value, c) => Math.max(value, moved?.[c] ?? 0));
  const order = most.map((_, c) => c).sort((a, b) => most[b] - most[a]);
  return order.slice(0, p.length <= ROWS ? p.length : ROWS - 2).sort((a, b) => a - b);
}

/** A bar a class, of the drawing, and under it a thin one of the moved image, whose numbers then stand at the end. */
export function bars({ p, winner, doubt }, moved, classes) {
  const row = (c) => {
    const sure = probability(p[c], c === winner ? doubt : 1 - p[c]);
    const now = moved ? probability(moved.p[c], c === moved.winner ? moved.doubt : 1 - moved.p[c]) : "";
    const words = `${classes[c]}: ${sure}${moved ? `, moved ${now}` : ""}`;
    return `<li class="${c === winner ? "fv-says-so" : ""}${c === (moved?.winner ?? winner) ? " fv-says-now" : ""}" title="${escape(words)}">` +
      `<span class="fv-name">${escape(classes[c])}</span><span class="fv-lanes"><i style="width:${(100 * p[c]).toFixed(2)}%;background:${classColor(c)}"></i>` +
      `${moved ? `<i class="fv-then" style="width:${(100 * moved.p[c]).toFixed(2)}%"></i>` : ""}</span><span class="fv-p">${moved ? now : sure}</span></li>`;
  };
  const shown = rowsOf(p, moved?.p);
  const rest = p.length - shown.length;
  return `<ul class="fv-bars">${shown.map(row).join("")}${rest ? `<li class="fv-quiet">and ${rest} others</li>` : ""}</ul>`;
}

/** The ends of the gauge, as powers of ten: all that is known lies within, and whole decades around it. */
export function reachOf(values) {
  const logs = values.filter((v) => v > 0).map(Math.log10);
  if (!logs.length) return [-4, 1];
  const [low, high] = [Math.floor(Math.min(...logs) + 1e-9), Math.ceil(Math.max(...logs) - 1e-9)];
  return high - low < 2 ? [low - 1, high + 1] : [low, high];
}

/** λ₁ on a logarithmic axis: the samples as dots, the drawing as a mark. */
export function gauge({ value, samples, ends, width, name }) {
  const [left, right, middle] = [8, width - 8, 22];
  const sx = scale(ends, [left, right]);
  const at = (v) => (v > 0 ? Math.max(left, Math.min(right, sx(Math.log10(v)))) : left);
  const dots = samples.map((v) => `<circle class="fv-value-dot" cx="${at(v).toFixed(1)}" cy="${middle}" r="3"/>`);
  const ticks = decadeTicks(ends, right - left, 40).map(([t, text]) =>
    `<line class="grid" x1="${sx(t).toFixed(1)}" x2="${sx(t).toFixed(1)}" y1="${middle - 8}" y2="${middle + 8}"/>` +
    `<text class="tick" x="${Math.max(0.56 * widthOf(text), Math.min(width - 0.56 * widthOf(text), sx(t))).toFixed(1)}" y="${middle + 22}" text-anchor="middle">${escape(text)}</text>`);
  const here = at(value);
  const words = `λ₁${name ? ` of ${name}` : ""} is ${number(value)} on a log axis from ${number(10 ** ends[0])} to ${number(10 ** ends[1])}${samples.length ? `, with the ${samples.length} samples as dots` : ""}`;
  return `<svg role="img" aria-label="${escape(words)}" width="${width}" height="48" viewBox="0 0 ${width} 48">${ticks.join("")}` +
    `<line class="axis" x1="${left}" x2="${right}" y1="${middle}" y2="${middle}"/>${dots.join("")}` +
    `<path class="fv-needle" d="M${here.toFixed(1)},${middle - 2}l-6,-12h12z"/><line class="fv-needle" x1="${here.toFixed(1)}" x2="${here.toFixed(1)}" y1="${middle - 4}" y2="${middle + 9}"/></svg>`;
}
