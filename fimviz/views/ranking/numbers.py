"""What the ranking view prints and draws: see `fimviz.views.kit.shown`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from fimviz.views.kit.numbers import fixed, number
from fimviz.views.kit.shown import Cell, Page, Row, cell, rows, table, words


def numbers(page: Page) -> Iterator[Row]:
    """The title, the verdict on the chosen number, the models, and the table of correlations."""
    data = page.data
    yield from rows("title", "all", {"title": words(data["title"]), "summary": words(data["summary"])})
    chosen = next((c for c in data["columns"] if c["name"] == page.state["column"]), data["columns"][0])
    yield from rows("verdict", chosen["title"], {"in words": words(chosen.get("verdict", ""))})
    for model in data["models"]:
        yield from rows("models", model["name"], {c["short"]: _of(model, c) for c in data["columns"]})
    head = ("claims", "models", "ρ", "low", "high", "p", "pairs in the wrong order", "in words")
    lines = [(c["title"], _correlation(c)) for c in data["columns"] if c["kind"] != "measured"]
    yield from table("the correlations", head, lines)


def _of(model: Mapping[str, Any], column: Mapping[str, Any]) -> Cell:
    value = model[column["name"]]
    if value == "inf":
        return math.inf, "none found"
    if value == "-inf":
        return -math.inf, "−∞"  # the logarithm of a bound of 0
    return cell(value, fixed if column["log"] == "log10" else number)


def _correlation(c: Mapping[str, Any]) -> tuple[Cell, ...]:
    claim = ("less is fragile", "nothing", "more is fragile")[c["expected"] + 1]
    rho = [cell(c[name], fixed) for name in ("spearman", "low", "high")]
    p = words("–") if c["p_value"] is None else cell(c["p_value"], number, 2)
    wrong: Cell = (c["discordant"], f"{c['discordant']} of {c['pairs']}") if c["expected"] else words("–")
    return words(claim), (float(c["models"]), str(c["models"])), *rho, p, wrong, words(c["verdict"])
