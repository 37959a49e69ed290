// The colours of classes and of lines, in one fixed order: `palette.py` reads this list for Python and plotly.
// Okabe and Ito's first, which any colour vision tells apart, then more that differ from these on light and on dark.
export const PALETTE = [
  "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#a6761d",
  "#8a3ff2", "#5c6b2e", "#c4123c", "#b0a08c", "#00696b", "#f0329b", "#7d4b2a"
];

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
