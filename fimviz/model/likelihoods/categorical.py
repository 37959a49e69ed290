"""One of K classes: the softmax of the logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fimviz.model.likelihoods.protocol import Factor


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


def _expm1_minus(u: Tensor) -> Tensor:
    """e^u − 1 − u without cancellation near 0 (five terms of the series below |u| = 0.01)."""
    series = u**2 * sum(u**k / math.factorial(k + 2) for k in range(5))
    return torch.where(u.abs() < 0.01, series, torch.expm1(u) - u)
