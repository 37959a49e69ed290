// Arrow keys, by one rule in lists, galleries and tables.

/** The place that a key leads to from `at` among `count`, in rows of `row`, of which PageDown passes `page`: it may be past an end. */
export function placeBy(key, at, count, { row = 1, page = 0 } = {}) {
  if (page && key === "PageDown") return Math.min(count - 1, at + page);
  if (page && key === "PageUp") return Math.max(0, at - page);
  return { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + row, ArrowUp: at - row, Home: 0, End: count - 1, Enter: at, " ": at }[key];
}

/** [columns, rows] that an arrow key moves by in a table; none for other keys. */
export const stepBy = (key) => ({ ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[key]);

/** How many of the children of a box stand in its first row. */
export function rowOf(box) {
  const tops = [...box.children].map((child) => child.offsetTop);
  const found = tops.findIndex((top) => top !== tops[0]);
  return found < 0 ? tops.length : found;
}

/** Arrow keys among the options of a listbox, one of which takes the focus: `move` is told the place to go to. */
export function roving(box, move) {
  box.addEventListener("keydown", (event) => {
    const options = [...box.querySelectorAll("[role=option]")];
    const at = options.indexOf(event.target.closest("[role=option]"));
    const to = placeBy(event.key, at, options.length, { page: 10 });
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    if (!options[to]) return;
    move(options[to]);
    options[to].focus();
  });
  box.addEventListener("click", (event) => {
    const option = event.target.closest("[role=option]");
    if (option) move(option);
  });
}
