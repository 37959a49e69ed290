"""What a path is while it grows, and the rules by which it steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

PACES = ("step", "trust region", "box", "line search", "boundary")
CLOSE = 1e-4  # Fisher–Rao distance to which the boundary is closed in on


class Attempt(NamedTuple):
    """What a path was made with."""

    method: str
    damping: float


def fallbacks(asked: Attempt) -> list[Attempt]:
    """What is tried, in turn, on a path that did not change the class: it got through where slopes are flat.

    Along the plain gradient first, and then by the signs of it, after one random step.
    """
    if asked.method == "published":  # as printed, or not at all
        return []
    if asked.method == "straight":
        return [Attempt("straight", 1.0)] if asked.damping < 1 else []
    others = [Attempt("natural", max(1.0, asked.damping)), Attempt("pgd", asked.damping)]
    return [a for a in others if a != asked and not (a.method == asked.method == "pgd")]


class Rules(NamedTuple):
    """How paths step: see `trace_margins`."""

    method: str
    step: float
    damping: float
    trust_region: float
    max_steps: int
    solver: str
    box: tuple[float, float] | None
    noise: float
    seed: int

    @property
    def literal(self) -> bool:
        """The published algorithm: no trust region, no box, no line search, damping as it is given."""
        return self.method == "published"


class Moved(NamedTuple):
    """How far an image has moved from its path's start, in half the memory and to three digits however small it is.

    Absolute pixels as float16 would be off by 2e-4 each, which is more than some paths change a pixel by.
    """

    shares: Tensor  # (*input), float16, in units of `unit`
    unit: float  # a power of two, no smaller than the largest change of a value

    @classmethod
    def between(cls, start: Tensor, end: Tensor) -> Moved:
        """What leads from one image to another, or not quite so far: rounding must not leave the range of pixels."""
        difference = end.double() - start.double()
        most = float(difference.abs().nan_to_num(0.0, 0.0).amax())
        unit = 2.0 ** math.ceil(math.log2(most)) if most > 1e-300 else 1.0
        shares = (difference / unit).half()
        beyond = shares.double().abs() > (difference / unit).abs()
        return cls(torch.where(beyond, (shares.view(torch.int16) - 1).view(torch.float16), shares), unit)


class Taken(NamedTuple):
    """One step of one path: how long it was, by several measures, who set its pace, and where it led."""

    fr: float  # measured length
    fr_error: float
    natural: float  # √(δᵀFδ) at the step's start
    largest: float  # λ_max there
    l2: float
    pace: int
    smoothed: bool  # whether its slope was a smoothed one
    middle: Tensor  # (K,) logits half-way
    z: Tensor  # (K,) logits at its end
    moved: Moved | None  # its end's difference from the path's start, where images are kept


@dataclass(eq=False)
class OpenPath:
    """One path as it grows: where it is, and what it has passed."""

    sample: int
    source: int
    target: int
    x: Tensor  # (*input), in the passes' dtype, on the CPU
    z: Tensor  # (K,), float64
    share: float = 1.0  # of η and of r, which its steps are held to
    attempt: Attempt | None = None  # after what was asked for had failed
    origin: Tensor = field(init=False)  # where it began
    first: Tensor = field(init=False)
    steps: list[Taken] = field(default_factory=list)
    status: str = "interrupted"
    failure: str = ""  # why it has none further
    least: float = field(init=False)  # the narrowest gap so far
    idle: int = 0  # steps since then
    vain: int = 0  # steps that gained nothing, in all
    lost: bool = False  # whether its slopes have been found to say nothing

    def __post_init__(self) -> None:
        self.origin, self.first, self.least = self.x, self.z, float(self.z[self.source] - self.z[self.target])

    @property
    def way(self) -> float:
        """The share of its steps that a running path has made, roughly, by how much of the first gap it has closed."""
        gap = float(self.first[self.source] - self.first[self.target])
        # Early steps close more of it than late ones.
        return min(1.0, max(0.0, 1 - self.least / gap)) ** 1.5 if gap > 0 else 0.0

    @property
    def logits(self) -> Tensor:
        """(T + 1, K), at the start and after every step."""
        return torch.stack([self.first, *(s.z for s in self.steps)])

    def take(self, step: Taken, x: Tensor) -> None:
        """Move on to x. Nothing is called between the assignments, so that an interrupt finds all of them or none."""
        self.x, self.z, self.steps = x, step.z, [*self.steps, step]
