// The colours of classes and of lines, which palette.py reads for plotly from the same file. Of classes, in one fixed order,
// Okabe and Ito's come first, which any colour vision tells apart, then more that differ from these on light and on dark.
import colors from "./palette.json" with { type: "json" };

export const PALETTE = colors.classes;
export const SURE = colors.confidence; // light to dark: unsure to sure

const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
// vik, a diverging map that stays readable with any colour vision: F. Crameri, Scientific colour maps (2018).
const VIK = colors.diverging.map(rgb);

/** RGB of t in [−1, 1] on the diverging map, 0 in the neutral middle. */
export function diverging(t) {
  const at = ((Math.max(-1, Math.min(1, t)) + 1) / 2) * (VIK.length - 1);
  const i = Math.min(Math.floor(at), VIK.length - 2);
  return VIK[i].map((a, c) => a + (at - i) * (VIK[i + 1][c] - a));
}

export const OTHERS = "var(--fv-faint)";

/**
 * The colour of a class, the same in all views of a result; −1 is all others. Of more classes than there are colours,
 * `order` names those that a result is mostly about, which choose first; the rest have hues that no other class has.
 */
export function classColor(c, order = null) {
  if (c < 0) return OTHERS;
  const place = order ? order.indexOf(c) : c;
  if (place >= 0 && place < PALETTE.length) return PALETTE[place];
  const turn = 137.508 * (place < 0 ? (order?.length ?? 0) + c : place); // the golden angle: neighbours lie far apart
  return `hsl(${(turn % 360).toFixed(2)},45%,46%)`;
}
