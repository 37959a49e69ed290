"""One rule for every median and quantile: in results, their words and tables, and in what views draw."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def quantiles(values: Tensor, at: Sequence[float] | Tensor) -> Tensor:
    """Quantiles over the first axis of values (n, …), float64 (len(at), …): NumPy's linear rule, also where some are ∞.

    What never happened is ∞ and counts as the largest; halfway between a number and ∞ is ∞, where NumPy's own formula
    may give NaN. What is not known is NaN and has no place in an order: say beside a quantile how many of n it is of.
    `quantiles` of the views' quantiles.js is the same rule.

    Example, of five attacks two of which never succeeded:
        >>> quantiles(torch.tensor([0.5, torch.inf, 0.25, torch.inf, 1.0]), [0.25, 0.5, 0.75, 0.8]).tolist()
        [0.5, 1.0, inf, inf]
    """
    given, places = values.detach().cpu().double().numpy(), np.asarray(at)
    columns = given.reshape(len(given), math.prod(given.shape[1:])).T
    found = np.full((len(columns), len(places)), np.nan)
    for row, column in zip(found, columns, strict=True):
        if len(known := column[~np.isnan(column)]):
            # Beside infinities NumPy's linear rule takes differences that do not exist.
            low, high = (np.quantile(known, places, method=rule) for rule in ("lower", "higher"))
            between = np.isfinite(low) & np.isfinite(high) & (low < high)
            with np.errstate(invalid="ignore", over="ignore"):
                row[:] = np.where(low == high, low, low + high)
            row[between] = np.quantile(known, places[between])
    return torch.from_numpy(found.T.reshape(len(places), *given.shape[1:]))


def median(values: Tensor) -> float:
    """The median of values (n,), NaN for none: see `quantiles`."""
    return float(quantiles(values, [0.5])[0])


def digits(value: float) -> str:
    """Three significant digits; ∞ for what never happened, a dash for what is not known."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    return f"{value:.3g}"
