// The attacks tab: the smallest change by which each attack makes the model miss, and what it looks like.
import { escape } from "../kit/chart.js";
import { ends } from "../kit/contrast.js";
import { number, probability } from "../kit/numbers.js";
import { picture, signedPicture } from "../kit/inputs.js";
import { outcomeOf } from "../perturbation/panel.js";
import { fillTables, photographic } from "../kit/stage.js";

const NORMS = { l2: "L2", linf: "L∞" };

/** How long a bar is for an ε, 0 to 1, the longest being the hardest attack. */
export function lengths(tried) {
  const most = Math.max(...tried.map((t) => t.epsilon ?? 0), 1e-300);
  return tried.map((t) => (t.epsilon === null ? 1 : t.epsilon / most));
}

export class AttackPanel {
  constructor(box, data) {
    this.box = box;
    this.data = data;
    box.innerHTML = `<p class="fv-found"></p><div class="fv-tried"></div><div class="fv-tables"></div>`;
    this.$ = (selector) => box.querySelector(selector);
  }

  /** What was tried, {tried} with the input's bytes where no `sample` in detail has them. */
  show(own, said, width, sample, radius, proof) {
    const { tried } = own;
    const input = own.bytes ? own : sample;
    const found = tried.filter((t) => t.epsilon > 0);
    const least = found.reduce((a, b) => (!a || b.epsilon < a.epsilon ? b : a), null);
    this.$(".fv-found").textContent = tried.every((t) => t.epsilon === 0) ? `The model misses ${said} as it is: nothing has to change.`
      : least ? `The smallest change found that makes the model miss ${said} is ${number(least.epsilon)} long (${NORMS[least.norm] ?? least.norm}, ${least.words}). It is an upper bound: there may be a smaller one.` +
        (sample ? ` ½ε²λ₁ there is ${number(0.5 * least.epsilon ** 2 * sample.directions[0].value)} nats.` : "") : "No attack succeeded within its largest budget.";
    if (radius > 0) this.$(".fv-found").textContent += ` No change below ${number(radius)} in L2 alters the answer: a proof by ${proof === "linear" ? "linear bounds" : "the norms of the layers"}.`;
    this.$(".fv-tried").hidden = tried.every((t) => t.epsilon === 0);
    const shares = lengths(tried);
    this.$(".fv-tried").innerHTML = tried.map((t, i) => {
      const words = t.epsilon === null ? "did not succeed" : t.epsilon === 0 ? "nothing needed" : `ε = ${number(t.epsilon)}`;
      const becomes = t.becomes === undefined ? "" : `now: ${outcomeOf(this.data, t.becomes)} (p = ${probability(t.confidence)})`;
      return `<figure class="fv-attempt"><figcaption>${escape(t.words)} <span class="fv-quiet">${escape(NORMS[t.norm] ?? t.norm)}</span></figcaption>` +
        `<div class="fv-plate"></div>${t.change && input ? `<div class="fv-plate fv-change"></div><div class="fv-quiet">what it adds, colours to ±${number(ends(t.change, 1)[0], 2)}, stored to ±${number(t.change.scale / 254, 1)}</div>` : ""}<div class="fv-length${t.epsilon === null ? " fv-unbroken" : ""}"><i style="width:${(100 * shares[i]).toFixed(1)}%"></i></div><div>${words}</div><div class="fv-quiet">${escape(becomes)}</div></figure>`;
    }).join("");
    const large = photographic(this.data);
    const beside = Math.min(!large ? 3 : width < 560 ? 2 : 4, tried.length);
    const side = Math.min(large ? 264 : 176, Math.floor((width - 24 * (beside - 1)) / beside));
    this.box.style.setProperty("--fv-attempt", `${side}px`);
    this.box.querySelectorAll(".fv-attempt").forEach((figure, i) => {
      const t = tried[i];
      const [plate, map] = figure.querySelectorAll(".fv-plate");
      const label = `the input changed by ${t.attack}`;
      if (t.bytes || t.values) picture(plate, t, this.data, side, label);
      if (!map) return;
      picture(plate, input, this.data, side, label, [[t.change, 1]]);
      signedPicture(map, t.change, this.data, { target: side, name: `what ${t.attack} adds` });
    });
    fillTables(this.$(".fv-tables"), [["Table: the attacks on this sample", ["attack", "norm", "smallest ε", "length of the change", "becomes"],
      tried.map((t) => [t.attack, NORMS[t.norm] ?? t.norm, t.epsilon === null ? "none" : number(t.epsilon), number(t.length), t.becomes === undefined ? "–" : outcomeOf(this.data, t.becomes)])]]);
  }
}
