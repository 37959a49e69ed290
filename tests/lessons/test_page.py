"""Pages and slides of lessons hold all they need."""

import re

import nbformat
import pytest

from fimviz.lessons import predict
from fimviz.lessons.__main__ import main
from fimviz.lessons.page import page, slides

v4 = nbformat.v4


def shown(figure):
    return v4.new_output("execute_result", {"text/html": figure.html(), "text/plain": repr(figure)})


@pytest.fixture
def lesson(tmp_path):
    """A notebook of given cells as a file."""

    def write(*cells, name="lesson.ipynb"):
        nbformat.write(v4.new_notebook(cells=[*cells]), tmp_path / name)
        return tmp_path / name

    return write


def test_a_lesson_as_a_page_and_as_slides(lesson):
    question = predict("How many?", answer=3)
    hidden = {"jupyter": {"source_hidden": True}}
    path = lesson(
        v4.new_markdown_cell("# A lesson on $F$\n\nWith *words*."),
        v4.new_markdown_cell(
            "## Part\n\n$$\\lambda_1 \\le \\tfrac14 \\lVert w \\rVert^2$$\n\n| a | b |\n|---|---|\n| 1 | 2 |"
        ),
        v4.new_code_cell("x = 1  # <one>", outputs=[v4.new_output("stream", text="1 < 2\n")]),
        v4.new_code_cell("predict(...)", metadata=hidden, outputs=[shown(question)]),
        v4.new_markdown_cell("**Exercise.**"),
        v4.new_code_cell("F = ...  # ✎ build it\n\ncheck(F)", metadata={"tags": ["solution"]}),
        v4.new_code_cell("predict(...)", metadata=hidden, outputs=[shown(predict("And now?", answer=4))]),
    )
    for make in (page, slides):
        made = make(path)
        assert "<title>A lesson on F</title>" in made
        assert made.count("<math ") == 2
        assert "$" not in re.sub(r"<script.*?</script>|<style.*?</style>", "", made, flags=re.S)
        assert not re.search(r"https?://", made)
        assert "1 &lt; 2" in made
        assert "predict(" not in re.sub(r"<script.*?</script>", "", made, flags=re.S)
        assert "Exercise: replace each" in made
        assert made.count("<div data-fimviz=") == 2
        assert made.count(".fv-predict {") == 1, "one sheet for all views"
    assert '<a href="#s1">Part</a>' in page(path)
    assert "Slide 3 of 3: Part" in slides(path)


def test_what_follows_a_prediction_is_folded_until_the_next_text(lesson):
    said = [v4.new_output("stream", text="It is 3.\n")]
    path = lesson(
        v4.new_code_cell("before", outputs=said),
        v4.new_code_cell("predict(...)", outputs=[shown(predict("How many?", answer=3))]),
        v4.new_code_cell("after", outputs=said),
        v4.new_code_cell("and_after"),
        v4.new_markdown_cell("Text."),
        v4.new_code_cell("later", outputs=said),
    )
    for make in (page, slides):
        (folded,) = re.findall(r'<details class="later">(.*?)</details>', make(path), re.S)
        assert "after" in folded
        assert "and_after" in folded, "one fold for all"
        assert "It is 3." in folded
        assert "later" not in folded


def test_words_break_and_tables_do_not(lesson):
    said = [v4.new_output("stream", text=text) for text in ("It is 3.\nAnd 4.", "a   b\n1   2", "  b\n1 2")]
    made = page(lesson(*(v4.new_code_cell("x", outputs=[one]) for one in said)))
    assert re.findall(r'<pre class="said( words)?"', made) == [" words", "", ""]


def test_names_of_functions_stand_apart(lesson):
    made = page(lesson(v4.new_markdown_cell("$2 \\log p - \\log(q)$ and $x$")))
    functions = re.findall(r'lspace="(.*?)" rspace="(.*?)">(\w+)</mo>', made)
    assert functions == [("0.167em", "0.167em", "log"), ("0em", "0em", "log")]
    assert "<mi>x</mi>" in made


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (v4.new_markdown_cell("$\\nonesuch{x}$"), r"'\\nonesuch{x}' has \nonesuch"),
        (v4.new_markdown_cell("$x^a^b$"), "is not understood"),
        (v4.new_markdown_cell("![a](https://example.org/a.png)"), "cell 1 loads 'https://example.org/a.png'"),
        (
            v4.new_code_cell(
                "1", outputs=[v4.new_output("display_data", {"text/html": "<script src='//x.org/y.js'></script>"})]
            ),
            "cell 1 loads '//x.org/y.js'",
        ),
    ],
)
def test_what_a_page_cannot_carry_is_refused(lesson, cell, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        page(lesson(cell))


def test_the_command_builds_a_folder(lesson, tmp_path, capsys):
    lesson(v4.new_markdown_cell("# One"), name="1.ipynb")
    lesson(v4.new_markdown_cell("# Two [there](https://example.org)"), name="2.ipynb")
    main(["build", str(tmp_path), "--out", str(tmp_path / "out")])
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["1-slides.html", "1.html", "2-slides.html", "2.html"]
    assert "2-slides.html" in capsys.readouterr().out
    assert "<h1>Two" in (tmp_path / "out" / "2.html").read_text("utf-8")


def test_the_command_says_where_it_cannot_write(lesson, tmp_path, capsys):
    (tmp_path / "taken").touch()
    with pytest.raises(SystemExit):
        main(["build", str(lesson(v4.new_markdown_cell("# One"))), "--out", str(tmp_path / "taken")])
    assert "taken': File exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "words"),
    [("none", "no file or folder"), ("empty", "no notebook in the folder"), ("a.txt", "ends in .ipynb")],
)
def test_the_command_says_what_it_cannot_find(tmp_path, capsys, source, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").touch()
    with pytest.raises(SystemExit):
        main(["build", str(tmp_path / source)])
    assert words in capsys.readouterr().err
