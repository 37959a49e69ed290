"""What the divergence view prints and draws: see `fimviz.views.kit.shown`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fimviz.views.kit.numbers import fixed, near_one, number
from fimviz.views.kit.shown import Cell, Page, Row, cell, chance, rows, table, words

_SAYS = {
    "kl": "mean KL, in nats",
    "g1": "mean G1, the second-order part, in nats",
    "g2": "mean G2, the part of higher order, in nats",
    "ratio": "mean G2 ÷ mean KL: 1 where F knows nothing of it",
}


def numbers(page: Page) -> Iterator[Row]:
    """The title, the distributions, the map by class, the pairs, and the line of the chosen pair."""
    data, state = page.data, page.state
    names = data["classes"]
    yield from rows("title", "all", {"title": words(data["title"]), "summary": words(data["summary"])})
    labels = {s["index"]: names[s["label"]] for s in data["samples"]}
    pair = next((p for p in data["pairs"] if p["place"] == state["pair"]), None)
    steps = state["steps"]
    if pair:
        at = max(0, min(steps, state["position"]))
        here = {"KL": cell(pair["along"][at]), "t² G1": cell((at / steps) ** 2 * pair["g1"])}
        yield from rows("here", f"t = {fixed(at / steps)}", here | _told(pair, at, names))
    lines = [
        (model["name"], [words(d["title"]), *_quartiles(d["models"][n]), words(d["models"][n]["note"])])
        for n, model in enumerate(data["models"])
        for d in data["distributions"]
    ]
    yield from table("over all pairs", ("quantity", "lower quartile", "median", "upper quartile", "left out"), lines)
    key = state["quantity"]
    shown = [names[c] for c in data["shown"]]
    write = (near_one,) if key == "ratio" else (number, 4)
    lines = [(shown[a], [cell(v, *write) for v in row]) for a, row in enumerate(data["tables"][key])]
    yield from table(f"by class, {_SAYS[key]}", shown, lines)
    head = ("j", "from", "to", "which", "KL", "G1", "G2", "G2/KL", "½ λ₁ ‖Δ‖²", "‖Δ‖")
    yield from table("the pairs of this page", head, [(p["i"], _pair(p, labels)) for p in data["pairs"]])
    if pair:
        lines = []
        for k, kl in enumerate(pair["along"]):
            curves = [cell(v, number, 5) for v in (kl, (k / steps) ** 2 * pair["g1"])]
            lines.append((fixed(k / steps), [*curves, *_told(pair, k, names).values()]))
        caption = f"along the line from sample {pair['i']} to {pair['j']}"
        yield from table(caption, ("KL", "t² G1", "the model says", "p"), lines)


def _quartiles(of: Mapping[str, Any]) -> list[Cell]:
    low, high = of["quartiles"]
    return [cell(v, lambda _, text=text: text) for v, text in zip((low, of["median"], high), of["text"], strict=True)]


def _told(pair: Mapping[str, Any], k: int, names: list[str]) -> dict[str, Cell]:
    known = pair["p"][k] is not None
    return {"the model says": words(names[pair["says"][k]] if known else "not known"), "p": chance(pair["p"][k])}


def _pair(p: Mapping[str, Any], labels: Mapping[int, str]) -> list[Cell]:
    part = p["kl"] - p["g1"]
    ends = [(float(p["j"]), str(p["j"])), words(labels[p["i"]]), words(labels[p["j"]]), words(p["role"])]
    numbers = [cell(v, number, 5) for v in (p["kl"], p["g1"], part)]
    ratio = cell(part / p["kl"], near_one) if p["kl"] > 0 else words("–")
    return [*ends, *numbers, ratio, cell(p["limit"], number, 5), cell(p["l2"], number, 4)]
