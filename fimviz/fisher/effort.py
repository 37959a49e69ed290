"""How finely a model is asked around an input: all that a view can show, or what takes seconds of a large network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from fimviz.model.engine.plan import footprint

if TYPE_CHECKING:
    from fimviz.model.classifier import Classifier

# Bytes that passes keep, over all inputs that are asked: a few seconds' work.
WORK = 2**25
_CHEAP = 12  # inputs that WORK is enough for, from which on nothing is spared


@dataclass(frozen=True)
class Effort:
    """How finely an input is asked.

    Attributes:
        nodes: distances along the leading direction, and along each other one.
        points: of a plane on an axis.
        open: the share of a divergence that rounding may move before its pass is taken again in float64.
        close: the share of the gap between two distances to which a flip is located.
        coarse: whether `reach` looks at every third distance first.
        tolerance: of Lanczos' iteration, relative; None for as far as rounding allows.
    """

    nodes: tuple[int, int]
    points: int
    open: float
    close: float
    coarse: bool
    tolerance: float | None

    @property
    def passes(self) -> list[int]:
        """Roughly, of an input: around it, along the leading direction, and along each other one."""
        return [12 if self.coarse else 30, self.nodes[0] + 17, self.nodes[1] + 8]


# Where a pass is long, most nodes of planes on their axes are among those of walks, which are asked once; views draw
# cubics between the nodes, of which 5 a side are as right as lines between 7 (docs/benchmarks.md). Divergences, which
# are drawn over decades, may be off by a tenth: no more than a line is wide. Of eigenvalues a thousandth may be open,
# which is no more than is printed of them, and stands in their error.
FULL, LARGE = Effort((33, 17), 21, 1e-3, 1e-4, False, None), Effort((13, 7), 5, 0.1, 1e-2, True, 1e-3)


def effort(nets: Iterable[Classifier], inputs: Iterable[Tensor]) -> Effort:
    """All that a page can show, or of large networks on large images what half a minute is enough for."""
    return FULL if affordable(nets, inputs, WORK) >= _CHEAP else LARGE


def affordable(nets: Iterable[Classifier], inputs: Iterable[Tensor], work: int) -> int:
    """How many inputs the given work is enough for, whichever of the models sees them."""
    counts = []
    for net, x in zip(nets, inputs, strict=True):
        with net.at_rest():
            counts.append(work // max(1, footprint(net, x[:1].to(net.device))[0]))
    return min(counts)
