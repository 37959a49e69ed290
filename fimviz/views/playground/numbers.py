"""What the playground says of its samples before anybody has drawn: see `fimviz.views.kit.shown`.

The page computes what it shows, and nothing of it is in the payload but the networks: they are carried out here too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fimviz.playground.program import Program
from fimviz.playground.seen import Seen, flips, look
from fimviz.views.kit.numbers import number, probability
from fimviz.views.kit.shown import Cell, Page, Row, cell, rows, table, words

_KINDS: dict[str, type[np.generic]] = {"f4": np.float32, "f8": np.float64, "i4": np.int32}
_SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


class _Side(NamedTuple):
    """What one network says of all samples, and how far it is along v₁ and −v₁ to another answer."""

    name: str
    seen: Seen
    turns: list[tuple[Tensor, Tensor]]

    def of(self, text: str) -> str:
        return f"{text}, {self.name}" if self.name else text


def numbers(page: Page) -> Iterator[Row]:
    """The title and the tables of the chosen sample; the dots of the gauges; and of every sample what is said of it."""
    data, classes = page.data, page.data["classes"]
    height, width, channels = data["shape"]
    low, high = data["range"]
    samples = _array(page, data["images"]).view(-1, height * width * channels) if data["images"] else torch.empty(0)
    blank = torch.full((1, height * width * channels), float(low), dtype=torch.float64)
    images = torch.cat([samples.double(), blank]) if len(samples) else blank
    reach = 0.25 * math.sqrt(images.shape[1]) * (high - low)
    sides = [_side(page, network, images, reach) for network in data["networks"]]
    at = page.state["sample"] if page.state["sample"] >= 0 else len(samples)
    yield from rows("title", "all", {"title": words(" · ".join(_title(side, at, classes) for side in sides))})
    yield from _tables(sides, at, classes)
    for network in data["networks"]:
        name = f"λ₁ of {network['name']}" if network["name"] else "λ₁"
        for i, norm in enumerate(network["norms"]):
            yield from rows("gauge", f"sample {i}", {name: cell(norm)})
    for i in [*range(len(samples)), *([at] if at == len(samples) else [])]:
        for side in sides:
            part = f"sample {i}" if i < len(samples) else "an empty sheet"
            yield from rows(part, side.name or "all", _said(side, i, classes, reach))


def _array(page: Page, at: Any) -> Tensor:
    """What [offset, length, type] stands for."""
    return torch.from_numpy(page.array(at[:2], _KINDS[at[2]]).copy())


def _side(page: Page, network: Mapping[str, Any], images: Tensor, reach: float) -> _Side:
    def read(value: Any) -> Any:
        return _array(page, value) if isinstance(value, list) and value[-1:] and value[-1] in _KINDS else value

    carried = network["program"]
    program = Program(
        carried["sizes"],
        [{name: read(value) for name, value in op.items()} for op in carried["ops"]],
        {slot: read(value) for slot, value in carried["constants"]},
        carried["logits"],
    )
    seen = look(program, images)
    return _Side(network["name"], seen, [flips(program, images, way * seen.v, reach) for way in (1, -1)])


def _chance(seen: Seen, i: int, c: int) -> Cell:
    p, winner = float(seen.probabilities[i, c]), int(seen.winner[i])
    return p, probability(p, float(seen.doubt[i]) if c == winner else 1 - p)


def _title(side: _Side, i: int, classes: list[str]) -> str:
    def short(text: str) -> str:
        return f"{text[:21].rstrip()}…" if len(text) > 22 else text

    winner = int(side.seen.winner[i])
    sure = "" if side.name else f" (p = {_chance(side.seen, i, winner)[1]})"
    said = f"{short(side.name) if side.name else 'The network'} says {short(classes[winner])}{sure}"
    return f"{said}, λ₁ = {number(float(side.seen.eigenvalues[i, 0]))}"


def _tables(sides: list[_Side], i: int, classes: list[str]) -> Iterator[Row]:
    drawn = [side.of(text) for text in ("drawn", "moved") for side in sides]
    moved = [words("–") for _ in sides]
    lines = ((name, [*(_chance(s.seen, i, c) for s in sides), *moved]) for c, name in enumerate(classes))
    yield from table("probabilities", drawn, lines)
    orders = [f"λ{k}".translate(_SUBSCRIPT) for k in range(1, len(classes))]
    values = ((name, [cell(float(s.seen.eigenvalues[i, k])) for s in sides]) for k, name in enumerate(orders))
    yield from table("eigenvalues of F", [side.of("λ") for side in sides], values)


def _said(side: _Side, i: int, classes: list[str], reach: float) -> dict[str, Cell]:
    seen = side.seen
    winner = int(seen.winner[i])
    said = {
        "says": words(classes[winner]),
        "probability": _chance(seen, i, winner),
        "λ₁": cell(float(seen.eigenvalues[i, 0])),
    }
    for way, (far, becomes) in zip(("+v₁", "−v₁"), side.turns, strict=True):
        found = bool(far[i].isfinite() & (seen.eigenvalues[i, 0] > 0))
        other = classes[int(becomes[i])] if found else f"no other answer within {number(reach)}"
        said[f"{way} makes it"] = words(other)
        if found:
            said[f"{way} ε"] = cell(float(far[i]))
    return said | {f"p of {name}": _chance(seen, i, c) for c, name in enumerate(classes)}
