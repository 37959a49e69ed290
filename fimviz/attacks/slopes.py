"""The slope of a logit gap: its gradient, or differences where that is 0 although the answer may change."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fimviz.attacks.problem import Problem, per_input
from fimviz.model.classifier import Classifier

_PROBES = 32  # pairs of inputs for a slope by differences
_SIGMA, _WIDEST = 0.03, 0.5  # how far they lie at each pixel, of the input range: at first, and where nothing changes
_ROWS = 64


class Slopes:
    """Slopes of gaps at inputs near those (n, …) of a problem.

    Where a gradient is exactly 0 (the network rounds, compares or clips its input, or has saturated), the slope is one
    of a smoothed gap, by central differences along random directions that are orthogonal to each other; they are taken
    farther apart where the gap does not change at all. In as many dimensions as there are directions this is the
    gradient of a linear gap; in more it points the same way on average.

    Source: Spall (1992) and Ilyas et al. (2018), with orthogonal directions.
    """

    def __init__(self, problem: Problem, width: float, seed: int) -> None:
        self._problem, self._width = problem, width
        self._generator = torch.Generator().manual_seed(seed)
        self._sigma = problem.x.new_full((len(problem.x),), _SIGMA * width)

    def at(self, here: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (n, K), gap (n,) and slope (n, …) toward targets (n, 1), or toward the nearest other outcome."""
        here = here.detach().requires_grad_()
        z = self._problem.net.logits(here)
        gap = _toward(self._problem.net, z, self._problem.labels, target)
        g = torch.autograd.grad(gap.sum(), here)[0].nan_to_num(0.0, 0.0, 0.0)
        flat = (g.flatten(1) == 0).all(1).nonzero()[:, 0]
        if len(flat):
            g = g.index_copy(0, flat, self._differences(here.detach(), flat, target))
        return z.detach(), gap.detach(), g

    @torch.no_grad()
    def _differences(self, here: Tensor, at: Tensor, target: Tensor | None) -> Tensor:
        problem, size = self._problem, here[0].numel()
        count = min(_PROBES, size)
        drawn = torch.randn(size, count, generator=self._generator, dtype=torch.float64)
        ways = (math.sqrt(size) * torch.linalg.qr(drawn).Q.T).to(here).view(count, 1, *here.shape[1:])
        far = per_input(self._sigma[at], here)
        low, high = problem.net.input_range or (-math.inf, math.inf)
        rows = torch.cat([here[at] + far * ways, here[at] - far * ways]).flatten(0, 1).clamp(low, high)
        place = at.repeat(2 * count)
        gaps = [
            _toward(problem.net, problem.net.logits(part), problem.labels[i], None if target is None else target[i])
            for part, i in zip(rows.split(_ROWS), place.split(_ROWS), strict=True)
        ]
        plus, minus = torch.cat(gaps).view(2, count, len(at))
        change = plus - minus
        wider = torch.where((change == 0).all(0), 3 * self._sigma[at], self._sigma[at])
        self._sigma[at] = wider.clamp_max(_WIDEST * self._width)
        return torch.einsum("cn,c...->n...", change, ways[:, 0]) / (2 * size * far)


def _toward(net: Classifier, z: Tensor, labels: Tensor, target: Tensor | None) -> Tensor:
    gaps = net.likelihood.gaps(z, labels)
    return gaps.amin(1) if target is None else gaps.gather(1, target)[:, 0]
