"""One rule for every median and quantile: in results, their words and tables, and in what views draw."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def quantiles(values: Tensor, at: Sequence[float] | Tensor) -> Tensor:
    """Quantiles over the first axis of values (n, …), float64 (len(at), …): NumPy's linear rule, also where some are ∞.

    What never happened is ∞ and counts as the largest; halfway between a number and ∞ is ∞, where NumPy's own formula
    may give NaN. What is not known is NaN and has no place in an order: say beside a quantile how many of n it is of.
    `quantile` of the views' chart.js is the same rule.

    Example, of five attacks two of which never succeeded:
        >>> quantiles(torch.tensor([0.5, torch.inf, 0.25, torch.inf, 1.0]), [0.25, 0.5, 0.75, 0.8]).tolist()
        [0.5, 1.0, inf, inf]
    """
    ordered = values.double().sort(0).values  # NaN at the end
    n = (~ordered.isnan()).sum(0)
    shape = (-1, *[1] * n.ndim)
    place = torch.as_tensor(at, dtype=torch.float64, device=values.device).reshape(shape) * (n - 1).clamp_min(0)
    if not len(ordered):
        return torch.full(place.shape, torch.nan, dtype=torch.float64, device=values.device)
    low, high = ordered.gather(0, place.floor().long()), ordered.gather(0, place.ceil().long())
    share = place - place.floor()
    between = torch.where(low.isfinite() & high.isfinite(), torch.lerp(low, high, share), low + high)
    return torch.where(share == 0, low, torch.where(low == high, low, between))


def median(values: Tensor) -> float:
    """The median of values (n,), NaN for none: see `quantiles`."""
    return float(quantiles(values, [0.5])[0])


def digits(value: float) -> str:
    """Three significant digits; ∞ for what never happened, a dash for what is not known."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    return f"{value:.3g}"
