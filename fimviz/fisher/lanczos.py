"""The leading eigenvalues of F for thousands of classes: Lanczos in class space.

F's non-zero eigenvalues are those of the r×r operator e^s A Aᵀ with A = Rᵀ J (`fimviz.likelihood.Factor`), whatever
the size of the images. A step costs one VJP and one JVP; the vectors are of class size, so that keeping all of them
orthogonal is free. The rows v_j = Aᵀ q_j that the VJPs give also hold the Rayleigh quotients (T = V Vᵀ) and the
eigenvectors, so that nothing is computed for these again.

A Ritz value θ is a lower bound of its eigenvalue, and lies within res²/gap of one, res = ‖A Aᵀ y − θ y‖ (Parlett,
The Symmetric Eigenvalue Problem, §10–11). That no larger eigenvalue was missed rests on the random start, which has
no component along an eigenvector with probability 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fimviz.classifier import Classifier
from fimviz.fisher.block import Block, Ground, polished, ritz_error


def lanczos(
    net: Classifier, x: Tensor, k: int, vectors: bool, tolerance: float, max_steps: int, seed: int, verify: bool
) -> Block:
    """The k largest eigenvalues at every input of x (n, …) to a relative iteration error, inside `at_rest()`."""
    ground = Ground(net, x, verify)
    factor = ground.factor
    limit = min(factor.rank, x[0].numel(), max_steps)
    generator = torch.Generator().manual_seed(seed)
    q = factor.a * torch.randn(1, factor.rank, dtype=torch.float64, generator=generator)
    q = torch.nn.functional.normalize(q, dim=1)
    basis, rows = q.new_zeros(len(x), factor.rank, 0), x.new_zeros(len(x), 0, x[0].numel())
    rayleigh = q.new_zeros(len(x), 0, 0)
    for _ in range(limit):
        v = ground.here.vjp(factor.to_logits(q[..., None]))
        if not v.isfinite().all():
            raise FloatingPointError("the gradient of the logits toward the images is NaN or infinite for some image")
        basis, rows = torch.cat([basis, q[..., None]], 2), torch.cat([rows, v], 1)
        rayleigh = _bordered(rayleigh, (rows.double() @ v.mT.double())[..., 0].cpu())
        w = factor.from_logits(ground.here.jvp(v[:, 0]).cpu().double()[..., None])
        for _ in range(2):  # twice is enough (Kahan), once is not
            w = w - basis @ (basis.mT @ w)
        beta = w[..., 0].norm(dim=1, keepdim=True)
        theta, s = torch.linalg.eigh(rayleigh)
        theta, s = theta.flip(-1).clamp_min(0), s.flip(-1)
        residual = beta * s[:, -1].abs()
        wanted = theta[:, :k]
        enough = theta.shape[1] > k or theta.shape[1] == limit
        if enough and (ritz_error(theta, residual)[:, :k] <= tolerance * wanted.clamp_min(1e-6 * theta[:, :1])).all():
            break
        # Where the Krylov space is exhausted its eigenvalues are exact, and the zero vector adds nothing.
        q = torch.where(beta > 1e-14 * theta[:, :1], w[..., 0] / beta.clamp_min(1e-300), 0.0)
    if theta.shape[1] == factor.rank:
        residual = torch.zeros_like(residual)

    u = basis @ s[..., :k]
    found = polished(ground, s[..., :k].mT.to(rows) @ rows, u)
    beyond = torch.cat([found.mu, theta[:, k:]], 1)
    off = torch.nn.functional.pad(residual[:, :k] + found.off, (0, beyond.shape[1] - k))
    error = found.error + ritz_error(beyond, off)[:, :k]
    rest, rest_error = _rest(ground, basis, generator)
    scale = factor.log_scale.exp()
    return Block(
        logits=ground.logits,
        eigenvalues=found.mu * scale[:, None],
        error=error * scale[:, None],
        trace=(beyond.sum(1) + rest) * scale,
        trace_error=(error.sum(1) + off.sum(1) + rest_error) * scale,
        frobenius=beyond.norm(dim=1) * scale,
        frobenius_error=(error.norm(dim=1) + off.norm(dim=1) + rest + rest_error) * scale,
        eigenvectors=found.eigenvectors(factor.ascent, vectors),
        **ground.passes(),
    )


def _bordered(matrix: Tensor, column: Tensor) -> Tensor:
    """A symmetric matrix (n, m, m) with one more row and column (n, m + 1)."""
    grown = torch.nn.functional.pad(matrix, (0, 1, 0, 1))
    grown[:, -1] = grown[:, :, -1] = column
    return grown


def _rest(ground: Ground, basis: Tensor, generator: torch.Generator, probes: int = 2) -> tuple[Tensor, Tensor]:
    """The trace (n,) of what the Krylov space leaves, with its standard error: Hutchinson on the complement."""
    missing = ground.factor.rank - basis.shape[2]
    if missing <= 0:
        return basis.new_zeros(len(basis)), basis.new_zeros(len(basis))
    g = torch.randn(len(basis), ground.factor.rank, probes, dtype=torch.float64, generator=generator)
    g = g - basis @ (basis.mT @ g)
    squares = ground.here.vjp(ground.factor.to_logits(g)).double().square().sum(2).cpu()
    # With so few probes their own spread says little; for a rank of one it is √2 of the value.
    return squares.mean(1), squares.mean(1) * (2 / probes) ** 0.5
