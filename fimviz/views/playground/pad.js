// The drawing surface: pen, finger and keys put ink on an image's pixels.
import { canvasIn } from "../kit/stage.js";
import { stepBy } from "../kit/keys.js";

export const BRUSHES = { fine: 0.6, medium: 1, thick: 1.8 };

/** The radius of a brush in pixels of an image: a pixel wide on the smallest ones, a twelfth of its height on others. */
export const radiusOf = (height, times) => times * Math.max(0.5, height / 24);

/**
 * Ink along a line between two points [row, column] in pixels: each pixel gets as much as the round brush covers of it, and
 * none loses any. `ink` is a value a channel, toward which pixels go by the share covered.
 * @returns the number of pixels that changed
 */
export function stroke(x, [height, width, channels], [r0, c0], [r1, c1], radius, ink) {
  const plane = height * width;
  const [dr, dc] = [r1 - r0, c1 - c0];
  const long = dr * dr + dc * dc;
  let changed = 0;
  for (let row = 0; row < height; row++) for (let column = 0; column < width; column++) {
    const t = long > 0 ? Math.max(0, Math.min(1, ((row - r0) * dr + (column - c0) * dc) / long)) : 0;
    const share = Math.max(0, Math.min(1, radius + 0.5 - Math.hypot(row - r0 - t * dr, column - c0 - t * dc)));
    if (share === 0) continue;
    const at = row * width + column;
    let own = false;
    for (let c = 0; c < channels; c++) {
      const before = x[c * plane + at];
      const wanted = channels === 1 ? covered(before, ink[0], ink[1], share) : before + share * (ink[c] - before);
      if (wanted !== before) [x[c * plane + at], own] = [wanted, true];
    }
    if (own) changed++;
  }
  return changed;
}

/** Grey ink only adds up to its share of the way from paper, so that a second stroke over the first makes no edge harder. */
function covered(before, ink, paper, share) {
  const wanted = paper + share * (ink - paper);
  return ink > paper ? Math.max(before, wanted) : Math.min(before, wanted);
}

/** Values (channels, height, width) as RGBA, and how many leave the range visibly. */
export function paintValues(out, x, [height, width, channels], [low, high]) {
  const plane = height * width;
  let outside = 0;
  for (let p = 0, o = 0; p < plane; p++, o += 4) {
    for (let c = 0; c < 3; c++) {
      const level = (255 * (x[(channels === 1 ? 0 : c) * plane + p] - low)) / (high - low);
      out[o + c] = level; // Uint8ClampedArray rounds and clamps
      if ((c === 0 || channels === 3) && (level < -0.5 || level > 255.5)) outside++;
    }
    out[o + 3] = 255;
  }
  return outside;
}

/** Fill a plate with values; returns how many leave the range. */
export function showValues(plate, x, { shape, range }, target, label = "") {
  const [h, w] = shape;
  const canvas = canvasIn(plate, w, h, target, label);
  const frame = (canvas.frame ??= canvas.getContext("2d").createImageData(w, h));
  const outside = paintValues(frame.data, x, shape, range);
  canvas.getContext("2d").putImageData(frame, 0, 0);
  return outside;
}

/** Frame a pixel on a plate, or none. */
export function spotOn(plate, at, className) {
  plate.querySelector(`.${className.split(" ").at(-1)}`)?.remove();
  const canvas = plate.querySelector("canvas");
  if (!at || !canvas) return;
  const unit = canvas.clientWidth / canvas.width;
  const spot = Object.assign(document.createElement("i"), { className });
  Object.assign(spot.style, { left: `${at[1] * unit}px`, top: `${at[0] * unit}px`, width: `${unit}px`, height: `${unit}px` });
  plate.append(spot);
}

/**
 * The canvas to draw on. `owner` has `x`, the values; `tool`: "draw", "erase" or "ask"; `brush`; `ink()`; and hears
 * `begun()` before a stroke, `drawn()` after each of its parts, and `ask(row, column)`.
 */
export class Pad {
  constructor(plate, data, owner) {
    this.plate = plate;
    this.data = data;
    this.owner = owner;
    this.at = null; // the pixel of the keys' cursor
    this.last = null; // where the pointer was, while it is down
    const [h, w] = data.shape;
    const canvas = canvasIn(plate, w, h, 256, "Drawing");
    canvas.dataset.fv = "draw";
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-roledescription", "drawing surface");
    canvas.setAttribute("aria-describedby", owner.describedBy);
    this.canvas = canvas;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (this.last = null));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.cursor());
    canvas.addEventListener("blur", () => this.cursor());
  }

  /** The surface at a size, with what is drawn. */
  show(target) {
    const [h, w] = this.data.shape;
    canvasIn(this.plate, w, h, target);
    Object.assign(this.canvas.style, { touchAction: "none" });
    this.canvas.setAttribute("role", "application");
    this.refresh();
  }

  refresh() {
    const { canvas, data } = this;
    const frame = (canvas.frame ??= canvas.getContext("2d").createImageData(canvas.width, canvas.height));
    paintValues(frame.data, this.owner.x, data.shape, data.range);
    canvas.getContext("2d").putImageData(frame, 0, 0);
    this.canvas.setAttribute("aria-label", this.words());
    this.cursor();
  }

  words() {
    const [row, column] = this.at ?? [];
    return this.at ? `Drawing, row ${row}, column ${column}` : "Drawing";
  }

  /** Where the keys would draw, while they can. */
  cursor() {
    spotOn(this.plate, this.at && this.canvas.matches(":focus") ? this.at : null, "fv-spot fv-cursor");
  }

  /**
   * The point of a pointer in pixels, [row, column], 0 in the middle of the first.
   * @returns {[number, number]}
   */
  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const [h, w] = this.data.shape;
    return [((event.clientY - box.top) / box.height) * h - 0.5, ((event.clientX - box.left) / box.width) * w - 0.5];
  }

  down(event) {
    if (event.button) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const at = this.point(event);
    this.at = this.cell(at);
    if (this.owner.tool === "ask") this.owner.ask(...this.at);
    else {
      this.owner.begun();
      this.dab(at, at);
    }
    this.last = at;
  }

  move(event) {
    if (!this.last) return;
    for (const part of event.getCoalescedEvents?.() ?? [event]) {
      const at = this.point(part);
      this.at = this.cell(at);
      if (this.owner.tool !== "ask") this.dab(this.last, at);
      this.last = at;
    }
    if (this.owner.tool === "ask") this.owner.ask(...this.at);
  }

  /** @returns {[number, number]} the pixel that a point lies in */
  cell([row, column]) {
    const [h, w] = this.data.shape;
    return [Math.max(0, Math.min(h - 1, Math.round(row))), Math.max(0, Math.min(w - 1, Math.round(column)))];
  }

  dab(from, to, erase = this.owner.tool === "erase") {
    const { data: { shape }, owner } = this;
    if (stroke(owner.x, shape, from, to, radiusOf(shape[0], owner.brush), owner.ink(erase))) owner.drawn();
  }

  /** Arrow keys move a cursor, with Shift they draw on the way; Space draws, Backspace and Delete rub out, Enter asks. */
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [h, w] = this.data.shape;
    const at = this.at ?? [h >> 1, w >> 1];
    const step = stepBy(event.key);
    const rubs = event.key === "Backspace" || event.key === "Delete";
    if (!step && !rubs && event.key !== " " && event.key !== "Enter") return;
    event.preventDefault();
    this.at = step && this.at ? this.cell([at[0] + step[1], at[1] + step[0]]) : at;
    if (event.key === "Enter") this.owner.ask(...this.at);
    else if (!step || event.shiftKey) {
      this.owner.begun();
      this.dab(step ? at : this.at, this.at, rubs || this.owner.tool === "erase");
    }
    this.canvas.setAttribute("aria-label", this.words());
    this.cursor();
  }
}
