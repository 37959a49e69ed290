// The explorer in words and numbers: its title, the state of the batch, and the tables.
import { measured, number, powerOfTen, probability } from "../kit/numbers.js";
import { median, quantiles } from "../kit/quantiles.js";
import { fillTables } from "../kit/stage.js";

/** The view with this part of it. @param {any} Base @returns {any} */
export const withSummary = (Base) => class extends Base {
  /** The batch in a sentence. */
  sentence() {
    const { data, table } = this;
    const [low, high] = quantiles(table.norm, [0, 1]);
    if (data.models.length > 1) {
      const [a, b] = data.models;
      const more = data.indices.filter((i) => a.table.norm[i] > b.table.norm[i]).length;
      const r = a.ranks[this.norm][`λ₁ of ${b.name}`];
      const agree = r && r[0] !== null ? ` Their orders of fragility agree with ρ = ${number(r[0], 2)}${r[1] === null ? "" : ` (95 % ${number(r[1], 2)} to ${number(r[2], 2)})`}.` : "";
      return `${this.title} is larger for ${a.name} on ${more} of ${data.indices.length} samples.${agree}`;
    }
    const spread = low > 0 ? high / low : Infinity;
    if (high === 0) return "λ₁ = 0 at every sample: the prediction does not react at all.";
    const times = Number.isFinite(spread) && spread > 1.5 ? `, ×${powerOfTen(Math.log10(spread), 2)} from the least to the most fragile` : "";
    const what = this.matched ? "says whether small changes reach a class boundary" : "says how fast this prediction can change";
    return `${this.title} ${what}: here from ${number(low)} to ${number(high)}${times}.`;
  }

  status() {
    const { data } = this;
    const mean = (list) => list.reduce((sum, v) => sum + v, 0) / list.length;
    const own = (list) => data.indices.map((i) => list[i]);
    const line = (m) => {
      const known = m.correct && own(m.correct).filter((c) => c !== null);
      const right = known?.length && `accuracy ${number((100 * known.filter(Boolean).length) / known.length)} %`;
      const doubt = mean(own(m.table.doubt));
      const matched = own(m.table.matched).filter((v) => !Number.isNaN(v));
      return [m.name, data.lost.length ? `${data.indices.length} of ${data.total} samples` : `${data.total} samples`, `median λ₁ ${matched.length ? `${number(median(matched))} at confidence ${data.confidence}, ` : ""}${number(median(own(m.table.raw)))} as it is`, right, `mean confidence ${probability(1 - doubt, doubt)}`, `temperature ${number(m.temperature)}`].filter(Boolean).join(" · ");
    };
    const said = [this.live ? data.left.replace(" shows all", " has all; here one is computed when it is opened") : data.left, data.stored].filter(Boolean);
    const left = said.flatMap((words) => [document.createElement("br"), document.createTextNode(words)]);
    this.$(".fv-batch").replaceChildren(...data.models.flatMap((m, i) => [...(i ? [document.createElement("br")] : []), document.createTextNode(line(m))]), ...left);
  }

  tables() {
    const { data } = this;
    const box = this.$(".fv-all");
    const tables = data.models.map((m) => {
      const t = m.table;
      const rows = () => data.indices.map((i) => [i, ...(data.labels ? [data.labels[i] === null ? "–" : this.name(data.labels[i])] : []), this.name(m.predictions[i]), probability(t.confidence[i], t.doubt[i]), number(t.margin[i]),
        ...[t.matched[i], t.matchedError[i]].map((v, at) => (Number.isNaN(v) ? "–" : number(v, at ? 2 : 4))), number(t.raw[i], 4), number(t.error[i], 2), measured(t.trace[i], t.traceError[i]), ...(t.radius ? [number(t.radius[i])] : [])]);
      return [`Table: all samples${m.name ? ` of ${m.name}` : ""}`, ["sample", ...(data.labels ? ["label"] : []), "prediction", "confidence", "margin", this.words(true), "its error", "λ₁ as it is", "its error", "trace", ...(t.radius ? ["certified radius"] : [])], rows];
    });
    fillTables(box, tables.map(([caption, head]) => [caption, head, []]));
    // a thousand rows are made when they are asked for
    box.querySelectorAll("details").forEach((details, i) => details.addEventListener("toggle", () => {
      if (details.open && !details.querySelector("tbody tr")) {
        const [caption, head, rows] = tables[i];
        const made = document.createElement("div");
        fillTables(made, [[caption, head, rows()]]);
        details.querySelector(".fv-scroll").replaceWith(made.querySelector(".fv-scroll"));
      }
    }));
  }
};
