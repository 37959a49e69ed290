// A stand-in for the model that anywidget gives a view: of a page without a kernel, and of a view within another.

/** State that a view reads, sets and hears of; nobody else does. */
export function standIn(state) {
  const heard = {};
  return {
    get: (name) => state[name],
    set(name, value) {
      if (state[name] === value) return;
      state[name] = value;
      for (const call of heard[`change:${name}`] ?? []) call();
    },
    on: (event, call) => (heard[event] ??= []).push(call),
    off: (event, call) => (heard[event] = (heard[event] ?? []).filter((other) => other !== call)),
    save_changes() {},
    send() {},
  };
}
