"""K yes/no labels: a sigmoid a logit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as tf

from fimviz.model.likelihoods.categorical import Categorical
from fimviz.model.likelihoods.independent import Independent, symbols_of
from fimviz.model.likelihoods.protocol import Likelihood, Symbols


@dataclass(frozen=True)
class Bernoulli(Independent):
    """K independent yes/no labels: p = sigmoid(z), S = diag(p(1 − p))."""

    name: ClassVar[str] = "bernoulli"
    words: ClassVar[str] = "several yes/no labels"
    log_limit = math.log(0.25)
    symbols: ClassVar[Symbols] = symbols_of(
        "max p(1 − p)", "¼", "sigmoid", "to probabilities", "p(1 − p): the variance of a label"
    )
    several: ClassVar[str] = "for a list of names an image, [[name in some for name in net.classes] for some in labels]"

    def of(self, outputs: int) -> Likelihood:
        return Categorical(single=True) if outputs == 1 else self

    def check(self, outputs: Tensor, ends: set[str], squashed: bool, tolerance: float) -> None:
        if squashed:
            raise ValueError(
                "the model ends in a sigmoid (nn.Sigmoid or torch.sigmoid) and returns probabilities, expected "
                "logits: leave it out"
            )
        if ends and ends <= {"Softmax", "LogSoftmax", "LogSigmoid"}:
            raise ValueError(
                f"the model ends in {' and '.join(sorted(ends))}, expected logits of yes/no labels: leave it out, and "
                "for one of K classes leave likelihood='bernoulli' out"
            )

    def from_probabilities(self, p: Tensor, least: float, rest: float, digit: float) -> Tensor:
        return p.clamp_min(least).log() - (1 - p).clamp_min(rest).log()

    def slope(self, z: Tensor) -> Tensor:
        p = self.mean(z)
        return p * (1 - p)

    def resolved(self, z: Tensor, digit: float) -> tuple[Tensor, Tensor, Tensor]:
        p = self.mean(z)
        return torch.minimum(p, 1 - p), p < digit / 2, p >= 2 * digit

    def mean(self, z: Tensor) -> Tensor:
        return self.output(z).exp()

    def output(self, z: Tensor) -> Tensor:
        return tf.logsigmoid(z)

    def kl(self, z: Tensor, w: Tensor) -> Tensor:
        pairs = torch.stack([torch.zeros_like(z), z], -1), torch.stack([torch.zeros_like(w), w], -1)
        return Categorical().kl(*(pair.flatten(0, -2) for pair in pairs)).view(z.shape).sum(-1)

    def _ascent(self, z: Tensor) -> Tensor:
        # Rᵀ J has rows √(p(1−p)) ∇z_k, and ∇ log p(mode) = Σ ±(probability of the other value) ∇z_k.
        log_odds = -z.abs() / 2
        return (2 * self.predict(z).to(z.dtype) - 1) * (log_odds - log_odds.amax(1, keepdim=True)).exp()

    def predict(self, z: Tensor) -> Tensor:
        return z > 0

    def confidence(self, z: Tensor) -> Tensor:
        return tf.logsigmoid(z.abs()).sum(-1).exp()

    def doubt(self, z: Tensor) -> Tensor:
        # logsigmoid rounds to 0 where log1p does not
        return -torch.expm1(-torch.log1p(torch.exp(-z.abs())).sum(-1))

    def log_prob(self, z: Tensor, outcome: Tensor) -> Tensor:
        return torch.where(outcome, self.output(z), self.output(-z)).sum(-1)

    def read(self, given: np.ndarray, count: int, names: Sequence[str]) -> Tensor:
        if given.shape != (count, len(names)):
            raise ValueError(
                f"labels are {given.dtype} of shape {tuple(given.shape)}, expected ({count}, {len(names)}) of 0 and 1: "
                "with likelihood='bernoulli' every class is a yes/no label of its own, and several may be right"
            )
        if given.dtype.kind not in "biuf":
            raise TypeError(f"labels hold {given.flat[0]!r}, expected 0 and 1 only")
        wrong = ((given != 0) & (given != 1)).nonzero()
        if wrong[0].size:
            place = ", ".join(str(axis[0]) for axis in wrong)
            raise ValueError(f"labels[{place}] is {given[wrong][0]}, expected 0 and 1 only")
        return torch.tensor(given.astype(bool))

    def same(self, one: Tensor, other: Tensor) -> Tensor:
        return (one == other).all(-1)

    def cells(self, outcome: Tensor) -> list[Any]:
        return [tuple(self.plain(one)) for one in outcome]

    def plain(self, outcome: Tensor) -> list[int]:
        return outcome.nonzero()[:, 0].tolist()

    def said(self, outcome: Tensor, names: Sequence[str]) -> str:
        return " + ".join(names[c] for c in self.plain(outcome)) or "no label"

    def gaps(self, z: Tensor, outcome: Tensor) -> Tensor:
        return torch.where(outcome, z, -z)

    def harm(self, z: Tensor, labels: Tensor) -> Tensor:
        # the logarithm of the sum of the labels' cross-entropies
        t = torch.where(labels, -z, z)
        return torch.where(t < -15, t, tf.softplus(t.clamp_min(-15)).log()).logsumexp(1)

    def angles(self, z: Tensor, outcome: Tensor) -> Tensor:
        # A label changes where its logit does, and has p = sin² of half its Fisher–Rao coordinate.
        return (2 * torch.atan(torch.exp(-z.abs() / 2)) - math.pi / 2).abs()

    def log_weights(self, z: Tensor) -> Tensor:
        return tf.logsigmoid(z) + tf.logsigmoid(-z)
