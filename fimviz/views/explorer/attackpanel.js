// The attacks tab: the smallest change by which each attack makes the model miss, and what it looks like.
import { escape } from "../kit/chart.js";
import { number, probability } from "../kit/numbers.js";
import { picture } from "../kit/inputs.js";
import { outcomeOf } from "../perturbation/panel.js";
import { fillTables } from "../kit/stage.js";

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

  show(tried, said, width, sample, radius, proof) {
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
        `<div class="fv-plate"></div><div class="fv-length${t.epsilon === null ? " fv-unbroken" : ""}"><i style="width:${(100 * shares[i]).toFixed(1)}%"></i></div><div>${words}</div><div class="fv-quiet">${escape(becomes)}</div></figure>`;
    }).join("");
    const side = Math.min(176, Math.floor((width - 24 * Math.min(2, tried.length - 1)) / Math.min(3, tried.length)));
    this.box.style.setProperty("--fv-attempt", `${side}px`);
    this.box.querySelectorAll(".fv-attempt .fv-plate").forEach((plate, i) => {
      const t = tried[i];
      if (t.bytes || t.values) picture(plate, t, this.data, side, `the input changed by ${t.attack}`);
    });
    fillTables(this.$(".fv-tables"), [["Table: the attacks on this sample", ["attack", "norm", "smallest ε", "length of the change", "becomes"],
      tried.map((t) => [t.attack, NORMS[t.norm] ?? t.norm, t.epsilon === null ? "none" : number(t.epsilon), number(t.length), t.becomes === undefined ? "–" : outcomeOf(this.data, t.becomes)])]]);
  }
}
