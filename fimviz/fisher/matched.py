"""λ₁ with confidence taken out: what the Fisher information would be had the logits another scale.

Dividing the logits by a temperature moves no decision boundary and scales λ₁ by any factor. So a λ₁ that is to say
something about boundaries is looked at where all inputs, or all models, are equally sure.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from fimviz._options import named_options, real
from fimviz.fisher.block import Block
from fimviz.fisher.methods import found_with, spectrum
from fimviz.fisher.spectrum import Spectrum
from fimviz.model.classifier import Classifier
from fimviz.model.engine.parts import answers
from fimviz.model.engine.progress import Progress
from fimviz.model.likelihoods import Factor, Likelihood

_HALVINGS, _SPAN = 60, 40.0


@named_options
def matched_spectral_norm(
    net: Classifier, images: Any, *, confidence: float = 0.9, per: str = "sample", method: str = "auto", seed: int = 0
) -> Tensor:
    """λ₁ (n,) at the temperature that makes the model as sure as `confidence`.

    Args:
        net: the classifier.
        images: (n, …) in pixels.
        confidence: the probability of the prediction that is wanted, above 1/K and below 1.
        per: "sample", a temperature for every input, at which this one's confidence is the wanted one; "batch", one
            for all, at which the mean is.
        method: as in `spectrum`.
        seed: of "lanczos".

    Returns:
        float64, in nats per squared pixel unit; NaN where no temperature gives the confidence, as for a tie, and where
        logits or gradients are not finite.

    With two classes and per="sample", √(c(1−c)) log(c/(1−c)) / √λ₁ is (z_y − z_k)/‖∇(z_y − z_k)‖, the distance at
    which the two would draw level if the network were linear: matched λ₁ is made of margin and gradient, not of scale.

    Example, a margin of 1 with a gradient of length √2, whatever the logits are multiplied by:
        >>> import torch, fimviz as fv
        >>> for scale in (1.0, 30.0):
        ...     net = fv.Classifier(torch.nn.Identity(), temperature=1 / scale)
        ...     value = matched_spectral_norm(net, torch.tensor([[1.0, 0.0]])).item()
        ...     print(round((0.9 * 0.1) ** 0.5 * torch.tensor(9.0).log().item() / value**0.5, 5))
        0.70711
        0.70711
    """
    if per not in ("sample", "batch"):
        raise ValueError(f"per is {per!r}, expected 'sample' or 'batch'")
    x = net.admit(images).detach()
    if per == "sample":
        return matched_with_errors(net, x, confidence=confidence, method=method, seed=seed)[0]
    _reachable(net, confidence)
    z = answers(net, x)
    z = z[z.isfinite().all(1)]  # what cannot be computed is NaN, and does not count
    t = float(_temperature(net.likelihood, z[None], confidence)) if len(z) else math.nan
    if math.isnan(t):
        return torch.full((len(x),), torch.nan, dtype=torch.float64)
    twin = net.at_temperature(net.temperature * t)
    return spectrum(twin, x, k=1, method=method, vectors=False, seed=seed).spectral_norm


def matched_with_errors(
    net: Classifier,
    images: Tensor,
    *,
    confidence: float,
    method: str,
    seed: int,
    max_memory: float | None = None,
    progress: Progress = False,
) -> tuple[Tensor, Tensor]:
    """`matched_spectral_norm` of every sample at a temperature of its own, and how far it may be from the truth.

    The error is that of the eigenvalue, and that of the temperature T to first order: logits that rounding moved by δ
    move log T by at most 2δ/margin, and λ₁ goes with T⁻². Both are shorter than the batch after an interrupt.
    """
    _reachable(net, confidence)
    twin = copy.copy(net)
    twin.smooth = False  # over the margin, which may be all but a tie, what float32 leaves of logits open is much
    twin.likelihood = cast(Likelihood, _EachAtItsTemperature(net.likelihood, confidence))
    options: dict[str, Any] = {"k": 1, "method": method, "vectors": False, "seed": seed, "max_memory": max_memory}
    found = spectrum(twin, images, progress=progress, **options)
    error = _error(net.likelihood, found.logits, found.logit_error, found.spectral_norm, found.error[:, 0])
    return _reached(net, confidence, found.logits, found.spectral_norm, error)


def spectrum_with_matched(
    net: Classifier, images: Tensor, *, confidence: float, **options: Any
) -> tuple[Spectrum, Tensor, Tensor]:
    """A spectrum with its options, and of the same inputs, from the same passes, what `matched_with_errors` gives.

    Of a smooth network these are float32's where that leaves 0.05 % of both λ₁ open at most, or `enough`.
    """
    _reachable(net, confidence)
    found, norm, error = found_with(net, images, _Matched(net.likelihood, confidence), **options)
    assert norm is not None
    assert error is not None
    return found, *_reached(net, confidence, found.logits, norm, error)


def _error(likelihood: Likelihood, z: Tensor, z_error: Tensor, norm: Tensor, error: Tensor) -> Tensor:
    """How far λ₁ (n,) with an error at its own temperature may be from the truth, for logits with theirs."""
    shift = norm * 4 * z_error / likelihood.margin(z, likelihood.predict(z))
    return torch.where(norm > 0, error + shift, error)  # where nothing moves the answer, no temperature does either


def _reached(net: Classifier, confidence: float, z: Tensor, norm: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """λ₁ and its error, (n,), NaN where no temperature gives logits (n, K) the confidence."""
    reached = _temperature(net.likelihood, z[:, None], confidence).isfinite()
    return torch.where(reached, norm, torch.nan), torch.where(reached, error, torch.nan)


@dataclass(frozen=True)
class _Matched:
    """What is wanted beside a spectrum: λ₁ of every input at the temperature of a confidence."""

    base: Likelihood
    confidence: float

    @property
    def likelihood(self) -> Likelihood:
        return cast(Likelihood, _EachAtItsTemperature(self.base, self.confidence))

    def error(self, block: Block) -> Tensor:
        return _error(self.base, block.logits, block.logit_error, block.eigenvalues[:, 0], block.error[:, 0])


def _reachable(net: Classifier, confidence: float) -> None:
    net.likelihood.an_outcome("others have no confidence")
    least = net.likelihood.confidence(torch.zeros(1, len(net.classes)).double()).item()
    if not least < real("confidence", confidence) < 1:
        raise ValueError(f"confidence is {confidence}, expected more than {least:.3g}, a tie's, and less than 1")


class _EachAtItsTemperature:
    """A likelihood whose information is that of logits divided by a temperature of their own."""

    def __init__(self, base: Likelihood, confidence: float) -> None:
        self._base, self._confidence = base, confidence

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    def factor(self, z: Tensor) -> Factor:
        t = _temperature(self._base, z[:, None], self._confidence).nan_to_num(1.0)
        inner = self._base.factor(z / t[:, None])
        return replace(inner, log_scale=inner.log_scale - 2 * t.log())


def _temperature(likelihood: Likelihood, z: Tensor, wanted: float) -> Tensor:
    """The T (g,) at which logits z (g, m, K), divided by it, have this mean confidence; NaN where there is none."""
    middle = z.abs().amax((1, 2)).clamp_min(1e-300).log()
    low, high = middle - _SPAN, middle + _SPAN

    def surplus(log_t: Tensor) -> Tensor:
        return likelihood.confidence(z / log_t.exp()[:, None, None]).mean(1) - wanted

    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        sure = surplus(middle) > 0
        low, high = torch.where(sure, middle, low), torch.where(sure, high, middle)
    return torch.where(surplus(middle).abs() < 1e-6 * (1 - wanted), middle.exp(), torch.nan)
