"""Many steps along the gradient of the loss, brought back into the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from fimviz._options import named_options, whole
from fimviz.attacks.attack import Aim, Attack, Attempt, Options
from fimviz.attacks.budget import within
from fimviz.attacks.problem import Problem, lengths
from fimviz.attacks.search import bracketed, looks
from fimviz.attacks.steps import Ascent, ascend, starts
from fimviz.model.classifier import Classifier


def _aim(problem: Problem, options: Options) -> Aim:
    ascent = options.ascent
    step = None if ascent.step is None else lengths("step", ascent.step, len(problem.x))
    others = starts(problem, ascent.restarts - 1, options.seed)

    def aimed(part: Problem, at: Tensor) -> Attempt:
        def attempt(which: Tensor, eps: Tensor) -> Tensor:
            some, here = part[which], at[which]
            one = replace(ascent, step=None if step is None else step[here])
            begin = (None, *(s[here.to(s.device)] for s in others))
            return some.better([some.moved(ascend(some, eps, one, start), eps) for start in begin])

        return attempt

    return aimed


PGD = Attack(
    name="pgd",
    search=bracketed(_aim, 1),
    aim=_aim,
    passes=lambda options: 3 * options.ascent.steps * options.ascent.restarts * looks(options),
    needs="the point, its label, and the gradient of the loss wherever it goes",
    short="PGD, many steps",
    formula="x ← the point of the budget and the range nearest to x + η ∇, again and again",
)


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
        images: (n, …) floats, or a data set (see `Classifier`).
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
    options = Options(ascent=Ascent(steps, step, loss, restarts), seed=whole("seed", seed, 0))
    return within(PGD, net, images, labels, epsilon, norm, options, max_memory=max_memory, progress=progress)
