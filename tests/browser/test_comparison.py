"""The comparison view in a real browser, offline."""

import pytest
import torch

import fimviz as fv


@pytest.fixture(scope="module")
def comparison():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 6))
    model[1].weight.data *= 5
    net = fv.Classifier(model, classes=["<b>x</b>", *"bcdef"])
    return fv.compare_bounds(net, torch.rand(4, 1, 8, 8))


@pytest.mark.parametrize("width", [1400, 900, 480])
def test_slider_changes_the_sample_by_keyboard(comparison, open_page, tmp_path, width):
    page = open_page(comparison.save(tmp_path / "c.html"), viewport={"width": width, "height": 900})
    page.wait_for_selector(".fv-ladder")
    order = comparison.reference.argsort(descending=True).tolist()
    page.locator("input[type=range]").focus()
    for i in order[1:]:
        page.keyboard.press("ArrowRight")
        assert page.locator("output").inner_text() == f"sample {i}"
        value = float(comparison.reference[i])
        assert page.locator(".fv-title").inner_text().startswith(f"λ₁ = {float(f'{value:.3g}'):g} — ")
    assert page.locator(".fv-ladder text").count() >= 14
    assert page.locator(".fv-conv path").count() >= 4
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("summary", has_text="Table: the values").click()
    assert page.locator(".fv-tables tbody tr").first.is_visible()
    assert page.locator(".fimviz b").count() == 0
