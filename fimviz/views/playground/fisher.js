// The Fisher information of an input in the space of classes, as fimviz/model/likelihoods/categorical.py has it: in the
// differences of logits to the winner's, so that 1 − p of a sure answer is never formed by subtraction.
import { eigen } from "./matrix.js";

/** What logits say: {winner, runner (the next class), logp (K), p (K), doubt (1 − p of the winner)}. */
export function answer(z) {
  let winner = 0;
  for (let c = 1; c < z.length; c++) if (z[c] > z[winner]) winner = c;
  let runner = winner ? 0 : 1;
  for (let c = 0; c < z.length; c++) if (c !== winner && z[c] > z[runner]) runner = c;
  const odds = z.reduce((sum, value, c) => sum + (c === winner ? 0 : Math.exp(value - z[winner])), 0);
  const logp = Float64Array.from(z, (value) => value - z[winner] - Math.log1p(odds));
  return { winner, runner, logp, p: logp.map(Math.exp), doubt: odds / (1 + odds) };
}

/**
 * Everything about an input: what the network says, `slopes` (K − 1, inputs), the gradients of z_c − z_winner for the
 * `others` c, the eigenvalues of F, descending, and v, the leading eigenvector, along which the answer's probability
 * falls at first.
 */
export function look(network, x) {
  const z = Float64Array.from(network.forward(x));
  const said = answer(z);
  const { winner, logp } = said;
  const others = Array.from(z.keys()).filter((c) => c !== winner);
  const [count, inputs] = [others.length, x.length];
  const rows = new Float64Array(count * z.length);
  others.forEach((c, i) => {
    rows[i * z.length + c] = 1;
    rows[i * z.length + winner] = -1;
  });
  const slopes = Float64Array.from(network.pull(rows, count));
  const scale = Math.max(...others.map((c) => logp[c]));
  const root = others.map((c) => Math.exp(0.5 * (logp[c] - scale)));
  const gamma = Math.exp(scale) / (1 + Math.exp(0.5 * logp[winner]));
  // Up to p₂, F is BᵀB for B = MᵀD, M = diag(√q)(1 − γ √q √qᵀ), D the slopes, q = p/p₂.
  const mean = new Float64Array(inputs);
  for (let i = 0; i < count; i++) for (let k = 0; k < inputs; k++) mean[k] += root[i] ** 2 * slopes[i * inputs + k];
  const B = new Float64Array(count * inputs);
  for (let i = 0; i < count; i++) for (let k = 0; k < inputs; k++) B[i * inputs + k] = root[i] * (slopes[i * inputs + k] - gamma * mean[k]);
  const gram = new Float64Array(count * count);
  for (let i = 0; i < count; i++) for (let j = 0; j <= i; j++) {
    let sum = 0;
    for (let k = 0; k < inputs; k++) sum += B[i * inputs + k] * B[j * inputs + k];
    gram[i * count + j] = gram[j * count + i] = sum;
  }
  const { values, vectors } = eigen(count, gram);
  const v = new Float64Array(inputs);
  for (let i = 0; i < count; i++) for (let k = 0; k < inputs; k++) v[k] += vectors[0][i] * B[i * inputs + k];
  const length = Math.hypot(...v);
  // −∇ log p of the winner is Σ p_c D_c, which has the direction of `mean`
  const falls = v.reduce((sum, value, k) => sum + value * mean[k], 0) < 0 ? -1 : 1;
  return {
    ...said, z, others, slopes, against: mean,
    eigenvalues: values.map((value) => Math.exp(scale) * Math.max(0, value)),
    v: v.map((value) => (length > 0 ? (falls * value) / length : 0)),
  };
}

/** x + ε d. */
export const along = (x, d, epsilon) => Float64Array.from(x, (value, k) => value + epsilon * d[k]);

/**
 * The first of `distances`, ascending, at which the answer along d is another than at x, made exact by halving between it
 * and the one before: {at, becomes}, or null where none is.
 */
export function flip(network, x, d, winner, distances) {
  const says = (epsilon) => answer(network.forward(along(x, d, epsilon))).winner;
  let inside = 0;
  for (const epsilon of distances) {
    let becomes = says(epsilon);
    if (becomes === winner) {
      inside = epsilon;
      continue;
    }
    let beyond = epsilon;
    for (let i = 0; i < 14; i++) {
      const middle = (inside + beyond) / 2;
      const said = says(middle);
      if (said === winner) inside = middle;
      else [beyond, becomes] = [middle, said];
    }
    return { at: beyond, becomes };
  }
  return null;
}
