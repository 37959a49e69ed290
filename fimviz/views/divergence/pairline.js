// The divergence view, right: what the model says along the line between the two samples of a pair.
import { escape, lineChart } from "../kit/chart.js";
import { number, probability } from "../kit/numbers.js";
import { legend } from "../kit/contrast.js";
import { signedPicture } from "../kit/inputs.js";
import { Lens, ofImage, ofMap } from "../kit/lens.js";
import { locate, MARGIN, scale, ticks } from "../kit/axes.js";

/** The view with this part of it. @param {any} Base @returns {any} */
export const withLine = (Base) => class extends Base {
  line() {
    const { pair } = this;
    this.$(".fv-line").hidden = !pair;
    if (!pair) return;
    const [a, b] = this.ends(pair);
    const names = [a, b].map((s) => this.name(s.label));
    const ratio = pair.kl > 0 ? (pair.kl - pair.g1) / pair.kl : null;
    const told = ratio === null ? "the answers are the same" : ratio >= 0 ? `F at x_i promises ${number(pair.g1)} of it` : `F at x_i promises more than there is, ${number(pair.g1)}`;
    this.$(".fv-pairname").textContent = `${names[0]} → ${names[1]}: KL = ${number(pair.kl)} nats, ${told}`;
    [["start", "x_i", a], ["end", "x_j", b]].forEach(([where, name, s]) => {
      const box = this.$(`.fv-${where}`);
      box.querySelector("figcaption").textContent = `${name}, sample ${s.index}`;
      this.picture(box.querySelector(".fv-plate"), s.values, this.target, `${name}: sample ${s.index}, labelled ${this.name(s.label)}`);
      const right = s.prediction === s.label ? "" : `, the label says ${escape(this.name(s.label))}`;
      box.querySelector(".fv-under").innerHTML = `<strong>${escape(this.name(s.prediction))}</strong><br>p = ${probability(s.confidence, s.doubt)}${right}<br>λ₁ = ${number(s.norm)}`;
    });
    this.differ();
    if (this.opened !== pair) this.lens?.forget();
    this.opened = pair;
    this.range.max = this.steps;
    this.chart();
    this.move();
  }

  /** What sets the second sample of the pair apart from the first, as it is drawn. */
  differ() {
    const { pair, data } = this;
    const [a, b] = this.ends(pair);
    const change = Float32Array.from(b.values, (v, k) => v - a.values[k]);
    pair.difference = data.kind === "series"
      ? { values: change, scale: Math.max(1e-300, ...change.map(Math.abs)) }
      : { ...pair.difference, bytes: Int8Array.from(change, (v) => Math.round((127 * v) / 255)), scale: data.range[1] - data.range[0] };
    const box = this.$(".fv-images .fv-direction");
    box.querySelector("figcaption").textContent = "difference x_j − x_i";
    signedPicture(box.querySelector(".fv-plate"), pair.difference, data, { target: this.target, name: "difference", gain: this.contrast.gain });
    box.querySelector(".fv-under").innerHTML = legend(pair.difference, this.contrast.gain, data, false);
    this.lens?.show();
  }

  /** A lens over the line and the difference of its ends. */
  looking() {
    const { shape, range } = this.data;
    const read = () => {
      const [a, b] = this.ends(this.pair);
      const differs = ofMap(range[1] - range[0]);
      return [...[a.values, this.mixed, b.values].map((values) => [values, ofImage(range)]), [a.values, (v, k) => differs((127 * (b.values[k] - v)) / 255)]];
    };
    this.lens = new Lens(this.$(".fv-images"), this.$(".fv-look"), shape, { read, map: () => this.pair.difference.bytes });
  }

  chart() {
    const { pair, steps } = this;
    const top = Math.max(...pair.along, 1e-300);
    const quadratic = pair.along.map((_, k) => (k / steps) ** 2 * pair.g1);
    const most = Math.min(Math.max(top, pair.g1), 2.5 * top) * 1.06;
    const beyond = pair.g1 > most;
    // a quadratic part that leaves the chart is cut where it does
    const inside = quadratic.map((v, k) => [k / steps, v]).filter((p) => p[1] <= most);
    if (beyond) inside.push([Math.sqrt(most / pair.g1), most]);
    const yTicks = ticks(0, most, 4).filter((v) => v <= most);
    const svg = lineChart({ width: this.chartWidth, height: 220, x: [0, 1], y: [0, most], yTicks, xTicks: [0, 0.25, 0.5, 0.75, 1], xLabel: "share of the way, t", label: `KL along the line, up to ${number(pair.along.at(-1))}; its quadratic part, up to ${number(pair.g1)}`,
      lines: [{ points: inside, color: "var(--fv-quiet)", width: 1.5, dash: "5 4" }, { points: pair.along.map((v, k) => [k / steps, v ?? NaN]), color: "currentColor", width: 2 }] });
    this.$(".fv-charts .fv-kl").innerHTML = `<p class="fv-quiet">KL(f(x_i) ‖ f(x_i + t (x_j − x_i))), in nats</p>${svg}` +
      `<p class="fv-quiet">${beyond ? `The quadratic part leaves the chart and ends at ${number(pair.g1)}. ` : ""}‖x_j − x_i‖ = ${number(pair.l2)}; at most ½ λ₁ ‖x_j − x_i‖² = ${number(pair.limit)} could be second-order.</p>`;
  }

  /** What depends on the place along the line. */
  move() {
    const { pair, position, steps } = this;
    if (!pair || !this.width) return;
    this.keep({ position });
    const t = position / steps;
    const [a, b] = this.ends(pair);
    this.mixed = Float32Array.from(a.values, (v, k) => v + t * (b.values[k] - v));
    this.range.value = position;
    const [name, p] = pair.p[position] === null ? ["not known", "–"] : [this.name(pair.says[position]), probability(pair.p[position])];
    const said = `${name} (p = ${p})`;
    this.$(".fv-moved figcaption").textContent = "on the way";
    this.picture(this.$(".fv-moved .fv-plate"), this.mixed, this.target, `the image ${Math.round(100 * t)} % of the way, read as ${said}`);
    this.$(".fv-moved .fv-under").innerHTML = `<strong>${escape(name)}</strong><br>p = ${p}`;
    this.lens?.show();
    this.$(".fv-slider output").textContent = `t = ${t.toFixed(2)}`;
    const text = `At t = ${t.toFixed(2)} KL is ${number(pair.along[position])} nats, the quadratic part ${number(t * t * pair.g1)}; the model says ${said}.`;
    this.$(".fv-step").textContent = text;
    this.range.setAttribute("aria-valuetext", text);
    const x = scale([0, 1], [MARGIN.left, this.chartWidth - MARGIN.right])(t);
    this.root.querySelectorAll(".fv-charts .cursor").forEach((c) => ["x1", "x2"].forEach((end) => c.setAttribute(end, x)));
  }

  /** The chart takes the pointer as the slider does. */
  dragging() {
    const box = this.$(".fv-charts .fv-kl");
    const at = (event) => {
      const svg = event.target.closest("svg");
      if (!svg || !(event.buttons & 1)) return;
      const t = scale([MARGIN.left, this.chartWidth - MARGIN.right], [0, 1])(event.clientX - svg.getBoundingClientRect().left);
      const nodes = Array.from({ length: this.steps + 1 }, (_, k) => k / this.steps);
      const [k, rest] = locate(nodes, Math.max(0, Math.min(1, t)));
      this.set("position", k + (rest >= 0.5 ? 1 : 0));
    };
    box.addEventListener("pointerdown", at);
    box.addEventListener("pointermove", at);
  }
};
