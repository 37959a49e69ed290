"""The smallest budget at which an attack succeeds: a bracket that is found by doubling, then halved."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fimviz.attacks.attack import Aim, Attempt, Options, Search
from fimviz.attacks.problem import Problem
from fimviz.model.engine.progress import Tick

BELOW = 1 / 8  # where a search along a ray begins, of where the margin would close if it were linear
_DOUBLINGS = 5  # that a bracket takes, roughly
_FLOOR = 2.0**-30  # of the largest budget: what succeeds there is not made smaller


def bracketed(aim: Callable[[Problem, Options], Aim], begin: float = BELOW) -> Callable[[Problem, Options], Search]:
    """The search of an attack that aims at a budget, from a share `begin` of where the margin would close.

    Along a ray, which may succeed and fail again farther out, it begins well below: the first budget that succeeds is
    wanted, not a later one.
    """

    def search(problem: Problem, options: Options) -> Search:
        aimed = aim(problem, options)

        def smallest(part: Problem, at: Tensor, top: float, progress: Tick) -> tuple[Tensor, Tensor]:
            first = begin * part.linear_distance().cpu().double()
            return _search(part, aimed(part, at), first, top, options.halvings, progress)

        return smallest

    return search


def along(ways: Callable[[Problem, Tensor], list[Tensor]]) -> Aim:
    """The aim of one step along fixed directions (n, …) of length 1, the best of them: `ways` of a part and places."""

    def aimed(part: Problem, at: Tensor) -> Attempt:
        directions = ways(part, at)

        def attempt(which: Tensor, eps: Tensor) -> Tensor:
            some = part[which]
            return some.better([some.moved(d[which.to(d.device)], eps) for d in directions])

        return attempt

    return aimed


def looks(options: Options) -> float:
    """How many budgets a bracket takes, roughly."""
    return _DOUBLINGS + options.halvings


def _search(
    part: Problem,
    attempt: Attempt,
    first: Tensor,
    top: float,
    halvings: int,
    progress: Tick,
) -> tuple[Tensor, Tensor]:
    """The smallest successful budget found (n,) and the images there, for attempt(which, ε) → changed images."""
    n, wide = len(part.x), torch.float64
    fails, works = torch.zeros(n, dtype=wide), torch.full((n,), math.inf, dtype=wide)
    kept = part.x.clone()
    missed = part.missed(part.x).cpu()
    works[missed] = 0

    def look(at: Tensor, eps: Tensor) -> None:
        there = attempt(at, eps)
        hit = part[at].fooled(there).cpu()
        works[at[hit]] = eps[hit]
        kept[at[hit]] = there[hit.to(there.device)]
        fails[at[~hit]] = torch.maximum(fails[at[~hit]], eps[~hit])

    eps, looked = first.clamp(top * _FLOOR, top), 0
    at = (~missed).nonzero()[:, 0]
    while len(at):
        look(at, eps[at])
        progress(looked := looked + 1, looked + max(_DOUBLINGS - looked, 1) + halvings)
        up, down = works[at].isinf() & (fails[at] < top), works[at].isfinite() & (fails[at] == 0)
        eps[at] = torch.where(down, works[at] / 2, (2 * fails[at]).clamp_max(top))
        at = at[up | down & (eps[at] >= top * _FLOOR)]
    for done in range(halvings):
        progress(looked + done, looked + halvings)
        at = (works.isfinite() & (works > 0)).nonzero()[:, 0]
        if len(at):
            look(at, (fails[at] + works[at]) / 2)
    return works, kept
