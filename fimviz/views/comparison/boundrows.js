// The bound view, left: every way to know λ₁ as a row, and its mark on an axis that all rows share.
import { escape } from "../kit/chart.js";
import { powerOfTen, raised } from "../kit/numbers.js";
import { brokenAxis, decadeTicks, scale } from "../kit/axes.js";
import { quartiles } from "../kit/quantiles.js";

const bracket = (from, to, y) => `<path class="fv-stroke" d="M${from},${y - 5}V${y + 5}M${from},${y}H${to}M${to},${y - 5}V${y + 5}"/>`;

// What a guarantee looks like: by shape, so that it needs no colour.
export const SHAPES = {
  exact: (x, y) => `<circle cx="${x}" cy="${y}" r="5"/>`,
  interval: (x, y) => bracket(x - 5, x + 5, y),
  lower: (x, y) => `<path d="M${x},${y - 6}L${x + 6},${y + 5}H${x - 6}Z"/>`,
  upper: (x, y) => `<path d="M${x},${y + 6}L${x + 6},${y - 5}H${x - 6}Z"/>`,
  statistical: (x, y) => `<circle cx="${x}" cy="${y}" r="5" class="fv-stroke fv-hollow" stroke-dasharray="2.5 2"/>`,
  void: (x, y) => `<path class="fv-stroke" d="M${x - 5},${y - 5}l10,10M${x + 5},${y - 5}l-10,10"/>`,
  unverified: (x, y) => `<rect x="${x - 5}" y="${y - 5}" width="10" height="10" class="fv-stroke fv-hollow"/>`,
  none: () => "",
};

/** Whether a method's low and high are an interval to draw; bounds have one side. */
export const shows = (method) => ["exact", "interval", "statistical", "unverified"].includes(method.guarantee);

const range = (span) => `${powerOfTen(span[0], 2)} … ${powerOfTen(span[4], 2)}`;

/** Two slanted strokes through the rows where an axis is broken. */
function breakMark(x, top, bottom) {
  const slash = (at) => `M${at - 3},${bottom + 6}L${at + 3},${bottom - 6}`;
  return `<rect class="fv-gap" x="${x - 4}" y="${top}" width="8" height="${bottom - top}"/><path class="fv-stroke" d="${slash(x - 3)}${slash(x + 3)}"/>`;
}

/** The view with this part of it. @param {any} Base @returns {any} */
export const withRows = (Base) => class extends Base {
  /** The rows' words, then the marks at the heights that the rows have. */
  rows() {
    const { all, at, data } = this;
    const spans = this.methods.map((_, m) => (all ? quartiles(data.samples.map((sample, s) => this.ratio(s, m))) : null));
    const middle = this.methods.map((_, m) => (all ? spans[m]?.[2] ?? NaN : this.log(at, m)));
    this.options = [...this.root.querySelectorAll(".fv-row")];
    this.options.forEach((row) => {
      const m = this.methods.findIndex((k) => k.name === row.dataset.method);
      const method = this.methods[m];
      const none = Number.isNaN(middle[m]);
      const times = all ? middle[m] : this.ratio(at, m);
      row.setAttribute("aria-selected", m === this.chosen);
      row.tabIndex = m === this.chosen ? 0 : -1;
      // a reason that several rows share is said at the first of them
      const first = none && method.reason && this.methods.findIndex((k, i) => k.reason === method.reason && Number.isNaN(middle[i]));
      row.querySelector(".fv-plot").innerHTML = none ? `<span class="fv-why">${first !== false && first < m && method.reason ? `none, as for ${escape(this.methods[first].name)}` : escape(this.why(method))}</span>` : "";
      row.classList.toggle("fv-none", none);
      row.querySelector(".fv-value").textContent = none ? "" : all ? range(spans[m]) : powerOfTen(middle[m]);
      row.querySelector(".fv-times").textContent = none ? "" : m === this.reference && !all ? "" : Number.isNaN(times) ? (!all && this.truth === -Infinity ? "" : "–") : `×${powerOfTen(times, 2)}`;
      row.title = none ? this.why(method) : all
        ? `${method.name}: ×${powerOfTen(spans[m][2])} in the median, half of the samples from ×${powerOfTen(spans[m][1])} to ×${powerOfTen(spans[m][3])}, all from ×${powerOfTen(spans[m][0])} to ×${powerOfTen(spans[m][4])}`
        : this.words(m);
    });
    const box = this.$(".fv-ladder");
    const plots = this.options.map((row) => row.querySelector(".fv-plot"));
    const edge = box.getBoundingClientRect();
    const places = plots.map((plot) => plot.getBoundingClientRect());
    const [left, right] = [places[0].left - edge.left + 8, Math.min(...places.map((place) => place.right)) - edge.left - 10]; // of all: long values take room
    const rowsOf = this.options.map((row) => this.methods.findIndex((k) => k.name === row.dataset.method));
    const truth = all ? 0 : this.truth;
    const logs = all ? spans.flatMap((s) => s ?? []) : rowsOf.flatMap((m) => [this.log(at, m), ...(shows(this.methods[m]) ? [this.log(at, m, 1), this.log(at, m, 2)].filter((v) => v > truth - 3) : [])]);
    const axis = brokenAxis(logs, truth, [left, right]);
    const top = places[0].top - edge.top - 4;
    const axisBox = this.$(".fv-axis").getBoundingClientRect();
    const bottom = axisBox.top - edge.top;
    const marks = [];
    // on a narrow page words stand between the rows' pictures, and no line may cross them
    const stretches = this.root.dataset.columns === "1" ? [...places.map((p) => [p.top - edge.top, p.bottom - edge.top]), [bottom - 4, bottom]] : [[top, bottom]];
    const vertical = (x, name) => `<path class="${name}" d="${stretches.map(([from, to]) => `M${x},${from}V${to}`).join("")}"/>`;
    const empty = !middle.some(Number.isFinite); // nothing but zeros: they have no place on a log axis
    if (!empty) axis.zones.forEach((zone, z) => {
      const sx = scale([zone.from, zone.to], [zone.start, zone.end]);
      for (const [t, text] of decadeTicks([zone.from, zone.to], zone.end - zone.start)) {
        const x = sx(t).toFixed(1);
        marks.push(`${vertical(x, "grid")}<text class="tick" x="${x}" y="${bottom + 15}" text-anchor="middle">${all ? "×" : ""}${text}</text>`);
      }
      if (z) marks.push(breakMark((axis.zones[z - 1].end + zone.start) / 2, top, bottom));
    });
    if (Number.isFinite(truth)) {
      marks.push(vertical(axis.at(truth).toFixed(1), "fv-truth"));
    }
    if (!empty) marks.push(this.stairs(rowsOf, places, edge, axis, middle, truth));
    rowsOf.forEach((m, i) => {
      if (Number.isNaN(middle[m]) || empty) return;
      const y = (places[i].top + places[i].bottom) / 2 - edge.top;
      const x = axis.at(middle[m]);
      const method = this.methods[m];
      if (all) {
        const [low, q1, , q3, high] = spans[m].map(axis.at);
        const here = this.ratio(at, m);
        marks.push(`<path class="fv-stroke fv-thin" d="M${low},${y}H${high}"/><path class="fv-box" d="M${q1 - 0.5},${y - 4}H${q3 + 0.5}V${y + 4}H${q1 - 0.5}Z"/>` +
          (SHAPES[method.guarantee] ?? SHAPES.none)(x, y) + (Number.isNaN(here) ? "" : `<path class="fv-here" d="M${axis.at(here)},${y - 12}V${y - 6}M${axis.at(here)},${y + 6}V${y + 12}"/>`));
        return;
      }
      const [low, high] = [axis.at(this.log(at, m, 1)), axis.at(this.log(at, m, 2))];
      const wide = shows(method) && high - low > 10;
      marks.push((wide ? bracket(low, high, y) : "") + (wide && method.guarantee === "interval" ? "" : (SHAPES[method.guarantee] ?? SHAPES.none)(x, y)));
    });
    const broken = axis.zones.slice(1).map((zone, z) => [Math.ceil(axis.zones[z].to), Math.floor(zone.from)]).filter(([a, b]) => b > a).map(([a, b]) => `10${raised(a)} to 10${raised(b)}`);
    const unit = all ? `ratio to ${this.truthName}` : "λ₁ in nats per squared unit of the input";
    const note = `${unit}, log axis${axis.zones.length > 1 ? `, broken at //${broken.length ? ` (${broken.join(" and ")} left out)` : ""}` : ""}`;
    this.$(".fv-axis").textContent = empty ? "no value above 0: nothing to place on a log axis" : note;
    const svg = this.$(".fv-marks");
    svg.setAttribute("width", edge.width);
    svg.setAttribute("height", edge.height);
    svg.innerHTML = marks.join("");
  }

  /** The rungs as one descending line from the truth, but for one that is tighter than the one before: over a ball. */
  stairs(rowsOf, places, edge, axis, middle, truth) {
    let path = "";
    let first = 0;
    let last = -Infinity;
    rowsOf.forEach((m, i) => {
      if (this.methods[m].group !== "ladder" || !(middle[m] > last - 1e-4)) return;
      last = middle[m];
      const y = (places[i].top + places[i].bottom) / 2 - edge.top;
      if (!path) {
        first = Number.isFinite(truth) ? axis.at(truth) : axis.at(middle[m]);
        path = `M${first},${y - 14}`;
      }
      path += `V${y}H${axis.at(middle[m]).toFixed(1)}`;
    });
    return path ? `<path class="fv-stairs" d="${path}"/>` : "";
  }
};
