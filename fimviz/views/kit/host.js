// The host of a view without a kernel: Python puts this module into a script of the page, with the view's key at its end.
import { standIn } from "./model.js";

const mount = async (key) => {
  const places = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(`[data-fimviz="${key}"]:not([data-alive])`));
  for (const el of places) {
    el.dataset.alive = ""; // an output that a front end shows twice runs this script twice
    const { module, state } = JSON.parse(el.querySelector("script[type='application/json']").textContent);
    const model = standIn(state);
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
};

mount("the view's key");
