// Paths on the simplex as numbers and SVG: pure functions, strings out.
import { escape } from "../kit/chart.js";
import { number } from "../kit/numbers.js";
import { locate, MARGIN, scale, ticks } from "../kit/axes.js";

/** The point at share t of the shortest way between two predictions: a great circle of √p. */
export function onGeodesic(p, q, t) {
  const cosine = Math.min(1, p.reduce((sum, a, i) => sum + Math.sqrt(a * q[i]), 0));
  const angle = Math.acos(cosine);
  if (angle < 1e-6) return p.map((a, i) => a + t * (q[i] - a));
  const [u, v] = [Math.sin((1 - t) * angle) / Math.sin(angle), Math.sin(t * angle) / Math.sin(angle)];
  return p.map((a, i) => (u * Math.sqrt(a) + v * Math.sqrt(q[i])) ** 2);
}

/** Where a trace is after a length s: its step, the share of it, and what the model says, along the step's geodesic. */
export function pathAt(trace, s) {
  const last = trace.fr.length - 1;
  if (last < 1) return { step: 0, share: 0, p: trace.p.map((row) => row[0]) };
  // of points at the same length, where a step gained none, the last
  const [step, share] = s >= trace.fr[last] ? [last - 1, 1] : locate(trace.fr, s);
  const ends = [step, step + 1].map((i) => trace.p.map((row) => row[i]));
  return { step, share, p: onGeodesic(...ends, share) };
}

/** The frames beside a place on a path and the share of the way from one to the other. */
export function frameAt(trace, step, share) {
  return locate(trace.kept, step + share);
}

/** Points (x, p) of a path, fine enough to look like the geodesics that they are. */
export function finePath(trace, pieces = 4) {
  const columns = trace.fr.map((x, i) => ({ x, p: trace.p.map((row) => row[i]) }));
  return columns.flatMap((c, i) => i === 0 ? [c] : Array.from({ length: pieces }, (_, j) => {
    const share = (j + 1) / pieces;
    return { x: columns[i - 1].x + share * (c.x - columns[i - 1].x), p: onGeodesic(columns[i - 1].p, c.p, share) };
  }));
}

/** The closed form's way: from the start toward its mirror image, as far as the boundary of classes a and b. */
export function floorPath(start, a, b, pieces = 24) {
  const mirror = [...start];
  [mirror[a], mirror[b]] = [start[b], start[a]];
  return Array.from({ length: pieces + 1 }, (_, i) => onGeodesic(start, mirror, i / pieces / 2));
}

/** The order in which classes are stacked: the source at the bottom, the target at the top, the class met below it. */
export function stackOrder(trace) {
  const rank = (c) => (c === trace.source ? -2 : c === trace.target ? 1e9 : c === trace.hit ? 1e8 : c < 0 ? 1e7 : c);
  return trace.shown.map((_, j) => j).sort((i, j) => rank(trace.shown[i]) - rank(trace.shown[j]));
}

/** A tick in as few digits as it needs, since powers of ten are wide. */
export function tick(value) {
  return number(value, [1, 2, 3].find((d) => Math.abs(Number(value.toPrecision(d)) - value) < 1e-9 * Math.abs(value)) ?? 3);
}

function clipped(text, room, each = 6.6) {
  const most = Math.max(1, Math.floor(room / each));
  return text.length > most ? `${text.slice(0, Math.max(1, most - 1))}…` : text;
}

/** Stacked class probabilities against length; the closed-form floor as a dashed line, names in the bands. */
export function stacked({ width, height, reach, points, order, colors, names, bold, floor, label, bare = false }) {
  const m = bare ? { left: 1, right: 1, top: 1, bottom: 1 } : MARGIN;
  const sx = scale([0, reach], [m.left, width - m.right]);
  const sy = scale([0, 1], [height - m.bottom, m.top]);
  const below = points.map(() => 0);
  const placed = [];
  const bands = order.map((j) => {
    const low = [...below];
    points.forEach((q, i) => (below[i] += q.p[j]));
    const line = (list) => list.map((v, i) => `${sx(points[i].x).toFixed(1)},${sy(Math.min(1, v)).toFixed(1)}`);
    const thick = Math.max(...points.map((q) => q.p[j]));
    const wide = points.map((_, i) => i).filter((i) => points[i].p[j] >= 0.75 * thick);
    const centre = (points[wide[0]].x + points[wide.at(-1)].x) / 2;
    const widest = wide.reduce((a, b) => (Math.abs(points[b].x - centre) < Math.abs(points[a].x - centre) ? b : a));
    const text = sy(low[widest] + points[widest].p[j] / 2) + 4;
    const room = width - m.right - m.left - 8;
    const name = clipped(names[j], Math.min(room, 150));
    const half = 3.4 * name.length;
    const at = Math.max(m.left + half + 4, Math.min(sx(points.at(-1).x) - half - 4, sx(points[widest].x)));
    const free = placed.every((q) => Math.abs(q.text - text) > 13 || Math.abs(q.at - at) > q.half + half);
    const title = !bare && free && points[widest].p[j] * (height - m.bottom - m.top) > 15 && sx(points.at(-1).x) - m.left > 2 * half
      ? `<text class="direct" x="${at.toFixed(1)}" y="${text.toFixed(1)}" text-anchor="middle">${escape(name)}</text>` : "";
    if (title) placed.push({ at, text, half });
    return [`<path class="band" fill="${colors[j]}" fill-opacity="${bold.includes(j) ? 0.85 : 0.5}" stroke="none" d="M${line(low).join("L")}L${line(below).reverse().join("L")}Z">` +
      `<title>${escape(names[j])}</title></path>`, title];
  });
  const bottom = height - m.bottom;
  const inside = floor !== null && floor <= reach;
  const dashed = !inside ? "" : `<line class="fv-floor" x1="${sx(floor)}" x2="${sx(floor)}" y1="${m.top}" y2="${bottom}"/>`;
  const drawn = bands.map((b) => b[0]).join("") + dashed + bands.map((b) => b[1]).join("");
  if (bare) return `<svg aria-hidden="true" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${drawn}</svg>`;
  const said = floor === null ? "" : `floor ${number(floor)}${inside ? "" : " →"}`;
  const above = floor === null ? "" : `<text class="tick" x="${Math.max(m.left + 30, Math.min(width - m.right - 30, sx(floor)))}" y="${m.top - 4}" text-anchor="middle">${said}</text>`;
  const axis = ticks(0, reach, width < 300 ? 2 : 4).filter((t) => t <= reach).map((t) => `<text class="tick" x="${sx(t)}" y="${bottom + 14}" text-anchor="middle">${tick(t)}</text>`);
  const side = [0, 0.5, 1].map((t) => `<text class="tick" x="${m.left - 6}" y="${sy(t) + 4}" text-anchor="end">${t}</text>`);
  return `<svg role="img" aria-label="${escape(label)}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${drawn}${above}${axis.join("")}${side.join("")}` +
    `<line class="axis" x1="${m.left}" x2="${width - m.right}" y1="${bottom}" y2="${bottom}"/>` +
    `<text class="tick" x="${width - m.right}" y="${height - 2}" text-anchor="end">Fisher–Rao length</text><line class="cursor" y1="${m.top}" y2="${bottom}"/></svg>`;
}

/** Bars, one a step and as wide as its length, against the limit of their kind; those that a box cut are hollow. */
export function stepBars({ width, height, reach, fr, values, limit, cut, xLabel, limitText, label }) {
  const real = values.filter((v) => v !== null && Number.isFinite(v));
  const top = Math.max(limit ?? 0, ...real, 1e-12) * 1.12;
  const sx = scale([0, reach], [MARGIN.left, width - MARGIN.right]);
  const sy = scale([0, top], [height - MARGIN.bottom, MARGIN.top]);
  const bottom = height - MARGIN.bottom;
  const bars = values.map((v, i) => v === null ? "" : `<rect class="${cut(i) ? "doubtful" : "fv-pace"}" x="${sx(fr[i]).toFixed(2)}" y="${sy(v).toFixed(2)}" ` +
    `width="${Math.max(0.8, sx(fr[i + 1]) - sx(fr[i]) - 1).toFixed(2)}" height="${Math.max(0.5, bottom - sy(v)).toFixed(2)}"/>`);
  const dashed = limit === null ? "" : `<line class="fv-floor" x1="${MARGIN.left}" x2="${width - MARGIN.right}" y1="${sy(limit)}" y2="${sy(limit)}"/>` +
    `<text class="tick direct" x="${MARGIN.left + 4}" y="${sy(limit) - 5}">${escape(limitText)}</text>`;
  const side = ticks(0, top, 2).filter((t) => t <= top).map((t) => `<text class="tick" x="${MARGIN.left - 6}" y="${sy(t) + 4}" text-anchor="end">${tick(t)}</text>`);
  const axis = ticks(0, reach, width < 300 ? 2 : 4).filter((t) => t <= reach).map((t) => `<text class="tick" x="${sx(t)}" y="${bottom + 14}" text-anchor="middle">${tick(t)}</text>`);
  return `<svg role="img" aria-label="${escape(label)}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${bars.join("")}${dashed}${side.join("")}${axis.join("")}` +
    `<line class="axis" x1="${MARGIN.left}" x2="${width - MARGIN.right}" y1="${bottom}" y2="${bottom}"/>` +
    `<text class="tick" x="${width - MARGIN.right}" y="${height - 2}" text-anchor="end">${escape(xLabel)}</text><line class="cursor" y1="${MARGIN.top}" y2="${bottom}"/></svg>`;
}

/** Shares of three classes, as places in a triangle; what other classes hold is left out. */
export function inTriangle([a, b, c], corners) {
  const sum = a + b + c || 1;
  return [0, 1].map((i) => (a * corners[0][i] + b * corners[1][i] + c * corners[2][i]) / sum);
}

/** The path in the triangle of three classes, the closed form's geodesic dashed, the boundary of the first two dotted. */
export function triangle({ width, path, floor, names, colors, boundary, label }) {
  const [left, right, top, bottom] = [14, width - 14, 24, 24 + (width - 28) * 0.866];
  const corners = [[left, bottom], [right, bottom], [width / 2, top]];
  const line = (list) => `M${list.map((t) => inTriangle(t, corners).map((v) => v.toFixed(1)).join(",")).join("L")}`;
  const half = (right - left) / 2 - 8;
  const text = (j, x, y, anchor) => {
    const name = clipped(names[j], j === 2 ? width - 40 : half);
    return `<text x="${x}" y="${y}" text-anchor="${anchor}"><tspan fill="${colors[j]}">■ </tspan>${escape(name)}</text>`;
  };
  const middle = boundary.map((t) => inTriangle(t, corners));
  const ends = [path[0], path.at(-1)].map((t) => inTriangle(t, corners));
  return `<svg class="fv-simplex" role="img" aria-label="${escape(label)}" width="${width}" height="${bottom + 26}" viewBox="0 0 ${width} ${bottom + 26}">` +
    `<path class="fv-edge" d="M${corners.map((c) => c.join(",")).join("L")}Z"/>` +
    `<path class="mark" d="M${middle.map((c) => c.join(",")).join("L")}"/>` +
    `<path class="fv-floor" fill="none" d="${line(floor)}"/><path class="fv-way" d="${line(path)}"/>` +
    `<circle class="fv-start" cx="${ends[0][0]}" cy="${ends[0][1]}" r="4"/><circle class="fv-end" cx="${ends[1][0]}" cy="${ends[1][1]}" r="4"/>` +
    `<circle class="fv-here" r="6"/>${text(0, left - 12, bottom + 18, "start")}${text(1, right + 12, bottom + 18, "end")}${text(2, width / 2, top - 9, "middle")}</svg>`;
}
