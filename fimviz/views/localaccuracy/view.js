// The view of local accuracy: up to what size of a change does ½ δᵀFδ tell its divergence?
// State shared with Python or the stand-in host: position (which budget).
import { escape, lineChart } from "../kit/chart.js";
import { number } from "../kit/numbers.js";
import { decadeTicks, MARGIN, scale } from "../kit/axes.js";
import { fillTables, mounted, View } from "../kit/stage.js";

/** The log axis of a panel: all medians, and of the quartiles what lies within half a decade of them. */
export function axisOf(panel) {
  const logs = (name) => panel.lines.flatMap((l) => l[name]).filter((v) => v > 0).map(Math.log10);
  const middle = logs("median");
  if (!middle.length) return [-1, 0];
  const [low, high] = [Math.min(...middle), Math.max(...middle)];
  return [Math.max(low - 0.5, Math.min(low, ...logs("q25"))) - 0.05, Math.min(high + 0.5, Math.max(high, ...logs("q75"))) + 0.05];
}

function layout(data) {
  return `
    <div class="fv-head"><h3 class="fv-title">${escape(data.title)}</h3>
      <details class="fv-help"><summary aria-label="What is this?">?</summary><p>A change δ of an image moves the model’s answer by KL(f(x) ‖ f(x + δ)).
      For small δ that is <b>½ δᵀF(x)δ</b>. Shown is how far off the quadratic form is, <b>|KL − ½ δᵀFδ| ÷ KL</b>: 0.1 is ten percent. The worst direction is that of the
      leading eigenvector, where ½ δᵀFδ = ½ ε²λ₁ in L2; FGSM and PGD attack the label. Lines are medians over the images, shades reach from quartile to quartile.</p></details></div>
    <p class="fv-sub">${data.count} ${data.count === 1 ? "image" : "images"}, |KL − ½ δᵀFδ| ÷ KL against the budget ε in pixel units</p>
    <div class="fv-keys">${data.panels[0].lines.map((l) => `<span><i style="color:${l.color}"></i>${escape(l.name)}</span>`).join("")}</div>
    <div class="fv-budgets">${data.panels.map((p) => `<div class="fv-norm"><h4>Budget in ${p.norm}</h4><div class="fv-chart"></div><div class="fv-now"></div></div>`).join("")}</div>
    <div class="fv-slider"><label>budget <input type="range" aria-label="Budget" min="0" max="${data.panels[0].budgets.length - 1}" step="1"></label><output></output></div>
    <div class="fv-tables"></div>`;
}

class LocalAccuracy extends View {
  constructor(model, root, packed) {
    super(model, root, packed);
    const { data } = packed;
    root.innerHTML = layout(data);
    this.range = this.$("input");
    this.range.addEventListener("input", () => this.set("position", Number(this.range.value)));
    fillTables(this.$(".fv-tables"), data.panels.map((p) => [`Table: budget in ${p.norm}`,
      ["direction", "ε", "median", "lower quartile", "upper quartile", "pooled", "median KL", "median ‖δ‖₂", "images", "KL is 0", "failed"],
      p.lines.flatMap((l) => p.names.map((e, k) => [l.name, e, ...[l.median, l.q25, l.q75, l.pooled, l.kl, l.length].map((v) => number(v[k])), l.measured[k], l.zero[k], l.failed[k]]))]));
  }

  get position() { return Math.max(0, Math.min(this.data.panels[0].budgets.length - 1, this.model.get("position"))); }

  show() {
    this.root.querySelectorAll(".fv-norm").forEach((box, n) => {
      const p = this.data.panels[n];
      const y = axisOf(p);
      const within = (v) => Math.max(y[0], Math.min(y[1], v));
      const marks = new Map(decadeTicks(y, 200, 26));
      const last = p.budgets.at(-1);
      const x = [0, last * 1.04];
      const most = Math.max(2, Math.floor(this.chartWidth / 64));
      const step = Math.ceil(p.budgets.length / most);
      const named = p.budgets.map((e, k) => [e, p.names[k]]).filter((_, k, all) => (all.length - 1 - k) % step === 0);
      const names = new Map(named);
      const log = (v) => (v > 0 ? Math.log10(v) : NaN);
      const bands = (sx, sy) => p.lines.map((l) => {
        const kept = p.budgets.map((e, k) => [e, log(l.q25[k]), log(l.q75[k])]).filter((b) => Number.isFinite(b[1]) && Number.isFinite(b[2]));
        const way = [...kept.map((b) => [b[0], b[2]]), ...kept.reverse().map((b) => [b[0], b[1]])].map(([a, b]) => `${sx(a).toFixed(1)},${sy(within(b)).toFixed(1)}`);
        return way.length ? `<path fill="${l.color}" fill-opacity="0.1" stroke="none" d="M${way.join("L")}Z"/>` : "";
      }).join("");
      box.querySelector(".fv-chart").innerHTML = lineChart({ width: this.chartWidth, height: 240, x, y, xTicks: named.map((e) => e[0]), xText: (e) => names.get(e), yTicks: [...marks.keys()], yText: (v) => marks.get(v), xLabel: "ε · log axis upward",
        label: `budget in ${p.norm}; ${p.lines.map((l) => `${l.name} from ${number(l.median[0])} to ${number(l.median.at(-1))}`).join("; ")}`,
        lines: p.lines.map((l) => ({ points: p.budgets.map((e, k) => [e, log(l.median[k])]), color: l.color, width: 2 })), over: bands });
    });
    this.move();
  }

  move() {
    if (!this.width) return;
    const k = this.position;
    this.keep({ position: k });
    this.range.value = k;
    const said = [...new Set(this.data.panels.map((p) => p.names[k]))].join(" and ");
    this.$("output").textContent = `ε = ${said}`;
    this.range.setAttribute("aria-valuetext", said);
    this.root.querySelectorAll(".fv-norm").forEach((box, n) => {
      const p = this.data.panels[n];
      const x = scale([0, p.budgets.at(-1) * 1.04], [MARGIN.left, this.chartWidth - MARGIN.right])(p.budgets[k]);
      ["x1", "x2"].forEach((end) => box.querySelector(".cursor").setAttribute(end, x));
      box.querySelector(".fv-now").innerHTML = `<table><thead><tr><th>at ε = ${escape(p.names[k])}</th><th>median</th><th>quartiles</th><th>median KL</th></tr></thead><tbody>${p.lines.map((l) =>
        `<tr><td><span style="color:${l.color}">■</span> ${escape(l.name)}</td><td>${number(l.median[k])}</td><td>${number(l.q25[k], 2)} – ${number(l.q75[k], 2)}</td><td>${number(l.kl[k])}</td></tr>`).join("")}</tbody></table>` +
        p.lines.filter((l) => l.zero[k] + l.failed[k]).map((l) => `<p class="fv-quiet">${escape(l.name)}: left out ${l.zero[k]} images whose KL is 0 and ${l.failed[k]} without a number.</p>`).join("");
    });
  }

  resize() {
    const { width, columns } = this;
    this.root.dataset.columns = columns;
    const beside = width >= 760 && this.data.panels.length > 1;
    this.root.dataset.beside = beside;
    this.chartWidth = Math.floor(beside ? (width - 32) / 2 : Math.min(width, 720));
    this.show();
  }
}

const render = mounted(LocalAccuracy, { "change:position": "move" });

export default { render };
