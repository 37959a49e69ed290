// Which samples the explorer's gallery shows, and in what order.

export const SHOWS = { all: "all samples", misclassified: "misclassified", fragile: "the most fragile quarter", uncertain: "the quarter of least margin", differing: "on which the models differ" };
export const SORTS = { norm: "most fragile first", margin: "least margin first", confidence: "least confident first", index: "in the batch's order" };

/** The places (in the batch) that a filter lets through. */
export function passing(show, table) {
  const all = table.norm.map((_, i) => i).filter((i) => !Number.isNaN(table.norm[i]));
  const quarter = Math.max(1, Math.round(all.length / 4));
  if (show === "misclassified") return all.filter((i) => table.correct?.[i] === false);
  if (show === "fragile") return ordered(all, "norm", table).slice(0, quarter);
  if (show === "uncertain") return all.sort((a, b) => table.margin[a] - table.margin[b]).slice(0, quarter);
  if (show === "differing") return all.filter((i) => table.differs?.[i]);
  if (show.startsWith("class:")) return all.filter((i) => table.group[i] === Number(show.slice(6)));
  return all;
}

/** Places in the order of the gallery. */
export function ordered(places, sort, table) {
  const key = { norm: (i) => (table.tied?.[i] ? -Infinity : -table.norm[i]), margin: (i) => table.margin[i], confidence: (i) => -table.doubt[i], index: (i) => i }[sort];
  return [...places].sort((a, b) => key(a) - key(b) || a - b);
}
