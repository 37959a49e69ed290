// The ranking view: which number puts models in the order of the attacks?
// State shared with Python or the stand-in host: column (the number on the right).
import { escape, marksBelow, marksBeside } from "../kit/chart.js";
import { fixed, number, raised } from "../kit/numbers.js";
import { decadeTicks, scale, ticks } from "../kit/axes.js";
import { fillTables, mounted, View } from "../kit/stage.js";

const KINDS = {
  formula: "formulas — guaranteed, worst case",
  estimate: "Fisher information at the images",
  context: "context — claims no ranking",
};

/** A power of ten as text, also where it leaves the range of floating point. */
export function power(log) {
  if (!Number.isFinite(log)) return "–";
  if (log > -3.001 && log < 4.001) return number(10 ** log, 2);
  const exponent = Math.floor(log + 1e-9);
  const mantissa = 10 ** (log - exponent);
  return `${mantissa < 1.05 ? "" : `${number(mantissa, 2)}×`}10${raised(exponent)}`;
}

/** A column's value as it stands on the axis: a logarithm where the column spans decades. */
export const onAxis = (value, log) => (log === "decades" ? (value > 0 ? Math.log10(value) : NaN) : value);

/** What is written on the axis, and in words, at a place of the axis. */
export const written = (place, log) => (log ? power(place) : number(place));

/** The pairs of points that a number puts in the wrong order: [i, j] with i said to be the more fragile. */
export function wrongPairs(points, expected) {
  const out = [];
  points.forEach((a, i) => points.forEach((b, j) => {
    if (expected * (a.value - b.value) > 0 && a.attack > b.attack) out.push([i, j]);
  }));
  return out;
}

/** Heights of labels moved down where one would overlap another, or an obstacle. Each has x, y and is `wide`. */
export function apart(labels, obstacles = [], gap = 14) {
  const placed = [...obstacles];
  return labels.map(({ x, y, wide }) => {
    let at = y;
    const hit = () => placed.find((p) => Math.abs(p.y - at) < gap && x < p.x + p.wide && p.x < x + wide);
    for (let tries = 0, other = hit(); other && tries < 40; tries++, other = hit()) at = other.y + gap;
    placed.push({ x, y: at, wide });
    return at;
  });
}

/** ρ with its interval on an axis from −1 to 1; a hollow diamond stands where a perfect ranking would. */
function intervalChart(row, width) {
  const sx = scale([-1, 1], [8, width - 8]);
  const grid = [-1, 0, 1].map((t) => `<line class="${t ? "grid" : "axis"}" x1="${sx(t)}" x2="${sx(t)}" y1="0" y2="24"/>`).join("");
  const goal = row.expected ? `<path class="fv-goal" d="M${sx(row.expected)},6l6,6l-6,6l-6,-6Z"/>` : "";
  if (row.spearman === null) return `<svg aria-hidden="true" width="${width}" height="24">${grid}${goal}</svg>`;
  return `<svg aria-hidden="true" width="${width}" height="24">${grid}${goal}<path class="fv-stroke" ` +
    `d="M${sx(row.low)},7V17M${sx(row.low)},12H${sx(row.high)}M${sx(row.high)},7V17"/><circle class="fv-rho" cx="${sx(row.spearman)}" cy="12" r="5"/></svg>`;
}

/** One point a model: the chosen number against the smallest attack; a line joins two that stand in the wrong order. */
export function scatter({ width, height, points, column, label }) {
  const [left, right, top, bottom] = [48, 12, 12, 44];
  const span = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const air = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
    return [low - air, high + air];
  };
  const ends = points.flatMap((p) => [p.low, p.attack, p.high]).filter(Number.isFinite);
  const [x, y] = [span(points.map((p) => p.value)), span(ends)];
  const [sx, sy] = [scale(x, [left, width - right]), scale(y, [height - bottom, top])];
  const steps = column.log ? decadeTicks(x, width - left - right, 56) : ticks(...x, width < 420 ? 3 : 5).filter((t) => t >= x[0] && t <= x[1]).map((t) => [t, number(t)]);
  const vertical = marksBelow(steps, sx, [top, height - bottom]);
  const rows = ticks(...y, 4).filter((t) => t >= y[0] && t <= y[1]);
  const horizontal = marksBeside(rows.map((t) => [t, number(t)]), sy, [left, width - right]);
  const wrong = column.expected ? wrongPairs(points, column.expected).map(([i, j]) =>
    `<line class="fv-wrongpair" x1="${sx(points[i].value)}" y1="${sy(points[i].attack)}" x2="${sx(points[j].value)}" y2="${sy(points[j].attack)}"/>`) : [];
  const labels = points.map((p) => {
    const name = p.name.length > 22 ? `${p.name.slice(0, 21)}…` : p.name;
    const wide = 6.6 * name.length + 8;
    const after = sx(p.value) + 9 + wide <= width;
    return { name, wide, x: after ? sx(p.value) + 9 : Math.max(0, sx(p.value) - 9 - wide), y: sy(p.attack) + 4 };
  });
  const heights = apart(labels, points.map((p) => ({ x: sx(p.value) - 6, y: sy(p.attack) + 4, wide: 12 })));
  const drawn = points.map((p, i) => `<g><title>${escape(`${p.name}: ${column.title} ${written(p.value, column.log)}, smallest attack ${number(p.attack)}, medians of other images from ${number(p.low)} to ${number(p.high === "inf" ? Infinity : p.high)}`)}</title>` +
    (Number.isFinite(p.low) && p.high !== null ? `<line class="fv-medians" x1="${sx(p.value)}" x2="${sx(p.value)}" y1="${sy(p.low)}" y2="${Number.isFinite(p.high) ? sy(p.high) : top}"/>` : "") +
    `<circle class="fv-model" cx="${sx(p.value)}" cy="${sy(p.attack)}" r="5"/>` +
    `<text class="direct" x="${labels[i].x}" y="${heights[i]}">${escape(labels[i].name)}</text></g>`);
  return `<svg role="img" aria-label="${escape(label)}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${vertical.join("")}${horizontal.join("")}` +
    `${wrong.join("")}${drawn.join("")}<text class="tick" x="${left}" y="${height - 6}">${escape(column.title)}${column.log ? ", log axis" : ""}</text></svg>`;
}

function layout(data) {
  let kind = "";
  const rows = data.columns.filter((c) => c.kind !== "measured").map((c) => {
    const head = c.kind === kind ? "" : `<p class="fv-kind">${KINDS[(kind = c.kind)]}</p>`;
    return `${head}<label class="fv-choice"><input type="radio" name="column" value="${c.name}"><span class="fv-name">${escape(c.title)}</span><span class="fv-strip" data-of="${c.name}"></span><output>${said(c)}</output></label>`;
  });
  return `
    <div class="fv-head"><h3 class="fv-title">${escape(data.title)}</h3>
      <details class="fv-help"><summary aria-label="What is this?">?</summary><p>${escape(data.help)}</p></details></div>
    <p class="fv-sub">${escape(data.summary)}</p>
    <div class="fv-rank"><!-- a form of its own keeps the choice apart from that of another copy on the page -->
      <form><fieldset><legend>Which number ranks the models?</legend>
      <p class="fv-quiet">ρ with fragility, which shorter attacks measure, from −1 to 1, and its 95 % interval; ◇ would be a perfect ranking.</p>${rows.join("")}</fieldset></form>
      <div><h4>Smallest attack (median L2, upward) against the chosen number</h4><p class="fv-quiet fv-verdict"></p><p class="fv-quiet">Bars: where the medians of other images would lie, 95 %; one without an end reaches the upper edge.</p><div class="fv-scatter"></div><p class="fv-quiet fv-undrawn"></p></div></div>
    <h4 style="margin-top:16px">The models</h4><div class="fv-scroll fv-models" tabindex="0" role="region" aria-label="The models' numbers"></div>
    ${data.notes.length ? `<ul class="fv-missing">${data.notes.map((n) => `<li>${escape(n)}</li>`).join("")}</ul>` : ""}
    <div class="fv-tables"></div>`;
}

const said = (c) => (c.spearman === null ? "–" : `ρ ${fixed(c.spearman)}${c.expected ? ` · ${c.discordant}/${c.pairs} wrong` : ""}`);

/** A cell of the models' table. */
function cell(value, column) {
  if (value === "inf") return "none found";
  if (value === "-inf") return "−∞"; // the logarithm of a bound of 0
  return column.log === "log10" ? fixed(value) : number(value);
}

class Ranking extends View {
  constructor(model, root, packed) {
    super(model, root, packed);
    const { data } = packed;
    root.innerHTML = layout(data);
    this.$("form").addEventListener("submit", (event) => event.preventDefault());
    root.querySelectorAll("input").forEach((input) => input.addEventListener("change", () => this.set("column", input.value)));
    fillTables(this.$(".fv-tables"), [
      ["Table: the correlations", ["number", "claims", "models", "ρ", "low", "high", "p", "pairs in the wrong order", "in words"],
        data.columns.filter((c) => c.kind !== "measured").map((c) => [c.title, ["less is fragile", "nothing", "more is fragile"][c.expected + 1], c.models,
          fixed(c.spearman), fixed(c.low), fixed(c.high), c.p_value === null ? "–" : number(c.p_value, 2),
          c.expected ? `${c.discordant} of ${c.pairs}` : "–", c.verdict])],
    ]);
  }

  get column() { return this.data.columns.find((c) => c.name === this.model.get("column")) ?? this.data.columns[0]; }

  show() {
    if (!this.width) return;
    const { column, data } = this;
    this.keep({ column: column.name });
    this.root.querySelectorAll("input").forEach((input) => (input.checked = input.value === column.name));
    const half = this.width >= 900 ? (this.width - 32) / 2 : this.width;
    const strip = Math.max(96, Math.min(180, half * 0.34));
    data.columns.forEach((c) => {
      const place = this.root.querySelector(`[data-of="${c.name}"]`);
      if (place) place.innerHTML = intervalChart(c, strip);
    });
    const points = data.models.map((m) => ({ name: m.name, value: onAxis(m[column.name], column.log), attack: m.smallest_attack, low: m.attack_low, high: m.attack_high }))
      .filter((p) => p.value !== null && Number.isFinite(p.value) && Number.isFinite(p.attack) && p.attack !== null);
    const left = data.models.filter((m) => m.smallest_attack === "inf" && m[column.name] !== null).map((m) => m.name);
    this.$(".fv-undrawn").textContent = left.length ? `Not drawn, as fewer than half of their images were fooled: ${left.join(", ")}.` : "";
    const wrong = column.expected ? `${column.discordant} of ${column.pairs} pairs of models in the wrong order${column.discordant ? ", each joined by a line" : ""}. ` : "";
    const range = column.spearman === null ? "" : `ρ = ${fixed(column.spearman)}, 95 % from ${fixed(column.low)} to ${fixed(column.high)}: `;
    const verdict = range ? column.verdict : column.verdict.charAt(0).toUpperCase() + column.verdict.slice(1);
    this.$(".fv-verdict").textContent = `${wrong}${range}${verdict}.`;
    this.$(".fv-scatter").innerHTML = points.length > 1
      ? scatter({ width: half, height: 300, points, column, label: points.map((p) => `${p.name}: ${written(p.value, column.log)}, attack ${number(p.attack)}`).join("; ") })
      : `<p class="fv-quiet">Fewer than two models have this number.</p>`;
    this.table();
  }

  table() {
    const { data, column } = this;
    const on = (c) => (c.name === column.name || c.name === "smallest_attack" ? ` class="fv-on"` : "");
    const head = data.columns.map((c) => `<th scope="col" title="${escape(c.title)}"${on(c)}>${escape(c.short)}</th>`).join("");
    const rows = data.models.map((m) => `<tr><td title="${escape(m.name)}">${escape(m.name)}</td>${data.columns.map((c) =>
      `<td${on(c)} data-short="${escape(c.short)}">${cell(m[c.name], c)}</td>`).join("")}</tr>`).join("");
    const box = this.$(".fv-models");
    box.innerHTML = `<table><thead><tr><th scope="col">model</th>${head}</tr></thead><tbody>${rows}</tbody></table>`;
    box.classList.remove("fv-stacked"); // a table too wide for the page stands model by model
    box.classList.toggle("fv-stacked", box.scrollWidth > box.clientWidth + 1);
  }

  resize() {
    this.root.dataset.columns = this.columns;
    this.show();
  }
}

const render = mounted(Ranking, { "change:column": "show" });

export default { render };
