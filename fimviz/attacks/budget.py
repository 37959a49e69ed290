"""Attacks within a budget that is given: all of them, but for the descent, whose budget is what it looks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fimviz.attacks.attack import Attack, Options
from fimviz.attacks.problem import Problem, inside, lengths, pose, toward
from fimviz.model.classifier import Classifier, as_classifier
from fimviz.model.data import unpacked
from fimviz.model.engine.memory import limit
from fimviz.model.engine.progress import Tick, ticker, wanted


def within(
    attack: Attack,
    net: Classifier | nn.Module,
    images: Any,
    labels: Any,
    epsilon: Any,
    norm: str,
    options: Options | None = None,
    *,
    max_memory: float | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Tensor:
    """The images (n, …) changed by an attack that takes a budget, a number or (n,), on their device in their dtype."""
    net, progress = as_classifier(net), wanted(progress)
    images, labels = unpacked(images, labels, net)
    given = net.batch(images).detach()
    task = pose(net, given, labels, norm, limit(max_memory))
    eps = lengths("epsilon", epsilon, len(task.x))
    assert attack.aim is not None
    with task.net.at_rest():
        aimed = attack.aim(task, options or Options())

        def moved(part: Problem, at: Tensor, _: Tick) -> Tensor:
            return aimed(part, at)(torch.arange(len(at)), eps[at])

        out = list(task.in_parts(moved, ticker(progress, len(task.x))))
    wide = torch.float32 if task.x.device.type == "mps" else torch.float64
    step = (torch.cat(out).to(wide) - task.x.to(wide)).to(given.device)
    return toward(given, inside(given.to(wide), step, task.net.input_range))
