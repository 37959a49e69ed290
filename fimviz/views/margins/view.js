// The margin view: how far is it to another class, and which classes are met on the way?
// State shared with Python or the stand-in host: trace (its id), position (length along it), live (whether Python answers).
import { escape } from "../kit/chart.js";
import { number, probability, rounded } from "../kit/numbers.js";
import { MARGIN, scale } from "../kit/axes.js";
import { classColor } from "../kit/palette.js";
import { inTriangle, pathAt } from "./paths.js";
import { gainControl, legend } from "../kit/contrast.js";
import { limitsOf, mounted, photographic, View } from "../kit/stage.js";
import { withMatrix } from "./pathmatrix.js";
import { withImages } from "./pathimages.js";
import { withCharts } from "./pathcharts.js";
import { madeWith, withSettings } from "./marginsettings.js";

// What can set a step's length, in a list and in a step's own sentence.
const PACE = {
  step: ["the step option η", "as long as the step option η allows"],
  "trust region": ["the trust region r", "as long as the trust region r allows"],
  box: ["the edge of the pixel box", "as long as the pixel box allows"],
  "line search": ["the line search", "shortened by the line search"],
  boundary: ["the class boundary", "shortened to end where the class changes"],
};
/** In words what set the pace; one that is not known here is said as it comes. */
const paced = (name) => PACE[name] ?? [name, `its length set by: ${name}`];
// How a path that met no class ended: what it did, why, and what to try.
const STOPPED = {
  stalled: ["stalls", "Twenty steps in a row did not narrow the gap"],
  budget: ["runs out of steps", "It made all the steps that max_steps allows", "trace with more of them, or with a longer step η and trust region r."],
  failed: ["ends without a slope", "The gradient is not finite where it stands", "choose another trust region, or method=\"pgd\"."],
  interrupted: ["was interrupted", "What is shown is as far as it came", "trace again to see its end."],
};

function layout(large) {
  const image = (part, name) => `<figure class="fv-${part}"><figcaption>${name}</figcaption><div class="fv-plate"></div><div class="fv-under"></div>${part === "direction" ? `<div class="fv-contrast"></div>` : ""}</figure>`;
  return `
    <div class="fv-head"><h3 class="fv-title"></h3>
      <details class="fv-help"><summary aria-label="What is this?">?</summary><p>A <b>path</b> moves an image until the model’s answer
      changes, each step toward a chosen class k and away from the answer y. Its <b>Fisher–Rao length</b> adds up how far the
      prediction travels on the way, 2 arccos Σ√(pq) between neighbours. The dashed
      <b>floor</b>, 2 arcsin((√p_y − √p_k)/√2), is the least length by which any path can get there; it is at most π/2 ≈ 1.57. A class that is met before the one aimed
      at <b>shields</b> it. The model was asked at the end of every step; between these, what is drawn runs along the shortest way.</p></details></div>
    <p class="fv-sub"></p><p class="fv-ended" hidden></p><p class="fv-quiet fv-left" hidden></p>
    <div class="fv-margin">
      <div class="fv-choose">
        <h4>From class (row), which class is met first (column)?</h4>
        <div class="fv-matrix"></div><p class="fv-quiet fv-legend"></p>
        <h4 class="fv-listed"></h4>
        <div class="fv-gallery" role="listbox" aria-orientation="horizontal"></div>
      </div>
      <div class="fv-trace">
        <div class="fv-film" role="group" aria-label="Images along the path"></div>
        <div class="fv-slider"><button type="button" class="fv-play" aria-pressed="false">▶ play</button>
          <button type="button" class="fv-back" aria-label="One step back">◁</button><button type="button" class="fv-on" aria-label="One step on">▷</button>
          <label>path <input type="range" aria-label="Fisher–Rao length along the path" min="0"></label><output></output></div>
        <p class="fv-step"></p>
        <div class="fv-path">
          <div class="fv-hand ${large ? "fv-large" : ""}"><div class="fv-images">${image("original", "start")}${image("moved", "here")}${image("direction", "difference")}</div><div class="fv-look"></div>
            <div class="fv-three"></div></div>
          <div class="fv-charts"><div class="fv-prob"></div><div class="fv-small"></div></div>
        </div>
        <h4 class="fv-others"></h4>
        <div class="fv-targets" role="group"></div>
      </div>
      <div class="fv-foot"><div class="fv-settings"></div><div class="fv-curve"></div></div>
    </div>
    <div class="fv-tables"></div>`;
}

class Margins extends withSettings(withCharts(withImages(withMatrix(View)))) {
  constructor(model, root, packed) {
    super(model, root, packed);
    this.asked = 0;
    this.busy = null;
    this.playing = 0;
    const { data, part } = packed;
    this.traces = data.traces.map((t) => ({ ...t, part }));
    this.samples = new Map(data.samples.map((s) => [s.index, { ...s, bytes: null, part }]));
    root.innerHTML = layout(photographic(data));
    this.contrast = gainControl(this.$(".fv-contrast"), () => this.show());
    this.$(".fv-contrast").hidden = data.kind === "series";
    if (data.kind === "image") this.looking();
    Object.assign(this.$(".fv-left"), { textContent: limitsOf(data), hidden: !limitsOf(data) });
    this.range = this.$("input[type=range]");
    this.range.addEventListener("input", () => {
      this.pause();
      this.set("position", Number(this.range.value));
    });
    this.$(".fv-play").addEventListener("click", () => (this.playing ? this.pause() : this.play()));
    this.$(".fv-back").addEventListener("click", () => this.toPoint(-1));
    this.$(".fv-on").addEventListener("click", () => this.toPoint(1));
    this.cell = null;
    this.matrixKeys();
    this.galleryKeys();
    this.draggable(this.$(".fv-charts"));
    this.settings();
  }

  get trace() { return this.traces.find((t) => t.id === this.model.get("trace")) ?? this.traces[0]; }
  get sample() { return this.samples.get(this.trace.sample); }
  get position() { return Math.max(0, Math.min(this.trace.length, this.model.get("position"))); }
  get siblings() { return this.traces.filter((t) => t.sample === this.trace.sample); }
  get common() { return 1.04 * Math.max(1e-9, ...this.siblings.flatMap((t) => [t.length, t.bound])); }
  /** Where the charts' axis ends: the same for all traces of a sample, except for one that would be lost on it. */
  get reach() { return this.trace.length > 0 && this.trace.length < 0.02 * this.common ? 1.04 * this.trace.length : this.common; }
  name(c) { return c < 0 ? "others" : this.data.classes[c]; }
  sure(sample) { return probability(1 - sample.doubt, sample.doubt); }
  shields(t) { return t.hit >= 0 && t.hit !== t.target; }

  /** Open a trace at its end; the scrubber starts again. */
  open(trace) {
    this.pause();
    this.model.set("trace", trace.id);
    this.model.set("position", trace.length);
    for (const [name, value] of Object.entries(madeWith(trace))) this.model.set(name, value);
    this.model.save_changes();
    this.show();
  }

  /** Colours of a trace's classes. */
  colorsOf(trace) {
    return trace.shown.map((c) => classColor(c, this.data.order));
  }

  // ---- the path matrix and its traces ----

  /** What sets a trace that the reader asked for apart from those that came with the page. */
  own(t) {
    return t.asked ? ` (η ${number(t.settings.step, 2)}, τ ${number(t.settings.damping, 2)}, r ${number(t.settings.trust_region, 2)})` : "";
  }

  // ---- pictures ----

  // ---- what depends on the chosen trace ----

  show() {
    if (!this.width) return;
    if (this.busy && !this.traces.some((t) => t.id === this.model.get("trace"))) return; // it is on its way
    this.keep({ trace: this.trace.id, position: this.position });
    const { trace, sample } = this;
    this.cell = [trace.source, trace.hit];
    this.words();
    this.matrix();
    this.gallery();
    Object.assign(this.range, { max: trace.length, step: trace.length / 400 || 1 });
    this.range.disabled = this.$(".fv-play").disabled = !trace.pace.length;
    this.colors = this.colorsOf(trace);
    this.picture(this.$(".fv-original .fv-plate"), sample, null, this.target, `start, sample ${sample.index}`);
    this.$(".fv-original .fv-under").innerHTML = `<strong>${escape(this.name(sample.prediction))}</strong><br>p = ${this.sure(sample)}`;
    this.$(".fv-direction .fv-under").innerHTML = trace.scale > 0
      ? legend(trace, this.contrast.gain, this.data) : "the image has not moved";
    this.film();
    if (this.opened !== trace) this.lens?.forget();
    this.opened = trace;
    this.charts();
    this.others();
    this.shielding();
    this.controls();
    this.tables();
    this.move();
  }

  words() {
    const { trace: t, sample } = this;
    const [source, target, hit] = [t.source, t.target, t.hit].map((c) => this.name(c));
    const length = rounded(t.length, t.error ?? 0);
    const [over, blur] = [100 * (t.length / t.bound - 1), (100 * (t.error ?? 0)) / t.bound];
    const more = !(t.bound > 0) ? "" : over < Math.max(0.05, blur) ? ", as far as the closed-form floor within its error" : over < 100 ? `, ${rounded(Number(over.toPrecision(2)), blur)} % more than the closed-form floor` : `, ${number(t.length / t.bound, 2)} times the closed-form floor`;
    this.$(".fv-title").textContent = t.hit < 0 ? `The path from ${source} to ${target} ${STOPPED[t.status][0]} after ${length}`
      : this.shields(t) ? `On the way from ${source} to ${target} the path meets ${hit} first, after ${length}: ${hit} shields ${target}`
        : `${source} turns into ${target} after ${length}${more}`;
    const truth = sample.label === null ? "" : sample.label === sample.prediction ? ", which is right" : `; the label says ${this.name(sample.label)}`;
    const error = t.error === null ? "" : ` ± ${number(t.error, 2)}${t.verified ? "" : " (the step’s own part not measured)"}`;
    const pace = [...new Set(t.pace)].map((p) => `${paced(p)[0]} ${t.pace.filter((q) => q === p).length}`);
    const floor = `${number(t.bound)} is the floor to ${t.hit < 0 ? target : hit}`;
    const ended = this.$(".fv-ended");
    ended.hidden = t.hit >= 0;
    ended.textContent = t.hit < 0 ? this.ended(t) : "";
    this.$(".fv-sub").textContent = `Sample ${sample.index}: the model says ${this.name(sample.prediction)} with probability ${this.sure(sample)}${truth}. ` +
      `Fisher–Rao length ${number(t.length)}${error}; its ends are ${number(t.distance)} apart; ${floor}. In pixels, L2 ${number(t.l2)}. ` +
      (t.pace.length ? `${t.pace.length} ${t.pace.length === 1 ? "step, its" : "steps, their"} length set by: ${pace.join(", ")}${this.smoothed(t)}.` : "No step was made.") +
      (sample.traced > this.siblings.filter((s) => !s.asked).length ? ` The page holds the nearest ${this.siblings.filter((s) => !s.asked).length} of ${sample.traced} targets.` : "") + (t.asked ? ` Traced again with${this.own(t)}.` : "") +
      (t.retried ? ` The settings asked for led nowhere: this path was made with ${t.settings.method === "pgd" ? "method “pgd”" : `damping τ = ${number(t.settings.damping)}`} instead.` : "");
  }

  /** Why a path met no class, by what its last steps ran into, and what to try. */
  ended(t) {
    const [, why, then] = STOPPED[t.status];
    const lost = t.status !== "stalled" || !t.pace.length ? "" : t.norm.every((v) => !(v > 0)) ? ", as the slope is 0 everywhere on it"
      : t.pace.at(-1) === "box" ? ": the pixels that would have to move are at their bounds already" : t.pace.at(-1) === "line search" ? ": the slope there says little about where even a short step leads" : "";
    if (t.tried && !then) return `${why}${lost}. Damping 1 and method “pgd” did not get further either: try a larger trust region r, or another class.`;
    const { method, damping } = t.settings;
    const next = then ?? (method === "natural" && damping < 1 ? "try damping τ of 1 or more, which goes along the plain gradient, or method=\"pgd\", which needs only its signs."
      : method === "pgd" ? "try a larger trust region r, or another class." : "try method=\"pgd\", which needs only the gradient’s signs.");
    return `${why}${lost}. To get further, ${next}`;
  }

  /** How many steps follow a slope that is not the network's own at the point. */
  smoothed(t) {
    const count = t.smoothed.filter(Boolean).length;
    return count ? `; ${count === t.pace.length ? "all" : count} along a slope smoothed over noisy copies of the image, as its own led nowhere` : "";
  }

  // ---- settings and the curve of shielding ----

  // ---- what follows the scrubber: nothing here asks Python ----

  move() {
    if (!this.width) return;
    this.keep({ trace: this.trace.id, position: this.position });
    const { trace: t, sample, position } = this;
    const { step, share, p } = pathAt(t, position);
    const values = this.difference(t, step, share);
    this.picture(this.$(".fv-moved .fv-plate"), sample, { values, scale: t.scale }, this.target, "the image here on the path");
    this.signed(this.$(".fv-direction .fv-plate"), values, t, this.target);
    this.here = values;
    this.lens?.show();
    // at the end the class met leads by rounding only, and what is drawn has rounded it away
    const best = position >= t.length && t.hit >= 0 ? t.shown.indexOf(t.hit) : t.shown.reduce((top, c, j) => (c >= 0 && p[j] > p[top] ? j : top), t.shown.indexOf(t.source));
    const now = t.shown[best];
    const words = `now: ${this.name(now)} (p = ${probability(p[best])})`;
    const under = this.$(".fv-moved .fv-under");
    const doubt = p.reduce((sum, v, j) => (j === best ? sum : sum + v), 0);
    under.innerHTML = `<strong>now: ${escape(this.name(now))}</strong><br>p = ${probability(p[best], doubt)}`;
    under.classList.toggle("fv-flipped", now !== t.source);
    this.range.value = position;
    this.range.setAttribute("aria-valuetext", `length ${number(position)} of ${number(t.length)}, ${words}`);
    this.$(".fv-slider output").textContent = `${number(position)} of ${number(t.length)}`;
    const lerp = (list) => (list[step] ?? NaN) + share * ((list[step + 1] ?? NaN) - (list[step] ?? NaN));
    const norm = t.norm[step];
    this.$(".fv-step").textContent = t.pace.length ? `Step ${step + 1} of ${t.pace.length}: natural length ${number(t.natural[step])}, L2 ${number(t.step[step])}, ${paced(t.pace[step])[1]}${t.smoothed[step] ? ", along a smoothed slope" : ""} · ` +
      `logit gap to ${this.name(t.target)}: ${number(lerp(t.gap), 2)}${norm === null ? "" : ` · λ_max at its start: ${number(norm)}`}${t.blended ? " · images on the way were not kept: between its ends, the picture is a straight blend of these" : ""}` : "";
    const x = scale([0, this.reach], [MARGIN.left, this.chartWidth - MARGIN.right])(position);
    const y = scale([0, this.reach], [MARGIN.left, this.smallWidth - MARGIN.right])(position);
    this.root.querySelectorAll(".fv-prob .cursor").forEach((line) => ["x1", "x2"].forEach((a) => line.setAttribute(a, x)));
    this.root.querySelectorAll(".fv-small .cursor").forEach((line) => ["x1", "x2"].forEach((a) => line.setAttribute(a, y)));
    const dot = this.$(".fv-here");
    if (dot && this.corners) {
      const [cx, cy] = inTriangle(this.project(p), this.corners);
      dot.setAttribute("cx", cx);
      dot.setAttribute("cy", cy);
    }
    const frames = [...this.$(".fv-film").children];
    const near = frames.reduce((a, b) => (Math.abs(b.dataset.point - step - share) < Math.abs(a.dataset.point - step - share) ? b : a), frames[0]);
    frames.forEach((f) => f.setAttribute("aria-pressed", f === near));
  }

  toPoint(direction) {
    this.pause();
    const { fr } = this.trace;
    const eps = 1e-9 * (1 + this.trace.length);
    const to = direction > 0 ? fr.find((s) => s > this.position + eps) : [...fr].reverse().find((s) => s < this.position - eps);
    if (to !== undefined) this.set("position", to);
  }

  /** Run along the path in four seconds; for readers who want less motion, from point to point. */
  play() {
    const { trace } = this;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const from = this.position >= trace.length * 0.999 ? 0 : this.position;
    this.set("position", from);
    let began = null;
    const step = (time) => {
      if (!this.playing || this.trace !== trace || !this.root.isConnected) return this.pause();
      began ??= time;
      const at = from + ((time - began) / 4000) * trace.length;
      const shown = calm ? Math.max(0, ...trace.fr.filter((s) => s <= at)) : Math.min(trace.length, at);
      this.model.set("position", shown);
      if (at >= trace.length) return this.pause();
      this.playing = requestAnimationFrame(step);
    };
    this.playing = requestAnimationFrame(step);
    this.button();
  }

  pause() {
    if (!this.playing) return;
    cancelAnimationFrame(this.playing);
    this.playing = 0;
    this.model.save_changes();
    this.button();
  }

  button() {
    this.$(".fv-play").textContent = this.playing ? "❚❚ pause" : "▶ play";
    this.$(".fv-play").setAttribute("aria-pressed", Boolean(this.playing));
  }

  /** Dragging on a chart is the scrubber. */
  draggable(box) {
    const to = (event, svg) => {
      const width = Number(svg.getAttribute("width"));
      const s = scale([MARGIN.left, width - MARGIN.right], [0, this.reach])(event.clientX - svg.getBoundingClientRect().left);
      this.pause();
      this.set("position", Math.max(0, Math.min(this.trace.length, s)));
    };
    box.addEventListener("pointerdown", (event) => {
      this.held = event.target.closest("svg");
      if (!this.held) return;
      box.setPointerCapture(event.pointerId);
      to(event, this.held);
    });
    box.addEventListener("pointermove", (event) => this.held?.isConnected && box.hasPointerCapture(event.pointerId) && to(event, this.held));
  }

  resize() {
    const { width, columns } = this;
    this.root.dataset.columns = columns;
    const wide = 26 * this.data.matrix.columns.length;
    const matrix = Math.max(300, Math.min(420, 100 + wide));
    this.root.style.setProperty("--fv-matrix", `${matrix}px`);
    this.root.style.setProperty("--fv-names", `${Math.max(84, matrix - wide - 16)}px`);
    this.root.style.setProperty("--fv-thumb", this.data.classes.some((name) => name.length > 5) ? "88px" : "52px");
    this.right = columns === 3 ? width - matrix - 32 : width;
    const beside = this.right >= (this.data.classes.length < 3 ? 1200 : 860); // without a triangle there is little to stand there
    this.root.dataset.beside = beside;
    const large = photographic(this.data);
    const hand = !beside ? this.right : large ? Math.min(592, 0.57 * this.right) : 376;
    const [across, gap] = [large && beside ? 2 : 3, columns === 1 ? 8 : 16];
    this.root.style.setProperty("--fv-hand", `${hand}px`);
    this.root.style.setProperty("--fv-across", across);
    this.target = Math.floor(Math.min(large ? 288 : 192, (hand - (across - 1) * gap) / across));
    if (large) this.root.style.setProperty("--fv-bar", `${this.target}px`);
    this.triangleWidth = beside ? Math.min(300, large ? this.target : 300) : Math.min(300, columns === 1 ? width : 300);
    this.chartWidth = Math.floor(beside ? this.right - hand - 32 : this.right);
    const two = this.chartWidth >= 520;
    this.root.dataset.small = two ? 2 : 1;
    this.smallWidth = Math.floor(two ? (this.chartWidth - 24) / 2 : this.chartWidth);
    this.curveWidth = Math.floor(columns === 1 ? width : columns === 3 ? matrix : Math.min(560, width - 420 - 16));
    this.show();
  }
}

const render = mounted(Margins, { "change:trace": "show", "change:position": "move", "change:step": "controls", "change:damping": "controls",
  "change:trust_region": "controls", "change:target": "controls", "msg:custom": "heard" });

export default { render };
