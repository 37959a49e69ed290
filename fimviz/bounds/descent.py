"""Attacks: the smallest margin within a radius, and the smallest change of outcome, by projected gradient descent."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fimviz.classifier import Classifier

_HALVINGS = 30


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


def smallest(net: Classifier, x: Tensor, mode: Tensor, *, targets: int, steps: int) -> Tensor:
    """The L2 length (n,) of the smallest change found that leads to another outcome than `mode`; call it at rest.

    Toward each of the nearest other outcomes in turn, projected gradient descent on its gap of logits: steps of unit
    direction, on a sphere around the input whose radius shrinks after a success and grows otherwise, inside the input
    range. The way to the nearest input found at which any other outcome wins is then halved by forward passes, and the
    input at the end is looked at once more. 0 where the outcome is another without a change, ∞ where none was found.

    Source: Rony et al. (2019), decoupling direction and norm, from the input itself, with the radius at first where
    the gap would close if it were linear, and with targets, which found smaller changes than random restarts at equal
    cost. At equal cost it also found smaller ones than bisecting the budget of ordinary PGD.
    """
    low, high = net.input_range or (-math.inf, math.inf)
    gaps = _gaps(net, net.logits(x).detach(), mode)
    classes = gaps.shape[1] - (net.likelihood.name != "bernoulli")
    others = gaps.argsort(1)[:, : min(targets, classes)]
    best, nearest = torch.full_like(gaps[:, 0], torch.inf), x.clone()
    for k in others.split(1, 1):
        d, radius = torch.zeros_like(x), best
        for step in range(steps + 1):
            here = (x + d).detach().requires_grad_()
            z = net.logits(here)
            gap = _gaps(net, z, mode).gather(1, k)[:, 0]
            (g,) = torch.autograd.grad(gap.sum(), here)
            fooled, length = _fooled(net, z, mode), _norm(d)
            closer = fooled & (length < best)
            best, nearest = torch.where(closer, length, best), torch.where(_as(closer, x), here.detach(), nearest)
            slope = _norm(g)
            cooled = 0.02 + 0.49 * (1 + math.cos(math.pi * step / steps))
            if step == 0:
                linear = (gap.detach() / slope.clamp_min(1e-30)).clamp(1e-6, _reach(net, x))
                radius = torch.minimum(linear, best)
            else:
                radius = torch.where(
                    fooled, torch.minimum(radius * (1 - 0.2 * cooled), best), radius * (1 + 0.2 * cooled)
                )
            d = d - _as(radius * cooled / slope.clamp_min(1e-30), x) * g
            d = d * _as(radius / _norm(d).clamp_min(1e-30), x)
            d = (x + d).clamp(low, high) - x
    with torch.no_grad():
        way, near, far = nearest - x, torch.zeros_like(best), torch.ones_like(best)
        for _ in range(_HALVINGS):
            middle = (near + far) / 2
            fooled = _fooled(net, net.logits((x + _as(middle, x) * way).clamp(low, high)), mode)
            near, far = torch.where(fooled, near, middle), torch.where(fooled, middle, far)
        moved = torch.where(_as(best > 0, x), (x + _as(far, x) * way).clamp(low, high), x)
        confirmed = _fooled(net, net.logits(moved), mode)
        return torch.where(confirmed.cpu(), _norm(moved.cpu().double() - x.cpu().double()), torch.inf)


def _fooled(net: Classifier, z: Tensor, mode: Tensor) -> Tensor:
    """Whether (n,) the outcome of logits is another."""
    other = net.likelihood.mode(z.detach()) != mode
    return other.any(1) if other.ndim > 1 else other


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
