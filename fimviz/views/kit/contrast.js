// How strongly signed maps are drawn: colours end at the 99.5th percentile of their magnitudes, which contrast.py finds, over a gain.
import { number, percent } from "./numbers.js";
import { colorBar, photographic } from "./stage.js";

/** Where the colours of a map end at a gain, and the share of its values further out, null where they are not at hand. */
export function ends({ scale, limit, beyond, bytes }, gain) {
  const most = limit / gain;
  if (gain === 1 || !bytes) return [most, gain === 1 ? beyond : null];
  const level = (127 * most) / scale;
  return [most, bytes.reduce((sum, b) => sum + (b !== -128 && Math.abs(b) > level ? 1 : 0), 0) / bytes.length];
}

/** The colour bar of a map with the rule in words; of a photograph's also how exactly it is `stored`. */
export function legend(map, gain, data, stored = photographic(data)) {
  const bar = data.kind === "image";
  if (!bar) return colorBar(map.scale, { bar });
  const [most, beyond] = ends(map, gain);
  const rule = gain === 1 ? "the 99.5th percentile" : `contrast ×${number(gain, 2)}`;
  return `${colorBar(most)}<span class="fv-quiet fv-rule">colours end at ±${number(most, 2)}, ${rule}${beyond === null ? "" : beyond ? `; ${percent(beyond, 2)} beyond` : "; none beyond"}</span>` +
    (stored ? `<span class="fv-quiet fv-rule">each value is stored to ±${number(map.scale / 254, 1)}</span>` : "");
}

const GAINS = [0.25, 0.5, 1, 2, 4, 8, 16, 32];

/** A choice of the gain in a box: {gain}, and `changed` is called when the reader takes another. */
export function gainControl(box, changed) {
  const control = { gain: 1 };
  box.classList.add("fv-gain");
  box.innerHTML = `<label>contrast <select aria-label="Contrast of signed maps">${GAINS.map((g) => `<option value="${g}" ${g === 1 ? "selected" : ""}>×${g}</option>`).join("")}</select></label>`;
  box.querySelector("select").addEventListener("change", (event) => {
    control.gain = Number(event.target.value);
    changed();
  });
  return control;
}
