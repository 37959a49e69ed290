"""What a method of `spectrum` is: an object that its file makes and `fimviz.fisher.table` lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fimviz._ways import Way
from fimviz.fisher.block import Block
from fimviz.model.likelihoods import Likelihood

ENOUGH = 5e-4


class Beside(Protocol):
    """Another likelihood of the same logits, under which λ₁ is wanted too: it takes the same passes."""

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood."""

    def error(self, block: Block) -> Tensor:
        """How far λ₁ (n,) of a block under it may be from the truth, what the likelihood rounds included."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a method is asked for: k eigenvalues, the eigenvectors too where `vectors`; the rest as in `spectrum`.

    Trace and Frobenius norm may be NaN where `totals` is not set; `beside` is what λ₁ is wanted under too. `enough` is
    the relative error of λ₁ that a smooth network's passes in float32 may state.
    """

    k: int
    vectors: bool
    tolerance: float | None
    max_steps: int
    probes: int
    step: float | None
    seed: int
    precise: bool
    cotangents: int = 1
    totals: bool = True
    beside: Beside | None = None
    enough: float = ENOUGH


def _all(rank: int, max_steps: int) -> int:
    return rank


@dataclass(frozen=True, kw_only=True)
class Method(Way):
    """A way to the spectrum of F.

    Attributes:
        run: (ground, asked) → `Block`, for a batch made ready inside `at_rest()`; of a method that asks for answers
            alone, (net, x, asked), for inputs x (n, …) on the model's device.
        rows: (rank, max_steps) → rows of A that it keeps at a time.
        along: whether it takes products along directions, hence the graph of a graph.
        whole: whether it gives all eigenvalues where nobody says how many; else one.
        most: how many eigenvalues it can give; None for all.
        totals: whether it gives trace and Frobenius norm too.
    """

    run: Callable[..., Block]
    rows: Callable[[int, int], int] = _all
    along: bool = False
    whole: bool = False
    most: int | None = None
    totals: bool = True
