// The detail of the explorer: tabs about the chosen sample, of one model or of two beside each other.
import { standIn } from "../kit/model.js";
import { escape } from "../kit/chart.js";
import { number, probability } from "../kit/numbers.js";
import attributions from "../attributions/view.js";
import { AttackPanel } from "./attackpanel.js";
import bounds from "../comparison/view.js";
import distance from "../distance/view.js";
import margins from "../margins/view.js";
import { picture, readDirection, readInput } from "../kit/inputs.js";
import { kink, outcomeOf, Panel, readSample } from "../perturbation/panel.js";
import { unpack } from "../kit/pixels.js";
import { finer } from "./plane.js";
import { PlanePanel } from "./planepanel.js";

const TABS = {
  direction: ["direction", "What does the worst direction look like, and what does it do?"],
  plane: ["plane", "Which classes lie around, and where does F expect the change?"],
  bounds: ["bounds", "How close do formulas come to λ₁?"],
  attacks: ["attacks", "How small a change makes the model miss?"],
  distance: ["distance", "How far is every sample from a change that makes the model miss: what is proven, what was found?"],
  margins: ["margins", "How far is it to other classes, and which are met on the way?"],
  attributions: ["attributions", "Does the model look where it is fragile?"],
};
const WHOLE = { bounds, distance, margins, attributions }; // tabs that are views of their own
const OF_ALL = "distance"; // the one that is of all samples and models at once
const ABSENT = {
  bounds: "The formulas take every gradient and the norms of all layers.",
  attacks: "The smallest change that each attack needs takes some hundred passes.",
  distance: "It lies between the certified radius and the smallest attack, which takes some hundred passes a sample, of all samples.",
  margins: "Each path takes some dozen steps with all gradients.",
  attributions: "What methods say that the model looks at takes some dozen passes each.",
};
const HOW = { direction: "detail=[…]", plane: 'include=["plane"]', bounds: 'include=["bounds"]', attacks: 'include=["attacks"]', distance: 'include=["radius", "attacks"]', margins: 'include=["margins"]', attributions: 'include=["attributions"]' };

export class Detail {
  constructor(box, view, state) {
    this.box = box;
    this.view = view;
    this.state = state;
    this.width = 0;
    this.mounted = new Map();
    this.panels = [];
    const { data, part } = view;
    for (const m of data.models) {
      const { details, planes, toward, attacks } = m;
      Object.assign(m, { details: new Map(), planes: new Map(), toward: new Map(), attacks: new Map() });
      this.read(m, { details, planes, toward, attacks }, part);
    }
    const tabs = Object.entries(TABS).map(([name, [title]]) => `<button type="button" role="tab" id="${view.key}-${name}" aria-controls="${view.key}-panel" data-tab="${name}">${title}</button>`);
    box.innerHTML = `<div class="fv-tabs" role="tablist" aria-label="What to look at">${tabs.join("")}</div>
      <div class="fv-tab" role="tabpanel" id="${view.key}-panel" tabindex="-1"><p class="fv-question fv-quiet"></p><div class="fv-both"></div><section class="fv-body"></section></div>`;
    this.$ = (selector) => box.querySelector(selector);
    const list = this.$(".fv-tabs");
    list.addEventListener("click", (event) => event.target.dataset.tab && state.set("tab", event.target.dataset.tab));
    list.addEventListener("keydown", (event) => {
      const names = Object.keys(TABS);
      const at = names.indexOf(event.target.dataset.tab);
      const to = { ArrowRight: (at + 1) % names.length, ArrowLeft: (at + names.length - 1) % names.length, Home: 0, End: names.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      state.set("tab", names[to]);
      list.querySelector(`[data-tab="${names[to]}"]`).focus();
    });
    this.sides = data.models.map((m) => {
      const side = document.createElement("section");
      side.className = "fv-side";
      side.innerHTML = `<h4 class="fv-verdict"></h4><div class="fv-body"></div>`;
      this.$(".fv-both").append(side);
      return { m, body: side.querySelector(".fv-body"), verdict: side.querySelector(".fv-verdict"), kept: new Map() };
    });
    this.all = { m: { nested: data.nested, notes: {} }, body: this.$(".fv-tab > .fv-body"), kept: new Map() };
  }

  read(m, { details = [], planes = [], toward = [], attacks = [] }, part) {
    const { data } = this.view;
    for (const a of attacks) {
      for (const one of a.tried) {
        if (one.image) readInput(one, data, part);
        if (one.change) readDirection(one.change, data, part);
      }
      if (a.image) readInput(a, data, part);
      m.attacks.set(a.index, a);
    }
    for (const s of details) m.details.set(s.index, readSample(s, data, part));
    for (const p of planes) m.planes.set(p.index, readPlane(p, data, part));
    for (const p of toward) m.toward.set(p.index, readPlane(p, data, part));
  }

  /** What Python has computed for one sample. */
  async add({ index, payload }) {
    const { data, part } = await unpack(payload);
    data.models.forEach((more, at) => {
      const m = this.view.data.models[at];
      this.read(m, more, part);
      for (const [tab, entry] of Object.entries(more.nested ?? {})) (m.nested[tab] ??= []).unshift(entry);
    });
    if (index === this.index) this.show(index);
  }

  get tab() { return this.state.get("tab"); }
  reachOf(index) { return this.view.data.models[0].details.get(index)?.reach; }

  resize(width) {
    const beside = this.sides.length > 1 && width >= 760;
    const inner = beside ? Math.floor((width - 32) / 2) : width;
    this.box.dataset.beside = beside;
    if (Math.abs(inner - this.width) < 2) return;
    this.width = inner;
  }

  /** Everything that depends on the sample and the tab. */
  show(index) {
    const { tab } = this;
    this.index = index;
    for (const b of this.box.querySelectorAll("[role=tab]")) {
      b.setAttribute("aria-selected", b.dataset.tab === tab);
      b.tabIndex = b.dataset.tab === tab ? 0 : -1;
    }
    this.$("[role=tabpanel]").setAttribute("aria-labelledby", `${this.view.key}-${tab}`);
    this.$(".fv-question").textContent = TABS[tab][1];
    this.$(".fv-both").hidden = tab === OF_ALL;
    this.all.body.hidden = tab !== OF_ALL;
    if (tab === OF_ALL) this.nested(this.all, index);
    else for (const s of this.sides) this.fill(s, index);
  }

  fill(s, index) {
    const { m } = s;
    const { data } = this.view;
    const sample = m.details.get(index);
    const doubt = m.table.doubt[index];
    const said = `says ${outcomeOf(data, m.predictions[index])} with probability ${probability(1 - doubt, doubt)}`;
    const truth = !data.labels || data.labels[index] === null ? "" : m.correct[index] ? ", which is right" : `; the label says ${outcomeOf(data, data.labels[index])}`;
    s.verdict.textContent = `${m.name || "The model"} ${said}${truth}.${m.name ? ` λ₁ as it is = ${number(m.table.raw[index])}.` : ""}${sample ? kink(sample) : ""}`;
    for (const [name, box] of s.kept) box.hidden = name !== this.tab;
    if (WHOLE[this.tab]) this.nested(s, index);
    else if (this.tab === "plane") this.plane(s, index, sample);
    else if (this.tab === "attacks") this.attacks(s, index);
    else this.direction(s, index, sample);
  }

  /** The box of a tab of one model, made when it is first opened; `make` fills it and gives what stands in it. */
  boxOf(s, name, make) {
    if (!s.kept.has(name)) {
      const box = document.createElement("div");
      s.body.append(box);
      s.kept.set(name, Object.assign(box, { content: make(box) }));
    }
    const box = s.kept.get(name);
    box.hidden = false;
    return box;
  }

  /** Say what is not there and how to get it, with the input itself. */
  missing(s, index, name, words) {
    const { live } = this.view;
    const box = this.boxOf(s, `no ${name}`, () => null);
    const had = s.kept.get(name);
    if (had) had.hidden = true;
    const python = `<p class="fv-quiet">In Python: <code>fv.explore(…, ${escape(HOW[name].replace("…", String(index)))})</code> stores it in the view, and <code>.widget()</code> computes it when asked.</p>`;
    box.innerHTML = `<div class="fv-absent"><figure><div class="fv-plate"></div></figure><div><p>${escape(words)}</p>
      ${live ? `<button type="button" class="fv-compute">compute it now</button>` : python}</div></div>`;
    box.querySelector(".fv-compute")?.addEventListener("click", () => live.ask(name, index));
    picture(box.querySelector(".fv-plate"), this.view.thumbs[index], this.view.data.thumbs, 160, `sample ${index}`);
  }

  direction(s, index, sample) {
    const { live } = this.view;
    if (live && !(sample?.directions.length >= Math.min(this.state.get("directions"), this.view.data.rank))) live.ask("direction", index);
    if (!sample) {
      this.missing(s, index, "direction", `Sample ${index} came with its numbers only: ${s.m.details.size} of ${this.view.data.total} samples are here in full detail, most of them the most fragile.`);
      return;
    }
    const box = this.boxOf(s, "direction", (made) => new Panel(made, this.view.data, this.state));
    s.panel = box.content;
    s.panel.sample = sample;
    if (s.panel.width === this.width) s.panel.show(sample);
    else s.panel.resize(this.width);
    const alone = sample.directions.length === 1 && s.m.notes.direction;
    if (alone) this.boxOf(s, "alone", (made) => { made.innerHTML = `<p class="fv-quiet">${escape(alone)}</p>`; });
  }

  plane(s, index, sample) {
    const plane = s.m.planes.get(index);
    if (!plane || !sample) {
      this.missing(s, index, "plane", s.m.notes.plane ?? `The plane around sample ${index} is not in this view: it takes some hundred forward passes, and is here for ${s.m.planes.size} samples.`);
      return;
    }
    const box = this.boxOf(s, "plane", (made) => new PlanePanel(made, this.view, this.state));
    s.plane = box.content;
    s.plane.show(sample, plane, this.width, s.m.toward.get(index));
  }

  attacks(s, index) {
    const own = s.m.attacks.get(index);
    if (!own) {
      this.missing(s, index, "attacks", ABSENT.attacks);
      return;
    }
    const box = this.boxOf(s, "attacks", (made) => new AttackPanel(made, this.view.data));
    const said = outcomeOf(this.view.data, this.view.data.labels?.[index] ?? s.m.predictions[index]);
    box.content.show(own, said, this.width, s.m.details.get(index), s.m.table.radius?.[index], s.m.proofs?.[index]);
  }

  /** A whole view in a tab: its own sample follows the explorer's, and the other way round. */
  nested(s, index) {
    const { tab } = this;
    const packed = (s.m.nested[tab] ?? []).find((p) => p.places.includes(index));
    for (const [name, box] of s.kept) box.hidden ||= name.startsWith(tab);
    if (!packed) {
      const some = s.m.nested[tab]?.length ? ` They are here for ${s.m.nested[tab].flatMap((p) => p.places).length} samples.` : "";
      this.missing(s, index, tab, s.m.notes[tab] ?? ABSENT[tab] + some);
      return;
    }
    const box = this.boxOf(s, `${tab} ${packed.places}`, (made) => embed(made, tab, packed, (other) => other !== this.index && this.view.choose(other)));
    box.content(index);
  }

  move() {
    for (const s of this.sides) {
      if (this.tab === "direction" && s.m.details.has(this.index)) s.panel?.move();
      if (this.tab === "plane" && s.m.planes.has(this.index)) s.plane?.move();
    }
  }

  turn() { this.show(this.index); }
}

/**
 * A view with a model of its own inside this one: gives a function that opens a sample in it; `chose` hears what is chosen there.
 * `owners` are pairs of a value of its trait and the sample that it shows then.
 */
function embed(box, tab, { state: packed, trait, owners }, chose) {
  const state = { ...packed, live: false };
  const model = standIn(state);
  box.className = `fv-nested fv-nested-${tab}`;
  const owner = new Map(owners);
  model.on(`change:${trait}`, () => chose(owner.get(state[trait])));
  WHOLE[tab].render({ model, el: box });
  return (index) => owner.get(state[trait]) === index || model.set(trait, owners.find(([, own]) => own === index)[0]);
}

/** A plane as it came from Python, with what its bytes stand for. */
function readPlane(plane, data, part) {
  const size = plane.points ** 2;
  const levels = new Int16Array(part(plane.logp));
  plane.logp = plane.shown.map((_, c) => Float32Array.from(levels.subarray(c * size, (c + 1) * size), (v) => v / 1000));
  plane.kl = new Float32Array(part(plane.kl));
  plane.classes = data.classes.length;
  if (plane.across) readDirection(plane.across, data, part);
  return finer(plane);
}
