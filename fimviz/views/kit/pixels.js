// Arrays that travel from Python, and how they become pixels. Pure functions: node and the browser test them.
import { diverging } from "./palette.js";

/** What Python packed: {data, part}, a JSON value and the bytes at [offset, length] behind it. */
export async function unpack(packed) {
  const deflated = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const stream = new Blob([deflated]).stream().pipeThrough(new DecompressionStream("deflate"));
  const all = await new Response(stream).arrayBuffer();
  const start = 4 + new DataView(all).getUint32(0, true);
  const data = JSON.parse(new TextDecoder().decode(new Uint8Array(all, 4, start - 4)));
  const raw = (offset, length) => all.slice(start + offset, start + offset + length);
  const pictures = (data.pictures ?? []).map(async ([offset, length, channels, signed]) => [offset, await pictured(raw(offset, length), channels, signed)]);
  const known = new Map(await Promise.all(pictures));
  return { data, part: ([offset, length]) => known.get(offset) ?? raw(offset, length) };
}

/** The bytes of a compressed picture, channel by channel of each pixel; signed ones travel with 128 for 0. */
async function pictured(file, channels, signed) {
  const bitmap = await createImageBitmap(new Blob([file]), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const out = new Uint8Array((rgba.length / 4) * channels);
  for (let p = 0, o = 0; p < rgba.length; p += 4) for (let c = 0; c < channels; c++) out[o++] = rgba[p + c] ^ (signed ? 128 : 0);
  return out.buffer;
}

/**
 * Write x + ε v as RGBA into `out` and count the values that leave [0, 1] visibly.
 * x: bytes, 0…255 for 0…1; v: signed bytes, ±127 for ±1; step: ε times the largest |v| in units of the input range.
 */
export function blend(out, x, v, step, channels) {
  const gain = (255 * step) / 127;
  let outside = 0;
  for (let i = 0, o = 0; i < x.length; i += channels, o += 4) {
    for (let c = 0; c < 3; c++) {
      const at = channels === 1 ? i : i + c;
      const value = x[at] + gain * (v[at] === -128 ? 0 : v[at]);
      out[o + c] = value; // Uint8ClampedArray rounds and clamps
      if ((c === 0 || channels === 3) && (value < -0.5 || value > 255.5)) outside++;
    }
    out[o + 3] = 255;
  }
  return outside;
}

const TABLE = Array.from({ length: 256 }, (_, i) => diverging((i - 128) / 127));

/**
 * The signed value of each pixel: `channel` is an index, "mean" or "strongest" (the channel of largest magnitude).
 * −128, the code of NaN, stays −128.
 */
export function signedMap(v, channels, channel) {
  if (channels === 1) return v;
  const out = new Int8Array(v.length / channels);
  for (let p = 0; p < out.length; p++) {
    const own = v.subarray(p * channels, (p + 1) * channels);
    if (own.includes(-128)) out[p] = -128;
    else if (channel === "mean") out[p] = Math.round(own.reduce((a, b) => a + b, 0) / channels);
    else if (channel === "strongest") out[p] = own.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a), 0);
    else out[p] = own[channel];
  }
  return out;
}

/** Paint a signed map as RGBA, ±127 ÷ stretch and more in the colours' ends; a NaN is a grey chequer that no value has. */
export function paint(out, map, width, sign, stretch = 1) {
  for (let p = 0, o = 0; p < map.length; p++, o += 4) {
    const grey = (p + Math.floor(p / width)) % 2 ? 90 : 150;
    const [r, g, b] = map[p] === -128 ? [grey, grey, grey] : TABLE[Math.max(-127, Math.min(127, Math.round(sign * stretch * map[p]))) + 128];
    out[o] = r;
    out[o + 1] = g;
    out[o + 2] = b;
    out[o + 3] = 255;
  }
}
