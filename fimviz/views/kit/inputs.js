// Inputs and signed maps on a plate: images as whole pixels of the screen, anything else as bars or a curve.
import { series } from "./chart.js";
import { number } from "./numbers.js";
import { blend, paint, signedMap } from "./pixels.js";
import { ends } from "./contrast.js";
import { canvasIn } from "./stage.js";

/** Give an input its bytes, or its values where it is no image. */
export function readInput(holder, { kind }, part) {
  if (kind === "series") holder.values ??= new Float32Array(part(holder.image));
  else holder.bytes ??= new Uint8Array(part(holder.image));
  return holder;
}

/** Give a signed map its bytes, or its values: as `readInput`. */
export function readDirection(holder, { kind }, part) {
  if (kind === "series") holder.values ??= new Float32Array(part(holder.map));
  else holder.bytes ??= new Int8Array(part(holder.map));
  return holder;
}

/** Fill a plate with an input, moved by each [direction, ε]; returns how many values leave the range. */
export function picture(plate, holder, { kind, shape, range }, target, label = "", moves = []) {
  const width = range[1] - range[0];
  if (kind === "series") {
    const x = holder.values;
    const moved = x.map((a, i) => moves.reduce((sum, [d, e]) => sum + e * d.values[i], a));
    const pad = 0.05 * width;
    plate.innerHTML = series({ width: target, height: Math.round(target * 0.6), values: moved, range: [Math.min(0, range[0]) - pad, range[1] + pad],
      ghost: moves.length ? x : null, color: "var(--fv-accent)", label: label || `${x.length} values` });
    return moved.filter((a) => a < range[0] - 1e-6 || a > range[1] + 1e-6).length;
  }
  const [h, w, channels] = shape;
  const canvas = canvasIn(plate, w, h, target, label);
  const frame = (canvas.frame ??= canvas.getContext("2d").createImageData(w, h));
  const [v, step] = along(holder, moves, width);
  const outside = blend(frame.data, holder.bytes, v, step, channels);
  canvas.getContext("2d").putImageData(frame, 0, 0);
  return outside;
}

/** One map and step that stand for all moves. */
function along(holder, moves, width) {
  if (!moves.length) return [(holder.still ??= new Int8Array(holder.bytes.length)), 0];
  if (moves.length === 1) return [moves[0][0].bytes, (moves[0][1] * moves[0][0].scale) / width];
  const v = new Float32Array(holder.bytes.length);
  for (const [d, e] of moves) for (let i = 0; i < v.length; i++) if (d.bytes[i] !== -128) v[i] += e * d.scale * d.bytes[i];
  return [v, 1 / width];
}

const MIDDLE = 127.5;

/** Fill a plate with what a step along a direction changes, so many times as strong, on grey; returns how many values leave the range. */
export function difference(plate, direction, { shape: [h, w, channels], range }, target, label, step, times) {
  const canvas = canvasIn(plate, w, h, target, label);
  const frame = (canvas.frame ??= canvas.getContext("2d").createImageData(w, h));
  const grey = (canvas.grey ??= new Float32Array(direction.bytes.length).fill(MIDDLE));
  const outside = blend(frame.data, grey, direction.bytes, (times * step * direction.scale) / (range[1] - range[0]), channels);
  canvas.getContext("2d").putImageData(frame, 0, 0);
  return outside;
}

/** Fill a plate with a signed map, zero in the neutral middle. */
export function signedPicture(plate, direction, { kind, shape }, { sign = 1, channel = "strongest", target, name, gain = 1 }) {
  if (kind === "series") {
    plate.innerHTML = series({ width: target, height: Math.round(target * 0.6), values: direction.values.map((a) => sign * a),
      range: [-direction.scale, direction.scale], color: "var(--fv-accent)", label: `${name}, largest component ${number(direction.scale)}` });
    return;
  }
  const [h, w, channels] = shape;
  const [most] = ends(direction, gain);
  const canvas = canvasIn(plate, w, h, target, `${name}, colours from −${number(most)} to ${number(most)}`);
  const frame = canvas.getContext("2d").createImageData(w, h);
  paint(frame.data, signedMap(direction.bytes, channels, channel), w, sign, direction.scale / most || 1);
  canvas.getContext("2d").putImageData(frame, 0, 0);
}
