// The waterfall of a bound: which layer costs how many orders of magnitude. Numbers are log₁₀ in units of λ.
import { escape, marksBeside } from "../kit/chart.js";
import { powerOfTen } from "../kit/numbers.js";
import { decadeTicks, scale } from "../kit/axes.js";

/**
 * The steps of a bound in units of λ, which grows with the square of a Jacobian's norm: so gains and bounds count twice.
 * rows: [name, kind, formula]; gains: NaN where tensors are joined; bound: log₁₀ of the rung; last: what the last step does;
 * head: its name and kind.
 */
export function fall(rows, gains, bounds, bound, last, head) {
  const steps = rows.map(([name, kind, formula], i) => {
    const joins = Number.isNaN(gains[i]);
    const to = 2 * bounds[i];
    return { name, kind, formula, joins, gain: 2 * gains[i], from: joins ? to : to - 2 * gains[i], to };
  });
  const from = steps.length ? steps.at(-1).to : 0;
  const end = { ...head, formula: last, joins: false, last: true, gain: bound - from, from, to: bound };
  return Number.isFinite(bound) ? [...steps, end] : steps;
}

/** Steps that matter to a reader: those that change the bound by a tenth or more, or join tensors. */
export const matters = (step) => step.joins || Math.abs(step.gain) >= Math.log10(1.1);

/** The costliest steps, most first. */
export function costliest(steps, count = 3) {
  return steps.filter((s) => s.gain >= Math.log10(1.1)).sort((a, b) => b.gain - a.gain).slice(0, count);
}

/** A step's name as a reader can find it; a bare number is one of many, so its kind is said too. */
export function calledInFull(step) {
  if (step.last) return `the ${step.name}`;
  return /[a-z]{2}/i.test(step.name) ? `layer ${step.name}` : `layer ${step.name} (${step.kind})`;
}

/** The lowest and highest running bound, 1 included: where the picture starts. */
export function reach(steps) {
  const ends = steps.flatMap((s) => [s.from, s.to]).filter(Number.isFinite);
  return [Math.min(0, ...ends), Math.max(1, ...ends)];
}

/** The running bound over all steps, long networks too: one line on a log axis. */
export function profile({ width, height, steps, label }) {
  const [left, right, top, bottom] = [48, width - 8, 8, height - 20];
  const y = reach(steps);
  const sx = scale([0, steps.length], [left, right]);
  const sy = scale(y, [bottom, top]);
  const grid = marksBeside(decadeTicks(y, bottom - top, 24), sy, [left, right]);
  const path = steps.map((s, i) => `H${sx(i + 0.5).toFixed(1)}V${sy(s.to).toFixed(1)}H${sx(i + 1).toFixed(1)}`).join("");
  return `<svg role="img" aria-label="${escape(label)}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${grid.join("")}` +
    `<path class="fv-area" d="M${left},${sy(0).toFixed(1)}${path}V${bottom}H${left}Z"/><line class="cursor" y1="${top}" y2="${bottom}"/>` +
    `<text class="tick" x="${left}" y="${height - 5}">pixels</text><text class="tick" x="${right}" y="${height - 5}" text-anchor="end">${steps.length} steps to λ</text></svg>`;
}

/** Which step of a profile lies under a horizontal place. */
export function stepAt(x, width, count) {
  return Math.max(0, Math.min(count - 1, Math.floor(((x - 48) / (width - 56)) * count)));
}

/** Where a step stands on a profile. */
export function placeOf(step, width, count) {
  return 48 + ((step + 0.5) / count) * (width - 56);
}

/** The steps as rows of a listbox: name, kind, a bar from the bound before to the bound after, factor, running bound. */
export function stepRows(steps, shown, chosen) {
  const share = scale(reach(steps), [0, 100]);
  return shown.map((i) => {
    const s = steps[i];
    const [low, high] = [share(Math.min(s.from, s.to)), share(Math.max(s.from, s.to))];
    const kind = s.joins ? "fv-join" : s.gain < 0 ? "fv-less" : "";
    return `<div role="option" tabindex="${i === chosen ? 0 : -1}" aria-selected="${i === chosen}" data-i="${i}" title="${escape(`${s.name}: ${s.formula}`)}">` +
      `<span class="fv-n"><bdi>${escape(s.name)}</bdi></span><span class="fv-k">${escape(s.kind)}</span>` +
      `<span class="fv-b"><i class="${kind}" style="left:${low.toFixed(2)}%;width:${(high - low).toFixed(2)}%"></i></span>` +
      `<span class="fv-g">${s.joins ? "joins" : `×${powerOfTen(s.gain, 2)}`}</span><span class="fv-r">${powerOfTen(s.to, 2)}</span></div>`;
  }).join("");
}

/** The view with this part of it. @param {any} Base @returns {any} */
export const withWaterfall = (Base) => class extends Base {
  /** What the chosen row says, and its waterfall where it is a product over layers. */
  detail() {
    const { chosen: m, at } = this;
    const method = this.methods[m];
    const value = this.log(at, m);
    const packed = method.falls && !Number.isNaN(value) && value !== -Infinity ? (method.local ? this.data.local?.[at] : null) ?? this.data.layers : null;
    this.steps = [];
    const means = method.formula ? `${method.name} = ${method.formula}. ` : "";
    this.$(".fv-what").textContent = Number.isNaN(value) ? `${means}${this.why(method)}` : `${means}${method.needs ? `Needs ${method.needs}. ` : ""}${this.words(m)}`;
    if (packed) {
      const rows = this.data.tables[packed.table].map(([name, kind, formula]) => [name, this.data.words[kind], this.data.words[formula]]);
      const numbers = new Float32Array(this.part(packed.numbers));
      this.steps = fall(rows, numbers.subarray(0, rows.length), numbers.subarray(rows.length), value, method.falls, this.data.head);
      const most = costliest(this.steps);
      const where = method.local && this.data.local?.[at] ? ` at sample ${this.data.samples[at].index}` : "";
      this.$(".fv-detail h4").textContent = most.length
        ? `${method.name}${where}: ${most.map((s, i) => `${calledInFull(s)} ${i ? "" : "costs "}×${powerOfTen(s.gain, 2)}`).join(", ")}`
        : `${method.name}${where}: no layer costs a tenth`;
    } else {
      this.$(".fv-detail h4").textContent = Number.isNaN(value) ? `${method.name}: no value here` : `${method.name} = ${powerOfTen(value)}`;
      if (method.group !== "estimate" && !Number.isNaN(value)) this.$(".fv-what").textContent += method.layered ? "" : " No layers are multiplied: it reads the network’s own derivatives at the input.";
    }
    this.$(".fv-fall").hidden = !packed;
    if (this.step >= this.steps.length) this.step = -1;
    if (packed) this.waterfall();
  }

  waterfall() {
    const { steps } = this;
    const few = steps.map((_, i) => i).filter((i) => matters(steps[i]));
    const quiet = steps.length - few.length;
    const shown = this.unfolded || quiet < 3 ? steps.map((_, i) => i) : few;
    const box = this.$(".fv-steps");
    box.innerHTML = stepRows(steps, shown, this.step);
    if (!shown.includes(this.step)) box.firstElementChild?.setAttribute("tabindex", 0);
    const fold = this.$(".fv-fold");
    fold.hidden = quiet < 3;
    fold.textContent = this.unfolded ? `fold the ${quiet} steps that change it by less than a tenth` : `show the ${quiet} steps that change it by less than a tenth`;
    this.$(".fv-profile").innerHTML = profile({ width: this.fallWidth, height: 112, steps, label: `the bound after each of ${steps.length} steps, up to ${powerOfTen(steps.at(-1).to, 2)}` });
    this.said();
  }

  /** Choose a step of the waterfall. */
  pick(i) {
    this.step = i;
    const box = this.$(".fv-steps");
    const listed = [...box.children];
    const chosen = listed.find((row) => Number(row.dataset.i) === i);
    listed.forEach((row) => {
      row.setAttribute("aria-selected", row === chosen);
      row.tabIndex = row === chosen || (!chosen && row === listed[0]) ? 0 : -1;
    });
    if (chosen) { // scrollIntoView would move the page too
      if (chosen.offsetTop < box.scrollTop) box.scrollTop = chosen.offsetTop;
      if (chosen.offsetTop + chosen.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = chosen.offsetTop + chosen.offsetHeight - box.clientHeight;
    }
    this.said();
  }

  /** The chosen step on the profile and in words. */
  said() {
    const { steps, step } = this;
    const s = steps[step];
    const cursor = this.$(".fv-profile .cursor");
    const x = placeOf(step, this.fallWidth, steps.length);
    cursor.toggleAttribute("hidden", !s);
    if (s) ["x1", "x2"].forEach((name) => cursor.setAttribute(name, x));
    this.$(".fv-formula").textContent = s
      ? `${s.name}, ${s.kind}: ${s.joins ? "joins tensors" : `×${powerOfTen(s.gain)}`}, bound so far ${powerOfTen(s.to)}. ${s.formula}`
      : "λ grows with the square of the Jacobian, so a layer of norm 3 counts ×9. Choose a step for its formula.";
  }
};
