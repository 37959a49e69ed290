"""The shortest change found, by descents: the strongest attack here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fimviz._options import named_options, whole
from fimviz.attacks.attack import Attack, Options, Search
from fimviz.attacks.descent import STEPS, TARGETS, known_inputs, smallest
from fimviz.attacks.problem import Problem, lengths, per_input, pose
from fimviz.model.classifier import Classifier, as_classifier
from fimviz.model.data import unpacked
from fimviz.model.engine.memory import limit
from fimviz.model.engine.progress import Tick, ticker, wanted


def _search(problem: Problem, options: Options) -> Search:
    others = known_inputs(problem.net, problem.x.cpu(), options.seed, problem.max_memory)

    def search(part: Problem, at: Tensor, top: float, progress: Tick) -> tuple[Tensor, Tensor]:
        return smallest(part, others, seed=options.seed, progress=progress)

    return search


def _passes(options: Options) -> float:
    return 3 * STEPS * (TARGETS + 1) + 60


DESCENT = Attack(
    name="descent",
    search=_search,
    passes=_passes,
    needs="the point, its label, other inputs, and the gradients of gaps wherever it goes",
    short="descent, to the smallest",
    formula="the shortest x + δ that is missed, from the image and back from beyond the boundary",
)


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
        images: (n, …) floats, or a data set (see `Classifier`). What is found for one of them depends a little on the
            others, from which it may start.
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
    images, labels = unpacked(images, labels, net)
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
