"""Descent to the smallest change that makes the model miss: from the input, and back from beyond the boundary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fimviz.attacks.problem import TINY, Problem, per_input
from fimviz.attacks.slopes import Slopes
from fimviz.model.classifier import Classifier
from fimviz.model.engine.parts import answers
from fimviz.model.engine.progress import Tick, silent

TARGETS, STEPS = 3, 30  # what every door asks for, unless it is told otherwise
_HALVINGS = 24
_KNOWN, _NOISES = 256, 4  # inputs that a descent may start beyond the boundary from: of the batch at most, and noise
_CANDIDATES, _LOOKS = 4, 8  # of these for each input, and the halvings of the way to each
_RESTARTS = 3  # where nothing has been found


@dataclass(frozen=True)
class Known:
    """Inputs (p, …) with their outcomes (p,) or (p, K), beyond whose boundaries a descent may start."""

    images: Tensor
    outcomes: Tensor


def known_inputs(net: Classifier, x: Tensor, seed: int, max_memory: float | None = None) -> Known:
    """The batch (n, …) itself, or 256 of it, beside noise, black, grey and white; call it at rest."""
    low, high = net.input_range or (float(x.min()), float(x.max()))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand((_NOISES, *x.shape[1:]), generator=generator, dtype=torch.float64)
    plain = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64).view(-1, *[1] * (x.ndim - 1)).expand(-1, *x.shape[1:])
    batch = x[torch.linspace(0, len(x) - 1, min(len(x), _KNOWN)).long()]
    images = torch.cat([batch, (low + (high - low) * torch.cat([noise, plain])).to(batch)])
    return Known(images, net.likelihood.predict(answers(net, images, max_memory=max_memory)))


def smallest(
    problem: Problem,
    others: Known,
    *,
    targets: int = TARGETS,
    steps: int = STEPS,
    seed: int = 0,
    progress: Tick = silent,
) -> tuple[Tensor, Tensor]:
    """The smallest changes found: their lengths (n,) in the problem's norm, and the changed inputs; call it at rest.

    From each input, projected descent on the gap to each of the `targets` nearest other outcomes in turn: steps of unit
    direction, on a sphere around the input whose radius shrinks after a success and grows otherwise, inside the
    input range. Then once more from beyond: of the known inputs with other outcomes the one on whose way the boundary
    is nearest, where the network's slope is not flat even if it is so at the input. Then, where nothing was found, from
    known inputs that are not beyond. The way to the nearest changed input is halved in the end, and what is given was
    seen to be missed. The length is 0 where the label is missed without a change, ∞ where no change was found.

    Source: Rony et al. (2019), decoupling direction and norm, with the radius at first where the gap would close if it
    were linear, and with targets; in L∞ with signs of gradients, on the cube instead of the sphere. The start beyond
    the boundary is that of Brendel et al. (2018). On a LeNet-5 trained against PGD it halves the changes found, at the
    cost of one target.
    """
    length = torch.zeros(len(problem.x), dtype=problem.x.dtype, device=problem.x.device)
    there = problem.x.clone()
    at = (~problem.missed(problem.x)).nonzero()[:, 0]
    if not len(at):
        return length, there
    way = _Way(problem[at], seed)
    with torch.no_grad():
        gaps = way.problem.net.likelihood.gaps(way.problem.net.logits(way.problem.x), way.problem.labels)
    outcomes = gaps.shape[1] - int(gaps.isinf().any())  # the label itself comes last
    nearest = gaps.argsort(1)[:, : min(targets, outcomes)].split(1, 1)
    for done, target in enumerate(nearest):
        progress(done, len(nearest) + 1)
        way.descend(torch.zeros_like(way.problem.x), None, target, steps)
    progress(len(nearest), len(nearest) + 1)
    start, reached = way.beyond(others)
    way.descend(start - way.problem.x, reached, None, steps)
    left = way.best.isinf().nonzero()[:, 0]
    if len(left):
        again = _Way(way.problem[left], seed)
        for d in again.away(others, _RESTARTS):
            again.descend(d, again.problem.length(d), None, steps)
        way.best[left], way.nearest[left] = again.best, again.nearest
    way.shorten()
    length[at], there[at] = way.best, way.nearest
    return length, there


def smallest_attack(
    net: Classifier,
    x: Tensor,
    labels: Tensor,
    *,
    targets: int = TARGETS,
    steps: int = STEPS,
    seed: int = 0,
    max_memory: float | None = None,
    progress: Tick = silent,
) -> Tensor:
    """The L2 length (n,) of the smallest change by which `smallest` makes the model miss the label.

    It is an upper bound of the true smallest change: no attack proves that there is no smaller one.

    Args:
        net: the classifier.
        x: (n, …), as `Classifier.admit` returned it.
        labels: (n,) class indices on the CPU, or (n, K) booleans.
        targets: toward how many other classes, the likeliest, before the descent from beyond the boundary.
        steps: of every descent.
        seed: of the noise among the inputs from which a descent may start.
        max_memory: bytes that it may take.
        progress: called with (inputs done, inputs in all).

    Returns:
        (n,) float64 in input units; 0 where the label is missed without a change, infinite where no change was found.

    Example, two classes apart by 2 along a gap of slope √2 in logits:
        >>> import torch
        >>> net = Classifier(torch.nn.Identity(), input_range=None)
        >>> attack = smallest_attack(net, net.admit(torch.tensor([[2.0, 0.0]])), torch.tensor([0]))
        >>> round(attack.item(), 2)
        1.41
    """
    with net.at_rest():
        others = known_inputs(net, x, seed, max_memory)
        problem = Problem(net, x.to(net.device), labels.to(net.device), "l2", max_memory)
        options: dict[str, Any] = {"targets": targets, "steps": steps, "seed": seed}
        parts = problem.in_parts(lambda part, _, tick: smallest(part, others, progress=tick, **options)[0], progress)
        found = torch.cat(list(parts))
    return found.cpu().double()


class _Way:
    """Descents from some inputs, and the nearest changed inputs that they met."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem = problem
        x = problem.x
        self.low, self.high = problem.net.input_range or (-math.inf, math.inf)
        self.width = self.high - self.low if problem.net.input_range else max(1.0, float(x.max() - x.min()))
        side = math.sqrt(x[0].numel()) if problem.norm == "l2" else 1.0
        self.farthest = side * (self.width if problem.net.input_range else 1e6)
        self.slopes = Slopes(problem, self.width, seed)
        self.best = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        self.nearest = x.clone()

    def descend(self, d: Tensor, radius: Tensor | None, target: Tensor | None, steps: int) -> None:
        """From x + d at a radius, or where a linear gap closes; to a target (n, 1) or to any other outcome."""
        problem, x = self.problem, self.problem.x
        for step in range(steps + 1):
            here = (x + d).detach()
            z, gap, g = self.slopes.at(here, target)
            fooled, length = problem.surely(z), problem.length(d)
            self.keep(here, fooled, length)
            cooled = 0.02 + 0.49 * (1 + math.cos(math.pi * step / steps))
            if radius is None:
                slope = g.flatten(1).norm(dim=1, p=2 if problem.norm == "l2" else 1)
                radius = (gap / slope.clamp_min(TINY)).clamp(1e-6 * self.width, self.farthest).minimum(self.best)
            else:
                shorter = (radius * (1 - 0.2 * cooled)).minimum(self.best)
                radius = torch.where(fooled, shorter, radius * (1 + 0.2 * cooled)).clamp_max(self.farthest)
            room = per_input(radius, x)
            d = d - cooled * room * problem.unit(g)
            if problem.norm == "l2":
                d = d * (room / per_input(problem.length(d), x).clamp_min(TINY))
            d = (x + d.clamp(-room, room)).clamp(self.low, self.high) - x

    def keep(self, there: Tensor, fooled: Tensor, length: Tensor) -> None:
        """Remember the changed inputs that are nearer than those before."""
        closer = fooled & (length < self.best)
        self.best = torch.where(closer, length, self.best)
        self.nearest = torch.where(per_input(closer, there), there, self.nearest)

    def beyond(self, others: Known) -> tuple[Tensor, Tensor]:
        """The nearest changed inputs on straight ways to known ones of other outcomes, and how far; x and ∞ if none."""
        problem, x = self.problem, self.problem.x
        images, outcomes = others.images.to(x), others.outcomes.to(problem.labels.device)
        other = (outcomes[None] != problem.labels[:, None]).view(len(x), len(images), -1).any(2)
        far = torch.cdist(x.flatten(1), images.flatten(1)).masked_fill(~other, torch.inf)
        start, reached = x.clone(), torch.full_like(self.best, torch.inf)
        for place in far.argsort(1)[:, :_CANDIDATES].unbind(1):
            there = self.halved(images[place], _LOOKS)
            length = problem.length(there - x)
            closer = self.problem.fooled(there) & (length < reached)
            reached = torch.where(closer, length, reached)
            start = torch.where(per_input(closer, x), there, start)
        self.keep(start, reached.isfinite(), reached)
        return start, reached

    def away(self, others: Known, count: int) -> list[Tensor]:
        """Changes (n, …) halfway to the made-up ones among the known inputs, noise first."""
        made = others.images[-_NOISES - 3 :][:count].to(self.problem.x)
        return [(one - self.problem.x) / 2 for one in made]

    def halved(self, there: Tensor, halvings: int) -> Tensor:
        """Inputs on the way to changed ones `there`, as near as halving finds them changed."""
        x, way = self.problem.x, there - self.problem.x
        near, far = torch.zeros_like(self.best), torch.ones_like(self.best)
        for _ in range(halvings):
            middle = (near + far) / 2
            fooled = self.problem.fooled((x + per_input(middle, x) * way).clamp(self.low, self.high))
            near, far = torch.where(fooled, near, middle), torch.where(fooled, middle, far)
        return (x + per_input(far, x) * way).clamp(self.low, self.high)

    def shorten(self) -> None:
        """Halve the ways to the nearest changed inputs."""
        there = self.halved(self.nearest, _HALVINGS)
        self.keep(there, self.problem.fooled(there) & self.best.isfinite(), self.problem.length(there - self.problem.x))
