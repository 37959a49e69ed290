"""One record of a network in training: what it knows of a probe set, and how sensitive it is there."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from fimviz._quantile import median
from fimviz.fisher.methods import spectrum
from fimviz.model.classifier import Classifier
from fimviz.model.engine.parts import answers

# Names, in the frame's order, of what a record holds beside its step; null where it is not finite.
MEASURED = (
    "accuracy",
    "loss",
    "train_loss",
    "confidence",
    "cckl",
    "mean_frobenius",
    "mean_spectral_norm",
    "median_spectral_norm",
    "mean_trace",
)


def measure(net: Classifier, images: Tensor, labels: Tensor, max_memory: float | None) -> dict[str, Any]:
    """The quantities of `MEASURED` but train_loss, with their cost in passes for each image and in seconds."""
    start = time.perf_counter()
    values: dict[str, float] = {}
    note: str | None = None
    cost = {"forwards": 1, "vjps": 0}
    try:
        found = spectrum(net, images, vectors=False, verify=False, max_memory=max_memory)
        if len(found) < len(images):
            raise KeyboardInterrupt  # a spectrum keeps what it has, but means over a part would not compare
        sound = found.computed
        logits, labels = found.logits[sound], labels[sound.to(labels.device)]
        if found.failures:
            why = "; ".join(dict.fromkeys(found.failures.values()))
            note = f"{len(found.failures)} of {len(found)} images are in no number: {why}"
        cost = {"forwards": int(found.cost.forwards.max()), "vjps": int(found.cost.vjps.max())}
        values = {
            "mean_frobenius": found.frobenius[sound].mean().item(),
            "mean_spectral_norm": found.spectral_norm[sound].mean().item(),
            "median_spectral_norm": median(found.spectral_norm),
            "mean_trace": found.trace[sound].mean().item(),
        }
    except (FloatingPointError, torch.linalg.LinAlgError):
        note = "the gradient of the logits is NaN or infinite for some image"
        logits = answers(net, images, max_memory=max_memory)
    lost = int((~logits.isfinite()).any(1).sum())
    if lost:
        note, values = f"{lost} of {len(logits)} images have NaN or infinite logits", {}
    else:
        log_p = net.likelihood.output(logits)
        values |= {
            "accuracy": (net.likelihood.predict(logits) == labels).double().mean().item(),
            "loss": -log_p.gather(1, labels[:, None]).mean().item(),
            "confidence": net.likelihood.confidence(logits).mean().item(),
            "cckl": cross_category(log_p, labels),
        }
    known = {name: finite(values.get(name)) for name in MEASURED}
    return known | cost | {"seconds": round(time.perf_counter() - start, 4), "note": note}


def cross_category(log_p: Tensor, labels: Tensor) -> float:
    """CCKL: the mean of KL(p_i ‖ p_j) over all ordered pairs of images of different categories, in nats.

    The mean alone is one matrix product; the value of every pair, as `fimviz.cckl` keeps it, would take far longer at
    each record.
    """
    p = log_p.exp()
    kl = (p * log_p).sum(1)[:, None] - p @ log_p.mT
    return kl[labels[:, None] != labels].clamp_min(0).mean().item()


def finite(value: Any) -> float | None:
    """A number that JSON has, or None."""
    return None if value is None or not math.isfinite(number := float(value)) else number
