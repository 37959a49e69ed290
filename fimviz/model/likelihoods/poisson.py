"""K counts: the logits are the logarithms of their rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from fimviz.model.likelihoods.independent import Numbers, symbols_of
from fimviz.model.likelihoods.protocol import Symbols, expm1_minus


@dataclass(frozen=True)
class Poisson(Numbers):
    """K independent counts with rates e^z: S = diag(e^z), KL = Σ e^z (e^u − 1 − u) with u = w − z."""

    name: ClassVar[str] = "poisson"
    words: ClassVar[str] = "counts"
    symbols: ClassVar[Symbols] = symbols_of("max rate", "∞", "exponential", "to rates", "a rate has no largest value")
    log_limit = math.inf

    def check(self, outputs: Tensor, ends: set[str], squashed: bool, tolerance: float) -> None:
        if ends and ends <= {"Exp", "Softplus", "Relu"}:
            raise ValueError(
                f"the model ends in {' and '.join(sorted(ends))} and returns rates, expected their logarithms: leave "
                "it out"
            )

    def read(self, given: np.ndarray, count: int, names: Sequence[str]) -> Tensor:
        labels = super().read(given, count, names)
        if (below := (labels < 0).nonzero()).numel():
            place = tuple(below[0].tolist())
            raise ValueError(f"labels[{place[0]}] holds {float(labels[place])}, expected counts, from 0 on")
        return labels

    def mean(self, z: Tensor) -> Tensor:
        return z.exp()

    def kl(self, z: Tensor, w: Tensor) -> Tensor:
        return (z.exp() * expm1_minus(w - z)).sum(-1)

    def log_prob(self, z: Tensor, outcome: Tensor) -> Tensor:
        return (outcome * z - z.exp()).sum(-1)

    def log_weights(self, z: Tensor) -> Tensor:
        return z
