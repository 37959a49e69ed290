"""What likelihoods share whose outputs are independent of each other, so that S is diagonal."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fimviz.model.labels import refuse_missing
from fimviz.model.likelihoods.protocol import Factor, Likelihood, Symbols


class Independent(Likelihood):
    """K outputs, each with an information s_k of its own: S = diag(s), F = Σ s_k J_kᵀJ_k."""

    def unlabelled(self, count: int, classes: int) -> Tensor:
        return torch.full((count, classes), torch.nan, dtype=torch.float64)

    def labelled(self, labels: Tensor) -> Tensor:
        return ~labels.isnan().any(-1)

    def rank(self, classes: int) -> int:
        return classes

    def factor(self, z: Tensor) -> Factor:
        log_s = self.log_weights(z)
        scale = log_s.amax(1)
        a = (0.5 * (log_s - scale[:, None])).exp()
        return Factor(a, torch.zeros_like(scale), scale, self._ascent(z))

    def _ascent(self, z: Tensor) -> Tensor:
        """`Factor.ascent`; zeros where nothing is more probable in any direction."""
        return torch.zeros_like(z)

    def log_cap(self, z: Tensor) -> Tensor:
        return self.log_weights(z).amax(1)


def symbols_of(cap: str, limit: str, last: str, onto: str, legend: str) -> Symbols:
    """Those of outputs that are independent, whose gradients count themselves."""
    return Symbols(
        cap=cap,
        limit=limit,
        apart="‖J‖",
        pair="information s_k ‖J_k‖² of one output",
        width="‖W‖",
        whole=f"{limit} · ‖W‖_F²",
        turn=f"{limit} · ‖W‖_F² takes the place of the last layer’s ‖W‖²",
        last=last,
        onto=onto,
        legend=f"J: the gradients of all logits; {legend}.",
    )


class Numbers(Independent):
    """K numbers: the prediction is their mean, which any change moves, so that there is no outcome to leave.

    A confidence, the distance to another outcome and what rests on them do not exist: they are NaN and infinite.
    """

    decides: ClassVar[bool] = False
    nouns: ClassVar[str] = "outputs"
    least: ClassVar[float] = -math.inf
    several: ClassVar[str] = "pass one row of numbers an image, one for every output"

    @abstractmethod
    def log_prob(self, z: Tensor, outcome: Tensor) -> Tensor:
        """The log-density of numbers, (n,), up to a constant."""

    def output(self, z: Tensor) -> Tensor:
        return self.mean(z)

    def output_of(self, mean: Tensor) -> Tensor:
        return mean

    def size(self, z: Tensor) -> Tensor:
        return z.abs().amax(-1)

    def predict(self, z: Tensor) -> Tensor:
        return self.mean(z)

    def confidence(self, z: Tensor) -> Tensor:
        return torch.full_like(z[..., 0], torch.nan)

    def doubt(self, z: Tensor) -> Tensor:
        return self.confidence(z)

    def read(self, given: np.ndarray, count: int, names: Sequence[str]) -> Tensor:
        if given.shape == (count,) and len(names) == 1:
            given = given[:, None]
        if given.shape != (count, len(names)):
            raise ValueError(
                f"labels are {given.dtype} of shape {tuple(given.shape)}, expected ({count}, {len(names)}): the model "
                f"gives {self.words}"
            )
        if given.dtype.kind not in "iuf":
            refuse_missing(given)
            raise TypeError(f"labels hold {given.flat[0]!r}, expected numbers: the model gives {self.words}")
        refuse_missing(given)
        if (endless := np.isinf(given).nonzero())[0].size:
            raise ValueError(f"labels[{endless[0][0]}] holds {given[endless][0]}, expected finite numbers")
        return torch.tensor(given.astype(np.float64))

    def same(self, one: Tensor, other: Tensor) -> Tensor:
        return (one == other).all(-1)

    def cells(self, outcome: Tensor) -> list[Any]:
        return [row[0] if len(row) == 1 else tuple(row) for row in outcome.tolist()]

    def plain(self, outcome: Tensor) -> list[float]:
        return outcome.tolist()

    def said(self, outcome: Tensor, names: Sequence[str]) -> str:
        values = [f"{value:.4g}" for value in outcome.tolist()]
        return values[0] if len(values) == 1 else ", ".join(f"{n} {v}" for n, v in zip(names, values, strict=True))

    def gaps(self, z: Tensor, outcome: Tensor) -> Tensor:
        return torch.full_like(z, torch.inf).where(z.isfinite(), torch.nan)

    def harm(self, z: Tensor, labels: Tensor) -> Tensor:
        return -self.log_prob(z, labels.to(z.dtype))

    def standing(self, z: Tensor, labels: Tensor) -> Tensor:
        return -self.harm(z, labels)

    def angles(self, z: Tensor, outcome: Tensor) -> Tensor:
        return self.gaps(z, outcome)
