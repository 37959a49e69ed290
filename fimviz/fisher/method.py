"""What a method of `spectrum` is: an object that its file makes and `fimviz.fisher.table` lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fimviz._ways import Way
from fimviz.fisher.block import Block


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a method is asked for: k eigenvalues, the eigenvectors too where `vectors`; the rest as in `spectrum`."""

    k: int
    vectors: bool
    tolerance: float | None
    max_steps: int
    probes: int
    step: float | None
    seed: int
    precise: bool
    cotangents: int = 1


def _all(rank: int, max_steps: int) -> int:
    return rank


@dataclass(frozen=True, kw_only=True)
class Method(Way):
    """A way to the spectrum of F.

    Attributes:
        run: (net, x, asked) → `Block`, for inputs x (n, …) on the model's device, inside `at_rest()`.
        rows: (rank, max_steps) → rows of A that it keeps at a time.
        along: whether it takes products along directions, hence the graph of a graph.
        whole: whether it gives all eigenvalues where nobody says how many; else one.
        most: how many eigenvalues it can give; None for all.
        totals: whether it gives trace and Frobenius norm too.
    """

    run: Callable[[Any, Tensor, Asked], Block]
    rows: Callable[[int, int], int] = _all
    along: bool = False
    whole: bool = False
    most: int | None = None
    totals: bool = True
