"""An executed notebook as nbconvert's HTML, in a real browser with the network off."""

import subprocess
import sys

import pytest

nbformat = pytest.importorskip("nbformat")
nbconvert = pytest.importorskip("nbconvert")

# what nbconvert's own template loads: require.js for widgets, MathJax for formulas
TEMPLATE = ("https://cdnjs.cloudflare.com/ajax/libs/require.js/", "https://cdnjs.cloudflare.com/ajax/libs/mathjax/")
CELLS = [
    f"import sys\nassert sys.prefix == {sys.prefix!r}, 'the kernel is of another environment'",
    """import fimviz as fv
s = fv.spectrum(fv.zoo.load("digits-mlp"), fv.zoo.digits().images[:6], k=3)
s""",
    "s",
]


@pytest.fixture(scope="module")
def executed(tmp_path_factory, jupyter_env):
    """The notebook, run by nbconvert's command as a reader would."""
    path = tmp_path_factory.mktemp("nbconvert") / "views.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS]), path)
    command = [sys.executable, "-m", "nbconvert", "--execute", "--inplace", "--to", "notebook", path.name]
    options = ["--ExecutePreprocessor.kernel_name=python3", "--ExecutePreprocessor.timeout=600"]
    run = subprocess.run([*command, *options], cwd=path.parent, env=jupyter_env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return path


@pytest.fixture
def exported(executed, open_page):
    def export(**options):
        path = executed.with_name(f"{options.get('theme', 'light')}.html")
        page, _ = nbconvert.HTMLExporter(**options).from_filename(str(executed))
        path.write_text(page, encoding="utf-8")
        return open_page(path, foreign=TEMPLATE)

    return export


def seen(view):
    """What moves with ε: the picture, and the words under it, beside the slider and below the charts."""
    picture = view.locator(".fv-moved canvas").evaluate("canvas => canvas.toDataURL()")
    words = [view.locator(part).inner_text() for part in (".fv-moved strong", ".fv-slider output", ".fv-read")]
    return [picture, *words]


def test_the_view_lives_in_an_export(exported):
    page = exported()
    view = page.locator(".fimviz").first
    view.locator("input[type=range]").focus()
    page.keyboard.press("Home")
    low = seen(view)
    page.keyboard.press("End")
    high = seen(view)
    assert all(a != b for a, b in zip(low, high, strict=True))
    view.get_by_role("button", name="ε = 0").click()
    assert view.locator(".fv-slider output").inner_text() == "ε = 0"
    title = view.locator(".fv-title").inner_text()
    view.locator(".fv-thumb").nth(2).click()
    assert view.locator(".fv-title").inner_text() != title
    assert page.locator(".fimviz-still").count() == 0, "no view stayed a still picture"


def test_two_cells_with_the_same_result_live_apart(exported):
    page = exported()
    views = [page.locator(".fimviz").nth(i) for i in (0, 1)]
    assert page.locator(".fimviz").count() == 2
    first, second = map(seen, views)
    assert first == second
    for moved, other in ((1, 0), (0, 1)):
        before = [seen(view) for view in views]
        views[moved].locator("input[type=range]").focus()
        page.keyboard.press("PageDown")
        assert seen(views[moved]) != before[moved]
        assert seen(views[other]) == before[other]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_export_has_nbconverts_theme(exported, theme):
    page = exported(theme=theme)
    shade = "node => getComputedStyle(node).color.match(/[\\d.]+/g).slice(0, 3).map(Number)"
    color = page.locator(".fv-title").first.evaluate(shade)
    assert min(color) > 200 if theme == "dark" else max(color) < 60
