// The plane tab: regions of classes around a sample, the ellipse that F predicts and the contour that is measured.
import { escape } from "../kit/chart.js";
import { number, probability } from "../kit/numbers.js";
import { picture } from "../kit/inputs.js";
import { outcomeOf } from "../perturbation/panel.js";
import { inside, klAt, outcomeAt, paintRegions, placeAt, planeOverlay } from "./plane.js";

let made = 0; // names of clipping paths are the page's

export class PlanePanel {
  constructor(box, view, state) {
    this.box = box;
    this.view = view;
    this.state = state;
    this.across = 0;
    this.clip = `fv-clip-${Math.random().toString(36).slice(2)}-${made++}`;
    box.innerHTML = `<div class="fv-planes"><div class="fv-plane"><canvas aria-hidden="true"></canvas><div class="fv-over"></div></div>
      <div class="fv-there"><div class="fv-switch fv-second" role="group" aria-label="The plane's second axis"><button type="button" data-toward="">v₂</button><button type="button" data-toward="1">toward the attack</button></div>
        <figure class="fv-moved"><figcaption></figcaption><div class="fv-plate"></div><div class="fv-under"></div></figure>
        <div class="fv-set"><label><span>along v₁</span><input type="range" class="fv-a" aria-label="Step along v₁"></label><output></output></div>
        <div class="fv-set"><label><span class="fv-other"></span><input type="range" class="fv-b"></label><output></output></div>
        <p class="fv-kls"></p>
        <div class="fv-keys"><span><i class="fv-solid"></i>measured: the same KL as at the point</span><span><i class="fv-dashed"></i>the ellipse of F through the point</span></div>
      </div></div>`;
    this.$ = (selector) => box.querySelector(selector);
    this.$(".fv-a").addEventListener("input", (event) => state.set("epsilon", this.sign * Number(event.target.value)));
    this.$(".fv-b").addEventListener("input", (event) => {
      this.across = Number(event.target.value);
      this.move();
    });
    this.box.querySelectorAll("[data-toward]").forEach((b) => b.addEventListener("click", () => {
      this.toward = !!b.dataset.toward;
      this.show(...this.last);
    }));
    const over = this.$(".fv-over");
    const to = (event) => {
      const edge = over.getBoundingClientRect();
      const [a, b] = placeAt(this.size, this.plane.reach, event.clientX - edge.left, event.clientY - edge.top);
      this.across = b;
      state.set("epsilon", this.sign * a);
      this.move();
    };
    over.addEventListener("pointerdown", (event) => {
      over.setPointerCapture(event.pointerId);
      to(event);
    });
    over.addEventListener("pointermove", (event) => over.hasPointerCapture(event.pointerId) && to(event));
  }

  get sign() { return this.state.get("flipped") ? -1 : 1; }
  get place() {
    const { reach } = this.plane;
    const clip = (v) => Math.max(-reach, Math.min(reach, v));
    return [clip(this.sign * this.state.get("epsilon")), clip(this.across)];
  }

  /** `attacked` is the plane of v₁ and an attack, where there is one. */
  show(sample, own, width, attacked) {
    this.last = [sample, own, width, attacked];
    const plane = (this.toward && attacked) || own;
    this.attack = plane === attacked;
    this.$(".fv-second").hidden = !attacked;
    this.box.querySelectorAll("[data-toward]").forEach((b) => b.setAttribute("aria-pressed", !!b.dataset.toward === this.attack));
    const wide = width >= 620;
    const size = Math.floor(Math.min(440, wide ? width * 0.56 : width));
    const fresh = plane !== this.plane || size !== this.size;
    if (plane !== this.plane) this.across = 0;
    this.sample = sample;
    this.plane = plane;
    this.size = size;
    this.target = Math.floor(Math.min(192, wide ? width - size - 48 : width * 0.6));
    this.box.dataset.wide = wide;
    plane.clip = this.clip;
    this.second = plane.across ?? sample.directions[1];
    this.names = plane.shown.map((o) => outcomeOf(this.view.data, o));
    this.axis = this.attack ? "toward the attack" : plane.across ? "across" : "along v₂";
    this.$(".fv-other").textContent = this.axis;
    this.$(".fv-b").setAttribute("aria-label", `Step ${this.axis}`);
    for (const part of ["a", "b"]) Object.assign(this.$(`.fv-${part}`), { min: -plane.reach, max: plane.reach, step: plane.reach / 100 });
    if (fresh) this.regions();
    this.move();
  }

  /** Colours as numbers, since a canvas knows no variables. */
  rgb(color) {
    const probe = document.createElement("i");
    probe.style.color = color;
    this.box.append(probe);
    const [r, g, b] = getComputedStyle(probe).color.match(/[\d.]+/g).map(Number);
    probe.remove();
    return color.startsWith("var") ? [128, 128, 128] : [r, g, b]; // a mixed colour is written in fractions
  }

  regions() {
    const [left, top, side] = inside(this.size);
    const canvas = this.$("canvas");
    Object.assign(canvas, { width: side, height: side });
    Object.assign(canvas.style, { left: `${left}px`, top: `${top}px`, width: `${side}px`, height: `${side}px` });
    const shown = this.plane.shown.map((o, i) => (Array.isArray(o) ? i : o));
    const colors = shown.map((c) => this.rgb(this.view.color(c)));
    paintRegions(canvas, this.plane, colors, this.rgb("currentColor"));
    this.$(".fv-plane").style.width = this.$(".fv-plane").style.height = `${this.size}px`;
  }

  move() {
    const { plane, size, place, sample } = this;
    const [a, b] = place;
    const m = plane.points;
    const [u, v] = place.map((t) => ((t / plane.reach + 1) / 2) * (m - 1));
    const [c, logp] = outcomeAt(plane, u, v);
    const predicted = 0.5 * (a ** 2 * plane.information[0] + b ** 2 * plane.information[1]);
    const measured = klAt(plane, a, b);
    const same = String(plane.shown[c]) === String(sample.prediction);
    const words = `now: ${this.names[c]} (p = ${probability(Math.exp(logp), -Math.expm1(logp))})`;
    this.$(".fv-over").innerHTML = planeOverlay({ size, plane, names: this.names, at: place, xLabel: "along v₁ (L2, pixel units)", yLabel: this.attack ? "across v₁, toward the smallest attack found" : plane.across ? "across v₁, toward more contrast" : "along v₂ (L2, pixel units)",
      label: `Classes on the plane around sample ${sample.index}: ${this.names.join(", ")}. At the point, ${words}` });
    const moves = [[sample.directions[0], a], ...(this.second ? [[this.second, b]] : [])];
    const outside = picture(this.$(".fv-plate"), sample, this.view.data, this.target, "the input moved to the point", moves);
    this.$("figcaption").textContent = `x + ${number(a)} v₁ ${b < 0 ? "−" : "+"} ${number(Math.abs(b))} ${plane.across ? "w" : "v₂"}`;
    const under = this.$(".fv-under");
    under.innerHTML = `<strong>${escape(words)}</strong>${outside ? `<br><span class="fv-quiet">${outside} values shown clipped</span>` : ""}`;
    under.classList.toggle("fv-flipped", !same);
    const texts = [number(a), number(b)];
    this.box.querySelectorAll("output").forEach((o, i) => (o.textContent = texts[i]));
    this.$(".fv-a").value = a;
    this.$(".fv-b").value = b;
    this.$(".fv-kls").textContent = `KL here: ${number(measured)} nats measured, ${number(predicted)} predicted by F.`;
  }
}
