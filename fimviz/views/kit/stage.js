// What every view needs of its page: mounting, keys, resizing, clean-up, and tables.
import { unpack } from "./pixels.js";
import { diverging } from "./palette.js";
import { escape } from "./chart.js";
import { number } from "./numbers.js";

/** How many columns stand side by side in a width. */
export const columnsOf = (width) => (width >= 900 ? 3 : width >= 560 ? 2 : 1);

/** A view: what it shares with Python or the stand-in host, what it shows, and its root on the page, 0 wide until it is seen. */
export class View {
  constructor(model, root, { data, part }) {
    this.model = model;
    this.root = root;
    this.data = data;
    this.part = part;
    this.width = 0;
    this.columns = 1;
    this.$ = (selector) => root.querySelector(selector);
  }

  set(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
  }

  /** The state becomes what the page shows of it, so that no trait says what nobody sees, also where views are linked. */
  keep(shown) {
    for (const [name, value] of Object.entries(shown)) if (value !== this.model.get(name)) this.set(name, value);
  }
}

/**
 * The `render` of a kind of `View`, whose `resize()` follows a new `width` and number of `columns`; `heard` names the method
 * that follows each event of the model.
 */
export function mounted(Kind, heard) {
  return async ({ model, el }) => {
    const root = document.createElement("div");
    root.className = "fimviz";
    // JupyterLab's command mode would take the arrow keys and letters; its shortcuts with Ctrl or ⌘, as to save, are wanted
    const suppress = (on) => root.toggleAttribute("data-lm-suppress-shortcuts", on);
    const chord = (event) => event.ctrlKey || event.metaKey;
    suppress(true);
    root.addEventListener("keydown", (event) => {
      suppress(!chord(event));
      if (!chord(event)) event.stopPropagation();
    });
    root.addEventListener("keyup", (event) => suppress(!chord(event)));
    root.addEventListener("focusout", () => suppress(true));
    el.classList.add("fimviz-host");
    el.append(root);
    root.textContent = "reading the samples …";
    const packed = await unpack(model.get("payload"));
    const view = new Kind(model, root, packed);
    noteLost(root, packed.data);
    const calls = Object.entries(heard).map(([event, method]) => [event, (...said) => view[method](...said)]);
    calls.forEach(([event, call]) => model.on(event, call));
    const watch = new ResizeObserver(([{ contentRect: { width } }]) => {
      if (!width || Math.abs(width - view.width) < 2) return;
      Object.assign(view, { width, columns: columnsOf(width) });
      view.resize();
    });
    watch.observe(root);
    return () => {
      watch.disconnect();
      calls.forEach(([event, call]) => model.off(event, call));
    };
  };
}

/** Say at the top of a view what to mind: a `caution`, and which samples, [place, reason] each, are `lost`. */
export function noteLost(root, { caution = "", lost = [] }) {
  const why = Map.groupBy(lost, ([, reason]) => reason);
  const samples = [...why].map(([reason, those]) =>
    `sample${those.length > 1 ? "s" : ""} ${those.slice(0, 12).map(([place]) => place).join(", ")}${those.length > 12 ? " …" : ""}: ${reason}`);
  const said = [...(caution ? [`${caution[0].toUpperCase()}${caution.slice(1)}.`] : []), ...(samples.length ? [`Not computed: ${samples.join("; ")}.`] : [])];
  if (!said.length) return;
  const note = document.createElement("p");
  note.className = "fv-lost";
  note.textContent = said.join(" ");
  root.prepend(note);
}

/** The bar of the signed colour map with its ends; `share` is how much of the map is used, `bar` whether it is colours. */
export function colorBar(most, { share = 1, bar = true } = {}) {
  const stops = Array.from({ length: 17 }, (_, i) => `rgb(${diverging((i / 8 - 1) * share).map(Math.round)})`);
  const end = number(most, 2);
  const zero = end.length > 5 ? "" : "<span>0</span>"; // powers of ten are wide, and the middle is 0 in any case
  return `${bar ? `<span class="fv-bar" style="background:linear-gradient(90deg,${stops})"></span>` : ""}<span class="fv-ends"><span>−${end}</span>${zero}<span>+${end}</span></span>`;
}

const SENTENCE = 60; // signs of a cell, beyond which its column has sentences, which wrap

/** Fill a box with tables [caption, head, rows] that fold; those that were open stay open. */
export function fillTables(box, tables) {
  const open = [...box.querySelectorAll("details")].map((d) => d.open);
  const cells = (tag, row, told) => `<tr>${row.map((c, i) => `<${tag}${told[i] ? ` class="fv-told"` : ""}>${escape(c)}</${tag}>`).join("")}</tr>`;
  box.innerHTML = tables.map(([caption, head, rows]) => {
    const told = head.map((_, i) => rows.some((row) => String(row[i]).length > SENTENCE));
    return `<details><summary>${escape(caption)}</summary><div class="fv-scroll" role="region" tabindex="0" aria-label="${escape(caption)}"><table><thead>${cells("th", head, told)}</thead>` +
      `<tbody>${rows.map((r) => cells("td", r, told)).join("")}</tbody></table></div></details>`;
  }).join("");
  box.querySelectorAll("details").forEach((d, i) => (d.open = open[i] ?? false));
}

/** What a page leaves out of its samples, and how exactly it has the others. */
export const limitsOf = ({ left, stored }) => [left, stored].filter(Boolean).join(" ");

const FINE = 128; // pixels a side, beyond which an image is a photograph, and large

/** Whether what a view shows are photographs. */
export const photographic = ({ kind, shape }) => kind === "image" && Math.max(shape[0], shape[1]) > FINE;

/**
 * The canvas of a plate: whole pixels of the screen for each pixel of a small image, the target's side for a photograph. Without a label it is silent: what
 * it stands in has the words.
 */
export function canvasIn(plate, w, h, target, label = "") {
  let canvas = plate.querySelector("canvas");
  if (!canvas || canvas.width !== w || canvas.height !== h) {
    plate.innerHTML = `<canvas width="${w}" height="${h}"></canvas>`;
    canvas = plate.firstChild;
  }
  const side = Math.max(w, h);
  const factor = side <= FINE ? Math.max(1, Math.floor(target / side)) : target / side;
  Object.assign(canvas.style, { width: `${w * factor}px`, height: `${h * factor}px`, imageRendering: side <= FINE ? "pixelated" : "auto" });
  if (label) canvas.setAttribute("role", "img");
  else canvas.removeAttribute("role");
  if (label) canvas.setAttribute("aria-label", label);
  return canvas;
}
