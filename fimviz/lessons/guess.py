"""Predict first, then see: a question that keeps its answer until a guess is locked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fimviz._options import named_options, real
from fimviz.views.kit.figure import Figure
from fimviz.views.prediction.view import view


@named_options
def predict(
    question: str, *, answer: Any, choices: Sequence[str] | None = None, unit: str = "", why: str = ""
) -> Figure:
    """Ask before showing: the answer appears when the reader has locked a guess, which then stays.

    Give the answer as it was computed, so that it cannot be read in the cell: `answer=result.spectral_norm.max()`.
    The view works in a notebook's output and in a page without a kernel; a live one is `.widget()`, whose trait `guess`
    says what was locked.

    Args:
        question: what is asked, in a sentence.
        answer: a finite number, or one of the choices.
        choices: the texts to choose from, two or more, all different; None to ask for a number.
        unit: of the number, in words or symbols.
        why: what explains the answer, shown with it.

    Raises:
        ValueError: the question is empty; the answer is no finite number, or not among the choices; fewer than two
            choices, or two alike.

    Example:
        >>> predict("How many nats is a fair coin's surprise?", answer=math.log(2), unit="nats")
        Figure(predict first: How many nats is a fair coin's surprise?)
    """
    for name, text in {"question": question, "unit": unit, "why": why}.items():
        if not isinstance(text, str):
            raise TypeError(f"{name} is a {type(text).__name__}, expected text")
    if not question.strip():
        raise ValueError("question is empty, expected a sentence")
    if choices is None:
        value = real("answer", answer)
        if not math.isfinite(value):
            raise ValueError(f"answer is {value}, expected a finite number: nobody could enter it")
        return view(question, value, None, unit, why)
    texts = [choices] if isinstance(choices, str) else [str(choice) for choice in choices]
    if len(set(texts)) < len(texts) or len(texts) < 2:
        raise ValueError(f"choices are {texts}, expected two or more, all different")
    if str(answer) not in texts:
        raise ValueError(f"answer is {str(answer)!r}, expected one of the choices: {', '.join(map(repr, texts))}")
    return view(question, texts.index(str(answer)), texts, unit, why)
