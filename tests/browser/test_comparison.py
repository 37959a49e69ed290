"""The bound view in a real browser, from file://, with the network off."""

import dataclasses

import pytest
import torch

import fimviz as fv

LONG = "a name of forty characters, which is lon"


def compared(classes=6, n=4, names=None, depth=1):
    torch.manual_seed(0)
    hidden = [part for _ in range(depth) for part in (torch.nn.Linear(16, 16), torch.nn.ReLU())]
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), *hidden, torch.nn.Linear(16, classes)
    )
    for layer in model:
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data *= 3
    return fv.compare_bounds(fv.Classifier(model, classes=names), torch.rand(n, 1, 8, 8), probes=20)


def changed(result, name, log10, reason=""):
    """The comparison with other values of a rung."""
    value = torch.where(log10 > 308, torch.inf, 10**log10)
    column = dataclasses.replace(result.methods[name], value=value, high=value, log10=log10)
    reasons = {**result.reasons, **({name: reason} if reason else {})}
    return dataclasses.replace(result, methods={**result.methods, name: column}, reasons=reasons)


@pytest.fixture(scope="module")
def comparison():
    return compared(names=["<b>x</b>", "<script>alert(1)</script>", LONG, *"def"])


@pytest.fixture
def opened(opened):
    def show(result, **options):
        page = opened(result, **options)
        page.wait_for_selector(".fv-marks path", state="attached")
        return page

    return show


def chosen(page):
    return page.locator(".fv-row[aria-selected=true]").get_attribute("data-method")


def fits(page):
    """No sideways scroll, and nothing in the view reaches beyond it."""
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth") and not page.evaluate(
        """() => { const view = document.querySelector(".fimviz").getBoundingClientRect();
          return [...document.querySelectorAll(".fimviz h3, .fv-row span, .fimviz svg text, .fimviz button")]
            .filter((e) => e.checkVisibility() && e.getBoundingClientRect().right > view.right + 1)
            .map((e) => e.textContent).join("; "); }"""
    )


@pytest.mark.parametrize("width", [1400, 900, 480])
def test_slider_changes_the_sample_by_keyboard(comparison, opened, width):
    page = opened(comparison, viewport={"width": width, "height": 900})
    order = comparison.reference.argsort(descending=True).tolist()
    page.locator("input[type=range]").focus()
    for place, i in enumerate(order[1:], 2):
        page.keyboard.press("ArrowRight")
        assert page.locator("output").inner_text() == f"sample {i} · {place} of 4"
        value = float(comparison.reference[i])
        assert page.locator(".fv-title").inner_text().startswith(f"λ₁ = {float(f'{value:.3g}'):g} — ")
        assert comparison.said[i] in page.locator(".fv-sub").inner_text()
    assert page.locator(".fv-row").count() == 15
    assert page.locator(".fv-conv path").count() >= 5
    assert fits(page)
    page.locator("summary", has_text="Table: sample").click()
    assert page.locator(".fv-tables tbody tr").first.is_visible()
    page.locator(".fv-help summary").click()
    assert "¼ · Δ² · L_h²" in page.locator(".fv-formulas").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator(".fimviz b", has_text="x").count() == page.locator(".fv-name b", has_text="x").count()
    assert page.locator(".fimviz script").count() == 0, "a class name is text"


def test_marks_stand_where_the_numbers_are(comparison, opened):
    page = opened(comparison)
    rows = {
        row.get_attribute("data-method"): row.locator(".fv-times").inner_text() for row in page.locator(".fv-row").all()
    }
    i = int(comparison.reference.argmax())
    for name in ("L1", "L4", "lower-pair"):
        ratio = float(comparison.methods[name].value[i] / comparison.reference[i])
        assert float(rows[name].removeprefix("×")) == pytest.approx(ratio, rel=0.06)
    best = min(float(comparison.methods[f"L{k}"].value[i] / comparison.reference[i]) for k in range(1, 7))
    assert f"the best formula is ×{float(f'{best:.2g}'):g} above the truth" in page.locator(".fv-title").inner_text()


def test_rungs_are_chosen_by_click_and_keyboard_and_open_their_waterfall(comparison, opened):
    page = opened(comparison)
    assert chosen(page) == "L5"
    assert page.locator(".fv-fall").is_visible()
    page.locator(".fv-row[data-method=L6]").click()
    assert chosen(page) == "L6"
    assert page.locator(".fv-what").inner_text().startswith("L6 = ½ · ‖W‖² · L_h²")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert chosen(page) == "L4"
    assert page.evaluate("document.activeElement.dataset.method") == "L4"
    page.keyboard.press("Home")
    assert chosen(page) == "exact"
    assert not page.locator(".fv-fall").is_visible()
    assert "Cost:" in page.locator(".fv-what").inner_text()
    page.keyboard.press("End")
    assert chosen(page) == "lower-trace"


def test_waterfall_is_walked_by_keyboard_and_unfolds(comparison, opened):
    page = opened(comparison)
    steps = page.locator(".fv-steps [role=option]")
    folded = steps.count()
    page.locator(".fv-fold").focus()
    page.keyboard.press("Enter")
    assert steps.count() == len(comparison.layers) + 1 > folded
    page.locator(".fv-steps [role=option][tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator(".fv-formula").inner_text().startswith(f"{comparison.layers[1].name}, linear: ×")
    page.keyboard.press("End")
    assert page.locator(".fv-formula").inner_text().startswith("softmax")
    bound = 10 ** float(comparison.methods["L5"].log10[0])
    last = steps.last.locator(".fv-r").inner_text()
    assert float(last.replace("·10", "e").translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789"))) == pytest.approx(
        bound, rel=0.06
    )
    assert page.locator(".fv-profile .cursor").count() == 1
    page.locator(".fv-profile svg").hover(position={"x": 60, "y": 50})
    assert page.locator(".fv-formula").inner_text().startswith(f"{comparison.layers[0].name}, ")


@pytest.mark.parametrize("width", [1400, 480])
def test_all_samples_show_their_distribution(comparison, opened, width):
    page = opened(comparison, viewport={"width": width, "height": 900})
    button = page.get_by_role("button", name="all samples")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    assert "in the median" in page.locator(".fv-title").inner_text()
    assert page.locator(".fv-marks .fv-box").count() == 15
    assert page.locator(".fv-marks .fv-here").count() == 15
    ratio = (comparison.methods["L2"].value / comparison.reference).median()
    said = page.locator(".fv-row[data-method=L2]").get_attribute("title")
    assert "in the median" in said
    assert float(ratio) > 1
    before = page.locator(".fv-here").last.get_attribute("d")
    page.locator("input[type=range]").focus()
    page.keyboard.press("End")
    assert page.locator(".fv-here").last.get_attribute("d") != before
    assert fits(page)
    page.get_by_role("button", name="this sample").click()
    assert page.locator(".fv-marks .fv-box").count() == 0


@pytest.mark.parametrize("classes", [2, 11, 1000])
@pytest.mark.parametrize("width", [1400, 900, 480])
def test_any_number_of_classes_fits(opened, classes, width):
    page = opened(compared(classes, n=2, names=[LONG] * classes), viewport={"width": width, "height": 900})
    assert fits(page)


def test_far_bounds_break_the_axis_and_reasons_are_said(opened):
    result = compared(n=2)
    for name, far in (("L4", 58.0), ("L5", 412.0), ("L6", float("nan"))):
        result = changed(result, name, torch.full((2,), far, dtype=torch.float64), "no <i>bound</i>" * (far != far))
    for width in (1400, 480):
        page = opened(result, viewport={"width": width, "height": 900})
        assert "broken at //" in page.locator(".fv-axis").inner_text()
        assert page.locator(".fv-row[data-method=L5] .fv-value").inner_text() == "1.00·10⁴¹²"
        assert page.locator(".fv-row[data-method=L6] .fv-why").inner_text() == "no <i>bound</i>"
        assert "NaN" not in page.locator(".fimviz").inner_html()
        assert fits(page)
        page.locator(".fv-row[data-method=L6]").click()
        assert "no value here" in page.locator(".fv-detail h4").inner_text()
        page.get_by_role("button", name="all samples").click()
        if width == 1400:  # where values stand beside the marks
            values = [box.bounding_box() for box in page.locator(".fv-value:not(:empty)").all()]
            boxes = [box.bounding_box() for box in page.locator(".fv-marks path[d$=Z]").all()]
            assert max(b["x"] + b["width"] for b in boxes) < min(v["x"] for v in values)


def test_numbers_that_do_not_exist_leave_gaps(opened):
    result = compared(n=3)
    result.methods["exact"].value[:] = torch.tensor([torch.nan, 0.0, 1.0])
    result.methods["lanczos"].value[2] = torch.nan
    page = opened(result)
    page.locator("input[type=range]").focus()
    for key in ("Home", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
        assert "NaN" not in page.locator(".fimviz").inner_html()
    page.get_by_role("button", name="all samples").click()
    assert "NaN" not in page.locator(".fimviz").inner_html()
    assert "2 without a positive value" in page.locator(".fv-sub").inner_text()


def test_deep_networks_scroll_inside_their_panel(opened):
    result = compared(n=1)
    steps = tuple(dataclasses.replace(result.layers[1], name=f"features.denseblock4.denselayer{i}.conv2",
                                      log10_bound=0.07 * (i + 1), log10_gain=0.07) for i in range(430))  # fmt: skip
    result = dataclasses.replace(result, layers=steps)
    page = opened(result, viewport={"width": 480, "height": 900})
    assert page.locator(".fv-steps [role=option]").count() == 431
    assert page.locator(".fv-steps").bounding_box()["height"] <= 290
    page.locator(".fv-steps [role=option]").first.focus()
    page.keyboard.press("End")
    box, row = page.locator(".fv-steps").bounding_box(), page.locator(".fv-steps [role=option]").last.bounding_box()
    assert box["y"] - 1 <= row["y"] <= box["y"] + box["height"]
    assert fits(page)


def test_black_boxes_have_no_ladder(opened):
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 3)
    box = fv.BlackBox(lambda batch: model(torch.tensor(batch)).detach().numpy())
    page = opened(fv.compare_bounds(box, torch.rand(2, 6), probes=10))
    assert page.locator(".fv-row").count() == 2
    assert "of blackbox" in page.locator(".fv-title").inner_text()
    assert not page.locator(".fv-fall").is_visible()


def test_dark_mode(comparison, opened):
    page = opened(comparison, color_scheme="dark")
    shade = "part => getComputedStyle(document.querySelector(part)).color.match(/\\d+/g).slice(0, 3).map(Number)"
    assert min(page.evaluate(shade, ".fv-title")) > 200
    fill = "getComputedStyle(document.querySelector('.fv-marks circle')).fill.match(/\\d+/g).slice(0, 3).map(Number)"
    assert min(page.evaluate(fill)) > 200


def untraceable():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 6))

        def forward(self, x):
            return self.layers(x if float(x.detach().sum()) < 0 else 3 * x)

    torch.manual_seed(0)
    return fv.compare_bounds(Odd(), torch.rand(2, 1, 8, 8), probes=20)


def test_a_reason_is_said_once_and_a_rung_with_a_value_is_open(opened):
    result = untraceable()
    page = opened(result)
    why = {name: page.locator(f".fv-row[data-method={name}] .fv-why").inner_text() for name in ("L4", "L5", "L6")}
    assert why == {"L4": result.reasons["L4"], "L5": "none, as for L4", "L6": "none, as for L4"}
    first = int(result.reference.argmax())
    values = {f"L{k}": float(result.methods[f"L{k}"].value[first]) for k in (1, 2, 3)}
    assert chosen(page) == min(values, key=values.get)
    assert page.locator(".fv-undrawn").inner_text().startswith("Not drawn: blackbox")


@pytest.mark.parametrize("width", [1400, 480])
def test_a_head_of_zeros_has_nothing_to_compare_with(opened, open_page, tmp_path, width):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 6))
    for part in model[-1].parameters():
        part.data.zero_()
    result = fv.compare_bounds(model, torch.rand(2, 1, 8, 8), probes=20)
    path = result.save(tmp_path / "zero.html")
    page = open_page(path, ".fv-row", viewport={"width": width, "height": 900})
    page.wait_for_function("document.querySelector('.fv-title').textContent")
    for name in ("this sample", "all samples"):
        page.get_by_role("button", name=name).click()
        title = page.locator(".fv-title").inner_text()
        assert title.startswith("λ₁ is 0")
        assert title.endswith("nothing to compare with")
        assert page.locator(".fv-marks .tick").count() == 0
        assert not page.locator(".fv-conv").is_visible()
        for word in ("NaN", "Infinity"):
            assert word not in page.locator(".fimviz").inner_html()
        for row in page.locator(".fv-row").all()[:9]:
            row.click()
        assert "Infinity" not in page.locator(".fimviz").inner_html()
        assert fits(page)
