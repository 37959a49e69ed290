"""Which way a trace goes: the damped natural gradient of a logit gap, solved in class space.

With the differences J_c − J_w to the winner w as rows D (r = K−1 of them), F = e^s Aᵀ A, A = Mᵀ D (the `Factor` of
fimviz.model.likelihoods), and a gap's gradient g = Dᵀ c lies in the same row space. So with B = A Aᵀ = Mᵀ D Dᵀ M,
λ = e^s λ̂,

    (F + λI)⁻¹ g = (g − Aᵀ u) / λ,   (B + λ̂ I) u = A g                                                  (Woodbury)

Damping relative to λ_max makes λ̂ = τ μ_max(B), in which e^s has cancelled: a saturated prediction costs no digits.
Where K−1 gradients are too many, u comes from conjugate gradients in their Lanczos form, from products with B by one
VJP and one JVP: the Krylov space does not depend on the shift λ̂, which is set by the largest Ritz value in the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fimviz.fisher.block import inner
from fimviz.fisher.passes import Linearisation
from fimviz.model.likelihoods import Factor

_RESIDUAL = 1e-3  # relative, of a solution by conjugate gradients; a direction needs no more
_ITERATIONS = 40
_LOG_LEAST = -600.0  # of e^s where it is divided by, so that nothing overflows
_ROUNDS = 4  # of fixing pixels that the step would push out of the box


@dataclass(frozen=True)
class Direction:
    """Directions of m traces, uphill: the step goes against them.

    Attributes:
        v: (m, D) in the passes' dtype, up to a positive factor (F + λI)⁻¹ g, zero in the pixels that are held.
        norm: (m,) its L2 norm; fisher: (m,) √(vᵀFv); damped: (m,) √(vᵀ(F + λI)v); float64.
        largest: (m,) λ_max of F, float64.
    """

    v: Tensor
    norm: Tensor
    fisher: Tensor
    damped: Tensor
    largest: Tensor


class Slope:
    """The network's slope at m inputs: all gradients at once ("gram"), or products with them ("cg").

    Args:
        passes: the network at the inputs that differ, m' ≤ m.
        places: (m,) which of them is meant, for traces that leave from the same image.
        factor: S at the m predictions.
        solver: "gram" or "cg".
    """

    def __init__(self, passes: Linearisation, places: Tensor, factor: Factor, solver: str) -> None:
        self.passes, self.places, self.factor, self.solver = passes, places, factor, solver
        self.count = len(passes.logits)
        if solver == "gram":
            # The network's rows are those of the distinct inputs' own winners, which all their traces share.
            mine = torch.zeros(self.count, dtype=torch.long).scatter_(0, places.cpu(), torch.arange(len(places)))
            assert factor.others is not None
            assert factor.winner is not None
            classes = factor.rank + 1
            cotangents = torch.nn.functional.one_hot(factor.others[mine], classes).mT.double()
            cotangents -= torch.nn.functional.one_hot(factor.winner[mine], classes).mT.double()
            # One by one: a batch of cotangents is no quicker where the inputs are a batch already, and takes more room.
            self.rows = torch.cat([passes.vjp(one) for one in cotangents.split(1, 2)], 1)[places]

    def along(self, toward: Tensor, held: Tensor, damping: float, relative: bool, kind: str) -> Direction:
        """Directions for cotangents `toward` (m, K) whose sums are 0, with the pixels `held` (m, D) kept still.

        `kind` is "natural", "gradient" (g itself) or "sign" (that of g).
        """
        if self.solver == "gram":
            return self._by_gram(toward, held, damping, relative, kind)
        return self._by_iteration(toward, held, damping, relative, kind)

    def _by_gram(self, toward: Tensor, held: Tensor, damping: float, relative: bool, kind: str) -> Direction:
        factor, rows = self.factor, self.rows
        if held.any():
            rows = rows * ~held[:, None]
        c = toward.gather(1, factor.others)[..., None]  # type: ignore[arg-type]
        gram = inner(rows, rows)
        m = _matrix(factor)
        b, h = m.mT @ gram @ m, m.mT @ gram @ c
        mu, axes = torch.linalg.eigh(b)
        shift = _shift(mu[:, -1], factor, damping, relative)
        u = axes @ ((axes.mT @ h) / (mu[..., None].clamp_min(0) + shift[:, None, None]))
        if kind == "natural":
            w, whitened = c - m @ u, shift[:, None, None] * u
        else:
            w, whitened = c, h
        v = (w.mT.to(rows) @ rows)[:, 0]
        if kind == "sign":
            v = v.sign()
            whitened = (m.mT.to(rows) @ (rows @ v[..., None])).cpu().double()
        return _direction(v, whitened[..., 0], shift, mu[:, -1], factor)

    def _by_iteration(self, toward: Tensor, held: Tensor, damping: float, relative: bool, kind: str) -> Direction:
        factor, free = self.factor, ~held

        def down(cotangents: Tensor) -> Tensor:
            return self.passes.vjp(cotangents[..., None])[:, 0] * free

        def up(v: Tensor) -> Tensor:
            return factor.from_logits(self.passes.jvp(v * free).cpu().double()[..., None])[..., 0]

        g = down(toward)
        if kind != "natural":
            v = g.sign() if kind == "sign" else g
            unknown = torch.full((len(v),), torch.nan, dtype=torch.float64)
            return _direction(v, up(v), torch.zeros_like(unknown), unknown, factor)

        def product(y: Tensor) -> Tensor:
            return up(down(factor.to_logits(y[..., None])[..., 0]))

        u, shift, largest = _krylov(product, up(g), factor, damping, relative)
        v = g - down(factor.to_logits(u[..., None])[..., 0])
        return _direction(v, shift[:, None] * u, shift, largest, factor)


def bounded(
    slope: Slope,
    toward: Tensor,
    x: Tensor,
    box: tuple[float, float] | None,
    damping: float,
    relative: bool,
    kind: str,
) -> Direction:
    """Directions whose steps leave the box in no pixel that is at its bound already (Bertsekas 1982, in essence).

    Clipping the natural gradient of all pixels need not descend: what the clipped pixels were to balance stays. So
    pixels that a step would push out are held, and the rest is solved for again.
    """
    flat = x.flatten(1)
    held = torch.zeros_like(flat, dtype=torch.bool)
    found = slope.along(toward, held, damping, relative, kind)
    if box is None:
        return found
    low, high, largest = flat <= box[0], flat >= box[1], found.largest
    for _ in range(_ROUNDS):
        pushed = ((low & (found.v > 0)) | (high & (found.v < 0))) & ~held
        if not pushed.any():
            break
        held = held | pushed
        found = slope.along(toward, held, damping, relative, kind)
    return replace(found, largest=largest)


def _krylov(
    product: Callable[[Tensor], Tensor], start: Tensor, factor: Factor, damping: float, relative: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve (B + λ̂ I) u = start (m, r) from products with B; returns u, λ̂ and the largest Ritz value μ, (m,) each.

    In exact arithmetic the iterates are those of conjugate gradients. All vectors are kept and made orthogonal again,
    which costs nothing beside the passes. μ is a lower bound of μ_max, and is its value wherever the solution has
    found that direction.
    """
    size = start.norm(dim=1, keepdim=True)
    basis = [start / size.clamp_min(1e-300)]
    alpha: list[Tensor] = []
    beta: list[Tensor] = []
    for _ in range(min(_ITERATIONS, start.shape[1])):
        image = product(basis[-1])
        alpha.append((image * basis[-1]).sum(1))
        known = torch.stack(basis, 1)
        for _ in range(2):
            image = image - ((known @ image[..., None]).mT @ known)[:, 0]
        beta.append(image.norm(dim=1))
        diagonal, beside = torch.stack(alpha, 1), torch.stack(beta, 1)
        t = torch.diag_embed(diagonal) + torch.diag_embed(beside[:, :-1], 1) + torch.diag_embed(beside[:, :-1], -1)
        mu, axes = torch.linalg.eigh(t)
        shift = _shift(mu[:, -1].clamp_min(0), factor, damping, relative)
        first = size * axes[:, 0] / (mu.clamp_min(0) + shift[:, None])
        y = (axes @ first[..., None])[..., 0]
        # An exhausted space has nothing left to divide; its further vectors are zeros and change nothing.
        ended = beta[-1] <= 1e-7 * mu[:, -1]
        if bool((ended | (beta[-1] * y[:, -1].abs() <= _RESIDUAL * size[:, 0])).all()):
            break
        beta[-1] = torch.where(ended, 0.0, beta[-1])
        basis.append(torch.where(ended[:, None], 0.0, image / beta[-1].clamp_min(1e-300)[:, None]))
    return (y[:, None] @ torch.stack(basis[: len(alpha)], 1))[:, 0], shift, mu[:, -1]


def _matrix(factor: Factor) -> Tensor:
    """M (m, r, r) of A = Mᵀ D."""
    a = factor.a
    return torch.diag_embed(a) - factor.gamma[:, None, None] * (a * a)[..., None] * a[:, None]


def _shift(mu: Tensor, factor: Factor, damping: float, relative: bool) -> Tensor:
    """λ̂ (m,)."""
    if relative:
        return (damping * mu).clamp_min(1e-300)
    return damping * (-factor.log_scale.clamp_min(_LOG_LEAST)).exp()


def _direction(v: Tensor, whitened: Tensor, shift: Tensor, mu: Tensor, factor: Factor) -> Direction:
    """Lengths of v from A v = `whitened`; e^s stays a logarithm to the end."""
    norm = v.cpu().double().norm(dim=1)  # Metal has no float64
    root = (0.5 * factor.log_scale.clamp_min(_LOG_LEAST)).exp()
    squared = whitened.square().sum(1)
    return Direction(
        v=v,
        norm=norm,
        fisher=root * squared.sqrt(),
        damped=root * (squared + shift * norm**2).sqrt(),
        largest=mu * factor.log_scale.exp(),
    )
