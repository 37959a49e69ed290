"""The quickstart and the live explorer in a real JupyterLab: moved by hand and from Python, saved, reopened."""

import ast
import os
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("jupyterlab", reason="JupyterLab is absent: pip install 'fimviz[lab]'")
nbformat = pytest.importorskip("nbformat")
expect = pytest.importorskip("playwright.sync_api").expect
from tests.browser.lab import ASK, OPEN, PATIENCE, call, opened, write_notebook  # noqa: E402

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "01_quickstart.ipynb"
HTML = ".jp-OutputArea-output[data-mime-type='text/html']"
CELLS = """() => {
  const notebook = jupyterapp.shell.currentWidget.content;
  return {active: notebook.activeCellIndex, count: notebook.widgets.length, mode: notebook.mode,
          order: notebook.widgets.map(c => c.model.id)};
}"""
SAVE = "() => jupyterapp.commands.execute('docmanager:save')"
SESSION = "jupyterapp.shell.currentWidget.sessionContext.session"


@pytest.fixture(scope="module")
def session(lab, chromium):
    """The quickstart after "Run all cells", on a page. Its kernel has the notebook's `w`, `table` and `worst`."""
    expect.set_options(timeout=PATIENCE)
    page, complaints = lab.page(chromium)
    shutil.copy(NOTEBOOK, lab.root)
    yield opened(page, NOTEBOOK.name)
    page.context.close()
    assert complaints == []


def static_view(page):
    """That of the digits: the photograph's, above it, has one sample alone."""
    return page.locator(f"{HTML} .fimviz:has(.fv-thumb + .fv-thumb)").first


def live_view(page):
    return page.locator(".jp-OutputArea-output:not([data-mime-type='text/html']) .fimviz")


def shot(part, name):
    """A picture for a human to look at, where FIMVIZ_SHOTS names a folder for it."""
    if folder := os.environ.get("FIMVIZ_SHOTS"):
        part.evaluate("node => node.scrollIntoView({block: 'start'})")
        expect(part).to_be_in_viewport()
        part.page.wait_for_timeout(1000)  # the notebook gives heights to its cells as they come into sight
        part.evaluate("node => node.scrollIntoView({block: 'start'})")
        part.page.screenshot(path=Path(folder) / f"{name}.png")


def seen(view):
    """What moves with ε: the picture, and the words under it, beside the slider and below the charts."""
    picture = view.locator(".fv-moved canvas").evaluate("canvas => canvas.toDataURL()")
    words = [view.locator(part).inner_text() for part in (".fv-moved strong", ".fv-slider output", ".fv-read")]
    return [picture, *words]


def moves(view):
    """Move the slider from end to end with the keyboard; everything that should follow it does."""
    slider = view.locator("input[type=range]")
    slider.scroll_into_view_if_needed()
    slider.focus()
    ends = []
    for key in ("Home", "End"):
        view.page.keyboard.press(key)
        ends.append(seen(view))
    return all(low != high for low, high in zip(*ends, strict=True))


def shown_epsilon(view):
    return float(view.locator("input[type=range]").input_value())


def python_gets(page, expression, wanted):
    """Wait until an expression has a value in the kernel: what the page changes travels beside the question."""
    for _ in range(PATIENCE // 200):
        found = ast.literal_eval(call(page, ASK, ["", expression]))
        if found == wanted:
            return
        page.wait_for_timeout(200)
    raise AssertionError(f"{expression} is {found} in Python and not {wanted}")


def test_static_view_moves(session):
    view = static_view(session)
    shot(view, "lab-light")
    assert moves(view)
    assert session.locator(".fimviz-still").count() == 0, "no view stayed a still picture"


def test_static_view_keeps_its_place_while_scrolled_away(session):
    view = static_view(session)
    moves(view)
    before = seen(view)
    for last in (True, False):
        session.evaluate(
            """async last => {
              const notebook = jupyterapp.shell.currentWidget.content;
              await notebook.scrollToItem(last ? notebook.widgets.length - 1 : 0);
            }""",
            last,
        )
    view.scroll_into_view_if_needed()
    assert seen(view) == before
    assert moves(view)


def test_live_view_and_python_follow_each_other(session):
    view = live_view(session)
    assert moves(view)
    python_gets(session, "w.index == worst", True)
    python_gets(session, "w.epsilon", shown_epsilon(view))
    high = shown_epsilon(view)
    session.keyboard.press("PageDown")
    session.keyboard.press("ArrowLeft")
    assert shown_epsilon(view) < high
    python_gets(session, "w.epsilon", shown_epsilon(view))
    said = view.locator(".fv-slider output").inner_text().replace("−", "-")
    assert float(said.removeprefix("ε = ")) == pytest.approx(shown_epsilon(view), rel=5e-3)

    other = call(session, ASK, ["w.index = other = int(table['sample'].iloc[3])", "other"])
    expect(view.locator(".fv-sub")).to_contain_text(f"Sample {other}:")
    call(session, ASK, ["w.direction, w.epsilon = 1, 0.0", "0"])
    expect(view.locator(".fv-direction figcaption")).to_have_text("direction v₂")
    expect(view.locator(".fv-slider output")).to_have_text("ε = 0")

    view.locator(".fv-thumb").nth(1).click()
    view.get_by_role("button", name="Flip the sign of the direction").click()
    python_gets(session, "(w.index == table['sample'].iloc[1].item(), w.direction, w.flipped)", (True, 1, True))
    call(session, ASK, ["w.index, w.direction, w.flipped = worst, 0, False", "0"])
    expect(view.locator(".fv-direction figcaption")).to_have_text("direction v₁")


@pytest.mark.parametrize("which", [static_view, live_view])
def test_keys_stay_in_the_view(session, which):
    view = which(session)
    view.locator(".fv-thumb").nth(2).click()
    before, title = session.evaluate(CELLS), view.locator(".fv-title").inner_text()
    # in JupyterLab's command mode these move between cells, insert, delete, cut and change cells
    for key in ("ArrowDown", "ArrowUp", "ArrowRight", "ArrowRight", "j", "a", "d", "d", "x", "y", "m", "Enter"):
        session.keyboard.press(key)
    assert view.locator(".fv-title").inner_text() != title
    view.locator("input[type=range]").click()
    at = shown_epsilon(view)
    for key in ("ArrowUp", "ArrowUp", "b", "k", "Enter", "Escape"):
        session.keyboard.press(key)
    assert shown_epsilon(view) > at
    assert session.evaluate(CELLS) == before


@pytest.mark.parametrize("which", [static_view, live_view])
def test_saving_with_the_keyboard_works_in_the_view(session, which):
    view = which(session)
    view.locator("input[type=range]").click()
    before = session.evaluate(CELLS)
    session.evaluate("() => { jupyterapp.shell.currentWidget.context.model.dirty = true; }")
    session.keyboard.press("ControlOrMeta+s")
    session.wait_for_function("() => !jupyterapp.shell.currentWidget.context.model.dirty")
    for key in ("ArrowDown", "j", "a"):  # and the keys after it are the view's again
        session.keyboard.press(key)
    assert session.evaluate(CELLS) == before


def test_dark_theme(session):
    shade = "node => getComputedStyle(node).color.match(/[\\d.]+/g).slice(0, 3).map(Number)"
    title = static_view(session).locator(".fv-title")
    assert max(title.evaluate(shade)) < 60
    theme = "name => jupyterapp.commands.execute('apputils:change-theme', {theme: name})"
    try:
        call(session, theme, "JupyterLab Dark")
        session.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
        assert min(title.evaluate(shade)) > 200
        assert min(live_view(session).locator(".fv-title").evaluate(shade)) > 200
        shot(static_view(session), "lab-dark")
    finally:
        call(session, theme, "JupyterLab Light")
        session.wait_for_selector("body[data-jp-theme-light=true]", state="attached")


MARGINS = """
import time, torch, fimviz as fv
class Slow(torch.nn.Module):
    def __init__(self, own):
        super().__init__()
        self.own, self.pause = own, 0.0
    def forward(self, x):
        time.sleep(self.pause)
        return self.own(x)
images, _ = fv.zoo.digits()
slow = Slow(fv.zoo.load("digits-mlp").model)
m = fv.trace_margins(slow, images[:2], targets="runner-up", verify=False).widget()
m
"""


def test_live_margins_trace_again_stop_and_let_the_latest_win(session, lab, chromium):
    write_notebook(lab.root / "margins.ipynb", MARGINS)
    page, complaints = lab.page(chromium)
    try:
        opened(page, "margins.ipynb")
        view = live_view(page)
        status, slider = view.locator(".fv-status"), view.locator("[data-set=damping]")
        paths, stop = view.locator(".fv-targets button"), view.get_by_role("button", name="stop")
        traced = "None if m.retraced is None else round(m.retraced.settings.damping, 6)"

        def chosen():
            return round(10 ** float(slider.input_value()), 6)

        expect(status).to_contain_text("Shown")
        cells = page.evaluate(CELLS)
        slider.focus()
        page.keyboard.press("PageUp")
        expect(paths).to_have_count(2)
        first = chosen()
        assert first > 0.01
        python_gets(page, traced, first)
        expect(status).to_contain_text("Shown")

        call(page, ASK, ["slow.pause = 1.0", "0"])
        slider.focus()
        page.keyboard.press("ArrowRight")
        expect(status).to_contain_text("walking from sample")
        stop.click()
        expect(stop).to_be_disabled()
        python_gets(page, "m._latest.wait(0)", True)
        python_gets(page, traced, first)
        expect(status).to_contain_text("Not walked yet")

        slider.focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        last = chosen()
        assert last > first
        call(page, ASK, ["slow.pause = 0.0", "0"])
        expect(paths).to_have_count(3)
        python_gets(page, traced, last)
        python_gets(page, "len(m.shown)", 4)
        expect(status).to_contain_text("Shown")
        expect(stop).to_be_disabled()
        assert page.evaluate(CELLS) == cells, "no key reached the notebook"
        shot(view, "lab-margins")
    finally:
        page.context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def explorer(lab, chromium):
    """The live explorer of a notebook of its own, whose kernel has `e`, on a page."""
    expect.set_options(timeout=PATIENCE)
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "import fimviz as fv\n"
        "images, labels = fv.zoo.digits()\n"
        "e = fv.explore(fv.zoo.load('digits-mlp'), images[:12], labels[:12], detail=2, include=[]).widget()\n"
        "e"
    )
    write_notebook(lab.root / "explorer.ipynb", code)
    page, complaints = lab.page(chromium)
    opened(page, "explorer.ipynb")
    page.wait_for_selector(".fv-live")
    yield page
    page.context.close()
    assert complaints == []


def test_explorer_and_python_follow_each_other(explorer):
    view = live_view(explorer)
    call(explorer, ASK, ["e.index, e.show = 7, 'fragile'", "0"])
    expect(view.locator(".fv-title").first).to_contain_text("Sample 7,")
    expect(view.locator(".fv-count")).to_have_text("3 of 12")
    view.get_by_label("Which samples").select_option("all")
    view.get_by_label("Open a sample by its number").fill("4")
    explorer.keyboard.press("Enter")
    python_gets(explorer, "(e.index, e.show)", (4, "all"))
    expect(view.locator(".fv-title").first).to_contain_text("Sample 4,")


def test_explorer_computes_what_is_asked_for(explorer):
    view = live_view(explorer)
    call(explorer, ASK, ["e.index, e.tab = e.source.places[0], 'margins'", "0"])
    view.locator(".fv-compute:visible").click()
    view.locator(".fv-nested-margins .fv-title").wait_for()
    assert view.locator(".fv-failed:visible").count() == 0
    norms = "[round(float(v), 9) for v in e.source.first.spectrum.spectral_norm]"
    before = call(explorer, ASK, ["", norms])
    heat = view.get_by_label("Temperature, that the logits are divided by")
    heat.focus()
    explorer.keyboard.press("PageUp")
    expect(view.locator(".fv-batch")).to_contain_text(re.compile(r"temperature 1\.\d"))
    assert call(explorer, ASK, ["", norms]) != before
    said = view.locator(".fv-batch").inner_text().split("temperature ")[1]
    python_gets(explorer, f"abs(e.temperature - {said}) < 0.01", True)


def test_explorer_stops_and_says_what_failed(explorer):
    view = live_view(explorer)
    # a job that only ends when it is stopped, in the place of the margins
    slow = (
        "import time\n"
        "def endless(what, index, many, tick, check):\n"
        "    while True: tick(3, 8); time.sleep(0.05)\n"
        "e._compute = endless\n"
        "e.index, e.tab = 5, 'margins'"
    )
    call(explorer, ASK, [slow, "0"])
    view.locator(".fv-compute:visible").click()
    expect(view.locator(".fv-busy")).to_contain_text("3 of 8")
    view.locator(".fv-live .fv-stop").click()
    expect(view.locator(".fv-busy")).to_contain_text("stopped")
    python_gets(explorer, "e.wait(60)", True)
    call(explorer, ASK, ["def broken(*args): raise ValueError('no <b>margins</b> today')\ne._compute = broken", "0"])
    view.locator(".fv-compute:visible").click()
    expect(view.locator(".fv-failed:visible")).to_contain_text("no <b>margins</b> today")


def test_untrusted_notebook_shows_the_still_picture(session, lab, chromium):
    call(session, SAVE)
    notebook = nbformat.read(lab.root / NOTEBOOK.name, 4)
    notebook.cells[0].source += "\nfrom elsewhere"  # the signature of what was run here no longer fits
    nbformat.write(notebook, lab.root / "untrusted.ipynb")
    page, complaints = lab.page(chromium)
    try:
        call(page, OPEN, ["untrusted.ipynb", False])
        output = page.locator(HTML).first
        output.locator("img").scroll_into_view_if_needed()
        assert output.locator("img").evaluate("image => image.naturalWidth") > 0
        assert "trust the notebook" in output.inner_text()
        assert page.locator(".fv-slider").count() == 0
        shot(output, "lab-untrusted")
    finally:
        page.context.close()
    assert complaints == []


def test_reopened_without_a_kernel(session, lab, chromium):
    """The last test: it ends the kernel."""
    call(session, SAVE)
    call(session, "() => jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    session.evaluate("jupyterapp.shell.currentWidget.close()")
    page, complaints = lab.page(chromium)
    try:
        call(page, OPEN, [NOTEBOOK.name, False])
        assert page.evaluate(SESSION) is None
        view = static_view(page)
        assert moves(view)
        view.locator(".fv-thumb").nth(1).click()
        assert view.locator(".fv-title").inner_text().endswith("number 2 of 64 by fragility")
        assert page.evaluate(SESSION) is None
        shot(view, "lab-reopened")
    finally:
        page.context.close()
    assert complaints == []
