"""What the view of a reconstruction prints and draws: see `fimviz.views.kit.shown`."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fimviz.views.kit.numbers import number
from fimviz.views.kit.shown import Cell, Page, Row, cell, rows, surely, table, words


def numbers(page: Page) -> Iterator[Row]:
    """The title, the chosen image with its deviations at the number of labels drawn, and those of one label."""
    samples, draws = page.data["samples"], max(1.0, page.state["draws"])
    s = samples[max(0, min(len(samples) - 1, page.state["sample"]))]
    item = f"sample {s['index']}"
    std = [None if one is None else one / math.sqrt(draws) for one in s["one"]]
    told = sum(v is not None and g is not None and v < g for v, g in zip(std, s["guess"], strict=True))
    yield from rows("title", item, {"labels": cell(draws), "told": cell(told), "directions": cell(len(std))})
    seen = {"visible": cell(sum(v is not None for v in std)), "of": cell(page.data["size"]), "share": cell(s["share"])}
    yield from rows("sample", item, {"says": words(s["says"]), "confidence": surely(s["doubt"]), **seen})
    for k, value in enumerate(std):
        yield from rows("least standard deviations", f"v{k + 1}", {"least std": _never(value, 2)})
    lines = [
        (s["index"], (words(f"v{k + 1}"), _never(one), _never(guess), _needed(one, guess)))
        for s in samples
        for k, (one, guess) in enumerate(zip(s["one"], s["guess"], strict=True))
    ]
    head = ("direction", "least std", "guess", "labels needed")
    yield from table("least standard deviations for one label", head, lines)


def _never(value: float | None, digits: int = 3) -> Cell:
    return cell(math.inf if value is None else value, number, digits)


def _needed(one: float | None, guess: float | None) -> Cell:
    if one is None or guess is None:
        return math.inf, "∞"
    return cell(max(1, math.ceil((one / guess) ** 2)))
