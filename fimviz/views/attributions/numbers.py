"""What the attribution view prints and draws: see `fimviz.views.kit.shown`."""

from __future__ import annotations

from collections.abc import Iterator

from fimviz.views.kit.numbers import fixed
from fimviz.views.kit.shown import Page, Row, cell, rows, table, words


def numbers(page: Page) -> Iterator[Row]:
    """The title, what stands under the maps of the chosen sample, and the table of all."""
    data = page.data
    samples = data["samples"]
    yield from rows("title", "all", {"title": words(data["title"])})
    s = samples[max(0, min(len(samples) - 1, page.state["sample"]))]
    said = {"prediction": words(s["prediction"]), "λ₁": cell(s["norm"]), "chance": cell(data["chance"][0], fixed)}
    yield from rows("sample", f"sample {s['index']}", said)
    for one in ({"name": "v₁", **s["vector"]}, *s["maps"]):
        yield from rows("colours", one["name"], {"end": cell(one["scale" if data["kind"] == "series" else "limit"])})
    names = ("cosine", "rank", "gap")
    head = [text for m in samples[0]["maps"] for text in (f"{m['name']}: cosine", "ρ", "misses")]
    lines = [
        (s["index"], [words(s["target"]), *(cell(m[name], fixed) for m in s["maps"] for name in names)])
        for s in samples
    ]
    yield from table("cosine and rank correlation of every sample", ("class explained", *head), lines)
