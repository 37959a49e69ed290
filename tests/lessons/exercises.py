"""Exercises are their solutions with blanks: python -m tests.lessons writes notebooks/lessons/ from …/solutions/."""

import copy
import re
from pathlib import Path

import nbformat

LESSONS = Path(__file__).parents[2] / "notebooks" / "lessons"
SOLUTIONS = sorted((LESSONS / "solutions").glob("*.ipynb"))
BLANK = re.compile(r"^(\s*(?:[\w, ]+ = |return ))\S.*?(  # ✎ .*)$", re.M)


def asks(cell):
    """Whether a cell is a prediction."""
    return cell.source.startswith("asked = predict(")


def tagged(cell, tag):
    return tag in cell.metadata.get("tags", [])


def exercise(solution):
    """A notebook for students: no answer is in it, and none in sight.

    Cells tagged "answer", which open a prediction, are left out. Those tagged "solution" have `...` in every line with
    a ✎, and no output. What comes after a prediction is folded until the next text, as in the pages: JupyterLab shows
    it when the cell is run.
    """
    notebook = copy.deepcopy(solution)
    notebook.cells = [cell for cell in notebook.cells if not tagged(cell, "answer")]
    asked = False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            asked = False
        elif tagged(cell, "solution"):
            cell.source, found = BLANK.subn(r"\1...\2", cell.source)
            assert found, f"an exercise without a blank: {cell.source}"
            cell.outputs, cell.execution_count = [], None
        elif asked and cell.outputs:
            cell.metadata.setdefault("jupyter", {})["outputs_hidden"] = True
            for output in cell.outputs:
                if html := output.get("data", {}).get("text/html"):
                    output.data["text/html"] = f" \n{html}"  # JupyterLab shows the first line of what is folded
        asked |= asks(cell)
    return notebook


def read(path):
    return nbformat.read(path, as_version=4)
