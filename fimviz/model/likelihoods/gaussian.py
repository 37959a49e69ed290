"""K real numbers with noise of a known size: regression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fimviz._options import real
from fimviz.model.likelihoods.independent import Numbers, symbols_of
from fimviz.model.likelihoods.protocol import Symbols


@dataclass(frozen=True)
class Gaussian(Numbers):
    """K real numbers, y = z + σ·noise: S = I/σ², F = JᵀJ/σ², KL = ‖w − z‖²/2σ².

    Args:
        sigma: σ, the standard deviation of the noise in units of the model's outputs, the same for all of them.

    Example, one output wᵀx with ‖w‖ = 5 and σ = ½, where λ₁ = ‖w‖²/σ²:
        >>> import torch, fimviz as fv
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> net = fv.Classifier(model, likelihood=fv.Gaussian(sigma=0.5))
        >>> round(fv.spectrum(net, torch.zeros(1, 2)).spectral_norm.item(), 4)
        100.0
    """

    name: ClassVar[str] = "gaussian"
    words: ClassVar[str] = "real numbers"
    symbols: ClassVar[Symbols] = symbols_of(
        "1/σ²", "1/σ²", "noise", "to numbers", "σ: the standard deviation of the noise"
    )
    sigma: float = 1.0

    def __post_init__(self) -> None:
        sigma = real("sigma", self.sigma)
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma is {self.sigma}, expected a positive finite number")
        object.__setattr__(self, "sigma", sigma)  # a tensor would take its device and graph along

    @property
    def log_limit(self) -> float:  # type: ignore[override]
        return -2 * math.log(self.sigma)

    def mean(self, z: Tensor) -> Tensor:
        return z

    def kl(self, z: Tensor, w: Tensor) -> Tensor:
        return 0.5 * ((w - z) / self.sigma).square().sum(-1)

    def log_prob(self, z: Tensor, outcome: Tensor) -> Tensor:
        return -self.kl(z, outcome)

    def log_weights(self, z: Tensor) -> Tensor:
        return torch.full_like(z, self.log_limit)
