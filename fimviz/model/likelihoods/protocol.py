"""What a model's logits mean: the distribution p(y|x) and the Fisher information of its logits.

Every function takes logits z of shape (n, K) and works in their dtype; callers pass float64, because the
information of a confident prediction spans a hundred orders of magnitude. Nothing here touches the network.

For a likelihood with logit-space Fisher information S(z), the input-space one is F = Jᵀ S J with J = ∂z/∂x.
`Factor` holds S in the form that survives saturation, S = e^s R Rᵀ: R is well scaled, s is a logarithm. Then
F = e^s (Rᵀ J)ᵀ (Rᵀ J), and nothing that passes through the network depends on how small the probabilities are.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol

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
