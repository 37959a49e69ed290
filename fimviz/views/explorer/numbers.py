"""What the explorer prints and draws: see `fimviz.views.kit.shown`. All tabs are read, not the open one alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from fimviz._quantile import median
from fimviz.views.attributions.numbers import numbers as attributions
from fimviz.views.comparison.numbers import numbers as bounds
from fimviz.views.distance.numbers import numbers as distance
from fimviz.views.kit.numbers import fixed, number
from fimviz.views.kit.shown import Cell, Page, Row, cell, chance, rows, surely, table, with_error, words
from fimviz.views.margins.numbers import numbers as margins
from fimviz.views.perturbation.numbers import outcome, panel

_NESTED = {"bounds": bounds, "margins": margins, "attributions": attributions, "distance": distance}
_NORMS = {"l2": "L2", "linf": "L∞"}


def numbers(page: Page) -> Iterator[Row]:
    """The title, the batch, each model's tabs for the chosen sample, and the table of all samples."""
    data = page.data
    lost = {place for place, _ in data["lost"]}
    kept = [i for i in range(data["total"]) if i not in lost]
    index = page.state["index"] if page.state["index"] in kept else kept[0]
    columns = {
        m["name"]: {name: page.array(at, np.float64) for name, at in m["numbers"].items()} for m in data["models"]
    }
    for m in data["models"]:
        own, item = columns[m["name"]], f"sample {index}{_of(m)}"
        both = {"λ₁ as it is": with_error(own["raw"][index], own["error"][index])}
        if not math.isnan(own["matched"][index]):
            at = f"λ₁ at confidence {data['confidence']}"
            both = {at: with_error(own["matched"][index], own["matchedError"][index]), **both}
        yield from rows("title", item, both | {"place": cell(_place(page, columns, kept, index))})
        says = {"says": words(outcome(data, m["predictions"][index])), "probability": surely(own["doubt"][index])}
        yield from rows("sample", item, says)
    for m in data["models"]:
        yield from rows("batch", m["name"] or "all", _batch(data, m, columns[m["name"]], kept))
        for norm, ranks in m["ranks"].items():
            for name, (rho, low, high) in ranks.items():
                cells = {"ρ": cell(rho, fixed), "low": cell(low, fixed), "high": cell(high, fixed)}
                yield from rows(f"rank correlation, λ₁ {norm}{_of(m)}", name, cells)
    for m in data["models"]:
        for row in _tabs(page, m, index):
            yield row._replace(part=f"{row.part}{_of(m)}")
    yield from _views(data["nested"], index)
    for m in data["models"]:
        yield from _all(data, m, columns[m["name"]], kept)


def _of(m: Mapping[str, Any]) -> str:
    return f" of {m['name']}" if m["name"] else ""


def _place(page: Page, columns: Mapping[str, Mapping[str, np.ndarray]], kept: list[int], index: int) -> int:
    """By fragility of the first model, from 1: samples on a boundary first."""
    own = columns[page.data["models"][0]["name"]]
    norms = page.data["norms"]
    matched = (page.state["norm"] if page.state["norm"] in norms else norms[0]) == "matched"
    lead = np.where(np.isnan(own["matched"]), own["raw"], own["matched"]) if matched else own["raw"]
    tied = (own["margin"] == 0) & (own["raw"] > 0) if matched else np.zeros(len(lead), dtype=bool)
    order = sorted(kept, key=lambda i: (-math.inf if tied[i] else -lead[i], i))
    return order.index(index) + 1


def _batch(
    data: Mapping[str, Any], m: Mapping[str, Any], own: Mapping[str, np.ndarray], kept: list[int]
) -> dict[str, Cell]:
    said = {"samples": cell(len(kept))}
    if not np.isnan(own["matched"][kept]).all():
        said[f"median λ₁ at confidence {data['confidence']}"] = cell(median(torch.tensor(own["matched"][kept])))
    said["median λ₁ as it is"] = cell(median(torch.tensor(own["raw"][kept])))
    right = [c for i in kept if (c := m["correct"] and m["correct"][i]) is not None]
    if right:
        share = sum(right) / len(right)
        said["accuracy"] = share, f"{number(100 * share)} %"
    return {**said, "mean confidence": surely(float(own["doubt"][kept].mean())), "temperature": cell(m["temperature"])}


def _tabs(page: Page, m: Mapping[str, Any], index: int) -> Iterator[Row]:
    """What the tabs of a model show of a sample, where the page has it."""
    data, state = page.data, page.state
    sample = next((s for s in m["details"] if s["index"] == index), None)
    if sample:
        yield from panel(data, sample, state)
    for kind in ("planes", "toward"):
        if sample and (plane := next((p for p in m[kind] if p["index"] == index), None)):
            yield from rows("plane" if kind == "planes" else "plane toward the attack", *_plane(page, plane, sample))
    if tried := next((a["tried"] for a in m["attacks"] if a["index"] == index), None):
        lines = [(t["attack"], _attack(data, t)) for t in tried]
        head = ("norm", "smallest ε", "length of the change", "becomes")
        yield from table("the attacks on this sample", head, lines)
    yield from _views(m["nested"], index)


def _views(nested: Mapping[str, Any], index: int) -> Iterator[Row]:
    """What the views within the explorer show of a sample."""
    for tab, views in nested.items():
        packed = next((p for p in views if index in p["places"]), None)
        if packed:
            for row in _NESTED[tab](Page({**packed["state"], **_opened(packed, index)})):
                yield row if row.part.startswith("Table") else row._replace(part=f"{tab}: {row.part}")


def _opened(packed: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The trait by which a view within the explorer shows a sample."""
    trait, owners = packed["trait"], packed["owners"]
    if dict(owners).get(packed["state"][trait]) == index:
        return {}
    return {trait: next(value for value, own in owners if own == index)}


def _attack(data: Mapping[str, Any], t: Mapping[str, Any]) -> list[Cell]:
    epsilon = words("none") if t["epsilon"] is None else cell(t["epsilon"])
    becomes = words(outcome(data, t["becomes"]) if "becomes" in t else "–")
    return [words(_NORMS.get(t["norm"], t["norm"])), epsilon, cell(t["length"]), becomes]


def _plane(page: Page, plane: Mapping[str, Any], sample: Mapping[str, Any]) -> tuple[str, dict[str, Cell]]:
    """KL at a node of the plane on its first axis, as far out as the slider's step or less, measured and predicted."""
    count, reach = plane["points"], plane["reach"]
    kl = page.array(plane["kl"], np.float32).reshape(count, count).astype(float)
    step = 2 * reach / (count - 1)
    sign = -1 if page.state["flipped"] else 1
    a = max(-reach, min(reach, sign * page.state["epsilon"]))
    node = int(a / step)  # toward the middle
    middle = count // 2
    predicted = 0.5 * (node * step) ** 2 * plane["information"][0]
    values = {"KL measured": cell(float(kl[middle + node, middle])), "predicted by F": cell(predicted)}
    return f"sample {sample['index']}, {number(node * step)} v₁", values


def _all(
    data: Mapping[str, Any], m: Mapping[str, Any], own: Mapping[str, np.ndarray], kept: list[int]
) -> Iterator[Row]:
    labelled = data["labels"] is not None
    head = [*(["label"] if labelled else []), "prediction", "confidence", "margin"]
    head += [f"λ₁ at confidence {data['confidence']}", "its error", "λ₁ as it is", "its error", "trace"]
    head += ["certified radius"] if "radius" in own else []
    lines = []
    for i in kept:
        label = data["labels"][i] if labelled else None
        cells = [words("–" if label is None else outcome(data, label))] if labelled else []
        cells += [words(outcome(data, m["predictions"][i])), chance(own["confidence"][i], own["doubt"][i])]
        cells += [cell(own["margin"][i]), cell(own["matched"][i], number, 4), cell(own["matchedError"][i], number, 2)]
        cells += [cell(own["raw"][i], number, 4), cell(own["error"][i], number, 2)]
        cells += [with_error(own["trace"][i], own["traceError"][i])]
        cells += [cell(own["radius"][i])] if "radius" in own else []
        lines.append((i, cells))
    yield from table(f"all samples{_of(m)}", head, lines)
