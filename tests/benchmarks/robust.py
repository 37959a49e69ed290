"""Small robust networks for the study of vulnerability: trained here in a minute, on real images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fimviz.zoo.recipes import RECIPES, reproducible

# images to train on, L∞ budget, epochs
SETS: dict[str, tuple[str, float, int]] = {"cifar10": ("cifar10-train", 4 / 255, 6), "mnist": ("mnist-test", 0.15, 3)}
HELD_BACK = 1000  # of the MNIST test images: the first, which are attacked; the 4,000 after them train
_BATCH, _RATE = 64, 3e-3


def robust_networks(data: Any) -> Iterator[tuple[str, str, nn.Module]]:
    """Data set, name and network: a small convolutional one by Madry's recipe and by TRADES, on either set."""
    for name, (source, epsilon, epochs) in SETS.items():
        x, y = data.images(source, None if name == "cifar10" else 5 * HELD_BACK)
        if name == "mnist":
            x, y = x[HELD_BACK:], y[HELD_BACK:]
        for recipe in ("madry", "trades"):
            yield name, f"{name}-cnn-{recipe}", fit(x, y, recipe, epsilon, epochs)


def fit(x: Tensor, y: Tensor, recipe: str, epsilon: float, epochs: int) -> nn.Module:
    """A network of two strided convolutions; the same weights every time."""
    with reproducible(0):
        net = _network(*x.shape[1:])
        adam = torch.optim.AdamW(net.parameters(), _RATE)
        batches = -(-len(x) // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(adam, _RATE, epochs=epochs, steps_per_epoch=batches)
        for epoch in range(epochs):
            budget = epsilon * min(1.0, (epoch + 1) / (0.8 * epochs))
            for at in torch.randperm(len(x)).split(_BATCH):
                adam.zero_grad()
                RECIPES[recipe](net, x[at], y[at], budget).backward()
                adam.step()
                schedule.step()
    return net.eval()


def _network(channels: int, height: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
