"""The Fisher–Rao geometry of K classes in closed form: distances, geodesics, and the way to a class boundary.

p ↦ 2√p carries the Fisher information metric Σ dp²/p to that of a sphere of radius 2, on which distributions fill one
orthant (Rao 1945; Amari & Nagaoka 2000, §2.2). So geodesics are great circles, and every distance is an angle, twice.

All functions take log-probabilities (…, K) as `Classifier` returns them, −inf for a class that is impossible, and
work in float64: the distance of nearly equal or nearly certain predictions would have no digits left in p itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fimviz.model.likelihoods import LIKELIHOODS

log_probs = LIKELIHOODS["categorical"].output  # of logits (…, K), to all digits


def distance(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Fisher–Rao distance 2 arccos Σ √(p q) (…), from 0 to π, in the unit in which KL ≈ ½ distance².

    Computed as 4 arcsin ½‖√p − √q‖, the chord's differences by expm1: arccos has no digits near 1.

    Args:
        log_p: (…, K) log-probabilities in nats.
        log_q: likewise, of a shape that broadcasts.

    Example, a fair coin and a certain one, a quarter turn apart on the circle of radius 2:
        >>> import torch
        >>> fair, certain = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).double().log()
        >>> round(distance(fair, certain).item() / torch.pi, 12)
        0.5
    """
    chord = _root_difference(log_p, log_q).norm(dim=-1)
    return (4 * torch.arcsin((chord / 2).clamp_max(1))).clamp_max(math.pi)


def geodesic(log_p: Tensor, log_q: Tensor, t: Tensor | float) -> Tensor:
    """Log-probabilities (…, K) of the point at share t of the shortest way from p to q.

    √r(t) = [sin((1 − t)θ) √p + sin(tθ) √q] / sin θ with θ = distance/2. The speed is constant: r(t) lies at t times
    the distance from p.

    Args:
        log_p: (…, K) log-probabilities in nats.
        log_q: likewise, of a shape that broadcasts.
        t: shares in [0, 1], of a shape that broadcasts with (…).

    Raises:
        ValueError: a share outside [0, 1], where the great circle may leave the simplex.

    Example:
        >>> import torch
        >>> certain = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).log()
        >>> [round(p, 12) for p in geodesic(certain[0], certain[1], 0.5).exp().tolist()]
        [0.5, 0.5]
    """
    t = torch.as_tensor(t, dtype=torch.float64, device=log_p.device)
    if not ((t >= 0) & (t <= 1)).all():
        raise ValueError(f"t runs from {t.min():.4g} to {t.max():.4g}, expected shares from 0 to 1")
    turns = distance(log_p, log_q) / (2 * math.pi)  # torch.sinc(x) is sin(πx)/(πx)
    rest = torch.sinc(turns)
    from_p = ((1 - t) * torch.sinc((1 - t) * turns) / rest).log()[..., None]
    from_q = (t * torch.sinc(t * turns) / rest).log()[..., None]
    mixed = torch.logaddexp(from_p + 0.5 * log_p.double(), from_q + 0.5 * log_q.double())
    return 2 * mixed


def boundary_distance(log_p: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Fisher–Rao distance 2 arcsin((√p_y − √p_k)/√2) (…) from p to where class k overtakes y; 0 where it has.

    No path along which k comes to overtake y is shorter, whatever the model: the great circle from √p that meets the
    hyperplane of equal components at a right angle.

    Args:
        log_p: (…, K) log-probabilities in nats.
        source: (…) class y.
        target: (…) class k.

    Example, from certainty, an eighth turn on the circle of radius 2:
        >>> import torch
        >>> p = torch.tensor([[1.0, 0.0, 0.0]])
        >>> round(boundary_distance(p.log(), torch.tensor([0]), torch.tensor([2])).item() / torch.pi, 12)
        0.5
    """
    log_p = log_p.double()
    ahead = _root_difference(_pick(log_p, source), _pick(log_p, target))
    return 2 * torch.arcsin((ahead / math.sqrt(2)).clamp(0, math.sqrt(0.5)))


def mirrored(log_p: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Probabilities (…, K) with two classes exchanged: the geodesic there meets their boundary at a right angle."""
    own, other = _pick(log_p, source), _pick(log_p, target)
    return log_p.scatter(-1, source[..., None], other[..., None]).scatter(-1, target[..., None], own[..., None])


def toward(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The velocity dp/dt (…, K) with which the geodesic leaves p for q, its largest component scaled to 1.

    The components sum to 0. The scale is free because p may be so nearly certain that the true one underflows.
    """
    log_p, log_q = log_p.double(), log_q.double()
    # √p ∘ (√q − cos θ √p); for a nearly certain p its components but the largest are √(p q), so they are kept as logs.
    cosine = torch.cos(distance(log_p, log_q) / 2)[..., None]
    winner = log_p.argmax(-1, keepdim=True)
    log_mixed = 0.5 * (log_p + log_q)
    scale = log_mixed.scatter(-1, winner, -torch.inf).amax(-1, keepdim=True)
    velocity = (log_mixed - scale).exp() - cosine * (log_p - scale).exp()
    velocity = velocity.scatter(-1, winner, 0)
    velocity = velocity.scatter(-1, winner, -velocity.sum(-1, keepdim=True))
    return velocity / velocity.abs().amax(-1, keepdim=True).clamp_min(1e-300)


def _root_difference(log_p: Tensor, log_q: Tensor) -> Tensor:
    """√p − √q without cancellation, in float64."""
    log_p, log_q = torch.broadcast_tensors(log_p.double(), log_q.double())
    larger, smaller = torch.maximum(log_p, log_q), torch.minimum(log_p, log_q)
    gap = torch.where(larger == smaller, 0.0, smaller - larger)  # −inf − (−inf) is not a number
    return torch.where(log_p >= log_q, -1.0, 1.0) * (0.5 * larger).exp() * torch.expm1(0.5 * gap)


def _pick(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(-1, index[..., None])[..., 0]
