"""What `numbers()` says is what the page shows: every cell of every table, and the title."""

import pytest

import fimviz as fv
from fimviz.training import TrainingHistory
from fimviz.views import ROOMS
from tests.explorer.test_explorer import batch, model
from tests.views.test_display import made
from tests.views.test_training import record

TABLES = """() => {
  for (const d of document.querySelectorAll("details")) d.open = true;
  const rows = (d) => [...d.querySelectorAll("tr")].map((r) => [...r.cells].map((c) => c.textContent));
  const table = (d) => [d.querySelector("summary").textContent, rows(d)];
  const all = () => [...document.querySelectorAll(".fv-tables details")].map(table);
  return new Promise((done) => setTimeout(() => done(all()), 50)); // a long table is made when it is opened
}"""


def cells(page):
    """(caption, first cell, column, text) of all cells of the tables of a page."""
    return sorted(
        (caption, item, name, text)
        for caption, (head, *lines) in page.evaluate(TABLES)
        for item, *line in lines
        for name, text in zip(head[1:], line, strict=True)
    )


def check(page, shown):
    tables = shown[shown.part.str.startswith("Table")]
    said = sorted(tables[["part", "item", "name", "text"]].itertuples(index=False, name=None))
    assert cells(page) == said
    title = page.inner_text(".fv-title")
    for text in shown[(shown.part == "title") & shown.name.isin(["λ₁", "title", "length", "λ₁ as it is"])].text:
        assert text in title


def test_numbers_are_those_of_the_page(opened):
    images, _ = batch(n=6)
    net = fv.Classifier(model())
    rooms = set()
    for result in (*made(net, images), TrainingHistory({"run": (record(0), record(9, cckl=0.25))}, {"run": 8})):
        figure = result.view()
        page = opened(figure, wait=".fv-tables summary")
        if figure.widget_class._module.startswith("explorer"):
            for tab in page.query_selector_all("[role=tab]"):
                tab.click()
        check(page, figure.numbers())
        rooms.add(figure.widget_class._module)
        page.close()
    assert rooms == {f"{room}/view.js" for room in ROOMS.values()} - {"playground/view.js"}, "which has its own test"


def test_numbers_of_a_playground_are_what_its_page_computes(opened):
    """Two engines of one network: Python carries out what is in the payload, the page does so in JavaScript."""
    pair = {name: fv.zoo.load(name) for name in ("digits-mlp", "digits-mlp-robust")}
    figure = fv.playground(pair, fv.zoo.digits()[0][:4])
    widget = figure.widget()
    page = opened(figure, wait=".fv-tables summary")
    assert page.inner_text(".fv-title") == figure.numbers().text.iloc[0]
    for sample in (3, 1, -1):
        page.locator("select[data-fv=sample]").select_option(str(sample))
        widget.sample = sample
        shown = widget.numbers()
        heard = "title => document.querySelector('.fv-heard').textContent === title"
        page.wait_for_function(heard, arg=shown.text.iloc[0])
        check(page, shown)
        called = f"sample {sample}" if sample >= 0 else "an empty sheet"
        for which, (_, said) in enumerate(shown[shown.part == called].groupby("item", sort=False)):
            side, said = page.locator(".fv-net").nth(which), said.set_index("name")
            norm = float(side.locator("[data-fv=lambda1]").get_attribute("data-value"))
            assert norm == pytest.approx(said.value["λ₁"], rel=1e-9)
            assert side.locator(".fv-who").inner_text().endswith(f"{said.text['says']} p = {said.text['probability']}")
            for way, text in zip(("+v₁", "−v₁"), side.locator(".fv-worst .fv-turn").all_inner_texts(), strict=True):
                far = f" at ε = {said.text[f'{way} ε']}" if f"{way} ε" in said.index else ""
                verb = " makes it" if far else ":"
                assert text.split("\n")[0] == f"{way}{verb} {said.text[f'{way} makes it']}{far}"


def test_numbers_follow_what_the_reader_moves(opened):
    images, labels = batch(n=6)
    s = fv.spectrum(fv.Classifier(model()), images, labels=labels, k=2)
    widget = s.widget()
    page = opened(s)
    page.keyboard.press("Tab")
    page.click("[data-rank='1']")
    page.click(".fv-sign")
    page.click(".fv-zero")
    widget.set_state({"direction": 1, "flipped": True, "epsilon": 0.0})
    check(page, widget.numbers())
    assert "Table: along v₂" in set(widget.numbers().part)
