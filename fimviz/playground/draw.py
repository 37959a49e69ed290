"""`playground`: a page that carries networks themselves, and in which people draw what these see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fimviz._options import named_options, whole
from fimviz.fisher.methods import spectrum
from fimviz.model.classifier import Classifier, as_classifier
from fimviz.model.data import unpacked
from fimviz.model.labels import read_labels
from fimviz.playground.program import Program
from fimviz.playground.record import record
from fimviz.result import viewed
from fimviz.zoo import digits

if TYPE_CHECKING:
    from fimviz.result import Figure

_INPUTS = 1000  # numbers of an image, for whose gradients a page has the time
_SAMPLES = 20  # of the digits, where no images are given
_BLANK = (1, 28, 28), (3, 16, 16)  # the shapes that are tried then, after that of the digits


@dataclass(frozen=True)
class Playground:
    """What a page needs of one network or two.

    Attributes:
        nets: name → classifier.
        programs: name → what the page is to compute.
        images: (n, channels, height, width) to start from, in pixels; perhaps none.
        labels: of these, (n,), or None.
        norms: name → λ₁ of these, (n,), as `spectrum` has it.
    """

    nets: Mapping[str, Classifier]
    programs: Mapping[str, Program]
    images: Tensor
    labels: Tensor | None
    norms: Mapping[str, Tensor]


@named_options
def playground(
    nets: Classifier | nn.Module | Mapping[str, Classifier | nn.Module],
    images: Any = None,
    labels: Any = None,
    *,
    max_weights: int = 200_000,
) -> Figure:
    """A page in which people draw an image for a network, and see while they draw what it thinks of it.

    The page carries the network itself as plain JavaScript, in float64: it works without a kernel and without a network
    connection. Under the hand change the probabilities, λ₁ and the worst direction v₁ with the distances at which the
    answer flips; the drawing can be pushed along ±v₁, at random or by FGSM, and a pixel be asked what it does.

    Args:
        nets: a `Classifier` of one of K classes or a module from pixels in [0, 1] to logits; or a dictionary of one or
            two with their names, which are shown side by side for the same drawing.
        images: (n, channels, height, width) in pixels to start from, of 1 or 3 channels and at most 1,000 numbers each,
            such as 28×28 or 16×16×3. By default the first 20 of `fimviz.zoo.digits` for a network that takes
            8×8 pixels, else none, for one of 28×28 or 16×16×3.
        labels: true classes (n,), by default those of the digits or of a data set.
        max_weights: of a network, beyond which it is refused: with more, a page follows the hand with delay. PyTorch's
            example for MNIST has 1,199,882: pass `max_weights=1_200_000`, and expect 6 MB and a second a stroke.

    Returns:
        The view, which displays itself in a notebook; `.save("page.html")` writes it as a file.

    Raises:
        NoRuleError: a layer that the page has no rule for, by its name.
        ValueError: a network or images that are too large, more than two networks, or other outputs than K classes.

    Source: F in the space of classes, `fimviz.model.likelihoods`; attack, Goodfellow et al. (2015).

    Example:
        >>> import fimviz as fv
        >>> fv.playground(fv.zoo.load("digits-mlp"))
        Figure(20 samples × 1×8×8, 1 network)
    """
    given = _given(nets)
    classifiers = {name: as_classifier(net) for name, net in given.items()}
    for name, net in classifiers.items():
        _check_size(name, net, whole("max_weights", max_weights, 1))
    first = next(iter(classifiers.values()))
    if images is None and labels is not None:
        raise ValueError("labels came without images, expected both: pass images=, or leave labels out")
    if images is None:
        x, labels = _samples(first)
    else:
        x, labels = unpacked(images, labels, first)
        x = first.batch(x)
    if x.ndim != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < 2 or x.shape[1:].numel() > _INPUTS:
        raise ValueError(
            f"images have shape {tuple(x.shape)}, expected (n, 1 or 3, height, width) of at most {_INPUTS:,} numbers "
            "each, such as 28×28 or 16×16×3: a page draws no others"
        )
    low, _ = first.input_range or (0.0, 1.0)
    some = x if len(x) else x.new_full((1, *x.shape[1:]), low)
    programs, norms = {}, {}
    for name, net in classifiers.items():
        try:
            admitted = net.admit(some)
            net.likelihood.one_of_classes("the page draws no others")
            programs[name] = record(net, admitted)
        except RuntimeError as error:  # torch's own, of shapes that do not meet
            size = "×".join(map(str, some.shape[1:]))
            raise ValueError(
                f"{name or 'the network'} stops at an image of {size} numbers, expected one that takes it: {error}"
            ) from None
        norms[name] = spectrum(net, some, k=1, vectors=False).spectral_norm[: len(x)]
    classes = [net.classes for net in classifiers.values()]
    if classes[0] != classes[-1]:
        raise ValueError(f"the networks have the classes {classes[0]} and {classes[-1]}, expected the same for both")
    return viewed(Playground(classifiers, programs, x.detach().cpu(), read_labels(labels, len(x), first), norms))


def _given(nets: Any) -> Mapping[str, Any]:
    if isinstance(nets, list | tuple):
        raise TypeError(
            f"nets is a {type(nets).__name__}, expected a network or a dictionary of one or two with their names, "
            "{'standard': net, 'robust': other}"
        )
    if not isinstance(nets, Mapping):
        return {"": nets}
    if not 1 <= len(nets) <= 2:
        raise ValueError(f"nets holds {len(nets)} networks, expected one or two, to be shown side by side")
    return {str(name): net for name, net in nets.items()}


def _check_size(name: str, net: Classifier, most: int) -> None:
    count = sum(p.numel() for p in net.model.parameters())
    if count > most:
        raise ValueError(
            f"{name or 'the network'} has {count:,} weights, expected at most {most:,}, with which a page follows the "
            f"hand: allow more with max_weights={count}, or take fv.explore, which shows networks of any size"
        )


def _samples(net: Classifier) -> tuple[Tensor, Tensor | None]:
    """Digits with their labels for a network that takes such, else no images of a shape that it takes."""
    images, labels = (some[:_SAMPLES] for some in digits())
    for shape in (images.shape[1:], *_BLANK):
        x = images if shape == images.shape[1:] else torch.zeros(1, *shape)
        low, high = net.input_range or (0.0, 1.0)
        try:
            net.admit(low + (high - low) * x)
        except (RuntimeError, ValueError):
            continue
        if x is images:
            return x, labels if len(net.classes) == 10 else None
        return x[:0], None
    raise ValueError(
        "the network takes neither 8×8, 28×28 nor 3×16×16 pixels, expected images that it takes: pass images="
    )
