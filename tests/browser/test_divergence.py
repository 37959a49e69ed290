"""The divergence view in a real browser, offline."""

import numpy as np
import pytest
import torch
from torch import nn

import fimviz as fv
from fimviz.views.kit.module import module_source


@pytest.fixture(scope="module")
def results():
    images, labels = fv.zoo.digits()
    return [fv.cckl(fv.zoo.load(name), images[:40], labels[:40]) for name in ("digits-resnet", "digits-resnet-robust")]


def place_of(page):
    return int(page.locator(".fv-example[aria-selected=true]").get_attribute("data-place"))


@pytest.mark.parametrize("width", [1400, 900, 480])
def test_driven_by_keyboard(results, open_page, tmp_path, width):
    result = results[0]
    path = result.save(tmp_path / "d.html", against={"<b>robust</b>": results[1]}, name="standard")
    page = open_page(path, ".fv-hist svg", viewport={"width": width, "height": 900})
    assert page.locator(".fv-hist svg").count() == 3
    assert page.locator(".fv-median").count() == 6
    assert page.locator(".fv-dist li").first.inner_text().startswith("■ standard: median ")
    assert "<b>robust</b>: median " in page.locator(".fv-dist li").nth(1).inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # the map: its cells say their class pair, arrows move over the diagonal
    labels = sorted(result.labels.unique().tolist())
    cell = page.locator(f".fv-heat button[data-a='{labels[2]}'][data-b='{labels[1]}']")
    cell.click()
    page.keyboard.press("ArrowRight")
    assert page.locator(".fv-heat button[aria-pressed=true]").get_attribute("data-b") == str(labels[3])
    a, b = result.net.classes[labels[2]], result.net.classes[labels[3]]
    assert page.locator(".fv-pairname").inner_text().startswith(f"{a} → {b}: KL = ")
    page.get_by_label("What the map shows").select_option("g2")
    said = page.locator(".fv-heat button[aria-pressed=true]").get_attribute("aria-label")
    value = float(said.split("G2 ")[1].split(",")[0].replace("−", "-"))
    assert value == pytest.approx(result.by_class["g2"].values[labels[2], labels[3]], rel=6e-3)
    # its examples, from the smallest KL up
    page.locator(".fv-example[aria-selected=true]").focus()
    page.keyboard.press("End")
    place = place_of(page)
    cells = (result.labels[result.i] == labels[2]) & (result.labels[result.j] == labels[3])
    assert float(result.kl[place]) == float(result.kl[cells].max())
    # the line, by arrows
    page.locator("input[type=range]").focus()
    page.keyboard.press("End")
    step = page.locator(".fv-step").inner_text()
    i, j = int(result.i[place]), int(result.j[place])
    assert f"the model says {result.net.classes[int(result.logits[j].argmax())]}" in step
    page.keyboard.press("ArrowLeft")
    path = result.path(i, j, steps=20)
    kl = float(page.locator(".fv-step").inner_text().split("KL is ")[1].split(" nats")[0].replace("−", "-"))
    assert kl == pytest.approx(float(path.kl[19]), rel=6e-3)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_drawn_chart_moves_the_line(results, open_page, tmp_path):
    page = open_page(results[0].save(tmp_path / "d.html"), ".fv-hist svg", viewport={"width": 1400, "height": 1000})
    svg = page.locator(".fv-charts svg")
    box = svg.bounding_box()
    svg.click(position={"x": box["width"] - 21, "y": 60})
    assert page.locator("input[type=range]").input_value() == "20"
    assert float(svg.locator(".cursor").get_attribute("x1")) == pytest.approx(box["width"] - 20, abs=1)
    # halfway the canvas holds the mean of both images
    page.locator("input[type=range]").fill("10")
    i, j = (
        int(v)
        for v in page.evaluate("[...document.querySelectorAll('figcaption')].map(f => f.textContent.split(' ').pop())")[
            ::2
        ]
    )
    pixels = page.evaluate(
        "[...document.querySelector('.fv-moved canvas').getContext('2d').getImageData(0, 0, 8, 8).data]"
        ".filter((_, k) => k % 4 === 0)"
    )
    expected = 255 * (results[0].images[i] + results[0].images[j])[0].flatten() / 2
    np.testing.assert_allclose(pixels, expected, atol=1.5)


def test_classes_without_a_line_say_so(results, open_page, tmp_path):
    result = results[0]
    i, j = int(result.i[0]), int(result.j[0])
    page = open_page(result.save(tmp_path / "d.html", pairs=[(i, j)]), ".fv-hist svg")
    page.locator(f".fv-heat button[data-a='{int(result.labels[j])}'][data-b='{int(result.labels[i])}']").click()
    assert "view(pairs=[(i, j)])" in page.locator(".fv-examples").inner_text()
    assert page.locator(".fv-line").is_hidden()
    page.locator(f".fv-heat button[data-a='{int(result.labels[i])}'][data-b='{int(result.labels[j])}']").click()
    assert page.locator(".fv-line").is_visible()


@pytest.mark.parametrize(("classes", "shape"), [(1000, (3, 32, 32)), (2, (1, 8, 8)), (11, (30,))])
def test_other_models(open_page, tmp_path, classes, shape):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes))
    names = [f"a class whose name is longer than forty characters, {k}" for k in range(classes)]
    net = fv.Classifier(model, classes=names)
    r = fv.cckl(net, torch.rand(6, *shape), torch.arange(6) * (classes // 2) % classes)
    page = open_page(r.save(tmp_path / "d.html"), ".fv-hist svg", viewport={"width": 480, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator(".fv-line svg, .fv-line canvas").count() >= 2


def test_pure_functions(open_page, results, tmp_path):
    page = open_page(results[0].save(tmp_path / "d.html"), ".fv-hist svg")
    source = module_source("divergence/classpairs.js")
    code = f"import(URL.createObjectURL(new Blob([{source!r}], {{type: 'text/javascript'}})))"
    said = page.evaluate(f"""async () => {{ const m = await {code};
      return [[12.3, 0.123, -1.26, 1e-9, 12345, 0, null].map(m.brief),
              m.shade(0, [-1, 1], true)[0], m.shade(null, [], true)[0], m.shade(0, [1, 2], false)[0]]; }}""")
    assert said[0] == ["12", ".12", "−1.3", "10⁻⁹", "10⁴", "0", ""]
    assert said[1:] == ["rgb(236,229,224)", "transparent", "color-mix(in srgb, currentColor 4.0%, transparent)"]
