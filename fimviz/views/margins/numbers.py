"""What the margin view prints and draws: see `fimviz.views.kit.shown`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fimviz.views.kit.numbers import number, rounded
from fimviz.views.kit.shown import Cell, Page, Row, cell, chance, rows, surely, table, words


def numbers(page: Page) -> Iterator[Row]:
    """The title, the path matrix, where the chosen path is, all its points, all paths, and shielding by damping."""
    data, state = page.data, page.state
    names = {**dict(enumerate(data["classes"])), -1: "others"}
    t = next((t for t in data["traces"] if t["id"] == state["trace"]), data["traces"][0])
    sample = next(s for s in data["samples"] if s["index"] == t["sample"])
    met = words("–" if t["hit"] < 0 else names[t["hit"]])
    length = cell(t["length"], rounded, t["error"] or 0)
    ends = {"from": words(names[t["source"]]), "toward": words(names[t["target"]]), "meets": met}
    yield from rows("title", f"sample {t['sample']}", {**ends, "length": length})
    said = {"says": words(names[sample["prediction"]]), "probability": surely(sample["doubt"])}
    lengths = {"error": cell(t["error"], number, 2), "ends apart": cell(t["distance"]), "floor": cell(t["bound"])}
    yield from rows("sample", f"sample {t['sample']}", {**said, **lengths, "L2": cell(t["l2"])})
    matrix = data["matrix"]
    for source, counts, shielded in zip(matrix["rows"], matrix["counts"], matrix["shielded"], strict=True):
        for hit, count, aimed in zip(matrix["columns"], counts, shielded, strict=True):
            if count:
                of = f"{names[source]} → {'none' if hit < 0 else names[hit]}"
                yield from rows("matrix", of, {"paths": cell(count), "shielded": cell(aimed)})
    here = max(0.0, min(t["length"], state["position"]))
    yield from rows("here", f"length {number(here)}", _along(t, here, names))
    p = [_floats(row) for row in t["p"]]
    head = ("length", *(f"p({names[c]})" for c in t["shown"]), "gap", "λ_max", "√(δᵀFδ)", "L2", "set by")
    lines = [(i, _point(t, p, i)) for i in range(len(t["fr"]))]
    yield from table("this path, point by point", head, lines)
    head = (
        "from",
        "toward",
        "meets",
        "status",
        "length",
        "error",
        "floor",
        "ratio",
        "L2",
        "steps",
        "method",
        "damping",
    )
    yield from table("all paths of this page", head, [(q["sample"], _path(q, names)) for q in data["traces"]])
    points = [(number(one["damping"]), _shielding(one)) for one in data["points"]]
    head = ("step", "shielded %", "low", "high", "of all from", "to", "paths", "of")
    yield from table("shielding and damping", head, points)


def _point(t: Mapping[str, Any], p: Sequence[np.ndarray], i: int) -> list[Cell]:
    set_by = [cell(t["natural"][i - 1]), cell(t["step"][i - 1]), words(t["pace"][i - 1])] if i else [words("")] * 3
    norm = t["norm"][i] if i < len(t["norm"]) else None
    gap = t["gap"][i] if i < len(t["gap"]) else None
    own = [chance(float(row[i])) for row in p]
    return [cell(t["fr"][i], number, 4), *own, cell(gap, number, 4), cell(norm, number, 4), *set_by]


def _path(t: Mapping[str, Any], names: Mapping[int, str]) -> list[Cell]:
    met = "–" if t["hit"] < 0 else names[t["hit"]]
    ends = [words(names[t["source"]]), words(names[t["target"]]), words(met), words(t["status"])]
    length = [cell(t["length"], number, 5), cell(t["error"], number, 2), cell(t["bound"], number, 5)]
    ratio = cell(t["length"] / t["bound"] if t["bound"] else None, number, 4)
    steps = (float(len(t["pace"])), str(len(t["pace"])))
    made = [words(t["settings"]["method"]), cell(t["settings"]["damping"])]
    return [*ends, *length, ratio, cell(t["l2"], number, 4), steps, *made]


def _shielding(point: Mapping[str, Any]) -> list[Cell]:
    shares = [point["shielded"], point["low"], point["high"], *point["possible"]]
    percents = [cell(None if v is None else 100 * v) for v in shares]
    counts = [(float(point[name]), str(point[name])) for name in ("successful", "attempted")]
    return [cell(point["step"]), *percents, *counts]


def _along(t: Mapping[str, Any], length: float, names: Mapping[int, str]) -> dict[str, Cell]:
    """What the model says after a length, between points along the shortest way: the rule of `pathAt` in paths.js."""
    p, fr = np.array([_floats(row) for row in t["p"]]), t["fr"]
    said = p[:, -1]
    if len(fr) > 1 and length < fr[-1]:
        i = min(int(np.searchsorted(fr, length, "right")) - 1, len(fr) - 2)
        said = _geodesic(p[:, i], p[:, i + 1], (length - fr[i]) / ((fr[i + 1] - fr[i]) or 1.0))
    best = t["shown"].index(t["hit"]) if length >= t["length"] and t["hit"] >= 0 else None
    if best is None:  # the first of the largest, and the source where it is one of them
        known = [v if c >= 0 else -1.0 for c, v in zip(t["shown"], said.tolist(), strict=True)]
        own = t["shown"].index(t["source"])
        best = own if known[own] >= max(known) else known.index(max(known))
    doubt = float(np.delete(said, best).sum())
    return {"says": words(names[t["shown"][best]]), "probability": chance(float(said[best]), doubt)}


def _geodesic(p: np.ndarray, q: np.ndarray, share: float) -> np.ndarray:
    angle = math.acos(min(1.0, float(np.sqrt(p * q).sum())))
    if angle < 1e-6:
        return p + share * (q - p)
    u, v = math.sin((1 - share) * angle) / math.sin(angle), math.sin(share * angle) / math.sin(angle)
    between: np.ndarray = (u * np.sqrt(p) + v * np.sqrt(q)) ** 2
    return between


def _floats(values: Any) -> np.ndarray:
    """JSON's null is a number that does not exist."""
    return np.array(values, dtype=float)
