"""What a student gives, read with care: blanks, wrong types and wrong shapes are named before anything is compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fimviz.model.classifier import Classifier, as_classifier

Function = Callable[..., Any]  # of a student


class Mistake(AssertionError):  # noqa: N818, the word that a student reads
    """What is wrong with an answer, in a sentence or two; a notebook shows no more than these."""

    def _render_traceback_(self) -> list[str]:
        # IPython asks an exception for this in place of the traceback, whose lines are none of the student's
        return [f"✗ {self}"]


def number(name: str, value: Any) -> float:
    """A finite number."""
    _filled(name, value)
    if isinstance(value, Tensor) and value.numel() != 1:
        raise Mistake(f"Your {name} has shape {tuple(value.shape)}, expected a single number.")
    try:
        read = float(value)
    except (TypeError, ValueError):
        raise Mistake(f"Your {name} is a {type(value).__name__}, expected a number.") from None
    if not math.isfinite(read):
        raise Mistake(f"Your {name} is {read}, expected a finite number.")
    return read


def tensor(name: str, value: Any, shape: tuple[int, ...], meaning: str) -> Tensor:
    """A finite tensor of a shape, in float64; `meaning` says what the shape is of."""
    _filled(name, value)
    if not isinstance(value, Tensor):
        raise Mistake(f"Your {name} is a {type(value).__name__}, expected a torch tensor of shape {shape}.")
    if tuple(value.shape) != shape:
        raise Mistake(f"Your {name} has shape {tuple(value.shape)}, expected {shape}, {meaning}.")
    value = value.detach().cpu().double()
    if not value.isfinite().all():
        raise Mistake(f"Your {name} has values that are not finite.")
    return value


def answer_of(name: str, function: Any, *args: Any) -> float:
    """The number that a student's function gives."""
    _filled(name, function)
    if not callable(function):
        raise Mistake(f"Your {name} is a {type(function).__name__}, expected a function: give its name, without ().")
    try:
        value = function(*args)
    except Exception as error:  # a student's function may fail in every way there is
        raise Mistake(f"Your {name} stopped with {type(error).__name__}: {error}") from None
    if value is None:
        raise Mistake(f"Your {name} returns None: does it end in a return?")
    return number(f"{name}(…)", value)


def one(image: Any) -> Tensor:
    """A batch of one image."""
    if not isinstance(image, Tensor) or image.ndim < 2 or len(image) != 1:
        had = f"has shape {tuple(image.shape)}" if isinstance(image, Tensor) else f"is a {type(image).__name__}"
        raise Mistake(f"The image {had}, expected a batch of one: images[3:4], not images or images[3].")
    return image


def near(a: float, b: float, within: float = 1e-3) -> bool:
    """Whether two numbers agree to a relative error."""
    return abs(a - b) <= within * max(abs(b), 1e-300)


def blame(value: float, slips: dict[str, float], within: float = 1e-3) -> None:
    """Name the slip, of those whose outcome is known, that a wrong number comes from."""
    for said, outcome in slips.items():
        if near(value, outcome, within):
            raise Mistake(said)


def jacobian(net: Classifier | nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (K, D) of the logits toward the pixels of a batch of one, and the probabilities (K,)."""
    net = as_classifier(net)
    x = net.admit(image).detach()
    made = torch.autograd.functional.jacobian(lambda v: net.logits(v)[0], x)
    return made.flatten(1).double(), net(x)[0].detach().double().exp()


def right(said: str) -> None:
    """Say that an answer is right, and what it means."""
    print(f"✓ {said}")


def _filled(name: str, value: Any) -> None:
    if value is ...:
        raise Mistake(f"{name} is still a blank: replace the ... by your answer, then run this cell again.")
