// Small SVG charts. Strings in, strings out, so that they can be tested without a page.
import { beside, decadeTicks, MARGIN, scale, ticks } from "./axes.js";
import { number } from "./numbers.js";

/** Text that is safe inside HTML and attributes. */
export function escape(text) {
  return String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}

/** About how many pixels a text of 12 pixels takes: capitals are wide, and W and other scripts' signs wider. */
export const widthOf = (text) => [...text].reduce((sum, c) => sum + (c > "\u2e7f" || "WM@%".includes(c) ? 12.5 : c === "…" ? 12 : c !== c.toLowerCase() ? 8.6 : 6.6), 0);

/** As much of a text as fits into so many pixels. */
export function fitting(text, most) {
  while (widthOf(text) > most && text.length > 1) text = `${text.replace(/.…?$/u, "")}…`;
  return text;
}

/** Marks [value, text] of a horizontal axis: their lines from `top` to `bottom`, their texts below. */
export const marksBelow = (marks, sx, [top, bottom]) => marks.map(([value, text]) =>
  `<line class="grid" x1="${sx(value).toFixed(1)}" x2="${sx(value).toFixed(1)}" y1="${top}" y2="${bottom}"/>` +
  `<text class="tick" x="${sx(value).toFixed(1)}" y="${bottom + 14}" text-anchor="middle">${escape(text)}</text>`);

/** Marks [value, text] of a vertical axis: their lines from `left` to `right`, their texts beside. */
export const marksBeside = (marks, sy, [left, right]) => marks.map(([value, text]) =>
  `<line class="grid" x1="${left}" x2="${right}" y1="${sy(value).toFixed(1)}" y2="${sy(value).toFixed(1)}"/>` +
  `<text class="tick" x="${left - 6}" y="${(sy(value) + 4).toFixed(1)}" text-anchor="end">${escape(text)}</text>`);

/**
 * A line chart: axes with ticks and units, light grid, direct labels where a line peaks, one movable cursor.
 * lines: {points: [[x, y], …], color, width, dash, label}; marks: {x, label} as dotted verticals; `over` draws on top.
 */
export function lineChart({ width, height, x, y, xLabel, xTicks = null, xText = number, yTicks, yText = number, lines, marks = [], label, over = null }) {
  const inner = { right: width - MARGIN.right, bottom: height - MARGIN.bottom };
  const sx = scale(x, [MARGIN.left, inner.right]);
  const sy = scale(y, [inner.bottom, MARGIN.top]);
  const clip = (v) => Math.max(y[0], Math.min(y[1], v));
  const grid = marksBeside(yTicks.map((t) => [t, yText(t)]), sy, [MARGIN.left, inner.right]);
  const axis = (xTicks ?? ticks(...x, width < 300 ? 2 : 4)).map((t) =>
    `<text class="tick" x="${sx(t)}" y="${inner.bottom + 14}" text-anchor="middle">${xText(t)}</text>`);
  const named = marks.map((m) => fitting(m.label, width / marks.length - 8));
  const above = beside(marks.map((m, i) => [sx(m.x), widthOf(named[i])]), width);
  const dotted = marks.map((m, i) =>
    `<line class="mark" x1="${sx(m.x)}" x2="${sx(m.x)}" y1="${MARGIN.top}" y2="${inner.bottom}"/>` +
    `<text class="tick" x="${above[i]}" y="${MARGIN.top - 5}" text-anchor="middle">${escape(named[i])}</text>`);
  const paths = lines.map((l) =>
    `<path fill="none" stroke="${l.color}" stroke-width="${l.width}" ${l.dash ? `stroke-dasharray="${l.dash}"` : ""} ` +
    `d="${l.points.map(([a, b], i) => Number.isNaN(b) ? "" : // a gap where the model returned no number
      `${i && !Number.isNaN(l.points[i - 1][1]) ? "L" : "M"}${sx(a).toFixed(1)},${sy(clip(b)).toFixed(1)}`).join("")}"/>`);
  return `<svg role="img" aria-label="${escape(label)}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">` +
    `${grid.join("")}${axis.join("")}<line class="axis" x1="${MARGIN.left}" x2="${inner.right}" y1="${inner.bottom}" ` +
    `y2="${inner.bottom}"/><text class="tick" x="${inner.right}" y="${height - 2}" text-anchor="end">${escape(xLabel)}</text>` +
    `${dotted.join("")}${paths.join("")}${peakLabels(lines, sx, sy, clip, inner)}${over ? over(sx, sy) : ""}` +
    `<line class="cursor" y1="${MARGIN.top}" y2="${inner.bottom}"/></svg>`;
}

/** A label beside each line's highest point, at the nearest height where none stands yet; where none is free, the tables have it. */
function peakLabels(lines, sx, sy, clip, inner) {
  const placed = [];
  return lines.filter((l) => l.label && l.points.some((p) => !Number.isNaN(p[1]))).map((l) => {
    const [px, py] = l.points.filter((p) => !Number.isNaN(p[1])).reduce((best, p) => (p[1] > best[1] * 1.001 ? p : best));
    const most = Math.min(140, 0.45 * (inner.right - MARGIN.left));
    const name = fitting(l.label, most);
    const wide = widthOf(name) + 12;
    const atX = Math.max(MARGIN.left + 4, Math.min(inner.right - wide, sx(px) - wide / 2));
    const wished = Math.min(inner.bottom - 4, sy(clip(py)) + 13);
    const taken = (y) => placed.some((q) => Math.abs(q.y - y) < 13 && atX < q.x + q.wide && q.x < atX + wide);
    const atY = [0, 13, -13, 26, -26, 39, -39, 52, -52].map((by) => wished + by)
      .find((y) => y <= inner.bottom - 4 && y >= MARGIN.top + 8 && !taken(y));
    if (atY === undefined) return "";
    placed.push({ x: atX, y: atY, wide });
    return `<text class="direct" x="${atX}" y="${atY}"><tspan fill="${l.color}">■ </tspan>${escape(name)}</text>`;
  }).join("");
}

/** Positive values as dots on a logarithmic axis, one a row; one is chosen, doubtful ones are hollow. */
export function logDots({ width, rows, chosen, label }) {
  const [line, left, right] = [20, 36, width - 84];
  const logs = rows.map((r) => Math.log10(r.value)).filter(Number.isFinite);
  if (!logs.length) return `<p class="fv-quiet">every eigenvalue is 0: nothing small moves this prediction</p>`;
  const high = Math.max(...logs);
  const low = Math.max(high - 12, Math.min(...logs)); // what lies further down stands at the axis' end
  const air = Math.max(0.08 * (high - low), (1 - (high - low)) / 2, 0.1);
  const sx = scale([low - air, high + air], [left, right]);
  const bottom = rows.length * line + 4;
  const grid = marksBelow(decadeTicks([low - air, high + air], right - left, 52), sx, [0, bottom]);
  const dots = rows.map((r, i) => {
    const x = r.value > 0 ? sx(Math.max(low - air, Math.log10(r.value))) : left;
    const y = i * line + 10;
    return `<g class="${i === chosen ? "chosen" : ""}"><text x="0" y="${y + 4}">${escape(r.name)}</text>` +
      `<line class="grid" x1="${left}" x2="${x.toFixed(1)}" y1="${y}" y2="${y}"/>` +
      (r.value > 0 ? `<circle class="${r.doubtful ? "doubtful" : "fv-value-dot"}" cx="${x.toFixed(1)}" cy="${y}" r="5"/>` : "") +
      `<text x="${(x + 10).toFixed(1)}" y="${y + 4}">${escape(r.text)}</text></g>`;
  });
  const height = bottom + 34;
  return `<svg role="img" aria-label="${escape(label)}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${grid.join("")}${dots.join("")}` +
    `<text class="tick" x="${right}" y="${height - 3}" text-anchor="end">log axis</text></svg>`;
}

/** Values of an input that is no image: bars up to 64, a curve beyond; a ghost of the original behind. */
export function series({ width, height, values, range, ghost = null, color, label }) {
  const sx = scale([0, values.length], [0, width]);
  const sy = scale(range, [height - 2, 2]);
  const zero = sy(Math.max(range[0], Math.min(range[1], 0)));
  const bar = (v, i) => {
    return `M${sx(i + 0.1).toFixed(1)},${zero.toFixed(1)}V${sy(v).toFixed(1)}H${sx(i + 0.9).toFixed(1)}V${zero.toFixed(1)}Z`;
  };
  const curve = (list) => `M${Array.from(list, (v, i) => `${sx(i + 0.5).toFixed(1)},${sy(v).toFixed(1)}`).join("L")}`;
  const drawn = values.length <= 64
    ? `<path fill="${color}" d="${Array.from(values, bar).join("")}"/>`
    : `<path fill="none" stroke="${color}" stroke-width="1.5" d="${curve(values)}"/>`;
  const behind = ghost ? `<path class="ghost" d="${curve(ghost)}"/>` : "";
  return `<svg role="img" aria-label="${escape(label)}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">` +
    `<line class="axis" x1="0" x2="${width}" y1="${zero}" y2="${zero}"/>${drawn}${behind}</svg>`;
}
