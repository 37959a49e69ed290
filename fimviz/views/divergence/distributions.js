// The divergence view, top: the distributions over all pairs, of every model on one axis.
import { escape } from "../kit/chart.js";
import { percent } from "../kit/numbers.js";
import { scale } from "../kit/axes.js";

/** Histograms of several models on one axis, as outlines; a triangle marks each median. */
function histogram({ width, height, distribution: d, colors, label }) {
  const [left, right, top, bottom] = [8, width - 8, 16, height - 40];
  const sx = scale([d.low, d.high], [left, right]);
  const most = Math.max(...d.models.flatMap((m) => m.shares), 1e-9);
  const sy = scale([0, most], [bottom, top]);
  const n = d.models[0].shares.length;
  const edge = (k) => sx(d.low + ((d.high - d.low) * k) / n).toFixed(1);
  const outline = (shares) => `M${edge(0)},${bottom}${shares.map((s, k) => `V${sy(s).toFixed(1)}H${edge(k + 1)}`).join("")}V${bottom}`;
  const shapes = d.models.map((m, i) => `<path fill="${colors[i]}" fill-opacity="${d.models.length > 1 ? 0.1 : 0.22}" stroke="${colors[i]}" stroke-width="1.5" d="${outline(m.shares)}"/>`);
  const medians = d.models.map((m, i) => m.places[1] === null ? "" :
    `<path class="fv-median" fill="${colors[i]}" d="M${sx(m.places[1]).toFixed(1)},${bottom}l-5,9h10Z"/>`);
  let last = -1e9;
  const axis = d.ticks.map(([at, text]) => {
    const x = Math.max(left + 3 * text.length, Math.min(right - 3 * text.length, sx(at)));
    if (x - last < 7 * text.length + 4) return "";
    last = x;
    return `<line class="grid" x1="${sx(at)}" x2="${sx(at)}" y1="${top}" y2="${bottom}"/><text class="tick" x="${x}" y="${bottom + 22}" text-anchor="middle">${escape(text)}</text>`;
  });
  return `<svg role="img" aria-label="${escape(label)}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${axis.join("")}` +
    `<line class="axis" x1="${left}" x2="${right}" y1="${bottom}" y2="${bottom}"/>${shapes.join("")}${medians.join("")}` +
    `<text class="tick direct" x="${left}" y="${top - 5}">${percent(most, 2)} of the pairs in a bin</text>` +
    `<text class="tick" x="${right}" y="${height - 2}" text-anchor="end">${escape(d.axis)}</text></svg>`;
}

/** The view with this part of it. @param {any} Base @returns {any} */
export const withDistributions = (Base) => class extends Base {
  distributions() {
    const columns = this.width >= 900 ? 3 : 1;
    const width = Math.floor((this.width - 32 * (columns - 1)) / columns);
    const { models, distributions } = this.data;
    const several = models.length > 1;
    this.root.querySelectorAll(".fv-dist").forEach((box, k) => {
      const d = distributions[k];
      const said = d.models.map((m, i) => `${several ? `${models[i].name}: ` : ""}median ${m.text[1]}, quartiles ${m.text[0]} and ${m.text[2]}`);
      box.querySelector(".fv-hist").innerHTML = histogram({ width, height: columns === 1 ? 130 : 170, distribution: d, colors: models.map((m) => m.color), label: `${d.title}. ${said.join("; ")}` });
      box.querySelector("ul").innerHTML = d.models.map((m, i) => `<li>${several ? `<span style="color:${models[i].color}">■</span> ${escape(models[i].name)}: ` : `▲ `}` +
        `median <b>${m.text[1]}</b>, half of the pairs from ${m.text[0]} to ${m.text[2]}${m.negative ? `; ${percent(m.negative)} negative` : ""}${m.note ? `; ${escape(m.note)}` : ""}</li>`).join("");
    });
  }
};
