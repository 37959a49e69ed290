"""Exercises are their solutions with blanks: python -m tests.lessons writes notebooks/lessons/ from …/solutions/."""

import copy
import re
from pathlib import Path

import nbformat

LESSONS = Path(__file__).parents[2] / "notebooks" / "lessons"
SOLUTIONS = sorted((LESSONS / "solutions").glob("*.ipynb"))
BLANK = re.compile(r"^(\s*(?:[\w, ]+ = |return ))\S.*?(  # ✎ .*)$", re.M)


def exercise(solution):
    """A notebook whose cells tagged "solution" have `...` in every line with a ✎, and no output."""
    notebook = copy.deepcopy(solution)
    for cell in notebook.cells:
        if "solution" in cell.metadata.get("tags", []):
            cell.source, found = BLANK.subn(r"\1...\2", cell.source)
            assert found, f"an exercise without a blank: {cell.source}"
            cell.outputs, cell.execution_count = [], None
    return notebook


def read(path):
    return nbformat.read(path, as_version=4)
