"""Checks of the third lesson: closed forms, bounds, certificates, and an estimate that only looks like one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fimviz.bounds import network_bound
from fimviz.fisher.methods import spectrum
from fimviz.lessons.check.given import Function, Mistake, answer_of, blame, near, number, one, right
from fimviz.model.classifier import Classifier, as_classifier


def two_classes(value: Any, layer: nn.Linear, x: Tensor) -> None:
    """Check λ₁ of one linear layer with two classes at x (D,): p₁ p₂ ‖w₁ − w₂‖², as `fimviz.spectrum` finds it.

    Raises:
        Mistake: another number; known slips are named.
    """
    given = number("lambda1", value)
    truth = float(spectrum(layer, x[None], k=1).spectral_norm[0])
    w = layer.weight.detach().double()
    p = layer(x).detach().double().softmax(0)
    apart = float((w[0] - w[1]).norm())
    if not near(given, truth):
        blame(
            given,
            {
                "That is the bound ¼ ‖w₁ − w₂‖²: it is reached where p₁ = p₂ only.": 0.25 * apart**2,
                "The probabilities are missing: p₁ p₂ stands before ‖w₁ − w₂‖².": apart**2,
                "The norm has to be squared: λ₁ is of squared gradients.": float(p.prod()) * apart,
                "That is with w₁ + w₂: what decides is the difference of the rows.": float(
                    p.prod() * (w[0] + w[1]).square().sum()
                ),
            },
        )
        raise Mistake(f"Your lambda1 is {given / truth:.2g} times what fv.spectrum finds at this x.")
    right(f"λ₁ = {truth:.4f}, exactly what fv.spectrum finds.")


def lipschitz(L: Any, net: Classifier | nn.Module, image: Tensor) -> None:
    """Check a bound on how far the features of a perceptron move: the product of its hidden layers' spectral norms.

    Raises:
        Mistake: another number; known slips are named.
    """
    given = number("L", L)
    net = as_classifier(net)
    layers = [m.weight.detach().double() for m in net.model.modules() if isinstance(m, nn.Linear)]
    norms = [float(torch.linalg.matrix_norm(w, 2)) for w in layers]
    truth, guaranteed = math.prod(norms[:-1]), network_bound(net, image).features
    assert guaranteed is not None
    if not near(given, truth) and not truth <= given <= guaranteed:
        blame(
            given,
            {
                "Those are Frobenius norms: a bound too, but a larger one. The spectral norm is ord=2.": math.prod(
                    float(w.norm()) for w in layers[:-1]
                ),
                "The last layer is in it: the features are what the last layer reads.": math.prod(norms),
                "That is the sum: what one layer stretches the next one stretches again, so multiply.": sum(norms[:-1]),
            },
        )
        raise Mistake(
            f"Your L is {given / truth:.2g} times what it should be: one factor for each layer before the last."
        )
    right(f"L = {truth:.1f}; fimviz, which rounds up wherever it has to, guarantees {guaranteed:.1f}.")


def certified(radius: Any, net: Classifier | nn.Module, image: Tensor) -> None:
    """Check the radius that logits certify, min over classes k of (z_y − z_k) / (‖w_y − w_k‖ L).

    Raises:
        Mistake: another number; a larger one is no guarantee by this bound.
    """
    given = number("radius", radius)
    net = as_classifier(net)
    bound = network_bound(net, one(image))
    assert bound.features is not None
    assert bound.weight is not None
    z = net.logits(image)[0].detach().double()
    y = int(z.argmax())
    others = [k for k in range(len(z)) if k != y]
    w = bound.weight.double().cpu()
    gaps = (z[y] - z[others]).cpu()
    apart = (w[y] - w[others]).norm(dim=1)
    truth = float((gaps / apart).min()) / bound.features
    if not near(given, truth, 0.01):  # an L of one's own is not rounded up, and as good
        blame(
            given,
            {
                "L is missing: the features move up to L times as far as the image.": truth * bound.features,
                "That is the largest of the classes' radii: the nearest class decides, so take the smallest.": float(
                    (gaps / apart).max()
                )
                / bound.features,
                "The rows w are missing: a gap of the logits moves by up to ‖w_y − w_k‖ times the features.": float(
                    gaps.min()
                )
                / bound.features,
                "Class y itself is among your classes: its gap is 0.": 0.0,
            },
        )
        if given > truth:
            raise Mistake(
                f"Your radius {given:.4g} is larger than what this bound certifies: that would be no guarantee."
            )
        raise Mistake(f"Your radius {given:.4g} is safe, but the bound certifies more.")
    right(f"Within {truth:.3f} of this image no change of any kind changes the answer.")


def rayleigh(function: Function) -> None:
    """Check a function of F and v that gives how fast the answer changes along v, whatever v's length: vᵀFv / vᵀv.

    Raises:
        Mistake: it gives other numbers; known slips are named.

    Example:
        >>> rayleigh(lambda F, v: v @ F @ v / (v @ v))
        ✓ rayleigh is right: never above λ₁, and λ₁ along v₁ alone.
    """
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    F, v = a.T @ a, torch.randn(4, generator=generator, dtype=torch.float64)
    given, truth = answer_of("rayleigh", function, F, v), float(v @ F @ v / (v @ v))
    if not near(given, truth):
        blame(
            given,
            {
                "Your rayleigh grows with the length of v: divide by vᵀv.": float(v @ F @ v),
                "You divided by ‖v‖ once: its square is vᵀv.": float(v @ F @ v / v.norm()),
                "That is ‖Fv‖/‖v‖, which is λ₁ at v₁ as well, but larger elsewhere.": float((F @ v).norm() / v.norm()),
            },
        )
        raise Mistake(f"Your rayleigh gives {given:.4g} for a vector whose quotient is {truth:.4g}.")
    right("rayleigh is right: never above λ₁, and λ₁ along v₁ alone.")
