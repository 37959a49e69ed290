"""Exercises are their solutions with blanks, hold no answers, and their blanks fail with a sentence."""

import itertools
import re
from unittest.mock import MagicMock

import nbformat
import pytest
from nbclient import NotebookClient

from fimviz.lessons import check
from tests.lessons.exercises import LESSONS, SOLUTIONS, asks, exercise, read, tagged

NAMES = [path.name for path in SOLUTIONS]


class Anything(dict):
    """Names that a cell takes from cells before it: a blank has to be seen before any of them is used."""

    def __missing__(self, name):
        if name in ("range", "print"):
            raise KeyError(name)
        return MagicMock(name=name)


def tasks(notebook):
    return [cell for cell in notebook.cells if tagged(cell, "solution")]


def test_there_are_four_lessons():
    assert [name[0] for name in NAMES] == ["1", "2", "3", "4"]
    assert sorted(path.name for path in LESSONS.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_exercises_fit_their_solutions(name):
    """If this fails: python -m tests.lessons."""
    assert read(LESSONS / name) == exercise(read(LESSONS / "solutions" / name))


@pytest.mark.parametrize("name", NAMES)
def test_every_exercise_is_checked_and_holds_no_answer(name):
    solved, blank = tasks(read(LESSONS / "solutions" / name)), tasks(read(LESSONS / name))
    assert 3 <= len(blank) <= 4
    for before, after in zip(solved, blank, strict=True):
        assert re.search(r"^check\.\w+\(", after.source, re.M)
        assert "..." not in before.source
        for line, other in zip(before.source.split("\n"), after.source.split("\n"), strict=True):
            assert ("✎" in line) == (line != other)
            assert "✎" not in other or re.search(r"(=|return) \.\.\.  # ✎ \S", other)


@pytest.mark.parametrize("name", NAMES)
def test_every_blank_fails_with_a_sentence(name):
    for cell in tasks(read(LESSONS / name)):
        with pytest.raises(check.Mistake, match=r"still a blank: replace the \.\.\. by your answer"):
            exec(compile(cell.source, name, "exec"), Anything(check=check))


@pytest.mark.parametrize("name", NAMES)
def test_no_answer_is_in_sight_before_a_guess(name):
    """Of a prediction the solutions alone print the answer; what else comes before the next text is folded."""
    solved, cells = read(LESSONS / "solutions" / name).cells, read(LESSONS / name).cells
    for cell, after in itertools.pairwise(solved):
        assert tagged(after, "answer") == asks(cell), "the answer is printed, for nbval to compare"
        assert not tagged(after, "answer") or after.outputs[0].text.strip()
    assert not any(tagged(cell, "answer") for cell in cells)
    for at in [i for i, cell in enumerate(cells) if asks(cell)]:
        for cell in itertools.takewhile(lambda cell: cell.cell_type == "code", cells[at + 1 :]):
            assert not cell.outputs or cell.metadata.jupyter.outputs_hidden


@pytest.mark.parametrize("name", NAMES)
def test_every_lesson_has_its_parts(name):
    notebook = read(LESSONS / name)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert text.startswith(f"# Lesson {name[0]} · ")
    assert "**After 45 minutes you can**" in text
    assert "## Five-minute summary" in text
    minutes = [int(m) for m in re.findall(r"^## \d · .*\((\d+) minutes\)$", text, re.M)]
    assert sum(minutes) + 5 == 45
    asked = [cell for cell in notebook.cells if asks(cell)]
    assert len(asked) >= 2
    for cell in asked:
        assert cell.metadata.jupyter.source_hidden, "the explanation stands in the source"
        assert re.search(r"answer=[a-z_]\w*,\n", cell.source), "the answer was computed before, and is not typed"
    assert any("photographs()" in cell.source for cell in notebook.cells)


def test_a_kernel_shows_the_sentence_alone():
    source = "from fimviz.lessons import check\nF = ...\ncheck.two_classes(F, None, None)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, timeout=120, allow_errors=True, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert output.output_type == "error"
    (said,) = output.traceback
    assert said == "✗ lambda1 is still a blank: replace the ... by your answer, then run this cell again."
