// Medians and quantiles, by the rule of Python's `quantiles`.

/** Quantiles of the numbers among values, NaN where there is none: the rule of Python's `quantiles`, ∞ for what never happened. */
export function quantiles(values, at) {
  const known = [...values].filter((v) => !Number.isNaN(v)).sort((a, b) => a - b);
  return at.map((q) => {
    if (!known.length) return NaN;
    const place = q * (known.length - 1);
    const [a, b, share] = [known[Math.floor(place)], known[Math.ceil(place)], place % 1];
    return share === 0 || a === b ? a : Number.isFinite(a) && Number.isFinite(b) ? a + share * (b - a) : a + b;
  });
}

export const median = (values) => quantiles(values, [0.5])[0];

/** Minimum, quartiles and maximum of the numbers among values; null where there is none. */
export function quartiles(values) {
  const found = quantiles(values, [0, 0.25, 0.5, 0.75, 1]);
  return Number.isNaN(found[0]) ? null : found;
}
