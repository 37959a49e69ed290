"""The view of local accuracy in a real browser, offline."""

import pytest

import fimviz as fv


@pytest.mark.parametrize("width", [1400, 480])
def test_the_slider_tells_the_numbers(open_page, tmp_path, width):
    images, labels = fv.zoo.digits()
    budgets = [0.01, 0.03, 0.1]
    r = fv.local_accuracy(fv.zoo.load("digits-mlp"), images[:12], labels[:12], epsilons=budgets, steps=3)
    page = open_page(r.save(tmp_path / "l.html"), ".fv-chart svg", viewport={"width": width, "height": 900})
    assert page.locator(".fv-chart svg").count() == 2
    page.locator("input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    cells = page.locator(".fv-now").nth(1).locator("tbody tr").nth(1).locator("td").all_inner_texts()
    assert cells[0].endswith("FGSM")
    assert float(cells[1]) == pytest.approx(r.table(norm="l2").loc["fgsm", "0.03"], rel=6e-3)
    assert page.locator("output").inner_text() == "ε = 0.03"
    xs = [float(page.locator(".cursor").nth(n).get_attribute("x1")) for n in range(2)]
    assert xs[0] == xs[1] > 100
    page.locator("summary", has_text="Table: budget in L∞").click()
    assert page.locator(".fv-tables tbody tr:visible").count() == 12
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
