"""A row of the table: a network, how it is made, and what is handed over."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Network:
    """One row.

    Attributes:
        name, kind: in the table.
        build: the number of classes → a plain module with random weights.
        shape: of one input.
        handed: what is done to the module before it is handed over; `plain` stays what float64's truth is taken of.
        options: of `fv.Classifier`.
        classes: of the exact spectrum, and of that by Lanczos; None for as many as it has.
        tokens: whether it takes ids of tokens in place of floats.
    """

    name: str
    kind: str
    build: Callable[[int], nn.Module]
    shape: tuple[int, ...]
    handed: Callable[[nn.Module], nn.Module] = lambda model: model
    options: dict[str, Any] = field(default_factory=dict)
    classes: tuple[int, int] | None = (10, 1000)
    tokens: bool = False

    def plain(self, classes: int) -> nn.Module:
        """The module, its running statistics those of a batch of noise, without which deep networks say nothing."""
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = self.build(classes)
        for m in model.modules():
            if isinstance(m, nn.Linear) and not m.weight.any():  # a head that begins with zeros says nothing
                nn.init.normal_(m.weight, std=0.1)
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
        for m in norms:  # an idle channel is to lie beside the kink of the ReLU behind it, not on it
            if m.bias is not None:
                nn.init.normal_(m.bias, std=0.1)
        if norms:
            momenta = [m.momentum for m in norms]
            for m in norms:
                m.momentum = 1.0
            with torch.no_grad():
                model.train()(self.inputs(16, seed=2))
            for m, momentum in zip(norms, momenta, strict=True):
                m.momentum = momentum
        return model.eval()

    def inputs(self, count: int = 1, seed: int = 1) -> Tensor:
        """Inputs (count, …): smooth noise from 0 to 1, as images are."""
        generator = torch.Generator().manual_seed(seed)
        if self.tokens:
            return torch.randint(50, (count, *self.shape), generator=generator)
        x = torch.rand(count, *self.shape, generator=generator)
        if x.ndim == 4:
            x = 0.3 * x + 0.7 * nn.functional.interpolate(
                torch.rand(count, x.shape[1], 4, 4, generator=generator), x.shape[2:], mode="bilinear")  # fmt: skip
        return x
