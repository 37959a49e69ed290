"""Live views within other people's widgets, in a real JupyterLab: boxes, tabs, links, `interact` and `Output`.

And the playground, beside its Python; it shares their kernel.
"""

import ast
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("jupyterlab", reason="JupyterLab is absent: pip install 'fimviz[lab]'")
expect = pytest.importorskip("playwright.sync_api").expect
from tests.browser.lab import ASK, PATIENCE, call, opened, write_notebook  # noqa: E402

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "08_among_other_widgets.ipynb"
MADE = """
import ipywidgets as W
import torch
import fimviz as fv
torch.set_num_threads(1)
images, labels = fv.zoo.digits()
net = fv.zoo.load("digits-mlp")
s = fv.spectrum(net, images[:4], labels=labels[:4], k=2)
paths = fv.trace_margins(net, images[:3], targets="runner-up", verify=False)
found = fv.explore(net, images[:6], labels[:6], detail=1, include=[])
def views():
    return [s.widget(), paths.widget(), found.widget()]
"""
BOXES = [
    "W.HBox(views()[:2])",
    "W.HBox([*views()[2:], W.Button(description='beside')])",
    "W.VBox(views())",
    "W.GridBox(views()[:2], layout=W.Layout(grid_template_columns='auto auto'))",
    "W.Tab(views()[:2])",
    "W.Accordion(views()[:1], selected_index=0)",
]
PLAYGROUND = "play = fv.playground(net, images[:3], labels[:3]).widget()\nplay"
CELLS = """() => {
  const notebook = jupyterapp.shell.currentWidget.content;
  return [notebook.activeCellIndex, notebook.mode, notebook.widgets.map(c => c.model.id + c.model.type)];
}"""
SEEN = "all => all.filter(e => e.checkVisibility()).map(e => e.getBoundingClientRect().width)"


@pytest.fixture(scope="module")
def boxes(lab, chromium):
    expect.set_options(timeout=PATIENCE)
    taught = [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    write_notebook(lab.root / "boxes.ipynb", MADE, *BOXES, *taught, PLAYGROUND)
    page, complaints = lab.page(chromium)
    yield opened(page, "boxes.ipynb")
    page.context.close()
    assert complaints == []


def output(page, at):
    """The output of a cell, brought into sight: the notebook draws those that are."""
    page.evaluate(
        """async at => {
          const notebook = jupyterapp.shell.currentWidget.content;
          await notebook.scrollToItem(at);
        }""",
        at,
    )
    area = page.locator(".jp-Cell").nth(at).locator(".jp-OutputArea").first
    area.scroll_into_view_if_needed()
    return area


def widths(area):
    """The widths of the views that are in sight, once all are drawn."""
    area.locator(".fimviz h3:visible").first.wait_for()
    return area.locator(".fimviz").evaluate_all(
        "all => all.filter(e => e.checkVisibility()).map(e => e.getBoundingClientRect().width)"
    )


@pytest.mark.parametrize("at", range(len(BOXES)), ids=lambda at: BOXES[at])
def test_views_take_their_share_of_a_box(boxes, at):
    area = output(boxes, 1 + at)
    room = area.evaluate("e => e.getBoundingClientRect().width")
    found = widths(area)
    beside = 2 if at in (0, 3) else 1
    assert len(found) == {0: 2, 1: 1, 2: 3, 3: 2, 4: 1, 5: 1}[at]
    assert min(found) > 0.75 * room / beside - 60, "none is squeezed"
    scrolled = area.locator(".jupyter-widgets").first.evaluate("e => e.scrollWidth - e.clientWidth")
    assert scrolled <= 1, "nothing is cut"
    if "Tab" in BOXES[at]:
        area.locator(".lm-TabBar-tab").nth(1).click()
        expect(area.locator(".fimviz:visible h3").first).to_contain_text("turns into")
        assert min(widths(area)) > 0.75 * room


def test_the_notebook_among_other_widgets(boxes):
    """What it teaches, by hand: `jslink`, `observe`, `interact` and `Output`."""
    linked, words, shown, captured = (output(boxes, 1 + len(BOXES) + at) for at in (1, 3, 5, 7))
    output(boxes, 2 + len(BOXES))
    expect(linked.locator(".fimviz h3")).to_have_count(2)
    call(boxes, ASK, ["slider.value = 0.03", "0"])
    for view in linked.locator(".fimviz").all():
        expect(view.locator(".fv-slider output")).to_have_text("ε = 0.03")
    linked.locator(".fv-zero").last.click()
    expect(linked.locator(".fimviz").first.locator(".fv-slider output")).to_have_text("ε = 0")
    linked.locator("[role=option]").nth(2).click()
    place = call(boxes, ASK, ["", "a.index"])
    expect(linked.locator(".fimviz").last.locator(".fv-sub")).to_contain_text(f"Sample {place}:")
    output(boxes, 4 + len(BOXES))
    expect(words.locator(".widget-html-content")).to_contain_text(f"Digit {place}, moved by")
    output(boxes, 6 + len(BOXES))
    expect(shown.locator(".fv-direction figcaption")).to_have_text("direction v₁")
    shown.locator("select").nth(1).select_option("2")
    expect(shown.locator(".fv-direction figcaption")).to_have_text("direction v₂")
    output(boxes, 8 + len(BOXES))
    captured.get_by_role("button", name="show", exact=True).click()
    expect(captured.locator(".fimviz:not(.fimviz-still) h3")).to_have_count(1)
    assert min(widths(captured)) > 500


def test_a_playground_in_a_notebook(boxes):
    """It follows Python and is followed; pen and keys draw, and no key reaches the notebook; a sample comes back."""
    area = output(boxes, boxes.locator(".jp-Cell").count() - 1)
    title, chooser = area.locator(".fv-title"), area.locator("select[data-fv=sample]")
    expect(title).to_contain_text("The network says")
    call(boxes, ASK, ["play.sample = 2", "0"])
    said = ast.literal_eval(call(boxes, ASK, ["", "play.numbers().text.iloc[0]"]))
    expect(title).to_have_text(said)
    canvas = area.locator("canvas[data-fv=draw]")
    canvas.click(position={"x": 10, "y": 10})
    cells = boxes.evaluate(CELLS)
    for key in ("ArrowRight", "ArrowDown", " ", "Enter", "a", "d", "d", "Backspace", "m"):
        boxes.keyboard.press(key)
    assert boxes.evaluate(CELLS) == cells
    expect(title).not_to_have_text(said)
    expect(area.locator(".fv-pixel")).to_contain_text("of v₁ is here")
    chooser.select_option("2")
    expect(title).to_have_text(said)
    chooser.select_option("1")
    expect(title).not_to_have_text(said)
    assert call(boxes, ASK, ["", "play.sample"]) == "1"
