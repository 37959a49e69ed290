// A lens over the images of a view: the same pixels of each, enlarged, with their values. Mouse, touch and keyboard move it.
import { escape } from "./chart.js";
import { number } from "./numbers.js";

const ACROSS = 13; // pixels of an image in the lens
const ZOOM = 8;

/** The channels of a pixel in words, `of` each byte and its place. */
function readings(bytes, [, width, channels], row, column, of) {
  const at = (row * width + column) * channels;
  return Array.from(bytes.subarray(at, at + channels), (b, i) => `${channels === 3 ? `${"RGB"[i]} ` : ""}${of(b, at + i)}`);
}

/** How bytes of an image, and of a signed map, are said. */
export const ofImage = ([low, high]) => (b) => number(low + (Math.max(0, Math.min(255, b)) / 255) * (high - low), 3);
export const ofMap = (scale) => (b) => (b === -128 ? "–" : `${b * scale > 0 ? "+" : ""}${number((b * scale) / 127, 2)}`);

/** The [row, column] where a map is strongest. */
function strongest(bytes, [, width, channels]) {
  let most = 0;
  for (let i = 1; i < bytes.length; i++) if (bytes[i] !== -128 && Math.abs(bytes[i]) > Math.abs(bytes[most])) most = i;
  const pixel = Math.floor(most / channels);
  return [Math.floor(pixel / width), pixel % width];
}

export class Lens {
  /**
   * box: where the figures are, each a plate and its name; bar: where the lens is to stand; read: gives [bytes, of] of each
   * figure, `of` as of `readings`; map: gives the bytes at whose strongest pixel it opens.
   */
  constructor(box, bar, shape, { read, map }) {
    const [rows, columns] = shape;
    this.box = box;
    this.bar = bar;
    this.shape = shape;
    this.read = read;
    this.map = map;
    this.on = false;
    this.at = null;
    bar.classList.add("fv-lens");
    const place = (name, most) => `<label>${name} <input type="number" min="0" max="${most - 1}" step="1" aria-label="${name[0].toUpperCase()}${name.slice(1)} of the pixel in the lens"></label>`;
    bar.innerHTML = `<div class="fv-lens-set"><button type="button" class="fv-lens-on" aria-pressed="false" title="pixel values, enlarged">lens</button>
      <span class="fv-lens-at" hidden>${place("row", rows)}${place("column", columns)}<span class="fv-quiet">or point at an image</span></span></div><div class="fv-crops" hidden></div>`;
    this.$ = (selector) => bar.querySelector(selector);
    this.$("button").addEventListener("click", () => this.turn(!this.on));
    this.inputs = [...bar.querySelectorAll("input")];
    this.inputs.forEach((input) => input.addEventListener("input", () => this.go(...this.inputs.map((i) => Number(i.value)))));
    const to = (event) => {
      const canvas = event.target.closest?.("canvas");
      if (!canvas) return false;
      const edge = canvas.getBoundingClientRect();
      this.go(Math.floor(((event.clientY - edge.top) / edge.height) * rows), Math.floor(((event.clientX - edge.left) / edge.width) * columns));
      return true;
    };
    box.addEventListener("pointerdown", (event) => {
      if (!to(event)) return;
      if (!this.on) this.turn(true);
      event.target.releasePointerCapture?.(event.pointerId); // a finger that moves on to the next image reads that one
    });
    box.addEventListener("pointermove", (event) => this.on && to(event));
  }

  turn(on) {
    this.on = on;
    this.$("button").setAttribute("aria-pressed", on);
    this.$(".fv-lens-at").hidden = this.$(".fv-crops").hidden = !on;
    this.box.toggleAttribute("data-lens", on);
    if (on && !this.at) this.forget();
    this.show();
  }

  go(row, column) {
    const within = (v, most) => Math.max(0, Math.min(most - 1, Math.round(v) || 0));
    this.at = [within(row, this.shape[0]), within(column, this.shape[1])];
    this.show();
  }

  /** Another input is here: the lens opens elsewhere. */
  forget() {
    this.at = this.on ? strongest(this.map(), this.shape) : null;
  }

  /** Enlarge what the plates show now. */
  show() {
    this.box.querySelectorAll(".fv-spot").forEach((spot) => spot.remove());
    if (!this.on) return;
    const [row, column] = this.at;
    const shown = [...this.box.querySelectorAll("figure")].map((f) => [f.querySelector("figcaption").textContent, f.querySelector("canvas")]);
    const words = this.read().map(([bytes, of]) => readings(bytes, this.shape, row, column, of));
    this.inputs.forEach((input, i) => { if (Number(input.value) !== this.at[i] || input.value === "") input.value = this.at[i]; });
    this.$(".fv-crops").innerHTML = shown.map(([name], i) =>
      `<div class="fv-crop"><canvas width="${ACROSS * ZOOM}" height="${ACROSS * ZOOM}" role="img" aria-label="${escape(name)} around row ${row}, column ${column}, enlarged"></canvas>` +
      `<div><b>${escape(name).replace(/([a-z])(?=[A-Z])/g, "$1<wbr>")}</b>${words[i].map((w) => `<span>${escape(w)}</span>`).join("")}</div></div>`).join("");
    const half = (ACROSS - 1) / 2;
    this.bar.querySelectorAll("canvas").forEach((canvas, i) => {
      const context = canvas.getContext("2d");
      const [, source] = shown[i];
      context.imageSmoothingEnabled = false;
      context.drawImage(source, column - half, row - half, ACROSS, ACROSS, 0, 0, canvas.width, canvas.height);
      context.strokeStyle = "#000";
      context.strokeRect(half * ZOOM - 0.5, half * ZOOM - 0.5, ZOOM + 1, ZOOM + 1);
      context.strokeStyle = "#fff";
      context.strokeRect(half * ZOOM - 1.5, half * ZOOM - 1.5, ZOOM + 3, ZOOM + 3);
      const unit = source.clientWidth / source.width;
      const spot = Object.assign(document.createElement("i"), { className: "fv-spot" });
      Object.assign(spot.style, { left: `${(column - half) * unit}px`, top: `${(row - half) * unit}px`, width: `${ACROSS * unit}px`, height: `${ACROSS * unit}px` });
      source.parentElement.append(spot);
    });
  }
}
