"""Attacks within and without a certified radius: projected gradient descent on the margin of the logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fimviz.classifier import Classifier

_ROUNDS, _HALVINGS = 12, 30


def within(
    net: Classifier, x: Tensor, mode: Tensor, radius: Tensor, *, steps: int, restarts: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The smallest margin (n,) that is found within L2 radii (n,) of inputs x, and the inputs there; call it at rest.

    Descends once on the smallest gap, then toward each of the next nearest other outcomes, then from random points of
    the sphere. A margin below 0 is another outcome than `mode`.
    """
    generator = torch.Generator().manual_seed(seed)
    best = net.likelihood.margin(net.logits(x).detach(), mode)
    nearest = x
    first = _gaps(net, net.logits(x).detach(), mode).argsort(1)
    radius = _as(radius.to(x).clamp_max(_reach(net, x)) * (1 - 1e-6), x)
    for restart in range(restarts):
        target = first[:, restart : restart + 1] if 0 < restart < first.shape[1] - 1 else None
        start = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
        d = start * (radius / _as(_norm(start), x)) if target is None and restart else torch.zeros_like(x)
        for step in range(steps + 1):
            here = _inside(net, x, d).requires_grad_()
            z = net.logits(here)
            gaps = _gaps(net, z, mode)
            margin = gaps.detach().amin(1)
            lower = margin < best
            best, nearest = torch.where(lower, margin, best), torch.where(_as(lower, x), here.detach(), nearest)
            aim = gaps.amin(1) if target is None else gaps.gather(1, target)[:, 0]
            (g,) = torch.autograd.grad(aim.sum(), here)
            length = radius * (0.02 + 0.5 * (1 + math.cos(math.pi * step / steps)))
            d = (
                here.detach()
                - x
                - g * (length / _as(_norm(g), x).clamp_min(1e-300 if x.dtype == torch.float64 else 1e-37))
            )
            d = d * (radius / _as(_norm(d), x).clamp_min(1e-37)).clamp_max(1)
    return best, nearest


def smallest(net: Classifier, x: Tensor, mode: Tensor, *, steps: int, restarts: int, seed: int) -> Tensor:
    """The L2 length (n,) of the smallest change found that leads to another outcome than `mode`; ∞ where none was.

    Doubles a radius until descent within it succeeds, halves the gap between failure and success, and then goes back
    along the line to the input as far as the outcome allows. Every success is confirmed by a pass of its own.
    """
    here = x.clone().requires_grad_()
    margin = _gaps(net, net.logits(here), mode).amin(1)
    (g,) = torch.autograd.grad(margin.sum(), here)
    tried = (margin.detach() / _norm(g).clamp_min(1e-30)).clamp_min(1e-12)
    low, high, nearest = torch.zeros_like(tried), torch.full_like(tried, torch.inf), x
    for turn in range(_ROUNDS):
        margin, found = within(net, x, mode, tried, steps=steps, restarts=restarts, seed=seed + turn)
        fooled = margin < 0
        length = _norm(found - x)
        closer = fooled & (length < high)
        nearest = torch.where(_as(closer, x), found, nearest)
        high = torch.where(closer, length, high)
        low = torch.where(fooled, low, torch.maximum(low, tried))
        tried = torch.where(high < torch.inf, (low + high) / 2, 2 * tried)
    kept, gone = torch.zeros_like(high), torch.ones_like(high)  # shares of the way to `nearest`
    with torch.no_grad():
        for _ in range(_HALVINGS):
            middle = (kept + gone) / 2
            fooled = net.likelihood.margin(net.logits(x + _as(middle, x) * (nearest - x)), mode) < 0
            kept, gone = torch.where(fooled, kept, middle), torch.where(fooled, middle, gone)
        nearest = x + _as(gone, x) * (nearest - x)
        fooled = net.likelihood.margin(net.logits(nearest), mode) < 0
    return torch.where(fooled, _norm(nearest - x), torch.inf)


def _gaps(net: Classifier, z: Tensor, mode: Tensor) -> Tensor:
    """How far (n, K) the logits are from every other outcome; infinite for the outcome itself."""
    if net.likelihood.name == "bernoulli":
        return torch.where(mode, z, -z)
    return (z.gather(1, mode[:, None]) - z).scatter(1, mode[:, None], torch.inf)


def _reach(net: Classifier, x: Tensor) -> float:
    """No two inputs are farther apart."""
    low, high = net.input_range or (0.0, 1e6)
    return math.sqrt(x[0].numel()) * (high - low)


def _inside(net: Classifier, x: Tensor, d: Tensor) -> Tensor:
    low, high = net.input_range or (-math.inf, math.inf)
    return (x + d).clamp(low, high).detach()


def _norm(d: Tensor) -> Tensor:
    return d.flatten(1).norm(dim=1)


def _as(v: Tensor, x: Tensor) -> Tensor:
    return v.view(-1, *[1] * (x.ndim - 1))
