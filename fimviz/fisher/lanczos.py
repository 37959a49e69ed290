"""The leading eigenvalues of F for thousands of classes: Lanczos in class space.

F's non-zero eigenvalues are those of the r×r operator e^s A Aᵀ with A = Rᵀ J (`fimviz.likelihood.Factor`), whatever
the size of the images. A step costs one VJP and one JVP; the vectors are of class size, so that keeping all of them
orthogonal is free. The rows v_j = Aᵀ q_j that the VJPs give also hold the Rayleigh quotients (T = V Vᵀ) and the
eigenvectors, so that nothing is computed for these again.

A Ritz value θ is a lower bound of its eigenvalue, and lies within res²/gap of one, res = ‖A Aᵀ y − θ y‖ (Parlett,
The Symmetric Eigenvalue Problem, §10–11). From one start that proves nothing about equal or nearly equal eigenvalues:
of a cluster narrower than res it sees one direction, with a tiny res²/gap (half of the clustered spectra tried were
beyond their stated error). So what has converged must survive three steps from another random vector.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fimviz.classifier import Classifier
from fimviz.fisher.block import Block, Ground, inner, polished, ritz_error


def lanczos(
    net: Classifier, x: Tensor, k: int, vectors: bool, tolerance: float, max_steps: int, seed: int, verify: bool
) -> Block:
    """The k largest eigenvalues at every input of x (n, …) to a relative iteration error, inside `at_rest()`."""
    ground = Ground(net, x, verify)
    factor = ground.factor
    limit = min(factor.rank, max_steps)
    generator = torch.Generator().manual_seed(seed)
    eps = torch.finfo(x.dtype).eps

    def random() -> Tensor:
        start = factor.a * torch.randn(1, factor.rank, dtype=torch.float64, generator=generator)
        return torch.nn.functional.normalize(start, dim=1)

    q, exploring, confirmed = random(), 0, False
    settled: Tensor | None = None
    rows: list[Tensor] = []
    basis, rayleigh = q.new_zeros(len(x), factor.rank, 0), q.new_zeros(len(x), 0, 0)
    history: list[Tensor] = []
    left = basis  # A Aᵀ basis, as far as it lies outside of it
    for _ in range(limit):
        v = ground.here.vjp(factor.to_logits(q[..., None]))
        if not v.isfinite().all():
            raise FloatingPointError("the gradient of the logits toward the images is NaN or infinite for some image")
        basis, rows = torch.cat([basis, q[..., None]], 2), [*rows, v]
        rayleigh = _bordered(rayleigh, torch.cat([inner(row, v) for row in rows], 1)[..., 0])
        w = factor.from_logits(ground.here.jvp(v[:, 0]).cpu().double()[..., None])
        w = _orthogonal(w, basis)
        left = torch.cat([_orthogonal(left, q[..., None]), w], 2)
        theta, s = torch.linalg.eigh(rayleigh)
        theta, s = theta.flip(-1).clamp_min(0), s.flip(-1)
        history.append(theta[:, 0])
        residuals = left @ s
        residual = residuals.norm(dim=1)
        wanted, iteration = theta[:, :k], ritz_error(theta, residual)[:, :k]
        allowed = tolerance * wanted.clamp_min(1e-6 * theta[:, :1])
        exploring = max(0, exploring - 1)
        toward = w[..., 0]
        if not exploring:
            toward = residuals.gather(2, iteration.argmax(1)[:, None, None].expand(-1, factor.rank, 1))[..., 0]
            if (theta.shape[1] > k or theta.shape[1] == limit) and (iteration <= allowed).all():
                if settled is not None and (wanted - settled <= allowed + eps * theta[:, :1]).all():
                    confirmed = True
                    break
                settled, exploring, toward = wanted, 3, torch.zeros_like(toward)
        length = toward.norm(dim=1, keepdim=True)
        # Where nothing is left in the Krylov space, another random vector finds eigenvalues that equal one in it.
        q = torch.where(length > 1e-14 * theta[:, :1], toward / length.clamp_min(1e-300), random())
        q = torch.nn.functional.normalize(_orthogonal(q[..., None], basis)[..., 0], dim=1)
    if theta.shape[1] == factor.rank:
        residual = torch.zeros_like(residual)

    u = basis @ s[..., :k]
    leading = x.new_zeros(len(x), wanted.shape[1], x[0].numel())
    for at, row in enumerate(rows):  # one by one: together they would take their memory twice
        leading += s[:, at, :k, None].to(row) * row
    del rows
    found = polished(ground, leading, u)
    beyond = torch.cat([found.mu, theta[:, k:]], 1)
    error = found.error + ritz_error(beyond, residual + found.off)[:, :k]
    rest, rest_error = _rest(ground, basis, generator, probes=2 if confirmed else 8)
    # λ_i ≤ θ_i + the trace that the basis leaves (Weyl); eight probes put it below a tenth of itself once in a thousand
    # times at most.
    bound = error if confirmed else torch.maximum(error, 10 * rest[:, None])
    noise = found.error.sum(1) + theta.shape[1] * found.off[:, 0]
    scale = factor.log_scale.exp()
    block = Block(
        logits=ground.logits,
        eigenvalues=found.mu * scale[:, None],
        error=bound * scale[:, None],
        trace=(beyond.sum(1) + rest) * scale,
        trace_error=(noise + rest_error) * scale,
        frobenius=beyond.norm(dim=1) * scale,
        frobenius_error=(noise + 2**0.5 * residual.norm(dim=1) + rest + rest_error) * scale,
        eigenvectors=found.eigenvectors(factor.ascent, vectors),
        history=torch.stack(history, 1) * scale[:, None],
        **ground.passes(),
    )
    del ground
    return block.mended(found.moved, x, lambda part: lanczos(net, part, k, vectors, tolerance, max_steps, seed, False))


def _bordered(matrix: Tensor, column: Tensor) -> Tensor:
    """A symmetric matrix (n, m, m) with one more row and column (n, m + 1)."""
    grown = torch.nn.functional.pad(matrix, (0, 1, 0, 1))
    grown[:, -1] = grown[:, :, -1] = column
    return grown


def _orthogonal(w: Tensor, basis: Tensor) -> Tensor:
    """What of w (n, r, m) lies outside the basis (n, r, j)."""
    for _ in range(2):  # twice is enough (Kahan), once is not
        w = w - basis @ (basis.mT @ w)
    return w


def _rest(ground: Ground, basis: Tensor, generator: torch.Generator, probes: int) -> tuple[Tensor, Tensor]:
    """The trace (n,) of what the basis leaves, with its standard error: Hutchinson on the complement."""
    missing = ground.factor.rank - basis.shape[2]
    if missing <= 0:
        return basis.new_zeros(len(basis)), basis.new_zeros(len(basis))
    g = torch.randn(len(basis), ground.factor.rank, min(probes, missing), dtype=torch.float64, generator=generator)
    g = _orthogonal(g, basis)
    if missing <= probes:  # all of it, then, and no sample
        g = torch.linalg.qr(g).Q * missing**0.5
    squares = ground.here.vjp(ground.factor.to_logits(g)).double().square().sum(2).cpu()
    # With so few probes their own spread says little; for a rank of one it is √2 of the value.
    return squares.mean(1), squares.mean(1) * ((2 / probes) ** 0.5 if missing > probes else 0)
