// The overview of the explorer: a strip of dots on a log axis, with a brush, and a cloud against a second number.
import { escape, fitting, widthOf } from "../kit/chart.js";
import { number, powerOfTen } from "../kit/numbers.js";
import { OTHERS, SURE } from "../kit/palette.js";
import { axisMarks, cloud, dotRadius, dots, fromAxis, normAxis, quantileMarks, second, swarm } from "./strip.js";

const AGAINST = { confidence: ["confidence", "nines", "doubt"], margin: ["logit margin", "linear", "margin"], radius: ["certified L2 radius", "log", "radius"], attack: ["smallest successful attack, L2", "log", "attack"], ratio: ["attack ÷ certified radius", "log", "ratio"] };
const SURENESS = [0.5, 0.9, 0.99, 0.999];
const UNDER = 26; // room under the dots for the axis
const OVER = 18;
const LEGEND = 28;
const MEDIAN = 110; // room for the median's words behind a model's name
const BOLD = 1.1; // how much wider than others bold letters are

/** A correlation in two digits, or in as many as tell it from 1. */
export const rho = (r) => number(r, Math.abs(r) > 0.99 && Math.abs(r) < 1 ? 4 : 2);

/** Which of the five shades a confidence has. */
export const shade = (doubt) => SURENESS.filter((p) => 1 - doubt >= p).length;

export class Overview {
  constructor(box, view, state) {
    this.box = box;
    this.view = view;
    this.state = state;
    this.brush = null;
    this.width = 0;
    const { data } = view;
    const kinds = ["class", ...(data.labels ? ["correct"] : []), "confidence"].filter((k) => k !== "class" || data.exclusive);
    const options = this.options().map(([key, { title }]) => `<option value="${escape(key)}">${escape(title)}</option>`).join("");
    box.innerHTML = `<div class="fv-swarms"><div class="fv-lead"><h4>${data.norms.length > 1 ? "Spectral norm of each sample" : "λ₁ as it is of each sample"}</h4>
        ${data.norms.length > 1 ? `<span class="fv-switch" role="group" aria-label="Which λ₁ leads">${data.norms.map((n) => `<button type="button" data-norm="${n}">${view.words(n === "matched")}</button>`).join("")}</span>` : ""}
        <span class="fv-switch" role="group" aria-label="What colours the dots">${kinds.map((k) => `<button type="button" data-color="${k}">${k}</button>`).join("")}</span></div>
      <div class="fv-swarm"><svg class="fv-lane" role="img"></svg><div class="fv-brushes">
        <button type="button" role="slider" class="fv-low" aria-label="Least λ₁ of the selection"></button><button type="button" role="slider" class="fv-high" aria-label="Largest λ₁ of the selection"></button></div></div>
      <div class="fv-chips"></div></div>
      <div class="fv-versus"><div class="fv-lead"><h4>λ₁ against</h4><select aria-label="What λ₁ is plotted against">${options}</select></div><div class="fv-cloud"></div></div>`;
    this.$ = (selector) => box.querySelector(selector);
    box.querySelectorAll("[data-color]").forEach((b) => b.addEventListener("click", () => state.set("color", b.dataset.color)));
    box.querySelectorAll("[data-norm]").forEach((b) => b.addEventListener("click", () => state.set("norm", b.dataset.norm)));
    this.$("select").addEventListener("change", () => state.set("against", this.$("select").value));
    this.$(".fv-chips").addEventListener("click", (event) => {
      const chip = event.target.closest("[data-show]");
      if (chip) state.set("show", chip.getAttribute("aria-pressed") === "true" ? "all" : chip.dataset.show);
    });
    this.pointer(this.$(".fv-lane"), true);
    this.pointer(this.$(".fv-cloud"), false);
    for (const [name, side] of [["low", 0], ["high", 1]]) this.handle(this.$(`.fv-${name}`), side);
  }

  /** What λ₁ may be plotted against: of each model, and of two the other's λ₁. */
  options() {
    const { models } = this.view.data;
    const several = models.length > 1;
    return models.flatMap((m, at) => [
      ...Object.entries(AGAINST).filter(([key]) => m.table[AGAINST[key][2]]).map(([key, [title, kind, column]]) =>
        [several && at ? `${key}:${m.name}` : key, { title: several ? `${title}, ${m.name}` : title, kind, values: m.table[column], norm: m.table.norm, correct: m.correct, rank: m.ranks[this.view.norm][key], model: m.name }]),
      ...(several && !at ? [[`norm:${models[1].name}`, { title: `λ₁ of ${models[1].name}`, kind: "log", values: models[1].table.norm, norm: m.table.norm, correct: m.correct, rank: m.ranks[this.view.norm][`λ₁ of ${models[1].name}`], model: m.name }]] : []),
    ]);
  }

  get lanes() { return this.view.data.models; }
  color(m, i) {
    const { view } = this;
    const kind = this.state.get("color");
    if (kind === "correct") return m.correct?.[i] === false ? "var(--fv-warn)" : "var(--fv-right)";
    if (kind === "confidence") return SURE[shade(m.table.doubt[i])];
    const c = m.table.group[i];
    return view.legend.includes(c) ? view.color(c) : OTHERS;
  }

  resize(width) {
    this.width = width;
    const wide = width >= 900;
    this.cloudWidth = wide ? Math.min(380, Math.round(width * 0.32)) : width >= 560 ? 240 : width;
    this.stripWidth = width >= 560 ? width - this.cloudWidth - 32 : width;
    this.box.style.setProperty("--fv-cloud", `${this.cloudWidth}px`);
    this.laneHeight = this.lanes.length > 1 ? 84 : 120;
    this.gap = this.lanes.length > 1 ? 44 : 0;
    const all = this.lanes.flatMap((m) => this.view.data.indices.map((i) => m.table.norm[i]));
    const logs = all.map((v) => (v > 0 ? Math.log10(v) : -Infinity));
    this.axis = normAxis(logs, [10, this.stripWidth - 10], logs.includes(-Infinity));
    this.logs = logs;
    this.radius = dotRadius(this.view.data.total, this.stripWidth, this.laneHeight);
    const room = this.laneHeight / 2 - this.radius;
    this.places = this.lanes.map((m, lane) => {
      const xs = m.table.norm.map((v) => (Number.isNaN(v) ? -1e9 : this.axis.at(v > 0 ? Math.log10(v) : -Infinity))); // what is lost lies out of sight
      const ys = swarm(xs, this.radius, room);
      const middle = OVER + this.laneHeight / 2 + lane * (this.laneHeight + this.gap);
      return xs.map((x, i) => [x, middle + ys[i]]);
    });
    this.draw();
  }

  get height() { return OVER + this.lanes.length * this.laneHeight + (this.lanes.length - 1) * this.gap; }

  /** All of it anew: for another width, colour or second number. */
  draw() {
    for (const b of this.box.querySelectorAll("[data-color]")) b.setAttribute("aria-pressed", b.dataset.color === this.state.get("color"));
    for (const b of this.box.querySelectorAll("[data-norm]")) b.setAttribute("aria-pressed", b.dataset.norm === this.view.norm);
    this.legend();
    this.dots();
  }

  /** The dots, faint where the filter or the brush leaves them out. */
  dots(soon = false) {
    if (!this.width) return;
    const { view, height, axis } = this;
    const { data } = view;
    const kept = new Set(view.shown ?? data.indices);
    const selected = this.state.get("selected");
    if (!selected.length || String(selected) !== String(this.brushedPlaces)) this.brush = null; // Python chose, or the reader cleared
    const svg = this.$(".fv-lane");
    svg.setAttribute("width", this.stripWidth);
    svg.setAttribute("height", height + UNDER);
    svg.setAttribute("viewBox", `0 0 ${this.stripWidth} ${height + UNDER}`);
    svg.setAttribute("aria-label", `${view.title} of ${data.total} samples on a log axis; the table below holds the numbers`);
    const lanes = this.lanes.map((m, lane) => {
      const top = OVER + lane * (this.laneHeight + this.gap);
      const points = data.indices.map((i) => ({ x: this.places[lane][i][0], y: this.places[lane][i][1], color: this.color(m, i), wrong: m.correct?.[i] === false, faint: !kept.has(i) }));
      const own = this.lanes.length > 1 ? fitting(m.name, (axis.right - MEDIAN) / BOLD) : "";
      const name = own ? `<text class="direct fv-on" x="10" y="${top - 4}">${escape(own)}</text>` : "";
      const free = own ? 24 + BOLD * widthOf(own) : axis.left;
      return quantileMarks(data.indices.map((i) => m.table.norm[i]), axis, top, top + this.laneHeight, free) + dots(points, this.radius) + name;
    });
    const joins = this.lanes.length > 1 ? `<path class="fv-joins" d="${data.indices.filter((i) => kept.has(i)).map((i) => `M${this.places[0][i].map((v) => v.toFixed(1))}L${this.places[1][i].map((v) => v.toFixed(1))}`).join("")}"/>` : "";
    const brush = `<rect class="fv-brush" y="${OVER - 6}" height="${height - OVER + 6}"/>`;
    svg.innerHTML = `${axisMarks(axis, OVER, height)}${brush}${joins}${lanes.join("")}<g class="fv-mark"></g><text class="fv-hover tick direct"></text>`;
    this.handles();
    if (!soon) this.scatter(kept);
    this.mark();
  }

  /** What waited for the brush to rest. */
  rest() {
    this.scatter(new Set(this.view.shown));
    this.mark();
  }

  scatter(kept) {
    const { data } = this.view;
    const options = new Map(this.options());
    const key = options.has(this.state.get("against")) ? this.state.get("against") : options.keys().next().value;
    this.$("select").value = key;
    if (key !== this.state.get("against")) this.state.set("against", key); // after another batch, one may be gone
    const { title, kind, values, norm, correct, rank, model } = options.get(key);
    const height = this.height + UNDER + LEGEND;
    const box = this.$(".fv-cloud");
    const sy = second(values, kind, [height - 30 - 4, 40]);
    this.cloudPlaces = null;
    if (!sy) {
      box.innerHTML = `<p class="fv-quiet">no sample has a value above 0 here</p>`;
      return;
    }
    const m = data.models.find((q) => q.name === model);
    const left = Math.max(44, 12 + 6.4 * Math.max(...sy.ticks.map(([, text]) => String(text).length)));
    this.cloudAxis = normAxis(this.logs, [left, this.cloudWidth - 8], this.logs.includes(-Infinity));
    this.cloudPlaces = norm.map((v, i) => [this.cloudAxis.at(v > 0 ? Math.log10(v) : -Infinity), Number.isNaN(v + values[i]) ? NaN : sy.at(values[i])]);
    const radius = Math.max(1.6, Math.min(3.5, this.radius * 0.75));
    const points = data.indices.filter((i) => !Number.isNaN(values[i])).map((i) => ({ x: this.cloudPlaces[i][0], y: this.cloudPlaces[i][1], color: this.color(m, i), wrong: correct?.[i] === false, faint: !kept.has(i) }));
    const corner = !rank || rank[0] === null ? [this.cloudWidth < 320 ? "too few for ρ" : "too few for a rank correlation"] : [`ρ = ${rho(rank[0])}`, rank[1] === null ? "too few for an interval" : `95 % ${rho(rank[1])} to ${rho(rank[2])}`];
    const full = kind === "log" ? `${title}, log axis` : title;
    const yLabel = 6 * (full.length + corner[0].length) + 12 < this.cloudWidth ? full : kind === "log" ? "log axis" : ""; // the list above says it too
    box.innerHTML = cloud({ width: this.cloudWidth, height, axis: this.cloudAxis, rows: sy.ticks, points, radius, xLabel: `${this.view.title}${data.models.length > 1 ? ` of ${model}` : ""}, log axis`, yLabel,
      corner, chosen: `<g class="fv-mark"></g>`, label: `${title} against ${this.view.title} of ${data.total} samples, rank correlation ${corner.join(", ")}` });
  }

  /** Mark the chosen sample in strip and cloud. */
  mark() {
    if (!this.width) return;
    const { index } = this.view;
    const ring = ([x, y], r) => `<circle class="fv-ring" cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${r}"/>`;
    const own = this.places.map((p) => p[index]);
    const line = own.length > 1 ? `<path class="fv-joined" d="M${own[0].join(",")}L${own[1].join(",")}"/>` : "";
    this.$(".fv-lane .fv-mark").innerHTML = line + own.map((p) => ring(p, this.radius + 3)).join("");
    const mark = this.$(".fv-cloud .fv-mark");
    if (mark && this.cloudPlaces) mark.innerHTML = Number.isNaN(this.cloudPlaces[index][1]) ? "" : ring(this.cloudPlaces[index], 6);
  }

  legend() {
    const { view } = this;
    const { data } = view;
    const kind = this.state.get("color");
    const swatch = (color) => `<i style="background:${color}"></i>`;
    const wrong = data.labels ? `<span class="fv-chip"><b aria-hidden="true">✕</b> misclassified</span>` : "";
    if (kind === "correct") {
      this.$(".fv-chips").innerHTML = `<span class="fv-chip">${swatch("var(--fv-right)")}right</span>${wrong.replace("<b ", `<b style="color:var(--fv-warn)" `)}`;
    } else if (kind === "confidence") {
      const names = ["below 0.5", "0.5", "0.9", "0.99", "0.999 and above"];
      this.$(".fv-chips").innerHTML = `<span class="fv-chip">confidence</span>${SURE.map((c, i) => `<span class="fv-chip">${swatch(c)}${names[i]}</span>`).join("")}${wrong}`;
    } else {
      const others = data.indices.map((i) => view.table.group[i]).some((c) => !view.legend.includes(c)) ? `<span class="fv-chip">${swatch("var(--fv-faint)")}others</span>` : "";
      this.$(".fv-chips").innerHTML = view.legend.map((c) => `<button type="button" class="fv-chip" data-show="class:${c}" aria-pressed="${this.state.get("show") === `class:${c}`}" title="show only these">${swatch(view.color(c))}<span>${escape(view.name(c))}</span></button>`).join("") + others + wrong;
    }
  }

  /** Dragging brushes a stretch of the axis, a click opens the nearest sample, hovering says what it is. */
  pointer(box, brushes) {
    let from = null;
    const local = (event) => {
      const edge = box.getBoundingClientRect();
      return [event.clientX - edge.left, event.clientY - edge.top];
    };
    const nearest = (place) => {
      const [x, y] = place;
      const lists = brushes ? this.places : this.cloudPlaces ? [this.cloudPlaces] : [];
      let [best, least] = [-1, 24 ** 2];
      for (const places of lists) places.forEach(([a, b], i) => {
        const far = (a - x) ** 2 + (b - y) ** 2;
        if (far < least) [best, least] = [i, far];
      });
      return best;
    };
    box.addEventListener("pointerdown", (event) => {
      from = local(event);
      if (brushes) box.setPointerCapture(event.pointerId);
    });
    box.addEventListener("pointermove", (event) => {
      const to = local(event);
      if (from && brushes && Math.abs(to[0] - from[0]) > 5) this.brushed([from[0], to[0]]);
      else if (!from) this.hover(box, nearest(to));
    });
    box.addEventListener("pointerup", (event) => {
      const to = local(event);
      const clicked = from && Math.hypot(to[0] - from[0], to[1] - from[1]) <= 5;
      from = null;
      const found = clicked ? nearest(to) : -1;
      if (found >= 0) this.view.choose(found);
    });
    box.addEventListener("pointercancel", () => (from = null));
    box.addEventListener("pointerleave", () => this.hover(box, -1));
  }

  hover(box, i) {
    const { view } = this;
    box.style.cursor = i >= 0 ? "pointer" : "crosshair";
    const text = this.$(".fv-hover");
    if (!text) return;
    if (i < 0) {
      text.textContent = "";
      return;
    }
    const said = `sample ${i}, ${view.called(i)}: ${view.said(i)}`;
    const [px] = this.places[0][i];
    const half = 3.1 * said.length;
    text.textContent = said;
    text.setAttribute("text-anchor", "middle");
    text.setAttribute("x", Math.max(half, Math.min(this.stripWidth - half, px)));
    text.setAttribute("y", Math.max(12, Math.min(...this.places.map((p) => p[i][1])) - this.radius - 6));
  }

  /** Select the samples of a stretch of the strip, in pixels; of two models those that lie in it for either. */
  brushed(ends) {
    const [low, high] = ends.map((x) => Math.max(this.axis.left, Math.min(this.axis.right, x))).sort((a, b) => a - b);
    this.brush = [low, high];
    this.within = this.view.data.indices.filter((i) => this.places.some((p) => p[i][0] >= low - 0.5 && p[i][0] <= high + 0.5));
    this.asked ??= requestAnimationFrame(() => {
      this.asked = null;
      this.handles();
      if (!this.within.length || String(this.within) === String(this.state.get("selected"))) return; // where nothing is, the selection stays
      this.brushedPlaces = this.within;
      this.state.set("selected", this.within);
    });
  }

  /** The brush and its two handles, which stand at the ends of the axis where there is none. */
  handles() {
    const [low, high] = this.brush ?? [this.axis.left, this.axis.right];
    const rect = this.$(".fv-brush");
    rect.setAttribute("x", low);
    rect.setAttribute("width", high - low);
    rect.toggleAttribute("hidden", !this.brush);
    const words = (x) => {
      const log = fromAxis(this.axis, x);
      return log === -Infinity ? "0" : powerOfTen(log, 2);
    };
    for (const [name, x] of [["low", low], ["high", high]]) {
      const handle = this.$(`.fv-${name}`);
      handle.style.left = `${x}px`;
      handle.style.top = `${this.height - 8}px`; // clear of the axis' numbers
      Object.entries({ valuemin: Math.round(this.axis.left), valuemax: Math.round(this.axis.right), valuenow: Math.round(x), valuetext: `λ₁ = ${words(x)}` }).forEach(([key, v]) => handle.setAttribute(`aria-${key}`, v));
    }
  }

  /** A handle of the brush follows keys and the pointer. */
  handle(button, side) {
    const to = (x) => {
      const ends = [...(this.brush ?? [this.axis.left, this.axis.right])];
      ends[side] = side ? Math.max(ends[0] + 4, x) : Math.min(ends[1] - 4, x);
      if (ends[0] <= this.axis.left && ends[1] >= this.axis.right) this.state.set("selected", []);
      else this.brushed(ends);
    };
    button.addEventListener("keydown", (event) => {
      const now = (this.brush ?? [this.axis.left, this.axis.right])[side];
      const step = (this.axis.right - this.axis.left) / 50;
      const next = { ArrowLeft: now - step, ArrowDown: now - step, ArrowRight: now + step, ArrowUp: now + step, PageDown: now - 5 * step, PageUp: now + 5 * step, Home: this.axis.left, End: this.axis.right }[event.key];
      if (event.key === "Escape") this.state.set("selected", []);
      if (next === undefined) return;
      event.preventDefault();
      to(Math.max(this.axis.left, Math.min(this.axis.right, next)));
    });
    button.addEventListener("pointerdown", (event) => {
      button.setPointerCapture(event.pointerId);
    });
    button.addEventListener("pointermove", (event) => button.hasPointerCapture(event.pointerId) && to(event.clientX - this.$(".fv-swarm").getBoundingClientRect().left));
  }
}
