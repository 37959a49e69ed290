// The attribution view: the worst direction beside what methods say that the model looks at.
// State shared with Python or the stand-in host: sample.
import { escape, series } from "../kit/chart.js";
import { ends, gainControl } from "../kit/contrast.js";
import { fixed, number, percent } from "../kit/numbers.js";
import { blend, paint, signedMap } from "../kit/pixels.js";
import { Lens, ofImage, ofMap } from "../kit/lens.js";
import { canvasIn, fillTables, limitsOf, mounted, photographic, View } from "../kit/stage.js";

const missing = (gap, most) => (gap === null ? "" : ` · ${gap > most ? "not complete: " : ""}misses ${percent(gap, 2)} of f(x) − f(baseline)`);

class Attributions extends View {
  constructor(model, root, packed) {
    super(model, root, packed);
    const { data } = packed;
    const count = data.samples.length;
    const maps = data.samples[0].maps.map((m) => m.name);
    const figure = (name) => `<figure><figcaption>${escape(name)}</figcaption><div class="fv-plate"></div><p class="fv-quiet"></p></figure>`;
    root.innerHTML = `<div class="fv-head"><h3 class="fv-title">${escape(data.title)}</h3>
        <details class="fv-help"><summary aria-label="What is this?">?</summary><p>${escape(data.help)}</p></details></div>
      ${limitsOf(data) ? `<p class="fv-quiet fv-left">${escape(limitsOf(data))}</p>` : ""}<div class="fv-slider"><label>sample <input type="range" min="0" max="${count - 1}" step="1"></label><output></output></div><div class="fv-contrast"></div>
      <div class="fv-attributed">${["image", "worst direction v₁", ...maps].map(figure).join("")}</div><div class="fv-look"></div><div class="fv-tables"></div>`;
    if (data.kind === "image") this.looking();
    this.contrast = gainControl(this.$(".fv-contrast"), () => this.show());
    this.$(".fv-contrast").hidden = data.kind === "series";
    this.$("input").addEventListener("input", (event) => this.set("sample", Number(event.target.value)));
    fillTables(this.$(".fv-tables"), [["Table: cosine and rank correlation of every sample", ["sample", "class explained", ...maps.flatMap((m) => [`${m}: cosine`, "ρ", "misses"])],
      data.samples.map((s) => [s.index, s.target, ...s.maps.flatMap((m) => [fixed(m.cosine), fixed(m.rank), fixed(m.gap)])])]]);
  }

  show() {
    if (!this.width) return;
    const { data } = this;
    const at = Math.max(0, Math.min(data.samples.length - 1, this.model.get("sample")));
    const sample = data.samples[at];
    this.keep({ sample: at });
    this.$("input").value = at;
    this.$("output").textContent = `${sample.index}: ${sample.prediction}`;
    const figures = [...this.root.querySelectorAll("figure")];
    this.bytes = [];
    const across = this.columns === 1 ? 2 : this.columns === 2 ? Math.min(4, figures.length) : figures.length;
    const side = Math.max(96, Math.min(photographic(data) ? 240 : 176, Math.floor((this.width - 16 * (across - 1)) / across)));
    this.root.style.setProperty("--fv-side", `${side}px`);
    this.draw(figures[0], sample.image, null, side, `answer ${sample.prediction}`, "image");
    this.draw(figures[1], sample.vector.map, sample.vector, side, `λ₁ = ${number(sample.norm)} · ${this.end(sample.vector)}`, "worst direction");
    sample.maps.forEach((m, i) => this.draw(figures[i + 2], m.map, m, side,
      `cosine ${fixed(m.cosine)} (chance ${fixed(data.chance[0])}) · ρ\u00a0${fixed(m.rank)}, for ${sample.target} · ${this.end(m)}${missing(m.gap, data.incomplete)}`, m.name));
    this.lens?.show();
  }

  /** A lens over all pictures of a sample. */
  looking() {
    const { shape, range } = this.data;
    const read = () => this.bytes.map(([bytes, map]) => [bytes, map ? ofMap(map.scale) : ofImage(range)]);
    this.lens = new Lens(this.$(".fv-attributed"), this.$(".fv-look"), shape, { read, map: () => this.bytes[1][0] });
  }

  /** In words where the colours of a map end, or its bars; of a photograph's also how exactly it is stored. */
  end(map) {
    if (this.data.kind === "series") return `bars to ±${number(map.scale, 2)}`;
    const end = `colours to ±${number(ends(map, this.contrast.gain)[0], 2)}`;
    return photographic(this.data) ? `${end}, stored to ±${number(map.scale / 254, 1)}` : end;
  }

  draw(figure, code, map, side, text, label) {
    const plate = figure.querySelector(".fv-plate");
    figure.querySelector("p").textContent = text;
    if (this.data.kind === "series") {
      const values = new Float32Array(this.part(code));
      const most = map === null ? this.data.range : [-map.scale || -1, map.scale || 1];
      plate.innerHTML = series({ width: side, height: side * 0.6, values, range: most, color: "currentColor", label });
      return;
    }
    const [h, w, channels] = this.data.shape;
    const canvas = canvasIn(plate, w, h, side, label);
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(w, h);
    const bytes = map === null ? new Uint8Array(this.part(code)) : new Int8Array(this.part(code));
    this.bytes.push([bytes, map]);
    if (map === null) blend(pixels.data, bytes, new Int8Array(h * w * channels), 0, channels);
    else paint(pixels.data, signedMap(bytes, channels, "strongest"), w, 1, map.scale / ends(map, this.contrast.gain)[0] || 1);
    context.putImageData(pixels, 0, 0);
  }

  resize() {
    this.show();
  }
}

const render = mounted(Attributions, { "change:sample": "show" });

export default { render };
