// The distance view: how far can an image be moved with a proof, and how far until an attack succeeds?
// State shared with Python or the stand-in host: model, epsilon (the budget), order, sample (by its place).
import { escape, lineChart, marksBelow } from "../kit/chart.js";
import { decadeTicks, MARGIN, scale } from "../kit/axes.js";
import { number, percent } from "../kit/numbers.js";
import { fillTables, mounted, View } from "../kit/stage.js";

const ZONE = 30; // pixels at the ends of the axis, for 0 and for ∞
const [TALL, TOP, BOTTOM] = [400, 16, 34];

/** The shares of the images that are certified, and that no attack changes, at a budget, as `shares` in numbers.py. */
export function shares({ correct, certified, attacked }, epsilon) {
  const part = (kept) => correct.filter((right, i) => right && kept(i)).length / correct.length;
  return [part((i) => certified[i] > epsilon || epsilon === 0), part((i) => attacked[i] > epsilon)];
}

export const ratio = (certified, attacked) => (certified ? attacked / certified : attacked ? Infinity : NaN);

/** The places among a model's images in an order, smallest first; what has no ratio stands at the start. */
export function sorted(m, order) {
  const key = { attacked: (i) => m.attacked[i], certified: (i) => m.certified[i], ratio: (i) => ratio(m.certified[i], m.attacked[i]) || 0, sample: (i) => i }[order];
  const apart = (a, b) => (key(a) === key(b) ? 0 : key(a) - key(b));
  return m.places.map((_, i) => i).sort((a, b) => apart(a, b) || a - b);
}

/** The log axis of both charts: pixels of a length, zones for what lies below and beyond, and its marks as [log, text]. */
function lengths({ axis: [low, high], below, beyond }, width) {
  const [left, right] = [MARGIN.left + (below ? ZONE : 0), width - MARGIN.right - (beyond ? ZONE : 0)];
  const per = (high - low) / (right - left);
  const ends = [low - (below ? ZONE * per : 0), high + (beyond ? ZONE * per : 0)];
  const at = (v) => (v < 10 ** low ? low - (ZONE / 2) * per : v > 10 ** high ? high + (ZONE / 2) * per : Math.log10(v));
  const zones = [...(below ? [[at(0), below]] : []), ...(beyond ? [[at(Infinity), "∞"]] : [])];
  const clear = (place) => zones.every(([zone]) => Math.abs(place - zone) > 34 * per);
  return { ends, at, marks: [...zones, ...decadeTicks([low, high], right - left, 56).filter(([place]) => clear(place))] };
}

/** The corners of a curve of shares over the axis. */
function staircase(m, side, { ends, at }) {
  const steps = [...new Set(m[side].filter((v, i) => m.correct[i] && v < Infinity).map(at))].sort((a, b) => a - b);
  const points = [[ends[0], shares(m, 0)[0]]];
  const values = m[side].map((v, i) => [at(v), m.correct[i]]);
  steps.forEach((x) => {
    const left = values.filter(([v, right]) => right && v > x).length / values.length;
    points.push([x, points.at(-1)[1]], [x, left]);
  });
  return [...points, [ends[1], points.at(-1)[1]]];
}

/** One bar an image from the certified radius ● to the smallest attack ▼, by rows from the top. */
export function bars({ width, model: m, order, sample, axis, label, words }) {
  const rows = sorted(m, order);
  const row = Math.max(0.5, Math.min(18, TALL / rows.length));
  const height = rows.length * row + TOP + BOTTOM;
  const sx = scale(axis.ends, [MARGIN.left, width - MARGIN.right]);
  const grid = marksBelow(axis.marks, sx, [TOP, height - BOTTOM]);
  const thick = row < 5 ? row : Math.min(8, 0.6 * row);
  const mark = Math.min(5, 0.36 * row);
  const drawn = rows.map((i, k) => {
    const y = TOP + (k + 0.5) * row;
    const [from, to] = [sx(axis.at(m.certified[i])), sx(axis.at(m.attacked[i]))];
    const on = m.places[i] === sample ? `<rect class="fv-chosen-row" x="0" y="${(y - Math.max(row, 3) / 2).toFixed(1)}" width="${width}" height="${Math.max(row, 3).toFixed(1)}"/>` : "";
    const name = row >= 13 || on ? `<text class="tick" x="${MARGIN.left - 6}" y="${y + 4}" text-anchor="end">${m.places[i]}</text>` : "";
    const title = `<title>${escape(words(m, i))}</title>`;
    const wide = Math.max(1, to - from);
    const open = m.attacked[i] === Infinity;
    if (!m.correct[i]) return `<g>${title}${on}${name}<path class="fv-missed" stroke-width="${Math.min(2, Math.max(0.5, row / 4))}" d="M${from - 4},${y - 0.3 * row}l8,${0.6 * row}m0,${-0.6 * row}l-8,${0.6 * row}"/></g>`;
    const bar = `<rect class="${mark < 2 ? "fv-solid" : "fv-span"}${open ? " fv-never" : ""}" x="${from.toFixed(1)}" y="${(y - thick / 2).toFixed(1)}" width="${wide.toFixed(1)}" height="${thick.toFixed(1)}" style="--fv-of:${m.color}"/>`;
    const ends = mark < 2 ? "" : `<circle class="${m.certified[i] > 0 ? "fv-proven" : "fv-unproven"}" style="--fv-of:${m.color}" cx="${from.toFixed(1)}" cy="${y.toFixed(1)}" r="${mark.toFixed(1)}"/>` +
      (open ? "" : `<path class="fv-broken" d="M${(to - mark).toFixed(1)},${(y - mark).toFixed(1)}h${(2 * mark).toFixed(1)}l${(-mark).toFixed(1)},${(2 * mark).toFixed(1)}z"/>`);
    return `<g>${title}${on}${name}${bar}${ends}</g>`;
  });
  return `<svg role="img" aria-label="${escape(label)}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${grid.join("")}${drawn.join("")}` +
    `${row >= 13 ? `<text class="tick" x="0" y="10">sample</text>` : ""}<line class="cursor" y1="${TOP}" y2="${height - BOTTOM}"/><text class="tick" x="${width - MARGIN.right}" y="${height - 4}" text-anchor="end">L2 length of a change, pixel units, log axis</text></svg>`;
}

function layout(data) {
  const several = data.models.length > 1;
  const choice = !several ? "" : `<fieldset class="fv-norms fv-whose"><legend>Model</legend>${data.models.map((m, i) =>
    `<label><input type="radio" name="model" value="${i}"> <span aria-hidden="true" style="color:${m.color}">■</span> ${escape(m.name)}</label>`).join("")}</fieldset>`;
  const some = (kind) => data.models.some((m) => m.correct.some((right, i) => kind(right, m.certified[i])));
  const sides = `<div class="fv-keys"><span>● left end, certified: nothing shorter takes the answer away</span><span>▼ right end, an attack that does</span>` +
    `${some((right, radius) => right && !radius) ? "<span>○ nothing is certified</span>" : ""}${some((right) => !right) ? "<span>✕ missed as it is</span>" : ""}</div>`;
  return `
    <div class="fv-head"><h3 class="fv-title"></h3>
      <details class="fv-help"><summary aria-label="What is this?">?</summary><p>${escape(data.help)}</p></details></div>
    <p class="fv-sub fv-summary"></p>
    <form>${choice}
    <div class="fv-rank"><div><h4>The distance of every image lies on its bar</h4>${sides}<div class="fv-each"></div>
      <div class="fv-slider"><label>image <input type="range" class="fv-which" min="0" step="1"></label><label class="fv-sorted">sorted by <select>${data.orders.map(([name, said]) =>
        `<option value="${name}">${said}</option>`).join("")}</select></label></div><p class="fv-quiet fv-words" aria-live="polite"></p></div>
    <div><h4>Share of the images that are ${data.kept} whatever the change up to ε</h4>
      <div class="fv-keys"><span><i></i>certified, at least</span><span><i style="border-top-style:dashed"></i>attacked, at most</span></div><div class="fv-band"></div>
      <div class="fv-slider"><label>ε <input type="range" class="fv-much" min="0" max="1000" step="1"></label><output></output></div><div class="fv-now"></div></div></div></form>
    ${data.labelled ? "" : `<p class="fv-quiet">No labels were given: an answer counts as missed when it is no longer the model’s own.</p>`}
    ${data.notes.length ? `<ul class="fv-missing">${data.notes.map((n) => `<li>${escape(n)}</li>`).join("")}</ul>` : ""}
    <div class="fv-tables"></div>`;
}

class Distance extends View {
  constructor(model, root, packed) {
    super(model, root, packed);
    const { data } = packed;
    // JSON has no ∞, which stands for an attack that was not found
    for (const m of data.models) m.attacked = m.attacked.map((a) => a ?? Infinity);
    root.innerHTML = layout(data);
    this.$("form").addEventListener("submit", (event) => event.preventDefault());
    root.querySelectorAll("input[name=model]").forEach((input) => input.addEventListener("change", () => this.set("model", data.models[input.value].name)));
    this.$("select").addEventListener("change", (event) => this.set("order", event.target.value));
    this.$(".fv-which").addEventListener("input", (event) => this.tell(Number(event.target.value)));
    this.$(".fv-much").addEventListener("input", (event) => this.set("epsilon", 10 ** (data.axis[0] + (Number(event.target.value) / 1000) * (data.axis[1] - data.axis[0]))));
    this.$(".fv-each").addEventListener("click", (event) => {
      const box = this.$(".fv-each svg").getBoundingClientRect();
      const count = this.shown.places.length;
      const row = Math.floor(((event.clientY - box.top - TOP) / (box.height - TOP - BOTTOM)) * count);
      if (row >= 0 && row < count) this.tell(row);
    });
    const several = data.models.length > 1;
    const head = ["label", "prediction", "certified radius", "by", "smallest attack", "to", "attack ÷ certificate", "why"];
    fillTables(this.$(".fv-tables"), [
      ["Table: both sides of every image", [...(several ? ["model"] : []), "sample", ...head],
        data.models.flatMap((m) => m.places.map((place, i) => [...(several ? [m.name] : []), place, m.labels[i], m.predictions[i], number(m.certified[i]), m.methods[i] || "–",
          number(m.attacked[i]), m.attack_predictions[i], number(ratio(m.certified[i], m.attacked[i])), m.reasons[i]]))],
      [`Table: share of the images that are ${data.kept} within ε`, ["ε", ...data.models.flatMap((m) => ["at least", "at most"].map((side) => `${several ? `${m.name}, ` : ""}${side}`))],
        data.grid.map((e) => [number(e), ...data.models.flatMap((m) => shares(m, e).map((s) => percent(s)))])],
    ]);
  }

  get shown() { return this.data.models.find((m) => m.name === this.model.get("model")) ?? this.data.models[0]; }

  get epsilon() { return Math.max(10 ** this.data.axis[0], Math.min(10 ** this.data.axis[1], this.model.get("epsilon"))); }

  /** Tell of the image in a row of the chart. */
  tell(row) { this.set("sample", this.shown.places[sorted(this.shown, this.model.get("order"))[row]]); }

  words(m, i) {
    const [c, a] = [m.certified[i], m.attacked[i]];
    const who = `sample ${m.places[i]}, ${this.data.labelled ? "label" : "answer"} ${m.labels[i]}`;
    if (!m.correct[i]) return `${who}: the model says ${m.predictions[i]} without a change`;
    const proven = c > 0 ? `no change below ${number(c)} takes it away (${m.methods[i]})` : "nothing is certified";
    const broken = a === Infinity ? "no attack was found" : `one of ${number(a)} makes it ${m.attack_predictions[i]}`;
    return `${who}: ${proven}, ${broken}${c > 0 && a < Infinity ? `, ${number(ratio(c, a))} times as far` : ""}`;
  }

  show() {
    if (!this.width) return;
    const { data, shown: m } = this;
    this.$(".fv-title").textContent = m.title;
    this.$(".fv-summary").textContent = m.summary;
    this.root.querySelectorAll("input[name=model]").forEach((input) => (input.checked = data.models[input.value] === m));
    this.half = Math.floor(this.width >= 900 ? (this.width - 32) / 2 : this.width);
    this.axis = lengths(data, this.half);
    const names = new Map(/** @type {[number, string][]} */ (this.axis.marks));
    const curves = data.models.map((one) => [one, staircase(one, "certified", this.axis), staircase(one, "attacked", this.axis)]);
    const fill = (sx, sy) => curves.map(([one, low, high]) => `<path fill="${one.color}" fill-opacity="${one === m ? 0.24 : 0.08}" stroke="none" d="M${[...high, ...low.toReversed()].map(([x, y]) => `${sx(x).toFixed(1)},${sy(y).toFixed(1)}`).join("L")}Z"/>`).join("");
    this.$(".fv-band").innerHTML = lineChart({ width: this.half, height: 260, x: this.axis.ends, y: [0, 1], yTicks: [0, 0.25, 0.5, 0.75, 1], yText: (t) => `${100 * t} %`,
      xTicks: [...names.keys()], xText: (t) => names.get(t), xLabel: "ε, L2 in pixel units, log axis", over: fill,
      lines: curves.flatMap(([one, low, high]) => [{ points: low, color: one.color, width: one === m ? 2.5 : 1.5 }, { points: high, color: one.color, width: one === m ? 2.5 : 1.5, dash: "5 3" }]),
      label: data.models.map((one) => `${one.name}: from ${percent(shares(one, 0)[0])} at ε = 0`).join("; ") });
    this.each();
  }

  /** The bars, in another order or with another one told of. */
  each() {
    if (!this.width) return;
    const { shown: m } = this;
    const order = this.model.get("order");
    const places = sorted(m, order).map((i) => m.places[i]);
    this.$(".fv-slider").hidden = places.length === 1;
    const sample = places.includes(this.model.get("sample")) ? this.model.get("sample") : places[0];
    this.keep({ model: m.name, sample });
    const range = this.$(".fv-which");
    range.max = places.length - 1;
    range.value = places.indexOf(sample);
    this.$("select").value = order;
    this.$(".fv-each").innerHTML = bars({ width: this.half, model: m, order, sample, axis: this.axis, words: (one, i) => this.words(one, i),
      label: `${m.name}: certified radius and smallest attack of ${m.places.length} images` });
    const said = this.words(m, m.places.indexOf(sample));
    range.setAttribute("aria-valuetext", said);
    this.$(".fv-words").textContent = `${said}.`;
    this.move();
  }

  move() {
    if (!this.width) return;
    const { data, epsilon } = this;
    this.keep({ epsilon });
    const range = this.$(".fv-much");
    range.value = Math.round((1000 * (Math.log10(epsilon) - data.axis[0])) / (data.axis[1] - data.axis[0]));
    this.$("output").textContent = `ε = ${number(epsilon)}`;
    range.setAttribute("aria-valuetext", `ε = ${number(epsilon)} in L2`);
    const x = scale(this.axis.ends, [MARGIN.left, this.half - MARGIN.right])(Math.log10(epsilon));
    this.root.querySelectorAll(".cursor").forEach((line) => ["x1", "x2"].forEach((end) => line.setAttribute(end, x)));
    this.$(".fv-now").innerHTML = `<table><thead><tr><th scope="col">at ε = ${number(epsilon)}, ${data.kept}</th><th scope="col">at least</th><th scope="col">at most</th></tr></thead><tbody>${data.models.map((m) =>
      `<tr><td><span aria-hidden="true" style="color:${m.color}">■</span> ${escape(m.name)}</td>${shares(m, epsilon).map((s) => `<td>${percent(s)}</td>`).join("")}</tr>`).join("")}</tbody></table>`;
  }

  resize() {
    this.root.dataset.columns = this.columns;
    this.show();
  }
}

const render = mounted(Distance, {
  "change:model": "show", "change:order": "each", "change:sample": "each", "change:epsilon": "move",
});

export default { render };
