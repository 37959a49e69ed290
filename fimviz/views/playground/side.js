// One network of the playground: what it says of the drawing, what moves it, and what it says of the moved image.
import { escape } from "../kit/chart.js";
import { signedPicture } from "../kit/inputs.js";
import { number, percent, probability } from "../kit/numbers.js";
import { colorBar } from "../kit/stage.js";
import { along, answer, flip, look } from "./fisher.js";
import { bars, gauge } from "./gauge.js";
import { Network } from "./network.js";
import { showValues, spotOn } from "./pad.js";

const STEPS = 24; // distances along a direction that are asked for a flip

const WAYS = [["up", "+v₁", 1], ["down", "−v₁", 0]]; // with the place of their flips

const button = (kind, way, words, title) => `<button type="button" class="fv-${kind}" data-way="${way}" disabled aria-label="${words}: ${escape(title)}" title="${escape(title)}">${words}</button>`;

const LAYOUT = (name) => `
  <div class="fv-opinion"><h4 class="fv-who"></h4><div class="fv-answer"></div><p class="fv-quiet fv-then-key" hidden>bars: as drawn; lines and numbers: moved</p></div>
  <div class="fv-react">
    <div>spectral norm <b>λ₁ = <output data-fv="lambda1" aria-label="λ₁${name ? ` of ${escape(name)}` : ""}"></output></b><div class="fv-dial"></div></div>
    <div class="fv-duo">
      <figure class="fv-worst"><figcaption>worst direction v₁</figcaption><div class="fv-plate"></div><div class="fv-scale"></div>
        <div class="fv-under">${WAYS.map(([way, words]) => `<p class="fv-turn"><span></span>${button("toflip", way, "push there", `ε just beyond this flip${name ? ` of ${name}` : ""} along ${words}`)}</p>`).join("")}</div></figure>
      <figure class="fv-moved"><figcaption></figcaption><div class="fv-plate"></div>
        <div class="fv-under"><p class="fv-turn"><span></span>${button("keep", "", "keep it", `the moved image${name ? ` of ${name}` : ""} becomes the drawing`)}</p></div></figure>
    </div>
  </div>
  <p class="fv-pixel"></p>`;

/** Values (channels, …) as signed bytes, channel by channel of each pixel, with the scale that `kit/inputs.js` reads. */
export function signedBytes(v, channels) {
  const scale = v.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const plane = v.length / channels;
  const bytes = new Int8Array(v.length);
  for (let p = 0; p < plane; p++) for (let c = 0; c < channels; c++) bytes[p * channels + c] = scale > 0 ? Math.round((127 * v[c * plane + p]) / scale) : 0;
  return { bytes, scale, limit: scale, beyond: 0 };
}

/** The distances along a direction at which it is asked for a flip. */
export const asked = (reach) => Array.from({ length: STEPS }, (_, i) => (reach * (i + 1)) / STEPS);

export class Side {
  /** owner: {data, x, push, epsilon, random, reach, at}, the playground. */
  constructor(box, owner, { name, program, norms }, part) {
    this.box = box;
    this.owner = owner;
    this.name = name;
    this.norms = norms;
    this.network = new Network(program, part);
    this.flips = [undefined, undefined]; // along −v₁ and +v₁: null where there is none, undefined while it is not known
    this.seen = null; // what `look` finds of the drawing
    this.at = null; // the moved image
    this.says = null; // and the answer to it
    box.innerHTML = LAYOUT(name);
    this.$ = (selector) => box.querySelector(selector);
    for (const [way, , at] of WAYS) this.$(`[data-way=${way}]`).addEventListener("click", () => owner.pushTo(1.02 * this.flips[at].at, way));
    this.$(".fv-keep").addEventListener("click", () => owner.keepMoved(this));
    this.$(".fv-worst .fv-plate").addEventListener("click", (event) => {
      const canvas = this.$(".fv-worst canvas");
      const area = canvas.getBoundingClientRect();
      const within = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
      owner.ask(within((event.clientY - area.top) / area.height, canvas.height), within((event.clientX - area.left) / area.width, canvas.width));
    });
  }

  className(c) { return this.owner.data.classes[c]; }

  /** Everything that follows from the drawing, within the frame; the flips come when there is time. */
  look() {
    this.seen = look(this.network, this.owner.x);
    this.flips = [undefined, undefined];
    this.move();
  }

  /** What is left to find of the flips: false once all are known. */
  settle() {
    const side = this.flips.indexOf(undefined);
    if (side < 0) return false;
    const d = side ? this.seen.v : this.seen.v.map((value) => -value);
    this.flips[side] = this.seen.eigenvalues[0] > 0 ? flip(this.network, this.owner.x, d, this.seen.winner, asked(this.owner.reach)) : null;
    return true;
  }

  /** The direction in which the reader pushes, as steps of ε = 1. */
  direction() {
    const { push, random } = this.owner;
    if (push === "random") return random;
    if (push === "fgsm") return this.seen.against.map(Math.sign);
    return push === "down" ? this.seen.v.map((value) => -value) : this.seen.v;
  }

  /** The image as pushed, and the answer to it. */
  move() {
    const { x, epsilon } = this.owner;
    this.at = epsilon ? along(x, this.direction(), epsilon) : x;
    this.says = epsilon ? answer(this.network.forward(this.at)) : null;
  }

  show() {
    const { seen, says, owner: { data, epsilon, side, gaugeWidth, ends, words } } = this;
    const [norm] = seen.eigenvalues;
    this.$(".fv-who").innerHTML = `${this.name ? `${escape(this.name)}: ` : "The answer: "}<strong>${escape(this.className(seen.winner))}</strong> <span class="fv-quiet">p = ${probability(seen.p[seen.winner], seen.doubt)}</span>`;
    this.$(".fv-answer").innerHTML = bars(seen, says, data.classes);
    this.$(".fv-then-key").hidden = !says;
    const shown = this.$("[data-fv=lambda1]");
    shown.textContent = number(norm);
    shown.dataset.value = String(norm);
    this.$(".fv-dial").innerHTML = gauge({ value: norm, samples: this.norms, ends, width: gaugeWidth, name: this.name });
    const map = signedBytes(seen.v, data.shape[2]);
    signedPicture(this.$(".fv-worst .fv-plate"), map, { kind: "image", shape: data.shape }, { target: side, name: `worst direction${this.name ? ` of ${this.name}` : ""}` });
    this.$(".fv-scale").style.maxWidth = this.$(".fv-worst canvas").style.width;
    this.$(".fv-scale").innerHTML = norm > 0 ? colorBar(map.scale) : "the answer does not react: there is no direction";
    const outside = showValues(this.$(".fv-moved .fv-plate"), this.at, data, side, `the image ${epsilon ? `moved ${words}` : "as drawn"}`);
    this.$(".fv-moved figcaption").textContent = epsilon ? `moved by ${number(epsilon)}` : "moved";
    const turned = says && says.winner !== seen.winner;
    this.$(".fv-moved").classList.toggle("fv-flipped", !!turned);
    this.$(".fv-keep").disabled = !says;
    this.$(".fv-moved .fv-turn span").innerHTML = says
      ? `${turned ? "now" : "still"} <strong>${escape(this.className(says.winner))}</strong> (p = ${probability(says.p[says.winner], says.doubt)})${outside ? `<br>${outside} ${data.shape[2] === 1 ? "px beyond black or white" : "values beyond the range"}` : ""}`
      : "the slider pushes it";
    this.spots();
    this.showFlips();
  }

  showFlips() {
    for (const [way, words, at] of WAYS) {
      const found = this.flips[at];
      const there = this.$(`[data-way=${way}]`);
      there.disabled = !found;
      there.previousElementSibling.innerHTML = found === undefined ? `${words}: …` : found
        ? `${words} makes it <b>${escape(this.className(found.becomes))}</b> at ε = ${number(found.at)}`
        : `${words}: no other answer within ${number(this.owner.reach)}`;
    }
  }

  spots() {
    for (const plate of this.box.querySelectorAll(".fv-plate")) spotOn(plate, this.owner.at, "fv-spot fv-asked");
    this.$(".fv-pixel").textContent = this.owner.at ? this.pixel(...this.owner.at) : "";
  }

  /** What a pixel does, in words. */
  pixel(row, column) {
    const { data: { shape: [h, w, channels], range }, x } = this.owner;
    const { seen } = this;
    const places = Array.from({ length: channels }, (_, c) => c * h * w + row * w + column);
    const share = places.reduce((sum, i) => sum + seen.v[i] ** 2, 0);
    const slope = -places.reduce((sum, i) => sum + seen.slopes[seen.others.indexOf(seen.runner) * x.length + i], 0);
    const tenth = 0.1 * (range[1] - range[0]);
    const ink = places.map((i) => number(x[i], 2)).join(", ");
    const pull = slope === 0 ? "does nothing" : `${slope > 0 ? "adds" : "takes"} ${number(Math.abs(slope) * tenth, 2)} ${slope > 0 ? "to" : "from"} the log-odds of ${this.className(seen.winner)} over ${this.className(seen.runner)}`;
    return `Row ${row}, column ${column} (${ink}): a tenth more ink ${pull}; ${percent(share)} of v₁ is here.`;
  }
}
