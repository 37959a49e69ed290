// Thumbnails of samples as a listbox: arrow keys move in rows and columns, one thumbnail takes the focus.
import { placeBy, rowOf } from "./keys.js";

/** Where the dots under thumbnails stand, 0 to 1, on a log axis over all values: the least at its left end, as 0 is. */
export function shares(values) {
  const logs = values.filter((v) => v > 0).map(Math.log10);
  const [low, high] = [Math.min(...logs), Math.max(...logs)];
  return values.map((v) => (v > 0 ? (high > low ? (Math.log10(v) - low) / (high - low) : 1) : 0));
}

/**
 * items: {key, label, share (of the way to the right end, 0 to 1), wrong, draw(plate)}; `choose` is told the key of the one picked.
 * A thumbnail is made once and drawn when it first comes into sight, so that a thousand cost what a screenful does.
 */
export class Gallery {
  constructor(box, items, choose) {
    this.box = box;
    this.choose = choose;
    this.nodes = new Map();
    this.shown = [];
    this.gone = [];
    this.drawers = new Map();
    this.seen = new IntersectionObserver((entries) => entries.filter((e) => e.isIntersecting).forEach((e) => this.draw(e.target)), { root: box, rootMargin: "200px" });
    this.add(items);
    box.addEventListener("keydown", (event) => this.keys(event));
    box.addEventListener("click", (event) => {
      const node = event.target.closest("[role=option]");
      if (node && !this.gone.includes(node)) choose(node.key);
    });
  }

  add(items) {
    for (const item of items) {
      const node = Object.assign(document.createElement("div"), { key: item.key });
      node.className = `fv-thumb${item.wrong ? " fv-wrong" : ""}`;
      node.setAttribute("role", "option");
      node.innerHTML = `<div class="fv-plate"></div><i></i>`;
      this.drawers.set(node, item.draw);
      this.seen.observe(node);
      this.nodes.set(item.key, node);
      this.label(item);
    }
  }

  /** The words of a thumbnail, and where the dot under it stands. */
  label({ key, label, share }) {
    const node = this.nodes.get(key);
    node.setAttribute("aria-label", label);
    node.title = label;
    node.lastChild.style.setProperty("--fv-at", `${(100 * share).toFixed(0)}%`);
  }

  /** Greyed thumbnails {key, reason, draw} behind all others, of samples that could not be computed: they say why, and open nothing. */
  lose(items) {
    this.add(items.map(({ key, reason, draw }) => ({ key, draw, share: 0, label: `sample ${key} was not computed: ${reason}` })));
    this.gone = items.map(({ key }) => this.nodes.get(key));
    for (const node of this.gone) {
      node.classList.add("fv-gone");
      node.setAttribute("aria-disabled", true);
    }
  }

  draw(node) {
    this.drawers.get(node)?.(node.firstChild);
    this.drawers.delete(node);
    this.seen.unobserve(node);
  }

  /** Show the thumbnails of these keys, in this order, and those that open nothing if `all` are wanted. */
  show(keys, all = true) {
    if (keys.length === this.shown.length && all === this.all && keys.every((k, i) => k === this.shown[i])) return;
    this.all = all;
    const focused = this.box.contains(document.activeElement);
    this.shown = [...keys];
    this.box.replaceChildren(...keys.map((k) => this.nodes.get(k)), ...(all ? this.gone : []));
    if (focused) this.box.querySelector("[tabindex='0']")?.focus();
  }

  /** Mark the chosen one, and bring it into the gallery's own sight. */
  select(key) {
    const chosen = this.shown.includes(key) ? key : this.shown[0];
    for (const k of this.shown) {
      const node = this.nodes.get(k);
      if (node.getAttribute("aria-selected") !== String(k === key)) node.setAttribute("aria-selected", k === key);
      node.tabIndex = k === chosen ? 0 : -1;
    }
    const node = this.nodes.get(chosen);
    if (!node?.isConnected) return;
    const [top, bottom] = [node.offsetTop - this.box.offsetTop, node.offsetTop - this.box.offsetTop + node.offsetHeight];
    if (top < this.box.scrollTop) this.box.scrollTop = top - 4;
    else if (bottom > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = bottom - this.box.clientHeight + 4;
  }

  keys(event) {
    const at = this.shown.indexOf(event.target.closest("[role=option]")?.key);
    if (at < 0) return;
    const to = placeBy(event.key, at, this.shown.length, { row: rowOf(this.box) });
    if (to === undefined) return;
    event.preventDefault();
    if (to < 0 || to >= this.shown.length) return;
    this.choose(this.shown[to]);
    this.nodes.get(this.shown[to])?.focus();
  }
}
