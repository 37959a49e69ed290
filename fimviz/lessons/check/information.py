"""Checks of the first lesson: F, its leading eigenvector, KL, and how far a step may go."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fimviz.fisher.methods import spectrum
from fimviz.fisher.spectrum import Spectrum
from fimviz.lessons.check.given import Function, Mistake, answer_of, blame, jacobian, near, number, one, right, tensor
from fimviz.model.classifier import Classifier


def fisher(F: Any, net: Classifier | nn.Module, image: Tensor) -> None:
    """Check the Fisher information F (D, D) of a batch of one against the eigenvectors that fimviz finds.

    Raises:
        Mistake: it is another matrix; the message says how it differs.

    Example, p = (½, ½) of logits (x, −x), where F = p₁p₂ (1 − (−1))² = 1:
        >>> net = torch.nn.Linear(1, 2, bias=False).double()
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
        >>> fisher(torch.tensor([[1.0]]), net, torch.zeros(1, 1))
        ✓ F is right: symmetric, trace 1.
    """
    size = image[0].numel()
    given = tensor("F", F, (size, size), "pixels by pixels")
    found = spectrum(net, one(image))
    assert found.eigenvectors is not None
    v = found.eigenvectors[0].flatten(1).double()
    truth = v.T @ torch.diag(found.eigenvalues[0].clamp_min(0)) @ v
    scale = float(truth.abs().max())

    def like(other: Tensor) -> bool:
        return bool((given - other).abs().max() <= 1e-3 * max(scale, float(other.abs().max())))

    if like(truth):
        right(f"F is right: symmetric, trace {float(found.trace[0]):.3g}.")  # its rank is what the lesson asks next
        return
    if (given - given.T).abs().max() > 1e-3 * given.abs().max():
        raise Mistake("Your F is not symmetric: F = Jᵀ S J has to be its own transpose. Which factor is out of place?")
    J, p = jacobian(net, image)
    slips = {
        "Your F is JᵀJ: the probabilities are missing. S = diag(p) − p pᵀ stands between Jᵀ and J.": J.T @ J,
        "Your S is diag(p) alone: the mean gradient has to be taken away, S = diag(p) − p pᵀ.": J.T @ (p[:, None] * J),
    }
    for said, wrong in slips.items():
        if like(wrong):
            raise Mistake(said)
    if (least := float(torch.linalg.eigvalsh(given)[0])) < -1e-3 * float(given.abs().max()):
        raise Mistake(
            f"Your F has a negative eigenvalue, {least:.3g}: a covariance has none. Look at the sign of p pᵀ."
        )
    times = float((given * truth).sum() / truth.square().sum())
    if like(times * truth):
        raise Mistake(f"Your F is {times:.3g} times what it should be: F = Jᵀ S J has no other factor.")
    raise Mistake(
        f"Your F is symmetric, but its trace is {float(given.trace()):.3g}; it should be {float(truth.trace()):.3g}. "
        "Are J and p of this image?"
    )


def leading(value: Any, vector: Any, net: Classifier | nn.Module, image: Tensor) -> None:
    """Check the largest eigenvalue of F and its eigenvector (D,), of which both signs are right.

    Raises:
        Mistake: they are another pair, or the vector has another length than 1.
    """
    size = image[0].numel()
    given = number("lambda1", value)
    v = tensor("v1", vector, (size,), "one number a pixel: did you take a row for a column?")
    found = spectrum(net, one(image), k=1)
    assert found.eigenvectors is not None
    truth, u = float(found.spectral_norm[0]), found.eigenvectors[0, 0].flatten().double()
    if not near(given, truth):
        blame(given, {"Your lambda1 is the trace of F, the sum of all eigenvalues.": float(found.trace[0])})
        if abs(given) < 1e-6 * truth:
            raise Mistake("Your lambda1 is the smallest eigenvalue: eigh sorts them from the smallest to the largest.")
        raise Mistake(f"Your lambda1 is {given / truth:.2g} times the largest eigenvalue of F.")
    if not near(length := float(v.norm()), 1):
        raise Mistake(f"Your v1 has length {length:.3g}, expected 1: a direction says nothing about how far to go.")
    if (cosine := abs(float(v @ u))) < 0.999:
        raise Mistake(
            f"Your v1 is another vector (cosine {cosine:.3f} with v₁): eigenvectors are the columns of eigh's matrix."
        )
    right(f"λ₁ = {truth:.3g}, and v₁ fits; −v₁ would have been as right.")


def kl(function: Function) -> None:
    """Check a function of two vectors of probabilities against the closed form Σ p log(p/q), in nats.

    Raises:
        Mistake: it gives other numbers; known slips are named.

    Example:
        >>> kl(lambda p, q: (p * (p / q).log()).sum())
        ✓ kl is right, in nats.
    """
    for pair in (((0.5, 0.5), (0.9, 0.1)), ((0.7, 0.2, 0.1), (0.1, 0.6, 0.3))):
        p, q = torch.tensor(pair, dtype=torch.float64)
        truth = float((p * (p / q).log()).sum())
        given = answer_of("kl", function, p, q)
        if near(given, truth):
            continue
        blame(
            given,
            {
                "Your kl is in bits: with the natural logarithm it is in nats.": truth / math.log(2),
                "Your kl has p and q exchanged: it is the mean over p of log p − log q.": float(
                    (q * (q / p).log()).sum()
                ),
                "Your kl has the other sign: log p − log q, not log q − log p; KL is never negative.": -truth,
                "Your kl does not weigh the logarithms: each counts with its probability p.": float(
                    (p / q).log().sum()
                ),
                "Your kl is the mean over classes: it is their sum.": truth / len(p),
            },
        )
        raise Mistake(f"Your kl of {pair[0]} and {pair[1]} is {given:.4f}, expected {truth:.4f} nats.")
    right("kl is right, in nats.")


def step_for(epsilon: Any, found: Spectrum, nats: float) -> None:
    """Check how far a first input may go along v₁ until the formula ½ε²λ₁ gives so many nats.

    Raises:
        Mistake: another length; known slips are named.
    """
    given, size = number("epsilon", epsilon), float(found.spectral_norm[0])
    truth = math.sqrt(2 * nats / size)
    if not near(given, truth):
        blame(
            given,
            {
                "You left out the ½: KL ≈ ½ ε² λ₁.": math.sqrt(nats / size),
                "That is ε²: take the root.": truth**2,
                "You divided by λ₁ outside of the root: solve ½ ε² λ₁ = KL for ε.": math.sqrt(2 * nats) / size,
                "Upside down: a larger λ₁ means a shorter step.": math.sqrt(size / (2 * nats)),
            },
        )
        raise Mistake(f"With your epsilon, ½ε²λ₁ is {0.5 * given**2 * size:.4g} nats, expected {nats:g}.")
    right(f"ε = {truth:.4f} in units of pixel values.")
