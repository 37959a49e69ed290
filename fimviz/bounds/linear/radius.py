"""The largest L2 radius at which linear bounds still prove a prediction, for each input and each other class.

A bisection would carry all rows of a network back at every radius. Here they are at a few; at radii between, the lines
of a larger one hold as well, and what they enclose shrinks along with the ball: so that only the last rows are carried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from fimviz.bounds.linear.curves import Curve
from fimviz.bounds.linear.enclosed import Enclosed, Region, carried, enclose
from fimviz.bounds.linear.recorded import Largest, Step

_FIRST = 0.003  # of the pixels' range, the radius to begin with: there it is cheap
_ROUNDS = 8  # in which all rows are carried back
_TRUST = 0.5  # of the way, in ratios, to where the bounds would end if they went on in a straight line
_SHARPER = 1.15  # times a radius, where rows that are carried back twice may still prove it
_LAST = 2  # rounds of that
_CHEAP = 1e8  # numbers that rows are, up to which it is done: beyond, a round takes many seconds an input
_CLOSE = 1.15  # as a ratio, what is left between a radius that was proved and one that was not
MANY = 4e9  # numbers that rows are: from here on, minutes an input
_TRIES = 2  # between them, with the lines of the larger


def numbers(steps: Sequence[Step]) -> float:
    """How many numbers are computed at most, each time that all rows are carried back: what that costs."""
    sums = list(accumulate(s.shape.numel() for s in steps))
    read = {s.reads[0] for s in steps if isinstance(s.does, (Curve, Largest))}
    return float(sum(steps[r].shape.numel() * sums[r] for r in read))


def proved(steps: Sequence[Step], x: Tensor, rows: Tensor, box: tuple[float, float] | None) -> Tensor:
    """(targets,): the radii up to which each of the rows (targets, K) of the logits is above 0.

    Args:
        steps: of the network.
        x: (1, d), a flat input.
        rows: (targets, K).
        box: the smallest and the largest number of an input, if there are any.
    """
    best = torch.zeros(len(rows), dtype=torch.float64)

    def margins(found: Enclosed) -> Tensor:
        radius = found.region.radius[0]
        margin = carried(steps, len(steps) - 1, rows, 0, found).low(radius)
        best.copy_(torch.where(margin > 0, torch.maximum(best, radius), best))
        return margin

    def at(radius: float) -> Region:
        return Region(x, torch.tensor([radius], dtype=torch.float64), box)

    gaps = margins(enclose(steps, at(0.0)))
    if not bool((gaps > 0).all()):
        return torch.zeros_like(best)  # not proved at the input itself
    low, high, radius = 0.0, float("inf"), _FIRST * (1.0 if box is None else box[1] - box[0])
    inner, inside = 0.0, gaps  # the largest radius that all rows were carried back for and held at, and its margins

    def short_of(radius: float, margin: Tensor) -> float:
        """Margins fall ever faster with the radius, so that a chord of them reaches 0 before they do."""
        fallen = (margin / (margin - inside).clamp_max(-1e-300)).clamp(0, 1)
        return radius + (inner - radius) * float(fallen.max())

    for _ in range(_ROUNDS):
        found = enclose(steps, at(radius))
        margin = margins(found)
        if bool((margin > 0).all()):
            low = inner = radius
            inside = margin
            ahead = radius * float((gaps / (gaps - margin).clamp_min(1e-300)).min())
            radius = low * (ahead / low) ** _TRUST if high == float("inf") else (low * min(high, ahead)) ** 0.5
        else:
            high, chord = radius, short_of(radius, margin)

            def holds(r: float, found: Enclosed = found) -> bool:
                region = replace(found.region, radius=torch.full_like(found.region.radius, r))
                return bool((margins(enclose(steps, region, found.known)) > 0).all())

            low = _last(holds, low, max(1.001 * low, 0.999 * chord), high)
            radius = max(chord, (low * high) ** 0.5)
        if high < _CLOSE * low or radius < low * _CLOSE**0.5:
            break
    radius = _SHARPER * low
    for _ in range(_LAST if low and numbers(steps) <= _CHEAP else 0):
        margin = margins(enclose(steps, at(radius), twice=True))
        if bool((margin > 0).all()):
            inner, inside = radius, margin
            radius *= _SHARPER**0.5
        else:
            radius = 0.999 * short_of(radius, margin)
    return best


def _last(holds: Callable[[float], bool], low: float, first: float, high: float) -> float:
    """The largest of a few radii from `first` on at which something holds; `low` where at none of them."""
    radius = first
    for _ in range(_TRIES):
        low, high = (radius, high) if holds(radius) else (low, radius)
        radius = (max(low, high / 64) * high) ** 0.5
    return low


__all__ = ["MANY", "numbers", "proved"]
