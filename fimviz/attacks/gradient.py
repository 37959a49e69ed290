"""One step along the gradient of the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fimviz._options import named_options
from fimviz.attacks.attack import Aim, Attack, Options
from fimviz.attacks.budget import within
from fimviz.attacks.problem import Problem
from fimviz.attacks.search import along, bracketed, looks
from fimviz.attacks.steps import steepest
from fimviz.model.classifier import Classifier


def _aim(problem: Problem, options: Options) -> Aim:
    return along(lambda part, at: [steepest(part)])


FGSM = Attack(
    name="fgsm",
    search=bracketed(_aim),
    aim=_aim,
    passes=lambda options: 2 * looks(options),
    needs="the point, its label, and the gradient of the loss there",
    short="FGSM, one gradient step",
    formula="x + ε sign ∇ log((1 − p)/p) in L∞, x + ε ∇/‖∇‖ in L2",
)


@named_options
def fgsm(
    net: Classifier | nn.Module,
    images: Any,
    labels: Any,
    epsilon: Any,
    *,
    norm: str = "linf",
    max_memory: float | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Tensor:
    """One step along the gradient of the loss: its sign in L∞, the gradient itself in L2.

    The loss is the log-odds against the label, log((1 − p)/p), which grows with cross-entropy, so that its gradient has
    the same direction; it does not vanish where p rounds to 1.

    Args:
        net: a `Classifier`, or a module from pixels in [0, 1] to logits.
        images: (n, …) floats, or a data set (see `Classifier`).
        labels: what the model should miss: classes (n,), for yes/no labels (n, K) of 0 and 1; None for its predictions.
        epsilon: the budget in pixel units, a number or (n,).
        norm: "linf", the most that a pixel may change, or "l2", the length of the change.
        max_memory: bytes that the attack may take beside model and images, by default half of what is free.
        progress: True for a tqdm bar, or a function called with (inputs done, inputs in all).

    Returns:
        (n, …) the changed images, on the device of `images` and in their dtype. They lie in the input range, and no
        farther than epsilon from `images` (in float64 up to rounding); where the range stops a pixel, nearer.

    Source: Goodfellow et al. (2015), by captum.robust. Captum takes gradients up to 1e-6 for zero, here none is.

    Example, two classes apart by x₁ − x₂, where all that matters is sign(w₂ − w₁) = (−1, 1):
        >>> import torch, fimviz as fv
        >>> fv.attacks.fgsm(torch.nn.Identity(), torch.tensor([[0.5, 0.25]]), [0], 0.125).tolist()
        [[0.375, 0.375]]
    """
    return within(FGSM, net, images, labels, epsilon, norm, max_memory=max_memory, progress=progress)
