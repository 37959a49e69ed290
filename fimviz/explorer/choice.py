"""Which samples are shown in full detail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fimviz.explorer.results import Explored

LEAST = 8  # samples in full detail, however long one takes
_FRAGILE = 0.75  # of the samples in detail; the others stand at even steps of the order


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
