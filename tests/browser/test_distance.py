"""The distance view in a real browser, offline."""

from dataclasses import replace
from itertools import pairwise

import pytest

import fimviz as fv
from fimviz.distance import AdversarialDistance, ModelDistance
from fimviz.views.distance.numbers import shares


@pytest.fixture(scope="module")
def result():
    images, labels = fv.zoo.digits()
    names = "<b>first</b>", "a second one with a name of forty characters"
    nets = {name: fv.zoo.load("digits-mlp") for name in names}
    return fv.adversarial_distance(nets, images[:10], labels[:10], method="norms", steps=6, restarts=1)


@pytest.mark.parametrize("width", [1400, 480])
def test_budget_image_order_and_model_move_what_they_should(result, open_page, tmp_path, width):
    page = open_page(result.save(tmp_path / "d.html"), ".fv-band svg", viewport={"width": width, "height": 900})
    first = next(iter(result.models.values()))
    assert page.locator(".fv-proven").count() == page.locator(".fv-broken").count() == int(first.correct.sum())
    assert page.locator(".fv-missed").count() == int((~first.correct).sum()) == 1
    first_row = "() => Number(document.querySelector('.fv-each g text').textContent)"
    wrong = int((~first.correct).nonzero()[0])
    assert page.evaluate(first_row) == wrong
    page.locator(".fv-which").focus()
    page.keyboard.press("Home")
    assert page.inner_text(".fv-words").startswith(f"sample {wrong}, label {first.labels[wrong]}: the model says")
    page.keyboard.press("End")
    last = int(first.attacked.argmax())
    assert page.inner_text(".fv-words").startswith(f"sample {last}, ")
    page.select_option("select", "sample")
    assert page.evaluate(first_row) == 0
    row = page.locator(".fv-each g").nth(3).bounding_box()
    page.mouse.click(row["x"] + 60, row["y"] + row["height"] / 2)
    assert page.inner_text(".fv-words").startswith("sample 3, ")
    page.locator(".fv-much").focus()
    page.keyboard.press("Home")
    accuracy = f"{100 * float(first.correct.double().mean()):.3g} %"
    now = ".fv-now tbody tr:first-child td"
    assert page.locator(now).nth(2).inner_text() == accuracy
    page.keyboard.press("End")
    assert page.locator(now).nth(2).inner_text() == "0 %"
    page.locator("input[name=model]").nth(1).check()
    assert page.inner_text(".fv-title").startswith("a second one")
    assert page.locator(".fimviz b").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_radii_of_deep_networks_are_next_to_nothing_and_named_apart(result, open_page, tmp_path):
    models = {}
    for name, m in result.models.items():
        radius, attack = 1e-40 * m.certificate.radius, m.certificate.attack
        attack = attack * 0.0336 / m.attacked[m.correct].min()  # the axis begins at 0.03, beside what stands for 0
        models[name] = ModelDistance(m.net, replace(m.certificate, radius=radius, attack=attack), m.labels)
    deep = AdversarialDistance(models)
    page = open_page(deep.save(tmp_path / "d.html"), ".fv-band svg", viewport={"width": 480, "height": 900})
    assert "next to nothing is proven of half of 9 right answers, below ε = " in page.inner_text(".fv-title").lower()
    marks = page.locator(".fv-each text.tick[text-anchor=middle]")
    assert marks.first.text_content() == "≈ 0"
    boxes = sorted((mark.bounding_box() for mark in marks.all()), key=lambda box: box["x"])
    assert all(a["x"] + a["width"] < b["x"] for a, b in pairwise(boxes))


def test_shares_are_those_of_the_result(result):
    for name, m in result.models.items():
        band = result.accuracy(epsilon=[0, 0.1, 0.2, 0.4])
        own = {"correct": m.correct.tolist(), "certified": m.certified.tolist(), "attacked": m.attacked.tolist()}
        for row in band[band.model == name].itertuples():
            assert shares(own, row.epsilon) == (row.certified, row.attacked)
