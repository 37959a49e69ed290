"""The exact spectrum of F = Jᵀ S J from K−1 vector-Jacobian products.

With S = e^s R Rᵀ (`fimviz.model.likelihoods.Factor`) and the rows A = Rᵀ J, the class-space matrix e^s A Aᵀ has F's
non-zero eigenvalues, and F's eigenvectors are Aᵀ u / √μ. The VJPs that make A run in the network's own precision; R
is well scaled, so that a saturated prediction costs no digits. Everything of class size is float64 on the CPU, where
LAPACK is right, quick at these sizes and at home on every machine; but for the eigenproblems of many inputs or classes,
which a card may solve quicker (`fimviz.fisher.eigen`).
"""

from __future__ import annotations

from fimviz.fisher.block import Block, Ground, eigenvectors, products, rounding_error
from fimviz.fisher.eigen import largest
from fimviz.fisher.method import Asked, Method


def exact(ground: Ground, k: int, vectors: bool, cotangents: int) -> Block:
    """The k largest eigenvalues at every input, `cotangents` VJPs at a time, inside `at_rest()`."""
    factor = ground.factor
    rows = ground.rows(cotangents)
    mu, u = largest(products(rows, rows), k)
    noise, uncertainty = ground.rounding(rows)
    error = rounding_error(mu, noise, uncertainty, factor.rank)
    trace, frobenius, scale = mu.sum(1), mu.norm(dim=1), factor.log_scale.exp()
    none = rows.new_zeros(len(rows), 0, rows.shape[2]).cpu()
    return Block(
        logits=ground.logits,
        logit_error=ground.logit_error,
        eigenvalues=mu[:, :k] * scale[:, None],
        error=error[:, :k] * scale[:, None],
        trace=trace * scale,
        trace_error=error.sum(1) * scale,
        frobenius=frobenius * scale,
        frobenius_error=error.norm(dim=1) * scale,
        eigenvectors=eigenvectors(rows, u, mu[:, :k], factor.ascent, noise) if vectors else none,
        history=trace.new_zeros(len(rows), 0),
        **ground.passes(),
    )


def _run(ground: Ground, asked: Asked) -> Block:
    return exact(ground, asked.k, asked.vectors, asked.cotangents)


EXACT = Method(
    name="exact",
    run=_run,
    guarantee="exact",
    needs="the point, and the gradient of every logit there",
    short="all K gradients",
    formula="λ₁ of F = Σ p_k g_k g_kᵀ, from its Gram matrix",
    whole=True,
)
