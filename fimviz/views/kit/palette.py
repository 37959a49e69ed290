"""The colours of classes and of lines, the same in the pages as in plotly's figures."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

_SOURCE = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
PALETTE: tuple[str, ...] = tuple(json.loads(re.search(r"PALETTE = (\[[^\]]*\])", _SOURCE)[1]))  # type: ignore[index]
OTHERS = "#888888"  # stands in plotly for the pages' variable, which follows the theme
_RANKED = 64  # classes beyond which a result is not about a class


def class_order(probabilities: Tensor) -> list[int] | None:
    """The classes that predictions (n, K) are mostly about, where K classes are more than there are colours."""
    if probabilities.shape[1] <= len(PALETTE):
        return None
    mass = probabilities.nan_to_num().sum(0)
    return mass.argsort(descending=True, stable=True)[:_RANKED].tolist()


def class_color(c: int, order: Sequence[int] | None = None) -> str:
    """The colour of a class, as `classColor` in palette.js."""
    if c < 0:
        return OTHERS
    place = c if order is None else order.index(c) if c in order else -1
    if 0 <= place < len(PALETTE):
        return PALETTE[place]
    turn = 137.508 * (place if place >= 0 else len(order or ()) + c)
    return f"hsl({turn % 360:.2f},45%,46%)"
