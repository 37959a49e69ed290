"""Quadratic forms ½ δᵀF(x)δ for displacements δ of any size, in float64 wherever the network can.

With S = e^s R Rᵀ (`fimviz.model.likelihoods.Factor`) and A = Rᵀ J, ½ δᵀFδ = ½ e^s ‖A δ‖². A at an input serves all its
displacements by one matrix product; where there are more classes than displacements, each takes a product with J.
Passes in float32 would lose digits twice: A δ cancels, and an input on a kink may fall to another linear piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fimviz.fisher.block import Ground, inner, rounding_error
from fimviz.fisher.lanczos import lanczos
from fimviz.model.classifier import Classifier
from fimviz.model.engine.parts import by_rows
from fimviz.model.engine.plan import plan
from fimviz.model.engine.progress import Tick, silent

_GRADIENTS = 32  # of one input, that are cheaper than an iteration for λ₁ and products with J
_STEPS = 100


@dataclass(frozen=True)
class Point:
    """F at one input, ready for displacements.

    Attributes:
        logits: (K,) float64, on the CPU.
        spectral_norm: λ₁ of F, in nats per squared pixel unit.
        half_form: displacements (m, D) → ½ δᵀFδ (m,) in nats and how far rounding may have moved it (m,).
    """

    logits: Tensor
    spectral_norm: float
    half_form: Callable[[Tensor], tuple[Tensor, Tensor]]


def precision(net: Classifier) -> torch.dtype:
    """The precision of the passes: float64 where the network and its device can."""
    return torch.float64 if net.has_float64 else net.dtype


def points(
    net: Classifier,
    x: Tensor,
    displacements: int,
    max_memory: float | None,
    progress: Tick = silent,
) -> Iterator[Point]:
    """F at every input of an admitted batch x (n, …), in order, for at most so many displacements of each.

    Use it inside `net.at_rest()`, each point before the next.
    """
    few, whole = _rows(net, displacements)
    inputs, cotangents = plan(net, x, 1, False, few, not whole, False, max_memory, precision(net))

    def compute(places: list[int], cotangents: int) -> list[Point]:
        here = x[places].to(net.device, precision(net))
        return list(_from_rows(net, here, cotangents) if whole else _from_products(net, here))

    for places, some in by_rows(range(len(x)), inputs if whole else 1, cotangents, compute):
        yield from some
        del some  # before the next are computed
        progress(places[-1] + 1, len(x))


def passes_of_a_point(net: Classifier, displacements: int) -> float:
    """How many forward passes the `points` take at an input, roughly: one back takes as long as two."""
    few, whole = _rows(net, displacements)
    return 1.0 + 2 * few + (0 if whole else 3 * displacements)


def _rows(net: Classifier, displacements: int) -> tuple[int, bool]:
    """How many rows of A are held at an input, and whether these are all."""
    rank = net.likelihood.rank(len(net.classes))
    whole = rank <= max(_GRADIENTS, displacements)
    return rank if whole else min(rank, _STEPS), whole


def _from_rows(net: Classifier, x: Tensor, cotangents: int) -> Iterator[Point]:
    ground = Ground(net, x, False)
    rows = ground.rows(cotangents)
    mu = torch.linalg.eigvalsh(inner(rows, rows))[:, -1].clamp_min(0)
    noise, uncertainty = ground.rounding(rows)
    scale = ground.factor.log_scale.exp()
    for i, a in enumerate(rows):

        def push(deltas: Tensor, a: Tensor = a) -> Tensor:
            return (deltas.to(a) @ a.T).cpu().double().norm(dim=1)

        form = _half_form(push, float(scale[i]), float(noise[i, 0]), float(uncertainty[i]))
        yield Point(ground.logits[i], float(mu[i] * scale[i]), form)


def _from_products(net: Classifier, x: Tensor) -> Iterator[Point]:
    """One input x (1, …)."""
    block = lanczos(Ground(net, x, False, along=True), 1, False, 1e-10, _STEPS, 0)
    ground = Ground(net, x, False)
    scale = ground.factor.log_scale.exp()

    def push(deltas: Tensor) -> Tensor:
        tangents = torch.cat([ground.here.jvp(one[None])[..., None].cpu().double() for one in deltas.to(x)], 2)
        return ground.factor.from_logits(tangents)[0].norm(dim=0)

    # from above, so that no quadratic form exceeds it: what the iteration found may lie below λ₁ by its error
    largest = float(block.eigenvalues[0, 0] + block.error[0, 0])
    g = torch.randn(1, ground.factor.rank, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = ground.here.vjp(ground.factor.to_logits(g))
    noise, uncertainty = ground.rounding(rows, g)
    noise = noise[0, 0] / rows.norm().cpu().double().clamp_min(1e-300) * (block.eigenvalues[0, 0] / scale[0]).sqrt()
    form = _half_form(push, float(scale), float(noise), float(uncertainty))
    yield Point(ground.logits[0], largest, form)


def _half_form(
    push: Callable[[Tensor], Tensor], scale: float, noise: float, uncertainty: float
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def form(deltas: Tensor) -> tuple[Tensor, Tensor]:
        length = push(deltas)
        size = deltas.norm(dim=1).cpu().double()
        error = rounding_error((length**2)[:, None], noise * size, torch.full_like(size, uncertainty), 1)[:, 0]
        return 0.5 * scale * length**2, 0.5 * scale * error

    return form
