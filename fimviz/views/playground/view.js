// The playground: a network in the page, and a drawing that it looks at while it is drawn.
// State shared with Python or the stand-in host: sample (what the drawing starts from; −1 for nothing).
import { escape } from "../kit/chart.js";
import { number, probability } from "../kit/numbers.js";
import { fillTables, mounted, View } from "../kit/stage.js";
import { BRUSHES, Pad, spotOn } from "./pad.js";
import { reachOf } from "./gauge.js";
import { saveCsv, savePng, saveSvg } from "./save.js";
import { Side } from "./side.js";

const PUSHES = { up: "+v₁", down: "−v₁", random: "random", fgsm: "FGSM" };
const WORDS = { up: "v₁", down: "v₁", random: "a random direction", fgsm: "its sign" };

const HELP = `Draw, and see what the network makes of it: everything here is computed in this page, which needs no server.
  The <b>Fisher information</b> F of an image says how fast the answer changes when the image moves: a step of length ε along the direction v
  changes it by KL ≈ ½ ε² vᵀF v. <b>λ₁</b> is its largest eigenvalue, <b>v₁</b> the direction that goes with it, the worst one, with the sign
  that makes the answer less likely at first. λ₁ is small where the network is sure, which need not mean that it is hard to fool: see at which ε the answer flips.
  <b>Keys</b> on the drawing: arrows move, Space draws, Shift with arrows draws a line, Backspace rubs out, Enter asks the pixel.`;

function layout({ networks, labels, classes, shape, images }, count) {
  const sample = (i) => `<option value="${i}">sample ${i}${labels ? `: ${escape(classes[labels[i]] ?? "?")}` : ""}</option>`;
  const button = (group, value, name, title = "") => `<button type="button" data-${group}="${value}"${title ? ` title="${title}"` : ""}>${name}</button>`;
  return `
    <div class="fv-head"><h3 class="fv-title"></h3>
      <details class="fv-help"><summary aria-label="What is this?">?</summary><p>${HELP}</p></details></div>
    <div class="fv-ground">
      <div class="fv-desk">
        <div class="fv-plate fv-paper"></div>
        <div class="fv-tools"><p class="fv-manual fv-quiet">Draw with pen or finger. By keys: arrows move, Space draws, Backspace rubs out, Enter asks the pixel.</p>
          <div class="fv-switch" role="group" aria-label="What the pen does">${button("tool", "draw", "draw")}${button("tool", "erase", "erase")}${button("tool", "ask", "ask", "Click a pixel: what does it do?")}</div>
          <label>brush <select class="fv-brush" aria-label="Size of the brush">${Object.keys(BRUSHES).map((name) => `<option${name === "medium" ? " selected" : ""}>${name}</option>`).join("")}</select></label>
          ${shape[2] === 3 ? `<label>colour <input type="color" class="fv-colour" value="#ffffff" aria-label="Colour of the brush"></label>` : ""}
          <button type="button" class="fv-undo">undo</button><button type="button" class="fv-clear">clear</button>
          <label${images ? "" : " hidden"}>start from <select data-fv="sample" aria-label="Start from a sample"><option value="" hidden>your drawing</option><option value="-1">nothing</option>${Array.from({ length: count }, (_, i) => sample(i)).join("")}</select></label>
        </div>
        <div class="fv-push"><h4>Push it</h4><div class="fv-switch fv-ways" role="group" aria-label="Which way to push">${Object.entries(PUSHES).map(([value, name]) => button("push", value, name)).join("")}</div>
          <div class="fv-slider"><label>ε <input type="range" class="fv-epsilon" min="0" step="any" aria-label="ε, how far the drawing is pushed"></label><output></output></div>
          <div class="fv-buttons"><button type="button" class="fv-zero">ε = 0</button></div>
          <p class="fv-step"></p></div>
      </div>
      <div class="fv-sides">${networks.map(() => `<section class="fv-net"></section>`).join("")}</div>
    </div>
    <p class="fv-heard" role="status"></p>
    <div class="fv-tables"></div>
    <div class="fv-save"><span class="fv-quiet">save</span>${["png", "svg", "csv"].map((kind) => `<button type="button" data-fv="export-${kind}">${kind.toUpperCase()}</button>`).join("")}</div>`;
}

class Playground extends View {
  constructor(model, root, packed) {
    super(model, root, packed);
    const { data, part } = packed;
    const [h, w, channels] = data.shape;
    this.size = h * w * channels;
    this.images = data.images ? new { f4: Float32Array, f8: Float64Array }[data.images[2]](part(data.images)) : new Float64Array(0);
    this.count = this.images.length / this.size;
    this.tool = "draw";
    this.brush = 1;
    this.push = "up";
    this.epsilon = 0;
    this.at = null; // the pixel that was asked
    this.before = []; // drawings, for `undo`
    this.x = this.sheet();
    this.random = this.chance();
    this.changed = this.waiting = this.started = false;
    this.ends = [-4, 1]; // of the gauges, which share them
    this.side = this.gaugeWidth = 0; // in pixels of the screen
    root.dataset.fv = "playground";
    root.classList.add("fv-playground");
    root.innerHTML = layout(data, this.count);
    this.$(".fv-manual").id = this.describedBy = `fv-manual-${Math.random().toString(36).slice(2)}`;
    this.sides = [...root.querySelectorAll(".fv-net")].map((box, i) => new Side(box, this, data.networks[i], part));
    this.pad = new Pad(this.$(".fv-paper"), data, this);
    this.range = this.$(".fv-epsilon");
    this.listen();
    this.pressed();
  }

  listen() {
    const { root } = this;
    const on = (selector, event, run) => root.querySelectorAll(selector).forEach((node) => node.addEventListener(event, () => run(node)));
    on("button[data-tool]", "click", (node) => { this.tool = node.dataset.tool; this.pressed(); });
    on("[data-push]", "click", (node) => this.pushBy(node.dataset.push));
    on(".fv-brush", "change", (node) => { this.brush = BRUSHES[node.value]; });
    on(".fv-clear", "click", () => this.start(-1));
    on(".fv-undo", "click", () => { if (this.before.length) this.x = this.before.pop(); this.drawn(); });
    on("[data-fv=sample]", "change", (node) => this.start(Number(node.value)));
    on(".fv-epsilon", "input", (node) => this.pushTo(Number(node.value)));
    on(".fv-zero", "click", () => this.pushTo(0));
    on("[data-fv=export-csv]", "click", () => saveCsv(this.tables()));
    on("[data-fv=export-png]", "click", () => savePng(this));
    on("[data-fv=export-svg]", "click", () => saveSvg(this));
  }

  /** Begin anew from a sample, also from the one that was begun from. */
  start(sample) {
    if (sample === this.model.get("sample")) this.load();
    else this.set("sample", sample);
  }

  /** A sample, or an empty sheet. */
  sample(place) { return place < 0 ? this.sheet() : Float64Array.from(this.images.subarray(place * this.size, (place + 1) * this.size)); }

  /** An empty sheet. */
  sheet() { return new Float64Array(this.size).fill(this.data.range[0]); }

  /** A direction of length 1 with no preference. */
  chance() {
    const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
    const d = Float64Array.from({ length: this.size }, normal);
    const length = Math.hypot(...d);
    return d.map((value) => value / length);
  }

  get wide() { return this.data.range[1] - this.data.range[0]; }

  /** How far a push goes: L2 along a direction, per pixel by FGSM. */
  get reach() { return 0.25 * Math.sqrt(this.size) * this.wide; }
  get most() { return this.push === "fgsm" ? 0.5 * this.wide : this.reach; }
  get words() { return `by ${number(this.epsilon)} ${this.push === "down" ? "against" : "along"} ${this.push === "fgsm" ? "the gradient’s signs" : WORDS[this.push]}`; }

  /** What the pen leaves: of a grey image its ink and the paper, else a colour. */
  ink(erase) {
    const [low, high] = this.data.range;
    if (this.data.shape[2] === 1) return erase ? [low, high] : [high, low];
    const colour = this.$(".fv-colour").value;
    return [1, 3, 5].map((i) => (erase ? low : low + (this.wide * parseInt(colour.slice(i, i + 2), 16)) / 255));
  }

  /** Before a stroke: what `undo` goes back to. */
  begun() {
    this.before.push(this.x.slice());
    if (this.before.length > 50) this.before.shift();
  }

  /** The drawing has changed: the page follows in the next frame, once, however many strokes there were. */
  drawn() {
    this.changed = true;
    this.frame();
  }

  frame() {
    if (this.waiting || !this.width) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.work();
    });
  }

  /** A frame's work: what changed first, and only where nothing did, a piece of what can wait. */
  work() {
    if (this.changed) {
      this.changed = false;
      this.chosen();
      this.sides.forEach((side) => side.look());
      this.pad.refresh();
      this.show();
      this.frame();
    } else if (this.sides.some((side) => side.settle())) this.frame();
    else this.settled();
  }

  /** The chooser names the sample for as long as nothing is drawn on it; then it can be chosen again. */
  chosen() {
    const place = this.model.get("sample");
    const own = this.sample(place);
    this.$("[data-fv=sample]").value = this.x.every((value, i) => value === own[i]) ? place : "";
  }

  show() {
    this.ends = reachOf([...this.data.networks.flatMap((n) => n.norms), ...this.sides.map((s) => s.seen.eigenvalues[0])]);
    this.sides.forEach((side) => side.show());
    this.$(".fv-title").textContent = this.title();
  }

  /** The flips are known, and the hand rests: tables, and words for those who listen. */
  settled() {
    this.sides.forEach((side) => side.showFlips());
    this.$(".fv-heard").textContent = this.title();
    this.$(".fv-zero").disabled = !this.epsilon;
    this.$(".fv-undo").disabled = !this.before.length;
    fillTables(this.$(".fv-tables"), this.tables());
  }

  title() {
    const short = (words) => (words.length > 22 ? `${words.slice(0, 21).trimEnd()}…` : words);
    const said = ({ name, seen }) => `${name ? short(name) : "The network"} says ${short(this.data.classes[seen.winner])}${name ? "" : ` (p = ${probability(seen.p[seen.winner], seen.doubt)})`}, λ₁ = ${number(seen.eigenvalues[0])}`;
    return this.sides.map(said).join(" · ");
  }

  tables() {
    const { sides, data: { classes } } = this;
    const of = (words) => sides.map(({ name }) => (name ? `${words}, ${name}` : words));
    const sure = (said, c) => (said ? probability(said.p[c], c === said.winner ? said.doubt : 1 - said.p[c]) : "–");
    return [
      ["Table: probabilities", ["class", ...of("drawn"), ...of("moved")], classes.map((name, c) => [name, ...sides.map((s) => sure(s.seen, c)), ...sides.map((s) => sure(s.says, c))])],
      ["Table: eigenvalues of F", ["", ...of("λ")], sides[0].seen.eigenvalues.map((_, k) => [`λ${[...String(k + 1)].map((d) => "₀₁₂₃₄₅₆₇₈₉"[d]).join("")}`, ...sides.map((s) => number(s.seen.eigenvalues[k] ?? 0))])],
    ];
  }

  pressed() {
    this.root.querySelectorAll("button[data-tool]").forEach((b) => b.setAttribute("aria-pressed", b.dataset.tool === this.tool));
    this.root.querySelectorAll("[data-push]").forEach((b) => b.setAttribute("aria-pressed", b.dataset.push === this.push));
    this.$(".fv-paper").dataset.tool = this.tool;
    this.range.max = this.most;
    this.range.value = this.epsilon;
    this.$(".fv-push output").textContent = number(this.epsilon);
    this.$(".fv-step").textContent = this.push === "fgsm" ? "ε on every pixel, by the sign of its gradient" : "ε is a length (L2) in pixel units";
  }

  pushBy(way) {
    if (way === "random" && this.push === "random") this.random = this.chance();
    const share = this.epsilon / this.most;
    this.push = way;
    this.pushTo(share * this.most);
  }

  pushTo(epsilon, way = this.push) {
    this.push = way;
    this.epsilon = Math.max(0, Math.min(this.most, epsilon));
    this.pressed();
    this.moved();
  }

  moved() {
    if (!this.sides[0].seen) return;
    this.sides.forEach((side) => side.move());
    this.show();
    this.frame();
  }

  /** The image as pushed for a network becomes the drawing, within black and white. */
  keepMoved(side) {
    const [low, high] = this.data.range;
    this.begun();
    this.x = side.at.map((value) => Math.max(low, Math.min(high, value)));
    this.epsilon = 0;
    this.pressed();
    this.drawn();
  }

  ask(row, column) {
    this.at = [row, column];
    spotOn(this.$(".fv-paper"), this.at, "fv-spot fv-asked");
    this.sides.forEach((side) => side.spots());
    this.$(".fv-heard").textContent = this.sides.map((side) => `${side.name} ${side.pixel(row, column)}`).join(" ");
  }

  /** Another sample is chosen, here or in Python. */
  load() {
    const sample = Math.max(-1, Math.min(this.count - 1, this.model.get("sample")));
    this.keep({ sample });
    if (this.started) this.begun();
    this.started = true;
    this.x = this.sample(sample);
    this.drawn();
  }

  resize() {
    const { width, columns, sides, root } = this;
    root.dataset.columns = columns;
    const desk = columns === 1 ? Math.min(width, 320) : columns === 2 ? 256 : 296;
    const beside = columns === 1 || (columns === 2 && sides.length > 1) ? 0 : desk + 32;
    const across = columns === 1 ? 1 : sides.length;
    const own = (width - beside - 24 * (across - 1)) / across;
    this.sides.forEach((side) => side.box.toggleAttribute("data-row", own >= 560));
    root.style.setProperty("--fv-desk", `${desk}px`);
    const half = own >= 560 ? (own - 24) / 2 : own;
    this.side = Math.max(64, Math.min(208, (half - 12) / 2));
    this.gaugeWidth = Math.floor(half);
    this.pad.show(desk);
    if (this.at) this.ask(...this.at);
    if (!this.started) this.load();
    else if (this.sides[0].seen) this.show();
  }
}

const render = mounted(Playground, { "change:sample": "load" });

export default { render };
