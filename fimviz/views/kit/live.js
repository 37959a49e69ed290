// What the live explorer asks of Python: another temperature, more directions, one part of a sample's detail, new images.
import { escape } from "./chart.js";
import { number } from "./numbers.js";

const MOST = 10; // times the temperature, and its inverse: the ends of the slider
const FILES = "image/png,image/jpeg,image/webp,image/gif,image/bmp,image/tiff";

export class Live {
  constructor(view, model) {
    this.view = view;
    this.model = model;
    this.asked = new Set();
    this.open = null;
    this.busy = null;
    this.drawn = document.createElement("div");
    this.drawn.className = "fv-live";
    this.drawn.innerHTML = `<label>temperature <input type="range" class="fv-heat-of" min="-1" max="1" step="0.02" aria-label="Temperature, that the logits are divided by"></label><output></output>
      <label>directions <input type="number" class="fv-many" min="1" aria-label="How many directions of a sample"></label>
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
    this.$(".fv-stop").addEventListener("click", () => {
      this.asked.clear(); // what had not begun sends no answer
      model.send({ kind: "stop" });
    });
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
    const heat = Math.log(temperature) / Math.log(MOST);
    Object.assign(this.$(".fv-heat-of"), { min: Math.min(-1, heat), max: Math.max(1, heat), value: heat });
    this.said(temperature);
    this.$(".fv-many").value = this.model.get("directions");
  }

  async send(files) {
    if (!files.length) return;
    const buffers = await Promise.all(files.map((f) => f.arrayBuffer()));
    this.model.send({ kind: "images", names: files.map((f) => f.name) }, undefined, buffers);
  }

  /** Ask for a part of a sample's detail, once; the request says all that it needs, as traits may come after it. */
  ask(what, index) {
    const directions = this.model.get("directions");
    const key = `${what} ${index} ${directions}`;
    if (this.asked.has(key)) return;
    this.asked.delete(this.open); // Python lets go of it for this one
    this.asked.add((this.open = key));
    this.model.send({ kind: "compute", what, index, directions, key });
  }

  /** The page has another batch, of which nothing has been asked. */
  began() {
    this.asked.clear();
    this.open = null;
  }

  failed(message) {
    const alarm = this.$(".fv-failed");
    alarm.hidden = false;
    alarm.innerHTML = escape(message);
  }

  /** A message of Python. */
  async heard(message) {
    const words = this.$(".fv-busy");
    if (message.kind === "working") {
      this.busy = { id: message.id, doing: message.doing };
      this.$(".fv-failed").hidden = true;
      words.textContent = `computing ${message.doing} …`;
    } else if (message.kind === "progress" && message.id === this.busy?.id) {
      words.textContent = `computing ${this.busy.doing}: ${message.done} of ${message.total}`;
    } else if (message.kind === "computed") {
      this.open = null;
      await this.view.detail.add(message);
    } else if (["done", "stopped", "failed"].includes(message.kind)) {
      if (message.kind !== "done") this.asked.delete(message.key);
      if (message.kind === "failed") this.failed(message.message);
      if (message.id !== this.busy?.id && message.kind !== "failed") return;
      this.busy = null;
      words.textContent = message.kind === "stopped" ? `stopped: ${message.doing}` : "";
    }
    this.$(".fv-stop").hidden = !this.busy;
  }
}
