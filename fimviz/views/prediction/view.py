"""The prediction view: a question whose answer appears when a guess is locked."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

import traitlets

from fimviz.views.kit.figure import WARN_BYTES, Figure
from fimviz.views.kit.host import Widget
from fimviz.views.kit.numbers import number
from fimviz.views.kit.payload import Payload
from fimviz.views.kit.shown import Page, Row, cell, rows, words


def numbers(page: Page) -> Iterator[Row]:
    """The question; the guess and the answer once there is a guess, and not before."""
    data, guess = page.data, page.state["guess"]
    yield from rows("question", "all", {"question": words(data["question"])})
    if guess is not None:
        listed = data["choices"]
        said = {"guess": guess, "answer": data["answer"]}
        cells = {name: words(listed[int(v)]) if listed else cell(v) for name, v in said.items()}
        yield from rows("answer", data["unit"] or "all", cells)


class PredictionView(Widget):
    """The live prediction view."""

    _module = "prediction/view.js"
    _numbers = staticmethod(numbers)
    guess = traitlets.Float(
        None,
        allow_none=True,
        help="The locked guess: a number, or the place of a choice, from 0. None, the default, until it is locked.",
    ).tag(sync=True)

    _kept: float | None = None

    @traitlets.validate("guess")
    def _locked(self, proposal: Any) -> float | None:
        if self._kept is None and proposal.value is not None:
            self._kept = float(self.fitting("guess", proposal.value))
        elif proposal.value != self._kept:  # what comes from a page is set before it is asked for here, and undone
            raise traitlets.TraitError(f"guess is locked at {self._kept:g}, and stays")
        return self._kept


def view(question: str, answer: float, choices: Sequence[str] | None, unit: str, why: str) -> Figure:
    """The view of a question; with choices the answer is the place of one."""
    data = {"question": question, "answer": answer, "choices": choices, "unit": unit, "why": why}
    offered: dict[str, Any] = (
        {"limits": {"guess": (-1e308, 1e308)}}
        if choices is None
        else {"offered": {"guess": [float(i) for i in range(len(choices))]}}
    )
    said = f"{number(answer)} {unit}".strip() if choices is None else choices[int(answer)]
    options = "" if choices is None else f"<ul>{''.join(f'<li>{html.escape(c)}</li>' for c in choices)}</ul>"
    still = (
        f"<p><strong>Predict first: {html.escape(question)}</strong></p>{options}"
        f"<details><summary>The answer</summary><p>{html.escape(said)}. {html.escape(why)}</p></details>"
    )
    return Figure(
        widget_class=PredictionView,
        state={"payload": Payload().pack(data), "guess": None},
        setup=offered,
        still=still,
        summary=f"predict first: {question}",
        max_bytes=WARN_BYTES,
    )
