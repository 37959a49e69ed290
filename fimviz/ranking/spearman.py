"""Rank correlation of a handful of values, with an interval that does not pretend that a handful is many."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

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
    a, b = _ranks(np.asarray(x, dtype=float)), _ranks(np.asarray(y, dtype=float))
    if n < 3 or not a.std() or not b.std():
        return Rank(math.nan, math.nan, math.nan, math.nan, n)
    rho = float(_rho(a, b))
    if n <= _ALL:
        orders = b[np.array(list(itertools.permutations(range(n))))]
        p_value = float((np.abs(_rho(a, orders)) >= abs(rho) - 1e-9).mean())
    else:
        orders = np.random.default_rng(0).permuted(np.tile(b, (_DRAWS, 1)), axis=1)
        p_value = float((1 + (np.abs(_rho(a, orders)) >= abs(rho) - 1e-9).sum()) / (1 + _DRAWS))
    low = -_highest(n, -rho)
    return Rank(min(1.0, max(-1.0, rho)), min(low, rho), max(_highest(n, rho), rho), p_value, n)


def resampled(x: Sequence[float], y: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> Rank:
    """Spearman's ρ of n ≥ 10 pairs with the bootstrap's 95 % interval, for samples by the hundred.

    The interval is that of percentiles: it holds the middle 95 % of ρ over batches drawn from the pairs with
    replacement, equal values sharing their ranks in each. Pairs with a value that is NaN are left out. The p-value is
    the share of random orders with at least this |ρ|. Fewer than 10 pairs get ρ without an interval.

    Source: Efron (1979); for a handful of pairs use `spearman`, whose interval does not need many.

    Example, pairs in perfect order:
        >>> r = resampled(range(20), [v**3 for v in range(20)])
        >>> round(r.rho, 12), round(r.low, 12), round(r.high, 12), r.n
        (1.0, 1.0, 1.0, 20)
    """
    both = np.stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)])
    both = both[:, ~np.isnan(both).any(0)]
    n = both.shape[1]
    groups = [np.unique(side, return_inverse=True)[1] for side in both]
    if n < 3 or not all(g.any() for g in groups):
        return Rank(math.nan, math.nan, math.nan, math.nan, n)
    once = np.ones((1, n))
    a, b = (_drawn(once, g) for g in groups)
    rho = float(_weighted(once, a, b)[0])
    if n < 10:
        return Rank(rho, math.nan, math.nan, math.nan, n)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)
    drawn = _weighted(counts, *(_drawn(counts, g) for g in groups))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    orders = rng.permuted(np.tile(b, (resamples, 1)), axis=1)
    p_value = (1 + (np.abs(_weighted(once, a, orders)) >= abs(rho) - 1e-9).sum()) / (1 + resamples)
    return Rank(rho, min(float(low), rho), max(float(high), rho), float(p_value), n)


def _drawn(counts: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Ranks (s, n) of the pairs in samples that hold each of them `counts` (s, n) times; `group` is equal for ties."""
    order = group.argsort(kind="stable")
    sizes = np.add.reduceat(counts[:, order], np.searchsorted(group[order], np.arange(group.max() + 1)), axis=1)
    return (sizes.cumsum(1) - (sizes - 1) / 2)[:, group]


def _weighted(counts: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation (s,) of pairs that occur `counts` times; NaN where a side is constant."""
    total = counts.sum(1, keepdims=True)
    a, b = (v - (counts * v).sum(1, keepdims=True) / total for v in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (counts * a * b).sum(1) / np.sqrt((counts * a * a).sum(1) * (counts * b * b).sum(1))


def _ranks(v: np.ndarray) -> np.ndarray:
    """Centred ranks along the last axis, equal values sharing theirs."""
    return ((v[..., None] > v[..., None, :]).sum(-1) - (v[..., None] < v[..., None, :]).sum(-1)) / 2


def _rho(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


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


@cache
def _simulated(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Population ρ (g,) from −1 to 1, and the ρ of samples of n pairs (g, draws) from each."""
    draw = np.random.default_rng(0).standard_normal((2, _DRAWS, n))
    r = np.tanh(np.linspace(-4, 4, _GRID))
    a = _ordinal(draw[0])
    samples = [_rho(a, _ordinal(c * draw[0] + math.sqrt(1 - c * c) * draw[1])) for c in r]
    return 6 / np.pi * np.arcsin(r / 2), np.stack(samples)


def _ordinal(v: np.ndarray) -> np.ndarray:
    """As `_ranks`, without ties."""
    return v.argsort(-1).argsort(-1) - (v.shape[-1] - 1) / 2
