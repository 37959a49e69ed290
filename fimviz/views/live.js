// What the live explorer asks of Python: another temperature, more directions, one part of a sample's detail, new images.
import { escape, number } from "./chart.js";

const MOST = 10; // times the temperature, and its inverse: the ends of the slider
const FILES = "image/png,image/jpeg,image/webp,image/gif,image/bmp,image/tiff";

export class Live {
  constructor(view, model) {
    Object.assign(this, { view, model, asked: new Set(), busy: null, drawn: document.createElement("div") });
    this.drawn.className = "fv-live";
    this.drawn.innerHTML = `<label>temperature <input type="range" class="fv-heat-of" min="-1" max="1" step="0.02" aria-label="Temperature, that the logits are divided by"></label><output></output>
      <label>directions <input type="number" class="fv-many" min="1" max="50" aria-label="How many directions of a sample"></label>
      <label class="fv-upload"><span>add images</span><input type="file" multiple accept="${FILES}" aria-label="Add images from files"></label>
      <span class="fv-busy" role="status"></span><button type="button" class="fv-stop" hidden>stop</button><p class="fv-failed" role="alert" hidden></p>`;
    this.$ = (selector) => this.drawn.querySelector(selector);
    const heat = this.$(".fv-heat-of");
    heat.addEventListener("input", () => this.said(MOST ** Number(heat.value)));
    heat.addEventListener("change", () => view.set("temperature", Number((MOST ** Number(heat.value)).toPrecision(3))));
    this.$(".fv-many").addEventListener("change", (event) => {
      const many = Math.max(1, Math.round(Number(event.target.value)) || 1);
      event.target.value = many;
      view.set("directions", many);
    });
    this.$("[type=file]").addEventListener("change", (event) => {
      this.send([...event.target.files]);
      event.target.value = "";
    });
    this.$(".fv-stop").addEventListener("click", () => model.send({ kind: "stop" }));
    view.root.addEventListener("dragover", (event) => {
      event.preventDefault();
      view.root.classList.add("fv-drop");
    });
    view.root.addEventListener("dragleave", () => view.root.classList.remove("fv-drop"));
    view.root.addEventListener("drop", (event) => {
      event.preventDefault();
      view.root.classList.remove("fv-drop");
      this.send([...event.dataTransfer.files]);
    });
    this.follow();
  }

  said(temperature) {
    this.$("output").textContent = `T = ${number(temperature)}`;
    this.$(".fv-heat-of").setAttribute("aria-valuetext", `${number(temperature)}`);
  }

  /** The controls as Python has them. */
  follow() {
    const temperature = this.model.get("temperature");
    this.$(".fv-heat-of").value = Math.log(temperature) / Math.log(MOST);
    this.said(temperature);
    this.$(".fv-many").value = this.model.get("directions");
  }

  async send(files) {
    if (!files.length) return;
    const buffers = await Promise.all(files.map((f) => f.arrayBuffer()));
    this.model.send({ kind: "images", names: files.map((f) => f.name) }, undefined, buffers);
  }

  /** Ask for a part of a sample's detail, once. */
  ask(what, index) {
    const key = `${what} ${index} ${this.model.get("directions")}`;
    if (this.asked.has(key)) return;
    this.asked.add(key);
    this.model.send({ kind: "compute", what, index });
  }

  /** A message of Python. */
  heard(message) {
    const words = this.$(".fv-busy");
    const alarm = this.$(".fv-failed");
    if (message.kind === "working") {
      this.busy = { id: message.id, doing: message.doing };
      alarm.hidden = true;
      words.textContent = `computing ${message.doing} …`;
    } else if (message.kind === "progress" && message.id === this.busy?.id) {
      words.textContent = `computing ${this.busy.doing}: ${message.done} of ${message.total}`;
    } else if (message.kind === "computed") {
      this.view.detail.add(message);
    } else if (["done", "stopped", "failed"].includes(message.kind)) {
      if (message.kind !== "done") this.asked.clear();
      if (message.kind === "failed") {
        alarm.hidden = false;
        alarm.innerHTML = escape(message.message);
      }
      if (message.id !== this.busy?.id && message.kind !== "failed") return;
      this.busy = null;
      words.textContent = message.kind === "stopped" ? `stopped: ${message.doing}` : "";
    }
    this.$(".fv-stop").hidden = !this.busy;
  }
}
