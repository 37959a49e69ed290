"""The smallest change of an image that an attack finds: what a model's fragility is measured by."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fimviz import _memory
from fimviz.classifier import Classifier
from fimviz.fisher.passes import footprint

_CHUNK = 64
_HALVINGS = 14


def smallest_attack(net: Classifier, x: Tensor, labels: Tensor, *, targets: int = 4, steps: int = 30) -> Tensor:
    """The L2 length (n,) of the smallest change by which gradient descent makes the model miss the label.

    Toward each of the likeliest other classes in turn, projected gradient descent on the gap between the logits of
    the label and of that class: steps of unit direction, on a sphere around the image whose radius shrinks after a
    miss of the label and grows otherwise, inside the input range. The way to the nearest image found at which another
    class (any) wins is then halved a few times, by forward passes, and the image at the end is looked at once more. Its
    distance is an upper bound of the true smallest change: no attack proves that there is no smaller one.

    Args:
        net: the classifier, of one of K classes.
        x: (n, …), as `Classifier.admit` returned it.
        labels: (n,) class indices on the CPU.
        targets: how many other classes, 1 for the likeliest.
        steps: of every descent.

    Returns:
        (n,) float64 in input units; 0 where the label is missed without a change, infinite where no change was found.

    Source: Rony et al. (2019), decoupling direction and norm, from the image itself, with the radius at first where
    the gap would close if it were linear, and with targets, which found smaller changes than random restarts at equal
    cost. At equal cost it also found smaller ones than bisecting the budget of ordinary PGD.

    Example, two classes apart by 2 along a gap of slope √2 in logits:
        >>> import torch
        >>> net = Classifier(torch.nn.Identity(), input_range=None)
        >>> attack = smallest_attack(net, net.admit(torch.tensor([[2.0, 0.0]])), torch.tensor([0]))
        >>> round(attack.item(), 2)
        1.41
    """
    with net.at_rest():
        room = _memory.budget(net.device) // max(1, 6 * footprint(net, x[:1].to(net.device))[0])
        size = max(1, min(_CHUNK, room))
        parts = zip(x.split(size), labels.split(size), strict=True)
        return torch.cat([_attacked(net, a.to(net.device), b.to(net.device), targets, steps) for a, b in parts])


def _attacked(net: Classifier, x: Tensor, y: Tensor, targets: int, steps: int) -> Tensor:
    low, high = net.input_range or (-math.inf, math.inf)
    y = y[:, None]
    z = net.logits(x).detach()
    others = z.scatter(1, y, -torch.inf).argsort(1, descending=True)[:, : min(targets, z.shape[1] - 1)]
    best, nearest = torch.full_like(z[:, 0], torch.inf), x.clone()
    reach = math.sqrt(x[0].numel()) * (high - low if high < math.inf else 1e6)
    for k in others.split(1, 1):
        d, radius = torch.zeros_like(x), best
        for step in range(steps + 1):
            here = (x + d).detach().requires_grad_()
            z = net.logits(here)
            gap = (z.gather(1, y) - z.gather(1, k))[:, 0]
            (g,) = torch.autograd.grad(gap.sum(), here)
            missed, length = (z.argmax(1) != y[:, 0]), _norm(d)
            closer = missed & (length < best)
            best, nearest = torch.where(closer, length, best), torch.where(_as(closer, x), here.detach(), nearest)
            slope = _norm(g)
            cooled = 0.02 + 0.49 * (1 + math.cos(math.pi * step / steps))
            if step == 0:
                linear = (gap.detach() / slope.clamp_min(1e-30)).clamp(1e-6, reach)
                radius = torch.minimum(linear, best)
            else:
                radius = torch.where(
                    missed, torch.minimum(radius * (1 - 0.2 * cooled), best), radius * (1 + 0.2 * cooled)
                )
            d = d - _as(radius * cooled / slope.clamp_min(1e-30), x) * g
            d = d * _as(radius / _norm(d).clamp_min(1e-30), x)
            d = (x + d).clamp(low, high) - x
    with torch.no_grad():
        way, near, far = nearest - x, torch.zeros_like(best), torch.ones_like(best)
        for _ in range(_HALVINGS):
            middle = (near + far) / 2
            missed = net.logits(x + _as(middle, x) * way).argmax(1) != y[:, 0]
            near, far = torch.where(missed, near, middle), torch.where(missed, middle, far)
        moved = torch.where(_as(best > 0, x), x + _as(far, x) * way, x).clamp(low, high)
        confirmed = net.logits(moved).argmax(1) != y[:, 0]
        return torch.where(confirmed, _norm(moved.double() - x.double()), torch.inf).cpu()


def _norm(d: Tensor) -> Tensor:
    return d.flatten(1).norm(dim=1)


def _as(v: Tensor, x: Tensor) -> Tensor:
    return v.view(-1, *[1] * (x.ndim - 1))
