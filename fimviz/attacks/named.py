"""The attacks by their names: FGSM, PGD, the leading eigenvector, a random direction, descent to the smallest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fimviz._options import named_options, whole
from fimviz.attacks.descent import STEPS, TARGETS, known_inputs, smallest
from fimviz.attacks.problem import Problem, inside, lengths, per_input, pose, toward
from fimviz.attacks.steps import Ascent, ascend, directions, starts
from fimviz.model.classifier import Classifier, as_classifier
from fimviz.model.engine.memory import limit
from fimviz.model.engine.progress import Tick, ticker, wanted


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
        images: (n, …) floats.
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
    return _attack("fgsm", net, images, labels, epsilon, norm, max_memory=max_memory, progress=progress)


@named_options
def pgd(
    net: Classifier | nn.Module,
    images: Any,
    labels: Any,
    epsilon: Any,
    *,
    norm: str = "linf",
    steps: int = 20,
    step: Any = None,
    loss: str = "ce",
    restarts: int = 1,
    seed: int = 0,
    max_memory: float | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Tensor:
    """Projected gradient ascent: many steps along the gradient, each brought back into the budget and the range.

    Of all points on the way the one with the least margin is returned, so that more steps never do less. The first
    start is the image itself, the others are random in the budget; with one, nothing is random.

    Args:
        net: as in `fgsm`.
        images: (n, …) floats.
        labels: what to miss, as in `fgsm`.
        epsilon: the budget in pixel units, a number or (n,).
        norm: "linf" or "l2".
        steps: of every ascent.
        step: the length of one, in pixel units, a number or (n,); by default 2.5 · epsilon / steps.
        loss: "ce", the log-odds against the label (see `fgsm`), or "cw", the margin of the logits.
        restarts: how many ascents.
        seed: of the random starts.
        max_memory: as in `fgsm`.
        progress: as in `fgsm`.

    Returns:
        As `fgsm`.

    Source: Madry et al. (2018), by captum.robust; the margin, Carlini and Wagner (2017). Captum 0.9 steps along the
    sign of the gradient in L2 too, and its random start in L2 fails on batches: both are replaced here.

    Example, p = softmax(x): the shortest way to the second class leads along (−1, 1).
        >>> import torch, fimviz as fv
        >>> moved = fv.attacks.pgd(torch.nn.Identity(), torch.tensor([[0.5, 0.25]]), [0], 0.25, norm="l2")
        >>> [round(v, 4) for v in moved[0].tolist()]
        [0.3232, 0.4268]
    """
    options = Ascent(steps, step, loss, restarts)
    return _attack("pgd", net, images, labels, epsilon, norm, options, seed, max_memory, progress)


@named_options
def spectral(
    net: Classifier | nn.Module,
    images: Any,
    labels: Any,
    epsilon: Any,
    *,
    norm: str = "l2",
    max_memory: float | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Tensor:
    """One step along the leading eigenvector of the Fisher information: ±ε v₁, the better of both signs.

    In L2 no direction changes the prediction more to second order. In L∞ the step is ±ε sign(v₁), which is what FGSM
    makes of a gradient; it is not the worst one of that norm, which is hard to find. Labels only choose the sign.

    Args:
        net: as in `fgsm`.
        images: (n, …) floats.
        labels: what to miss, as in `fgsm`.
        epsilon: the budget in pixel units, a number or (n,).
        norm: "linf" or "l2".
        max_memory: as in `fgsm`.
        progress: as in `fgsm`.

    Returns:
        As `fgsm`; an image whose eigenvector is lost in rounding stays as it is.

    Source: Zhao et al. (2019), with the exact eigenvector.

    Example, where F = p₁ p₂ (w₁ − w₂)(w₁ − w₂)ᵀ, so that the way is that of the gradient:
        >>> import torch, fimviz as fv
        >>> moved = fv.attacks.spectral(torch.nn.Identity(), torch.tensor([[0.5, 0.25]]), [0], 0.25)
        >>> [round(v, 4) for v in moved[0].tolist()]
        [0.3232, 0.4268]
    """
    return _attack("spectral", net, images, labels, epsilon, norm, max_memory=max_memory, progress=progress)


@named_options
def random(
    net: Classifier | nn.Module,
    images: Any,
    labels: Any,
    epsilon: Any,
    *,
    norm: str = "l2",
    seed: int = 0,
    max_memory: float | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Tensor:
    """One step along a random direction, the better of both signs: what a change does that knows nothing.

    Uniform on the sphere in L2; ±ε at every pixel in L∞.

    Args:
        net: as in `fgsm`.
        images: (n, …) floats.
        labels: what to miss, as in `fgsm`.
        epsilon: the budget in pixel units, a number or (n,).
        norm: "linf" or "l2".
        seed: of the direction.
        max_memory: as in `fgsm`.
        progress: as in `fgsm`.

    Returns:
        As `fgsm`.

    Example:
        >>> import torch, fimviz as fv
        >>> moved = fv.attacks.random(torch.nn.Identity(), torch.full((1, 2), 0.5), [0], 0.25, norm="linf")
        >>> (moved - 0.5).abs().tolist()
        [[0.25, 0.25]]
    """
    return _attack("random", net, images, labels, epsilon, norm, None, seed, max_memory, progress)


@named_options
def descent(
    net: Classifier | nn.Module,
    images: Any,
    labels: Any,
    epsilon: Any = None,
    *,
    norm: str = "l2",
    targets: int = TARGETS,
    steps: int = STEPS,
    seed: int = 0,
    max_memory: float | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Tensor:
    """The smallest change found: descents to the boundary from the image, and back from beyond it.

    The strongest attack here: where the others answer whether a budget is enough, this one looks for the smallest. It
    goes toward the likeliest other classes, then back from an image of another class (of the batch, noise or a plain
    one), so that a network that is flat at the image itself does not stop it; where gradients are 0 although answers
    change (a network that rounds its input, say) it takes differences, at some 60 times the cost. It is what
    `fimviz.certified_radius` and `fimviz.compare_models` attack with, and "descent" of `fimviz.vulnerability`.

    Args:
        net: as in `fgsm`.
        images: (n, …) floats. What is found for one of them depends a little on the others, from which it may start.
        labels: what to miss, as in `fgsm`.
        epsilon: None, or the budget in pixel units, a number or (n,): an image for which no smaller change is found
            stays as it is.
        norm: "l2" or "linf".
        targets: toward how many other classes, the likeliest.
        steps: of every descent.
        seed: of the noise.
        max_memory: as in `fgsm`.
        progress: as in `fgsm`.

    Returns:
        As `fgsm`; an image for which nothing is found stays as it is.

    Source: Rony et al. (2019); the start from beyond, Brendel et al. (2018).

    Example, two classes at a gap of ¼ in logits, of slope √2:
        >>> import torch, fimviz as fv
        >>> moved = fv.attacks.descent(torch.nn.Identity(), torch.tensor([[0.5, 0.25]]), [0])
        >>> [round(v, 3) for v in moved[0].tolist()]
        [0.375, 0.375]
    """
    targets, steps, seed = whole("targets", targets, 1), whole("steps", steps, 1), whole("seed", seed, 0)
    progress = wanted(progress)
    net = as_classifier(net)
    given = net.batch(images).detach()
    task = pose(net, given, labels, norm, limit(max_memory))
    room = None if epsilon is None else lengths("epsilon", epsilon, len(task.x)).to(task.x)

    def within(part: Problem, at: Tensor, tick: Tick) -> Tensor:
        length, moved = smallest(part, others, targets=targets, steps=steps, seed=seed, progress=tick)
        far = length.isinf() if room is None else length > room[at]
        return torch.where(per_input(far, part.x), part.x, moved)

    with task.net.at_rest():
        others = known_inputs(task.net, task.x.cpu(), seed, task.max_memory)
        out = list(task.in_parts(within, ticker(progress, len(task.x))))
    return torch.cat(out).to(given)


def _attack(
    name: str,
    net: Classifier | nn.Module,
    images: Any,
    labels: Any,
    epsilon: Any,
    norm: str,
    options: Ascent | None = None,
    seed: int = 0,
    max_memory: float | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Tensor:
    seed, net, progress = whole("seed", seed, 0), as_classifier(net), wanted(progress)
    given = net.batch(images).detach()
    task = pose(net, given, labels, norm, limit(max_memory))
    eps = lengths("epsilon", epsilon, len(task.x))
    size = None if options is None or options.step is None else lengths("step", options.step, len(eps))
    others = starts(task, options.restarts - 1, seed) if options else []

    def better(part: Problem, at: Tensor, _: Tick) -> Tensor:
        if options:
            one = replace(options, step=None if size is None else size[at])
            found = [ascend(part, eps[at], one, start) for start in (None, *(s[at.to(s.device)] for s in others))]
        else:
            found = [d[at.to(d.device)] for d in ways] if ways else directions(part, name)
        return part.better([part.moved(d, eps[at]) for d in found])

    with task.net.at_rest():
        ways = directions(task, name, seed) if name == "random" else None
        out = list(task.in_parts(better, ticker(progress, len(task.x))))
    wide = torch.float32 if task.x.device.type == "mps" else torch.float64
    step = (torch.cat(out).to(wide) - task.x.to(wide)).to(given.device)
    return toward(given, inside(given.to(wide), step, task.net.input_range))
