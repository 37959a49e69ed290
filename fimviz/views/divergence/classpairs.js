// The divergence view, left: a map of class pairs, and the sample pairs of one of its cells.
import { stepBy } from "../kit/keys.js";
import { escape } from "../kit/chart.js";
import { nearOne, number, raised } from "../kit/numbers.js";
import { diverging } from "../kit/palette.js";
import { colorBar } from "../kit/stage.js";

export const QUANTITIES = {
  kl: { name: "KL", says: "mean KL, in nats", log: true },
  g1: { name: "G1", says: "mean G1, the second-order part, in nats", log: true },
  g2: { name: "G2", says: "mean G2, the part of higher order, in nats", signed: true },
  ratio: { name: "G2/KL", says: "mean G2 ÷ mean KL: 1 where F knows nothing of it", signed: true },
};

/** In two or three signs, as a small cell can hold. */
export function brief(value) {
  if (value === null) return "";
  const size = Math.abs(value);
  if (size >= 999.5 || (size > 0 && size < 0.005)) return `${value < 0 ? "−" : ""}10${raised(Math.round(Math.log10(size)))}`;
  const text = size >= 10 ? value.toFixed(0) : size >= 1 ? value.toFixed(1) : value.toFixed(2).replace("0.", ".");
  return text.replace("-", "−").replace(/^(−?)\.00$/, "0");
}

/**
 * The colour of a cell and of the text on it: a grey that grows with the logarithm of a positive quantity, or vik around 0
 * for a signed one. Values that no number is known for have none.
 */
export function shade(value, values, signed) {
  if (value === null) return ["transparent", "inherit"];
  if (!signed) {
    const logs = values.filter((v) => v > 0).map(Math.log10);
    const [low, high] = [Math.min(...logs), Math.max(...logs)];
    const t = value > 0 ? (high - low > 1e-9 ? (Math.log10(value) - low) / (high - low) : 0.5) : 0;
    return [`color-mix(in srgb, currentColor ${(4 + 34 * t).toFixed(1)}%, transparent)`, "inherit"];
  }
  // by a root, so that small ones are seen beside large ones
  const most = Math.max(...values.map(Math.abs), 1e-300);
  const rgb = diverging(Math.sign(value) * Math.sqrt(Math.abs(value) / most) * 0.9).map(Math.round);
  // WCAG's relative luminance: at 0.179 black and white stand out equally well
  const linear = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  const light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return [`rgb(${rgb})`, light > 0.179 ? "#000" : "#fff"];
}

/** The view with this part of it. @param {any} Base @returns {any} */
export const withClassPairs = (Base) => class extends Base {
  map() {
    const { shown, tables, left_out, drawn } = this.data;
    const key = this.model.get("quantity");
    const q = QUANTITIES[key];
    const table = tables[key];
    const values = table.flat().filter((v) => v !== null);
    const room = Math.max(24, Math.min(44, Math.floor((this.mapWidth - 100) / shown.length)));
    const names = shown.map((c) => this.name(c));
    const upright = names.every((n) => n.length < 4);
    const rows = shown.map((c, a) => `<tr><th scope="row"><span title="${escape(names[a])}">${escape(names[a])}</span></th>${shown.map((d, b) => {
      const value = table[a][b];
      if (value === null) return `<td class="fv-self"></td>`;
      const [back, ink] = shade(value, values, q.signed);
      const said = `from ${names[a]} to ${names[b]}: ${q.name} ${key === "ratio" ? nearOne(value) : number(value)}, ${tables.pairs[a][b]} pairs`;
      return `<td><button type="button" tabindex="-1" data-a="${c}" data-b="${d}" style="background:${back};color:${ink};min-width:${room}px" title="${escape(said)}" aria-label="${escape(said)}" aria-pressed="false">${room >= 32 ? brief(value) : ""}</button></td>`;
    }).join("")}</tr>`).join("");
    const box = this.$(".fv-heat");
    const focused = box.contains(document.activeElement);
    box.innerHTML = `<table class="${upright ? "fv-upright" : ""}"><thead><tr><td></td>${names.map((n) => `<th scope="col"><span title="${escape(n)}">${escape(n)}</span></th>`).join("")}</tr></thead><tbody>${rows}</tbody></table>`;
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const say = (v) => (key === "ratio" ? nearOne(v) : number(v));
    const most = Math.max(...values.map(Math.abs));
    const bar = q.signed ? colorBar(most, { share: 0.9 }) : "";
    this.$(".fv-legend").innerHTML = `${q.says}, from ${say(low)} to ${say(high)}${q.log ? "; the stronger the shade, the more, on a log scale" : ", coloured by the root of its size"}.${left_out ? ` ${left_out} classes of fewer pairs are left out.` : ""}${drawn ? " Pairs drawn by chance: cells may hold few." : ""}${bar}`;
    box.querySelectorAll("button").forEach((button) => button.addEventListener("click", () => this.choose(Number(button.dataset.a), Number(button.dataset.b))));
    this.pressed(focused);
  }

  pressed(focus = false) {
    const [a, b] = this.cell ?? [];
    const buttons = [...this.root.querySelectorAll(".fv-heat button")];
    const on = buttons.find((button) => Number(button.dataset.a) === a && Number(button.dataset.b) === b);
    buttons.forEach((button) => {
      button.setAttribute("aria-pressed", button === on);
      button.tabIndex = button === (on ?? buttons[0]) ? 0 : -1;
    });
    if (focus) on?.focus();
  }

  mapKeys() {
    this.$(".fv-heat").addEventListener("keydown", (event) => {
      const step = stepBy(event.key);
      if (!step || !event.target.dataset.a) return;
      event.preventDefault();
      const { shown } = this.data;
      let [a, b] = [event.target.dataset.a, event.target.dataset.b].map((c) => shown.indexOf(Number(c)));
      do [a, b] = [a + step[1], b + step[0]]; while (shown[a] !== undefined && shown[b] !== undefined && this.data.tables.kl[a][b] === null);
      if (shown[a] === undefined || shown[b] === undefined) return;
      this.choose(shown[a], shown[b]);
      this.pressed(true);
    });
  }

  /** Open a class pair, at the pair of median KL where it carries its line. */
  choose(a, b) {
    this.cell = [a, b];
    const own = this.examples();
    if (own.length) this.set("pair", (own.find((p) => p.role.includes("median")) ?? own[0]).place);
    else this.set("pair", -1);
    this.show();
  }

  examples() {
    const [a, b] = this.cell;
    return this.data.pairs.filter((p) => this.sits(p).join() === `${a},${b}`).sort((p, q) => p.kl - q.kl);
  }

  list() {
    const box = this.$(".fv-examples");
    const [a, b] = this.cell;
    const own = this.examples();
    this.$(".fv-listed").textContent = `From ${this.name(a)} to ${this.name(b)}`;
    box.setAttribute("aria-label", `pairs from ${this.name(a)} to ${this.name(b)}`);
    box.innerHTML = own.length ? "" : `<p class="fv-quiet">No pair of these classes carries its line on this page: view(pairs=[(i, j)]) chooses which do.</p>`;
    own.forEach((p) => {
      const item = document.createElement("div");
      item.className = "fv-example";
      item.setAttribute("role", "option");
      item.dataset.place = p.place;
      const role = p.role === "only" ? "only pair, KL" : `${p.role} KL`;
      item.innerHTML = `<span class="fv-plate"></span><span class="fv-plate"></span><span><b>${escape(role)}</b><br>${number(p.kl)} nats</span>`;
      item.setAttribute("aria-label", `${role}, ${number(p.kl)} nats: samples ${p.i} and ${p.j}`);
      this.ends(p).forEach((s, k) => this.picture(item.children[k], s.values, 40, ""));
      box.append(item);
    });
    this.selected();
  }

  selected() {
    const options = [...this.root.querySelectorAll(".fv-example")];
    const at = options.findIndex((o) => Number(o.dataset.place) === this.model.get("pair"));
    options.forEach((o, k) => {
      o.setAttribute("aria-selected", k === at);
      o.tabIndex = k === Math.max(0, at) ? 0 : -1;
    });
  }
};
