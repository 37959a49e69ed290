"""Whether a network's gradient describes it: what it says of a step, beside what the answers do.

A network that rounds, quantises or compares its input has a gradient that is 0 wherever it is asked, and answers that
change all the same: its Fisher information would be exactly 0, and no attack by gradients would get anywhere. Along a
path the answers of any other change by the integral of the gradient (the fundamental theorem of calculus), also over
kinks and out of dead regions, so that these are not mistaken for one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# At every pixel, in units of the input range: less than a level of 8-bit images, some of them, and up to beyond a
# threshold in the middle. A network with straight-through estimators is described at the larger ones.
_STEPS = 2.0**-10, 2.0**-7, 2.0**-4, 0.6
_EXPLAINED = 0.1  # of the change, that the gradient tells of an honest network at some step at least
_NOISE = 64  # machine epsilons of the answers
_NODES = 8  # of the integral


def undescribed(score: Callable[[Tensor], Tensor], x: Tensor, g: Tensor, box: tuple[float, float], eps: float) -> float:
    """The smallest step at which the answers change and the gradient says nothing of it at any; 0 where it does.

    Args:
        score: inputs (m, …) → one number each (m,), differentiable.
        x: (n, …) inputs.
        g: the gradient of their scores.
        box: the smallest and largest value of an input; steps that would leave it go the other way.
        eps: the machine epsilon of the scores.

    Costs as many forward passes over x as there are steps, and only where the gradient at x is in doubt some more.
    """
    low, high = box
    shape = x.shape[1:]
    signs = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)).to(x) * 2 - 1
    toward = torch.where(g == 0, signs, g.sign())
    deltas = []
    for step in _STEPS:
        delta = step * (high - low) * toward
        outside = ((x + delta) < low) | ((x + delta) > high)
        deltas.append(torch.where(outside, -delta, delta))
    with torch.no_grad():
        start = score(x)
        changes = [score(x + delta) - start for delta in deltas]
    noise = _NOISE * eps * (1 + start.abs().max())
    seen = [i for i, change in enumerate(changes) if change.norm() > noise]

    def explained(at: int, slope: Tensor) -> bool:
        told = (slope * deltas[at]).flatten(1).sum(1)
        return bool(told.norm() > _EXPLAINED * changes[at].norm())

    if not seen or any(explained(i, g) for i in seen):
        return 0.0
    if any(explained(i, _mean_slope(score, x, deltas[i])) for i in seen):
        return 0.0
    return _STEPS[seen[0]] * (high - low)


def _mean_slope(score: Callable[[Tensor], Tensor], x: Tensor, delta: Tensor) -> Tensor:
    """The mean gradient on the way from x to x + δ."""
    total = torch.zeros_like(x)
    for node in range(_NODES):
        here = (x + (node + 0.5) / _NODES * delta).detach().requires_grad_()
        (slope,) = torch.autograd.grad(score(here).sum(), here)
        total += slope
    return total / _NODES
