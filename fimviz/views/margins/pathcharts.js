// The margin view: what the model says along a path, the same sample toward other classes, and all of it as tables.
import { escape, lineChart } from "../kit/chart.js";
import { number, probability } from "../kit/numbers.js";
import { decadeTicks, ticks } from "../kit/axes.js";
import { finePath, floorPath, stacked, stackOrder, stepBars, tick, triangle } from "./paths.js";
import { fillTables } from "../kit/stage.js";

/** The view with this part of it. @param {any} Base @returns {any} */
export const withCharts = (Base) => class extends Base {
  charts() {
    const { trace: t, colors, reach } = this;
    const width = this.chartWidth;
    const points = finePath(t);
    const order = stackOrder(t);
    const names = t.shown.map((c) => this.name(c));
    const bold = [t.source, t.target, t.hit].map((c) => t.shown.indexOf(c));
    const said = `class probabilities along the path: ${names.map((n, j) => `${n} from ${probability(t.p[j][0])} to ${probability(t.p[j].at(-1))}`).join(", ")}`;
    this.$(".fv-prob").innerHTML = `<h4>What the model says along the path</h4><div class="fv-keys"><span><i class="fv-dashed"></i>closed-form floor</span></div>` +
      stacked({ width, height: 210, reach, points, order, colors, names, bold, floor: t.bound, label: said });
    const small = this.smallWidth;
    const chart = (title, svg) => `<div><h4>${title}</h4>${svg}</div>`;
    const x = [0, reach];
    const xTicks = ticks(0, reach, small < 300 ? 2 : 4).filter((v) => v <= reach);
    const xText = tick;
    const toHit = this.shields(t) ? t.p[t.shown.indexOf(t.source)].map((p, i) => Math.log(p) - Math.log(t.p[t.shown.indexOf(t.hit)][i])) : null;
    const finite = [...t.gap, ...(toHit ?? [])].filter((v) => v !== null && Number.isFinite(v));
    const [low, high] = [Math.min(0, ...finite), Math.max(1e-9, ...finite)];
    const gaps = [{ points: t.fr.map((s, i) => [s, t.gap[i] ?? NaN]), color: colors[t.shown.indexOf(t.target)], width: 2 }];
    if (toHit) gaps.push({ points: t.fr.map((s, i) => [s, Number.isFinite(toHit[i]) ? toHit[i] : NaN]), color: colors[t.shown.indexOf(t.hit)], width: 2 });
    const gap = lineChart({ width: small, height: 130, x, xTicks, xText, y: [low - 0.06 * (high - low), high + 0.06 * (high - low)], yTicks: ticks(low, high, 3).filter((v) => v <= high), xLabel: "Fisher–Rao length",
      label: "logit gap along the path", lines: [...gaps, { points: [[0, 0], [reach, 0]], color: "var(--fv-faint)", width: 1 }] });
    const norms = t.fr.map((s, i) => [s, t.norm[i] > 0 ? Math.log10(t.norm[i]) : NaN]).filter((p) => !Number.isNaN(p[1]));
    const logs = norms.map((p) => p[1]);
    const [bottom, top] = logs.length ? [Math.min(...logs), Math.max(...logs)] : [0, 1];
    const air = Math.max(0.1, 0.08 * (top - bottom));
    const round = decadeTicks([bottom - air, top + air], 100, 26);
    const brief = (text) => text.replace(".0·", "·").replace(/^1·/, "");
    const decades = new Map(round.length ? round.map(([at, text]) => [at, brief(text)]) : [[bottom, number(10 ** bottom, 2)]]);
    const norm = norms.length ? lineChart({ width: small, height: 130, x, xTicks, xText, y: [bottom - air, top + air], yTicks: [...decades.keys()], yText: (v) => decades.get(v), xLabel: "log axis · Fisher–Rao length",
      label: `λ_max along the path, from ${number(10 ** logs[0])} to ${number(10 ** logs.at(-1))}`, lines: [{ points: norms, color: "currentColor", width: 2 }],
      over: (sx, sy) => norms.length > 1 ? "" : `<circle class="fv-only" cx="${sx(norms[0][0])}" cy="${sy(norms[0][1])}" r="3.5" fill="currentColor"/>` })
      : `<p class="fv-quiet">this method does not need λ_max</p>`;
    const cut = (i) => t.pace[i] === "box";
    const literal = t.settings.method === "published";
    const bars = (values, limit, limitText, label) => stepBars({ width: small, height: 110, reach, fr: t.fr, values, limit, cut, limitText, label, xLabel: "Fisher–Rao length" });
    const natural = t.natural.some((v) => v !== null) ? bars(t.natural, t.settings.step, `η = ${number(t.settings.step)}`, "natural length of each step")
      : `<p class="fv-quiet">this method does not measure it</p>`;
    this.$(".fv-small").innerHTML = chart("Logit gap, in nats", `<div class="fv-keys">${[t.target, ...(toHit ? [t.hit] : [])].map((k) =>
      `<span><i style="color:${colors[t.shown.indexOf(k)]}"></i>to ${escape(this.name(k))}</span>`).join("")}</div>${gap}`) + chart("Spectral norm of F", `<div class="fv-keys"><span>λ_max, nats per squared pixel unit</span></div>${norm}`) + chart("Each step, √(δᵀFδ) at its start", natural) +
      chart("Each step, L2", bars(t.step, literal ? null : t.settings.trust_region, `r = ${number(t.settings.trust_region)}`, "L2 length of each step"));
    this.three();
  }

  /** The triangle of start, target and class met, or of the two and all others. */
  three() {
    const { trace: t, data, colors } = this;
    const box = this.$(".fv-three");
    box.hidden = data.classes.length < 3;
    if (box.hidden) return;
    const place = (c) => t.shown.indexOf(c);
    const [a, b, c] = [place(t.source), place(t.target), this.shields(t) ? place(t.hit) : -1];
    this.project = (p) => (c >= 0 ? [p[a], p[b], p[c]] : [p[a], p[b], Math.max(0, 1 - p[a] - p[b])]);
    const start = t.p.map((row) => row[0]);
    const met = this.shields(t) ? c : b;
    const floor = floorPath(start, a, met).map(this.project);
    const path = finePath(t).map((q) => this.project(q.p));
    const names = [t.source, t.target, c >= 0 ? t.hit : -1].map((k) => this.name(k));
    const boundary = met === b ? [[1, 1, 0], [0, 0, 1]] : [[1, 0, 1], [0, 1, 0]];
    const left = c >= 0 ? Math.max(...finePath(t).map((q) => 1 - q.p[a] - q.p[b] - q.p[c])) : 0;
    const width = this.triangleWidth;
    box.innerHTML = `<h4>On the triangle of ${escape(names[0])}, ${escape(names[1])} and ${escape(names[2])}</h4>` +
      triangle({ width, path, floor, boundary, names, colors: [colors[a], colors[b], c >= 0 ? colors[c] : "var(--fv-faint)"], label: "the path in the probability triangle, and the closed form’s geodesic" }) +
      `<div class="fv-keys"><span><i class="fv-solid"></i>path</span><span><i class="fv-dashed"></i>geodesic of the floor</span></div>` +
      `<p class="fv-quiet">Dotted: ${escape(names[0])} and ${escape(met === b ? names[1] : names[2])} equally likely.${left > 0.005 ? ` Left out: other classes, up to ${number(100 * left, 2)} %.` : ""}</p>`;
    const size = [14, width - 14, 24, 24 + (width - 28) * 0.866];
    this.corners = [[size[0], size[3]], [size[1], size[3]], [width / 2, size[2]]];
  }

  /** The same sample toward other classes: small multiples on one scale, which open their traces. */
  others() {
    const { siblings, common: reach, trace, sample } = this;
    const box = this.$(".fv-targets");
    const focused = box.contains(document.activeElement);
    this.$(".fv-others").textContent = siblings.length > 1 ? `Sample ${sample.index} toward each class, on one scale` : "";
    box.setAttribute("aria-label", this.$(".fv-others").textContent);
    const mostly = Math.max(104, Math.floor((this.right + 8) / Math.max(1, Math.floor((this.right + 8) / 128))) - 8);
    box.innerHTML = siblings.length < 2 ? "" : siblings.map((t) => {
      const met = t.hit < 0 ? (t.status === "budget" ? "out of steps" : t.status) : this.shields(t) ? `meets ${this.name(t.hit)}` : "met";
      const svg = stacked({ width: mostly - 12, height: 44, reach, points: finePath(t, 2), order: stackOrder(t), colors: this.colorsOf(t),
        names: t.shown.map((c) => this.name(c)), bold: [t.source, t.target, t.hit].map((c) => t.shown.indexOf(c)), floor: t.bound, label: "", bare: true });
      const said = `toward ${this.name(t.target)}: length ${number(t.length)}, ${met}${this.own(t)}`;
      return `<button type="button" data-id="${t.id}" aria-pressed="${t.id === trace.id}" aria-label="${escape(said)}" title="${escape(said)}" style="width:${mostly}px">` +
        `<b>→ ${escape(this.name(t.target))}</b>${svg}<span class="${this.shields(t) ? "fv-shielded" : ""}">${number(t.length, t.length < 1e-3 ? 1 : 3)} · ${escape(met)}</span>${t.asked ? `<span>${escape(this.own(t).slice(2, -1))}</span>` : ""}</button>`;
    }).join("");
    box.querySelectorAll("button").forEach((button) => button.addEventListener("click", () => this.open(this.traces.find((t) => t.id === Number(button.dataset.id)))));
    if (focused) box.querySelector("[aria-pressed=true]")?.focus();
  }

  tables() {
    const { trace: t, data } = this;
    const points = t.fr.map((s, i) => [i, number(s, 4), ...t.p.map((row) => probability(row[i])), number(t.gap[i], 4), number(t.norm[i], 4), i ? number(t.natural[i - 1]) : "", i ? number(t.step[i - 1]) : "",
      i ? t.pace[i - 1] : ""]);
    const all = this.traces.map((q) => [q.sample, this.name(q.source), this.name(q.target), q.hit < 0 ? "–" : this.name(q.hit), q.status, number(q.length, 5), number(q.error, 2), number(q.bound, 5),
      number(q.length / q.bound, 4), number(q.l2, 4), q.pace.length, q.settings.method, number(q.settings.damping)]);
    fillTables(this.$(".fv-tables"), [
      ["Table: this path, point by point", ["point", "length", ...t.shown.map((c) => `p(${this.name(c)})`), "gap", "λ_max", "√(δᵀFδ)", "L2", "set by"], points],
      ["Table: all paths of this page", ["sample", "from", "toward", "meets", "status", "length", "error", "floor", "ratio", "L2", "steps", "method", "damping"], all],
      ["Table: shielding and damping", ["damping", "step", "shielded %", "low", "high", "of all from", "to", "paths", "of"], data.points.map((p) => [number(p.damping), number(p.step), ...[p.shielded, p.low, p.high, ...p.possible].map((v) => number(v === null ? null : 100 * v)), p.successful, p.attempted])],
    ]);
  }
};
