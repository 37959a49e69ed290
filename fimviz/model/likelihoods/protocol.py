"""What a model's logits mean: the distribution p(y|x), the Fisher information of its logits, and all that follows.

Whatever depends on what p(y|x) is asks the likelihood: labels, predictions, divergences, caps of bounds, what attacks
ascend, and the words of messages. So a new one is a file here and a row of `LIKELIHOODS`.

Every function takes logits z of shape (n, K) and works in their dtype; callers pass float64, because the
information of a confident prediction spans a hundred orders of magnitude. Nothing here touches the network.

For a likelihood with logit-space Fisher information S(z), the input-space one is F = Jᵀ S J with J = ∂z/∂x.
`Factor` holds S in the form that survives saturation, S = e^s R Rᵀ: R is well scaled, s is a logarithm. Then
F = e^s (Rᵀ J)ᵀ (Rᵀ J), and nothing that passes through the network depends on how small the probabilities are.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Factor:
    """S = e^s R Rᵀ at n predictions, with R = Cᵀ diag(a)(I − γ a aᵀ) as maps between class space and logits.

    C is the identity, or takes the logit of every class but the winner minus the winner's.

    Attributes:
        a: (n, r) weights, the largest 1; r is the largest rank that F can have.
        gamma: (n,) how the weights' classes are coupled.
        log_scale: (n,) s.
        ascent: (n, r), up to a positive factor the h with ∇ₓ log p(most probable outcome) = (Rᵀ J)ᵀ h.
        others, winner: (n, r) and (n, 1) class indices that make C, or None for the identity.
    """

    a: Tensor
    gamma: Tensor
    log_scale: Tensor
    ascent: Tensor
    others: Tensor | None = None
    winner: Tensor | None = None

    @property
    def rank(self) -> int:
        """The size r of class space."""
        return self.a.shape[1]

    def to(self, device: torch.device) -> Factor:
        """The same with its numbers on a device."""
        there: dict[str, Any] = {
            f.name: None if (t := getattr(self, f.name)) is None else t.to(device) for f in fields(self)
        }
        return Factor(**there)

    def to_logits(self, y: Tensor) -> Tensor:
        """R y, (n, r, m) → (n, K, m): cotangents toward the logits."""
        a = self.a[..., None]
        t = a * (y - self.gamma[:, None, None] * a * (a * y).sum(1, keepdim=True))
        if self.others is None or self.winner is None:
            return t
        out = t.new_zeros(len(t), t.shape[1] + 1, t.shape[2])
        out.scatter_(1, self.others[..., None].expand_as(t), t)
        return out.scatter_(1, self.winner[..., None].expand(-1, -1, t.shape[2]), -t.sum(1, keepdim=True))

    def from_logits(self, t: Tensor) -> Tensor:
        """Rᵀ t, (n, K, m) → (n, r, m): tangents of the logits, whitened."""
        if self.others is not None and self.winner is not None:
            own = t.gather(1, self.winner[..., None].expand(-1, -1, t.shape[2]))
            t = t.gather(1, self.others[..., None].expand(-1, -1, t.shape[2])) - own
        a = self.a[..., None]
        return a * t - self.gamma[:, None, None] * a * (a**2 * t).sum(1, keepdim=True)


@dataclass(frozen=True)
class Symbols:
    """How formulas of bounds are written for a likelihood.

    Attributes:
        cap: `log_cap`, without its logarithm; limit: the largest that it can be.
        apart: how far gradients of logits are apart; pair: the lower bound of the best of them.
        width: what the last layer's weights do to that; turn: what it does to L6, in words; whole: in symbols.
        last: the step from logits to the distribution; onto: what kind of step that is.
        legend: what these mean, as sentences.
    """

    cap: str
    limit: str
    apart: str
    pair: str
    width: str
    whole: str
    turn: str
    last: str
    onto: str
    legend: str


class Likelihood(ABC):
    """The distribution that the logits z (n, K) of a model describe.

    Attributes:
        name: as `Classifier` takes it.
        words: what a model of it gives, as messages say it; nouns: what it is K of.
        exclusive: whether a prediction is one of K classes.
        decides: whether a prediction is an outcome, which a small change leaves as it is; if not, it is K numbers.
        invariant: whether a number added to all logits changes nothing, so that F knows their differences alone.
        least: below which outputs are not told apart.
        log_limit: the logarithm of the largest `log_cap` at any prediction.
        symbols: of the formulas of bounds.
        several: what to pass where labels of an input are a sequence of any length.
    """

    name: ClassVar[str]
    words: ClassVar[str]
    nouns: ClassVar[str] = "classes"
    exclusive: ClassVar[bool] = False
    decides: ClassVar[bool] = True
    invariant: ClassVar[bool] = False
    least: ClassVar[float] = -50.0
    log_limit: float
    symbols: ClassVar[Symbols]
    several: ClassVar[str]

    def one_of_classes(self, why: str) -> None:
        """Refuse, for the reason, what takes one of K classes."""
        if not self.exclusive:
            raise ValueError(f"the model gives {self.words}, expected one of K classes: {why}")

    def an_outcome(self, why: str) -> None:
        """Refuse, for the reason, what takes an outcome."""
        if not self.decides:
            raise ValueError(f"the model gives {self.words}, expected classes or yes/no labels: {why}")

    # The model.

    def of(self, outputs: int) -> Likelihood:
        """The likelihood of a model with so many outputs, where that says more."""
        return self

    def logits(self, outputs: Tensor) -> Tensor:
        """The logits (n, K) in what the model returns."""
        return outputs

    def check(self, outputs: Tensor, ends: set[str], squashed: bool, tolerance: float) -> None:  # noqa: B027
        """Refuse outputs that are no logits: by their values, by the operations they end in, or if in a sigmoid."""

    def from_probabilities(self, p: Tensor, least: float, rest: float, digit: float) -> Tensor:
        """Logits (n, K) of probabilities, rounded to `digit`; at least `least`, and at most 1 − `rest`."""
        raise ValueError(f"outputs is 'probabilities' and the model gives {self.words}: pass outputs='logits'")

    def slope(self, z: Tensor) -> Tensor:
        """How much (n, K) a probability moves with its logit."""
        raise NotImplementedError

    def resolved(self, z: Tensor, digit: float) -> tuple[Tensor, Tensor, Tensor]:
        """Of one answer (K,), rounded to `digit`: the probability that may hide in it, and what does, or surely not."""
        never = torch.zeros_like(z, dtype=torch.bool)
        return torch.zeros_like(z), never, ~never

    # The distribution.

    @abstractmethod
    def mean(self, z: Tensor) -> Tensor:
        """The expected value of y, (n, K): probabilities of classes and of labels, else what is predicted."""

    @abstractmethod
    def output(self, z: Tensor) -> Tensor:
        """What a classifier says when it is called, (n, K): the logarithm of a probability, in nats, else the mean."""

    def output_of(self, mean: Tensor) -> Tensor:
        """The output whose mean this is."""
        return mean.log()

    def size(self, z: Tensor) -> Tensor:
        """How large (n,) the part of the logits is that rounding is relative to: what a common shift leaves of them."""
        return z.amax(-1) - z.amin(-1)

    @abstractmethod
    def kl(self, z: Tensor, w: Tensor) -> Tensor:
        """KL(p_z ‖ p_w) in nats, (n,)."""

    @abstractmethod
    def rank(self, classes: int) -> int:
        """The largest rank r that F can have."""

    @abstractmethod
    def factor(self, z: Tensor) -> Factor:
        """S at n predictions in factored form."""

    # Predictions and labels.

    @abstractmethod
    def predict(self, z: Tensor) -> Tensor:
        """The most probable outcome: the class (n,), or one boolean a label (n, K); else the mean (n, K)."""

    @abstractmethod
    def confidence(self, z: Tensor) -> Tensor:
        """The probability of the most probable outcome, (n,); NaN where there are none."""

    @abstractmethod
    def doubt(self, z: Tensor) -> Tensor:
        """1 − confidence, (n,), to all digits however small it is."""

    @abstractmethod
    def log_prob(self, z: Tensor, outcome: Tensor) -> Tensor:
        """The log-probability of outcomes, (n,), or where they are numbers their log-density."""

    @abstractmethod
    def read(self, given: np.ndarray, count: int, names: Sequence[str]) -> Tensor:
        """Labels of `count` inputs as `predict` gives outcomes; refused, with the reason, where they are none."""

    @abstractmethod
    def same(self, one: Tensor, other: Tensor) -> Tensor:
        """Whether outcomes are the same, (n,)."""

    @abstractmethod
    def unlabelled(self, count: int, classes: int) -> Tensor:
        """What stands for labels of `count` inputs that have none."""

    @abstractmethod
    def labelled(self, labels: Tensor) -> Tensor:
        """Whether inputs (n,) have a label."""

    def known(self, outcome: Tensor, lost: Tensor) -> Tensor:
        """Predictions, marked where logits (n,) are lost."""
        return outcome

    @abstractmethod
    def cells(self, outcome: Tensor) -> list[Any]:
        """Outcomes as a frame has them, a number or a tuple each."""

    def column(self, outcome: Tensor, lost: Tensor | None = None) -> list[Any]:
        """A frame's column of outcomes: NaN where they (n,) are lost, which makes floats of integers."""
        values = self.cells(outcome)
        for place in [] if lost is None else lost.nonzero()[:, 0].tolist():
            values[place] = math.nan
        return values

    @abstractmethod
    def plain(self, outcome: Tensor) -> Any:
        """One outcome as JSON has it: a class, a list of the labels that are on, or a list of numbers."""

    @abstractmethod
    def said(self, outcome: Tensor, names: Sequence[str]) -> str:
        """One outcome in words."""

    # What leads to another outcome.

    @abstractmethod
    def gaps(self, z: Tensor, outcome: Tensor) -> Tensor:
        """How far (n, K) the logits are from every other outcome; infinite for the outcome itself."""

    def margin(self, z: Tensor, outcome: Tensor) -> Tensor:
        """How far (n,) the logits are from another most probable outcome; negative beyond it."""
        return self.gaps(z, outcome).amin(-1)

    @abstractmethod
    def harm(self, z: Tensor, labels: Tensor) -> Tensor:
        """A loss (n,) that grows with cross-entropy and never saturates: what attacks ascend."""

    def standing(self, z: Tensor, labels: Tensor) -> Tensor:
        """How well (n,) the labels stand: of several changes the worst is where this is least."""
        return self.margin(z, labels)

    @abstractmethod
    def angles(self, z: Tensor, outcome: Tensor) -> Tensor:
        """The Fisher–Rao distance (n, K) to every other outcome; infinite for the outcome itself."""

    # Caps of bounds.

    @abstractmethod
    def log_cap(self, z: Tensor) -> Tensor:
        """The logarithm of a cap c (n,) on what S does.

        uᵀFu ≤ c ‖Ju‖², or where only differences of logits count, c times the square of their largest along u.
        """

    @abstractmethod
    def log_weights(self, z: Tensor) -> Tensor:
        """The logarithms (n, K) of s_k with F = Σ s_k J_kᵀJ_k, or (n, K, K) of s_ab with Σ s_ab (J_a − J_b)ᵀ(…)/2."""

    @property
    def unlimited(self) -> str:
        """Why no bound holds at every point, if so."""
        return "" if self.log_limit < math.inf else f"{self.words} have no largest information"


def expm1_minus(u: Tensor) -> Tensor:
    """e^u − 1 − u without cancellation near 0 (five terms of the series below |u| = 0.01)."""
    series = u**2 * sum(u**k / math.factorial(k + 2) for k in range(5))
    return torch.where(u.abs() < 0.01, series, torch.expm1(u) - u)
