"""The explorer in a real browser, from file://, with the network off."""

import functools
import threading

import pytest
import torch

import fimviz as fv
from fimviz._quantile import median
from fimviz.views.kit.module import style_source
from fimviz.views.kit.numbers import number
from tests.browser.test_perturbation import slide
from tests.explorer.test_explorer import batch, model, png

PARTS = ["plane", "radius", "bounds", "attacks", "margins", "attributions"]
TABS = ("direction", "plane", "bounds", "attacks", "distance", "margins", "attributions")
SETTLE = "() => new Promise((done) => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 120))"


@pytest.fixture(scope="module")
def found():
    images, labels = fv.zoo.digits()
    net = fv.zoo.load("digits-mlp")
    return fv.explore(net, images[:40], labels[:40], detail=8, include=PARTS)


@pytest.fixture
def opened(opened):
    return functools.partial(opened, wait=".fv-batch")


def order(found):
    return found.first.matched.argsort(descending=True, stable=True).tolist()


def digits(value):
    return f"{float(f'{value:.3g}'):g}"


def chosen(page):
    return int(page.locator(".fv-title").first.inner_text().split()[1].rstrip(","))


def shown(page):
    """The samples in the gallery, in its order."""
    return page.evaluate("[...document.querySelectorAll('.fv-explore > .fv-gallery > div')].map(n => n.key)")


def place_of(page, found, i):
    """Where a sample's dot lies, by clicking distance from the ring of the chosen one."""
    page.evaluate(SETTLE)
    box = page.locator(".fv-lane .fv-ring").first.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_the_question_is_answered_by_the_title(opened, found):
    page = opened(found)
    first = order(found)[0]
    s = found.first.spectrum
    both = f"λ₁ at confidence 0.9 = {digits(found.first.matched[first])}; as it is {digits(s.spectral_norm[first])}"
    assert page.locator(".fv-title").inner_text().startswith(f"Sample {first}, a")
    assert page.locator(".fv-title").inner_text().endswith(f"is the most fragile of 40: {both}")
    status = page.locator(".fv-batch").inner_text()
    assert "40 samples" in status
    assert f"accuracy {float(f'{100 * s.correct.double().mean():.3g}'):g} %" in status
    middles = [digits(median(v)) for v in (found.first.matched, s.spectral_norm)]
    assert "median λ₁ {} at confidence 0.9, {} as it is".format(*middles) in status
    corner = page.locator(".fv-cloud").inner_text()
    assert f"ρ = {found.ranks['']['confidence'].rho:.2g}".replace("-", "−") in corner


def test_clicking_a_dot_opens_its_sample(opened, found):
    page = opened(found)
    other = order(found)[5]
    page.get_by_label("Open a sample by its number").fill(str(other))
    page.keyboard.press("Enter")
    assert chosen(page) == other
    x, y = place_of(page, found, other)
    page.locator(".fv-thumb").first.click()
    assert chosen(page) == order(found)[0]
    page.mouse.click(x, y)
    assert chosen(page) == other


def test_search_says_what_there_is(opened, found):
    page = opened(found)
    page.get_by_label("Open a sample by its number").fill("99")
    page.keyboard.press("Enter")
    assert page.locator(".fv-count").inner_text() == "no sample 99: they run from 0 to 39"


def test_brushing_selects_what_lies_within(opened, found):
    page = opened(found)
    box = page.locator(".fv-lane").bounding_box()
    middle = box["x"] + box["width"] / 2
    page.mouse.move(middle, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 12, box["y"] + 60, steps=6)
    page.mouse.up()
    page.evaluate(SETTLE)
    kept = shown(page)
    assert 0 < len(kept) < 40
    assert kept == order(found)[: len(kept)], "the right end of the axis is the most fragile"
    assert page.locator(".fv-count").inner_text() == f"{len(kept)} of 40"
    page.get_by_role("button", name="clear the brush").click()
    page.evaluate(SETTLE)
    assert len(shown(page)) == 40


def test_the_switch_leads_with_the_other_norm(opened, found):
    page = opened(found)
    raw = found.first.spectrum.fragile
    assert raw != order(found) == shown(page)
    ring = page.locator(".fv-lane .fv-ring")
    x = ring.get_attribute("cx")
    page.get_by_role("button", name="λ₁ as it is").click()
    page.evaluate(SETTLE)
    assert page.locator("[data-norm=raw]").get_attribute("aria-pressed") == "true"
    assert shown(page) == raw
    assert chosen(page) == order(found)[0]
    assert ring.get_attribute("cx") != x
    r = found.raw_ranks[""]["confidence"].rho
    assert f"ρ = {digits(float(f'{r:.2g}'))}".replace("-", "−") in page.locator(".fv-cloud").inner_text()
    assert "λ₁ as it is, log axis" in page.locator(".fv-cloud").inner_text()
    value = digits(found.first.spectrum.spectral_norm[raw[0]])
    assert page.locator(".fv-thumb").first.get_attribute("aria-label").endswith(f"λ₁ as it is = {value}")
    page.get_by_label("Which samples").select_option("fragile")
    assert shown(page) == raw[:10]
    page.get_by_role("button", name="λ₁ at confidence 0.9").click()
    page.evaluate(SETTLE)
    assert shown(page) == order(found)[:10]
    assert ring.get_attribute("cx") == x


def test_filters_and_orders(opened, found):
    page = opened(found)
    s = found.first.spectrum
    page.get_by_label("Which samples").select_option("misclassified")
    assert set(shown(page)) == set((~s.correct).nonzero()[:, 0].tolist())
    page.get_by_label("Which samples").select_option("fragile")
    assert shown(page) == order(found)[:10]
    page.get_by_label("Which samples").select_option(label="3")
    assert set(shown(page)) == set((s.labels == 3).nonzero()[:, 0].tolist())
    page.get_by_label("Which samples").select_option("all")
    page.get_by_label("Order of the gallery").select_option("margin")
    assert shown(page) == found.first.margin.argsort(stable=True).tolist()
    page.locator(".fv-chips button").nth(2).click()
    assert {int(s.labels[i]) for i in shown(page)} == {2}
    for name in ("correct", "confidence", "class"):
        page.get_by_role("button", name=name, exact=True).click()
        assert page.locator(f"[data-color={name}]").get_attribute("aria-pressed") == "true"
    for value in ("margin", "radius", "confidence"):
        page.get_by_label("What λ₁ is plotted against").select_option(value)
        assert page.locator(".fv-cloud svg .fv-dots").count() > 0


def test_keyboard_alone(opened, found):
    page = opened(found)
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        role = page.evaluate("document.activeElement.getAttribute('role') || document.activeElement.tagName")
        name = page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent.trim()")
        seen.append((role, name))
        if role == "slider" and name.startswith("Largest"):
            for _ in range(10):
                page.keyboard.press("ArrowLeft")
            page.evaluate(SETTLE)
            assert 0 < len(shown(page)) < 40
            assert page.locator(".fv-high").get_attribute("aria-valuetext").startswith("λ₁ = ")
            page.keyboard.press("Escape")
            page.evaluate(SETTLE)
            assert len(shown(page)) == 40
        elif role == "option" and name.startswith("sample"):
            page.keyboard.press("ArrowRight")
            assert chosen(page) == order(found)[1]
            page.keyboard.press("End")
            assert chosen(page) == order(found)[-1]
            page.keyboard.press("Home")
            assert chosen(page) == order(found)[0]
        elif role == "tab" and name == "direction":
            page.keyboard.press("ArrowRight")
            assert page.locator("[role=tab][aria-selected=true]").inner_text() == "plane"
            assert page.evaluate("document.activeElement.textContent") == "plane"
        elif role == "INPUT" and name == "Step along v₂":
            before = page.locator(".fv-kls").inner_text()
            page.keyboard.press("End")
            assert page.locator(".fv-kls").inner_text() != before
            break
    else:
        raise AssertionError(f"the plane's second slider was not reached: {seen}")
    page.evaluate("window.heard = []; document.addEventListener('keydown', e => heard.push(e.key))")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("heard") == [], "keys do not leak to the notebook"


def test_numbers_of_the_plane_are_pythons(opened, found):
    page = opened(found)
    page.get_by_role("tab", name="plane").click()
    planes = found.first.detail.planes
    page.evaluate("document.querySelectorAll('.fv-planes input').forEach(r => r.step = 'any')")
    for a, b in [(14, 10), (4, 17), (20, 0)]:
        slide(page, float(planes.distances[0, a]), ".fv-a")
        slide(page, float(planes.distances[0, b]), ".fv-b")
        said = page.locator(".fv-kls").inner_text().split()
        values = [float(w.replace("×10⁻", "e-")) for w in (said[2], said[5])] if "×" not in said[2] + said[5] else None
        if values:
            assert values[0] == pytest.approx(float(planes.kl[0, a, b]), rel=6e-3)
            at = planes.distances[0, [a, b]]
            assert values[1] == pytest.approx(float(0.5 * (at**2 * planes.information[0]).sum()), rel=6e-3)
        word = page.locator(".fv-planes .fv-under strong").inner_text()
        assert word.startswith(f"now: {int(planes.outcomes[0, a, b])} (p = ")


def test_epsilon_is_one_for_all_tabs(opened, found):
    page = opened(found)
    slide(page, 0.5 * float(found.first.detail.reach[0]), ".fv-slider input[type=range]")
    epsilon = page.locator(".fv-slider output").inner_text().removeprefix("ε = ")
    page.get_by_role("tab", name="plane").click()
    assert page.locator(".fv-planes output").first.inner_text() == epsilon
    box = page.locator(".fv-over").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.3)
    moved = page.locator(".fv-planes output").first.inner_text()
    assert moved != epsilon
    page.get_by_role("tab", name="direction").click()
    assert page.locator(".fv-slider output").inner_text() == f"ε = {moved}"


def test_embedded_views_follow_the_sample(opened, found):
    page = opened(found)
    s = found.first.spectrum
    page.get_by_role("tab", name="bounds").click()
    page.wait_for_selector(".fv-nested-bounds .fv-title")
    for i in found.places[:2]:
        page.locator(f".fv-explore > .fv-gallery [aria-label^='sample {i}:']").click()
        norm = float(f"{s.spectral_norm[i]:.3g}")
        assert page.locator(".fv-nested-bounds .fv-title").inner_text().startswith(f"λ₁ = {norm:g}")
    page.get_by_role("tab", name="margins").click()
    page.wait_for_selector(".fv-nested-margins .fv-title")
    for i in found.places[:2]:
        page.locator(f".fv-explore > .fv-gallery [aria-label^='sample {i}:']").click()
        assert f"Sample {i}:" in page.locator(".fv-nested-margins .fv-sub").inner_text()
    page.locator(".fv-nested-margins .fv-matrix button").nth(3).click()
    page.evaluate(SETTLE)
    assert f"Sample {chosen(page)}:" in page.locator(".fv-nested-margins .fv-sub").inner_text()


def test_attacks_of_the_sample(opened, found):
    page = opened(found)
    v = found.first.attacks
    page.get_by_role("tab", name="attacks").click()
    for i in found.places[:4]:
        page.locator(f".fv-explore > .fv-gallery [aria-label^='sample {i}:']").click()
        text = page.locator(".fv-found").inner_text()
        assert f"No change below {number(float(found.first.radius[i]))} in L2 alters the answer" in text
        best = v.epsilon[i].amin()
        if best == 0:
            assert "misses" in text
            assert "as it is" in text
        else:
            assert f"is {float(f'{best:.3g}'):g} long" in text
            assert page.locator(".fv-attempt canvas").count() == int(((v.epsilon[i] > 0) & v.success[i]).sum())
    other = next(i for i in range(40) if i not in found.places and v.epsilon[i].amin() > 0)
    page.locator(f".fv-explore > .fv-gallery [aria-label^='sample {other}:']").click()
    assert page.locator(".fv-attempt").count() == len(v.attacks)
    place = found.first.toward[0][0]
    page.locator(f".fv-explore > .fv-gallery [aria-label^='sample {place}:']").click()
    page.get_by_role("tab", name="plane").click()
    page.get_by_role("button", name="toward the attack").click()
    assert page.get_by_label("Step toward the attack").is_visible()
    page.get_by_role("tab", name="attributions").click()
    page.wait_for_selector(".fv-nested-attributions figure canvas")
    said = found.first.attributions.spectrum.spectral_norm[list(found.places).index(place)]
    nested = page.locator(".fv-nested-attributions")
    assert f"λ₁ = {float(f'{said:.3g}'):g}" in nested.inner_text()
    assert nested.locator(".fv-slider output").inner_text().startswith(f"{place}: ")
    other = next(p for p in found.places if p != place)
    slide = "(range, at) => { range.value = at; range.dispatchEvent(new Event('input', {bubbles: true})); }"
    nested.locator("input[type=range]").first.evaluate(slide, list(found.places).index(other))
    assert f"Sample {other}," in page.locator(".fv-title").first.inner_text()
    assert nested.locator(".fv-slider output").inner_text().startswith(f"{other}: ")


def test_the_distance_of_every_sample_is_a_bar_that_opens_it(opened, found):
    page = opened(found, viewport={"width": 480, "height": 900})
    page.get_by_role("tab", name="attacks").focus()
    page.keyboard.press("ArrowRight")
    view = page.locator(".fv-nested-distance")
    rows = view.locator(".fv-each g")
    rows.nth(39).wait_for(state="attached")
    assert f"sample {chosen(page)}, label" in view.locator(".fv-words").inner_text()
    rows.nth(7).scroll_into_view_if_needed()
    box = rows.nth(7).bounding_box()
    page.mouse.click(box["x"] + 60, box["y"] + box["height"] / 2)
    by_attack = found.distance.models["model"].attacked.argsort(stable=True).tolist()
    assert chosen(page) == by_attack[7]
    assert rows.nth(7).locator(".fv-chosen-row").count() == 1
    assert rows.locator("text").all_text_contents() == [str(by_attack[7])], "of forty, the one that is told of"
    view.locator(".fv-which").focus()
    page.keyboard.press("ArrowRight")
    assert chosen(page) == by_attack[8]
    page.locator(f".fv-explore > .fv-gallery [aria-label^='sample {by_attack[-1]}:']").click()
    assert f"sample {by_attack[-1]}, label" in view.locator(".fv-words").inner_text()
    page.get_by_label("What λ₁ is plotted against").select_option("ratio")
    assert "attack ÷ certified radius, log axis" in page.locator(".fv-cloud").inner_text()
    missed = int((~found.first.distance.correct).nonzero()[0])
    page.locator(f".fv-explore > .fv-gallery [aria-label^='sample {missed}:']").click()
    assert page.locator(".fv-cloud .fv-ring").count() == 0, "it has no ratio"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_what_is_not_there_is_said(opened, found):
    page = opened(found)
    other = next(i for i in range(40) if i not in found.places)
    page.locator(f".fv-explore > .fv-gallery [aria-label^='sample {other}:']").click()
    for tab, how in [
        ("direction", f"detail=[{other}]"),
        ("plane", "include"),
        ("bounds", "include"),
        ("margins", "include"),
    ]:
        page.get_by_role("tab", name=tab).click()
        text = page.locator(".fv-absent:visible").inner_text()
        assert how in text
        assert page.locator(".fv-absent:visible canvas").count() == 1
    page.get_by_role("tab", name="direction").click()
    page.locator(".fv-thumb").first.click()
    assert page.locator(".fv-absent:visible").count() == 0


def test_two_models_stand_side_by_side(opened):
    images, labels = fv.zoo.digits()
    nets = {name: fv.zoo.load(f"digits-{name}") for name in ("mlp", "mlp-robust")}
    e = fv.explore(nets, images[:20], labels[:20], detail=4)
    page = opened(e, viewport={"width": 1400, "height": 900})
    assert page.locator(".fv-lane .fv-ring").count() == 2
    assert page.locator(".fv-panel").count() == 2
    outputs = page.locator(".fv-slider output")
    slide(page, 0.3 * float(e.first.detail.reach[0]), ".fv-slider input[type=range]")
    assert len(set(outputs.all_inner_texts())) == 1
    axes = page.locator(".fv-prob svg .tick").all_inner_texts()
    assert axes[: len(axes) // 2] == axes[len(axes) // 2 :] or len(axes) % 2, "the same distances for both"
    said = page.locator(".fv-sub").inner_text()
    a, b = (m.matched for m in e.models.values())
    assert f"λ₁ at confidence 0.9 is larger for mlp on {int((a > b).sum())} of 20" in said
    page.get_by_label("What λ₁ is plotted against").select_option("norm:mlp-robust")
    assert "λ₁ of mlp-robust" in page.locator(".fv-cloud").inner_text()
    page.get_by_role("tab", name="plane").click()
    assert page.locator(".fv-planes").count() == 2
    page.get_by_role("tab", name="distance").click()
    assert 'include=["radius", "attacks"]' in page.locator(".fv-absent:visible").inner_text()


def odd(case):
    images, labels = batch(n=6)
    names, count, shape = None, 4, (1, 8, 8)
    if case == "names":
        names = ["<script>window.hit=1</script>", "a" * 40, "&amp; \"q'", "long name " * 4]
    if case == "two":
        count = 2
    if case == "eleven":
        count = 11
    if case == "thousand":
        count = 1000
    if case == "photos":
        shape, count = (3, 224, 224), 10
    if case == "series":
        shape = (30,)
    images = torch.rand(6, *shape, generator=torch.Generator().manual_seed(0))
    kind = "bernoulli" if case == "labels" else "categorical"
    net = fv.Classifier(model(shape, count), classes=names, likelihood=kind)
    labels = None if case == "labels" else [i % count for i in range(6)]
    e = fv.explore(net, images, labels, detail=1 if case == "photos" else 3, include=["plane"])
    if case == "NaN":
        e.first.detail.spectrum.eigenvectors[:, 0, 0, 2, 3] = torch.nan
    if case == "zero":
        e.first.spectrum.eigenvalues[4:] = 0.0
    return e


@pytest.mark.parametrize("case", ["names", "two", "eleven", "thousand", "photos", "series", "labels", "NaN", "zero"])
def test_every_kind_of_model_and_input(opened, case):
    e = odd(case)
    page = opened(e)
    for width in (1400, 900, 480):
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate(SETTLE)
        for i in range(6):
            page.locator(".fv-thumb").nth(i).click()
        page.locator(f".fv-explore > .fv-gallery [aria-label^='sample {e.places[0]}:']").click()
        for tab in TABS:
            page.get_by_role("tab", name=tab).click()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{tab} is cut at {width}"
            text = page.locator(".fimviz").inner_text()
            assert "undefined" not in text
            assert "NaN" not in text or case == "NaN"
    assert page.evaluate("window.hit") is None


LIVE = """async ([source, state]) => {
  const listeners = {};
  const fire = (event, ...said) => (listeners[event] ?? []).forEach((call) => call(...said));
  const put = (name, value) => { state[name] = value; fire(`change:${name}`); };
  window.told = [];
  window.tell = (message) => fire("msg:custom", message);
  window.put = put;
  const model = {
    get: (name) => state[name], set: put, save_changes() {},
    on: (event, call) => (listeners[event] ??= []).push(call), off() {},
    send: (content, callbacks, buffers) => told.push([content, (buffers ?? []).map((b) => [...new Uint8Array(b)])]),
  };
  window.state = state;
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  await (await import(url)).default.render({ model, el: document.body.appendChild(document.createElement("div")) });
}"""


class Linked:
    """A live widget and a page, with the messages between them carried by hand, as a kernel's comm would."""

    def __init__(self, page, widget, module, style):
        self.page, self.widget, self.out = page, widget, []
        widget.send = lambda content, buffers=None: self.out.append(content)
        page.add_style_tag(content=style)
        names = widget.trait_names(sync=True)
        state = {
            n: getattr(widget, n) for n in names if not n.startswith("_") and n not in ("layout", "tabbable", "tooltip")
        }
        page.evaluate(LIVE, [module, state])
        page.wait_for_selector(".fv-batch")

    def carry(self):
        """Everything that is under way, there and back."""
        self.page.evaluate(SETTLE)
        for name in ("temperature", "directions", "index", "selected"):
            if (value := self.page.evaluate("n => state[n]", name)) != getattr(self.widget, name):
                setattr(self.widget, name, value)
        for content, buffers in self.page.evaluate("told.splice(0)"):
            self.widget._handle_custom_msg(content, [bytes(b) for b in buffers])
        assert self.widget.wait(60)
        if self.page.evaluate("state.payload") != self.widget.payload:
            self.page.evaluate("p => put('payload', p)", self.widget.payload)
            self.page.evaluate(SETTLE)
            self.page.evaluate("i => put('index', i)", self.widget.index)
        for message in self.out:
            self.page.evaluate("m => tell(m)", message)
        self.out.clear()
        self.page.evaluate(SETTLE)


@pytest.fixture
def linked(open_page, tmp_path):
    images, labels = fv.zoo.digits()
    net = fv.zoo.load("digits-mlp")
    widget = fv.explore(net, images[:16], labels[:16], detail=2, k=2, include=["radius"]).widget()
    blank = tmp_path / "blank.html"
    blank.write_text("<!doctype html><html lang='en'><meta charset=utf-8><title>live</title><body></body></html>")
    yield Linked(open_page(blank, wait=None), widget, str(widget._esm), style_source())
    widget.close()


def test_live_detail_comes_when_a_sample_is_opened(linked):
    page, widget = linked.page, linked.widget
    other = next(i for i in range(16) if i not in widget.source.places)
    page.locator(f".fv-explore > .fv-gallery [aria-label^='sample {other}:']").click()
    assert page.locator(".fv-absent:visible").count() == 1
    linked.carry()
    assert widget.index == other
    assert page.locator(".fv-absent:visible").count() == 0
    assert page.locator(".fv-direction [data-rank]").count() == 2
    page.get_by_label("How many directions of a sample").fill("5")
    page.keyboard.press("Enter")
    linked.carry()
    assert page.locator(".fv-direction [data-rank]").count() == 5
    for tab, part in [
        ("plane", ".fv-planes"),
        ("bounds", ".fv-nested-bounds .fv-row"),
        ("margins", ".fv-nested-margins .fv-matrix"),
    ]:
        page.get_by_role("tab", name=tab).click()
        page.locator(".fv-compute:visible").click()
        linked.carry()
        page.wait_for_selector(part)
        assert page.locator(".fv-absent:visible").count() == 0


def test_live_temperature_moves_every_norm(linked):
    page, widget = linked.page, linked.widget
    assert "temperature 1" in page.locator(".fv-batch").inner_text()
    before = page.locator(".fv-title").inner_text()
    page.locator(".fv-heat-of").focus()
    for _ in range(3):
        page.keyboard.press("PageUp")
    linked.carry()
    assert widget.temperature > 1
    assert f"temperature {widget.temperature:g}" in page.locator(".fv-batch").inner_text()
    assert page.locator(".fv-title").inner_text() != before
    linked.carry()  # the page has asked for the detail of its sample anew
    assert page.locator(".fv-absent:visible").count() == 0


def test_live_an_opened_sample_outlives_another_temperature(linked):
    page, widget = linked.page, linked.widget
    other = next(i for i in range(16) if i not in widget.source.places)
    page.locator(f".fv-explore > .fv-gallery [aria-label^='sample {other}:']").click()
    linked.carry()
    page.get_by_label("How many directions of a sample").fill("4")
    page.keyboard.press("Enter")
    asked = page.evaluate("told.splice(0)")  # a request overtakes the trait that it rests on
    for content, _ in asked:
        widget._handle_custom_msg(content, [])
    linked.carry()
    assert page.locator(".fv-direction [data-rank]").count() == 4
    page.locator(".fv-heat-of").focus()
    page.keyboard.press("PageUp")
    for _ in range(2):  # the batch, then the sample that the page asks for anew
        linked.carry()
    assert f"Sample {other}," in page.locator(".fv-title").inner_text()
    assert page.locator(".fv-absent:visible").count() == 0
    assert page.locator(".fv-direction [data-rank]").count() == 4


def test_the_state_is_what_is_shown(linked):
    page, widget = linked.page, linked.widget
    reach, count = widget.extent[widget.index]
    labels = widget.source.first.spectrum.labels
    page.evaluate("put('epsilon', 1e9), put('direction', 17)")  # as a linked view would
    page.evaluate(SETTLE)
    assert page.evaluate("[state.epsilon, state.direction]") == [reach, count - 1]
    assert page.locator(".fv-against option, .fv-versus option").evaluate_all("all => all.map((o) => o.value)") == list(
        widget.choices["criteria"]
    )
    assert page.locator(".fv-show option").evaluate_all("all => all.map((o) => o.value)") == [
        s for s in widget.choices["shows"] if not s.startswith("class:") or int(s[6:]) in labels
    ]


def test_a_view_that_python_cannot_answer_says_why(open_page, tmp_path):
    class Locked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.own, self.lock = fv.zoo.load("digits-mlp").model, threading.Lock()

        def forward(self, x):
            return self.own(x)

    images, labels = fv.zoo.digits()
    widget = fv.explore(Locked(), images[:4], labels[:4], detail=2, include=[]).widget()
    blank = tmp_path / "blank.html"
    blank.write_text("<!doctype html><html lang='en'><meta charset=utf-8><title>live</title><body></body></html>")
    page = Linked(open_page(blank, wait=None), widget, str(widget._esm), style_source()).page
    assert "the model cannot be copied (TypeError: cannot pickle" in page.locator(".fv-refused").inner_text()
    assert page.locator(".fv-live").count() == 0


def test_live_images_are_dropped_and_refused(linked):
    page, widget = linked.page, linked.widget
    drop = """([name, bytes]) => {
      const data = new DataTransfer();
      data.items.add(new File([Uint8Array.from(bytes)], name, {type: "image/png"}));
      document.querySelector(".fimviz").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
    }"""
    page.evaluate(drop, ["mine.png", list(png((8, 8))[0])])
    page.wait_for_function("told.length > 0")
    linked.carry()
    linked.carry()
    assert page.locator(".fv-title").first.inner_text().startswith("Sample 16, taken for a")
    assert page.locator(".fv-explore > .fv-gallery > div").count() == 17
    page.evaluate(drop, ["<b>.png", list(png((9, 8))[0])])
    page.wait_for_function("told.length > 0")
    linked.carry()
    alarm = page.get_by_role("alert")
    assert "<b>.png has 9 × 8 pixels and the network takes 8 × 8" in alarm.inner_text()
    assert len(widget.source) == 17


def test_live_selection_is_pythons_too(linked):
    page, widget = linked.page, linked.widget
    page.evaluate("put('selected', [2, 5, 7])")
    page.evaluate(SETTLE)
    assert set(shown(page)) == {2, 5, 7}
    page.locator(".fv-high").focus()
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    linked.carry()
    assert widget.selected == page.evaluate("state.selected")
    assert set(shown(page)) == set(widget.selected)


def test_readable_without_scripts(open_page, tmp_path, found):
    page = open_page(found.save(tmp_path / "a.html"), wait=".fimviz-still", java_script_enabled=False)
    assert page.locator("img").is_visible()
    assert page.locator("table tr").count() == 11
