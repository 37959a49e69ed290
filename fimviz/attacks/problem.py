"""What every attack shares: inputs and the labels to miss, and images that stay within the budget and the range."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fimviz._options import real
from fimviz.model.classifier import Classifier, as_classifier
from fimviz.model.data import unpacked
from fimviz.model.engine.parts import answers, in_parts
from fimviz.model.engine.plan import there_and_back
from fimviz.model.engine.progress import Tick, silent
from fimviz.model.labels import read_labels

NORMS = ("linf", "l2")
TINY = 1e-30
T = TypeVar("T")


@dataclass(frozen=True)
class Problem:
    """Inputs x (n, …) and the outcomes that the model should miss, on its device; in which norm. Use it at rest.

    `max_memory` is how many bytes attacks may take, by default half of what is free.
    """

    net: Classifier
    x: Tensor
    labels: Tensor
    norm: str
    max_memory: float | None = None

    def __getitem__(self, at: Tensor | slice) -> Problem:
        return replace(self, x=self.x[at], labels=self.labels[at])

    @property
    def together(self) -> int:
        """How many inputs fit the memory at a time."""
        return there_and_back(self.net, self.x, self.max_memory)

    def in_parts(self, attack: Callable[[Problem, Tensor, Tick], T], progress: Tick = silent) -> Iterator[T]:
        """What an attack makes of parts that fit the memory, in order; it is given the places (m,) of a part too."""
        n = len(self.x)

        def compute(places: list[int]) -> T:
            at = torch.tensor(places)
            return attack(self[at], at, lambda done, total: progress(places[0] * total + len(at) * done, n * total))

        for _, found in in_parts(range(n), self.together, compute):
            yield found
        progress(n, n)

    def moved(self, d: Tensor, epsilon: Tensor) -> Tensor:
        """The points x + ε d for directions d (n, …) of length 1 at most, within the range and the budget.

        In float64, and rounded toward x: float32 next to x may lie farther than ε.
        """
        wide = torch.float32 if self.x.device.type == "mps" else torch.float64
        x, step, room = self.x.to(wide), d.to(wide), per_input(epsilon.to(self.x.device, wide), self.x)
        step = step * (room / per_input(self.length(step), self.x).clamp_min(TINY)).clamp_max(room)
        step = step * (1 - 1e-12) if self.norm == "l2" else step  # its length is a rounded number
        return toward(self.x, inside(x, step, self.net.input_range))

    def length(self, d: Tensor) -> Tensor:
        """The length (n,) of changes in the norm."""
        return d.flatten(1).norm(dim=1, p=2 if self.norm == "l2" else math.inf)

    def change(self, moved: Tensor) -> Tensor:
        """How far (n,) changed inputs are, as float64 measures it on the CPU."""
        return self.length(moved.cpu().double() - self.x.cpu().double())

    def missed(self, moved: Tensor) -> Tensor:
        """Whether (n,) the model misses the labels there."""
        with torch.no_grad():
            return miss(self.net, self.net.logits(moved), self.labels)

    def fooled(self, moved: Tensor) -> Tensor:
        """Whether (n,) the model surely misses the labels there."""
        with torch.no_grad():
            return self.surely(self.net.logits(moved))

    def surely(self, z: Tensor) -> Tensor:
        """Whether (n,) logits miss the labels by more than the rounding that another batch would change."""
        slack = 16 * torch.finfo(z.dtype).eps * z.abs().amax(1)
        return self.net.likelihood.margin(z, self.labels) < -slack

    def better(self, candidates: list[Tensor]) -> Tensor:
        """Of several changed images of every input the one with the least margin."""
        if len(candidates) == 1:
            return candidates[0]
        with torch.no_grad():
            left = torch.stack([self.net.likelihood.standing(self.net.logits(c), self.labels) for c in candidates])
        return torch.stack(candidates)[left.argmin(0), torch.arange(len(self.x), device=self.x.device)]

    def both_ways(self, v: Tensor) -> list[Tensor]:
        """± the direction of length 1 that vectors (n, …) give in the norm."""
        d = self.unit(v.to(self.x))
        return [d, -d]

    def linear_distance(self) -> Tensor:
        """The budget (n,) at which the margin would close if it were linear."""
        x = self.x.detach().requires_grad_()
        margin = self.net.likelihood.margin(self.net.logits(x), self.labels)
        (g,) = torch.autograd.grad(margin.sum(), x)
        slope = g.flatten(1).norm(dim=1, p=2 if self.norm == "l2" else 1)
        return margin.detach().clamp_min(0) / slope.clamp_min(TINY)

    def unit(self, g: Tensor) -> Tensor:
        """The direction of length 1 along which wᵀx with w = g grows most."""
        return g.sign() if self.norm == "linf" else g / per_input(self.length(g), g).clamp_min(TINY)


def miss(net: Classifier, z: Tensor, labels: Tensor) -> Tensor:
    """Whether (n,) the outcome of logits (n, K) is not the labels, one of several yes/no labels being enough."""
    return ~net.likelihood.same(net.likelihood.predict(z), labels)


def pose(net: Classifier | nn.Module, images: Any, labels: Any, norm: str, max_memory: float | None = None) -> Problem:
    """The problem of attacking these images: checked, and the model's own predictions where labels are None."""
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}, expected 'linf' or 'l2'")
    net = as_classifier(net)
    images, labels = unpacked(images, labels, net)
    x = net.admit(images, max_memory).detach()
    truth = read_labels(labels, len(x), net)
    if truth is None:
        net.likelihood.an_outcome("pass the numbers that the model should miss as labels")
        truth = net.likelihood.predict(answers(net, x, max_memory=max_memory))
    return Problem(net, x.to(net.device), truth.to(net.device), norm, max_memory)


def inside(x: Tensor, step: Tensor, input_range: tuple[float, float] | None) -> Tensor:
    """The point x + step, stopped where the range ends, or at x where that lies a rounding beyond it."""
    low, high = input_range or (-math.inf, math.inf)
    return (x + step).clamp(x.clamp_max(low), x.clamp_min(high))


def toward(x: Tensor, goal: Tensor) -> Tensor:
    """A goal in the precision of x, rounded toward x: its neighbour on the other side would be farther."""
    moved = goal.to(x.dtype)
    over = (moved.to(goal.dtype) - x.to(goal.dtype)).abs() > (goal - x.to(goal.dtype)).abs()
    return torch.where(over, torch.nextafter(moved, x), moved)


def lengths(name: str, given: Any, n: int) -> Tensor:
    """A budget for every input (n,), float64."""
    if isinstance(given, str | bytes | bool):
        real(name, given)
    try:
        values = torch.as_tensor(given, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} is a {type(given).__name__}, expected a number or one an image ({n},)") from None
    if values.ndim and values.shape != (n,):
        raise ValueError(f"{name} has shape {tuple(values.shape)}, expected a number or one an image ({n},)")
    if not (values.isfinite() & (values >= 0)).all():
        raise ValueError(f"{name} is {given}, expected lengths from 0, in pixel units")
    return values.expand(n)


def per_input(v: Tensor, x: Tensor) -> Tensor:
    """Numbers (n,) in a shape that multiplies x (n, …)."""
    return v.view(-1, *[1] * (x.ndim - 1))
