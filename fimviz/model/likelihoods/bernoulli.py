"""K yes/no labels: a sigmoid a logit."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as tf

from fimviz.model.likelihoods.categorical import Categorical
from fimviz.model.likelihoods.protocol import Factor


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
