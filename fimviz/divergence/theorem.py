"""What accuracy alone says about CCKL: Theorem 3.1, for labels smoothed to y = α e_label + (1 − α)/K.

    CCKL ≥ JS(y_i ‖ y_j) − E[KL(y ‖ f)] − E[KL(f ‖ y)]

JS is the divergence of Jensen and Shannon with weights ½ and ½. The proof takes both directions of every pair, and the
two expectations over the samples as often as the pairs hold them; over all samples alike, as the paper writes them,
it can fail where classes are not equally frequent.

Source: "Towards Disentangling Non-Robust and Robust Components in Performance Metric" (submitted to ICLR 2020).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fimviz._options import real


class Theorem(NamedTuple):
    """Both sides of the inequality, in nats.

    Attributes:
        cckl: the left side.
        bound: the right side, js − loss − co_loss; it says nothing where it is not positive.
        js: JS(y_i ‖ y_j), the same for any two classes, at most log 2.
        loss: E[KL(y ‖ f)]; co_loss: E[KL(f ‖ y)], infinite for α = 1 unless every prediction is certain.
        alpha: how much of a label stays on its class.
    """

    cckl: float
    bound: float
    js: float
    loss: float
    co_loss: float
    alpha: float

    @property
    def vacuous(self) -> bool:
        """Whether the bound says less than CCKL ≥ 0."""
        return self.bound <= 0

    def __str__(self) -> str:
        verdict = "vacuous: CCKL ≥ 0 says more" if self.vacuous else f"{100 * self.bound / self.cckl:.2g} % of it"
        text = (
            f"CCKL {self.cckl:.4g} ≥ JS {self.js:.4g} − loss {self.loss:.4g} − co-loss {self.co_loss:.4g} = "
            f"{self.bound:.4g} nats ({verdict}), labels smoothed with α = {self.alpha:g}"
        )
        return text.replace("-", "−").replace("co−loss", "co-loss")


def theorem(cckl: float, log_p: Tensor, labels: Tensor, share: Tensor, alpha: float) -> Theorem:
    """The theorem from log-probabilities (n, K), labels (n,) and how often (n,) the pairs hold each sample."""
    classes = log_p.shape[1]
    own, other = alpha + (1 - alpha) / classes, (1 - alpha) / classes
    js = math.log(2) * (own + other) + _xlogx(own) + _xlogx(other) - _xlogx(own + other)
    y = torch.full_like(log_p, other).scatter(1, labels[:, None], own)
    loss = (_entropy_terms(y) - torch.where(y > 0, y * log_p, 0.0)).sum(1)
    p = log_p.exp()
    co_loss = torch.where(p > 0, p * (log_p - y.log()), 0.0).sum(1)
    mean_loss, mean_co = (float((share * v).sum() / share.sum()) for v in (loss, co_loss))
    return Theorem(cckl, js - mean_loss - mean_co, js, mean_loss, mean_co, alpha)


def checked_alpha(alpha: float) -> float:
    """The option alpha."""
    value = real("alpha", alpha)
    if not 0 <= value <= 1:
        raise ValueError(f"alpha is {alpha}, expected a number from 0 to 1: how much of a label stays on its class")
    return value


def _xlogx(v: float) -> float:
    return v * math.log(v) if v > 0 else 0.0


def _entropy_terms(y: Tensor) -> Tensor:
    return torch.where(y > 0, y * y.log(), 0.0)
