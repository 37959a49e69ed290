// Functions of one number with their slopes, by torch's conventions at kinks: [value, slope] of x and parameters, the
// slope also told the value.

const TWO_OVER_ROOT_PI = 2 / Math.sqrt(Math.PI);
const sigmoid = (x) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));
const softplus = (x) => (x > 0 ? x + Math.log1p(Math.exp(-x)) : Math.log1p(Math.exp(x)));

/** The error function to the last digits: its series near 0, a continued fraction of its complement beyond. */
export function erf(x) {
  const size = Math.abs(x);
  if (size < 2.5) {
    let term = x, sum = x;
    for (let n = 1; n < 80 && Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
      term *= -x * x / n;
      sum += term / (2 * n + 1);
    }
    return TWO_OVER_ROOT_PI * sum;
  }
  if (size > 6) return Math.sign(x);
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (size + fraction);
  return Math.sign(x) * (1 - Math.exp(-x * x) / Math.sqrt(Math.PI) / (size + fraction));
}

const SIXTH = Math.fround(1 / 6); // torch's slope of hardsigmoid, in float64 too
const ROOT_2_OVER_PI = Math.sqrt(2 / Math.PI);
const inner = (x) => Math.tanh(ROOT_2_OVER_PI * (x + 0.044715 * x ** 3));

export const ACTIVATIONS = {
  relu: [(x) => (x > 0 ? x : 0), (x) => (x > 0 ? 1 : 0)],
  leaky: [(x, [slope]) => (x > 0 ? x : slope * x), (x, [slope]) => (x > 0 ? 1 : slope)],
  elu: [
    (x, [alpha, scale, input]) => scale * (x > 0 ? x : alpha * Math.expm1(input * x)),
    (x, [alpha, scale, input]) => scale * (x > 0 ? 1 : alpha * input * Math.exp(input * x)),
  ],
  clip: [(x, [low, high]) => Math.min(high, Math.max(low, x)), (x, [low, high]) => (x > low && x < high ? 1 : 0)],
  clamp: [(x, [low, high]) => Math.min(high, Math.max(low, x)), (x, [low, high]) => (x >= low && x <= high ? 1 : 0)],
  threshold: [(x, [at, value]) => (x > at ? x : value), (x, [at]) => (x > at ? 1 : 0)],
  sigmoid: [sigmoid, (x, _, y) => y * (1 - y)],
  logsigmoid: [(x) => -softplus(-x), (x) => sigmoid(-x)],
  tanh: [Math.tanh, (x, _, y) => 1 - y * y],
  silu: [(x) => x * sigmoid(x), (x, _, y) => { const s = sigmoid(x); return s + y * (1 - s); }],
  mish: [
    (x) => x * Math.tanh(softplus(x)),
    (x) => { const t = Math.tanh(softplus(x)); return t + x * (1 - t * t) * sigmoid(x); },
  ],
  hardswish: [(x) => (x * Math.min(6, Math.max(0, x + 3))) / 6, (x) => (x <= -3 ? 0 : x < 3 ? x / 3 + 0.5 : 1)],
  hardsigmoid: [(x) => Math.min(6, Math.max(0, x + 3)) / 6, (x) => (x > -3 && x < 3 ? SIXTH : 0)],
  softplus: [
    (x, [beta, end]) => (beta * x > end ? x : softplus(beta * x) / beta),
    (x, [beta, end]) => (beta * x > end ? 1 : sigmoid(beta * x)),
  ],
  gelu: [
    (x, [tanh]) => 0.5 * x * (1 + (tanh ? inner(x) : erf(x * Math.SQRT1_2))),
    (x, [tanh]) => {
      if (!tanh) return 0.5 * (1 + erf(x * Math.SQRT1_2)) + (x * Math.exp(-0.5 * x * x)) / Math.sqrt(2 * Math.PI);
      const t = inner(x);
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * ROOT_2_OVER_PI * (1 + 3 * 0.044715 * x * x);
    },
  ],
  erf: [erf, (x) => TWO_OVER_ROOT_PI * Math.exp(-x * x)],
  exp: [Math.exp, (x, _, y) => y],
  log: [Math.log, (x) => 1 / x],
  abs: [Math.abs, Math.sign],
  power: [(x, [p]) => x ** p, (x, [p]) => p * x ** (p - 1)],
  sin: [Math.sin, Math.cos],
  cos: [Math.cos, (x) => -Math.sin(x)],
};
