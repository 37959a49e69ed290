"""The smallest margin that descent finds within a radius: what tries to break a certificate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fimviz.attacks.problem import TINY, Problem, per_input
from fimviz.attacks.slopes import Slopes


def smallest_margin(problem: Problem, radius: Tensor, *, steps: int, restarts: int, seed: int) -> tuple[Tensor, Tensor]:
    """The smallest margin (n,) that is found within L2 radii (n,) of a problem's inputs, and the inputs there.

    Descends once on the smallest gap, then toward each of the next nearest other outcomes, then from random points of
    the sphere. A margin below 0 misses the label. A ball smaller than rounding holds the input alone. Call it
    at rest.
    """
    net, x = problem.net, problem.x
    low, high = net.input_range or (-math.inf, math.inf)
    width = high - low if net.input_range else 1e6
    generator, slopes = torch.Generator().manual_seed(seed), Slopes(problem, min(width, 1.0), seed)
    with torch.no_grad():
        z = net.logits(x)
    best, nearest = net.likelihood.margin(z, problem.labels), x
    if (radius.to(x) <= torch.finfo(x.dtype).eps * x.flatten(1).abs().amax(1)).all():
        return best, nearest
    first = net.likelihood.gaps(z, problem.labels).argsort(1)
    room = per_input(radius.to(x).clamp_max(math.sqrt(x[0].numel()) * width) * (1 - 1e-6), x)
    for restart in range(restarts):
        target = first[:, restart : restart + 1] if 0 < restart < first.shape[1] - 1 else None
        d = torch.zeros_like(x)
        if target is None and restart:
            d = room * problem.unit(torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x))
        for step in range(steps + 1):
            here = (x + d).clamp(low, high).detach()
            z, _, g = slopes.at(here, target)
            margin = net.likelihood.margin(z, problem.labels)
            lower = margin < best
            best, nearest = torch.where(lower, margin, best), torch.where(per_input(lower, x), here, nearest)
            d = here - x - room * (0.02 + 0.5 * (1 + math.cos(math.pi * step / steps))) * problem.unit(g)
            d = d * (room / per_input(problem.length(d), x).clamp_min(TINY)).clamp_max(1)
    return best, nearest
