// Numbers as text and as small SVG charts. Strings in, strings out, so that they can be tested without a page.

/** Text that is safe inside HTML and attributes. */
export function escape(text) {
  return String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}

const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

/** A number with `digits` significant digits, in powers of ten where zeros would have to be counted. */
export function number(value, digits = 3) {
  if (value === null || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const shown = size >= 1e5 || size < 1e-3 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
  const [mantissa, exponent] = shown.split("e");
  const power = exponent ? `×10${[...exponent.replace("+", "")].map((c) => SUPERSCRIPT[c]).join("")}` : "";
  return `${mantissa.replace("-", "−")}${power}`;
}

/** A number with at most three digits, and with none that its error blurs: 3.28 ± 0.4 is 3.3. */
export function rounded(value, error) {
  const blur = Math.floor(Math.log10(Math.abs(value))) - Math.floor(Math.log10(error));
  return number(value, Number.isFinite(blur) ? Math.max(1, Math.min(3, blur + 1)) : 3);
}

/** A number for a title: with its error where that would be seen in three digits. */
export const measured = (value, error) => `${rounded(value, error)}${error > 0.005 * Math.abs(value) ? ` ± ${number(error, 1)}` : ""}`;

/** 10 to a power as text, however large: "3.1" or "1.6·10⁶⁰", which also stands well behind a ×. */
export function powerOfTen(log, digits = 3) {
  if (log === null || Number.isNaN(log)) return "–";
  if (!Number.isFinite(log)) return log > 0 ? "∞" : "0";
  if (log >= -3 && log < 5) return number(10 ** log, digits);
  let exponent = Math.floor(log);
  let mantissa = (10 ** (log - exponent)).toPrecision(digits);
  if (Number(mantissa) >= 10) [mantissa, exponent] = [(1).toPrecision(digits), exponent + 1];
  return `${mantissa}·10${raised(exponent)}`;
}

/** An exponent as small raised signs. */
export const raised = (exponent) => [...String(exponent)].map((c) => SUPERSCRIPT[c]).join("");

/** A probability in plain digits, never a false 0 or 1: near 1 it is said by what is missing. */
export function probability(p, doubt = 1 - p) {
  if (Number.isNaN(p)) return "–";
  if (p > 0 && p < 0.001) return number(p, 2);
  return doubt > 0 && doubt < 0.0005 ? `1 − ${number(doubt, 2)}` : p.toFixed(3);
}

/** Quantiles of the numbers among values, NaN where there is none: the rule of Python's `quantiles`, ∞ for what never happened. */
export function quantiles(values, at) {
  const known = [...values].filter((v) => !Number.isNaN(v)).sort((a, b) => a - b);
  return at.map((q) => {
    if (!known.length) return NaN;
    const place = q * (known.length - 1);
    const [a, b, share] = [known[Math.floor(place)], known[Math.ceil(place)], place % 1];
    return share === 0 || a === b ? a : Number.isFinite(a) && Number.isFinite(b) ? a + share * (b - a) : a + b;
  });
}

export const median = (values) => quantiles(values, [0.5])[0];

/** Minimum, quartiles and maximum of the numbers among values; null where there is none. */
export function quartiles(values) {
  const found = quantiles(values, [0, 0.25, 0.5, 0.75, 1]);
  return Number.isNaN(found[0]) ? null : found;
}

/** About `count` round values in [low, high]. */
export function ticks(low, high, count = 4) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(i * step || 0);
  return out;
}

/** Where x lies among ascending nodes: [index of the left one, share of the way to the next]. */
export function locate(nodes, x) {
  let i = 0;
  while (i < nodes.length - 2 && nodes[i + 1] <= x) i++;
  const gap = nodes[i + 1] - nodes[i];
  return [i, gap > 0 ? Math.max(0, Math.min(1, (x - nodes[i]) / gap)) : 0];
}

export const MARGIN = { left: 52, right: 20, top: 16, bottom: 30 };

/**
 * Pixel position of a value on a chart's axis.
 * @param {number[]} ends of the axis
 * @param {number[]} room from pixel to pixel
 */
export function scale([low, high], [from, to]) {
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

/** Where a value of ε stands on a chart of a given width, and back. */
export const along = (width, reach) => scale([-reach, reach], [MARGIN.left, width - MARGIN.right]);
export const across = (width, reach) => scale([MARGIN.left, width - MARGIN.right], [-reach, reach]);

/**
 * A line chart: axes with ticks and units, light grid, direct labels where a line peaks, one movable cursor.
 * lines: {points: [[x, y], …], color, width, dash, label}; marks: {x, label} as dotted verticals; `over` draws on top.
 */
export function lineChart({ width, height, x, y, xLabel, xTicks = null, xText = number, yTicks, yText = number, lines, marks = [], label, over = null }) {
  const inner = { right: width - MARGIN.right, bottom: height - MARGIN.bottom };
  const sx = scale(x, [MARGIN.left, inner.right]);
  const sy = scale(y, [inner.bottom, MARGIN.top]);
  const clip = (v) => Math.max(y[0], Math.min(y[1], v));
  const grid = yTicks.map((t) =>
    `<line class="grid" x1="${MARGIN.left}" x2="${inner.right}" y1="${sy(t)}" y2="${sy(t)}"/>` +
    `<text class="tick" x="${MARGIN.left - 6}" y="${sy(t) + 4}" text-anchor="end">${yText(t)}</text>`);
  const axis = (xTicks ?? ticks(...x, width < 300 ? 2 : 4)).map((t) =>
    `<text class="tick" x="${sx(t)}" y="${inner.bottom + 14}" text-anchor="middle">${xText(t)}</text>`);
  const above = beside(marks.map((m) => [sx(m.x), 7 * m.label.length]), width);
  const dotted = marks.map((m, i) =>
    `<line class="mark" x1="${sx(m.x)}" x2="${sx(m.x)}" y1="${MARGIN.top}" y2="${inner.bottom}"/>` +
    `<text class="tick" x="${above[i]}" y="${MARGIN.top - 5}" text-anchor="middle">${escape(m.label)}</text>`);
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

/** Middles of labels [wished, width] on one line of a given width, moved apart where two would stand on each other. */
export function beside(labels, width) {
  const order = labels.map((_, i) => i).sort((a, b) => labels[a][0] - labels[b][0]);
  const out = labels.map(([at, wide]) => Math.max(wide / 2, Math.min(width - wide / 2, at)));
  const apart = (a, b) => (labels[a][1] + labels[b][1]) / 2 + 8;
  order.forEach((i, k) => { if (k) out[i] = Math.max(out[i], out[order[k - 1]] + apart(order[k - 1], i)); });
  order.reverse().forEach((i, k) => { out[i] = Math.min(out[i], k ? out[order[k - 1]] - apart(order[k - 1], i) : width - labels[i][1] / 2); });
  return out;
}

/** A label beside each line's highest point, at the nearest height where none stands yet; where none is free, the tables have it. */
function peakLabels(lines, sx, sy, clip, inner) {
  const placed = [];
  return lines.filter((l) => l.label && l.points.some((p) => !Number.isNaN(p[1]))).map((l) => {
    const [px, py] = l.points.filter((p) => !Number.isNaN(p[1])).reduce((best, p) => (p[1] > best[1] * 1.001 ? p : best));
    const name = l.label.length > 18 ? `${l.label.slice(0, 17)}…` : l.label;
    const wide = 6.5 * name.length + 12;
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

/**
 * Places on a log axis [low, high] that is `room` pixels long, with their labels: decades, or 1-2-5 within few.
 * @param {number[]} ends
 * @param {number} room
 * @returns {[number, string][]}
 */
export function decadeTicks([low, high], room, apart = 46) {
  const whole = (e) => (e >= -3 && e <= 4 ? number(10 ** e) : `10${raised(e)}`);
  const few = high - low < 2; // where decades alone would be one mark
  const most = Math.max(2, room / (few && (low < -3 || high > 5) ? Math.max(apart, 72) : apart)); // labels with powers are long
  if (!few) {
    const steps = [1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000, 2000];
    const at = (step) => Array.from({ length: Math.floor(high / step) - Math.ceil(low / step) + 1 }, (_, i) => (Math.ceil(low / step) + i) * step || 0);
    const apt = steps.find((step) => (high - low) / step <= most) ?? steps.at(-1);
    const found = at(apt).length > 1 ? at(apt) : at(steps[Math.max(0, steps.indexOf(apt) - 1)]);
    return found.map((e) => [e, whole(e)]);
  }
  const fine = [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7], [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9]].map((marks) => {
    const out = [];
    for (let e = Math.floor(low); e <= high; e++) out.push(...marks.map((m) => Math.log10(m) + e).filter((t) => t >= low && t <= high));
    return out;
  });
  const enough = fine.filter((f) => f.length > 1);
  return (enough.filter((f) => f.length <= most).at(-1) ?? enough[0] ?? fine.at(-1)).map((t) => [t, powerOfTen(t, 2)]);
}

/**
 * A log axis that stays readable when some values are sixty decades away: the decades around `centre` keep most of the
 * room, values far below or above get a zone of their own behind a break.
 * Gives zones {from, to, start, end} and at(log), which clamps.
 */
export function brokenAxis(logs, centre, [left, right]) {
  const known = logs.filter(Number.isFinite);
  const middle = Number.isFinite(centre) ? centre : known.length ? [...known].sort((a, b) => a - b)[known.length >> 1] : 0;
  known.push(middle);
  const near = (v) => v >= middle - 4 && v <= middle + 5;
  let groups = [known.filter((v) => v < middle - 4), known.filter(near), known.filter((v) => v > middle + 5)];
  if (Math.max(...known) - Math.min(...known) <= 10) groups = [[], known, []];
  const weights = [0.28, 1, 0.5];
  const gap = 16;
  const used = groups.map((g, i) => ({ g, weight: weights[i] })).filter(({ g }) => g.length);
  const total = used.reduce((sum, u) => sum + u.weight, 0);
  let start = left;
  const zones = used.map(({ g, weight }) => {
    const least = g.includes(middle) ? 0.9 : 2.2; // a far zone shows whole decades: their labels are long
    const [low, high] = [Math.min(...g), Math.max(...g)];
    const air = Math.max(0.2, 0.07 * (high - low), (least - (high - low)) / 2);
    const room = ((right - left - gap * (used.length - 1)) * weight) / total;
    const zone = { from: low - air, to: high + air, start, end: start + room };
    start += room + gap;
    return zone;
  });
  for (let i = 1; i < zones.length; i++) { // air may not make neighbours overlap
    const between = (zones[i - 1].to + zones[i].from) / 2;
    if (zones[i - 1].to > zones[i].from) zones[i - 1].to = zones[i].from = between;
  }
  const at = (v) => {
    if (!(v > zones[0].from)) return left;
    const zone = zones.find((z) => v <= z.to);
    if (!zone) return right;
    return v < zone.from ? zone.start - gap / 2 : scale([zone.from, zone.to], [zone.start, zone.end])(v);
  };
  return { zones, at };
}

/**
 * Heights of labels, in the order given, moved apart to at least `gap` and kept within [top, bottom].
 * @param {number[]} heights
 * @param {number} gap
 * @param {number[]} ends
 */
export function spread(heights, gap, [top, bottom]) {
  const order = heights.map((_, i) => i).sort((a, b) => heights[a] - heights[b]);
  const out = [...heights];
  order.forEach((i, k) => { out[i] = Math.max(out[i], k ? out[order[k - 1]] + gap : top); });
  [...order].reverse().forEach((i, k, back) => { out[i] = Math.min(out[i], k ? out[back[k - 1]] - gap : bottom); });
  return out;
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
  const grid = decadeTicks([low - air, high + air], right - left, 52).map(([t, text]) =>
    `<line class="grid" x1="${sx(t).toFixed(1)}" x2="${sx(t).toFixed(1)}" y1="0" y2="${bottom}"/>` +
    `<text class="tick" x="${sx(t).toFixed(1)}" y="${bottom + 14}" text-anchor="middle">${text}</text>`);
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
