// The margin view: the images along a path and what sets them apart from its start.
import { blend, paint, signedMap } from "../kit/pixels.js";
import { series } from "../kit/chart.js";
import { ends } from "../kit/contrast.js";
import { Lens, ofImage, ofMap } from "../kit/lens.js";
import { number } from "../kit/numbers.js";
import { frameAt } from "./paths.js";
import { canvasIn } from "../kit/stage.js";

/** The view with this part of it. @param {any} Base @returns {any} */
export const withImages = (Base) => class extends Base {
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
    const [most] = ends(trace, this.contrast.gain);
    const end = number(kind === "series" ? trace.scale : most);
    const label = `difference from the start, from −${end} to ${end}`;
    if (kind === "series") {
      plate.innerHTML = series({ width: target, height: Math.round(target * 0.6), values, range: [-(trace.scale || 1), trace.scale || 1], color: "var(--fv-accent)", label });
      return;
    }
    const [h, w, channels] = shape;
    const canvas = canvasIn(plate, w, h, target, label);
    const frame = canvas.getContext("2d").createImageData(w, h);
    paint(frame.data, signedMap(Int8Array.from(values, Math.round), channels, "strongest"), w, 1, trace.scale / most || 1);
    canvas.getContext("2d").putImageData(frame, 0, 0);
  }

  /** A lens over the start, here and what sets them apart. */
  looking() {
    const { shape, range } = this.data;
    const image = ofImage(range);
    const read = () => {
      const { sample, trace, here } = this;
      const step = (255 * trace.scale) / 127 / (range[1] - range[0]);
      return [[this.values(sample), image], [this.values(sample), (b, i) => image(b + (here[i] === -128 ? 0 : step * here[i]))], [here, ofMap(trace.scale)]];
    };
    this.lens = new Lens(this.$(".fv-images"), this.$(".fv-look"), shape, { read, map: () => this.trace.maps.at(-1) ?? this.values(this.sample) });
  }

  film() {
    const { trace, sample } = this;
    const most = Math.max(2, Math.floor((this.right + 4) / 62));
    const count = Math.min(most, trace.kept.length);
    const places = [...new Set(Array.from({ length: count }, (_, i) => Math.round((i * (trace.kept.length - 1)) / Math.max(1, count - 1))))];
    // as few digits as tell the frames apart; a path that goes nowhere has steps to tell, but no lengths
    const texts = (digits) => places.map((place) => number(trace.fr[trace.kept[place]], trace.fr[trace.kept[place]] < 1e-3 ? Math.max(1, digits - 1) : digits));
    const labels = trace.length < 1e-3 ? places.map((place) => `step ${trace.kept[place]}`) : texts([2, 3, 4].find((d) => new Set(texts(d)).size === places.length) ?? 4);
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
};
