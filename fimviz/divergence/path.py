"""The straight line from one sample to another: what the model says on the way, and what F at its start promised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fimviz.divergence.curvature import precision
from fimviz.model.engine.parts import answers_to

if TYPE_CHECKING:
    from fimviz.divergence.crosscategory import CrossCategoryKL

_WORK = 2**22  # bytes of input in a batch of forward passes


@dataclass(frozen=True, eq=False)
class Path:
    """The images x_i + t (x_j − x_i) between two samples; float64 on the CPU, divergences in nats.

    Attributes:
        i, j: places of the samples in the batch.
        t: (s + 1,) from 0 to 1.
        kl: (s + 1,) KL(f(x_i) ‖ f(x(t))).
        quadratic: (s + 1,) t² G1, which F at x_i promises.
        probabilities: (s + 1, K).
    """

    i: int
    j: int
    t: Tensor
    kl: Tensor
    quadratic: Tensor
    probabilities: Tensor


def paths(
    result: CrossCategoryKL, places: Tensor, steps: int, dtype: torch.dtype | None = None, ask: bool = True
) -> list[Path]:
    """The lines of some pairs, by their places in the result; in float64 by default where the network can.

    Without `ask` the model is left alone, and what lies between the ends is NaN.
    """
    net, images = result.net, result.images
    dtype = dtype or precision(net)
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    size = max(1, min(256, _WORK // (4 * images[0].numel())))
    found = []
    # the ends are known, to float64 where the middle may not be
    grid = torch.cartesian_prod(places, torch.arange(1, steps)).view(-1, 2)
    middle = torch.full((len(grid), result.logits.shape[1]), torch.nan, dtype=torch.float64)

    def between(at: list[int]) -> Tensor:
        some = grid[at]
        a, b = images[result.i[some[:, 0]]], images[result.j[some[:, 0]]]
        share = t[some[:, 1]].view(-1, *[1] * (a.ndim - 1))
        return torch.lerp(a.double(), b.double(), share).to(dtype)

    if ask and len(grid):
        middle = answers_to(net, len(grid), size, between)
    middle = middle.view(len(places), steps - 1, result.logits.shape[1])
    for place, inner in zip(places.tolist(), middle, strict=True):
        i, j = int(result.i[place]), int(result.j[place])
        z = torch.cat([result.logits[i : i + 1], inner, result.logits[j : j + 1]])
        kl = net.likelihood.kl(result.logits[i].expand_as(z), z)
        found.append(Path(i, j, t, kl, t**2 * result.g1[place], net.likelihood.mean(z)))
    return found
