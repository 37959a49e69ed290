"""What nbval does not see: that the stored notebooks are whole, small, and read well without a kernel."""

import contextlib
import io
import itertools
from pathlib import Path

import nbformat
import pytest

import fimviz as fv
from fimviz.views.kit.inputs import short
from fimviz.views.perturbation import view as perturbation
from tests.lessons.exercises import LESSONS, SOLUTIONS, asks, read

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def ignored(cell):
    return "nbval-ignore-output" in cell.metadata.get("tags", [])


@pytest.mark.parametrize("path", [*NOTEBOOKS, *SOLUTIONS], ids=lambda p: p.stem)
def test_stored_notebook(path):
    # three photographs, at most, beside the code of a view; in lessons predictions and networks to draw for
    assert path.stat().st_size < (900_000 if path in SOLUTIONS else 650_000)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run from top to bottom"
    compared = 0
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type in ("stream", "execute_result", "display_data")
            assert output.get("name") != "stderr"
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
            compared += not ignored(cell)
    assert compared > 0, "numbers for nbval to compare"


@pytest.mark.parametrize(
    "path", [*NOTEBOOKS, *SOLUTIONS, *LESSONS.glob("*.ipynb")], ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_every_view_is_followed_by_its_numbers(path):
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    for view, after in itertools.pairwise(cells):
        if path.parent == LESSONS and asks(view):
            continue  # its answer stands in the solutions alone
        if any("text/html" in output.get("data", {}) for output in view.outputs):
            assert ".numbers()" in after.source, f"nothing tests what this view shows: {view.source}"
            assert after.outputs
            assert not ignored(after)


def test_a_view_that_draws_another_curve_fails_its_notebook(monkeypatch):
    """½ε²λ drawn as measured: the cell behind the view, whose output nbval compares, prints other numbers."""
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    cells = {cell.id: cell for cell in notebook.cells}
    names = {"fv": fv}

    def printed(cell):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(cells[cell].source, names)
        return out.getvalue()

    digits, spectrum, view, digest = "cell-01", "cell-03", "cell-05", "numbers-3"
    printed(digits)
    printed(spectrum)
    stored = cells[digest].outputs[0].text
    assert printed(view) + printed(digest) == stored
    drawn = perturbation._direction

    def predicted(shown, inputs, walk, i, k):
        return drawn(shown, inputs, walk, i, k) | {"kl": short(walk.quadratic[i], 4)}

    monkeypatch.setattr(perturbation, "_direction", predicted)
    assert printed(view) + printed(digest) != stored


def test_there_are_notebooks():
    assert NOTEBOOKS
