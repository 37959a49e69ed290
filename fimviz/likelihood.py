"""What a model's logits mean: the distribution p(y|x) and the Fisher information of its logits.

Every function takes logits z of shape (n, K) and works in their dtype; callers pass float64, because the
information of a confident prediction spans a hundred orders of magnitude. Nothing here touches the network.

For a likelihood with logit-space Fisher information S(z), the input-space one is F = Jᵀ S J with J = ∂z/∂x.
S is used in the factored form that survives saturation:

    F = e^s · Dᵀ M Mᵀ D,    D = C J,

where the *contrasts* C are fixed integer combinations of logits, M is a well-scaled r×r matrix and s a
logarithm. Only D passes through the network, and nothing in D depends on how small the probabilities are.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as tf


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

    def margin(self, z: Tensor, mode: Tensor) -> Tensor:
        """How far (n,) the logits are from another most probable outcome than `mode`; negative beyond it."""

    def rank(self, classes: int) -> int:
        """The largest rank r that F can have."""

    def contrasts(self, z: Tensor) -> Tensor:
        """The cotangents C toward the logits, (r, n, K), whose VJPs are the rows of D."""

    def root(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """M (n, r, r) and the log scale s (n,) with Cᵀ-weighted S = e^s M Mᵀ."""

    def ascent(self, z: Tensor) -> Tensor:
        """Weights a (n, r), up to a positive factor, with ∇ₓ log p(mode) ∝ aᵀ D."""


class Categorical:
    """One of K classes: p = softmax(z), S = diag(p) − p pᵀ.

    The contrasts are J_c − J_w for every class c but the winner w. In them S is diag(p) − p pᵀ over the other
    classes only, so that 1 − p_w is never formed by subtraction; with q = p/p₂ (p₂ the runner-up's
    probability) it is p₂ M Mᵀ, M = diag(√q)(I − γ √q √qᵀ), γ = p₂/(1 + √p_w).
    """

    name = "categorical"

    def log_probs(self, z: Tensor) -> Tensor:
        return torch.log_softmax(z, -1)

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
        return torch.softmax(z, -1).amax(-1)

    def margin(self, z: Tensor, mode: Tensor) -> Tensor:
        own = z.gather(-1, mode[..., None])
        return own[..., 0] - z.scatter(-1, mode[..., None], -torch.inf).amax(-1)

    def rank(self, classes: int) -> int:
        return classes - 1

    def _others(self, z: Tensor) -> Tensor:
        """Indices (n, K−1) of the classes other than the winner, ascending."""
        winner = z.argmax(-1, keepdim=True)
        index = torch.arange(z.shape[-1] - 1, device=z.device).expand(len(z), -1)
        return index + (index >= winner)

    def contrasts(self, z: Tensor) -> Tensor:
        others = self._others(z)
        c = z.new_zeros(others.shape[1], *z.shape)
        c.scatter_(2, others.T[..., None], 1)
        return c.scatter_(2, z.argmax(-1)[None, :, None].expand(len(c), -1, 1), -1)

    def root(self, z: Tensor) -> tuple[Tensor, Tensor]:
        log_p = self.log_probs(z)
        log_others = log_p.gather(1, self._others(z))
        scale = log_others.amax(1)
        root_q = (0.5 * (log_others - scale[:, None])).exp()
        gamma = scale.exp() / (1 + (0.5 * log_p.amax(1)).exp())
        rank_one = gamma[:, None, None] * root_q[:, :, None] * root_q[:, None, :]
        eye = torch.eye(root_q.shape[1], dtype=z.dtype, device=z.device)
        return root_q[:, :, None] * (eye - rank_one), scale

    def ascent(self, z: Tensor) -> Tensor:
        log_others = z.gather(1, self._others(z))
        return -(log_others - log_others.amax(1, keepdim=True)).exp()


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

    def margin(self, z: Tensor, mode: Tensor) -> Tensor:
        return torch.where(mode, z, -z).amin(-1)

    def rank(self, classes: int) -> int:
        return classes

    def contrasts(self, z: Tensor) -> Tensor:
        classes = z.shape[1]
        return torch.eye(classes, dtype=z.dtype, device=z.device)[:, None].expand(classes, len(z), classes)

    def root(self, z: Tensor) -> tuple[Tensor, Tensor]:
        log_s = tf.logsigmoid(z) + tf.logsigmoid(-z)
        scale = log_s.amax(1)
        return torch.diag_embed((0.5 * (log_s - scale[:, None])).exp()), scale

    def ascent(self, z: Tensor) -> Tensor:
        log_doubt = tf.logsigmoid(-z.abs())
        toward = 2 * self.mode(z).to(z.dtype) - 1
        return toward * (log_doubt - log_doubt.amax(1, keepdim=True)).exp()


LIKELIHOODS: dict[str, Likelihood] = {"categorical": Categorical(), "bernoulli": Bernoulli()}


def _expm1_minus(u: Tensor) -> Tensor:
    """e^u − 1 − u without cancellation near 0 (five terms of the series below |u| = 0.01)."""
    series = u**2 * sum(u**k / math.factorial(k + 2) for k in range(5))
    return torch.where(u.abs() < 0.01, series, torch.expm1(u) - u)
