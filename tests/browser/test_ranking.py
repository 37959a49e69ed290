"""The ranking view in a real browser, offline."""

import re

import pytest
import torch

import fimviz as fv
from fimviz.ranking import compare_models
from fimviz.views.ranking import view as ranking


@pytest.fixture(scope="module")
def comparison():
    torch.manual_seed(0)
    images, labels = fv.zoo.digits()
    nets = {"<b>mlp</b> with a name of more than forty characters": fv.zoo.load("digits-mlp")}
    nets |= {name: fv.zoo.load(f"digits-{name}") for name in ("mlp-robust", "vgg", "vgg-robust")}
    return compare_models(nets, images[:40], labels[:40], local_images=1, attack_images=8, attack_steps=10)


@pytest.mark.parametrize("width", [1400, 900, 480])
def test_the_number_is_chosen_by_keyboard(comparison, open_page, tmp_path, width):
    page = open_page(comparison.save(tmp_path / "c.html"), ".fv-scatter svg", viewport={"width": width, "height": 900})
    ranks = comparison.correlations.set_index("column")
    radios = page.locator("input[type=radio]")
    assert radios.count() == len(ranks)
    page.locator("input[value=weights_only]").focus()
    for column in ranks.index[1:5]:
        page.keyboard.press("ArrowDown")
        assert page.locator("input:checked").get_attribute("value") == column
        row = ranks.loc[column]
        assert f"{row.discordant} of {row.pairs} pairs" in page.locator(".fv-verdict").inner_text()
        assert page.locator(".fv-wrongpair").count() == row.discordant
        assert page.locator(".fv-model").count() == 4
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator(".fv-models tbody tr").count() == 4
    box = page.locator(".fv-models")
    assert box.evaluate("b => b.scrollWidth <= b.clientWidth + 1"), "no number is cut"
    assert box.evaluate("b => b.scrollHeight <= b.clientHeight + 1")
    assert page.locator(".fv-models tbody td").first.is_visible()
    page.locator("summary", has_text="Table: the correlations").click()
    assert page.locator(".fv-tables tbody tr").count() == len(ranks)
    assert page.locator(".fimviz b").count() == 0
    assert "Four models cannot show a ranking" in page.locator(".fv-sub").inner_text()


def test_two_models_have_no_winner_and_ties_are_named(comparison, open_page, tmp_path):
    two = comparison.take(["vgg", "vgg-robust"])
    page = open_page(two.save(tmp_path / "c.html"), ".fv-scatter svg")
    title = page.locator(".fv-title").inner_text()
    assert title.startswith("Two models are a single pair: ")
    assert "closest" not in title
    page.locator("input[value=accuracy]").check()
    assert page.locator(".fv-verdict").inner_text().startswith("Known for 2 models")
    ranks = comparison.correlations[lambda c: c.pairs > 0]
    share = ranks.discordant / ranks.pairs
    tied = (share == share.min()).sum()
    assert ("come equally close" in ranking.title(comparison)) == (tied > 1)


def test_two_copies_on_a_page_choose_apart(comparison, open_page, tmp_path):
    html = comparison.view().html()
    path = tmp_path / "two.html"
    path.write_text(f"<meta charset=utf-8>{html}<hr>{html}", encoding="utf-8")
    page = open_page(path, ".fv-scatter svg")
    page.wait_for_function("document.querySelectorAll('.fv-scatter svg').length === 2")
    page.locator("input[value=trace]").first.check()
    assert page.locator("input[value=trace]").first.is_checked()
    assert page.locator("input:checked").count() == 2


def test_pure_functions(comparison, open_page, tmp_path):
    page = open_page(comparison.save(tmp_path / "c.html"), ".fv-scatter svg")
    from fimviz.views.kit.module import module_source

    code = f"import(URL.createObjectURL(new Blob([{module_source('ranking/view.js')!r}], {{type: 'text/javascript'}})))"
    said = page.evaluate(f"""async () => {{ const m = await {code};
      const points = [{{value: 1, attack: 1}}, {{value: 2, attack: 2}}, {{value: 3, attack: 0.5}}];
      const text = [m.power(60.5), m.power(-30), m.power(0), m.power(400)];
      const far = [80.3, 81].map((value, i) => ({{ name: "", value, attack: i, low: i, high: i }}));
      const size = {{ width: 600, height: 300, label: "" }};
      const drawn = m.scatter({{ ...size, points: far, column: {{ title: "L5", log: "log10" }} }});
      return [drawn, ...text, m.wrongPairs(points, 1), m.wrongPairs(points, -1)]; }}""")
    assert re.findall("[235]·10⁸⁰", said.pop(0)) == ["2·10⁸⁰", "3·10⁸⁰", "5·10⁸⁰"]
    assert said == ["3.2×10⁶⁰", "10⁻³⁰", "1", "10⁴⁰⁰", [[1, 0]], [[0, 2], [1, 2]]]
