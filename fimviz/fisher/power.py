"""Power iteration in input space, as the literature does it, but matrix-free and with its residual.

v ← F v / ‖F v‖ with F v = Aᵀ(A v), A = Rᵀ J: one JVP and one VJP a step. The Rayleigh quotient θ = ‖A v‖² never
exceeds λ₁, and some eigenvalue lies within r = ‖F v − θ v‖ of it; that it is the largest is likely, not certain, so
that θ is a guaranteed lower bound and θ + r an upper one only by experience. Kept for comparison: Lanczos
(`fimviz.fisher.lanczos`) gets more from fewer passes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fimviz._ways import JVP_COST, VJP_COST
from fimviz.fisher.block import Block, Ground, inner, ritz_vectors, rounding_error, unit
from fimviz.fisher.method import Asked, Method

_TOLERANCE = 1e-6


def power(ground: Ground, vectors: bool, tolerance: float | None, max_steps: int, seed: int) -> Block:
    """The leading eigenvalue at every input, to a relative residual, inside `at_rest()`."""
    x = ground.x
    tolerance = tolerance or _TOLERANCE
    factor = ground.factor
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(1, x[0].numel(), generator=generator).to(x).expand(len(x), -1)
    v = unit(v)
    history: list[Tensor] = []
    for _ in range(max_steps):
        h = factor.from_logits(ground.here.jvp(v).cpu().double()[..., None])
        theta = h.square().sum((1, 2))
        history.append(theta)
        fv = ground.here.vjp(factor.to_logits(h))[:, 0]
        residual = (fv - theta[:, None].to(fv) * v).norm(dim=1).cpu().double()
        if (residual <= tolerance * theta).all():
            break
        v = unit(fv)
    y = unit(h)
    rows = ground.here.vjp(factor.to_logits(y))
    mu = inner(rows, rows)[..., 0]
    root = mu.sqrt()
    # vᵀF v is also v · F v: what they are apart is rounding.
    apart = inner(v[:, None], fv[:, None])[..., 0] - theta[:, None]
    noise = torch.maximum(ground.noise(root, apart.abs() / root.clamp_min(1e-300)), ground.rounding(rows, y)[0])
    error = rounding_error(mu, noise, ground.uncertainty(), factor.rank) + 2 * root * noise + residual[:, None]
    scale, unknown = factor.log_scale.exp(), torch.full_like(theta, torch.nan)
    return Block(
        logits=ground.logits,
        logit_error=ground.logit_error,
        eigenvalues=mu * scale[:, None],
        error=error * scale[:, None],
        trace=unknown,
        trace_error=unknown,
        frobenius=unknown,
        frobenius_error=unknown,
        eigenvectors=ritz_vectors(rows, y, mu, factor.ascent, noise, vectors),
        history=torch.stack(history, 1) * scale[:, None],
        **ground.passes(),
    )


def _run(ground: Ground, asked: Asked) -> Block:
    return power(ground, asked.vectors, asked.tolerance, asked.max_steps, asked.seed)


POWER = Method(
    name="power",
    run=_run,
    guarantee="lower",
    needs="the point, and gradients of logits there with products along directions, until nothing moves",
    short="products with F, one direction",
    formula="vᵀFv after v ← Fv / ‖Fv‖",
    cost=VJP_COST + JVP_COST,
    rows=lambda rank, max_steps: 1,
    along=True,
    most=1,
    totals=False,
)
