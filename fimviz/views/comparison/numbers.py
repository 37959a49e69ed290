"""What the bound view prints and draws: see `fimviz.views.kit.shown`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from fimviz._quantile import quantiles
from fimviz.views.kit.numbers import power_of_ten
from fimviz.views.kit.shown import Cell, Page, Row, cell, chance, rows, table, words

_SPAN = (0, 0.25, 0.5, 0.75, 1)
_ONE = ("value", "low", "high", "÷ truth", "guarantee", "forwards", "VJPs", "JVPs", "needs", "why not")
_ALL = ("lowest", "quartile", "median", "quartile", "highest", "seconds a sample")


def numbers(page: Page) -> Iterator[Row]:
    """The title, the tables of the chosen sample and of all, the convergence, and the layers of the chosen row."""
    data, state = page.data, page.state
    methods, samples = data["methods"], data["samples"]
    names = [m["name"] for m in methods]
    at = next((i for i, s in enumerate(samples) if s["index"] == state["index"]), 0)
    logs = page.array(data["values"], np.float64).reshape(len(samples), len(methods), 3)
    truth = logs[:, names.index(data["reference"]), 0]
    with np.errstate(invalid="ignore"):
        ratio = np.where(np.isfinite(truth)[:, None], logs[:, :, 0] - truth[:, None], np.nan)
    yield from _title(data, samples[at], truth if state["everything"] else truth[at : at + 1], ratio, at, state)
    lines: list[tuple[object, list[Cell]]] = []
    for i, m in enumerate(methods):
        costs = m["costs"] and m["costs"][0 if len(m["costs"]) == 1 else at]
        passes = [(float(c), str(c)) for c in costs] if costs else [words("–")] * 3
        spans = [_power(log, 6) for log in logs[at, i]]
        said = [
            words("–" if m["guarantee"] == "none" else m["guarantee"]),
            *passes,
            words(m["needs"]),
            words(m["reason"]),
        ]
        lines.append((m["name"], [*spans, _times(ratio[at, i]), *said]))
    yield from table(f"sample {samples[at]['index']}", _ONE, lines)
    lines = [
        (m["name"], [*map(_times, _quantiles(ratio[:, i])), words("–") if m["seconds"] is None else cell(m["seconds"])])
        for i, m in enumerate(methods)
    ]
    yield from table("all samples, ratio to the truth", _ALL, lines)
    yield from table("the convergence", *_convergence(page, truth, at))
    m = next((m for m in methods if m["name"] == state["method"]), methods[0])
    if steps := _fall(page, m, float(logs[at, names.index(m["name"]), 0]), at):
        yield from table(f"the layers of {m['name']}", ("kind", "factor of λ", "bound so far", "formula"), steps)


def _title(
    data: Mapping[str, Any],
    sample: Mapping[str, Any],
    truth: np.ndarray,
    ratio: np.ndarray,
    at: int,
    state: Mapping[str, Any],
) -> Iterator[Row]:
    """λ₁, and what the tightest formula and the one from the weights alone say of it."""
    said: dict[str, Cell] = {}
    if state["everything"]:
        item, ends = "all samples", _quantiles(truth)
        said |= {"λ₁ from": _power(ends[0], 2), "λ₁ to": _power(ends[4], 2)}
        of = [_quantiles(ratio[:, i])[2] for i in range(ratio.shape[1])]
    else:
        item, of = f"sample {sample['index']}", ratio[at].tolist()
        said["λ₁"] = _power(truth[0])
    known = [(v, m) for v, m in zip(of, data["methods"], strict=True) if m["group"] == "ladder" and not math.isnan(v)]
    if known:
        said["best formula"] = _times(min(v for v, _ in known), 2)
    if weights := [v for v, m in known if "weights only" in m["short"]]:
        said["weights alone"] = _times(min(weights), 2)
    told = {"prediction": words(sample["prediction"]), "confidence": chance(sample["confidence"])}
    yield from rows("title", item, said | ({} if state["everything"] else told))


def _convergence(page: Page, truth: np.ndarray, at: int) -> tuple[tuple[str, ...], list[tuple[object, list[Cell]]]]:
    everything, lines = page.state["everything"], []
    for c in page.data["curves"]:
        values = page.array(c["values"], np.float32).reshape(len(truth), -1).astype(float)
        with np.errstate(invalid="ignore"):
            logs = [_quantiles(v - truth)[2] for v in values.T] if everything else values[at].tolist()
        points = [(cost, log) for cost, log in zip(c["cost"], logs, strict=True) if not math.isnan(log)]
        if len(points) > 1 and any(math.isfinite(log) for _, log in points):
            lines += [(c["method"], [cell(cost), _power(log, 5)]) for cost, log in points]
    return ("cost", "median ratio" if everything else "value"), lines


def _fall(page: Page, method: Mapping[str, Any], bound: float, at: int) -> list[tuple[object, list[Cell]]]:
    """The layers of a bound in units of λ, which is the square of a Jacobian's norm: so logarithms count twice."""
    data = page.data
    if not method["falls"] or math.isnan(bound) or bound == -math.inf:
        return []
    local = data["local"][at] if method["local"] and data["local"] else None
    packed = local or data["layers"]
    if not packed:
        return []
    listed, lines, total = data["tables"][packed["table"]], list[tuple[object, list[Cell]]](), 0.0
    gains, bounds = page.array(packed["numbers"], np.float32).astype(float).reshape(2, -1)
    for (name, kind, formula), gain, so_far in zip(listed, gains, bounds, strict=True):
        total = 2 * so_far
        factor = words("joins") if math.isnan(gain) else _times(2 * gain)
        lines.append((name, [words(data["words"][kind]), factor, _power(total, 4), words(data["words"][formula])]))
    if math.isfinite(bound):
        head = data["head"]
        last = [words(head["kind"]), _times(bound - total), _power(bound, 4), words(method["falls"])]
        lines.append((head["name"], last))
    return lines


def _quantiles(logs: np.ndarray) -> list[float]:
    found: list[float] = quantiles(torch.tensor(logs), _SPAN).tolist()
    return found


def _power(log: float, digits: int = 3) -> Cell:
    """A number by its logarithm, which also has those beyond the largest float."""
    return (10.0**log if log < 308 else math.inf), power_of_ten(log, digits)


def _times(log: float, digits: int = 4) -> Cell:
    value, text = _power(log, digits)
    return value, text if math.isnan(log) else f"×{text}"
