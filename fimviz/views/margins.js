// The margin view: how far is it to another class, and which classes are met on the way?
// State shared with Python or the stand-in host: trace (its id), position (length along it), live (whether Python answers).
import { blend, diverging, paint, signedMap, unpack } from "./pixels.js";
import { classColors, decadeTicks, escape, lineChart, MARGIN, number, probability, scale, series, sharedColors, ticks } from "./chart.js";
import { finePath, floorPath, frameAt, inTriangle, pathAt, stacked, stackOrder, stepBars, tick, triangle } from "./paths.js";
import { canvasIn, fillTables, mounted } from "./stage.js";

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
const STOPPED = {
  stalled: ["stalls", ": twenty steps in a row gained nothing"],
  budget: ["runs out of steps", ""],
  interrupted: ["was interrupted", ""],
};
// Where the settings' sliders reach, as powers of ten, and what they are.
const SETTINGS = {
  step: { name: "step η", low: -2, high: 0, says: "Fisher–Rao length of a step" },
  damping: { name: "damping τ", low: -4, high: 1.5, says: "little follows the simplex, much the plain gradient" },
  trust_region: { name: "trust region r", low: -3, high: 1, says: "longest step in L2, pixel units" },
};

function layout() {
  const image = (part, name) => `<figure class="fv-${part}"><figcaption>${name}</figcaption><div class="fv-plate"></div><div class="fv-under"></div></figure>`;
  return `
    <div class="fv-head"><h3 class="fv-title"></h3>
      <details class="fv-help"><summary aria-label="What is this?">?</summary><p>A <b>path</b> moves an image until the model’s answer
      changes, each step toward a chosen class k and away from the answer y. Its <b>Fisher–Rao length</b> adds up how far the
      prediction travels on the way, 2 arccos Σ√(pq) between neighbours. The dashed
      <b>floor</b>, 2 arcsin((√p_y − √p_k)/√2), is the least length by which any path can get there; it is at most π/2 ≈ 1.57. A class that is met before the one aimed
      at <b>shields</b> it. The model was asked at the end of every step; between these, what is drawn runs along the shortest way.</p></details></div>
    <p class="fv-sub"></p>
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
          <div class="fv-hand"><div class="fv-images">${image("original", "start")}${image("moved", "here")}${image("direction", "difference")}</div>
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

class Margins {
  constructor(model, root, { data, part }) {
    Object.assign(this, { model, root, data, width: 0, asked: 0, busy: null, wanted: {}, playing: 0 });
    this.traces = data.traces.map((t) => ({ ...t, part }));
    this.samples = new Map(data.samples.map((s) => [s.index, { ...s, bytes: null, part }]));
    root.innerHTML = layout();
    this.$ = (selector) => root.querySelector(selector);
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

  set(name, value, save = true) {
    this.model.set(name, value);
    if (save) this.model.save_changes();
  }

  /** Open a trace at its end; the scrubber starts again. */
  open(trace) {
    this.pause();
    this.model.set("position", trace.length);
    this.model.set("trace", trace.id);
    this.model.save_changes();
    this.show();
  }

  /** Colours of a trace's classes: every class has one and the same on all traces of a sample. */
  colorsOf(trace) {
    this.palettes ??= new Map();
    const own = sharedColors(this.traces.filter((t) => t.sample === trace.sample).map((t) => t.shown), this.palettes.get(trace.sample));
    this.palettes.set(trace.sample, own);
    return trace.shown.map((c) => own.get(c));
  }

  // ---- the path matrix and its traces ----

  matrix() {
    const { rows, columns, counts, shielded } = this.data.matrix;
    const most = Math.max(1, ...counts.flat());
    const chosen = this.cell;
    const head = columns.map((c) => `<th scope="col" title="${escape(c < 0 ? "class unchanged" : this.name(c))}"><span>${escape(c < 0 ? "none" : this.name(c))}</span></th>`);
    const body = rows.map((r, i) => `<tr><th scope="row" title="${escape(this.name(r))}"><span>${escape(this.name(r))}</span></th>` + columns.map((c, j) => {
      const n = counts[i][j];
      if (!n) return `<td class="${r === c ? "fv-self" : ""}"></td>`;
      const here = this.inCell(r, c).length;
      const on = chosen && chosen[0] === r && chosen[1] === c;
      const said = `${n} ${n === 1 ? "path" : "paths"} from ${this.name(r)} ${c < 0 ? "met no other class" : `met ${this.name(c)} first`}` +
        (c < 0 ? "" : `, ${shielded[i][j]} of which aimed elsewhere`) + (here ? "" : "; none of these is in this page");
      return `<td><button type="button" data-cell="${r},${c}" ${here ? "" : "disabled"} aria-pressed="${Boolean(on)}" tabindex="-1" aria-label="${escape(said)}" title="${escape(said)}" ` +
        `style="--share:${(n / most).toFixed(3)};--other:${(shielded[i][j] / n).toFixed(3)}">${n}</button></td>`;
    }).join("") + "</tr>");
    const box = this.$(".fv-matrix");
    const focused = box.contains(document.activeElement);
    const upright = columns.every((c) => this.name(c).length < 3) && columns.at(-1) >= 0;
    box.innerHTML = `<table class="${upright ? "fv-upright" : ""}"><thead><tr><td></td>${head.join("")}</tr></thead><tbody>${body.join("")}</tbody></table>`;
    // a path of the reader's own may be in a cell that no other is in: the matrix has to be reached all the same
    const door = box.querySelector("[aria-pressed=true]") ?? box.querySelector("button:not(:disabled)");
    if (door) door.tabIndex = 0;
    if (focused) door?.focus();
    const other = shielded.flat().reduce((a, b) => a + b, 0);
    const all = counts.flat().reduce((a, b) => a + b, 0);
    const none = counts.reduce((sum, row) => sum + (columns.at(-1) < 0 ? row.at(-1) : 0), 0);
    this.$(".fv-legend").innerHTML = `${all} ${all === 1 ? "path" : "paths"}${none ? `, ${none} of which met no other class` : ""}. ` +
      (other ? `The <span class="fv-hint">bar</span> in a cell: its share that aimed at another class, which this one shields; ${other} in all.` : none === all ? "" : "Every path that met a class had aimed at it: none is shielded.") + this.counted();
  }

  /** How the matrix and the share of shielded paths, which counts the rightly classified alone, go together. */
  counted() {
    const { paths, shielded, left, leftShielded } = this.data.counted;
    if (!left) return "";
    return ` <br>Of these, ${left} (${leftShielded} shielded) start from samples that the model gets wrong (✗). They are in the matrix, but not in the share of shielded paths below: ` +
      (paths ? `${shielded} of ${paths}.` : "no other has changed the class.");
  }

  inCell(source, hit) { return this.traces.filter((t) => t.source === source && t.hit === hit); }

  matrixKeys() {
    const box = this.$(".fv-matrix");
    const choose = (button) => {
      const [source, hit] = button.dataset.cell.split(",").map(Number);
      const first = this.inCell(source, hit)[0];
      if (first) this.open(first);
    };
    box.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) choose(button);
    });
    box.addEventListener("keydown", (event) => {
      const button = event.target.closest("button");
      const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key] ?? [0, 0];
      if (!button || !(dx || dy)) return;
      event.preventDefault();
      const { rows, columns } = this.data.matrix;
      let [r, c] = button.dataset.cell.split(",").map(Number);
      let [i, j] = [rows.indexOf(r) + dy, columns.indexOf(c) + dx];
      for (; i >= 0 && i < rows.length && j >= 0 && j < columns.length; i += dy, j += dx) {
        const next = box.querySelector(`[data-cell="${rows[i]},${columns[j]}"]:not(:disabled)`);
        if (next) return choose(next);
      }
      // no other in this line: the nearest in the next ones
      const lines = dx ? [] : rows.slice(0);
      const at = rows.indexOf(r);
      for (let k = at + dy; dy && k >= 0 && k < lines.length; k += dy) {
        const near = [...box.querySelectorAll(`[data-cell^="${rows[k]},"]:not(:disabled)`)]
          .sort((a, b) => Math.abs(columns.indexOf(Number(a.dataset.cell.split(",")[1])) - columns.indexOf(c)) - Math.abs(columns.indexOf(Number(b.dataset.cell.split(",")[1])) - columns.indexOf(c)))[0];
        if (near) return choose(near);
      }
    });
  }

  gallery() {
    const box = this.$(".fv-gallery");
    const own = this.inCell(...this.cell);
    const [from, to] = [this.name(this.cell[0]), this.cell[1] < 0 ? "no other class" : this.name(this.cell[1])];
    this.$(".fv-listed").textContent = `${own.length} ${own.length === 1 ? "path" : "paths"} from ${from} that ${own.length === 1 ? "meets" : "meet"} ${to}${this.cell[1] < 0 ? "" : " first"}`;
    box.setAttribute("aria-label", this.$(".fv-listed").textContent);
    const key = own.map((t) => t.id).join();
    if (box.dataset.key !== key) {
      box.dataset.key = key;
      box.replaceChildren(...own.map((t) => {
        const item = document.createElement("div");
        const sample = this.samples.get(t.sample);
        const wrong = sample.label !== null && sample.label !== sample.prediction;
        item.className = `fv-thumb${wrong ? " fv-wrong" : ""}`;
        item.setAttribute("role", "option");
        item.dataset.id = t.id;
        item.setAttribute("aria-label", `sample ${t.sample}${wrong ? ", wrongly classified" : ""}: aimed at ${this.name(t.target)}, length ${number(t.length)}${this.own(t)}`);
        item.title = item.getAttribute("aria-label");
        item.innerHTML = `<div class="fv-plate"></div><span>→ ${escape(this.name(t.target))}</span>`;
        this.picture(item.firstChild, sample, null, 40);
        item.addEventListener("click", () => this.open(t));
        return item;
      }));
    }
    const focused = box.contains(document.activeElement);
    [...box.children].forEach((item) => {
      const on = Number(item.dataset.id) === this.trace.id;
      item.setAttribute("aria-selected", on);
      item.tabIndex = on ? 0 : -1;
      if (on && focused) item.focus();
    });
  }

  galleryKeys() {
    const box = this.$(".fv-gallery");
    box.addEventListener("keydown", (event) => {
      const own = this.inCell(...this.cell);
      const at = own.findIndex((t) => t.id === this.trace.id);
      const tops = [...box.children].map((c) => c.offsetTop);
      const columns = tops.findIndex((top) => top !== tops[0]);
      const row = columns < 0 ? tops.length : columns;
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + row, ArrowUp: at - row, Home: 0, End: own.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      if (own[to]) this.open(own[to]);
    });
  }

  /** What sets a trace that the reader asked for apart from those that came with the page. */
  own(t) {
    return t.asked ? ` (η ${number(t.settings.step, 2)}, τ ${number(t.settings.damping, 2)}, r ${number(t.settings.trust_region, 2)})` : "";
  }

  // ---- pictures ----

  /** The difference of a trace from its start at a place on the path, in units of its scale ÷ 127, or plain values. */
  difference(trace, step, share) {
    const Kind = this.data.kind === "series" ? Float32Array : Int8Array;
    trace.maps ??= trace.frames.map((f) => new Kind(trace.part(f)));
    const size = (trace.maps[0] ?? this.values(this.samples.get(trace.sample))).length;
    const zero = (this.zero ??= new Float32Array(size));
    if (!trace.maps.length) return zero;
    const [i, t] = frameAt(trace, step, share);
    const [a, b] = [i === 0 ? zero : trace.maps[i - 1], trace.maps[i]];
    return Float32Array.from(a, (v, k) => (v === -128 || b[k] === -128 ? -128 : v + t * (b[k] - v)));
  }

  values(sample) {
    const Kind = this.data.kind === "series" ? Float32Array : Uint8Array;
    return (sample.bytes ??= new Kind(sample.part(sample.image)));
  }

  /** Fill a plate with a sample, moved by a difference where one is given. */
  picture(plate, sample, moved, target, label = "") {
    const { kind, shape, range } = this.data;
    const width = range[1] - range[0];
    const x = this.values(sample);
    if (kind === "series") {
      const now = moved ? x.map((a, i) => a + moved.values[i]) : x;
      const pad = 0.05 * width;
      plate.innerHTML = series({ width: target, height: Math.round(target * 0.6), values: now, range: [Math.min(0, range[0]) - pad, range[1] + pad],
        ghost: moved ? x : null, color: "var(--fv-accent)", label: label || `${x.length} values` });
      return;
    }
    const [h, w, channels] = shape;
    const canvas = canvasIn(plate, w, h, target, label);
    const frame = canvas.getContext("2d").createImageData(w, h);
    blend(frame.data, x, moved ? moved.values : new Int8Array(x.length), moved ? moved.scale / width : 0, channels);
    canvas.getContext("2d").putImageData(frame, 0, 0);
  }

  signed(plate, values, trace, target) {
    const { kind, shape } = this.data;
    const label = `difference from the start, from −${number(trace.scale)} to ${number(trace.scale)}`;
    if (kind === "series") {
      plate.innerHTML = series({ width: target, height: Math.round(target * 0.6), values, range: [-(trace.scale || 1), trace.scale || 1], color: "var(--fv-accent)", label });
      return;
    }
    const [h, w, channels] = shape;
    const canvas = canvasIn(plate, w, h, target, label);
    const frame = canvas.getContext("2d").createImageData(w, h);
    paint(frame.data, signedMap(Int8Array.from(values, Math.round), channels, "strongest"), w, 1);
    canvas.getContext("2d").putImageData(frame, 0, 0);
  }

  film() {
    const { trace, sample } = this;
    const most = Math.max(2, Math.floor((this.right + 4) / 62));
    const count = Math.min(most, trace.kept.length);
    const places = [...new Set(Array.from({ length: count }, (_, i) => Math.round((i * (trace.kept.length - 1)) / Math.max(1, count - 1))))];
    // as few digits as tell the frames apart
    const texts = (digits) => places.map((place) => number(trace.fr[trace.kept[place]], trace.fr[trace.kept[place]] < 1e-3 ? Math.max(1, digits - 1) : digits));
    const labels = texts([2, 3, 4].find((d) => new Set(texts(d)).size === places.length) ?? 4);
    this.$(".fv-film").replaceChildren(...places.map((place, at) => {
      const point = trace.kept[place];
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.point = point;
      const said = `after ${point} of ${trace.pace.length} steps, length ${number(trace.fr[point])}`;
      button.title = said;
      button.setAttribute("aria-label", said);
      button.innerHTML = `<div class="fv-plate"></div><span>${labels[at]}</span>`;
      const values = point ? this.difference(trace, point - 1, 1) : null;
      this.picture(button.firstChild, sample, values && { values, scale: trace.scale }, 48);
      button.addEventListener("click", () => {
        this.pause();
        this.set("position", trace.fr[point]);
      });
      return button;
    }));
  }

  // ---- what depends on the chosen trace ----

  show() {
    if (!this.width) return;
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
    const stops = Array.from({ length: 17 }, (_, i) => `rgb(${diverging(i / 8 - 1).map(Math.round)})`);
    const bar = this.data.kind === "image" ? `<div class="fv-bar" style="background:linear-gradient(90deg,${stops})"></div>` : "";
    this.$(".fv-direction .fv-under").innerHTML = trace.scale > 0
      ? `${bar}<div class="fv-ends"><span>−${number(trace.scale, 2)}</span><span>0</span><span>+${number(trace.scale, 2)}</span></div>` : "the image has not moved";
    this.film();
    this.charts();
    this.others();
    this.shielding();
    this.controls();
    this.tables();
    this.move();
  }

  words() {
    const { trace: t, sample, data } = this;
    const [source, target, hit] = [t.source, t.target, t.hit].map((c) => this.name(c));
    const over = t.bound > 0 ? 100 * (t.length / t.bound - 1) : NaN;
    const more = Number.isNaN(over) ? "" : over < 0.05 ? ", which is the closed-form floor" : over < 100 ? `, ${number(Math.max(0, over), 2)} % more than the closed-form floor` : `, ${number(t.length / t.bound, 2)} times the closed-form floor`;
    this.$(".fv-title").textContent = t.hit < 0 ? `The path from ${source} to ${target} ${STOPPED[t.status][0]} after ${number(t.length)}${STOPPED[t.status][1]}`
      : this.shields(t) ? `On the way from ${source} to ${target} the path meets ${hit} first, after ${number(t.length)}: ${hit} shields ${target}`
        : `${source} turns into ${target} after ${number(t.length)}${more}`;
    const truth = sample.label === null ? "" : sample.label === sample.prediction ? ", which is right" : `; the label says ${this.name(sample.label)}`;
    const error = t.error === null ? "" : ` ± ${number(t.error, 2)}${t.verified ? "" : " (the step’s own part not measured)"}`;
    const pace = [...new Set(t.pace)].map((p) => `${paced(p)[0]} ${t.pace.filter((q) => q === p).length}`);
    const floor = `${number(t.bound)} is the floor to ${t.hit < 0 ? target : hit}`;
    this.$(".fv-sub").textContent = `Sample ${sample.index}: the model says ${this.name(sample.prediction)} with probability ${this.sure(sample)}${truth}. ` +
      `Fisher–Rao length ${number(t.length)}${error}; its ends are ${number(t.distance)} apart; ${floor}. In pixels, L2 ${number(t.l2)}. ` +
      (t.pace.length ? `${t.pace.length} ${t.pace.length === 1 ? "step" : "steps"}, their length set by: ${pace.join(", ")}.` : "No step was made.") +
      (sample.traced > this.siblings.filter((s) => !s.asked).length ? ` The page holds the nearest ${this.siblings.filter((s) => !s.asked).length} of ${sample.traced} targets.` : "") + (t.asked ? ` Traced again with${this.own(t)}.` : "");
  }

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
    const decades = new Map(round.length ? round : [[bottom, number(10 ** bottom, 2)]]);
    const norm = norms.length ? lineChart({ width: small, height: 130, x, xTicks, xText, y: [bottom - air, top + air], yTicks: [...decades.keys()], yText: (v) => decades.get(v), xLabel: "log axis · Fisher–Rao length",
      label: `λ_max along the path, from ${number(10 ** logs[0])} to ${number(10 ** logs.at(-1))}`, lines: [{ points: norms, color: "currentColor", width: 2 }] })
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
      const met = t.hit < 0 ? t.status : this.shields(t) ? `meets ${this.name(t.hit)}` : "met";
      const svg = stacked({ width: mostly - 12, height: 44, reach, points: finePath(t, 2), order: stackOrder(t), colors: this.colorsOf(t),
        names: t.shown.map((c) => this.name(c)), bold: [t.source, t.target, t.hit].map((c) => t.shown.indexOf(c)), floor: t.bound, label: "", bare: true });
      const said = `toward ${this.name(t.target)}: length ${number(t.length)}, ${met}${this.own(t)}`;
      return `<button type="button" data-id="${t.id}" aria-pressed="${t.id === trace.id}" aria-label="${escape(said)}" title="${escape(said)}" style="width:${mostly}px">` +
        `<b>→ ${escape(this.name(t.target))}</b>${svg}<span class="${this.shields(t) ? "fv-shielded" : ""}">${number(t.length)} · ${escape(met)}</span>${t.asked ? `<span>${escape(this.own(t).slice(2, -1))}</span>` : ""}</button>`;
    }).join("");
    box.querySelectorAll("button").forEach((button) => button.addEventListener("click", () => this.open(this.traces.find((t) => t.id === Number(button.dataset.id)))));
    if (focused) box.querySelector("[aria-pressed=true]")?.focus();
  }

  tables() {
    const { trace: t, data } = this;
    const points = t.fr.map((s, i) => [i, number(s, 4), ...t.p.map((row) => probability(row[i])), number(t.gap[i], 4), number(t.norm[i], 4), i ? number(t.natural[i - 1]) : "", i ? number(t.step[i - 1]) : "",
      i ? t.pace[i - 1] : ""]);
    const all = this.traces.map((q) => [q.sample, this.name(q.source), this.name(q.target), q.hit < 0 ? "–" : this.name(q.hit), q.status, number(q.length, 5), number(q.error, 2), number(q.bound, 5),
      number(q.length / q.bound, 4), number(q.l2, 4), q.pace.length]);
    fillTables(this.$(".fv-tables"), [
      ["Table: this path, point by point", ["point", "length", ...t.shown.map((c) => `p(${this.name(c)})`), "gap", "λ_max", "√(δᵀFδ)", "L2", "set by"], points],
      ["Table: all paths of this page", ["sample", "from", "toward", "meets", "status", "length", "error", "floor", "ratio", "L2", "steps"], all],
      ["Table: shielding and damping", ["damping", "step", "shielded %", "low", "high", "paths"], data.points.map((p) => [number(p.damping), number(p.step), ...[p.shielded, p.low, p.high].map((v) => number(v === null ? null : 100 * v)), p.successful])],
    ]);
  }

  // ---- settings and the curve of shielding ----

  settings() {
    const box = this.$(".fv-settings");
    if (!this.model.get("live")) {
      box.innerHTML = `<h4>How these paths were made</h4><p class="fv-made"></p>`;
      return;
    }
    const sliders = Object.entries(SETTINGS).map(([key, { name, low, high, says }]) => `<div class="fv-set"><label>${name} <input type="range" data-set="${key}" min="${low}" max="${high}" step="0.05" title="${says}" aria-label="${name}: ${says}"></label>` +
      `<output data-out="${key}"></output></div>`);
    const options = this.data.classes.map((c, i) => `<option value="${i}">${escape(c)}</option>`);
    box.innerHTML = `<h4>Trace this sample again with</h4>${sliders.join("")}<div class="fv-set"><label>toward <select aria-label="Class aimed at">${options.join("")}</select></label></div>` +
      `<div class="fv-buttons"><button type="button" class="fv-again">trace again</button><button type="button" class="fv-against">shielding against τ</button><button type="button" class="fv-stop">stop</button></div>` +
      `<p class="fv-quiet fv-status" role="status"></p><p class="fv-failed" role="alert" hidden></p>`;
    box.querySelectorAll("[data-set]").forEach((input) => {
      input.addEventListener("input", () => {
        this.wanted[input.dataset.set] = 10 ** Number(input.value);
        this.controls();
      });
      input.addEventListener("change", () => this.retrace());
    });
    box.querySelector("select").addEventListener("change", (event) => {
      this.wanted.target = Number(event.target.value);
      this.retrace();
    });
    box.querySelector(".fv-again").addEventListener("click", () => this.retrace());
    box.querySelector(".fv-against").addEventListener("click", () => this.ask({ kind: "curve", step: this.setting("step"), trust_region: this.setting("trust_region") }, "tracing every sample"));
    box.querySelector(".fv-stop").addEventListener("click", () => {
      this.model.send({ kind: "stop" });
      this.busy = null; // one that had not begun sends no answer
      this.controls();
      this.$(".fv-again").focus();
    });
  }

  setting(key) { return this.wanted[key] ?? this.trace.settings[key]; }
  get aim() { return this.wanted.target !== undefined && this.wanted.target !== this.trace.source ? this.wanted.target : this.trace.target; }

  retrace() {
    const settings = Object.fromEntries(Object.keys(SETTINGS).map((key) => [key, this.setting(key)]));
    this.ask({ kind: "trace", sample: this.trace.sample, target: this.aim, ...settings }, `tracing sample ${this.trace.sample} toward ${this.name(this.aim)}`);
  }

  ask(request, doing) {
    this.busy = { id: ++this.asked, doing, how: "…" };
    this.failure = "";
    this.model.send({ ...request, id: this.busy.id });
    this.controls();
  }

  /** An answer from Python; those to requests that a newer one has replaced are not looked at. */
  async heard(said) {
    if (!this.busy || said.id !== this.busy.id) return;
    if (said.kind === "progress") {
      this.busy.how = said.total > 1 ? `, ${said.done} of ${said.total} done, ${said.steps} steps` : `, ${said.steps} steps`;
    } else if (said.kind === "traced") {
      const { data, part } = await unpack(said.payload);
      if (!this.busy || said.id !== this.busy.id) return;
      this.busy = null;
      this.wanted = {};
      const trace = { ...data.trace, part, asked: true };
      this.traces = [...this.traces, trace];
      this.$(".fv-gallery").dataset.key = "";
      this.open(trace);
    } else if (said.kind === "curve") {
      this.data.points = said.points;
      this.data.curve = true;
      this.data.over = said.samples;
      this.busy.how = `, ${said.done} of ${said.total} dampings done`;
      if (said.done === said.total) this.busy = null;
      this.shielding();
      this.tables();
      this.move();
    } else {
      if (said.kind === "failed") this.failure = said.message;
      this.busy = null;
    }
    this.controls();
  }

  /** The settings as they stand: what is asked for, what runs, what failed. */
  controls() {
    const { settings: own, source } = this.trace;
    const words = `step η = ${number(own.step)}, damping ${own.method === "published" ? "λ" : "τ"} = ${number(own.damping)}, ` +
      (own.method === "published" ? "no trust region" : `trust region r = ${number(own.trust_region)}`);
    const made = this.$(".fv-made");
    if (made) {
      made.textContent = `Method “${own.method}”: ${words}. In a notebook with a kernel, .widget() lets you change these and trace again.`;
      return;
    }
    for (const key of Object.keys(SETTINGS)) {
      this.$(`[data-set="${key}"]`).value = Math.log10(this.setting(key));
      this.$(`[data-out="${key}"]`).textContent = number(this.setting(key), 2);
      this.$(`[data-set="${key}"]`).setAttribute("aria-valuetext", number(this.setting(key), 2));
    }
    const select = this.$(".fv-settings select");
    [...select.options].forEach((o, i) => (o.disabled = i === source));
    select.value = this.aim;
    const stale = Object.keys(SETTINGS).some((key) => Math.abs(Math.log10(this.setting(key) / own[key])) > 1e-6) || this.aim !== this.trace.target;
    this.$(".fv-status").textContent = this.busy ? `${this.busy.doing}${this.busy.how}` : stale ? `Not traced yet. What is shown: ${words}.` : `Shown: ${words}.`;
    this.$(".fv-stop").disabled = !this.busy;
    const alert = this.$(".fv-failed");
    alert.hidden = !this.failure;
    alert.textContent = this.failure ? `It did not work: ${this.failure}. What is shown is unchanged.` : "";
  }

  /** Share of shielded paths against damping, with intervals; the chosen trace's damping is the cursor. */
  shielding() {
    const box = this.$(".fv-curve");
    const points = this.data.points.filter((p) => p.shielded !== null).sort((a, b) => a.damping - b.damping);
    if (!points.length) {
      box.innerHTML = `<h4>Shielding</h4><p class="fv-quiet">No path of a rightly classified sample has changed the class: nothing to count.</p>`;
      return;
    }
    if (points.length === 1) {
      const [only] = points;
      box.innerHTML = `<h4>${number(100 * only.shielded, 2)} % of ${only.successful} paths are shielded, at damping τ = ${number(only.damping)}</h4>` +
        `<p class="fv-quiet">95 % bootstrap interval: ${number(100 * only.low, 2)} to ${number(100 * only.high, 2)} %. ${this.wrong()}One setting says little, because shielding depends on the damping: ` +
        `${this.model.get("live") ? "“shielding against τ” traces with others" : "fv.shielding_curve traces with others, and view(curve=…) draws them here"}.</p>`;
      return;
    }
    const width = this.curveWidth;
    const logs = points.map((p) => Math.log10(p.damping));
    const here = Math.log10(this.trace.settings.damping);
    const x = [Math.min(...logs, here) - 0.3, Math.max(...logs, here) + 0.3];
    const xTicks = x[1] - x[0] > 2 ? ticks(...x, 4).filter((v) => Number.isInteger(v) && v >= x[0] && v <= x[1]) : [...new Set(logs)];
    const steps = [...new Set(points.map((p) => p.step))];
    const lines = steps.map((step, i) => ({ points: points.filter((p) => p.step === step).map((p) => [Math.log10(p.damping), 100 * p.shielded]), color: classColors([i])[0], width: 2, label: steps.length > 1 ? `η = ${number(step)}` : null }));
    const over = (sx, sy) => points.map((p) => {
      const [cx, low, high] = [sx(Math.log10(p.damping)), sy(100 * p.low), sy(100 * p.high)];
      return `<g><title>τ = ${number(p.damping)}, η = ${number(p.step)}: ${number(100 * p.shielded)} % of ${p.successful} paths, from ${number(100 * p.low)} to ${number(100 * p.high)}</title>` +
        `<path class="fv-stroke" d="M${cx},${low}V${high}M${cx - 3},${low}H${cx + 3}M${cx - 3},${high}H${cx + 3}"/><circle class="fv-guess" cx="${cx}" cy="${sy(100 * p.shielded)}" r="4.5"/></g>`;
    }).join("") + `<line class="fv-set-here" x1="${sx(here)}" x2="${sx(here)}" y1="${MARGIN.top}" y2="${170 - MARGIN.bottom}"/>`;
    const first = points[0], last = points.at(-1);
    const title = `Shielding depends on damping: ${number(100 * first.shielded, 2)} % at τ = ${number(first.damping)}, ${number(100 * last.shielded, 2)} % at τ = ${number(last.damping)}`;
    const note = `Share of paths that meet another class first${this.data.over ? `, over the first ${this.data.over} samples` : ""}; circles with 95 % bootstrap intervals. ${this.wrong()}`;
    box.innerHTML = `<h4>${title}</h4>` + lineChart({ width, height: 170, x, xTicks, xText: (v) => number(10 ** v, 2), y: [0, 100], yTicks: [0, 50, 100], yText: (v) => `${v} %`, xLabel: "damping τ, log axis", lines, over, label: title }) +
      `<p class="fv-quiet">${note}The line marks the path above.</p>`;
  }

  wrong() {
    return [...this.samples.values()].some((q) => q.label !== null && q.label !== q.prediction) ? "Paths of wrongly classified samples (✗) are in the matrix, but not in this share. " : "";
  }

  // ---- what follows the scrubber: nothing here asks Python ----

  move() {
    if (!this.width) return;
    const { trace: t, sample, position } = this;
    const { step, share, p } = pathAt(t, position);
    const values = this.difference(t, step, share);
    this.picture(this.$(".fv-moved .fv-plate"), sample, { values, scale: t.scale }, this.target, "the image here on the path");
    this.signed(this.$(".fv-direction .fv-plate"), values, t, this.target);
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
    this.$(".fv-step").textContent = t.pace.length ? `Step ${step + 1} of ${t.pace.length}: natural length ${number(t.natural[step])}, L2 ${number(t.step[step])}, ${paced(t.pace[step])[1]} · ` +
      `logit gap to ${this.name(t.target)} ${number(lerp(t.gap), 2)}${norm === null ? "" : ` · λ_max at its start ${number(norm)}`}` : "";
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
    let from = this.position >= trace.length * 0.999 ? 0 : this.position;
    this.set("position", from);
    let began = null;
    const step = (time) => {
      if (!this.playing || this.trace !== trace || !this.root.isConnected) return this.pause();
      began ??= time;
      const at = from + ((time - began) / 4000) * trace.length;
      const shown = calm ? Math.max(0, ...trace.fr.filter((s) => s <= at)) : Math.min(trace.length, at);
      this.set("position", shown, false);
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

  resize(width) {
    if (Math.abs(width - this.width) < 2) return;
    this.width = width;
    const columns = width >= 900 ? 3 : width >= 560 ? 2 : 1;
    this.root.dataset.columns = columns;
    const matrix = Math.max(300, Math.min(420, 100 + 26 * this.data.matrix.columns.length));
    this.root.style.setProperty("--fv-matrix", `${matrix}px`);
    this.right = columns === 3 ? width - matrix - 32 : width;
    const beside = this.right >= 860;
    this.root.dataset.beside = beside;
    const hand = beside ? 376 : this.right;
    const gap = columns === 1 ? 8 : 16;
    this.target = Math.floor(Math.min(192, (hand - 2 * gap) / 3));
    this.triangleWidth = beside ? 300 : Math.min(300, columns === 1 ? width : 300);
    this.chartWidth = Math.floor(beside ? this.right - hand - 32 : this.right);
    const two = this.chartWidth >= 520;
    this.root.dataset.small = two ? 2 : 1;
    this.smallWidth = Math.floor(two ? (this.chartWidth - 24) / 2 : this.chartWidth);
    this.curveWidth = Math.floor(columns === 1 ? width : columns === 3 ? matrix : Math.min(560, width - 420 - 16));
    this.show();
  }
}

const render = mounted((model, root, packed) => new Margins(model, root, packed), {
  "change:trace": "show", "change:position": "move", "msg:custom": "heard",
});

export default { render };
