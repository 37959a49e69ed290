"""How finely a model is asked around an input: all that a view can show, or what takes seconds of a large network."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from fimviz.fisher.method import ENOUGH
from fimviz.model.engine.plan import footprint

if TYPE_CHECKING:
    from fimviz.model.classifier import Classifier

# Bytes that passes keep, over all inputs that are asked: a few seconds' work.
WORK = 2**25
_CHEAP = 12  # inputs that WORK is enough for, from which on nothing is spared
_DEAR = 8e9  # multiplications of a pass over an input, beyond which a processor takes a quarter of a second for it


@dataclass(frozen=True)
class Effort:
    """How finely an input is asked.

    Attributes:
        nodes: the distances on either side along the leading direction, and along each other one, as shares of the
            longest.
        points: of a plane on an axis.
        open: the share of a divergence, and how many nats, that rounding may move before its pass is taken again in
            float64.
        close: the share of the gap between two distances to which a flip is located.
        coarse: whether `reach` looks at every third distance first.
        tolerance: of Lanczos' iteration, relative; None for as far as rounding allows.
        enough: the relative error of λ₁ up to which passes of a smooth network in float32 are not taken again.
        directions: how many of an input in full detail, unless asked for.
        planes: whether they have planes, unless asked for.
        totals: whether traces are wanted.
        channels_last: whether images are given as convolutions on a processor like them best.
    """

    nodes: tuple[tuple[float, ...], tuple[float, ...]]
    points: int
    open: tuple[float, float]
    close: float
    coarse: bool
    tolerance: float | None
    enough: float = ENOUGH
    directions: int = 3
    planes: bool = True
    totals: bool = True
    channels_last: bool = False

    @property
    def passes(self) -> list[int]:
        """Roughly, of an input: around it, along the leading direction, and along each other one."""
        leading, other = (2 * len(nodes) for nodes in self.nodes)
        return [8, leading + 3, other + 3] if self.coarse else [30, leading + 18, other + 9]


def _even(count: int) -> tuple[float, ...]:
    return tuple((i + 1) / count for i in range(count))


FULL = Effort((_even(16), _even(8)), 21, (1e-3, 0.0), 1e-4, False, None)
# Where a pass is long, the nodes of planes on their axes are among those of walks, which are asked once; views draw
# cubics between the nodes, of which 5 a side are as right as lines between 7 (docs/benchmarks.md). What `reach` has
# asked along the leading direction joins its nodes. Divergences, which are drawn over decades, may be off by a tenth,
# no more than a line is wide, and by what nobody sees. Of eigenvalues a thousandth may be open, which is no more than
# is printed of them, and stands in their error.
LARGE = Effort(
    ((0.125, 0.25, 0.5, 0.75, 1.0), (0.25, 0.5, 1.0)), 5, (0.1, 1e-6), 1e-2, True, 1e-3, 1e-2, channels_last=True
)
_FEW = 0.25, 0.5, 1.0
HUGE = replace(
    LARGE, nodes=(_FEW, _FEW), enough=math.inf, directions=1, planes=False, totals=False, channels_last=False
)


def effort(nets: Iterable[Classifier], inputs: Iterable[Tensor]) -> Effort:
    """All that a page can show; of large networks on large images what half a minute is enough for."""
    nets, inputs = list(nets), list(inputs)
    if affordable(nets, inputs, WORK) >= _CHEAP:
        return FULL
    return HUGE if any(map(_dear, nets, inputs)) else LARGE


def _dear(net: Classifier, x: Tensor) -> bool:
    with net.at_rest():
        return net.device.type == "cpu" and footprint(net, x[:1])[3] > _DEAR


def affordable(nets: Iterable[Classifier], inputs: Iterable[Tensor], work: int) -> int:
    """How many inputs the given work is enough for, whichever of the models sees them."""
    counts = []
    for net, x in zip(nets, inputs, strict=True):
        with net.at_rest():
            counts.append(work // max(1, footprint(net, x[:1].to(net.device))[0]))
    return min(counts)
