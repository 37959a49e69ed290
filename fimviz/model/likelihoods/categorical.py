"""One of K classes: the softmax of the logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fimviz._tell import tell
from fimviz.model.labels import by_name, refuse_missing
from fimviz.model.likelihoods.protocol import Factor, Likelihood, Symbols, expm1_minus

_QUARTER = math.log(0.25)  # of a variance of what is between 0 and 1
_SUM = 1e-3  # how far from 1 the probabilities of a row may sum


@dataclass(frozen=True)
class Categorical(Likelihood):
    """One of K classes: p = softmax(z), S = diag(p) − p pᵀ.

    In the differences z_c − z_w to the winner w, S is diag(p) − p pᵀ over the other classes only, so that 1 − p_w is
    never formed by subtraction. With q = p/p₂ (p₂ the runner-up's probability) it is p₂ M Mᵀ for
    M = diag(√q)(I − γ √q √qᵀ), γ = p₂/(1 + √p_w), and ∇ log p_w = −M √q up to a positive factor.

    Args:
        single: whether the model returns the second of two logits alone, the first being 0.
    """

    name: ClassVar[str] = "categorical"
    words: ClassVar[str] = "one of K classes"
    exclusive: ClassVar[bool] = True
    invariant: ClassVar[bool] = True
    log_limit = _QUARTER
    symbols: ClassVar[Symbols] = Symbols(
        cap="c(p)",
        limit="¼",
        apart="max ‖J_i − J_j‖",
        pair="p_i p_j ‖J_i − J_j‖²",
        width="Δ",
        whole="½ · ‖W‖²",
        turn="½: how far a softmax can move, squared, per unit of its logits",
        last="softmax",
        onto="to probabilities",
        legend="Δ: the largest distance of two rows of W; c(p) ≤ ¼: the largest variance that the probabilities allow.",
    )
    several: ClassVar[str] = "pass one class an image"
    single: bool = field(default=False, compare=False)

    def of(self, outputs: int) -> Likelihood:
        if outputs == 1 and not self.single:
            raise ValueError(
                "the model returns one logit, expected one a class: pass likelihood='bernoulli' for a binary model"
            )
        return self

    def logits(self, outputs: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(outputs), outputs], 1) if self.single else outputs

    def check(self, outputs: Tensor, ends: set[str], squashed: bool, tolerance: float) -> None:
        rows = (outputs.sum(1) - 1).abs() < tolerance
        if outputs.shape[1] > 1 and bool(outputs.ge(0).all()) and bool(rows.all()):
            raise ValueError(
                "the model returns probabilities (rows sum to 1), expected logits: leave out its final softmax, "
                "or return the logarithm"
            )
        if ends and squashed:
            tell(
                "the model ends in a sigmoid, and its outputs are taken for the logits of one of K classes: for "
                "yes/no labels leave the sigmoid out and pass likelihood='bernoulli'"
            )

    def from_probabilities(self, p: Tensor, least: float, rest: float, digit: float) -> Tensor:
        worst = float((p.sum(1) - 1).abs().nan_to_num().max())
        if worst > max(_SUM, 0.55 * digit * p.shape[1]):
            raise ValueError(f"predict returned probabilities that sum to 1 ± {worst:.3g}, expected 1 in every row")
        return p.clamp_min(least).log()

    def slope(self, z: Tensor) -> Tensor:
        p = self.mean(z)
        return p * (1 - p) if self.single else p

    def resolved(self, z: Tensor, digit: float) -> tuple[Tensor, Tensor, Tensor]:
        p = self.mean(z[None])[0]
        tied = (p - p.min()).abs() <= 1e-6 * p.min()  # no network gives two classes the same
        hidden = (p < digit / 2) | (tied & (p < p.max()) & (tied.sum() > 1))
        return torch.minimum(p, 1 - p), hidden, p >= 2 * digit

    def mean(self, z: Tensor) -> Tensor:
        return self.output(z).exp()

    def output(self, z: Tensor) -> Tensor:
        # torch's log_softmax rounds the winner's log-probability to 0 once the others sum to less than 1e-16.
        ahead, odds = self._odds(z)
        return ahead - torch.log1p(odds)

    def _odds(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Logits minus the winner's logit (n, K), and the odds (n, 1) of all others against the winner."""
        winner = z.argmax(-1, keepdim=True)
        ahead = z - z.gather(-1, winner)
        return ahead, ahead.exp().scatter(-1, winner, 0).sum(-1, keepdim=True)

    def kl(self, z: Tensor, w: Tensor) -> Tensor:
        # KL is invariant under a shift of the logits; centring u = w − z at E_p keeps small divergences exact:
        # KL = log E_p exp(u − E_p u). The winner's u goes first, so that E_p u is as small as the other p.
        log_p, u = self.output(z), w - z
        u = u - u.gather(-1, z.argmax(-1, keepdim=True))
        u = u - (log_p.exp() * u).sum(-1, keepdim=True)
        # Where u is large, p may underflow although p e^u does not.
        rest = torch.where(u > 1, (log_p + u).exp() - log_p.exp() * (1 + u), log_p.exp() * expm1_minus(u.clamp_max(1)))
        small = rest.sum(-1)
        return torch.where(small < 1, torch.log1p(small), torch.logsumexp(log_p + u, -1)).clamp_min(0)

    def rank(self, classes: int) -> int:
        return classes - 1

    def factor(self, z: Tensor) -> Factor:
        winner = z.argmax(-1, keepdim=True)
        index = torch.arange(z.shape[-1] - 1, device=z.device).expand(len(z), -1)
        others = index + (index >= winner)
        log_p = self.output(z)
        log_others = log_p.gather(1, others)
        scale = log_others.amax(1)
        root_q = (0.5 * (log_others - scale[:, None])).exp()
        gamma = scale.exp() / (1 + (0.5 * log_p.amax(1)).exp())
        return Factor(root_q, gamma, scale, -root_q, others, winner)

    def predict(self, z: Tensor) -> Tensor:
        return z.argmax(-1)

    def confidence(self, z: Tensor) -> Tensor:
        return 1 / (1 + self._odds(z)[1][..., 0])

    def doubt(self, z: Tensor) -> Tensor:
        odds = self._odds(z)[1][..., 0]
        return odds / (1 + odds)

    def log_prob(self, z: Tensor, outcome: Tensor) -> Tensor:
        return self.output(z).gather(-1, outcome[..., None])[..., 0]

    def read(self, given: np.ndarray, count: int, names: Sequence[str]) -> Tensor:
        if given.ndim == 2 and given.shape[1] == 1:
            given = given[:, 0]
        if given.dtype == object or given.dtype.kind in "US":
            refuse_missing(given)
            if not all(isinstance(v, str) for v in given.flat):
                raise TypeError(f"labels hold {given.flat[0]!r}, expected class indices or names")
            given = by_name(given, names)
        classes = len(names)
        what = f"labels are {given.dtype} of shape {tuple(given.shape)}, expected class indices ({count},)"
        if given.shape != (count,):
            mend = ": for one-hot labels pass labels.argmax(1)" if given.shape == (count, classes) else ""
            raise ValueError(what + mend)
        if given.dtype.kind == "b" and classes != 2:
            raise TypeError(f"{what}: booleans tell two classes apart, and there are {classes}")
        if given.dtype.kind == "f":
            refuse_missing(given)
            if (broken := (given != np.floor(given)).nonzero()[0]).size:
                raise ValueError(f"labels[{broken[0]}] is {given[broken[0]]}, expected class indices, which are whole")
        if (beyond := ((given < 0) | (given >= classes)).nonzero()[0]).size:
            at = beyond[0]
            raise ValueError(f"labels[{at}] is {given[at]}, expected class indices from 0 to {classes - 1}")
        return torch.tensor(given.astype(np.int64))

    def same(self, one: Tensor, other: Tensor) -> Tensor:
        return one == other

    def unlabelled(self, count: int, classes: int) -> Tensor:
        return torch.full((count,), -1)

    def labelled(self, labels: Tensor) -> Tensor:
        return labels >= 0

    def known(self, outcome: Tensor, lost: Tensor) -> Tensor:
        return outcome.masked_fill(lost, -1)

    def cells(self, outcome: Tensor) -> list[Any]:
        return outcome.tolist()

    def plain(self, outcome: Tensor) -> int:
        return int(outcome)

    def said(self, outcome: Tensor, names: Sequence[str]) -> str:
        return names[int(outcome)]

    def gaps(self, z: Tensor, outcome: Tensor) -> Tensor:
        own = outcome[..., None].clamp_min(0)  # a prediction that is not known has no gap either
        return (z.gather(-1, own) - z).scatter(-1, own, torch.inf)

    def margin(self, z: Tensor, outcome: Tensor) -> Tensor:
        own = outcome[..., None].clamp_min(0)
        return z.gather(-1, own)[..., 0] - z.scatter(-1, own, -torch.inf).amax(-1)

    def harm(self, z: Tensor, labels: Tensor) -> Tensor:
        # log((1 − p)/p) of the label
        own = labels[:, None]
        return z.scatter(1, own, -torch.inf).logsumexp(1) - z.gather(1, own)[:, 0]

    def angles(self, z: Tensor, outcome: Tensor) -> Tensor:
        # √p₁ − √p₂ = √p₁ (1 − e^{−gap/2}), without cancellation
        root = (0.5 * self.log_prob(z, outcome)).exp()[:, None]
        return 2 * torch.asin((root * -torch.expm1(-self.gaps(z, outcome) / 2) / 2**0.5).clamp(0, 1))

    def log_cap(self, z: Tensor) -> Tensor:
        # The largest p_A(1 − p_A) over sets A of classes; 1 − p of the winner is the sum of the others, in logarithms,
        # and keeps its digits however small it is.
        log_p = self.output(z)
        winner = z.argmax(1, keepdim=True)
        top = log_p.gather(1, winner)[:, 0]
        rest = log_p.scatter(1, winner, -torch.inf).logsumexp(1)
        return torch.where(top >= rest, top + rest, _QUARTER)

    def log_weights(self, z: Tensor) -> Tensor:
        log_p = self.output(z)
        return log_p[..., :, None] + log_p[..., None, :]
