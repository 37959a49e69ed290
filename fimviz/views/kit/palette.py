"""The colours of classes and of lines, the same in the pages as in plotly's figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

_COLORS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
PALETTE: tuple[str, ...] = tuple(_COLORS["classes"])
ACCENT, WARN, GREY = str(_COLORS["accent"]["light"]), str(_COLORS["warn"]), str(_COLORS["grey"])
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
        return GREY  # in the pages a variable that follows the theme
    place = c if order is None else order.index(c) if c in order else -1
    if 0 <= place < len(PALETTE):
        return PALETTE[place]
    turn = 137.508 * (place if place >= 0 else len(order or ()) + c)
    return f"hsl({turn % 360:.2f},45%,46%)"


def faded(color: str, opacity: float) -> str:
    """A colour that lets through what is behind it."""
    red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"
