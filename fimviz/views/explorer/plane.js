// The plane of two directions: regions that the model gives to classes, the ellipse of F, the true contour of KL.
import { escape, widthOf } from "../kit/chart.js";
import { number } from "../kit/numbers.js";
import { scale, ticks } from "../kit/axes.js";

const EDGE = { left: 58, right: 12, top: 28, bottom: 42 }; // of a square that stays one inside

/** Value of a grid (m × m, first index along x) between its nodes; [u, v] run from 0 to m − 1. */
export function between(grid, m, u, v) {
  const [i, j] = [Math.min(m - 2, Math.floor(u)), Math.min(m - 2, Math.floor(v))];
  const [s, t] = [u - i, v - j];
  const at = i * m + j;
  return (1 - s) * ((1 - t) * grid[at] + t * grid[at + 1]) + s * ((1 - t) * grid[at + m] + t * grid[at + m + 1]);
}

/** KL at [a, b] of the plane: between nodes through its ratio to F's prediction, which varies slowly where KL spans decades. */
export function klAt({ kl, points: m, reach, information }, a, b) {
  const [u, v] = [a, b].map((t) => ((t / reach + 1) / 2) * (m - 1));
  const predicted = (x, y) => 0.5 * (x ** 2 * information[0] + y ** 2 * information[1]);
  const at = (i) => ((2 * i) / (m - 1) - 1) * reach;
  const [i, j] = [Math.min(m - 2, Math.floor(u)), Math.min(m - 2, Math.floor(v))];
  const corners = [[i, j], [i + 1, j], [i, j + 1], [i + 1, j + 1]].map(([p, q]) => kl[p * m + q] / predicted(at(p), at(q)));
  const known = corners.filter(Number.isFinite); // at the origin 0 is divided by 0
  if (known.length < 3) return between(kl, m, u, v);
  const mean = known.reduce((sum, r) => sum + r, 0) / known.length;
  const [r, s, t, w] = corners.map((c) => (Number.isFinite(c) ? c : mean));
  const [x, y] = [u - i, v - j];
  return predicted(a, b) * ((1 - y) * ((1 - x) * r + x * s) + y * ((1 - x) * t + x * w));
}

const NODES = 21; // of a plane on an axis, fewer of which show as facets
const FAR = 3; // of the logarithm of KL over F's prediction, from which on that says nothing of KL

/** A plane of few nodes with cubics between them (Catmull and Rom), which as many more nodes with lines are no better than. */
export function finer(plane) {
  const { points: m, kl, reach, information } = plane;
  if (m >= NODES) return plane;
  const parts = Math.ceil((NODES - 1) / (m - 1));
  const points = (m - 1) * parts + 1;
  const at = (i, count) => ((2 * i) / (count - 1) - 1) * reach;
  const square = (of, i, j, count) => 0.5 * (at(i, count) ** 2 * of[0] + at(j, count) ** 2 * of[1]);
  const ratiosTo = (of) => Array.from(kl, (v, n) => Math.log(v / square(of, Math.floor(n / m), n % m, m)));
  const middle = (m * m - 1) / 2;
  // KL spans decades, its ratio to F's prediction varies slowly; where neither is anything, that is 1. Not so where all
  // nodes lie far beyond what F tells of, as around photographs: there KL varies more slowly beside the distance.
  let [of, ratios] = [information, ratiosTo(information)];
  ratios[middle] = 0;
  if (ratios.some((r) => Math.abs(r) > FAR)) {
    [of, ratios] = [[1, 1], ratiosTo([1, 1])];
    const around = [-m - 1, -m, -m + 1, -1, 1, m - 1, m, m + 1].map((by) => ratios[middle + by]);
    ratios[middle] = around.reduce((sum, r) => sum + r, 0) / around.length;
  }
  const slow = ratios.every(Number.isFinite) && cubic(ratios, m, parts);
  const fine = Float32Array.from({ length: points ** 2 }, (_, n) => {
    const [i, j] = [Math.floor(n / points), n % points];
    return slow ? square(of, i, j, points) * Math.exp(slow[n]) : between(kl, m, i / parts, j / parts);
  });
  return { ...plane, points, kl: fine, logp: plane.logp.map((grid) => cubic(grid, m, parts).map((v) => Math.min(0, v))) };
}

/** A grid (m × m) with `parts` − 1 places between neighbours, by cubics that go on straight beyond its edges. */
function cubic(grid, m, parts) {
  const along = (values, stride, start, out, step, from) => {
    const node = (i) => values[start + i * stride];
    const known = (i) => (i < 0 ? 2 * node(0) - node(1) : i >= m ? 2 * node(m - 1) - node(m - 2) : node(i));
    for (let n = 0; n <= (m - 1) * parts; n++) {
      const i = Math.min(m - 2, Math.floor(n / parts));
      const t = n / parts - i;
      const [a, b, c, d] = [known(i - 1), known(i), known(i + 1), known(i + 2)];
      out[from + n * step] = b + (t / 2) * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)));
    }
  };
  const points = (m - 1) * parts + 1;
  const rows = new Float64Array(m * points);
  for (let i = 0; i < m; i++) along(grid, 1, i * m, rows, 1, i * points);
  const out = new Float64Array(points * points);
  for (let j = 0; j < points; j++) along(rows, points, j, out, points, j);
  return out;
}

/** The outcome at a place of the plane: which of the shown ones, and its log-probability. */
export function outcomeAt(plane, u, v) {
  let [best, most] = [0, -Infinity];
  for (let c = 0; c < plane.shown.length; c++) {
    const value = between(plane.logp[c], plane.points, u, v);
    if (value > most) [best, most] = [c, value];
  }
  return [best, most];
}

/** Line segments [[x, y], [x, y]] at a level of a grid, by marching squares on the roots, since KL grows with squares. */
export function contour(grid, m, level) {
  const root = Math.sqrt(level);
  const f = (i, j) => Math.sqrt(Math.max(0, grid[i * m + j])) - root;
  const out = [];
  for (let i = 0; i < m - 1; i++) {
    for (let j = 0; j < m - 1; j++) {
      const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
      const values = corners.map(([a, b]) => f(a, b));
      const cuts = [];
      for (let e = 0; e < 4; e++) {
        const [p, q] = [values[e], values[(e + 1) % 4]];
        if (p < 0 === q < 0 || Number.isNaN(p + q)) continue;
        const t = p / (p - q);
        const [a, b] = [corners[e], corners[(e + 1) % 4]];
        cuts.push([a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])]);
      }
      for (let c = 0; c + 1 < cuts.length; c += 2) out.push([cuts[c], cuts[c + 1]]);
    }
  }
  return out;
}

/** Where names may stand: [outcome, places] of every connected region with enough room for one, the largest first; places [u, v] from its middle on. */
export function centres(plane, steps = 36) {
  const at = (i) => [Math.floor(i / steps), i % steps].map((s) => ((s + 0.5) / steps) * (plane.points - 1));
  const cells = Array.from({ length: steps ** 2 }, (_, i) => outcomeAt(plane, ...at(i))[0]);
  const seen = new Set();
  const regions = [];
  cells.forEach((c, first) => {
    if (seen.has(first)) return;
    const own = [first];
    seen.add(first);
    for (const i of own) { // grows while it is walked
      const [row, column] = [Math.floor(i / steps), i % steps];
      for (const [r, k] of [[row - 1, column], [row + 1, column], [row, column - 1], [row, column + 1]]) {
        const next = r * steps + k;
        if (r < 0 || k < 0 || r >= steps || k >= steps || seen.has(next) || cells[next] !== c) continue;
        seen.add(next);
        own.push(next);
      }
    }
    regions.push([c, own.map(at)]);
  });
  const wide = regions.filter(([, own]) => own.length > 0.008 * steps ** 2).sort((a, b) => b[1].length - a[1].length);
  return wide.map(([c, own]) => {
    const mean = [0, 1].map((i) => own.reduce((sum, p) => sum + p[i], 0) / own.length);
    const away = (p) => (p[0] - mean[0]) ** 2 + (p[1] - mean[1]) ** 2;
    return [c, own.sort((a, b) => away(a) - away(b))]; // on its own ground: a bent region's middle may be another's
  });
}

/** Paint the regions on a canvas: the class's colour, stronger where it is surer, a line where the class changes. */
export function paintRegions(canvas, plane, colors, line) {
  const { width, height } = canvas;
  const m = plane.points;
  const context = canvas.getContext("2d");
  const frame = context.createImageData(width, height);
  const own = new Uint8Array(width * height);
  const chance = 1 / Math.max(2, plane.classes);
  for (let y = 0, o = 0; y < height; y++) {
    for (let x = 0; x < width; x++, o += 4) {
      const [c, logp] = outcomeAt(plane, (x / (width - 1)) * (m - 1), (1 - y / (height - 1)) * (m - 1));
      own[y * width + x] = c;
      const sure = Math.max(0, (Math.exp(logp) - chance) / (1 - chance));
      const [r, g, b] = colors[c];
      frame.data[o] = r;
      frame.data[o + 1] = g;
      frame.data[o + 2] = b;
      frame.data[o + 3] = Number.isNaN(logp) ? 0 : 40 + 130 * sure;
    }
  }
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const edge = (x + 1 < width && own[at] !== own[at + 1]) || (y + 1 < height && own[at] !== own[at + width]);
      if (edge) frame.data.set([...line, 220], 4 * at);
    }
  }
  context.putImageData(frame, 0, 0);
}

/** Axes, names, ellipse, contour and the chosen point over the regions, which fill the inside of the margins. */
export function planeOverlay({ size, plane, names, at, xLabel, yLabel, label }) {
  const { reach, information, points: m } = plane;
  const [left, right, top, bottom] = [EDGE.left, size - EDGE.right, EDGE.top, size - EDGE.bottom];
  const [sx, sy] = [scale([-reach, reach], [left, right]), scale([-reach, reach], [bottom, top])];
  const [gx, gy] = [scale([0, m - 1], [left, right]), scale([0, m - 1], [bottom, top])];
  const marks = ticks(-reach, reach, 4).map((t) => `<text class="tick" x="${sx(t)}" y="${bottom + 14}" text-anchor="middle">${number(t)}</text>` +
    `<text class="tick" x="${left - 6}" y="${sy(t) + 4}" text-anchor="end">${number(t)}</text>`).join("");
  const nats = 0.5 * (at[0] ** 2 * information[0] + at[1] ** 2 * information[1]);
  const ellipse = nats > 0 ? Array.from({ length: 97 }, (_, i) => {
    const angle = (i / 48) * Math.PI;
    const r = Math.sqrt(2 * nats / (information[0] * Math.cos(angle) ** 2 + information[1] * Math.sin(angle) ** 2));
    return `${sx(Math.max(-9, Math.min(9, (r * Math.cos(angle)) / reach)) * reach).toFixed(1)},${sy(Math.max(-9, Math.min(9, (r * Math.sin(angle)) / reach)) * reach).toFixed(1)}`;
  }).join("L") : "";
  const here = klAt(plane, ...at);
  const lines = here > 0 ? contour(plane.kl, m, here).map(([a, b]) => `M${gx(a[0]).toFixed(1)},${gy(a[1]).toFixed(1)}L${gx(b[0]).toFixed(1)},${gy(b[1]).toFixed(1)}`).join("") : "";
  const taken = [];
  const written = centres(plane).map(([c, places]) => {
    const name = names[c].length > 16 ? `${names[c].slice(0, 15)}…` : names[c];
    const half = 0.6 * widthOf(name) + 4; // of bold letters
    const spots = places.map(([u, v]) => ({ x: Math.max(left + half + 4, Math.min(right - half - 4, gx(u))), y: gy(v) + 4, half }));
    const free = spots.find((a) => taken.every((b) => Math.abs(a.y - b.y) >= 14 || Math.abs(a.x - b.x) >= a.half + b.half));
    if (!free) return ""; // the point has its name, wherever it is
    taken.push(free);
    return `<text class="direct fv-on" x="${free.x.toFixed(1)}" y="${free.y.toFixed(1)}" text-anchor="middle">${escape(name)}</text>`;
  });
  return `<svg role="img" aria-label="${escape(label)}" width="${size}" height="${size}" viewBox="0 0 ${size} ${size}"><clipPath id="${plane.clip}"><rect x="${left}" y="${top}" width="${right - left}" height="${bottom - top}"/></clipPath>` +
    `<path class="fv-border" d="M${left},${top}H${right}V${bottom}H${left}Z"/>${marks}<g clip-path="url(#${plane.clip})">` +
    (lines ? `<path class="fv-halo" d="${lines}"/><path class="fv-true" d="${lines}"/>` : "") + (ellipse ? `<path class="fv-halo" d="M${ellipse}Z"/><path class="fv-predicted" d="M${ellipse}Z"/>` : "") + `</g>${written.join("")}` +
    `<circle class="fv-origin" cx="${sx(0)}" cy="${sy(0)}" r="3"/><circle class="fv-point" cx="${sx(at[0])}" cy="${sy(at[1])}" r="6"/>` +
    `<text class="tick" x="${right}" y="${size - 3}" text-anchor="end">${escape(xLabel)}</text><text class="tick" transform="translate(10,${top}) rotate(-90)" text-anchor="end">${escape(yLabel)}</text></svg>`;
}

/** The inside of the margins, where the canvas lies: [left, top, side]. */
export const inside = (size) => [EDGE.left, EDGE.top, size - EDGE.left - EDGE.right, size - EDGE.top - EDGE.bottom];

/** The place on the plane under a pixel. */
export function placeAt(size, reach, x, y) {
  const clip = (v) => Math.max(-reach, Math.min(reach, v));
  return [clip(scale([EDGE.left, size - EDGE.right], [-reach, reach])(x)), clip(scale([size - EDGE.bottom, EDGE.top], [-reach, reach])(y))];
}
