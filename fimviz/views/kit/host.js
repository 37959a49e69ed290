// The host of a view without a kernel: a stand-in for the model that anywidget would give, and the mounting.
(async (key) => {
  const places = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(`[data-fimviz="${key}"]:not([data-alive])`));
  for (const el of places) {
    el.dataset.alive = ""; // an output that a front end shows twice runs this script twice
    const { module, state } = JSON.parse(el.querySelector("script[type='application/json']").textContent);
    const listeners = {};
    const model = {
      get: (name) => state[name],
      set(name, value) {
        if (state[name] === value) return;
        state[name] = value;
        for (const call of listeners[`change:${name}`] ?? []) call();
      },
      on: (event, call) => (listeners[event] ??= []).push(call),
      off: (event, call) => (listeners[event] = (listeners[event] ?? []).filter((other) => other !== call)),
      save_changes() {},
      send() {},
    };
    const deflated = new Blob([Uint8Array.from(atob(module), (c) => c.charCodeAt(0))]);
    const source = await new Response(deflated.stream().pipeThrough(new DecompressionStream("deflate"))).blob();
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const stage = document.createElement("div");
    try {
      const view = (await import(url)).default;
      await view.render({ model, el: stage });
      el.querySelector(".fimviz-still").replaceWith(stage);
    } catch (error) {
      el.querySelector(".fimviz-note").textContent = `The interactive view did not start: ${error.message}`;
    } finally {
      URL.revokeObjectURL(url);
    }
  }
})
