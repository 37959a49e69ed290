"""What the page of a playground says of images, by the same formulas: its answer, F's spectrum, v₁ and the flips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fimviz.model.likelihoods import LIKELIHOODS
from fimviz.playground.program import Program
from fimviz.playground.replay import replay

_STEPS = 24  # distances along a direction that are asked for another answer, as in side.js
_HALVINGS = 14  # of the step in which there is one, as in fisher.js


@dataclass(frozen=True)
class Seen:
    """What a network says of n images.

    Attributes:
        winner: (n,), the class that it says.
        probabilities: (n, K).
        doubt: (n,), 1 − p of the winner, formed without a subtraction.
        eigenvalues: (n, K − 1) of F, descending.
        v: (n, D), the leading eigenvector, along which the answer's probability falls at first.
    """

    winner: Tensor
    probabilities: Tensor
    doubt: Tensor
    eigenvalues: Tensor
    v: Tensor


def look(program: Program, x: Tensor) -> Seen:
    """What a network says of images (n, D), in float64."""
    answer = LIKELIHOODS["categorical"]  # what the pages are of
    leaf = x.double().requires_grad_()
    with torch.enable_grad():
        z = replay(program, leaf)
        factor = answer.factor(z.detach())
        assert factor.others is not None
        assert factor.winner is not None
        apart = z.gather(1, factor.others) - z.gather(1, factor.winner)
        slopes = torch.stack([torch.autograd.grad(a.sum(), leaf, retain_graph=True)[0] for a in apart.unbind(1)], 1)
    z, root = z.detach(), factor.a[..., None]
    mean = (root.square() * slopes).sum(1)  # against it the winner's probability grows
    B = root * (slopes - factor.gamma[:, None, None] * mean[:, None])
    values, vectors = torch.linalg.eigh(B @ B.mT)
    v = (vectors[..., -1:].mT @ B).squeeze(1)
    length = v.norm(dim=1, keepdim=True)
    sign = 1 - 2 * ((v * mean).sum(1, keepdim=True) < 0).double()
    v = torch.where(length > 0, sign * v / length, 0.0)
    eigenvalues = factor.log_scale.exp()[:, None] * values.flip(1).clamp_min(0)
    return Seen(answer.predict(z), answer.output(z).exp(), answer.doubt(z), eigenvalues, v)


def flips(program: Program, x: Tensor, d: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """How far along directions (n, D) the answer to images (n, D) becomes another, and which.

    Returns:
        distances (n,), infinite where there is none within `reach`, and classes (n,).
    """
    x = x.double()
    with torch.no_grad():
        says: Callable[[Tensor], Tensor] = lambda far: replay(program, x + far[:, None] * d).argmax(1)  # noqa: E731
        first = says(torch.zeros(len(x), dtype=x.dtype))
        inside, beyond = torch.zeros(len(x), dtype=x.dtype), torch.full((len(x),), torch.inf, dtype=x.dtype)
        becomes = first
        for k in range(1, _STEPS + 1):
            far = torch.full_like(inside, reach * k / _STEPS)
            now = says(far)
            met = beyond.isinf() & (now != first)
            beyond, becomes = torch.where(met, far, beyond), torch.where(met, now, becomes)
            inside = torch.where(beyond.isinf(), far, inside)
        for _ in range(_HALVINGS):
            middle = (inside + beyond) / 2
            now = says(middle.nan_to_num(posinf=0.0))
            same = (now == first) | beyond.isinf()
            inside = torch.where(same, middle, inside)
            beyond, becomes = torch.where(same, beyond, middle), torch.where(same, becomes, now)
    return beyond, becomes


__all__ = ["Seen", "flips", "look"]
