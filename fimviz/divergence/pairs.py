"""Ordered pairs of samples of different categories: which, and how sure a mean over them is.

A set of pairs here always holds both directions of each, and lists them by first sample, then by second.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fimviz._options import whole
from fimviz._ranks import resampled
from fimviz.model.engine.memory import enough

_PAIR = 160  # bytes that a pair takes in all columns and on their way


def choose(labels: Tensor, wanted: Any, seed: int, max_memory: float | None) -> tuple[Tensor, Tensor]:
    """All ordered pairs (i, j) of different labels, or so many of them by chance; (m,) each."""
    counts = labels.bincount()
    total = int(len(labels) ** 2 - (counts**2).sum())
    if not total:
        raise ValueError(
            f"all {len(labels)} labels are {int(labels[0])}, expected at least two categories: CCKL compares samples "
            "of different ones"
        )
    everything = isinstance(wanted, str)
    if everything and wanted != "all":
        raise ValueError(f"pairs is {wanted!r}, expected 'all' or a number of pairs")
    count = total if everything else whole("pairs", wanted, 2)
    if count > total:
        raise ValueError(f"pairs is {count}, and there are {total} of different categories: use pairs='all'")
    mend = "a number of pairs= to be drawn by chance"
    enough(count * _PAIR, torch.device("cpu"), max_memory, f"{count} pairs", mend)
    half = (count + 1) // 2
    if everything or 2 * half > total // 4:
        i, j = torch.triu_indices(len(labels), len(labels), 1)
        differ = labels[i] != labels[j]
        i, j = i[differ], j[differ]
        if not everything:
            kept = torch.randperm(len(i), generator=torch.Generator().manual_seed(seed))[:half]
            i, j = i[kept], j[kept]
    else:
        i, j = _drawn(labels, half, seed)
    both = torch.cat([torch.stack([i, j]), torch.stack([j, i])], 1)
    order = (both[0] * len(labels) + both[1]).argsort()
    return both[0, order], both[1, order]


def _drawn(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """So many different unordered pairs of different labels: drawn again until there are enough."""
    generator = torch.Generator().manual_seed(seed)
    n, found = len(labels), torch.zeros(0, dtype=torch.long)
    while len(found) < count:
        i, j = torch.randint(n, (2, 2 * count), generator=generator)
        i, j = torch.minimum(i, j), torch.maximum(i, j)
        codes = torch.cat([found, (i * n + j)[labels[i] != labels[j]]])
        unique, place = codes.unique(return_inverse=True)
        first = torch.full((len(unique),), len(codes)).scatter_reduce(0, place, torch.arange(len(codes)), "amin")
        found = codes[first.sort().values][:count]  # in the order in which they came
    return found // n, found % n


def standard_errors(values: Tensor, i: Tensor, j: Tensor, count: int, resamples: int, seed: int) -> Tensor:
    """Standard errors (c,) of the means of columns (m, c) over pairs of `count` samples, by bootstrap over the samples.

    A resample holds a pair as often as it holds its first sample times its second. That counts the part of a value
    which is the pair's alone, and not its samples', three times: the variance of a product of two independent counts
    of mean and variance 1 is 3. Two are taken away again (for all pairs they hardly matter), down to one, which is the
    error of pairs that share no sample. NaN for one pair of samples alone.
    """
    if count < 3:
        return torch.full((values.shape[1],), torch.nan, dtype=torch.float64)
    weights = torch.as_tensor(resampled(count, resamples, seed), dtype=torch.float64)
    place = torch.stack([i, j])

    def sums(column: Tensor) -> Tensor:
        matrix = torch.sparse_coo_tensor(place, column, (count, count), is_coalesced=True, check_invariants=False)
        return (weights * torch.sparse.mm(matrix, weights.T).T).sum(1)

    sizes = sums(torch.ones(len(i), dtype=torch.float64))
    reverse = (j * count + i).argsort()  # where each pair's other direction stands
    out = []
    for column in values.T:
        apart = column - column.mean()
        means = (sums(apart) / sizes)[sizes > 0]
        own = float(((apart + apart[reverse]) ** 2).sum()) / 2 / len(column) ** 2
        out.append(max(float(means.var()) - 2 * own, own) ** 0.5 if len(means) > 1 else float("nan"))
    return torch.tensor(out, dtype=torch.float64)
