"""The smallest change that gradient descent finds: one number an image."""

from __future__ import annotations

import torch
from torch import Tensor

from fimviz.attacks.problem import chunk
from fimviz.bounds import descent
from fimviz.classifier import Classifier


def smallest_attack(net: Classifier, x: Tensor, labels: Tensor, *, targets: int = 4, steps: int = 30) -> Tensor:
    """The L2 length (n,) of the smallest change by which gradient descent makes the model miss the label.

    That of `fimviz.bounds.descent.smallest`, toward the likeliest other classes. It is an upper bound of the true
    smallest change: no attack proves that there is no smaller one.

    Args:
        net: the classifier, of one of K classes.
        x: (n, …), as `Classifier.admit` returned it.
        labels: (n,) class indices on the CPU.
        targets: how many other classes, 1 for the likeliest.
        steps: of every descent.

    Returns:
        (n,) float64 in input units; 0 where the label is missed without a change, infinite where no change was found.

    Example, two classes apart by 2 along a gap of slope √2 in logits:
        >>> import torch
        >>> net = Classifier(torch.nn.Identity(), input_range=None)
        >>> attack = smallest_attack(net, net.admit(torch.tensor([[2.0, 0.0]])), torch.tensor([0]))
        >>> round(attack.item(), 2)
        1.41
    """
    with net.at_rest():
        size = chunk(net, x)
        parts = zip(x.split(size), labels.split(size), strict=True)
        return torch.cat([
            descent.smallest(net, a.to(net.device), b.to(net.device), targets=targets, steps=steps).cpu()
            for a, b in parts
        ])  # fmt: skip
