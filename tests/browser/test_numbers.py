"""What `numbers()` says is what the page shows: every cell of every table, and the title."""

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
    computed = {"playground"}  # in the page itself, of what is drawn there
    assert rooms == {f"{room}/view.js" for room in {*ROOMS.values()} - computed}


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
