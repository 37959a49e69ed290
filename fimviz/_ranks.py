"""Ranks, their correlation, and resamples: what several rooms say of orders and of means over dependent numbers."""

from __future__ import annotations

import numpy as np


def ranks(values: np.ndarray) -> np.ndarray:
    """Centred ranks along the last axis, equal values sharing theirs; a row with NaN has none."""
    # Not scipy.stats, which takes seconds to load, and that where a view is first shown.
    n = values.shape[-1]
    order = values.argsort(-1)
    ascending = np.take_along_axis(values, order, -1)
    new = np.ones(values.shape, dtype=bool)
    new[..., 1:] = ascending[..., 1:] != ascending[..., :-1]
    first = np.maximum.accumulate(np.where(new, np.arange(n), 0), -1)
    last = np.ones(values.shape, dtype=bool)
    last[..., :-1] = new[..., 1:]
    end = np.minimum.accumulate(np.where(last, np.arange(n), n)[..., ::-1], -1)[..., ::-1]
    out = np.empty(values.shape)
    np.put_along_axis(out, order, (first + end - (n - 1)) / 2, -1)
    out[np.isnan(values).any(-1)] = np.nan
    return out


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation along the last axis of centred a and b, Spearman's of `ranks`; NaN where one is constant.

    Example:
        >>> float(correlation(ranks(np.array([1.0, 2.0, 3.0])), ranks(np.array([1.0, 8.0, 27.0]))))
        1.0
    """
    size = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.divide((a * b).sum(-1), size, out=np.full(size.shape, np.nan), where=size > 0)


def resampled(clusters: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of some clusters stands in each bootstrap resample of them, (resamples, clusters).

    What belongs to a cluster comes and goes with it, so that numbers which share a sample do not pass for independent.
    """
    return np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), resamples)
