"""What a trace is while it grows, and the rules by which it steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

PACES = ("step", "trust region", "box", "line search", "boundary")
CLOSE = 1e-4  # Fisher–Rao distance to which the boundary is closed in on


class Rules(NamedTuple):
    """How traces step: see `trace_margins`."""

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


class Taken(NamedTuple):
    """One step of one trace: how long it was, by several measures, who set its pace, and where it led."""

    fr: float  # measured length
    fr_error: float
    natural: float  # √(δᵀFδ) at the step's start
    largest: float  # λ_max there
    l2: float
    pace: int
    smoothed: bool  # whether its slope was a smoothed one
    middle: Tensor  # (K,) logits half-way
    z: Tensor  # (K,) logits at its end
    image: Tensor | None  # (*input) there, where images are kept


@dataclass(eq=False)
class Trace:
    """One trace as it grows: where it is, and what it has passed."""

    sample: int
    source: int
    target: int
    x: Tensor  # (*input), in the passes' dtype, on the CPU
    z: Tensor  # (K,), float64
    share: float = 1.0  # of η and of r, which its steps are held to
    first: Tensor = field(init=False)
    steps: list[Taken] = field(default_factory=list)
    status: str = "interrupted"
    least: float = field(init=False)  # the narrowest gap so far
    idle: int = 0  # steps since then
    vain: int = 0  # steps that gained nothing, in all
    lost: bool = False  # whether its slopes have been found to say nothing

    def __post_init__(self) -> None:
        self.first, self.least = self.z, float(self.z[self.source] - self.z[self.target])

    @property
    def way(self) -> float:
        """The share of its steps that a running trace has made, roughly, by how much of the first gap it has closed."""
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
