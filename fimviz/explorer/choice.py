"""Which samples are shown in full detail, how many a few seconds are enough for, and how finely these are asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from fimviz.model.classifier import Classifier
from fimviz.model.engine.plan import footprint

if TYPE_CHECKING:
    from fimviz.explorer.results import Explored

# Bytes that passes keep, over all samples in full detail: a few seconds' work. Planes take more passes than the rest.
DETAIL_WORK, PLANE_WORK = 2**25, 2**23
LEAST = 8  # samples in full detail, however long one takes
_FRAGILE = 0.75  # of the samples in detail; the others stand at even steps of the order
_CHEAP = 12  # samples that DETAIL_WORK is enough for, from which on nothing is spared


@dataclass(frozen=True)
class Effort:
    """How finely a sample is asked.

    Attributes:
        nodes: distances along the leading direction, and along each other one.
        points: of a plane on an axis.
        open: the share of a divergence that rounding may move before its pass is taken again in float64.
        close: the share of the gap between two distances to which a flip is located.
        coarse: whether `reach` looks at every third distance first.
    """

    nodes: tuple[int, int]
    points: int
    open: float
    close: float
    coarse: bool

    @property
    def passes(self) -> list[int]:
        """Roughly, of a sample: around it, along the leading direction, and along each other one."""
        return [15 if self.coarse else 30, self.nodes[0] + 17, self.nodes[1] + 8]


# Where a pass is long, the nodes of planes on their axes are among those of walks, which are asked once, and
# divergences, which are drawn over decades, may be off by a tenth: no more than a line is wide.
FULL, LARGE = Effort((33, 17), 21, 1e-3, 1e-4, False), Effort((13, 7), 7, 0.1, 1e-2, True)


def effort(nets: Iterable[Classifier], inputs: Iterable[Tensor]) -> Effort:
    """All that a page can show, or of large networks on large images what half a minute is enough for."""
    return FULL if affordable(nets, inputs, DETAIL_WORK) >= _CHEAP else LARGE


def affordable(nets: Iterable[Classifier], inputs: Iterable[Tensor], work: int) -> int:
    """How many samples the given work is enough for, whichever of the models sees them."""
    counts = []
    for net, x in zip(nets, inputs, strict=True):
        with net.at_rest():
            counts.append(work // max(1, footprint(net, x[:1].to(net.device))[0]))
    return min(counts)


def chosen(models: list[Explored], detail: int | Sequence[int]) -> tuple[int, ...]:
    """The samples in full detail, the most fragile first: of each model in turn, and some along the first's order."""
    lost = {place for m in models for place in m.spectrum.failures}
    orders = [[place for place in m.fragile if place not in lost] for m in models]
    if isinstance(detail, Sequence):
        return tuple(sorted(set(detail) - lost, key=orders[0].index))
    n = len(orders[0])
    detail = min(detail, n)
    fragile = [place for places in zip(*orders, strict=True) for place in places]
    worst = list(dict.fromkeys(fragile))[: round(_FRAGILE * detail) if detail < n else n]
    even = [orders[0][round(q)] for q in np.linspace(n - 1, 0, 4 * detail)]
    left = [place for place in dict.fromkeys([orders[0][-1], *even]) if place not in worst]
    spread = [left[round(q)] for q in np.linspace(0, len(left) - 1, detail - len(worst))] if left else []
    kept = dict.fromkeys([*worst, *spread])
    return tuple(sorted(kept, key=orders[0].index))
