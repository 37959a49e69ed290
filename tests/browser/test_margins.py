"""The margin view in a real browser, offline; and its live requests, answered by Python through a wire made here."""

import queue
import re

import numpy as np
import pytest
import torch

import fimviz as fv
from fimviz.views.kit.module import module_source
from fimviz.views.margins.live import Margins
from tests.browser.test_perturbation import linear, rgba, slide

PATH = ".fv-trace input[type=range]"
NAMES = ["<script>window.hit=1</script>", "a" * 40, "with <b>bold</b> & \"quotes'", *(f"class {i}" for i in range(8))]


def trace(shape=(1, 8, 8), classes=4, n=4, gain=8.0, names=None, labels=None, **options):
    torch.manual_seed(1)
    net = fv.Classifier(linear(shape, classes, gain=gain), classes=names)
    return fv.trace_margins(net, torch.rand(n, *shape), labels, **{"damping": 1.0, "verify": False, **options})


@pytest.fixture(scope="module")
def digits():
    images, labels = fv.zoo.digits()
    net = fv.zoo.load("digits-resnet")
    return fv.trace_margins(net, images[:12], labels[:12], damping=0.1, verify=False)


def chosen(page):
    return int(page.locator(".fv-gallery [aria-selected=true]").get_attribute("data-id"))


def said(page):
    """The length at which the scrubber stands."""
    return float(page.locator(".fv-slider output").inner_text().split(" of ")[0])


def three(value):
    return float(f"{value:.3g}")


def test_a_cell_of_the_matrix_opens_its_traces(opened, digits):
    page = opened(digits)
    cells = page.locator(".fv-matrix button")
    counts = [int(c) for c in cells.all_inner_texts()]
    assert sum(counts) == len(digits)
    for place in range(0, cells.count(), 7):
        cell = cells.nth(place)
        source, hit = map(int, cell.get_attribute("data-cell").split(","))
        cell.click()
        expected = ((digits.source == source) & (digits.hit == hit)).nonzero()[:, 0].tolist()
        ids = [int(i.get_attribute("data-id")) for i in page.locator(".fv-gallery [role=option]").all()]
        assert ids == expected
        i = chosen(page)
        target = int(digits.target[i])
        assert page.locator(".fv-matrix [aria-pressed=true]").count() == 1
        title = page.locator(".fv-title").inner_text()
        assert (f"meets {hit} first" if hit != target else f"{source} turns into {target} after") in title
        sub = page.locator(".fv-sub").inner_text()
        assert f"Fisher–Rao length {three(digits.length[i]):g} ±" in sub
        assert f"{three(digits.bound[i]):g} is the floor to {hit}" in sub
        assert f"L2 {three(digits.l2[i]):g}." in sub


def test_the_scrubber_shows_pythons_points(opened, digits):
    page = opened(digits)
    i = chosen(page)
    path = digits.paths[i]
    assert said(page) == three(digits.length[i]), "it opens at the end"
    page.evaluate("() => document.querySelector('.fv-trace input[type=range]').step = 'any'")
    start = digits.images[int(digits.sample[i])].double()
    for point in (0, len(path.pace) // 2, len(path.pace)):
        slide(page, float(path.fr[point]), PATH)
        assert said(page) == pytest.approx(float(path.fr[point]), rel=6e-3, abs=1e-9)
        best = int(path.probabilities[point].argmax())
        here = page.locator(".fv-moved .fv-under").inner_text()
        assert here.startswith(f"now: {best}\n")
        value = float(path.probabilities[point, best])
        if value < 0.999:
            assert f"p = {value:.3f}" in here
        shown = rgba(page, ".fv-moved")[..., 0]
        scale = float((path.images.double() - start).abs().amax())
        assert np.abs(shown - 255 * path.images[point, 0].double().numpy()).max() <= 255 * scale / 254 + 1.5
        assert (
            f"Step {max(1, min(point + 1, len(path.pace)))} of {len(path.pace)}"
            in page.locator(".fv-step").inner_text()
        )


def test_steps_and_film(opened, digits):
    page = opened(digits)
    path = digits.paths[chosen(page)]
    page.get_by_role("button", name="One step back").click()
    assert said(page) == three(path.fr[-2])
    page.locator(".fv-film button").first.click()
    assert said(page) == 0
    page.get_by_role("button", name="One step on").click()
    assert said(page) == three(path.fr[1])
    page.locator(".fv-film button").nth(3).click()
    point = int(page.locator(".fv-film [aria-pressed=true]").get_attribute("data-point"))
    assert said(page) == three(path.fr[point])


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_play_runs_to_the_end(opened, digits, motion):
    page = opened(digits, reduced_motion=motion)
    play, end = page.locator(".fv-play"), float(digits.length[chosen(page)])
    assert play.get_attribute("aria-pressed") == "false", "nothing moves before it is asked to"
    play.click()
    page.wait_for_function("() => parseFloat(document.querySelector('.fv-slider output').innerText) > 0.2")
    play.click()
    held = said(page)
    assert 0.2 < held < end
    page.wait_for_timeout(200)
    assert said(page) == held
    if motion == "reduce":
        path = digits.paths[chosen(page)]
        assert min(abs(path.fr - held)) < 6e-3 * held, "from point to point"
    play.click()
    page.wait_for_function("() => document.querySelector('.fv-play').getAttribute('aria-pressed') === 'false'")
    assert said(page) == three(end)


def test_targets_of_the_same_sample_stand_side_by_side(opened, digits):
    page = opened(digits)
    sample = int(digits.sample[chosen(page)])
    own = (digits.sample == sample).nonzero()[:, 0].tolist()
    assert page.locator(".fv-targets button").count() == len(own) == 9
    for i in own[::3]:
        page.locator(f".fv-targets [data-id='{i}']").click()
        assert chosen(page) == i
        assert page.locator(".fv-targets [aria-pressed=true]").get_attribute("data-id") == str(i)
        cell = page.locator(".fv-matrix [aria-pressed=true]").get_attribute("data-cell")
        assert cell == f"{int(digits.source[i])},{int(digits.hit[i])}"


def test_keyboard_alone(opened, digits):
    page = opened(digits)
    active = "document.activeElement.{}".format
    page.keyboard.press("Tab")  # the help
    page.keyboard.press("Tab")
    before = page.evaluate(active("dataset.cell"))
    assert before == page.locator(".fv-matrix [aria-pressed=true]").get_attribute("data-cell")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    after = page.evaluate(active("dataset.cell"))
    assert after is not None
    assert after.split(",")[0] != before.split(",")[0]
    assert after == page.locator(".fv-matrix [aria-pressed=true]").get_attribute("data-cell")
    page.keyboard.press("Tab")
    assert page.evaluate(active("getAttribute('role')")) == "option"
    page.keyboard.press("End")
    options = page.locator(".fv-gallery [role=option]")
    assert options.last.get_attribute("aria-selected") == "true"
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent"))
        if page.evaluate(active("type")) == "range":
            at = said(page)
            page.keyboard.press("ArrowLeft")
            assert said(page) < at
            page.keyboard.press("Home")
            assert said(page) == 0
        if page.evaluate("document.activeElement.closest('.fv-targets') !== null"):
            page.keyboard.press("Enter")
            assert page.evaluate(active("ariaPressed")) == "true", "the focus stays on the target"
            break
    assert {"▶ play", "One step back", "One step on", "Fisher–Rao length along the path"} <= set(seen)


def test_keys_do_not_leak(opened, digits):
    page = opened(digits)
    page.evaluate("window.heard = []; document.addEventListener('keydown', e => heard.push(e.key))")
    page.locator(".fv-matrix [aria-pressed=true]").focus()
    page.keyboard.press("ArrowDown")
    page.locator(".fv-trace input[type=range]").focus()
    page.keyboard.press("a")
    assert page.evaluate("heard") == []


def test_dragging_a_chart_is_the_scrubber(opened, digits):
    page = opened(digits)
    for part in (".fv-prob svg", ".fv-small svg >> nth=1"):
        page.locator(part).scroll_into_view_if_needed()
        box = page.locator(part).bounding_box()
        page.mouse.move(box["x"] + 60, box["y"] + 60)
        page.mouse.down()
        left = said(page)
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60, steps=4)
        page.mouse.up()
        assert said(page) > left


def test_the_curve_is_drawn(opened, digits):
    curve = fv.shielding_curve(
        digits.net, digits.images[:4], digits.labels[:4], dampings=(0.01, 1.0, 10.0), resamples=50
    )
    page = opened(digits, {"curve": curve})
    assert page.locator(".fv-curve circle").count() == 3
    assert "Shielding depends on damping" in page.locator(".fv-curve h4").inner_text()
    page.locator("summary", has_text="shielding and damping").click()
    cells = page.locator(".fv-tables details[open] tbody tr").last.locator("td").all_inner_texts()
    assert float(cells[2]) == three(100 * curve.frame.shielded.iloc[-1])


def test_dark_mode(opened, digits):
    shade = "s => getComputedStyle(document.querySelector(s)).color.match(/[\\d.]+/g).slice(0, 3).map(Number)"
    for scheme, bright in (("dark", True), ("light", False)):
        page = opened(digits, color_scheme=scheme)
        for part in (".fv-title", ".fv-matrix button", ".fv-film button", ".fv-targets button"):
            values = page.evaluate(shade, part)
            assert min(values) > 200 if bright else max(values) < 60


def stalled():
    model = linear((1, 8, 8), 3)
    model[1].bias.data[0] = 60
    return fv.trace_margins(model, torch.rand(2, 1, 8, 8), verify=False)


def still():
    """No slope anywhere: no path moves at all."""
    model = linear((1, 8, 8), 3)
    model[1].weight.data *= 0
    return fv.trace_margins(model, torch.rand(2, 1, 8, 8), verify=False)


class Valley(torch.nn.Module):
    """Its gap narrows toward grey pixels and widens beyond: long steps are halved."""

    def forward(self, x):
        gap = (x - 0.5).square().flatten(1).sum(1) + 0.5
        return torch.stack([gap, torch.zeros_like(gap), gap - 5], 1)


def valley():
    return fv.trace_margins(
        Valley(), torch.full((1, 1, 4, 4), 0.45), targets=[1], trust_region=2.0, step=3.0, verify=False
    )


CASES = {
    "two classes": lambda: trace(classes=2, labels=[0, 1, 0, 1]),
    "eleven classes with names": lambda: trace(classes=11, names=NAMES, gain=12.0),
    "a thousand classes": lambda: trace(classes=1000, n=2, targets=[3, 17, 900], max_steps=8),
    "3 channels, 32 pixels": lambda: trace((3, 32, 32), n=2),
    "224 pixels": lambda: trace((3, 224, 224), n=2, gain=30.0),
    "a series": lambda: trace((20,), n=3),
    "stalled": stalled,
    "no slope": still,
    "line search and smoothed slopes": valley,
    "out of steps": lambda: trace(max_steps=1, gain=40.0),
    "published": lambda: trace(method="published", damping=None, max_steps=20),
    "straight": lambda: trace(method="straight"),
    "pgd": lambda: trace(method="pgd"),
    "one trace": lambda: trace(n=1, targets="runner-up"),
    "no images kept": lambda: trace(keep_images=False),
    "tiny changes": lambda: trace(gain=3e5),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_model_and_path(opened, case):
    result = CASES[case]()
    for width in (1400, 900, 480):
        page = opened(result, viewport={"width": width, "height": 900})
        page.wait_for_selector(".fv-prob svg")
        for button in page.locator(".fv-matrix button").all()[:3]:
            button.click()
            slide(page, 0, PATH)
            slide(page, 0.3, PATH)
            slide(page, 1e9, PATH)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut at the side"
        text = page.locator(".fimviz").inner_text()
        assert "NaN" not in text
        assert "undefined" not in text
        assert "Infinity" not in page.locator(".fv-trace").inner_html()
        assert "NaN" not in page.locator(".fv-trace").inner_html()
    if case == "eleven classes with names":
        assert page.evaluate("window.hit") is None
        assert page.locator(".fimviz .fv-title b").count() == 0
    if case == "line search and smoothed slopes":
        slide(page, 0, PATH)
        assert "shortened by the line search" in page.locator(".fv-step").inner_text()
        assert re.search(r"the line search \d", page.locator(".fv-sub").inner_text())
        slide(page, 1e9, PATH)
        assert "along a smoothed slope" in page.locator(".fv-step").inner_text()
        assert re.search(r"\d along a slope smoothed", page.locator(".fv-sub").inner_text())
    for end in page.locator(".fv-ends span").all():
        assert end.evaluate("e => e.getBoundingClientRect().height < 2 * parseFloat(getComputedStyle(e).lineHeight)")
    blended = "the picture is a straight blend" in page.locator(".fv-step").inner_text()
    assert blended == (case == "no images kept" and len(result.paths[chosen(page)].pace) > 1)
    ended = page.locator(".fv-ended")
    assert ended.is_visible() == (not result.flipped[chosen(page)])
    if case == "stalled":
        assert "stalls after" in page.locator(".fv-title").inner_text()
        assert "did not narrow the gap" in ended.inner_text()
        assert "“pgd” did not get further either" in ended.inner_text()
    if case == "no slope":
        assert "the slope is 0 everywhere" in ended.inner_text()
    if case == "out of steps":
        assert "all the steps that max_steps allows" in ended.inner_text()
    if case == "a thousand classes":
        colors = [t.get_attribute("fill") for t in page.locator(".fv-three text tspan").all()]
        assert len(set(colors)) == 3
        assert not {*colors} & {"#b8860b", "#6f4fb3"}, "those compared take the clearest colours"
    if case == "one trace":
        assert page.locator(".fv-small circle.fv-only").count() == 1
        assert "1 path is shielded" in page.locator(".fv-curve").inner_text()
        assert "One sample alone gives no interval" in page.locator(".fv-curve").inner_text()


def test_readable_without_scripts(open_page, tmp_path, digits):
    page = open_page(digits.save(tmp_path / "a.html"), wait=".fimviz-still", java_script_enabled=False)
    assert page.locator("img").is_visible()
    assert page.locator("table tr").count() == 13


# ---- the live view ----


class Wire:
    """A widget and its page, with what they send to each other carried by the test's own thread."""

    def __init__(self, widget, page):
        self.widget, self.page, self.sent = widget, page, queue.Queue()
        widget.send = self.sent.put

    def carry(self, until, seconds=60):
        for _ in range(20 * seconds):
            for request in self.page.evaluate("() => window.requests.splice(0)"):
                self.widget._heard(self.widget, request, [])
            while not self.sent.empty():
                self.page.evaluate("message => window.tell(message)", self.sent.get())
            if until():
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"nothing came: {self.page.locator('.fv-settings').inner_text()}")


@pytest.fixture
def live(open_page, tmp_path, digits, monkeypatch):
    figure = digits.view(samples=3)
    widget = figure.widget()
    html = figure.html()
    # The stand-in model, with a wire where it has none.
    wired = html.replace('\\"live\\": false', '\\"live\\": true').replace('"live":false', '"live":true')
    assert wired != html
    wired = wired.replace("send() {}", "send(message) { (window.requests ??= []).push(message); }")
    wired = wired.replace(
        "const view = (await",
        "window.requests = []; const heard = [], on = model.on; window.tell = (m) => heard.forEach((c) => c(m));"
        "model.on = (event, call) => (event === 'msg:custom' ? heard.push(call) : on(event, call));"
        "const view = (await",
    )
    path = tmp_path / "live.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{wired}</body>")
    yield Wire(widget, open_page(path))
    widget._latest.stop()
    assert widget._latest.wait(60)


def test_other_settings_trace_again(live, digits):
    page = live.page
    before = page.locator(".fv-targets button").count()
    sample, target = (int(t[chosen(page)]) for t in (digits.sample, digits.target))
    slider = page.locator("[data-set=damping]")
    slider.focus()
    page.keyboard.press("PageUp")
    value = 10 ** float(slider.input_value())
    live.carry(lambda: page.locator(".fv-targets button").count() == before + 1)
    again = fv.trace_margins(
        digits.net, digits.images[[sample]], targets=[target], damping=value, step=0.2, trust_region=0.1, verify=False
    )
    assert float(live.widget.retraced.length[0]) == pytest.approx(float(again.length[0]), rel=1e-6)
    assert said(page) == three(again.length[0])
    assert re.search(r"τ 0\.\d+", page.locator(".fv-targets [aria-pressed=true]").inner_text())
    page.locator(".fv-play").click()
    page.locator(".fv-film button").first.click()


def test_another_target_traces_again(live, digits):
    page = live.page
    source = int(digits.source[chosen(page)])
    target = (source + 1) % 10
    page.locator(".fv-settings select").select_option(str(target))
    assert (
        "Not walked yet" in page.locator(".fv-status").inner_text()
        or "walking" in page.locator(".fv-status").inner_text()
    )
    live.carry(lambda: live.widget.retraced is not None and "walking" not in page.locator(".fv-status").inner_text())
    assert int(live.widget.retraced.target[0]) == target


def test_a_curve_is_traced_live(live):
    page = live.page
    page.get_by_role("button", name="shielding against τ").click()
    live.carry(lambda: page.locator(".fv-curve circle").count() == 5)
    assert page.get_by_role("button", name="stop").is_disabled()


def test_stop_and_errors_are_seen(live, monkeypatch):
    page = live.page
    page.locator(".fv-again").click()
    stop = page.get_by_role("button", name="stop")
    assert stop.is_enabled()
    stop.click()
    assert stop.is_disabled()
    live.carry(lambda: True)

    def broken(content, check):
        raise RuntimeError("out of <b>memory</b>")

    monkeypatch.setattr(live.widget, "_retrace", broken)
    page.locator(".fv-again").click()
    alert = page.locator("[role=alert]")
    live.carry(alert.is_visible)
    assert "RuntimeError: out of <b>memory</b>" in alert.inner_text()
    monkeypatch.undo()
    page.locator(".fv-again").click()
    live.carry(lambda: live.widget.retraced is not None and not alert.is_visible())


def test_module_name_is_the_views():
    assert Margins._esm == module_source("margins/view.js")
