// The prediction view: a question whose answer appears when a guess is locked, and not before.
// State shared with Python or the stand-in host: guess, null until it is locked.
import { escape } from "../kit/chart.js";
import { number } from "../kit/numbers.js";
import { mounted, View } from "../kit/stage.js";

/** How far a guess is from the answer, in words. */
export function verdict(guess, answer) {
  if (guess === answer || Math.abs(guess - answer) <= 0.1 * Math.abs(answer)) return "That is close.";
  const times = guess / answer;
  if (!(times > 0) || !Number.isFinite(times)) return `Your guess is ${guess < answer ? "too small" : "too large"}.`;
  return `Your guess is ${number(Math.max(times, 1 / times), 2)} times too ${times > 1 ? "large" : "small"}.`;
}

class Prediction extends View {
  constructor(model, root, packed) {
    super(model, root, packed);
    const { question, choices, unit } = this.data;
    const asked = choices
      ? choices.map((c, i) => `<label class="fv-option"><input type="radio" name="guess" value="${i}"><span>${escape(c)}</span></label>`).join("")
      : `<label class="fv-entry">Your guess <input type="number" step="any" autocomplete="off"> ${escape(unit)}</label>`;
    root.innerHTML = `<form class="fv-predict" novalidate><p class="fv-eyebrow" aria-hidden="true">Predict first</p>
      <h3 class="fv-title">${escape(question)}</h3>
      <fieldset><legend class="fv-unseen">Your guess</legend>${asked}</fieldset>
      <button disabled>Lock my guess</button>
      <div class="fv-reveal" role="status"></div></form>`;
    this.inputs = [...root.querySelectorAll("input")];
    this.$("fieldset").addEventListener("input", () => (this.$("button").disabled = this.chosen() === null));
    this.$("form").addEventListener("submit", (event) => {
      event.preventDefault();
      const guess = this.chosen();
      if (guess !== null && this.model.get("guess") === null) this.set("guess", guess);
    });
    this.show();
  }

  /** What is entered: a number, or the place of a choice; null while there is nothing. */
  chosen() {
    const [first] = this.inputs;
    const value = this.data.choices ? this.$("input:checked")?.value : first.value;
    return value === undefined || value === "" || !Number.isFinite(Number(value)) ? null : Number(value);
  }

  /** The answer, once there is a guess. */
  show() {
    const guess = this.model.get("guess");
    if (guess === null) return;
    const { choices, answer, unit, why } = this.data;
    const quantity = (value) => `${number(value)} ${unit}`.trim();
    this.$("fieldset").disabled = true;
    this.$("button").hidden = true;
    let said = `You said <b>${escape(quantity(guess))}</b>. It is <b>${escape(quantity(answer))}</b>. ${verdict(guess, answer)}`;
    if (choices) {
      this.inputs.forEach((input, i) => {
        input.checked = i === guess;
        const label = input.closest("label");
        label.classList.toggle("fv-truly", i === answer);
        if (i === answer) label.insertAdjacentHTML("beforeend", '<span class="fv-ticked">✓ the answer</span>');
      });
      said = guess === answer ? "<b>You predicted it.</b>" : `You said “${escape(choices[guess])}”. It is <b>“${escape(choices[answer])}”</b>.`;
    } else this.inputs[0].value = guess;
    this.$(".fv-reveal").innerHTML = `<p>${said}</p>${why ? `<p>${escape(why)}</p>` : ""}`;
  }

  resize() {}
}

const render = mounted(Prediction, { "change:guess": "show" });

export default { render };
