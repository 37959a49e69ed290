"""Where an attack goes from an input: directions of one step, and captum's ascent of many."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fimviz._options import whole
from fimviz.attacks.problem import TINY, Problem, lengths, per_input


@dataclass(frozen=True)
class Ascent:
    """The options of `pgd`, as there."""

    steps: int = 20
    step: Any = None
    loss: str = "ce"
    restarts: int = 1

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)
        whole("restarts", self.restarts, 1)
        if self.loss not in ("ce", "cw"):
            raise ValueError(f"loss is {self.loss!r}, expected 'ce' (cross-entropy) or 'cw' (margin of the logits)")


def steepest(problem: Problem) -> Tensor:
    """The direction (n, …) of length 1 along which the loss grows fastest."""
    ones = torch.ones(len(problem.x), dtype=problem.x.dtype, device=problem.x.device)
    step, _ = _captum(problem, ones, problem.net.likelihood.harm)
    with _quiet():
        return step.perturb(torch.zeros_like(problem.x), 1.0, problem.labels)


def ascend(problem: Problem, epsilon: Tensor, options: Ascent, start: Tensor | None = None) -> Tensor:
    """PGD's directions d (n, …) from the inputs or from a `start` of the same kind: x + ε d is the best point."""
    eps = epsilon.to(problem.x).clamp_min(TINY)
    size = torch.full_like(eps, 2.5 / options.steps)
    if options.step is not None:
        size = lengths("step", options.step, len(problem.x)).to(eps) / eps
    likelihood = problem.net.likelihood
    loss = likelihood.harm if options.loss == "ce" else lambda z, labels: -likelihood.standing(z, labels)
    _, walk = _captum(problem, eps, loss, start)
    best = torch.zeros_like(problem.x)
    least = torch.full_like(eps, torch.inf)

    def look(d: Tensor, z: Tensor) -> None:
        nonlocal best, least
        left = problem.net.likelihood.standing(z.detach(), problem.labels)
        best = torch.where(per_input(left < least, d), d.detach(), best)
        least = torch.minimum(left, least)

    walk.look = look
    with _quiet():
        norm = "L2" if problem.norm == "l2" else "Linf"
        there = (torch.zeros_like(problem.x), 1.0, per_input(size, problem.x), options.steps, problem.labels)
        last = walk.perturb(*there, random_start=start is not None, norm=norm)
        with torch.no_grad():
            walk.forward_func(last)
    return best


def starts(problem: Problem, count: int, seed: int) -> list[Tensor]:
    """Random points (n, …) of the unit ball in the problem's norm, the same on every device."""
    generator, wide = torch.Generator().manual_seed(seed), torch.float64
    found = []
    for _ in range(count):
        if problem.norm == "linf":
            d = 2 * torch.rand(problem.x.shape, generator=generator, dtype=wide) - 1
        else:
            d = torch.randn(problem.x.shape, generator=generator, dtype=wide)
            size = torch.rand(len(d), generator=generator, dtype=wide) ** (1 / d[0].numel())
            d = d * per_input(size / problem.length(d), d)
        found.append(d.to(problem.x))
    return found


def _captum(problem: Problem, eps: Tensor, loss: Any, start: Tensor | None = None) -> tuple[Any, Any]:
    """Captum's FGSM and PGD on d ↦ model(x + ε d): every budget is 1 there, whatever the input's ε."""
    from captum.robust import FGSM, PGD

    net, x, scale = problem.net, problem.x, per_input(eps, problem.x)

    def forward(d: Tensor) -> Tensor:
        z = net.logits(x + scale * d)
        walk.look(d, z)
        return z

    class Step(FGSM):
        def _perturb(self, inputs: Any, grads: Any, epsilon: Any, targeted: bool, masks: Any) -> Any:
            return tuple(d + epsilon * problem.unit(g) for d, g in zip(inputs, grads, strict=True))

    class Walk(PGD):
        look = staticmethod(lambda d, z: None)

        def _random_point(self, center: Tensor, *_: Any) -> Tensor:
            return center if start is None else center + start

    step, walk = Step(forward, loss), Walk(forward, loss)
    walk.fgsm = step
    low, high = net.input_range or (-math.inf, math.inf)
    bounds = ((low - x) / scale).clamp_max(0), ((high - x) / scale).clamp_min(0)
    walk.bound = lambda d: d.clamp(*bounds)
    return step, walk


@contextmanager
def _quiet() -> Iterator[None]:
    """Without captum's warning that it turns on gradients of its own tensors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Input Tensor", UserWarning)
        yield
