"""The view of a reconstruction in a real browser, offline."""

import pytest

import fimviz as fv


@pytest.mark.parametrize("width", [1400, 480])
def test_labels_and_samples_by_keyboard(open_page, tmp_path, width):
    images, labels = fv.zoo.digits()
    s = fv.spectrum(fv.zoo.load("digits-resnet"), images[:6], labels=labels[:6])
    page = open_page(
        fv.reconstruction(s).save(tmp_path / "r.html"), ".fv-std svg", viewport={"width": width, "height": 900}
    )
    page.locator(".fv-thumb[aria-selected=true]").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".fv-sub").inner_text().startswith("Sample 1, ")
    page.locator("input[type=range]").focus()
    for draws in (10, 1000, 100_000):
        page.locator("input[type=range]").fill(str(len(str(draws)) - 1))
        known = int(fv.reconstruction(s, draws=draws).known[1])
        title = page.locator(".fv-title").inner_text()
        assert (f"tell {known} of 9 directions" if known else "tell no direction") in title
        assert page.locator(".fv-told").count() == known
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("summary", has_text="Table: least").click()
    assert page.locator(".fv-tables tbody tr").count() == 54
