// The margin view, left: who is met on the way from whom, and the paths of one cell of that matrix.
import { placeBy, rowOf, stepBy } from "../kit/keys.js";
import { escape } from "../kit/chart.js";
import { number } from "../kit/numbers.js";

/** The view with this part of it. @param {any} Base @returns {any} */
export const withMatrix = (Base) => class extends Base {
  matrix() {
    const { rows, columns, counts, shielded } = this.data.matrix;
    const most = Math.max(1, ...counts.flat());
    const chosen = this.cell;
    const head = columns.map((c) => `<th scope="col" title="${escape(c < 0 ? "class unchanged" : this.name(c))}"><span>${escape(c < 0 ? "none" : this.name(c))}</span></th>`);
    const body = rows.map((r, i) => `<tr><th scope="row" title="${escape(this.name(r))}"><span>${escape(this.name(r))}</span></th>` + columns.map((c, j) => {
      const n = counts[i][j];
      if (!n) return `<td class="${r === c ? "fv-self" : ""}"></td>`;
      const here = this.inCell(r, c).length;
      const on = chosen && chosen[0] === r && chosen[1] === c;
      const said = `${n} ${n === 1 ? "path" : "paths"} from ${this.name(r)} ${c < 0 ? "met no other class" : `met ${this.name(c)} first`}` +
        (c < 0 ? "" : `, ${shielded[i][j]} of which aimed elsewhere`) + (here ? "" : "; none of these is in this page");
      return `<td><button type="button" data-cell="${r},${c}" ${here ? "" : "disabled"} aria-pressed="${Boolean(on)}" tabindex="-1" aria-label="${escape(said)}" title="${escape(said)}" ` +
        `style="--share:${(n / most).toFixed(3)};--other:${(shielded[i][j] / n).toFixed(3)}">${n}</button></td>`;
    }).join("") + "</tr>");
    const box = this.$(".fv-matrix");
    const focused = box.contains(document.activeElement);
    const upright = columns.every((c) => this.name(c).length < 3) && columns.at(-1) >= 0;
    box.innerHTML = `<table class="${upright ? "fv-upright" : ""}"><thead><tr><td></td>${head.join("")}</tr></thead><tbody>${body.join("")}</tbody></table>`;
    // a path of the reader's own may be in a cell that no other is in: the matrix has to be reached all the same
    const door = box.querySelector("[aria-pressed=true]") ?? box.querySelector("button:not(:disabled)");
    if (door) door.tabIndex = 0;
    if (focused) door?.focus();
    const other = shielded.flat().reduce((a, b) => a + b, 0);
    const all = counts.flat().reduce((a, b) => a + b, 0);
    const none = counts.reduce((sum, row) => sum + (columns.at(-1) < 0 ? row.at(-1) : 0), 0);
    this.$(".fv-legend").innerHTML = `${all} ${all === 1 ? "path" : "paths"}${none ? `, ${none} of which met no other class` : ""}. ` +
      (other ? `The <span class="fv-hint">bar</span> in a cell: its share that aimed at another class, which this one shields; ${other} in all.` : none === all ? "" : "Every path that met a class had aimed at it: none is shielded.") + (this.data.others ? ` Made with other settings than those asked for, which led nowhere: ${escape(this.data.others)}.` : "") + this.counted();
  }

  /** How the matrix and the share of shielded paths, which counts the rightly classified alone, go together. */
  counted() {
    const { paths, shielded, left, leftShielded } = this.data.counted;
    if (!left) return "";
    return ` <br>Of these, ${left} (${leftShielded} shielded) start from samples that the model gets wrong (✗). They are in the matrix, but not in the share of shielded paths below: ` +
      (paths ? `${shielded} of ${paths}.` : "no other has changed the class.");
  }

  inCell(source, hit) { return this.traces.filter((t) => t.source === source && t.hit === hit); }

  matrixKeys() {
    const box = this.$(".fv-matrix");
    const choose = (button) => {
      const [source, hit] = button.dataset.cell.split(",").map(Number);
      const first = this.inCell(source, hit)[0];
      if (first) this.open(first);
    };
    box.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) choose(button);
    });
    box.addEventListener("keydown", (event) => {
      const button = event.target.closest("button");
      const [dx, dy] = stepBy(event.key) ?? [0, 0];
      if (!button || !(dx || dy)) return;
      event.preventDefault();
      const { rows, columns } = this.data.matrix;
      const [r, c] = button.dataset.cell.split(",").map(Number);
      let [i, j] = [rows.indexOf(r) + dy, columns.indexOf(c) + dx];
      for (; i >= 0 && i < rows.length && j >= 0 && j < columns.length; i += dy, j += dx) {
        const next = box.querySelector(`[data-cell="${rows[i]},${columns[j]}"]:not(:disabled)`);
        if (next) return choose(next);
      }
      // no other in this line: the nearest in the next ones
      const lines = dx ? [] : rows.slice(0);
      const at = rows.indexOf(r);
      for (let k = at + dy; dy && k >= 0 && k < lines.length; k += dy) {
        const near = [...box.querySelectorAll(`[data-cell^="${rows[k]},"]:not(:disabled)`)]
          .sort((a, b) => Math.abs(columns.indexOf(Number(a.dataset.cell.split(",")[1])) - columns.indexOf(c)) - Math.abs(columns.indexOf(Number(b.dataset.cell.split(",")[1])) - columns.indexOf(c)))[0];
        if (near) return choose(near);
      }
    });
  }

  gallery() {
    const box = this.$(".fv-gallery");
    const own = this.inCell(...this.cell);
    const [from, to] = [this.name(this.cell[0]), this.cell[1] < 0 ? "no other class" : this.name(this.cell[1])];
    this.$(".fv-listed").textContent = `${own.length} ${own.length === 1 ? "path" : "paths"} from ${from} that ${own.length === 1 ? "meets" : "meet"} ${to}${this.cell[1] < 0 ? "" : " first"}`;
    box.setAttribute("aria-label", this.$(".fv-listed").textContent);
    const key = own.map((t) => t.id).join();
    if (box.dataset.key !== key) {
      box.dataset.key = key;
      box.replaceChildren(...own.map((t) => {
        const item = document.createElement("div");
        const sample = this.samples.get(t.sample);
        const wrong = sample.label !== null && sample.label !== sample.prediction;
        item.className = `fv-thumb${wrong ? " fv-wrong" : ""}`;
        item.setAttribute("role", "option");
        item.dataset.id = t.id;
        item.setAttribute("aria-label", `sample ${t.sample}${wrong ? ", wrongly classified" : ""}: aimed at ${this.name(t.target)}, length ${number(t.length)}${this.own(t)}`);
        item.title = item.getAttribute("aria-label");
        item.innerHTML = `<div class="fv-plate"></div><span>→ ${escape(this.name(t.target))}</span>`;
        this.picture(item.firstChild, sample, null, 40);
        item.addEventListener("click", () => this.open(t));
        return item;
      }));
    }
    const focused = box.contains(document.activeElement);
    [...box.children].forEach((item) => {
      const on = Number(item.dataset.id) === this.trace.id;
      item.setAttribute("aria-selected", on);
      item.tabIndex = on ? 0 : -1;
      if (on && focused) item.focus();
    });
  }

  galleryKeys() {
    const box = this.$(".fv-gallery");
    box.addEventListener("keydown", (event) => {
      const own = this.inCell(...this.cell);
      const at = own.findIndex((t) => t.id === this.trace.id);
      const to = placeBy(event.key, at, own.length, { row: rowOf(box) });
      if (to === undefined) return;
      event.preventDefault();
      if (own[to]) this.open(own[to]);
    });
  }
};
