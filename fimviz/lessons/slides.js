// Slides without a library: sections scroll and snap by themselves; this adds keys, buttons, and the place in the address.
const main = document.querySelector("main");
const sections = [...main.children];
const [back, on] = document.querySelectorAll("[data-step]");
const place = document.querySelector(".steps output");

const at = () => Math.round(main.scrollLeft / main.clientWidth);

function show(to, behavior = "auto") {
  const next = Math.max(0, Math.min(sections.length - 1, to));
  main.scrollTo({ left: next * main.clientWidth, behavior });
  tell(next);
}

function tell(now) {
  place.textContent = `${now + 1} / ${sections.length}`;
  back.disabled = now === 0;
  on.disabled = now === sections.length - 1;
  history.replaceState(null, "", `#s${now}`);
}

document.querySelector(".steps").addEventListener("click", (event) => {
  const step = event.target.closest("button")?.dataset.step;
  if (step) show(at() + Number(step));
});

// a view, a field or a button has keys of its own
const taken = (target) => target.closest(".fimviz, input, select, textarea, summary");
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || taken(event.target)) return;
  const to = { ArrowRight: at() + 1, PageDown: at() + 1, ArrowLeft: at() - 1, PageUp: at() - 1, Home: 0, End: sections.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  show(to);
  sections[at()].focus({ preventScroll: true });
});

let settled;
main.addEventListener("scroll", () => {
  clearTimeout(settled);
  settled = setTimeout(() => tell(at()), 80);
});

// another width keeps the slide, not the pixels
let now = 0;
main.addEventListener("scrollend", () => (now = at()));
new ResizeObserver(() => show(now)).observe(main);

now = Math.max(0, sections.findIndex((section) => `#${section.id}` === location.hash));
show(now);
