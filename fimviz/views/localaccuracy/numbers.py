"""What the view of local accuracy prints and draws: see `fimviz.views.kit.shown`."""

from __future__ import annotations

from collections.abc import Iterator

from fimviz.views.kit.numbers import number
from fimviz.views.kit.shown import Page, Row, cell, rows, table, words

_CURVES = {
    "median": "median",
    "q25": "lower quartile",
    "q75": "upper quartile",
    "pooled": "pooled",
    "kl": "median KL",
    "length": "median ‖δ‖₂",
}
_COUNTS = {"measured": "images", "zero": "KL is 0", "failed": "failed"}


def numbers(page: Page) -> Iterator[Row]:
    """The title, what is read at the chosen budget, and the curves at every budget."""
    panels = page.data["panels"]
    yield from rows("title", "all", {"title": words(page.data["title"]), "images": cell(page.data["count"])})
    k = max(0, min(len(panels[0]["budgets"]) - 1, page.state["position"]))
    for p in panels:
        for line in p["lines"]:
            ends = {_CURVES[name]: cell(line[name][k], number, 2) for name in ("q25", "q75")}
            here = {"median": cell(line["median"][k]), **ends, "median KL": cell(line["kl"][k])}
            yield from rows(f"at ε = {p['names'][k]} in {p['norm']}", line["name"], here)
    for p in panels:
        lines = [
            (
                line["name"],
                [
                    (p["budgets"][k], name),
                    *(cell(line[curve][k]) for curve in _CURVES),
                    *((float(line[count][k]), str(line[count][k])) for count in _COUNTS),
                ],
            )
            for line in p["lines"]
            for k, name in enumerate(p["names"])
        ]
        yield from table(f"budget in {p['norm']}", ("ε", *_CURVES.values(), *_COUNTS.values()), lines)
