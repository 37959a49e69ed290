"""All numbers of one model: formulas, the Fisher information, temperature, attacks."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fimviz.attacks.descent import smallest_attack
from fimviz.bounds.certificate import certified_radius
from fimviz.bounds.formulas import RUNGS
from fimviz.bounds.ladder import Ladder
from fimviz.fisher.matched import matched_with_errors
from fimviz.fisher.methods import spectrum
from fimviz.fisher.spectrum import Spectrum
from fimviz.model.classifier import Classifier
from fimviz.model.engine.progress import Stages, Tick
from fimviz.model.labels import read_labels

_SPECTRUM = 30.0  # forward passes that a spectrum takes at an image, roughly


@dataclass(frozen=True)
class ModelNumbers:
    """What is known of one model at the n images that could be computed: logarithms to the base 10, L2 in input units.

    Attributes:
        weights_only: log₁₀ L5, or None.
        at_images: (m,) log₁₀ L4 at the first m images, or None.
        certified_radius: (n,) within which no change can make the model miss the label; 0 where it does already; None
            where there is no bound.
        spectral_norm, trace: (n,) λ₁ and trace of the Fisher information, the trace NaN where the method has none.
        equally_sure: (n,) λ₁ with every image's logits rescaled to a confidence of 0.9; NaN for a tie.
        matched_spectral_norm: (n,) λ₁ of the model at `fitted_temperature`, or None.
        right: (n,) whether the label is predicted; confidence: (n,) of the prediction, whatever it is.
        temperature: that the classifier divides its logits by.
        fitted_temperature: the one under which these labels are likeliest, on the same scale, or None.
        smallest_attack: (m,) at the first m images, of `fimviz.attacks.descent`.
        reasons: for every quantity that is None, why.
        method: how λ₁ was computed.
        input_shape: of one image.
        seconds: that all of it took.
        failures: place among all images given → why nothing could be computed there: it is none of the n.
    """

    weights_only: float | None
    at_images: Tensor | None
    certified_radius: Tensor | None
    spectral_norm: Tensor
    trace: Tensor
    equally_sure: Tensor
    matched_spectral_norm: Tensor | None
    right: Tensor
    confidence: Tensor
    temperature: float
    fitted_temperature: float | None
    smallest_attack: Tensor
    reasons: dict[str, str]
    method: str
    input_shape: tuple[int, ...]
    seconds: float
    failures: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What `compare_models` was asked for, as there."""

    method: str
    local_images: int
    attack_images: int
    attack_targets: int
    attack_steps: int
    errors: str
    seed: int
    max_memory: float | None


def forecast(count: int, settings: Settings) -> list[tuple[str, float]]:
    """The stages of `model_numbers` with the forward passes that they take, roughly: one back takes as long as two."""
    spectra = count * _SPECTRUM
    attack = 3.0 * settings.attack_steps * (settings.attack_targets + 1) + 60
    closed = 100.0 + 100.0 * min(count, settings.local_images)
    attacks = "attack", min(count, settings.attack_images) * attack
    return [("spectrum", spectra), ("closed", closed), ("spectrum", spectra), ("spectrum", spectra), attacks]


def model_numbers(net: Classifier, images: Any, labels: Any, settings: Settings, bar: Stages) -> ModelNumbers:
    """All numbers of one model; `KeyboardInterrupt` where they are not complete."""
    start = time.perf_counter()
    x = net.admit(images, settings.max_memory).detach()
    net.likelihood.one_of_classes("an attack needs one to miss")
    truth = read_labels(labels, len(x), net)
    if truth is None:
        raise TypeError(f"labels is None, expected one for each of {len(x)} images: an attack needs one to miss")
    options: dict[str, Any] = {"k": 1, "method": settings.method, "vectors": False, "seed": settings.seed}
    options["max_memory"] = settings.max_memory
    found = spectrum(net, x, labels=truth, errors=settings.errors, progress=bar.next(), **options)
    every = _whole(found, len(x))
    s = every.sound
    x = x[every.computed.to(x.device)] if every.failures else x
    assert s.labels is not None
    assert s.correct is not None
    reasons: dict[str, str] = {}
    everywhere, at_images, radius = _closed_forms(net, x, s.correct, settings, reasons, bar.next())
    fitted = _fitted_temperature(s.logits * net.temperature, s.labels)
    matched, tick = None, bar.next()
    if isinstance(fitted, str):
        reasons |= dict.fromkeys(("fitted_temperature", "matched_spectral_norm", "mean_matched_spectral_norm"), fitted)
    else:
        at_fitted = spectrum(net.at_temperature(fitted), x, progress=tick, **options)
        matched = _whole(at_fitted, len(x)).spectral_norm
    equally_sure, _ = matched_with_errors(
        net,
        x,
        confidence=0.9,
        method=settings.method,
        seed=settings.seed,
        max_memory=settings.max_memory,
        progress=bar.next(),
    )
    if len(equally_sure) < len(x):
        raise KeyboardInterrupt
    first = slice(settings.attack_images)
    attacks = smallest_attack(
        net,
        x[first],
        s.labels[first],
        targets=settings.attack_targets,
        steps=settings.attack_steps,
        seed=settings.seed,
        max_memory=settings.max_memory,
        progress=bar.next(),
    )
    if not s.correct[first].any():
        why = "the model gets no attacked image right"
        reasons |= {"attack_success": why, "smallest_attack": why}
    if radius is not None and not s.correct.any():
        reasons["certified_radius"] = "the model gets no image right"
    return ModelNumbers(
        weights_only=everywhere,
        at_images=at_images,
        certified_radius=radius,
        spectral_norm=s.spectral_norm,
        trace=s.trace,
        equally_sure=equally_sure,
        matched_spectral_norm=matched,
        right=s.correct,
        confidence=s.confidence,
        temperature=net.temperature,
        fitted_temperature=None if isinstance(fitted, str) else fitted,
        smallest_attack=attacks,
        reasons=reasons | ({} if s.trace.isfinite().any() else {"trace": f"{s.method!r} gives λ₁ only"}),
        method=s.method,
        input_shape=tuple(x.shape[1:]),
        seconds=time.perf_counter() - start,
        failures=every.failures,
    )


def _closed_forms(
    net: Classifier, x: Tensor, right: Tensor, settings: Settings, reasons: dict[str, str], progress: Tick
) -> tuple[float | None, Tensor | None, Tensor | None]:
    """log₁₀ L5, log₁₀ L4 at the first images and the certified radius (n,); why one is None goes into `reasons`."""
    ladder = Ladder(net, x[: settings.local_images], max_memory=settings.max_memory)
    weights = ladder.rung(RUNGS["L5"])
    progress(1, 4)
    local = ladder.rung(RUNGS["L4"])
    progress(3, 4)
    certificate = certified_radius(net, x, method="norms", attack=False, max_memory=settings.max_memory)
    found = {"weights_only": weights.reason, "at_images": local.reason, "certified_radius": certificate.reason}
    reasons |= {name: why for name, why in found.items() if why}
    return (
        None if weights.reason else float(weights.log10[0]),
        None if local.reason else local.log10,
        None if certificate.reason else torch.where(right, certificate.radius, 0.0),
    )


def _fitted_temperature(z: Tensor, labels: Tensor) -> float | str:
    """The T at which softmax(z/T) gives the labels the largest likelihood, or why there is none.

    The mean of −log p is convex in β = 1/T, and its slope is the mean of E_p[z] − z_y: a root is bisected.
    """
    z = z.double() - z.double().amax(1, keepdim=True)
    own = z.gather(1, labels[:, None])[:, 0]

    def slope(log_beta: float) -> float:
        return float((((math.exp(log_beta) * z).softmax(1) * z).sum(1) - own).mean())

    if bool((own == 0).all()):
        return "every label is predicted, so that ever lower temperatures fit them better"
    if float((z.mean(1) - own).mean()) >= 0:
        return "the labels are no likelier than by chance, so that ever higher temperatures fit them better"
    low, high = -12.0, 12.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def _whole(s: Spectrum, n: int) -> Spectrum:
    if len(s) < n:  # spectrum keeps what an interrupt left: half a model is none
        raise KeyboardInterrupt
    return s
