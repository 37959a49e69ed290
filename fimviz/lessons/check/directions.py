"""Checks of the second lesson: lengths of changes, in which norm and which unit, and an attack."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fimviz import attacks
from fimviz.lessons.check.given import Mistake, blame, near, number, one, right, tensor
from fimviz.model.classifier import Classifier, as_classifier


def random_step(step: Any, image: Tensor, length: float) -> None:
    """Check a random change of an image, of an L2 length.

    Raises:
        Mistake: another shape or length, or a direction that is no random one.

    Example:
        >>> random_step(torch.tensor([0.3, -0.4]), torch.zeros(2), 0.5)
        ✓ A step of L2 length 0.5; its largest value is 0.4.
    """
    given = tensor("step", step, tuple(image.shape), "that of the image")
    norm, most = float(given.norm()), float(given.abs().max())
    if norm == 0:
        raise Mistake("Your step is 0 everywhere.")
    if not near(norm, length):
        if near(most, length):
            raise Mistake(f"Your step's largest value is {length:g}: that is its L∞ norm. Its L2 length is {norm:.3g}.")
        if near(norm, 1):
            raise Mistake(f"Your step has length 1: multiply it by {length:g}.")
        if near(norm, length * length):
            raise Mistake(f"Your step has length {norm:.3g}, the square of {length:g}.")
        raise Mistake(f"Your step has L2 length {norm:.4g}, expected {length:g}: divide by its norm first.")
    values = given.flatten()
    if len(values) > 2 and float(values.std()) < 1e-6 * most:
        raise Mistake(
            "Your step is the same at every pixel: it makes the image brighter, which is one direction of many."
        )
    if len(values) > 2 and float((values < 0).double().mean()) < 0.05:
        raise Mistake(
            "Your step is never negative: torch.rand is uniform from 0 to 1; torch.randn has no preferred side."
        )
    right(f"A step of L2 length {length:g}; its largest value is {most:.2g}.")


def fgsm(moved: Any, net: Classifier | nn.Module, image: Tensor, label: int, epsilon: float) -> None:
    """Check an image (a batch of one) that one step of FGSM moved, against `fimviz.attacks.fgsm`.

    Raises:
        Mistake: it is out of range or of the budget, goes the wrong way, or is another change.
    """
    given = tensor("moved", moved, tuple(image.shape), "that of the image")
    net = as_classifier(net)
    start = one(image).double()
    low, high = net.input_range or (-math.inf, math.inf)
    change = given - start
    most = float(change.abs().max())
    if most == 0:
        raise Mistake("Your moved image is the image itself.")
    if most > epsilon * 1.001 + 1e-6:
        raise Mistake(
            f"Your change is up to {most:.3g} at a pixel; the budget is {epsilon:g}. Is ε times the sign added?"
        )
    if float(given.min()) < low - 1e-6 or float(given.max()) > high + 1e-6:
        raise Mistake(
            f"Your image has values from {float(given.min()):.3g} to {float(given.max()):.3g}; an image has {low:g} to "
            f"{high:g}: clamp it."
        )
    truth = attacks.fgsm(net, image, [label], epsilon, norm="linf").double()
    wanted = truth - start
    free = wanted.abs() > 0.99 * epsilon  # of pixels that the range or a gradient of 0 stops nothing is asked
    fits = float(((change - wanted).abs() <= 1e-3 * epsilon)[free].double().mean())
    with torch.no_grad():
        p, after = (float(net(x.to(image.dtype))[0, label].exp()) for x in (start, given))
    if fits < 0.99:
        if after > p:
            raise Mistake(
                f"The probability of the label rises from {p:.3f} to {after:.3f}: go up the loss, "
                "which is down the label's probability."
            )
        sizes = change[free].abs()
        if float(sizes.median()) < 0.9 * epsilon:
            raise Mistake(
                "Your pixels change by different amounts: FGSM takes the sign of the gradient, not the gradient."
            )
        raise Mistake(f"{fits:.0%} of the pixels that could move did so in the right direction.")
    right(f"Every pixel moves by at most {epsilon:.3g}, and the label's probability falls from {p:.3f} to {after:.3f}.")


def longest_change(length: Any, epsilon: float, shape: tuple[int, ...]) -> None:
    """Check the largest L2 length of a change that moves no pixel value by more than epsilon: ε √D.

    Raises:
        Mistake: another length; known slips are named.

    Example:
        >>> longest_change(1.0, 0.5, (1, 2, 2))
        ✓ In L2 it is up to 1 long, 2 times ε.
    """
    given, count = number("length", length), math.prod(shape)
    truth = epsilon * math.sqrt(count)
    if not near(given, truth):
        blame(
            given,
            {
                "That is the L1 length, the sum of all changes: L2 squares, sums, and takes the root.": epsilon * count,
                "That is the squared length: take the root.": truth**2,
                "That is ε, the L∞ norm: the L2 length counts every pixel.": epsilon,
                "You counted the pixels of one colour channel.": epsilon * math.sqrt(math.prod(shape[-2:])),
            },
        )
        raise Mistake(
            f"Your length is {given:.4g}. If each of {count} values changes by {epsilon:.3g}, what is the root of the "
            "sum of squares?"
        )
    right(f"In L2 it is up to {truth:.3g} long, {math.sqrt(count):.3g} times ε.")


def in_pixels(epsilon: Any, normalised: float, std: float) -> None:
    """Check a budget of normalised values, (x − mean)/std, in units of pixel values from 0 to 1.

    Raises:
        Mistake: another number; known slips are named.

    Example:
        >>> in_pixels(0.5, 2.0, 0.25)
        ✓ 2 after normalisation is 0.5 in pixel values, 127.5 of 255 levels.
    """
    given, truth = number("epsilon", epsilon), normalised * std
    if not near(given, truth):
        blame(
            given,
            {
                "The other way round: normalising divides by std, so going back multiplies.": normalised / std,
                "That is the budget as it was given: one unit after normalisation is std in pixel values.": normalised,
                "That is in levels of 255: pixel values here go from 0 to 1.": truth * 255,
                "That is a variance: multiply by std, not its square.": normalised * std**2,
            },
        )
        raise Mistake(
            f"Your epsilon is {given:.4g}. How much does x change if (x − mean)/std changes by {normalised:.3g}?"
        )
    right(f"{normalised:.3g} after normalisation is {truth:.3g} in pixel values, {255 * truth:.4g} of 255 levels.")
