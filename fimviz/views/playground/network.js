// A network in the page: what fimviz/playground/record.py has written down, carried out in float64.
import { LAYERS } from "./layers.js";

const ARRAYS = { f4: Float32Array, f8: Float64Array, i4: Int32Array };

/** What stands for an array in the payload, as an array: [offset, length, type]. */
const isArray = (value) => Array.isArray(value) && value.length === 3 && value[2] in ARRAYS;

function read(value, part) {
  if (!isArray(value)) return value;
  const array = new ARRAYS[value[2]](part(value));
  return array instanceof Int32Array ? array : Float64Array.from(array);
}

export class Network {
  /** A program of Python's, and how its arrays are read. */
  constructor({ sizes, ops, constants, logits }, part) {
    this.sizes = sizes;
    this.logits = logits;
    this.values = sizes.map((size) => new Float64Array(size));
    const fixed = new Set();
    for (const [slot, value] of constants) {
      this.values[slot].set(read(value, part));
      fixed.add(slot);
    }
    this.steps = ops.map((op) => {
      const own = Object.fromEntries(Object.entries(op).map(([name, value]) => [name, read(value, part)]));
      const layer = LAYERS[op.kind]({ ...own, size: sizes[op.to], sizes: op.from.map((slot) => sizes[slot]) });
      return { ...layer, to: op.to, from: op.from, sources: op.from.map((slot) => this.values[slot]) };
    });
    this.fixed = fixed;
    this.grads = [];
    this.count = 0;
  }

  get classes() { return this.sizes[this.logits]; }

  /** The logits of an input; they are overwritten by the next call. */
  forward(x) {
    this.values[0].set(x);
    for (const step of this.steps) step.forward(step.sources, this.values[step.to]);
    return this.values[this.logits];
  }

  /** wᵀJ at the input of the last forward pass, for `count` rows w (count, K): (count, inputs), overwritten by the next call. */
  pull(rows, count) {
    if (count !== this.count) {
      this.count = count;
      this.grads = this.sizes.map((size, slot) => (this.fixed.has(slot) ? null : new Float64Array(size * count)));
    }
    for (const grad of this.grads) grad?.fill(0);
    this.grads[this.logits].set(rows);
    for (let i = this.steps.length - 1; i >= 0; i--) {
      const { sources, from, to, backward } = this.steps[i];
      backward(sources, this.values[to], from.map((slot) => this.grads[slot]), this.grads[to], count);
    }
    return this.grads[0];
  }
}
