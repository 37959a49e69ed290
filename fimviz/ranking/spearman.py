"""Rank correlation of a handful of values, with an interval that does not pretend that a handful is many."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fimviz._ranks import correlation, ranks

FEW = 10  # pairs, below which a bootstrap pretends
_ALL = 7  # values up to which every order is looked at
_DRAWS, _GRID = 20_000, 61


@dataclass(frozen=True)
class Rank:
    """Spearman's ρ of n pairs, NaN where a side is constant, with a 95 % interval and a two-sided p-value."""

    rho: float
    low: float
    high: float
    p_value: float
    n: int


def spearman(x: Sequence[float], y: Sequence[float]) -> Rank:
    """Spearman's rank correlation ρ of n ≥ 3 pairs.

    The p-value is the share of all orders (beyond 7 pairs, of 20,000 random ones) with at least this |ρ|. The interval
    holds every population ρ under which a sample of n pairs gives the ρ at hand, or one beyond it, in more than 2.5 %
    of the cases, by simulation of pairs that are normal but for increasing transformations. Its width is honest where
    formulas fail: four pairs in perfect order may come from a population with ρ below 0.

    Source: inversion of a test, as by Clopper and Pearson (1934); the population's ρ of a normal pair with
    correlation r is (6/π) asin(r/2), Pearson (1907). The bootstrap is no help here: it gives [1, 1] for ρ = 1.

    Example: four pairs are in perfect order, or its reverse, in 2 of 24 cases.
        >>> r = spearman([1, 2, 3, 4], [10, 20, 30, 40])
        >>> r.rho, round(r.p_value, 4), r.low < 0, r.high
        (1.0, 0.0833, True, 1.0)
    """
    n = len(x)
    a, b = ranks(np.asarray(x, dtype=float)), ranks(np.asarray(y, dtype=float))
    if n < 3 or not a.std() or not b.std():
        return Rank(math.nan, math.nan, math.nan, math.nan, n)
    rho = float(correlation(a, b))
    if n <= _ALL:
        orders = b[np.array(list(itertools.permutations(range(n))))]
        p_value = float((np.abs(correlation(a, orders)) >= abs(rho) - 1e-9).mean())
    else:
        orders = np.random.default_rng(0).permuted(np.tile(b, (_DRAWS, 1)), axis=1)
        p_value = float((1 + (np.abs(correlation(a, orders)) >= abs(rho) - 1e-9).sum()) / (1 + _DRAWS))
    low = -_highest(n, -rho)
    return Rank(min(1.0, max(-1.0, rho)), min(low, rho), max(_highest(n, rho), rho), p_value, n)


def spearman_of_many(
    x: Sequence[float], y: Sequence[float], given: Sequence[float] | None = None, *, draws: int = 1000, seed: int = 0
) -> Rank:
    """Spearman's ρ of many pairs with a 95 % interval by bootstrap, its p-value left out (NaN).

    Fewer than ten pairs have no interval here; `spearman` has an honest one. With `given` it is the partial rank
    correlation: that of x and y when both are compared at equal ranks of the third,
    (ρ_xy − ρ_xz ρ_yz)/√((1 − ρ_xz²)(1 − ρ_yz²)); NaN where x or y has the third's order.

    Example: a common cause makes two quantities correlate, and is taken out.
        >>> rng = np.random.default_rng(0)
        >>> cause, a, b = rng.standard_normal((3, 500))
        >>> plain, partial = spearman_of_many(cause + a, cause + b), spearman_of_many(cause + a, cause + b, cause)
        >>> plain.low > 0.4, partial.low < 0 < partial.high
        (True, True)
    """
    values = [np.asarray(v, dtype=float) for v in (x, y, *(() if given is None else (given,)))]
    n = len(values[0])
    if n < 3:
        return Rank(math.nan, math.nan, math.nan, math.nan, n)
    drawn = np.vstack([np.arange(n), np.random.default_rng(seed).integers(n, size=(draws, n))])
    order = [ranks(v[drawn]) for v in values]
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = correlation(order[0], order[1])
        if given is not None:
            a, b = correlation(order[0], order[2]), correlation(order[1], order[2])
            spare = (1 - a * a) * (1 - b * b)
            rho = np.where(spare > 1e-12, (rho - a * b) / np.sqrt(spare), np.nan)
    known = rho[1:][np.isfinite(rho[1:])]
    if not np.isfinite(rho[0]) or not len(known):
        return Rank(math.nan, math.nan, math.nan, math.nan, n)
    low, high = np.quantile(known, (0.025, 0.975)) if n >= FEW else (math.nan, math.nan)
    value, low, high = np.clip((rho[0], low, high), -1, 1).tolist()
    return Rank(value, low, high, math.nan, n)


def _highest(n: int, rho: float) -> float:
    """The largest population ρ at which a sample's is at most the one at hand in 2.5 % of the cases."""
    populations, samples = _simulated(n)
    share = (samples <= rho + 1e-9).mean(1)
    above = share >= 0.025
    if above[-1]:
        return 1.0
    last = int(above.nonzero()[0][-1])
    part = (share[last] - 0.025) / (share[last] - share[last + 1])
    return float(populations[last] + part * (populations[last + 1] - populations[last]))


@lru_cache(maxsize=8)  # ten megabytes a size
def _simulated(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Population ρ (g,) from −1 to 1, and the ρ of samples of n pairs (g, draws) from each."""
    draw = np.random.default_rng(0).standard_normal((2, _DRAWS, n))
    r = np.tanh(np.linspace(-4, 4, _GRID))
    a = _ordinal(draw[0])
    samples = [correlation(a, _ordinal(c * draw[0] + math.sqrt(1 - c * c) * draw[1])) for c in r]
    return 6 / np.pi * np.arcsin(r / 2), np.stack(samples)


def _ordinal(v: np.ndarray) -> np.ndarray:
    """As `ranks` of values without ties, in half the time."""
    return v.argsort(-1).argsort(-1) - (v.shape[-1] - 1) / 2
