"""`Shielding`: which classes stand between others, class by class, and how far it is to leave each.

A path from class y toward class k that first meets a third class c is shielded by c. How many are depends on damping
and step of the paths (fimviz.margins.curve), so that a table says little without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fimviz._options import real, whole
from fimviz._quantile import quantiles
from fimviz._ranks import correlation, ranks, resampled
from fimviz.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from fimviz.margins.traces import MarginTraces, Settings
    from fimviz.result import Figure


class Interval(NamedTuple):
    """A value with a bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, repr=False)
class Shielding(Result):
    """Shielding and margins of K classes from a set of paths; numbers per class are (K,) float64, NaN without paths.

    Attributes:
        classes: K names.
        matrix: (K, K) int64, how many successful paths lead from a source (row) to the class hit (column).
        shielding: share of all successful paths on which the class was met first and was not the target.
        eligible: the same as a share of the paths that neither start from the class nor aim at it.
        fr_margin: mean Fisher–Rao length of the successful paths from the class; l2: mean ‖δ‖₂ at their ends.
        rank: (K,) int64, 1 for the class with the largest mean Fisher–Rao length, the most robust; 0 without paths.
        shielded: share of successful paths that met another class than their target.
        possible: (low, high) between which the share of all attempted paths lies, whatever those that did not change
            the class would have met: [s/n, (s + u)/n] for s shielded and u unfinished of n. A share of successful
            paths alone says little where this is wide.
        possible_shielding: the same of `shielding`, (low, high) each (K,): an unfinished path counts for every class
            that it neither leaves nor aims at.
        unfinished: (K,) int64, paths from the class that did not change it; they are in no mean.
        rank_correlation: Spearman's, over samples, of the smallest Fisher–Rao length and the smallest L2 length.
        intervals: (low, high) of "shielding", "fr_margin" and "l2", each (K,), by bootstrap over the samples, since
            the paths of one sample are not independent; NaN where fewer than two samples are behind a number.
        attempted, successful: paths in all, and those that changed the class; left_out: those of misclassified
            samples, in neither.
        settings: of the traces.
        traces: themselves.

    `paths` (K, K, K) is `matrix` by source, target and class hit.
    """

    classes: tuple[str, ...]
    matrix: Tensor
    shielding: Tensor
    eligible: Tensor
    fr_margin: Tensor
    l2: Tensor
    rank: Tensor
    shielded: Interval
    possible: tuple[float, float]
    possible_shielding: tuple[Tensor, Tensor]
    unfinished: Tensor
    rank_correlation: Interval
    intervals: dict[str, tuple[Tensor, Tensor]]
    attempted: int
    successful: int
    left_out: int
    settings: Settings
    traces: MarginTraces

    def __repr__(self) -> str:
        shielded = f"{self.shielded.value:.1%} shielded" if self.successful else "none changed the class"
        if self.successful < self.attempted:
            shielded += f", of all {self.possible[0]:.1%} to {self.possible[1]:.1%}"
        others = self.traces.others()
        return (
            f"Shielding({self.successful} of {self.attempted} paths{self._lost}, {shielded}, "
            f"{self.settings.method}, damping {self.settings.damping:g}, step {self.settings.step:g}"
            f"{f'; {others}' if others else ''})"
        )

    @property
    def _lost(self) -> str:
        lost = len(self.traces.failures)
        return f" ({lost} of {len(self.traces.images)} images not computed)" if lost else ""

    @property
    def paths(self) -> Tensor:
        """How many successful paths lead from a source aimed at a target to the class hit, (K, K, K) int64."""
        count = len(self.classes)  # a thousand classes take 8 GB here, and no view needs them
        ends = [t[_counted(self.traces)] for t in (self.traces.source, self.traces.target, self.traces.hit)]
        paths = torch.zeros(count, count, count, dtype=torch.long)
        return paths.index_put_(tuple(ends), torch.ones_like(ends[0]), accumulate=True)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a class: shielding, mean Fisher–Rao margin, mean L2, rank, paths from it; with intervals.

        `shielding` is of the paths that changed the class; possible_low and possible_high are of all.
        """
        import pandas as pd

        columns: dict[str, Any] = {"class": list(self.classes)}
        for name in ("shielding", "fr_margin", "l2"):
            columns[name] = getattr(self, name).numpy()
        columns["rank"] = self.rank.numpy()
        columns["possible_low"], columns["possible_high"] = (v.numpy() for v in self.possible_shielding)
        columns["eligible"] = self.eligible.numpy()
        columns["paths"] = self.matrix.sum(1).numpy()
        columns["unfinished"] = self.unfinished.numpy()
        for name, (low, high) in self.intervals.items():
            columns[f"{name}_low"], columns[f"{name}_high"] = low.numpy(), high.numpy()
        return pd.DataFrame(columns)

    def plot(self) -> go.Figure:
        """Path matrix, shielding landscape and effort by class in both lengths, as a plotly figure."""
        return self._plotted()

    def view(self, **options: Any) -> Figure:
        """The margin view of the paths that were counted; options as for `MarginTraces.view`."""
        return self.traces.view(**options)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self.frame.to_html(index=False)}


def shielding(traces: MarginTraces, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Shielding:
    """The table of a set of paths: see `MarginTraces.shielding`."""
    resamples, level, seed = checked(resamples, level, seed)
    names = traces.net.classes
    count = len(names)
    usable, good = _usable(traces), _counted(traces)
    sample, source, target, hit = (t[good] for t in (traces.sample, traces.source, traces.target, traces.hit))
    length, l2 = traces.length[good], traces.l2[good]
    matrix = torch.zeros(count, count, dtype=torch.long)
    matrix.index_put_((source, hit), torch.ones_like(hit), accumulate=True)
    # For each sample what its paths add to the sums from which every number is made.
    kept, place = sample.unique(return_inverse=True)
    met = torch.nn.functional.one_hot(hit, count).double() * (hit != target)[:, None]
    own = torch.nn.functional.one_hot(source, count).double()
    parts = torch.cat([met, own, own * length[:, None], own * l2[:, None]], 1)
    sums = torch.zeros(len(kept), 4 * count, dtype=torch.float64).index_add_(0, place, parts)
    shares, fr_margin, euclid, all_shielded = _table(sums.sum(0, keepdim=True), count)
    rest = usable & ~traces.flipped
    every, shielded = max(1, int(usable.sum())), int((hit != target).sum())
    least = met.sum(0)
    left = torch.ones(int(rest.sum()), count, dtype=torch.float64)
    for ends in (traces.source, traces.target):
        left.scatter_(1, ends[rest][:, None], 0.0)
    again = resampled(len(kept), resamples, seed) if len(kept) > 1 else np.zeros((0, len(kept)), np.int64)
    tables = _table(torch.as_tensor(again).double() @ sums, count)
    tail = (1 - level) / 2
    known = (sums[:, count : 2 * count] > 0).sum(0) > 1
    bands = (tables[0], tables[1].where(known, torch.nan), tables[2].where(known, torch.nan))
    # No path both starts from a class and aims at it.
    through = len(hit) - torch.bincount(source, minlength=count) - torch.bincount(target, minlength=count)
    order = fr_margin[0].nan_to_num(-1).argsort(descending=True)
    rank = torch.zeros(count, dtype=torch.long).scatter_(0, order, torch.arange(1, count + 1))
    nearest = torch.full((2, len(kept)), torch.inf, dtype=torch.float64)
    for row, values in zip(nearest, (length, l2), strict=True):
        row.scatter_reduce_(0, place, values, "amin")
    return Shielding(
        classes=tuple(names),
        matrix=matrix,
        shielding=shares[0],
        eligible=met.sum(0) / through.double().where(through > 0, torch.nan),
        fr_margin=fr_margin[0],
        l2=euclid[0],
        rank=rank * ~fr_margin[0].isnan(),
        shielded=Interval(float(all_shielded[0]), *(float(v) for v in _quantiles(tables[3], tail))),
        possible=(shielded / every, (shielded + int(rest.sum())) / every),
        possible_shielding=(least / every, (least + left.sum(0)) / every),
        unfinished=torch.bincount(traces.source[rest], minlength=count),
        rank_correlation=_spearman(nearest, again, tail),
        intervals={
            name: _quantiles(values, tail) for name, values in zip(("shielding", "fr_margin", "l2"), bands, strict=True)
        },
        attempted=int(usable.sum()),
        successful=int(good.sum()),
        left_out=int((~usable).sum()),
        settings=traces.settings,
        traces=traces,
    )


def _usable(traces: MarginTraces) -> Tensor:
    """Whether a path (n,) is of a sample that is not known to be misclassified."""
    return torch.ones(len(traces), dtype=torch.bool) if traces.correct is None else traces.correct


def _counted(traces: MarginTraces) -> Tensor:
    """Those of them that changed the class (n,)."""
    return _usable(traces) & traces.flipped


def checked(resamples: Any, level: Any, seed: Any) -> tuple[int, float, int]:
    """The options of the bootstrap."""
    share = real("level", level)
    if not 0 < share < 1:
        raise ValueError(f"level is {level}, expected a number between 0 and 1")
    return whole("resamples", resamples, 1), share, whole("seed", seed, 0)


def _table(sums: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shielding share, mean length, mean L2 (b, K) and share shielded (b,) from sums (b, 4K)."""
    met, own, lengths, l2 = sums.split(count, 1)
    total = own.sum(1, keepdim=True)
    total, own = total.where(total > 0, torch.nan), own.where(own > 0, torch.nan)
    return met / total, lengths / own, l2 / own, met.sum(1) / total[:, 0]


def _quantiles(values: Tensor, tail: float) -> tuple[Tensor, Tensor]:
    """Lower and upper quantile over the first axis, of what is a number."""
    low, high = quantiles(values, [tail, 1 - tail])
    return low, high


def _spearman(pairs: Tensor, times: np.ndarray, tail: float) -> Interval:
    """Spearman's rank correlation of two rows (2, n), with a bootstrap interval from resampling counts (b, n)."""
    if pairs.shape[1] < 3:
        return Interval(float("nan"), float("nan"), float("nan"))
    place = np.arange(pairs.shape[1])
    drawn = np.stack([place, *(np.repeat(place, row) for row in times)])
    all_, *again = correlation(*(ranks(row[drawn]) for row in pairs.numpy()))
    low, high = _quantiles(torch.tensor(again), tail)
    return Interval(float(all_), float(low), float(high))
