// Axes: where values stand, round values to mark, and labels that do not stand on each other.
import { decade, powerOfTen } from "./numbers.js";

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
 * Places on a log axis [low, high] that is `room` pixels long, with their labels: decades, or 1-2-5 within few.
 * @param {number[]} ends
 * @param {number} room
 * @returns {[number, string][]}
 */
export function decadeTicks([low, high], room, apart = 46) {
  const few = high - low < 2; // where decades alone would be one mark
  const most = Math.max(2, room / (few && (low < -3 || high > 5) ? Math.max(apart, 72) : apart)); // labels with powers are long
  if (!few) {
    const steps = [1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000, 2000];
    const at = (step) => Array.from({ length: Math.floor(high / step) - Math.ceil(low / step) + 1 }, (_, i) => (Math.ceil(low / step) + i) * step || 0);
    const apt = steps.find((step) => (high - low) / step <= most) ?? steps.at(-1);
    const found = at(apt).length > 1 ? at(apt) : at(steps[Math.max(0, steps.indexOf(apt) - 1)]);
    return found.map((e) => [e, decade(e)]);
  }
  const fine = [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7], [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9]].map((marks) => {
    const out = [];
    for (let e = Math.floor(low); e <= high; e++) out.push(...marks.map((m) => Math.log10(m) + e).filter((t) => t >= low && t <= high));
    return out;
  });
  const enough = fine.filter((f) => f.length > 1);
  return (enough.filter((f) => f.length <= most).at(-1) ?? enough[0] ?? fine.at(-1)).map((t) => [t, powerOfTen(t, 2).replace(".0·", "·").replace(/^1·/, "")]);
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

/** Middles of labels [wished, width] on one line of a given width, moved apart where two would stand on each other. */
export function beside(labels, width) {
  const order = labels.map((_, i) => i).sort((a, b) => labels[a][0] - labels[b][0]);
  const out = labels.map(([at, wide]) => Math.max(wide / 2, Math.min(width - wide / 2, at)));
  const apart = (a, b) => (labels[a][1] + labels[b][1]) / 2 + 8;
  order.forEach((i, k) => { if (k) out[i] = Math.max(out[i], out[order[k - 1]] + apart(order[k - 1], i)); });
  order.reverse().forEach((i, k) => { out[i] = Math.min(out[i], k ? out[order[k - 1]] - apart(order[k - 1], i) : width - labels[i][1] / 2); });
  return out;
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
