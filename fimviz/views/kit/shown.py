"""What a view prints and draws, as a frame: read from the payload and the state that the page reads.

Each room has a function `numbers(page)` in a module of that name, which gives the rows of its view in the order of the
page and writes them as its JavaScript does: tests/browser/test_numbers.py compares both, cell by cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fimviz.views.kit.numbers import measured, number, probability
from fimviz.views.kit.payload import unpacked

if TYPE_CHECKING:
    import pandas as pd

Cell = tuple[float, str]  # a number, and as it is written


class Row(NamedTuple):
    """One number or one text of a view: where it stands, what it is of, its name, its value and what is printed."""

    part: str
    item: str
    name: str
    value: float
    text: str


class Page:
    """What the page of a view knows: its traits (`state`), the JSON value of its payload (`data`) and the arrays."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.state = state
        self.data, self._bytes = unpacked(state["payload"])

    def array(self, at: Sequence[int], kind: type[np.generic]) -> np.ndarray:
        """The numbers that [offset, length] stands for."""
        return np.frombuffer(self._bytes[at[0] : at[0] + at[1]], kind)


def frame_of(numbers: Callable[[Page], Iterator[Row]], state: Mapping[str, Any]) -> pd.DataFrame:
    """The frame of a view by its room's function and the values of its traits."""
    import pandas as pd

    return pd.DataFrame(list(numbers(Page(state))), columns=Row._fields).astype({"value": float})


def cell(value: float | None, write: Callable[..., str] = number, *options: Any) -> Cell:
    """A number of a payload, None where there is none, and as it is written."""
    known = math.nan if value is None else float(value)
    return known, write(known, *options)


def words(text: object) -> Cell:
    """A text that stands where numbers do."""
    return math.nan, str(text)


def with_error(value: float | None, error: float | None) -> Cell:
    """A number that is written with its error."""
    known, blur = (math.nan if v is None else float(v) for v in (value, error))
    return known, measured(known, blur)


def chance(p: float | None, doubt: float | None = None) -> Cell:
    """A probability, by what is missing of it where that is known."""
    if p is None:
        return words("–")
    return float(p), probability(float(p), doubt)


def surely(doubt: float | None) -> Cell:
    """The probability of a prediction, of which the rest is known."""
    return words("–") if doubt is None else chance(1 - doubt, doubt)


def rows(part: str, item: object, cells: Mapping[str, Cell]) -> Iterator[Row]:
    """Numbers of one thing by their names."""
    for name, (value, text) in cells.items():
        yield Row(part, str(item), name, value, text)


def table(caption: str, head: Sequence[str], lines: Iterable[tuple[object, Sequence[Cell]]]) -> Iterator[Row]:
    """A table of the page: its caption, the names of all columns but the first, and each line, its first cell apart."""
    for item, cells in lines:
        for name, (value, text) in zip(head, cells, strict=True):
            yield Row(f"Table: {caption}", str(item), name, value, text)
