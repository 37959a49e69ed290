// The explorer: where is my model fragile? Norms of a batch, a gallery, and all that is known of the chosen sample, linked.
// State shared with Python or the stand-in host: index, direction, epsilon, flipped, tab, color, against, norm, sort, show, selected.
import { measured, number } from "../kit/numbers.js";
import { Detail } from "./detail.js";
import { ordered, passing, SHOWS, SORTS } from "./filters.js";
import { withSummary } from "./summary.js";
import { Gallery, shares } from "../kit/gallery.js";
import { picture } from "../kit/inputs.js";
import { Live } from "../kit/live.js";
import { classColor } from "../kit/palette.js";
import { outcomeOf, within } from "../perturbation/panel.js";
import { Overview } from "./overview.js";
import { mounted, noteLost, View } from "../kit/stage.js";
import { unpack } from "../kit/pixels.js";

const CLASSES_COLORED = 13;
const SOON = 80; // milliseconds

/** "a" or "an", as it is said before a name. */
export function article(name) {
  return /^([aeiou]|8|11$|18$)/i.test(name) ? "an" : "a";
}

function layout(data) {
  const option = ([value, text]) => `<option value="${value}">${text}</option>`;
  const labelled = data.labels !== null;
  const shows = Object.entries(SHOWS).filter(([name]) => (name !== "misclassified" || labelled) && (name !== "differing" || data.models.length > 1));
  return `
    <div class="fv-head"><h3 class="fv-title"></h3>
      <details class="fv-help"><summary aria-label="What is this?">?</summary><p>Each dot is a sample of the batch. λ₁, the <b>spectral norm</b>, is the largest
      eigenvalue of the Fisher information of the input. <b>λ₁ at confidence ${data.confidence}</b>, of logits rescaled until the model is that sure of the
      sample, says whether small changes reach a class boundary: compare samples and models by it. <b>λ₁ as it is</b> says how fast this prediction, with
      its own confidence, can change: a step of length ε changes it by at most about ½ε²λ₁ nats of KL, and little where it is sure, robust or not.</p></details></div>
    <p class="fv-sub"></p>
    <div class="fv-overview"></div>
    <div class="fv-filter">
      <label>show <select class="fv-show" aria-label="Which samples">${shows.map(option).join("")}</select></label>
      <label>sorted <select class="fv-sort" aria-label="Order of the gallery">${Object.entries(SORTS).map(option).join("")}</select></label>
      <label>sample <input type="search" class="fv-search" inputmode="numeric" placeholder="#" aria-label="Open a sample by its number" size="6"></label>
      <button type="button" class="fv-clear" hidden>clear the brush</button><span class="fv-count" role="status"></span></div>
    <div class="fv-place"></div>
    <div class="fv-explore">
      <div class="fv-gallery" role="listbox" aria-label="Samples" aria-orientation="horizontal"></div>
      <div class="fv-chosen"></div></div>
    <p class="fv-batch"></p>
    <div class="fv-tables fv-all"></div>`;
}

class Explorer extends withSummary(View) {
  constructor(model, root, packed) {
    super(model, root, packed);
    this.key = `fv${Math.random().toString(36).slice(2)}`;
    root.classList.add("fv-explorer");
    this.live = model.get("live") ? new Live(this, model) : null;
    this.inOrder = Promise.resolve(); // what comes from Python is taken in its order, however long unpacking takes
    this.waiting = 0;
    this.build(packed);
  }

  /** The whole view from what Python packed. */
  build({ data, part }) {
    const { model, root } = this;
    this.data = data;
    this.part = part;
    this.shown = null;
    root.innerHTML = layout(data);
    this.read();
    this.lead();
    this.legend = this.classesShown();
    const state = { get: (name) => model.get(name), set: (name, value) => this.set(name, value) };
    this.detail = new Detail(this.$(".fv-chosen"), this, state);
    this.overview = new Overview(this.$(".fv-overview"), this, state);
    this.gallery = new Gallery(this.$(".fv-gallery"), data.indices.map((i) => this.thumb(i)), (index) => this.choose(index));
    this.gallery.lose(data.lost.map(([i, reason]) => ({ key: i, reason, draw: (plate) => picture(plate, this.thumbs[i], data.thumbs, 40) })));
    if (this.live) this.$(".fv-place").replaceWith(this.live.drawn);
    else if (model.get("refused")) this.$(".fv-place").replaceWith(Object.assign(document.createElement("p"), { className: "fv-quiet fv-refused", textContent: model.get("refused") }));
    this.live?.began();
    this.controls();
    this.tables();
  }

  /** Another batch: Python has computed it anew. */
  rebuild() {
    this.next(async () => {
      this.build(await unpack(this.model.get("payload")));
      noteLost(this.root, this.data);
      if (this.width) this.resize();
    });
  }

  next(work) {
    this.waiting += 1;
    this.inOrder = this.inOrder.then(work).catch((error) => this.live?.failed(error.message)).then(() => {
      this.waiting -= 1;
      this.settle();
    });
  }

  /** Numbers that came as bytes, as arrays by name; small pictures by their place. */
  read() {
    const { data, part } = this;
    const places = Array.from({ length: data.total }, (_, i) => i);
    const lost = new Set(data.lost.map(([place]) => place));
    data.indices = places.filter((i) => !lost.has(i));
    for (const m of data.models) {
      m.table = Object.fromEntries(Object.entries(m.numbers).map(([name, at]) => [name, Array.from(new Float64Array(part(at)))]));
      m.table.correct = m.correct;
      m.table.group = data.labels ? data.labels.map((label, i) => label ?? m.predictions[i]) : m.predictions;
    }
    const [first, second] = data.models;
    if (second) for (const m of data.models) m.table.differs = places.map((i) => String(first.predictions[i]) !== String(second.predictions[i]));
    this.table = first.table;
    const size = data.thumbs.at[1] / data.total;
    const whole = part(data.thumbs.at);
    this.thumbs = places.map((i) => {
      const own = whole.slice(i * size, (i + 1) * size);
      return data.kind === "series" ? { values: new Float32Array(own) } : { bytes: new Uint8Array(own) };
    });
  }

  /** Which λ₁ leads: at matched confidence, or as it is. */
  get norm() { return this.data.norms.includes(this.model.get("norm")) ? this.model.get("norm") : this.data.norms[0]; }
  get matched() { return this.norm === "matched"; }
  get title() { return this.words(this.matched); }

  /** Let one of the two λ₁ be the norm that samples are ordered and placed by, or the second where there is no first; on a boundary it would be ∞. */
  lead() {
    const { data, table } = this;
    for (const m of data.models) {
      m.table.tied = m.table.raw.map((v, i) => this.matched && m.table.margin[i] === 0 && v > 0);
      m.table.norm = this.matched ? m.table.matched.map((v, i) => (Number.isNaN(v) ? m.table.raw[i] : v)) : m.table.raw;
    }
    this.rank = [];
    ordered(data.indices, "norm", table).forEach((i, place) => (this.rank[i] = place + 1));
    this.shares = shares(table.norm);
  }

  /** The classes that have a colour of their own in the overview: all, or the most frequent. */
  classesShown() {
    const { data } = this;
    if (!data.exclusive) return [];
    const count = new Map();
    for (const c of data.indices.map((i) => this.table.group[i])) count.set(c, (count.get(c) ?? 0) + 1);
    return [...count].sort((a, b) => b[1] - a[1]).slice(0, CLASSES_COLORED).map(([c]) => c).sort((a, b) => a - b);
  }

  /** The colour of a class, wherever it appears. */
  color(c) { return classColor(c, this.data.order); }

  name(o) { return outcomeOf(this.data, o); }
  /** What the sample cannot show is not kept; while another batch is on its way, nothing is said of it. */
  settle() {
    const { model, data, index } = this;
    if (this.waiting || !this.width) return;
    const sample = data.models[0].details.get(index);
    const [direction, epsilon] = sample ? within(sample, model.get("direction"), model.get("epsilon")) : [];
    this.keep(sample ? { index, direction, epsilon } : { index });
  }

  get index() { return this.data.indices.includes(this.model.get("index")) ? this.model.get("index") : this.data.indices[0]; }

  /** What a sample is, in words: by its label, else by what the model says. */
  called(i) {
    const { labels, models } = this.data;
    const said = this.name(models[0].predictions[i]);
    if (!labels || labels[i] === null) return `taken for ${article(said)} ${said}`;
    const truth = this.name(labels[i]);
    return `${article(truth)} ${truth}${models[0].correct[i] !== false ? "" : ` taken for ${article(said)} ${said}`}`;
  }

  /** The λ₁ that leads at a sample, in words. */
  said(i) { return `${this.table.tied[i] ? "on a boundary, " : ""}${this.words(this.matched && !Number.isNaN(this.table.matched[i]))} = ${number(this.table.norm[i])}`; }
  words(matched) { return matched ? `λ₁ at confidence ${this.data.confidence}` : "λ₁ as it is"; }

  /** Both λ₁ of the chosen sample, of each model, no sharper than their errors. */
  both(index) {
    const { models } = this.data;
    const of = (value) => (models.length > 1 ? `${value(models[0])} for ${models[0].name}, ${value(models[1])} for ${models[1].name}` : value(models[0]));
    const raw = of(({ table: t }) => measured(t.raw[index], t.error[index]));
    if (models.every((m) => Number.isNaN(m.table.matched[index]))) return `${this.table.tied[index] ? "on a boundary between two classes, " : ""}λ₁ as it is = ${raw}`;
    return `${this.words(true)} = ${of(({ table: t }) => (Number.isNaN(t.matched[index]) ? "unknown" : measured(t.matched[index], t.matchedError[index])))}; as it is ${raw}`;
  }

  thumb(i) {
    const { data, table } = this;
    const wrong = table.correct?.[i] === false;
    return { key: i, share: this.shares[i], wrong, label: `sample ${i}: ${this.called(i)}, ${this.said(i)}`,
      draw: (plate) => picture(plate, this.thumbs[i], data.thumbs, 40) };
  }

  /** Open a sample; the slider's knob keeps its share of the reach. */
  choose(index) {
    const [before, after] = [this.detail.reachOf(this.index), this.detail.reachOf(index)];
    const share = this.model.get("epsilon") / before;
    this.set("index", index);
    if (before && after) this.set("epsilon", share * after);
  }

  controls() {
    const [show, sort, search] = [".fv-show", ".fv-sort", ".fv-search"].map(this.$);
    if (this.data.exclusive) {
      const group = document.createElement("optgroup");
      group.label = this.data.labels ? "of a class" : "taken for a class";
      const present = [...new Set(this.data.indices.map((i) => this.table.group[i]))].sort((a, b) => a - b);
      group.append(...present.map((c) => new Option(this.name(c), `class:${c}`)));
      show.append(group);
    }
    show.addEventListener("change", () => this.set("show", show.value));
    sort.addEventListener("change", () => this.set("sort", sort.value));
    search.addEventListener("keydown", (event) => event.key === "Enter" && this.find(search));
    search.addEventListener("change", () => this.find(search));
    this.$(".fv-clear").addEventListener("click", () => this.set("selected", []));
  }

  find(search) {
    const text = search.value.trim().replace("#", "");
    const index = Number(text);
    const known = text !== "" && this.data.indices.includes(index);
    search.setAttribute("aria-invalid", text !== "" && !known);
    if (text !== "" && !known) this.$(".fv-count").textContent = this.data.lost.some(([place]) => place === index) ? `sample ${text} was not computed` : `no sample ${text}: they run from 0 to ${this.data.total - 1}`;
    if (known && index !== this.index) this.choose(index);
  }

  /** The samples that the filter and the brush leave, in the gallery's order. */
  get visible() {
    const brushed = new Set(this.model.get("selected"));
    const passed = passing(this.model.get("show"), this.table);
    return ordered(brushed.size ? passed.filter((i) => brushed.has(i)) : passed, this.model.get("sort"), this.table);
  }

  /** What the filter, the order and the brush change. */
  filtered(soon = false) {
    if (!this.width) return;
    this.shown = this.visible;
    this.$(".fv-show").value = this.model.get("show");
    this.$(".fv-sort").value = this.model.get("sort");
    const brushed = this.model.get("selected").length > 0;
    this.$(".fv-clear").hidden = !brushed;
    this.$(".fv-count").textContent = this.shown.length === this.data.indices.length ? `all ${this.shown.length}` : this.shown.length ? `${this.shown.length} of ${this.data.indices.length}` : "no sample is both: clear the brush or show all";
    this.overview.dots(soon);
    clearTimeout(this.later);
    if (soon) this.later = setTimeout(() => this.rested(), SOON);
    else this.listed();
  }

  listed() {
    this.gallery.show(this.shown, this.shown.length === this.data.indices.length);
    this.gallery.select(this.index);
  }

  sifted() { this.filtered(); }

  rested() {
    this.overview.rest();
    this.listed();
  }

  /** While a brush moves, its dots follow at once, the rest when it rests. */
  brushed() { this.filtered(true); }

  /** What the chosen sample changes. */
  chosen() {
    if (!this.width) return;
    this.settle();
    const { index, data } = this;
    const place = this.rank[index];
    const count = data.indices.length;
    const where = place === 1 ? `the most fragile of ${count}` : place === count ? `the least fragile of ${count}` : `number ${place} of ${count} by fragility`;
    const said = this.called(index);
    const still = data.models.every((m) => m.table.raw[index] === 0 && !(m.table.matched[index] > 0));
    this.$(".fv-title").textContent = still ? `Sample ${index}, ${said}, does not react at all: λ₁ = 0` : `Sample ${index}, ${said}, is ${where}: ${this.both(index)}`;
    this.$(".fv-sub").textContent = this.sentence();
    this.gallery.select(index);
    this.overview.mark();
    this.detail.show(index);
  }

  followed() { this.live?.follow(); }
  many() {
    this.live?.follow();
    if (this.width) this.detail.show(this.index);
  }

  heard(message) { this.next(() => this.live?.heard(message)); }
  moved() {
    this.settle();
    if (this.width) this.detail.move();
  }
  turned() {
    this.settle();
    if (this.width) this.detail.turn();
  }
  tabbed() { if (this.width) this.detail.show(this.index); }

  /** The other λ₁ leads. */
  led() {
    this.lead();
    this.data.indices.forEach((i) => this.gallery.label(this.thumb(i)));
    if (!this.width) return;
    this.overview.brush = null; // what was brushed stays selected, and lies elsewhere
    this.overview.resize(this.width);
    this.filtered();
    this.chosen();
  }

  painted() { if (this.width) this.overview.draw(); }

  resize() {
    const { width, columns } = this;
    this.root.dataset.wide = columns;
    this.overview.resize(width);
    this.detail.resize(columns === 3 ? width - 220 - 32 : width);
    this.status();
    this.filtered();
    this.chosen();
  }
}

const render = mounted(Explorer, {
  "change:index": "chosen", "change:direction": "turned", "change:flipped": "turned", "change:epsilon": "moved", "change:tab": "tabbed",
  "change:color": "painted", "change:against": "painted", "change:norm": "led", "change:sort": "sifted", "change:show": "sifted", "change:selected": "brushed",
  "change:payload": "rebuild", "change:temperature": "followed", "change:directions": "many", "msg:custom": "heard",
});

export default { render };
