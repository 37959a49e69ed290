// The margin view, below: how paths were made, walking them again, and shielding against damping.
import { unpack } from "../kit/pixels.js";
import { PALETTE } from "../kit/palette.js";
import { escape, lineChart } from "../kit/chart.js";
import { number } from "../kit/numbers.js";
import { MARGIN, ticks } from "../kit/axes.js";

// Where the settings' sliders reach, as powers of ten, and what they are.
const SETTINGS = {
  step: { name: "step η", low: -2, high: 0, says: "Fisher–Rao length of a step" },
  damping: { name: "damping τ", low: -4, high: 1.5, says: "little follows the simplex, much the plain gradient" },
  trust_region: { name: "trust region r", low: -3, high: 1, says: "longest step in L2, pixel units" },
};

/** What a trace was made with, by the names of what asks for it. */
export const madeWith = ({ settings: { step, damping, trust_region }, target }) => ({ step, damping, trust_region, target });

/** Between which shares of all paths the truth lies, where some have changed no class; empty where all have. */
const ofAll = ({ successful, attempted, possible: [low, high] }) => (successful === attempted ? "" : `of all ${attempted} paths ${number(100 * low, 2)} to ${number(100 * high, 2)} %, whatever the ${attempted - successful} that met no class would have met`);

/** The view with this part of it. @param {any} Base @returns {any} */
export const withSettings = (Base) => class extends Base {
  settings() {
    const box = this.$(".fv-settings");
    if (!this.model.get("live")) {
      box.innerHTML = `<h4>How these paths were made</h4><p class="fv-made"></p>`;
      return;
    }
    const sliders = Object.entries(SETTINGS).map(([key, { name, low, high, says }]) => `<div class="fv-set"><label>${name} <input type="range" data-set="${key}" min="${low}" max="${high}" step="0.05" title="${says}" aria-label="${name}: ${says}"></label>` +
      `<output data-out="${key}"></output></div>`);
    const options = this.data.classes.map((c, i) => `<option value="${i}">${escape(c)}</option>`);
    box.innerHTML = `<h4>Trace this sample again with</h4>${sliders.join("")}<div class="fv-set"><label>toward <select aria-label="Class aimed at">${options.join("")}</select></label></div>` +
      `<div class="fv-buttons"><button type="button" class="fv-again">walk again</button><button type="button" class="fv-against">shielding against τ</button><button type="button" class="fv-stop">stop</button></div>` +
      `<p class="fv-quiet fv-status" role="status"></p><p class="fv-failed" role="alert" hidden></p>`;
    box.querySelectorAll("[data-set]").forEach((input) => {
      input.addEventListener("input", () => this.model.set(input.dataset.set, 10 ** Number(input.value)));
      input.addEventListener("change", () => this.retrace());
    });
    box.querySelector("select").addEventListener("change", (event) => {
      this.model.set("target", Number(event.target.value));
      this.retrace();
    });
    box.querySelector(".fv-again").addEventListener("click", () => this.retrace());
    box.querySelector(".fv-against").addEventListener("click", () => this.ask({ kind: "curve", step: this.setting("step"), trust_region: this.setting("trust_region") }, "walking from every sample"));
    box.querySelector(".fv-stop").addEventListener("click", () => {
      this.model.send({ kind: "stop" });
      this.busy = null; // one that had not begun sends no answer
      this.controls();
      this.$(".fv-again").focus();
    });
  }

  setting(key) { return this.model.get(key); }

  get aim() { return this.model.get("target"); }

  retrace() {
    const settings = Object.fromEntries(Object.keys(SETTINGS).map((key) => [key, this.setting(key)]));
    this.ask({ kind: "trace", sample: this.trace.sample, target: this.aim, ...settings }, `walking from sample ${this.trace.sample} toward ${this.name(this.aim)}`);
    this.model.save_changes(); // after the request, which says all that it needs
  }

  ask(request, doing) {
    this.busy = { id: ++this.asked, doing, how: "…" };
    this.failure = "";
    this.model.send({ ...request, id: this.busy.id });
    this.controls();
  }

  /** An answer from Python; those to requests that a newer one has replaced are not looked at. */
  async heard(said) {
    if (said.kind === "working") { // what was asked for in Python
      this.busy = { id: said.id, doing: said.doing, how: "…" };
      this.failure = "";
      this.controls();
      return;
    }
    if (!this.busy || said.id !== this.busy.id) return;
    if (said.kind === "progress") {
      this.busy.how = said.total > 1 ? `, ${said.done} of ${said.total} done, ${said.steps} steps` : `, ${said.steps} steps`;
    } else if (said.kind === "traced") {
      const { data, part } = await unpack(said.payload);
      if (!this.busy || said.id !== this.busy.id) return;
      this.busy = null;
      const trace = { ...data.trace, part, asked: true };
      this.traces = [...this.traces, trace];
      this.$(".fv-gallery").dataset.key = "";
      this.open(trace);
    } else if (said.kind === "curve") {
      this.data.points = said.points;
      this.data.curve = true;
      this.data.over = said.samples;
      this.busy.how = `, ${said.done} of ${said.total} dampings done`;
      if (said.done === said.total) this.busy = null;
      this.shielding();
      this.tables();
      this.move();
    } else {
      if (said.kind === "failed") this.failure = said.message;
      this.busy = null;
    }
    this.controls();
  }

  /** The settings as they stand: what is asked for, what runs, what failed. */
  controls() {
    const { settings: own, source } = this.trace;
    const words = `step η = ${number(own.step)}, damping ${own.method === "published" ? "λ" : "τ"} = ${number(own.damping)}, ` +
      (own.method === "published" ? "no trust region" : `trust region r = ${number(own.trust_region)}`);
    const made = this.$(".fv-made");
    if (made) {
      made.textContent = `Method “${own.method}”: ${words}. ${this.model.get("refused") || "In a notebook with a kernel, .widget() lets you change these and walk again."}`;
      return;
    }
    for (const key of Object.keys(SETTINGS)) {
      this.$(`[data-set="${key}"]`).value = Math.log10(this.setting(key));
      this.$(`[data-out="${key}"]`).textContent = number(this.setting(key), 2);
      this.$(`[data-set="${key}"]`).setAttribute("aria-valuetext", number(this.setting(key), 2));
    }
    const select = this.$(".fv-settings select");
    [...select.options].forEach((o, i) => (o.disabled = i === source));
    select.value = this.aim;
    const stale = Object.keys(SETTINGS).some((key) => Math.abs(Math.log10(this.setting(key) / own[key])) > 1e-6) || this.aim !== this.trace.target;
    this.$(".fv-status").textContent = this.busy ? `${this.busy.doing}${this.busy.how}` : stale ? `Not walked yet. What is shown: ${words}.` : `Shown: ${words}.`;
    this.$(".fv-stop").disabled = !this.busy;
    const alert = this.$(".fv-failed");
    alert.hidden = !this.failure;
    alert.textContent = this.failure ? `It did not work: ${this.failure}. What is shown is unchanged.` : "";
  }

  /** Share of shielded paths against damping, with intervals; the chosen trace's damping is the cursor. */
  shielding() {
    const box = this.$(".fv-curve");
    const points = this.data.points.filter((p) => p.shielded !== null).sort((a, b) => a.damping - b.damping);
    if (!points.length) {
      box.innerHTML = `<h4>Shielding</h4><p class="fv-quiet">No path of a rightly classified sample has changed the class: nothing to count, and any share is possible.</p>`;
      return;
    }
    if (points.length === 1) {
      const [only] = points;
      box.innerHTML = `<h4>${number(100 * only.shielded, 2)} % of ${only.successful} ${only.successful === 1 ? "path is" : "paths are"} shielded, at damping τ = ${number(only.damping)}${ofAll(only) && `; ${ofAll(only)}`}</h4>` +
        `<p class="fv-quiet">${only.low === null ? "One sample alone gives no interval." : `95 % bootstrap interval: ${number(100 * only.low, 2)} to ${number(100 * only.high, 2)} %.`}${only.low !== null && only.low === only.high ? " Every resample gives the same, so that only more samples can tell how far off it is." : ""} ${this.wrong()}One setting says little, because shielding depends on the damping: ` +
        `${this.model.get("live") ? "“shielding against τ” walks with others" : "fv.shielding_curve walks with others, and view(curve=…) draws them here"}.</p>`;
      return;
    }
    const width = this.curveWidth;
    const logs = points.map((p) => Math.log10(p.damping));
    const here = Math.log10(this.trace.settings.damping);
    const x = [Math.min(...logs, here) - 0.3, Math.max(...logs, here) + 0.3];
    const xTicks = x[1] - x[0] > 2 ? ticks(...x, 4).filter((v) => Number.isInteger(v) && v >= x[0] && v <= x[1]) : [...new Set(logs)];
    const steps = [...new Set(points.map((p) => p.step))];
    const lines = steps.map((step, i) => ({ points: points.filter((p) => p.step === step).map((p) => [Math.log10(p.damping), 100 * p.shielded]), color: PALETTE[i % PALETTE.length], width: 2, label: steps.length > 1 ? `η = ${number(step)}` : null }));
    const over = (sx, sy) => points.map((p) => {
      const [cx, low, high] = [sx(Math.log10(p.damping)), sy(100 * p.low), sy(100 * p.high)];
      return `<g><title>τ = ${number(p.damping)}, η = ${number(p.step)}: ${number(100 * p.shielded)} % of ${p.successful} paths${p.low === null ? "" : `, from ${number(100 * p.low)} to ${number(100 * p.high)}`}${ofAll(p) && `; ${ofAll(p)}`}</title>` +
        (ofAll(p) ? `<rect class="fv-possible" x="${cx - 7}" width="14" y="${sy(100 * p.possible[1])}" height="${Math.max(1, sy(100 * p.possible[0]) - sy(100 * p.possible[1]))}"/>` : "") +
        (p.low === null ? "" : `<path class="fv-stroke" d="M${cx},${low}V${high}M${cx - 3},${low}H${cx + 3}M${cx - 3},${high}H${cx + 3}"/>`) + `<circle class="fv-guess" cx="${cx}" cy="${sy(100 * p.shielded)}" r="4.5"/></g>`;
    }).join("") + `<line class="fv-set-here" x1="${sx(here)}" x2="${sx(here)}" y1="${MARGIN.top}" y2="${170 - MARGIN.bottom}"/>`;
    const first = points[0], last = points.at(-1);
    const told = (p) => `${number(100 * p.shielded, 2)} % at τ = ${number(p.damping)}${p.successful < p.attempted ? ` (of all paths ${p.possible.map((v) => number(100 * v, 2)).join(" to ")} %)` : ""}`;
    const title = `Shielding depends on damping: ${told(first)}, ${told(last)}`;
    const note = `Share of paths that meet another class first${this.data.over ? `, over the first ${this.data.over} samples` : ""}; circles with 95 % bootstrap intervals. ${points.some(ofAll) ? "Shaded: what is possible where some paths met no class. " : ""}${this.wrong()}`;
    box.innerHTML = `<h4>${title}</h4>` + lineChart({ width, height: 170, x, xTicks, xText: (v) => number(10 ** v, 2), y: [0, 100], yTicks: [0, 50, 100], yText: (v) => `${v} %`, xLabel: "damping τ, log axis", lines, over, label: title }) +
      `<p class="fv-quiet">${note}The line marks the path above.</p>`;
  }

  wrong() {
    return [...this.samples.values()].some((q) => q.label !== null && q.label !== q.prediction) ? "Paths of wrongly classified samples (✗) are in the matrix, but not in this share. " : "";
  }
};
