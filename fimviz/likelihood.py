"""What a model's logits mean: the distribution p(y|x) and the Fisher information of its logits.

Every function takes logits z of shape (n, K) and works in their dtype; callers pass float64, because the
information of a confident prediction spans a hundred orders of magnitude. Nothing here touches the network.

For a likelihood with logit-space Fisher information S(z), the input-space one is F = Jᵀ S J with J = ∂z/∂x.
`Factor` holds S in the form that survives saturation, S = e^s R Rᵀ: R is well scaled, s is a logarithm. Then
F = e^s (Rᵀ J)ᵀ (Rᵀ J), and nothing that passes through the network depends on how small the probabilities are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as tf


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


class Likelihood(Protocol):
    """The distribution that the logits of a model describe."""

    name: str

    def log_probs(self, z: Tensor) -> Tensor:
        """Log-probabilities of the K classes, (n, K), in nats."""

    def kl(self, z: Tensor, w: Tensor) -> Tensor:
        """KL(p_z ‖ p_w) in nats, (n,)."""

    def mode(self, z: Tensor) -> Tensor:
        """The most probable outcome: the class (n,), or one boolean a label (n, K)."""

    def confidence(self, z: Tensor) -> Tensor:
        """The probability of the most probable outcome, (n,)."""

    def doubt(self, z: Tensor) -> Tensor:
        """1 − confidence, (n,), to all digits however small it is."""

    def margin(self, z: Tensor, mode: Tensor) -> Tensor:
        """How far (n,) the logits are from another most probable outcome than `mode`; negative beyond it."""

    def rank(self, classes: int) -> int:
        """The largest rank r that F can have."""

    def factor(self, z: Tensor) -> Factor:
        """S at n predictions in factored form."""


class Categorical:
    """One of K classes: p = softmax(z), S = diag(p) − p pᵀ.

    In the differences z_c − z_w to the winner w, S is diag(p) − p pᵀ over the other classes only, so that 1 − p_w is
    never formed by subtraction. With q = p/p₂ (p₂ the runner-up's probability) it is p₂ M Mᵀ for
    M = diag(√q)(I − γ √q √qᵀ), γ = p₂/(1 + √p_w), and ∇ log p_w = −M √q up to a positive factor.
    """

    name = "categorical"

    def log_probs(self, z: Tensor) -> Tensor:
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
        log_p, u = self.log_probs(z), w - z
        u = u - u.gather(-1, z.argmax(-1, keepdim=True))
        u = u - (log_p.exp() * u).sum(-1, keepdim=True)
        # Where u is large, p may underflow although p e^u does not.
        rest = torch.where(u > 1, (log_p + u).exp() - log_p.exp() * (1 + u), log_p.exp() * _expm1_minus(u.clamp_max(1)))
        small = rest.sum(-1)
        return torch.where(small < 1, torch.log1p(small), torch.logsumexp(log_p + u, -1)).clamp_min(0)

    def mode(self, z: Tensor) -> Tensor:
        return z.argmax(-1)

    def confidence(self, z: Tensor) -> Tensor:
        return 1 / (1 + self._odds(z)[1][..., 0])

    def doubt(self, z: Tensor) -> Tensor:
        odds = self._odds(z)[1][..., 0]
        return odds / (1 + odds)

    def margin(self, z: Tensor, mode: Tensor) -> Tensor:
        own = z.gather(-1, mode[..., None])
        return own[..., 0] - z.scatter(-1, mode[..., None], -torch.inf).amax(-1)

    def rank(self, classes: int) -> int:
        return classes - 1

    def factor(self, z: Tensor) -> Factor:
        winner = z.argmax(-1, keepdim=True)
        index = torch.arange(z.shape[-1] - 1, device=z.device).expand(len(z), -1)
        others = index + (index >= winner)
        log_p = self.log_probs(z)
        log_others = log_p.gather(1, others)
        scale = log_others.amax(1)
        root_q = (0.5 * (log_others - scale[:, None])).exp()
        gamma = scale.exp() / (1 + (0.5 * log_p.amax(1)).exp())
        return Factor(root_q, gamma, scale, -root_q, others, winner)


class Bernoulli:
    """K independent yes/no labels: p = sigmoid(z), S = diag(p(1 − p))."""

    name = "bernoulli"

    def log_probs(self, z: Tensor) -> Tensor:
        return tf.logsigmoid(z)

    def kl(self, z: Tensor, w: Tensor) -> Tensor:
        pairs = torch.stack([torch.zeros_like(z), z], -1), torch.stack([torch.zeros_like(w), w], -1)
        return Categorical().kl(*(pair.flatten(0, -2) for pair in pairs)).view(z.shape).sum(-1)

    def mode(self, z: Tensor) -> Tensor:
        return z > 0

    def confidence(self, z: Tensor) -> Tensor:
        return tf.logsigmoid(z.abs()).sum(-1).exp()

    def doubt(self, z: Tensor) -> Tensor:
        # logsigmoid rounds to 0 where log1p does not
        return -torch.expm1(-torch.log1p(torch.exp(-z.abs())).sum(-1))

    def margin(self, z: Tensor, mode: Tensor) -> Tensor:
        return torch.where(mode, z, -z).amin(-1)

    def rank(self, classes: int) -> int:
        return classes

    def factor(self, z: Tensor) -> Factor:
        log_s = tf.logsigmoid(z) + tf.logsigmoid(-z)
        scale = log_s.amax(1)
        a = (0.5 * (log_s - scale[:, None])).exp()
        # Rᵀ J has rows √(p(1−p)) ∇z_k, and ∇ log p(mode) = Σ ±(probability of the other value) ∇z_k.
        log_odds = -z.abs() / 2
        ascent = (2 * self.mode(z).to(z.dtype) - 1) * (log_odds - log_odds.amax(1, keepdim=True)).exp()
        return Factor(a, torch.zeros_like(scale), scale, ascent)


LIKELIHOODS: dict[str, Likelihood] = {"categorical": Categorical(), "bernoulli": Bernoulli()}


def _expm1_minus(u: Tensor) -> Tensor:
    """e^u − 1 − u without cancellation near 0 (five terms of the series below |u| = 0.01)."""
    series = u**2 * sum(u**k / math.factorial(k + 2) for k in range(5))
    return torch.where(u.abs() < 0.01, series, torch.expm1(u) - u)
