// Numbers as text, by the rule of numbers.py: tests/views/test_numbers.py asks both for the same cases.

const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

/** A number with `digits` significant digits, in powers of ten where zeros would have to be counted. */
export function number(value, digits = 3) {
  if (value === null || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const shown = size >= 1e5 || size < 1e-3 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
  const [mantissa, exponent] = shown.split("e");
  return `${mantissa.replace("-", "−")}${exponent ? `×10${raised(Number(exponent))}` : ""}`;
}

/** A number with at most three digits, and with none that its error blurs: 3.28 ± 0.4 is 3.3. */
export function rounded(value, error) {
  const blur = Math.floor(Math.log10(Math.abs(value))) - Math.floor(Math.log10(error));
  return number(value, Number.isFinite(blur) ? Math.max(1, Math.min(3, blur + 1)) : 3);
}

/** A number for a title: with its error where that would be seen in three digits. */
export const measured = (value, error) => `${rounded(value, error)}${error > 0.005 * Math.abs(value) ? ` ± ${number(error, 1)}` : ""}`;

/** 10 to a power as text, however large: "3.1" or "1.6·10⁶⁰", which also stands well behind a ×. */
export function powerOfTen(log, digits = 3) {
  if (log === null || Number.isNaN(log)) return "–";
  if (!Number.isFinite(log)) return log > 0 ? "∞" : "0";
  if (log >= -3 && log < 5) return number(10 ** log, digits);
  let exponent = Math.floor(log);
  let mantissa = (10 ** (log - exponent)).toPrecision(digits);
  if (Number(mantissa) >= 10) [mantissa, exponent] = [(1).toPrecision(digits), exponent + 1];
  return `${mantissa}·10${raised(exponent)}`;
}

/** An exponent as small raised signs. */
export const raised = (exponent) => [...String(exponent)].map((c) => SUPERSCRIPT[c]).join("");

/** A probability in plain digits, never a false 0 or 1: near 1 it is said by what is missing. */
export function probability(p, doubt = 1 - p) {
  if (Number.isNaN(p)) return "–";
  if (p > 0 && p < 0.001) return number(p, 2);
  return doubt > 0 && doubt < 0.0005 ? `1 − ${number(doubt, 2)}` : p.toFixed(3);
}

/** A power of ten as a tick has it: in plain digits as long as these are few. */
export const decade = (exponent) => (exponent >= -3 && exponent <= 4 ? number(10 ** exponent) : `10${raised(exponent)}`);

/** A number with so many places after the point. */
export const fixed = (value, places = 2) => (value === null || Number.isNaN(value) ? "–" : value.toFixed(places).replace(/^-(?=0\.?0*$)/, "").replace("-", "−"));

/** A number that says what is missing where it is nearly 1. */
export const nearOne = (value) => (value !== null && value > 0.9995 && value < 1 ? `1 − ${number(1 - value, 2)}` : number(value));

/** A share in words that never round to a false 0 or 100 %, nor need it: 1.5 stays 150 %. */
export function percent(share, digits = share < 0.095 ? 2 : 3) {
  return share >= 0.9995 && share < 1 ? `all but ${number(100 * (1 - share), 2)} %` : `${number(share === null ? null : 100 * share, digits)} %`;
}
