// The kinds of operation that fimviz/playground/rules.py knows, forward and backward. Each is made once, of what Python
// wrote down of it, and gives `forward(sources, out)` and `backward(sources, out, grads, grad, count)`: the values that
// it reads and the one that it fills, and cotangents of them, `count` after each other, to which it adds. What is null
// among `grads` is a constant.
import { ACTIVATIONS } from "./activations.js";
import { multiply, transposed } from "./matrix.js";

const each = (size, run) => { for (let i = 0; i < size; i++) run(i); };

function linear({ rows, weight, size: outputs, sizes: [inputs] }) {
  const [o, i] = [outputs / rows, inputs / rows];
  const back = weight;
  const ahead = transposed(o, i, weight);
  return {
    forward([x], out) {
      out.fill(0);
      multiply(rows, i, o, x, 0, ahead, 0, out, 0);
    },
    backward(_, __, [gx], g, count) {
      multiply(count * rows, o, i, g, 0, back, 0, gx, 0);
    },
  };
}

/** Where each number of the patches that a convolution multiplies stands in its plane, −1 for outside: (taps, places). */
function patches([h, w], [kh, kw], [oh, ow], [sh, sw], [ph, pw], [dh, dw]) {
  const at = new Int32Array(kh * kw * oh * ow).fill(-1);
  for (let ky = 0, to = 0; ky < kh; ky++) for (let kx = 0; kx < kw; kx++) {
    for (let oy = 0; oy < oh; oy++) for (let ox = 0; ox < ow; ox++, to++) {
      const [y, x] = [oy * sh - ph + ky * dh, ox * sw - pw + kx * dw];
      if (y >= 0 && x >= 0 && y < h && x < w) at[to] = y * w + x;
    }
  }
  return at;
}

function conv({ weight, bias, groups, inputs, outputs, area, kernel, onto, stride, padding, dilation }) {
  const [taps, room, places] = [kernel[0] * kernel[1], area[0] * area[1], onto[0] * onto[1]];
  const [ins, outs] = [inputs / groups, outputs / groups];
  const patch = ins * taps;
  const at = patches(area, kernel, onto, stride, padding, dilation);
  const turned = new Float64Array(weight.length); // of a group: (patch, outputs)
  for (let g = 0; g < groups; g++) transposed(outs, patch, weight, g * outs * patch, turned.subarray(g * outs * patch));
  const columns = new Float64Array(patch * places);
  return {
    forward([x], out) {
      for (let o = 0; o < outputs; o++) out.fill(bias ? bias[o] : 0, o * places, (o + 1) * places);
      for (let g = 0; g < groups; g++) {
        for (let c = 0, to = 0; c < ins; c++) {
          const from = (g * ins + c) * room;
          for (let k = 0; k < at.length; k++, to++) columns[to] = at[k] < 0 ? 0 : x[from + at[k]];
        }
        multiply(outs, patch, places, weight, g * outs * patch, columns, 0, out, g * outs * places);
      }
    },
    backward(_, __, [gx], grad, count) {
      for (let m = 0; m < count; m++) for (let g = 0; g < groups; g++) {
        columns.fill(0);
        multiply(patch, outs, places, turned, g * outs * patch, grad, (m * outputs + g * outs) * places, columns, 0);
        for (let c = 0, from = 0; c < ins; c++) {
          const to = (m * inputs + g * ins + c) * room;
          for (let k = 0; k < at.length; k++, from++) if (at[k] >= 0) gx[to + at[k]] += columns[from];
        }
      }
    },
  };
}

function matmul({ shape: [batch, n, m, p] }) {
  const [a, b, c] = [n * m, m * p, n * p];
  const turned = new Float64Array(Math.max(a, b));
  return {
    forward([A, B], out) {
      out.fill(0);
      for (let k = 0; k < batch; k++) multiply(n, m, p, A, k * a, B, k * b, out, k * c);
    },
    backward([A, B], _, [gA, gB], g, count) {
      for (let k = 0; k < batch; k++) {
        if (gA) {
          transposed(m, p, B, k * b, turned);
          for (let i = 0; i < count; i++) multiply(n, p, m, g, (i * batch + k) * c, turned, 0, gA, (i * batch + k) * a);
        }
        if (gB) {
          transposed(n, m, A, k * a, turned);
          for (let i = 0; i < count; i++) multiply(m, n, p, turned, 0, g, (i * batch + k) * c, gB, (i * batch + k) * b);
        }
      }
    },
  };
}

/** Numbers from other places, of several sources one behind the other; −1 stands for 0. */
function gather({ at, size, sizes }) {
  const starts = sizes.map((_, s) => sizes.slice(0, s).reduce((total, n) => total + n, 0));
  const own = Int32Array.from(at, (i) => (i < 0 ? -1 : starts.findLastIndex((start) => start <= i)));
  const place = Int32Array.from(at, (i, k) => (i < 0 ? 0 : i - starts[own[k]]));
  return {
    forward(sources, out) {
      for (let k = 0; k < size; k++) out[k] = own[k] < 0 ? 0 : sources[own[k]][place[k]];
    },
    backward(_, __, grads, g, count) {
      grads.forEach((grad, s) => {
        if (!grad) return;
        for (let k = 0; k < size; k++) {
          if (own[k] !== s) continue;
          for (let m = 0, to = place[k], from = k; m < count; m++, to += sizes[s], from += size) grad[to] += g[from];
        }
      });
    },
  };
}

function affine({ scale, shift, inner, size }) {
  const spread = (values) => typeof values === "number" ? new Float64Array(size).fill(values) : Float64Array.from({ length: size }, (_, i) => values[Math.floor(i / inner)]);
  const [times, plus] = [spread(scale), spread(shift)];
  return {
    forward([x], out) { for (let i = 0; i < size; i++) out[i] = times[i] * x[i] + plus[i]; },
    backward(_, __, [gx], g, count) {
      for (let m = 0, at = 0; m < count; m++) for (let i = 0; i < size; i++, at++) gx[at] += times[i] * g[at];
    },
  };
}

function unary({ of, by, size }) {
  const [value, slope] = ACTIVATIONS[of];
  const slopes = new Float64Array(size);
  return {
    forward([x], out) { for (let i = 0; i < size; i++) out[i] = value(x[i], by); },
    backward([x], out, [gx], g, count) {
      each(size, (i) => { slopes[i] = slope(x[i], by, out[i]); });
      for (let m = 0, at = 0; m < count; m++) for (let i = 0; i < size; i++, at++) gx[at] += slopes[i] * g[at];
    },
  };
}

const PAIRS = { // value and the two slopes
  add: [(a, b) => a + b, () => 1, () => 1],
  sub: [(a, b) => a - b, () => 1, () => -1],
  mul: [(a, b) => a * b, (_, b) => b, (a) => a],
  div: [(a, b) => a / b, (_, b) => 1 / b, (a, b) => -a / (b * b)],
  maximum: [Math.max, (a, b) => (a > b ? 1 : a === b ? 0.5 : 0), (a, b) => (b > a ? 1 : a === b ? 0.5 : 0)],
  minimum: [Math.min, (a, b) => (a < b ? 1 : a === b ? 0.5 : 0), (a, b) => (b < a ? 1 : a === b ? 0.5 : 0)],
};

function binary({ of, size }) {
  const [value, ...slopes] = PAIRS[of];
  const known = new Float64Array(size);
  return {
    forward([a, b], out) { for (let i = 0; i < size; i++) out[i] = value(a[i], b[i]); },
    backward([a, b], _, grads, g, count) {
      grads.forEach((grad, s) => {
        if (!grad) return;
        each(size, (i) => { known[i] = slopes[s](a[i], b[i]); });
        for (let m = 0, at = 0; m < count; m++) for (let i = 0; i < size; i++, at++) grad[at] += known[i] * g[at];
      });
    },
  };
}

/** The largest of each window, the first of equals: a maximum that reads what lies outside would be none. */
function max({ at, width, size, sizes: [room] }) {
  const chosen = new Int32Array(size);
  return {
    forward([x], out) {
      for (let o = 0, k = 0; o < size; o++) {
        let best = -1;
        for (let i = 0; i < width; i++, k++) if (at[k] >= 0 && (best < 0 || x[at[k]] > x[best])) best = at[k];
        chosen[o] = best;
        out[o] = x[best];
      }
    },
    backward(_, __, [gx], g, count) {
      for (let m = 0, from = 0; m < count; m++) for (let o = 0; o < size; o++, from++) gx[m * room + chosen[o]] += g[from];
    },
  };
}

function sum({ at, width, weight, size, sizes: [room] }) {
  return {
    forward([x], out) {
      for (let o = 0, k = 0; o < size; o++) {
        let total = 0;
        for (let i = 0; i < width; i++, k++) if (at[k] >= 0) total += x[at[k]];
        out[o] = weight[o] * total;
      }
    },
    backward(_, __, [gx], g, count) {
      for (let m = 0, from = 0; m < count; m++) for (let o = 0, k = 0; o < size; o++, from++) {
        const share = weight[o] * g[from];
        for (let i = 0; i < width; i++, k++) if (at[k] >= 0) gx[m * room + at[k]] += share;
      }
    },
  };
}

/** Of rows, one after the other: x − log Σ eˣ, whose largest goes first. */
function logSums(x, width, out) {
  for (let r = 0; r < x.length; r += width) {
    let most = -Infinity, total = 0;
    for (let i = r; i < r + width; i++) most = Math.max(most, x[i]);
    for (let i = r; i < r + width; i++) total += Math.exp(x[i] - most);
    for (let i = r; i < r + width; i++) out[i] = x[i] - most - Math.log(total);
  }
}

function softmax({ width, size }) {
  return {
    forward([x], out) {
      logSums(x, width, out);
      for (let i = 0; i < size; i++) out[i] = Math.exp(out[i]);
    },
    backward(_, p, [gx], g, count) {
      for (let m = 0, at = 0; m < count; m++) for (let r = 0; r < size; r += width, at += width) {
        let mean = 0;
        for (let i = 0; i < width; i++) mean += p[r + i] * g[at + i];
        for (let i = 0; i < width; i++) gx[at + i] += p[r + i] * (g[at + i] - mean);
      }
    },
  };
}

function logsoftmax({ width, size }) {
  return {
    forward([x], out) { logSums(x, width, out); },
    backward(_, out, [gx], g, count) {
      for (let m = 0, at = 0; m < count; m++) for (let r = 0; r < size; r += width, at += width) {
        let total = 0;
        for (let i = 0; i < width; i++) total += g[at + i];
        for (let i = 0; i < width; i++) gx[at + i] += g[at + i] - Math.exp(out[r + i]) * total;
      }
    },
  };
}

/** (x − mean)/√(variance + eps) of rows. */
function norm({ width, eps, size }) {
  const spreads = new Float64Array(size / width);
  return {
    forward([x], out) {
      for (let r = 0, row = 0; r < size; r += width, row++) {
        let mean = 0, variance = 0;
        for (let i = r; i < r + width; i++) mean += x[i] / width;
        for (let i = r; i < r + width; i++) variance += (x[i] - mean) ** 2 / width;
        spreads[row] = 1 / Math.sqrt(variance + eps);
        for (let i = r; i < r + width; i++) out[i] = (x[i] - mean) * spreads[row];
      }
    },
    backward(_, out, [gx], g, count) {
      for (let m = 0, at = 0; m < count; m++) for (let r = 0, row = 0; r < size; r += width, row++, at += width) {
        let mean = 0, along = 0;
        for (let i = 0; i < width; i++) {
          mean += g[at + i] / width;
          along += (g[at + i] * out[r + i]) / width;
        }
        for (let i = 0; i < width; i++) gx[at + i] += spreads[row] * (g[at + i] - mean - out[r + i] * along);
      }
    },
  };
}

/** What torch.detach does: the value goes on, no gradient comes back. */
const stop = () => ({ forward([x], out) { out.set(x); }, backward() {} });

export const LAYERS = { linear, conv, matmul, gather, affine, unary, binary, max, sum, softmax, logsoftmax, norm, stop };
