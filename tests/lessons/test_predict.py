"""A question keeps its answer, its guess is locked once, and what is wrong with it is said at once."""

import re

import pytest
import traitlets

from fimviz.lessons import predict


def test_the_answer_is_not_in_sight():
    figure = predict("How many?", answer=1234.5, unit="nats", why="For a reason.")
    html = figure.html()
    assert html == predict("How many?", answer=1234.5, unit="nats", why="For a reason.").html()
    shown = re.sub(r"<details>.*?</details>", "", html, flags=re.S)
    assert "1234" not in shown
    assert "1230" not in shown
    assert "reason" not in shown
    still = html[html.index("fimviz-still") : html.index("application/json")]
    assert "<details><summary>The answer</summary><p>1230 nats. For a reason.</p></details>" in still


def test_a_guess_is_locked_once():
    widget = predict("How many?", answer=3).widget()
    assert widget.guess is None
    widget.set_state({"guess": 2.5})
    assert widget.guess == 2.5
    with pytest.raises(traitlets.TraitError, match=r"guess is locked at 2\.5"):
        widget.guess = 3
    with pytest.raises(traitlets.TraitError, match="and stays"):
        widget.set_state({"guess": 4})
    assert widget.guess == 2.5
    assert "0x" not in repr(widget)
    assert widget.numbers().value.dropna().tolist() == [2.5, 3]


def test_a_guess_among_choices_is_one_of_them():
    widget = predict("Which?", answer="b", choices=["a", "b"]).widget()
    for wrong in (2, -1, 0.5, float("nan")):
        with pytest.raises(traitlets.TraitError, match="guess is"):
            widget.guess = wrong
    assert widget.numbers().text.tolist() == ["Which?"], "the answer comes with the guess"
    widget.guess = 0
    assert widget.guess == 0
    assert widget.numbers().text.tolist() == ["Which?", "a", "b"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"answer": float("inf")}, "answer is inf, expected a finite number"),
        ({"answer": "3"}, "answer is '3', expected a number"),
        ({"answer": "c", "choices": ["a", "b"]}, "expected one of the choices: 'a', 'b'"),
        ({"answer": "a", "choices": ["a"]}, "two or more, all different"),
        ({"answer": "a", "choices": "a"}, "two or more, all different"),
        ({"answer": "a", "choices": ["a", "a"]}, "two or more, all different"),
        ({"answer": 1, "unit": 3}, "unit is a int, expected text"),
        ({"answer": 1, "anser": 3}, "did you mean answer"),
    ],
)
def test_what_is_wrong_is_said(options, words):
    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        predict("How many?", **options)


def test_a_question_asks_something():
    with pytest.raises(ValueError, match="question is empty"):
        predict(" ", answer=3)


def test_markup_in_a_question_stays_text():
    html = predict("<b>x</b>?", answer="<i>", choices=["<i>", "&"], why="<script>").html()
    still = html[html.index("fimviz-still") : html.index("application/json")]
    assert "&lt;b&gt;x&lt;/b&gt;?" in still
    assert "<i>" not in still
    assert "<script>" not in still.replace('<script type="application/json">', "")
