"""The leading eigenvalues of F for thousands of classes: Lanczos in class space.

F's non-zero eigenvalues are those of the r×r operator e^s A Aᵀ with A = Rᵀ J (`fimviz.model.likelihoods.Factor`),
whatever the size of the images. A step costs one VJP and one JVP; the vectors are of class size, so that keeping all
of them orthogonal is free. The rows v_j = Aᵀ q_j that the VJPs give also hold the Rayleigh quotients (T = V Vᵀ) and the
eigenvectors, so that nothing is computed for these again.

A Ritz value θ is a lower bound of its eigenvalue, and lies within res²/gap of one, res = ‖A Aᵀ y − θ y‖ (Parlett,
The Symmetric Eigenvalue Problem, §10–11). From one start that proves nothing about equal or nearly equal eigenvalues:
of a cluster narrower than res it sees one direction, with a tiny res²/gap (half of the clustered spectra tried were
beyond their stated error). So what has converged must survive three steps from another random vector, or two whose
Rayleigh quotient is then still far below all that is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fimviz._ways import JVP_COST, VJP_COST
from fimviz.fisher.block import Block, Ground, inner, products, ritz_error, ritz_vectors, rounding_error, unit
from fimviz.fisher.method import Asked, Method
from fimviz.fisher.rest import Rest, orthogonal, rest, unknown_rest

_TOLERANCE = 1e-6
# Of a start, what is random.
_RANDOM = 1e-3
# Of the smallest wanted value. Of 540 spectra with two values moved together, three steps missed 6, and so does this.
_FAR = 0.2
# Of the trace that a basis leaves: of one that was confirmed, and of one that was not.
_PROBES, _PROBES_UNCONFIRMED = 4, 8


def lanczos(
    ground: Ground,
    k: int,
    vectors: bool,
    tolerance: float | None,
    max_steps: int,
    seed: int,
    totals: bool = True,
) -> Block:
    """The k largest eigenvalues at every input to a relative iteration error, inside `at_rest()`.

    By default to 1e-6, or where rounding alone is stated to move an eigenvalue by twice as much. What the trace takes
    beside them is left out without `totals`, where another random vector has confirmed that none was missed.
    """
    tolerance = max(_TOLERANCE, ground.usual) if tolerance is None else tolerance
    search = _search(ground, k, tolerance, max_steps, torch.Generator().manual_seed(seed), totals)
    u = search.basis @ search.turn[..., :k]
    rows = ground.x.new_zeros(len(u), u.shape[2], ground.x[0].numel())
    while search.rows:  # one by one: together they would take their memory twice
        row = search.rows.pop()
        rows += search.turn[:, len(search.rows), :k, None].to(row) * row
    # Once more among themselves: the sums were rounded.
    mu, turn = torch.linalg.eigh(inner(rows, rows))
    mu, turn = mu.flip(-1).clamp_min(0), turn.flip(-1)
    rows, u = turn.mT.to(rows) @ rows, u @ turn
    factor, scale, k = ground.factor, ground.factor.log_scale.exp(), mu.shape[1]
    theta = torch.cat([mu, search.theta[:, k:]], 1)
    root = theta[:, :1].sqrt()
    each = ground.noise(search.sizes, search.apart / root.clamp_min(1e-300))
    noise = (search.turn.square().mT @ each.square()[..., None])[..., 0].sqrt()
    share = each.norm(dim=1) / search.sizes.norm(dim=1).clamp_min(1e-300)
    if not ground.trusted(search.sizes, search.apart / root.clamp_min(1e-300)):
        common = ground.rounding(rows, u)[0]
        noise = torch.maximum(noise, common)
        share = torch.maximum(share, common[:, 0] / mu.sum(1).sqrt().clamp_min(1e-300))
    residual = search.residual + 2 * root * noise  # a product with F moves as its row does, and as the JVP does
    noise = noise[:, :k]
    rounding = rounding_error(mu, noise, ground.uncertainty(), factor.rank)
    # Twice, because the gap is one of Ritz values, which an eigenvalue that is still on its way may narrow: of 9,000
    # intervals on real networks in float64 one was 1 % too short.
    error = rounding + torch.minimum(2 * ritz_error(theta, residual), residual)[:, :k]
    left = search.rest
    # λ_i ≤ θ_i + the trace that the basis leaves (Weyl); eight probes put it below a tenth of itself once in a thousand
    # times at most.
    bound = error if search.confirmed else torch.maximum(error, 10 * left.trace[:, None])
    trace = search.captured + (mu - search.theta[:, :k]).sum(1) + left.trace
    frobenius = (search.squares + left.frobenius**2).sqrt()
    share = 2 * share + share**2 + ground.uncertainty()  # rounding moves all rows of A as it does those of the basis
    return Block(
        logits=ground.logits,
        logit_error=ground.logit_error,
        eigenvalues=mu * scale[:, None],
        error=bound * scale[:, None],
        trace=trace * scale,
        trace_error=(share * trace + left.trace_error) * scale,
        frobenius=frobenius * scale,
        frobenius_error=(share * frobenius + left.beyond(search.squares, frobenius)) * scale,
        eigenvectors=ritz_vectors(rows, u, mu, factor.ascent, noise, vectors),
        history=search.history * scale[:, None],
        **ground.passes(),
    )


@dataclass
class _Search:
    """What the iteration found at n inputs in m steps."""

    basis: Tensor  # (n, r, m), orthonormal
    rows: list[Tensor]  # m of (n, 1, D), Aᵀ of its vectors
    theta: Tensor  # (n, m), Ritz values, descending
    turn: Tensor  # (n, m, m), their vectors in the basis
    residual: Tensor  # (n, m)
    history: Tensor  # (n, m), λ₁ after every step
    confirmed: bool  # whether another random vector has found nothing more
    captured: Tensor  # (n,) the trace that the basis held when it had converged
    squares: Tensor  # (n,) ‖F‖²_F without the block beyond that basis
    rest: Rest  # what that basis left; NaN where nobody asks
    sizes: Tensor  # (n, m), ‖v_j‖
    apart: Tensor  # (n, m), how far Rayleigh quotients with v_j from VJPs and from a JVP are apart: rounding


def _search(
    ground: Ground, k: int, tolerance: float, max_steps: int, generator: torch.Generator, totals: bool
) -> _Search:
    factor, count = ground.factor, len(ground.logits)
    limit = min(factor.rank, max_steps)

    def random(n: int) -> Tensor:
        return torch.randn(n, factor.rank, 1, dtype=torch.float64, generator=generator)

    # A network of ReLUs without biases has J x = z. Biased or not, one to three steps fewer than from noise.
    q = unit(factor.from_logits(ground.logits[..., None])[..., 0])
    q = unit(q + _RANDOM * random(1)[..., 0])
    exploring, confirmed = 0, False
    settled = allowed = apart = q.new_zeros(count, 0)
    captured = squares = q.new_zeros(count)
    known = 0
    rows: list[Tensor] = []
    basis, rayleigh = q.new_zeros(count, factor.rank, 0), q.new_zeros(count, 0, 0)
    history: list[Tensor] = []
    left = basis  # A Aᵀ basis, as far as it lies outside of it
    for _ in range(limit):
        v = ground.here.vjp(factor.to_logits(q[..., None]))
        # On a card the products are waited for once.
        column = torch.cat([products(row, v) for row in [*rows, v]], 1).cpu().double()[..., 0]
        if exploring == 2 and (column[:, -1] < _FAR * settled[:, -1]).all():
            confirmed = True
            break
        if exploring == 1:  # the last of them: its Ritz values say enough, without a JVP for its residual
            raised = torch.linalg.eigvalsh(_bordered(rayleigh, column)).flip(-1)[:, :k]
            if (raised - settled <= allowed + ground.eps * raised[:, :1]).all():
                confirmed = True
                break
        basis, rows, rayleigh = torch.cat([basis, q[..., None]], 2), [*rows, v], _bordered(rayleigh, column)
        w = factor.from_logits(ground.here.jvp(v[:, 0]).cpu().double()[..., None])
        apart = torch.cat([apart, ((basis.mT @ w)[..., 0] - column).norm(dim=1, keepdim=True)], 1)
        w = orthogonal(w, basis)
        left = torch.cat([orthogonal(left, q[..., None]), w], 2)
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
                settled, known = wanted, theta.shape[1]
                captured, squares = theta.sum(1), theta.square().sum(1) + 2 * left.square().sum((1, 2))
                exploring, toward = 3, torch.zeros_like(toward)
        length = toward.norm(dim=1, keepdim=True)
        # Where nothing is left in the Krylov space, another random vector finds eigenvalues that equal one in it.
        q = torch.where(length > 1e-14 * theta[:, :1], toward / length.clamp_min(1e-300), random(count)[..., 0])
        q = orthogonal(q[..., None], basis)[..., 0]
        q = unit(q)
    if theta.shape[1] == factor.rank:
        residual = torch.zeros_like(residual)
    if not confirmed:
        captured, squares, known = theta.sum(1), theta.square().sum(1) + 2 * residual.square().sum(1), theta.shape[1]
    # The vector that confirmed is a first probe of what the basis left then.
    probes, begun = (_PROBES, 1) if confirmed else (_PROBES_UNCONFIRMED, 0)
    if totals or not confirmed:  # else the bound of what was missed rests on it
        found = rest(ground, basis[..., : known + begun], rows[known : known + begun], probes, generator)
    else:
        found = unknown_rest(count)
    sizes = rayleigh.diagonal(dim1=1, dim2=2).sqrt()
    return _Search(
        basis, rows, theta, s, residual, torch.stack(history, 1), confirmed, captured, squares, found, sizes, apart
    )


def _bordered(matrix: Tensor, column: Tensor) -> Tensor:
    """A symmetric matrix (n, m, m) with one more row and column (n, m + 1)."""
    grown = torch.nn.functional.pad(matrix, (0, 1, 0, 1))
    grown[:, -1] = grown[:, :, -1] = column
    return grown


def _run(ground: Ground, asked: Asked) -> Block:
    return lanczos(ground, asked.k, asked.vectors, asked.tolerance, asked.max_steps, asked.seed, asked.totals)


LANCZOS = Method(
    name="lanczos",
    run=_run,
    guarantee="interval",
    needs="the point, and some gradients of logits there, each with a product along a direction",
    short="a few products with F",
    formula="the largest Ritz value of F on a Krylov space",
    cost=VJP_COST + JVP_COST,
    rows=min,
    along=True,
)
