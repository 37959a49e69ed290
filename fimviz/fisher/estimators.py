"""Random estimators of the spectrum from gradients or queries: Hutchinson's, and the published ones with their bias.

Those named `published_…` are kept exactly as the public code of "Measuring Model Robustness via Fisher Information"
(arXiv 2606.04767) computes them, so that a reader can see them beside the exact value. They are not recommended.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fimviz._ways import VJP_COST, Way, table
from fimviz.fisher.block import Ground, inner
from fimviz.fisher.sketch import Differences, few_probes, frame, half_width, means, moments
from fimviz.model.blackbox import BlackBox
from fimviz.model.classifier import Classifier


@dataclass(frozen=True)
class Estimate:
    """An estimate at each of n inputs; on the CPU, float64.

    Attributes:
        value: (n,).
        low, high: (n,), an interval for the truth; infinite where nothing is said.
        guarantee: "statistical": the interval holds the truth 95 times in 100. "lower": the truth is no smaller.
        forwards, vjps, jvps: (n,) passes; a query is a forward.
        history: (n, m), the estimate after each probe; NaN where one probe says nothing.
    """

    value: Tensor
    low: Tensor
    high: Tensor
    guarantee: str
    forwards: Tensor
    vjps: Tensor
    jvps: Tensor
    history: Tensor


def hutchinson(
    net: Classifier, x: Tensor, *, probes: int = 100, seed: int = 0, cotangents: int = 16
) -> tuple[Estimate, Estimate]:
    """Trace and Frobenius norm of F from random VJPs, inside `at_rest()`.

    With F = AᵀA and g_1..g_m random orthonormal in class space (r dimensions), r·mean ‖Aᵀg_i‖² is unbiased for tr F
    (Hutchinson 1990, with orthonormal probes), and the inner products ⟨Aᵀg_i, Aᵀg_j⟩ give ‖F‖_F without JVPs
    (`fimviz.fisher.sketch.moments`). Never more than r VJPs, which give both exactly, and one to measure
    rounding.

    Args:
        net: the classifier.
        x: (n, …) inputs from `net.admit` on its device; float64 ones take the passes through float64.
        probes: VJPs an input, at least 3.
        seed: of the probes, which depend on the input too.
        cotangents: VJPs at a time.

    Returns:
        The trace in nats per squared pixel unit, and the norm likewise, with 95 % intervals.

    Example, p = softmax(x) at p = (½, ½), where F has the one eigenvalue ½:
        >>> import torch
        >>> net = Classifier(torch.nn.Identity())
        >>> x = net.admit(torch.zeros(1, 2, dtype=torch.float64))
        >>> with net.at_rest():
        ...     trace, frobenius = hutchinson(net, x)
        >>> round(trace.value.item(), 6), round(frobenius.value.item(), 6), trace.vjps.item()
        (0.5, 0.5, 2)
    """
    ground = Ground(net, x, precise=False)
    d, scale = ground.factor.rank, ground.factor.log_scale.exp()
    m = min(probes, d)
    if m < min(3, d):
        raise ValueError(f"probes is {probes}, expected at least 3")
    g = _frames(x, d, m, seed, orthonormal=True)
    rows = _rows(ground, g, cotangents)
    gram, rounding = inner(rows, rows), _rounding(ground, rows, g)
    trace, _, frobenius, frobenius_error = moments(gram, d)
    partial = [means(gram[:, :i, :i], d) for i in range(1, m)]
    # About the logarithm, as many times below as above.
    wide = frobenius + half_width(frobenius, frobenius_error, m)
    limits = few_probes(gram, d)[:2], (frobenius**2 / wide.clamp_min(1e-300), wide)
    results = []
    for place, value in enumerate((trace, frobenius)):
        history = torch.stack([*(p[place] for p in partial), value], 1)
        if place and d > 1:
            history[:, :1] = torch.nan
        low, high = limits[place]
        results.append(
            Estimate(
                value * scale,
                low * (1 - rounding).clamp_min(0) * scale,
                high * (1 + rounding) * scale,
                "statistical",
                **ground.passes(),
                history=history * scale[:, None],
            )
        )
    return results[0], results[1]


def published_whitebox(
    net: Classifier, x: Tensor, *, probes: int = 100, seed: int = 0, cotangents: int = 16
) -> Estimate:
    """The published estimate of λ₁ with gradients, inside `at_rest()`: the largest of m random Rayleigh quotients.

    With the K×D matrix a of rows √p_y ∇log p_y, max_i uᵢᵀ(a aᵀ)uᵢ / ‖uᵢ‖² over m normal uᵢ ∈ R^K. No quotient exceeds
    λ₁, and a random direction is rarely near the leading one: for F of rank one, m = 100, the estimate is on average
    0.93 λ₁ (K = 4), 0.58 (10), 0.075 (100), 0.008 (1000), so that it cannot be compared between numbers of classes.
    a aᵀ has the null vector √p; the part of u along it is drawn as a number, the rest in the r = K − 1 dimensions of
    `fimviz.model.likelihoods.Factor`, which leaves the distribution as it is and saturated predictions their digits.
    Costs min(m, r) VJPs, and one to measure rounding; the public code takes K, for the same quotients.

    Args:
        net: the classifier.
        x: (n, …) inputs from `net.admit` on its device.
        probes: m, published as 100.
        seed: of the directions, which depend on the input too.
        cotangents: VJPs at a time.
    """
    ground = Ground(net, x, precise=False)
    rank, nulls = ground.factor.rank, len(net.classes) - ground.factor.rank
    # Components of a uniform direction in R^K: those beyond the rank are along null vectors.
    g = _frames(x, rank + nulls, probes, seed, orthonormal=False)[:, :rank]
    if rank <= probes:
        eye = torch.eye(rank, dtype=torch.float64).expand(len(x), -1, -1)
        rows = _rows(ground, eye, cotangents)
        quotients, rounding = (g * (inner(rows, rows) @ g)).sum(1), _rounding(ground, rows, eye)
    else:
        rows = _rows(ground, g, cotangents)
        quotients, rounding = rows.norm(dim=2).cpu().double().square(), _rounding(ground, rows, g)
    return _largest(quotients * ground.factor.log_scale.exp()[:, None], rounding, ground.passes())


def published_blackbox(
    net: BlackBox | Classifier, x: Tensor, *, probes: int = 100, step: float = 1e-3, seed: int = 0
) -> Estimate:
    """The published estimate of λ₁ from queries, inside `at_rest()`: the largest of m directions in input space.

    max_i Σ_y p_y (∂ log p_y/∂v_i)² over m uniform unit v_i ∈ R^D, by central differences. A random direction in so many
    dimensions sees next to nothing of the leading one: about 7.8/D of λ₁ for m = 100 and F of rank one. The sum is
    formed as a variance of logit differences, equal up to O(h²) and exact where predictions are saturated. A lower
    bound up to the error of the differences, which is not counted. Costs 2m + 1 queries.

    Args:
        net: a `BlackBox`, or a `Classifier` used as one.
        x: (n, …) inputs from `net.admit`.
        probes: m, published as 100.
        step: h in L2 input units.
        seed: of the directions, which depend on the input too.
    """
    quotients, queries = [], []
    for one in x:
        ask = Differences(net, one)
        slopes, _ = ask.along(frame(one, one.numel(), probes, seed, orthonormal=False)[0], step)
        quotients.append(slopes.square().sum(0) * ask.factor.log_scale.exp())
        queries.append(ask.queries)
    none = torch.zeros(len(x), dtype=torch.int64)
    passes = {"forwards": torch.tensor(queries), "vjps": none, "jvps": none}
    return _largest(torch.stack(quotients), torch.zeros(len(x)).double(), passes)


def _rounding(ground: Ground, rows: Tensor, basis: Tensor) -> Tensor:
    """How much of a value (n,) may have been rounded away, from rows basisᵀA (n, m, D)."""
    noise, uncertainty = ground.rounding(rows, basis)
    share = noise[:, 0] / rows.norm(dim=(1, 2)).cpu().double().clamp_min(1e-300)
    return 2 * share + share**2 + uncertainty


def _frames(x: Tensor, dimension: int, count: int, seed: int, orthonormal: bool) -> Tensor:
    return torch.stack([frame(one, dimension, count, seed, orthonormal)[0].double() for one in x])


def _rows(ground: Ground, g: Tensor, cotangents: int) -> Tensor:
    """Products gᵀA (n, m, D) for g (n, r, m), some VJPs at a time."""
    return torch.cat([ground.here.vjp(ground.factor.to_logits(some)) for some in g.split(cotangents, 2)], 1)


def _largest(quotients: Tensor, rounding: Tensor, passes: dict[str, Tensor]) -> Estimate:
    history = quotients.cummax(1).values
    value = history[:, -1]
    beyond = torch.full_like(value, math.inf)
    return Estimate(value, value * (1 - rounding), beyond, "lower", **passes, history=history)


def _of_trace(net: Classifier, x: Tensor, *, probes: int, seed: int) -> Estimate:
    """`hutchinson`'s trace, with what it says of λ₁: λ₁ ≤ tr F ≤ r λ₁ at a rank of r."""
    trace, _ = hutchinson(net, x, probes=probes, seed=seed)
    rank = min(net.likelihood.rank(len(net.classes)), x[0].numel())
    return replace(trace, low=trace.low / rank)


@dataclass(frozen=True, kw_only=True)
class Estimator(Way):
    """A random estimate of λ₁, or of what bounds it; run: (net, x, *, probes, seed) → `Estimate` in `at_rest()`."""

    run: Callable[..., Estimate]


ESTIMATORS = table(
    Estimator(
        name="published-whitebox",
        run=published_whitebox,
        guarantee="lower",
        needs="the point, and a gradient of logits there for each random direction",
        short="random directions, gradients",
        cost=VJP_COST,
    ),
    Estimator(
        name="published-blackbox",
        run=published_blackbox,
        guarantee="lower",
        needs="the point, and answers of the model around it",
        short="random directions, queries",
        cost=2,
        sees="answers",
    ),
    Estimator(
        name="hutchinson-trace",
        run=_of_trace,
        guarantee="statistical",
        needs="the point, and a gradient of logits there for each random direction",
        short="random directions; aims at tr F",
        formula="the mean of zᵀFz over random z: tr F ≥ λ₁",
        cost=VJP_COST,
    ),
)
