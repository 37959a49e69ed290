// The perturbation view: what the worst direction looks like, and what it does to the prediction.
// State shared with Python or the stand-in host: index (of the chosen sample), direction, epsilon, flipped.
import { measured, number } from "../kit/numbers.js";
import { Gallery, shares } from "../kit/gallery.js";
import { picture, readInput } from "../kit/inputs.js";
import { kink, outcomeOf, Panel, readSample, sureness, within } from "./panel.js";
import { limitsOf, mounted, photographic, View } from "../kit/stage.js";

const LAYOUT = `
    <div class="fv-head"><h3 class="fv-title"></h3>
      <details class="fv-help"><summary aria-label="What is this?">?</summary><p>The <b>Fisher information</b> F of an input
      says how fast the model’s prediction changes when the input moves: a step of length ε along the unit direction v changes
      it by KL ≈ ½ ε² vᵀFv nats. The largest eigenvalue λ₁ of F, the <b>spectral norm</b>, belongs to the direction v₁ that
      changes it fastest. The sign of a direction is a convention<span class="fv-toward">: toward +ε the predicted class loses probability at first</span>.
      The model was asked at <span class="fv-nodes"></span> distances and at the flips, by forward passes; between these the curves are interpolated.
      It was given x + εv as it is, also where the picture has to clip it.</p></details></div>
    <p class="fv-sub"></p><p class="fv-quiet fv-left" hidden></p>
    <div class="fv-gallery" role="listbox" aria-label="Samples, most fragile first" aria-orientation="horizontal"></div>
    <div class="fv-perturbed"></div>`;

class Perturbation extends View {
  constructor(model, root, packed) {
    super(model, root, packed);
    const { data, part } = packed;
    for (const s of data.samples) readSample(s, data, part);
    root.innerHTML = LAYOUT;
    this.$(".fv-toward").hidden = data.numbers;
    const { kl, at } = data.samples[0].directions[0];
    this.$(".fv-nodes").textContent = kl.length - at.length;
    Object.assign(this.$(".fv-left"), { textContent: limitsOf(data), hidden: !limitsOf(data) });
    const large = photographic(data);
    const side = large ? 64 : 40;
    this.$(".fv-gallery").classList.toggle("fv-large", large);
    const lengths = shares(data.samples.map((s) => s.directions[0].value));
    const items = data.samples.map((s, i) => {
      const wrong = s.correct === false;
      return { key: s.index, share: lengths[i], wrong, draw: (plate) => picture(plate, s, data, side),
        label: `sample ${s.index}: predicted ${this.outcome(s.prediction)}${wrong ? ", wrong" : ""}, λ₁ = ${number(s.directions[0].value)}` };
    });
    this.gallery = new Gallery(this.$(".fv-gallery"), items, (index) => this.choose(index));
    const reasons = new Map(data.lost);
    this.gallery.lose(data.gone.map(([index, image]) => ({ key: index, reason: reasons.get(index), draw: (plate) => picture(plate, readInput({ image }, data, part), data, side) })));
    this.gallery.show(data.samples.map((s) => s.index));
    const state = { get: (name) => model.get(name), set: (name, value) => this.set(name, value) };
    this.panel = new Panel(this.$(".fv-perturbed"), data, state, () => [this.table()]);
  }

  get sample() { return this.data.samples.find((s) => s.index === this.model.get("index")) ?? this.data.samples[0]; }
  outcome(o) { return outcomeOf(this.data, o); }

  /** Choose a sample; the slider's knob stays where it is, so that ε keeps its share of the reach. */
  choose(index) {
    const share = this.panel.epsilon / this.sample.reach;
    const next = this.data.samples.find((s) => s.index === index);
    this.model.set("index", index);
    this.model.set("epsilon", share * next.reach);
    this.model.save_changes();
  }

  /** What the sample cannot show is not kept. */
  settle() {
    const { model, sample } = this;
    const [direction, epsilon] = within(sample, model.get("direction"), model.get("epsilon"));
    this.keep({ index: sample.index, direction, epsilon });
  }

  /** Everything that depends on the chosen sample and direction. */
  show() {
    if (!this.width) return;
    this.settle();
    const { sample, data } = this;
    const position = sample.place === 1 ? `the most fragile of ${data.total}` : `number ${sample.place} of ${data.total} by fragility`;
    const norm = sample.directions[0].value;
    this.$(".fv-title").textContent = norm === 0 ? "λ₁ = 0: the prediction does not react at all" : `λ₁ = ${measured(norm, sample.directions[0].error)} — ${position}`;
    const truth = sample.label === null ? "" : sample.correct ? ", which is right" : `; the label says ${this.outcome(sample.label)}`;
    this.$(".fv-sub").textContent = `Sample ${sample.index}: the model says ${this.outcome(sample.prediction)}${data.numbers ? "" : ` with probability ${sureness(sample)}`}${truth}.${kink(sample)}${data.changed ? ` The curves are not known: ${data.changed}.` : ""}`;
    this.gallery.select(sample.index);
    this.panel.show(sample);
  }

  move() {
    if (!this.panel.sample || !this.width) return;
    this.settle();
    this.panel.move();
  }

  table() {
    const { samples } = this.data;
    const labelled = samples[0].label !== null;
    return ["Table: all samples shown", ["sample", ...(labelled ? ["label"] : []), "prediction", "confidence", "λ₁", "trace", "‖F‖", "error of λ₁"],
      samples.map((s) => [s.index, ...(labelled ? [this.outcome(s.label)] : []), this.outcome(s.prediction), sureness(s),
        number(s.directions[0].value), measured(s.trace, s.traceError), measured(s.frobenius, s.frobeniusError), number(s.directions[0].error, 2)])];
  }

  resize() {
    this.panel.resize(this.width);
    this.show();
  }
}

const render = mounted(Perturbation, {
  "change:index": "show", "change:direction": "show", "change:flipped": "show", "change:epsilon": "move",
});

export default { render };
