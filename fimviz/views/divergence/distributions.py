"""KL, G2 and G2/KL over pairs as histograms on axes that show all of them, all logarithmic in their way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fimviz._quantile import quantiles
from fimviz.views.kit.inputs import finite
from fimviz.views.kit.numbers import decade, near_one, number, percent

if TYPE_CHECKING:
    from fimviz.divergence.crosscategory import CrossCategoryKL

_BINS = 40
_QUARTILES = (0.25, 0.5, 0.75)


class Distribution(NamedTuple):
    """One quantity of several models on one axis; places on the axis are transformed values.

    Attributes:
        key, title, axis: the quantity's name, in words, and what the axis is.
        low, high: ends of the axis; ticks: places with their texts.
        models: for each the share of its pairs in every bin ("shares"), "median" and "quartiles" as values, "places"
            of all three, "text" of all three, and "note" about pairs that the axis leaves out.
    """

    key: str
    title: str
    axis: str
    low: float
    high: float
    ticks: list[tuple[float, str]]
    models: list[dict[str, Any]]


def distributions(results: Mapping[str, CrossCategoryKL]) -> list[Distribution]:
    """The paper's three distributions, each of all models."""
    return [
        _logarithmic("kl", "KL", [r.kl for r in results.values()]),
        _signed("g2", "G2, the part of higher order", [r.g2 for r in results.values()]),
        _share("ratio", "G2 ÷ KL", [r.ratio for r in results.values()]),
    ]


def _logarithmic(key: str, title: str, columns: list[Tensor]) -> Distribution:
    positive = torch.cat(columns)
    positive = positive[positive > 0]
    low, high = _ends(positive.log10() if len(positive) else torch.zeros(1).double())
    models = [_model(v, lambda t: t.log10(), low, high, v > 0, "are 0 and have no place here") for v in columns]
    return Distribution(key, title, "nats, log axis", low, high, _decades(low, high), models)


def _signed(key: str, title: str, columns: list[Tensor]) -> Distribution:
    """On an axis that is linear near 0 and logarithmic beyond, on both sides."""
    size = torch.cat(columns).abs()
    size = size[size > 0]
    small, large = quantiles(size, [0.1, 1.0]).tolist() if len(size) else (1.0, 1.0)
    unit = 10.0 ** math.floor(math.log10(max(small, 1e-5 * large)))

    def place(v: Tensor) -> Tensor:
        return v.sign() * torch.log10(1 + v.abs() / unit)

    low, high = _ends(place(torch.cat(columns)))
    top = math.floor(math.log10(max(large, unit)))
    powers = range(round(math.log10(unit)) + 1, top + 1)
    step = max(1, math.ceil(len(powers) * (1 + (low < -1)) / 6))
    ticks = [(0.0, "0")]
    for power in list(powers)[::-1][::step]:
        at = float(place(torch.tensor(10.0**power, dtype=torch.float64)))
        ticks += [(s * at, f"{'−' if s < 0 else ''}{decade(power)}") for s in (-1, 1)]
    models = [
        {
            **_model(v, place, low, high, torch.ones_like(v, dtype=torch.bool), ""),
            "negative": float((v < 0).double().mean()),
        }
        for v in columns
    ]
    kept = sorted(t for t in ticks if low <= t[0] <= high)
    return Distribution(key, title, "nats, logarithmic on both sides of 0", low, high, kept, models)


def _share(key: str, title: str, columns: list[Tensor]) -> Distribution:
    """G2/KL on an axis logarithmic in 1 − G2/KL = G1/KL, which has room for 1 − 10⁻⁹ and for −999 alike."""

    def place(v: Tensor) -> Tensor:
        return -torch.log10(1 - v)

    columns = [v.clamp_min(-1e300) for v in columns]  # a KL near the smallest float64 makes infinite ratios
    known = torch.cat(columns)
    known = known[known < 1]  # not NaN, and not without any second-order part
    low, high = _ends(torch.cat([place(known), torch.zeros(1).double()]))
    powers = range(math.ceil(low), math.floor(high) + 1)
    step = math.ceil(len(powers) / 6)
    texts = {0: "0", 1: "0.9", 2: "0.99"}
    ticks = [
        (float(p), texts.get(p) or (f"1 − {decade(-p)}" if p > 0 else f"−{10**-p - 1}" if p > -5 else f"−{decade(-p)}"))
        for p in powers
        if p % step == 0
    ]
    if len(ticks) < 3:
        fine = torch.tensor([-5, -2, -1, -0.5, -0.2, 0, 0.2, 0.5, 0.8, 0.9, 0.95]).double()
        places = zip(place(fine).tolist(), fine.tolist(), strict=True)
        ticks = [(at, number(value)) for at, value in places if low <= at <= high]
    models = [_model(v, place, low, high, v < 1, "have no second-order part", near_one) for v in columns]
    return Distribution(key, title, "log axis of 1 − G2/KL; 1: F knows nothing of it", low, high, ticks, models)


def _model(
    values: Tensor,
    place: Callable[[Tensor], Tensor],
    low: float,
    high: float,
    shown: Tensor,
    why: str,
    say: Callable[[float], str] = number,
) -> dict[str, Any]:
    known = ~values.isnan()
    bins = ((place(values[shown & known]) - low) / (high - low) * _BINS).floor().clamp(0, _BINS - 1).long()
    shares = bins.bincount(minlength=_BINS).double() / max(1, len(values))
    middle = quantiles(values, _QUARTILES)
    inside = ~middle.isnan() & (place(middle) >= low) & (place(middle) <= high)
    out, lost = int((known & ~shown).sum()), int((~known).sum())
    notes = []
    if out:
        notes.append(f"{percent(out / len(values))} of the pairs {why}")
    if lost:
        notes.append(f"{percent(lost / len(values))} have none: KL is 0")
    return {
        "shares": shares.tolist(),
        "median": finite(middle[1]),
        "quartiles": [finite(middle[0]), finite(middle[2])],
        "places": [float(p) if ok else None for p, ok in zip(place(middle).tolist(), inside.tolist(), strict=True)],
        "text": [say(v) for v in middle.tolist()],
        "note": "; ".join(notes),
    }


def _ends(places: Tensor) -> tuple[float, float]:
    """The ends of an axis for all places, with some air."""
    low, high = (float(v) for v in places.aminmax())
    air = max(0.03 * (high - low), 0.15)
    return low - air, high + air


def _decades(low: float, high: float) -> list[tuple[float, str]]:
    powers = range(math.ceil(low), math.floor(high) + 1)
    if len(powers) > 1:
        step = math.ceil(len(powers) / 6)
        return [(float(p), decade(p)) for p in powers if p % step == 0]
    fine = [(math.log10(m) + e, m * 10.0**e) for e in range(math.floor(low), math.floor(high) + 1) for m in (1, 2, 5)]
    return [(at, number(value)) for at, value in fine if low <= at <= high]
