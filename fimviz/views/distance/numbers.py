"""What the view of an adversarial distance prints and draws: see `fimviz.views.kit.shown`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from fimviz.views.kit.numbers import number, percent
from fimviz.views.kit.shown import Cell, Page, Row, cell, rows, table, words


def numbers(page: Page) -> Iterator[Row]:
    """The title, robust accuracy at the budget, the image told of, and both tables."""
    data, state = page.data, page.state
    models = data["models"]
    for m in models:  # JSON has no ∞, which stands for an attack that was not found
        m["attacked"] = [math.inf if a is None else a for a in m["attacked"]]
    chosen = next((m for m in models if m["name"] == state["model"]), models[0])
    yield from rows("title", chosen["name"], {"title": words(chosen["title"]), "summary": words(chosen["summary"])})
    yield from rows("here", "L2", {"budget ε": cell(state["epsilon"])})
    for m in models:
        low, high = shares(m, state["epsilon"])
        yield from rows("at ε", m["name"], {"certified": (low, percent(low)), "attacked": (high, percent(high))})
    if state["sample"] in chosen["places"]:
        i = chosen["places"].index(state["sample"])
        yield from rows("image", state["sample"], dict(zip(_HEAD, _of(chosen, i), strict=True)))
    several = len(models) > 1
    lines = [
        (m["name"] if several else place, ((words(place),) if several else ()) + _of(m, i))
        for m in models
        for i, place in enumerate(m["places"])
    ]
    yield from table("both sides of every image", (*(("sample",) if several else ()), *_HEAD), lines)
    head = [f"{m['name'] + ', ' if several else ''}{side}" for m in models for side in ("at least", "at most")]
    budgets = [(number(e), [(s, percent(s)) for m in models for s in shares(m, e)]) for e in data["grid"]]
    yield from table(f"share of the images that are {data['kept']} within ε", head, budgets)


_HEAD = ("label", "prediction", "certified radius", "by", "smallest attack", "to", "attack ÷ certificate", "why")


def shares(m: dict[str, Any], epsilon: float) -> tuple[float, float]:
    """The shares of the images that are certified, and that no attack changes, at a budget, as `shares` in view.js."""
    kept = list(zip(m["correct"], m["certified"], m["attacked"], strict=True))
    low = sum(right and (c > epsilon or epsilon == 0) for right, c, _ in kept)
    return low / len(kept), sum(right and a > epsilon for right, _, a in kept) / len(kept)


def _of(m: dict[str, Any], i: int) -> tuple[Cell, ...]:
    certified, attacked = m["certified"][i], m["attacked"][i]
    ratio = attacked / certified if certified else math.inf if attacked else math.nan
    return (
        words(m["labels"][i]),
        words(m["predictions"][i]),
        cell(certified),
        words(m["methods"][i] or "–"),
        cell(attacked),
        words(m["attack_predictions"][i]),
        cell(ratio),
        words(m["reasons"][i]),
    )
