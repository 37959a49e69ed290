"""axe-core finds no violation of WCAG 2.2 AA in any view saved as HTML, light or dark; and what axe cannot see."""

import pytest
import torch

import fimviz as fv
from fimviz.training import TrainingHistory
from tests.views.test_training import record

AXE = pytest.importorskip("axe_playwright_python.base", reason="axe is absent: pip install 'fimviz[test]'")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]

FOUND = """async tags => {
  const {violations, passes} = await axe.run({runOnly: tags, resultTypes: ["violations"]});
  const said = violations.flatMap(v => v.nodes.map(
    n => `${v.id}: ${n.target} ${n.html.slice(0, 160)} ${n.failureSummary}`));
  return [said, passes.map(p => p.id)];
}"""
SETTLED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
# axe reads the colour of text in HTML only; text in a chart stands on the surface of the view
FAINT = """() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const seen = (...layers) => {
    context.clearRect(0, 0, 1, 1);
    for (const color of layers) { context.fillStyle = color; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const page = getComputedStyle(document.body).backgroundColor;
  return [...document.querySelectorAll(".fimviz svg text")].filter((t) => t.checkVisibility()).flatMap((text) => {
    const [a, b] = [light(seen(page)), light(seen(page, getComputedStyle(text).fill))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    return contrast < 4.5 ? [`${text.textContent}: ${contrast.toFixed(2)}`] : [];
  });
}"""

# A shape that a chart draws, and that no style paints, or that lies outside of its chart, is words without a picture.
UNSEEN = """() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const alpha = (color) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    return context.getImageData(0, 0, 1, 1).data[3];
  };
  const paints = (color, opacity) => color !== "none" && Number(opacity) > 0 && alpha(color) > 0;
  const outside = (box, frame, air) => box.left < frame.left - air || box.right > frame.right + air ||
    box.top < frame.top - air || box.bottom > frame.bottom + air;
  const wrong = (e) => {
    let opacity = 1;
    for (let up = e; up; up = up.parentElement) opacity *= Number(getComputedStyle(up).opacity);
    const box = e.getBoundingClientRect();
    if (!(opacity > 0)) return "has no opacity";
    if (e.tagName === "CANVAS") return e.width && e.height && box.width && box.height ? "" : "has no size";
    const style = getComputedStyle(e);
    const width = parseFloat(style.strokeWidth);
    const flat = e.tagName === "line" || e.tagName === "polyline";
    const {width: wide, height: tall} = e.getBBox();
    const dot = style.strokeLinecap === "round" && e.hasAttribute("d"); // which a line of no length is
    const stroke = paints(style.stroke, style.strokeOpacity) && width > 0 && (wide > 0 || tall > 0 || dot);
    const fill = !flat && paints(style.fill, style.fillOpacity) && wide > 0 && tall > 0;
    if (!stroke && !fill) return wide > 0 || tall > 0 ? "is not painted" : "has no size";
    const svg = e.ownerSVGElement;
    const frame = svg.getBoundingClientRect();
    const root = e.closest(".fimviz").getBoundingClientRect();
    const free = getComputedStyle(svg).overflow === "visible";
    const cut = e.closest("[clip-path]"); // on purpose: of what goes on beyond a frame some has to be in it
    const air = cut ? Math.max(box.width, box.height) - 1 : 1 + (stroke ? width : 0);
    return outside(box, free ? root : frame, air) ? "leaves its view" : "";
  };
  const shapes = "rect, line, circle, ellipse, path, polyline, polygon";
  const drawn = [...document.querySelectorAll(`.fimviz :is(svg :is(${shapes}), canvas)`)]
    .filter((e) => !e.closest("defs, clipPath, mask") && e.checkVisibility({visibilityProperty: true}));
  return [drawn.length, drawn.flatMap((e) => wrong(e) ? [`${wrong(e)}: ${e.outerHTML.slice(0, 160)}`] : [])];
}"""


def digits(name="digits-mlp", n=8):
    images, labels = fv.zoo.digits()
    return fv.zoo.load(name), images[:n], labels[:n]


def perturbation():
    net, images, labels = digits()
    return fv.spectrum(net, images, labels=labels, k=3)


def comparison():
    net, images, _ = digits(n=3)
    return fv.compare_bounds(net, images, probes=10)


def ranking():
    _, images, labels = digits(n=12)
    nets = {name: fv.zoo.load(f"digits-{name}") for name in ("mlp", "mlp-robust", "vgg")}
    return fv.compare_models(nets, images, labels, local_images=1, attack_images=4, attack_steps=4)


def margins():
    net, images, labels = digits()
    return fv.trace_margins(net, images, labels, damping=0.1, verify=False)


def divergence():
    return fv.cckl(*digits(n=12))


def local_accuracy():
    return fv.local_accuracy(*digits(), epsilons=[0.01, 0.1], steps=2)


def reconstruction():
    return fv.reconstruction(perturbation())


def training():
    records = [record(10 * i, accuracy=0.1 + 0.08 * i, mean_frobenius=0.001 * 4**i) for i in range(6)]
    lost = [
        record(10 * i) | ({"loss": None, "note": "8 of 8 images have NaN logits"} if i > 3 else {}) for i in range(6)
    ]
    return TrainingHistory({"standard": tuple(records), "madry": tuple(lost)}, {"standard": 8, "madry": 8})


def vulnerability():
    return fv.vulnerability(*digits(n=24), norm="both", steps=3, halvings=3)


def distance():
    _, images, labels = digits(n=10)
    nets = {name: fv.zoo.load(f"digits-{name}") for name in ("mlp", "lipschitz")}
    return fv.adversarial_distance(nets, images, labels, method="norms", steps=4, restarts=1)


def attributions():
    net, images, _ = digits(n=3)
    return fv.attributions(net, images)


def explorer():
    return fv.explore(
        *digits(n=8), detail=3, include=["plane", "radius", "bounds", "attacks", "margins", "attributions"]
    )


def playground():
    return fv.playground({"standard": fv.zoo.load("digits-mlp"), "robust": fv.zoo.load("digits-mlp-robust")})


VIEWS = [
    perturbation,
    playground,
    comparison,
    ranking,
    margins,
    divergence,
    local_accuracy,
    reconstruction,
    training,
    vulnerability,
    distance,
    attributions,
    explorer,
]
# where the keyboard should stop: all controls, of a set of choices one, and tables that may scroll
STOPS = """() => [...document.querySelectorAll(
    "a[href], button, input, select, textarea, summary, [tabindex='0'], [role=option], [role=tab]")]
  .filter(e => e.checkVisibility() && !e.disabled)"""
HERE = f"() => ({STOPS})().indexOf(document.activeElement)"
SETS = "[role=listbox], [role=tablist], .fv-matrix, form"  # one stop each; arrow keys do the rest
MISSED = f"""([seen, sets]) => {{
  const stops = ({STOPS})();
  const met = seen.map(i => stops[i]);
  const alone = stops.filter(e => !met.includes(e) && !e.closest(sets));
  const closed = [...document.querySelectorAll(sets)].filter(
    s => stops.some(e => s.contains(e)) && !met.some(e => s.contains(e)));
  return [...alone, ...closed].map(e => e.outerHTML.slice(0, 120));
}}"""


# rows, columns and grids as ipywidgets' boxes lay them out, and which share of the width a view has there
IN_BOXES = {
    "display: flex": 0.5,
    "display: flex; flex-direction: column": 1.0,
    "display: grid; grid-template-columns: auto auto": 0.5,
}
BOXED = """([style, share]) => {
  const main = document.querySelector("main");
  const view = main.querySelector("[data-fimviz]");
  const beside = view.cloneNode(true);
  main.setAttribute("style", style);
  view.after(beside);
  const found = [main.getBoundingClientRect().width, view.getBoundingClientRect().width];
  beside.remove();
  main.removeAttribute("style");
  return found;
}"""


def walked(page):
    """Press Tab from end to end: which stops were met, and those at which nothing showed the focus."""
    count, seen, dim = len(page.evaluate(f"() => ({STOPS})().map(String)")), set(), []
    page.evaluate("document.activeElement.blur()")
    for _ in range(count + 1):
        page.keyboard.press("Tab")
        if (here := page.evaluate(HERE)) < 0:
            break
        seen.add(here)
        outlined = page.evaluate("""() => { const s = getComputedStyle(document.activeElement);
          return s.outlineStyle !== "none" || !!document.activeElement.closest(".fv-upload"); }""")
        dim += [] if outlined else [page.evaluate("document.activeElement.outerHTML.slice(0, 120)")]
    missed = page.evaluate(MISSED, [sorted(seen), SETS])
    return missed, dim


@pytest.mark.parametrize("make", VIEWS, ids=lambda make: make.__name__)
def test_every_view(make, open_page, tmp_path):
    torch.manual_seed(0)
    page = open_page(make().save(tmp_path / "view.html"), ".fimviz:not(.fimviz-still) h3")
    for style, share in IN_BOXES.items():
        room, wide = page.evaluate(BOXED, [style, share])
        assert wide == pytest.approx(share * room, abs=12), style
    page.add_script_tag(content=AXE.AXE_SCRIPT)
    assert walked(page) == ([], []), "by keyboard alone"
    page.evaluate("document.querySelectorAll('details').forEach(d => (d.open = true))")
    if page.locator("svg[role=img]").count():
        assert page.locator("details tbody tr, .fv-models tbody tr").count() > 0, (
            "the numbers of its charts, as a table"
        )
    for scheme, width in (("light", 1200), ("dark", 480)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        tabs = page.get_by_role("tab").all()
        for tab in tabs or [None]:
            if tab:
                tab.click()
            page.evaluate(SETTLED)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, "what is wide scrolls by itself"
            violations, passed = page.evaluate(FOUND, RULES)
            assert violations == [], scheme
            assert {"color-contrast", "target-size", "document-title", "html-has-lang"} <= {*passed}
            assert page.evaluate(FAINT) == []
            drawn, unseen = page.evaluate(UNSEEN)
            assert drawn > 0
            assert unseen == [], (scheme, width)
