"""One step along a random direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fimviz._options import named_options, whole
from fimviz.attacks.attack import Aim, Attack, Options
from fimviz.attacks.budget import within
from fimviz.attacks.problem import Problem
from fimviz.attacks.search import along, bracketed, looks
from fimviz.model.classifier import Classifier


def _aim(problem: Problem, options: Options) -> Aim:
    generator = torch.Generator().manual_seed(options.seed)
    both = problem.both_ways(torch.randn(problem.x.shape, generator=generator, dtype=torch.float64))
    return along(lambda part, at: [d[at.to(d.device)] for d in both])


RANDOM = Attack(
    name="random",
    search=bracketed(_aim),
    aim=_aim,
    passes=lambda options: 2 * looks(options),
    needs="the point",
    short="a random direction",
    formula="x ± ε d, d uniform on the sphere",
)


@named_options
def random(
    net: Classifier | nn.Module,
    images: Any,
    labels: Any,
    epsilon: Any,
    *,
    norm: str = "l2",
    seed: int = 0,
    max_memory: float | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Tensor:
    """One step along a random direction, the better of both signs: what a change does that knows nothing.

    Uniform on the sphere in L2; ±ε at every pixel in L∞.

    Args:
        net: as in `fgsm`.
        images: (n, …) floats, or a data set (see `Classifier`).
        labels: what to miss, as in `fgsm`.
        epsilon: the budget in pixel units, a number or (n,).
        norm: "linf" or "l2".
        seed: of the direction.
        max_memory: as in `fgsm`.
        progress: as in `fgsm`.

    Returns:
        As `fgsm`.

    Example:
        >>> import torch, fimviz as fv
        >>> moved = fv.attacks.random(torch.nn.Identity(), torch.full((1, 2), 0.5), [0], 0.25, norm="linf")
        >>> (moved - 0.5).abs().tolist()
        [[0.25, 0.25]]
    """
    options = Options(seed=whole("seed", seed, 0))
    return within(RANDOM, net, images, labels, epsilon, norm, options, max_memory=max_memory, progress=progress)
