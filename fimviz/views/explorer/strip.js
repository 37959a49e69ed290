// Dots of samples: swarms on a log axis, and a cloud against a second number. Pure functions: numbers in, SVG out.
import { escape, marksBelow, marksBeside, widthOf } from "../kit/chart.js";
import { number } from "../kit/numbers.js";
import { decadeTicks, scale, ticks } from "../kit/axes.js";
import { quantiles } from "../kit/quantiles.js";

const EMPTY = 8; // decades without a sample that the axis leaves out

/** Heights of dots at places xs that do not overlap, as near to 0 as can be; those that find no room lie on the rim. */
export function swarm(xs, radius, room) {
  const order = xs.map((_, i) => i).sort((a, b) => xs[a] - xs[b]);
  const heights = new Array(xs.length).fill(0);
  const apart = 2 * radius + 0.6;
  const placed = [];
  let from = 0;
  for (const i of order) {
    while (from < placed.length && xs[i] - xs[placed[from]] >= apart) from++;
    const near = placed.slice(from).map((j) => [heights[j], Math.sqrt(Math.max(0, apart ** 2 - (xs[i] - xs[j]) ** 2))]);
    const free = (y) => near.every(([h, gap]) => Math.abs(y - h) >= gap - 1e-9);
    const tried = [0, ...near.flatMap(([h, gap]) => [h - gap, h + gap])].filter((y) => Math.abs(y) <= room).sort((a, b) => Math.abs(a) - Math.abs(b));
    heights[i] = tried.find(free) ?? ((i * 0.618) % 2 - 1) * room;
    placed.push(i);
  }
  return heights;
}

/** The radius at which n dots fill at most a third of a stretch. */
export function dotRadius(n, width, height) {
  return Math.max(1.8, Math.min(5.5, Math.sqrt((width * height * 0.16) / (Math.PI * n))));
}

/**
 * The log axis that all swarms of a view share; zeros stand in a place of their own at its left. It is broken only where
 * many decades hold no sample at all.
 */
export function normAxis(logs, [left, right], zeros) {
  const finite = logs.filter(Number.isFinite).sort((a, b) => a - b);
  if (!finite.length) finite.push(0);
  const start = left + (zeros ? 34 : 0);
  const wide = Math.max(EMPTY, 0.3 * (finite.at(-1) - finite[0]));
  const groups = [[finite[0]]];
  for (const v of finite.slice(1)) {
    if (v - groups.at(-1).at(-1) > wide) groups.push([v]);
    else groups.at(-1).push(v);
  }
  const spans = groups.map((g) => {
    const air = Math.max(0.2, 0.04 * (g.at(-1) - g[0]), (0.9 - (g.at(-1) - g[0])) / 2);
    return [g[0] - air, g.at(-1) + air];
  });
  const gap = 16;
  const unit = (right - start - gap * (spans.length - 1)) / spans.reduce((sum, [from, to]) => sum + (to - from), 0);
  let x = start;
  const zones = spans.map(([from, to]) => {
    const zone = { from, to, start: x, end: x + unit * (to - from) };
    x = zone.end + gap;
    return zone;
  });
  const at = (v) => {
    if (!(v > -Infinity)) return left + 10;
    const zone = zones.find((z) => v <= z.to) ?? zones.at(-1);
    return scale([zone.from, zone.to], [zone.start, zone.end])(Math.max(zone.from, Math.min(zone.to, v)));
  };
  return { zones, at, left, right, zeros };
}

/** What a place on the axis stands for, as log₁₀; the inverse of `at`. */
export function fromAxis(axis, x) {
  if (axis.zeros && x < axis.left + 22) return -Infinity;
  const zone = axis.zones.find((z) => x <= z.end) ?? axis.zones.at(-1);
  return scale([zone.start, zone.end], [zone.from, zone.to])(Math.max(zone.start, Math.min(zone.end, x)));
}

export function axisMarks(axis, top, bottom) {
  const lines = axis.zones.flatMap((zone) => {
    const sx = scale([zone.from, zone.to], [zone.start, zone.end]);
    return marksBelow(decadeTicks([zone.from, zone.to], zone.end - zone.start, 58), sx, [top, bottom]);
  });
  const breaks = axis.zones.slice(1).map((zone, i) => {
    const x = (axis.zones[i].end + zone.start) / 2;
    return `<path class="fv-stroke fv-thin" d="M${x - 5},${bottom + 4}l4,-8M${x + 1},${bottom + 4}l4,-8"/>`;
  });
  const zero = axis.zeros ? `<text class="tick" x="${axis.at(-Infinity)}" y="${bottom + 14}" text-anchor="middle">0</text>` : "";
  return lines.join("") + breaks.join("") + zero;
}

const DOT = (x, y) => `M${x.toFixed(1)},${y.toFixed(1)}h0`;
const CROSS = (r) => (x, y) => `M${(x - r).toFixed(1)},${(y - r).toFixed(1)}l${2 * r},${2 * r}m0,${-2 * r}l${-2 * r},${2 * r}`;

/**
 * Dots as a few paths, one a colour, so that a thousand are as quick as ten. points: {x, y, color, wrong, faint}; misclassified
 * samples are crosses.
 */
export function dots(points, radius) {
  const groups = new Map();
  const cross = CROSS(Number((radius * 0.8).toFixed(1)));
  for (const p of points) {
    const key = `${p.faint ? 0 : 1}|${p.wrong ? 1 : 0}|${p.color}`;
    groups.set(key, (groups.get(key) ?? "") + (p.wrong ? cross : DOT)(p.x, p.y));
  }
  return [...groups].sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, d]) => {
    const [clear, wrong, color] = key.split("|");
    return `<path class="fv-dots${clear === "0" ? " fv-dim" : ""}" fill="none" stroke="${color}" stroke-linecap="round" stroke-width="${wrong === "1" ? Math.max(1.8, radius * 0.6).toFixed(1) : (2 * radius).toFixed(1)}" d="${d}"/>`;
  }).join("");
}

/** Quartiles of a lane as short marks under its dots, the median named above it, or from a place on that is `free`. */
export function quantileMarks(values, axis, top, bottom, free = axis.left) {
  const [low, middle, high] = quantiles(values, [0.25, 0.5, 0.75]);
  if (Number.isNaN(middle)) return "";
  return [[low, ""], [middle, `median ${number(middle)}`], [high, ""]].map(([value, text]) => {
    const x = axis.at(value > 0 ? Math.log10(value) : -Infinity);
    const wide = 0.92 * widthOf(text);
    const begins = Math.max(free, Math.min(axis.right - wide, x - wide / 2));
    return `<line class="fv-quantile${text ? " fv-middle" : ""}" x1="${x.toFixed(1)}" x2="${x.toFixed(1)}" y1="${top}" y2="${bottom}"/>` +
      (text ? `<text class="tick direct" x="${begins.toFixed(1)}" y="${top - 4}">${text}</text>` : "");
  }).join("");
}

/** The scale of a second number: places of values in [bottom, top], and its ticks. Kinds: "nines", "log", "linear". */
export function second(values, kind, [bottom, top]) {
  const known = values.filter((v) => Number.isFinite(v));
  if (!known.length) return null;
  if (kind === "linear") {
    const [low, high] = [Math.min(0, ...known), Math.max(...known)];
    const sy = scale([low, high > low ? high : low + 1], [bottom, top]);
    return { at: sy, ticks: ticks(low, high > low ? high : low + 1, 3).map((t) => [sy(t), number(t)]) };
  }
  const logs = values.map((v) => (v > 0 ? Math.log10(v) : -Infinity)).filter(Number.isFinite).sort((a, b) => a - b);
  if (!logs.length) return null;
  const low = Math.max(logs[0], logs[Math.floor(0.02 * logs.length)] - 6) - 0.15;
  const never = values.includes(Infinity); // where no attack was found, or nothing certified: a place of its own at the top
  const high = logs.at(-1) + 0.15 + (never ? 0.15 * (logs.at(-1) - low) : 0);
  if (kind === "nines" && high - low < 1.3) { // few nines: plain probabilities tell more
    const [least, most] = [1 - Math.max(...known), 1 - Math.min(...known)];
    const air = 0.08 * (most - least || 0.1);
    const sy = scale([least - air, most + air], [bottom, top]);
    return { at: (v) => sy(1 - v), ticks: ticks(least - air, most + air, 3).filter((t) => t >= 0 && t <= 1).map((t) => [sy(t), number(t)]) };
  }
  const sy = scale([low, high], kind === "nines" ? [top, bottom] : [bottom, top]);
  const at = (v) => sy(Math.max(low, Math.min(high, v > 0 ? Math.log10(v) : -Infinity)));
  const nines = (e) => (e === 0 ? "0" : e >= -6 ? `${1 - 10 ** e}`.slice(0, 2 - e) : `1 − 10${number(10 ** e, 1).split("10")[1]}`);
  const marks = decadeTicks([low, high], Math.abs(bottom - top), 20);
  return { at, ticks: kind === "nines" ? marks.filter(([e]) => Number.isInteger(e)).map(([e]) => [sy(e), nines(e)]) : [...marks.filter(([e]) => !never || e < logs.at(-1) + 0.1).map(([e, text]) => [sy(e), text]), ...(never ? [[sy(high), "∞"]] : [])] };
}

/** The cloud of one number against λ₁. points as for `dots`, with the two places already in x and y. */
export function cloud({ width, height, axis, rows, points, radius, xLabel, yLabel, corner, label, chosen }) {
  const bottom = height - 30;
  const side = marksBeside(rows, (y) => y, [axis.left, axis.right]).join("");
  const lines = corner.map((text, i) => `<text class="${i ? "tick" : "fv-rho"} direct" x="${axis.right}" y="${14 + 14 * i}" text-anchor="end">${escape(text)}</text>`).join("");
  return `<svg role="img" aria-label="${escape(label)}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${axisMarks(axis, 34, bottom)}${side}` +
    `${dots(points, radius)}${chosen}${lines}<text class="tick" x="${axis.right}" y="${height - 2}" text-anchor="end">${escape(xLabel)}</text>` +
    `<text class="tick" x="0" y="12">${escape(yLabel)}</text></svg>`;
}
