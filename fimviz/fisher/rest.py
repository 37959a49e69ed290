"""What a basis leaves of F: trace and Frobenius norm, from a few random probes of the space beyond it.

Deflation as in Hutch++ (Meyer et al. 2021): what an iteration has found is known exactly, so that sampling moves the
rest only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fimviz.fisher.block import Ground, inner
from fimviz.fisher.sketch import few_probes, means


@dataclass(frozen=True)
class Rest:
    """The block of e^{-s} F beyond a basis at n inputs, (n,) each; errors at 95 %, 0 where all of it was probed."""

    trace: Tensor
    trace_error: Tensor
    frobenius: Tensor
    frobenius_limits: tuple[Tensor, Tensor]

    def beyond(self, squares: Tensor, frobenius: Tensor) -> Tensor:
        """The error (n,) of a Frobenius norm whose square is `squares` and that of this block."""
        low, high = ((squares + limit**2).sqrt() for limit in self.frobenius_limits)
        return torch.maximum(high - frobenius, frobenius - low)


def rest(ground: Ground, basis: Tensor, begun: list[Tensor], probes: int, generator: torch.Generator) -> Rest:
    """Orthonormal probes of what an orthonormal basis (n, r, j) leaves.

    `begun` are the rows (n, 1, D) of A that belong to its last vectors, if these are the first of the probes.
    """
    missing = basis.shape[1] - basis.shape[2] + len(begun)
    count = min(probes, missing)
    if not count:
        nothing = basis.new_zeros(len(basis))
        return Rest(nothing, nothing, nothing, (nothing, nothing))
    g = torch.randn(len(basis), basis.shape[1], count - len(begun), dtype=torch.float64, generator=generator)
    g = torch.linalg.qr(orthogonal(g, basis))[0]
    # One VJP after the other: together they are slower on a processor, and take more memory.
    rows = torch.cat([*begun, *(ground.here.vjp(ground.factor.to_logits(one)) for one in g.split(1, 2))], 1)
    gram = inner(rows, rows)
    trace, frobenius = means(gram, missing)
    low, high, most = few_probes(gram, missing)
    frobenius = frobenius.clamp(low / missing**0.5, most) if count < missing else frobenius
    return Rest(trace, torch.maximum(high - trace, trace - low), frobenius, (low / missing**0.5, most))


def unknown_rest(count: int) -> Rest:
    """That of so many inputs where nobody has looked."""
    unknown = torch.full((count,), torch.nan, dtype=torch.float64)
    return Rest(unknown, unknown, unknown, (unknown, unknown))


def orthogonal(w: Tensor, basis: Tensor) -> Tensor:
    """What of w (n, r, m) lies outside the basis (n, r, j)."""
    for _ in range(2):  # twice is enough (Kahan), once is not
        w = w - basis @ (basis.mT @ w)
    return w
