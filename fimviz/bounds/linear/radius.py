"""The largest L2 radius at which linear bounds still prove a prediction, for each input and each other class.

A bisection would carry all rows of a network back at every radius. But what is known of a ball holds in every smaller
one, and shrinks along with it: so the search begins too far out, where most that is open is open for intervals alone,
and each ball after that carries back what the one around it leaves open, which is a third to a tenth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fimviz.bounds.linear.affine import Affine
from fimviz.bounds.linear.blocks import Block, near_by_near
from fimviz.bounds.linear.curves import Curve
from fimviz.bounds.linear.enclosed import TOGETHER, Enclosed, Region, carried, enclose, pulled
from fimviz.bounds.linear.recorded import Largest, Step

_FIRST = 0.2  # of the way to where the margins would end in a straight line, the radius to begin with
_MOST = 0.5  # of the pixels' range, to begin with
_ROUNDS = 8  # in which rows are carried back
_SHORT = 0.99  # of the way to where margins are expected to end
_SHARES = (0.9, 0.75, 0.5)  # of a radius that was not proved, where its lines may still do
_NEAR = 1.15  # as a ratio, what is left between a radius that was proved and one that was not, or is expected to be
_FAR, _FURTHER = 4.0, 8.0  # as ratios, the largest steps down and up
_SHARPER = 1.18  # times a radius, where rows that are carried back twice may still prove it
_ROOM = 1.3  # as a ratio, how much larger the ball may be whose open rows are carried back twice
_LAST, _WORTH = 3, 1.005  # rounds of that, and by what ratio the next one is to be further out
_MODERATE = 1e9  # numbers that rows are: a round takes ten seconds an input
MANY = 2e9  # numbers that rows are: from here on, minutes an input
_POWER, _POWERS = 4.0, (1.5, 12.0)  # of the radius, with which margins fall beside a straight line: at first, at all
_HALVINGS = 40


def numbers(steps: Sequence[Step]) -> float:
    """How many numbers are computed at most, each time that all rows are carried back, a few together: the cost."""
    read = {s.reads[0] for s in steps if isinstance(s.does, (Curve, Largest))}
    return float(sum(steps[r].shape.numel() * _breadth(steps, r) for r in read))


def _breadth(steps: Sequence[Step], source: int) -> int:
    """How many numbers a row of a step is on its way, one from the middle with some of its neighbours."""
    shape = steps[source].shape
    order = near_by_near(torch.arange(shape.numel()), shape)
    rows = Block.ones(order[len(order) // 2 :][:TOGETHER], shape)
    waiting, count = {source: replace(rows, rows=rows.rows[:1])}, 0
    for place in range(source, -1, -1):
        if (c := waiting.pop(place, None)) is None:
            continue
        step, count = steps[place], count + c.rows.shape[1]
        if isinstance(step.does, Affine):
            handed = pulled(steps, step, step.does, c)
        elif isinstance(step.does, Largest):
            handed = [Block.spread(c.rows, c.of_step(step.does.places[:, 0]), steps[step.reads[0]].shape)]
        else:
            handed = [Block(c.rows, steps[r].shape, c.spans) for r in step.reads]
        for target, part in zip(step.reads, handed, strict=True):
            waiting[target] = waiting[target] + part if target in waiting else part
    return count


def proved(steps: Sequence[Step], x: Tensor, rows: Tensor, box: tuple[float, float] | None) -> Tensor:
    """(targets,): the radii up to which each of the rows (targets, K) of the logits is above 0.

    Args:
        steps: of the network.
        x: (1, d), a flat input.
        rows: (targets, K).
        box: the smallest and the largest number of an input, if there are any.
    """
    search = _Search(steps, x, rows, box)
    if not search.holds(0.0):
        return torch.zeros_like(search.best)
    most = 1.0 + float(x.abs().max()) if box is None else box[1] - box[0]  # a network can be flat at the input
    corner = math.inf if box is None else (1 + 1e-3) * float(torch.maximum(x - box[0], box[1] - x).norm())

    def further(low: float) -> float:
        """The next radius after one that was proved: no network is known to be straight all the way to its end."""
        return min(_SHORT * search.expected(), corner, _FURTHER * low if low else math.inf)

    low, high, radius = 0.0, float("inf"), min(_FIRST * search.expected(), _MOST * most)
    for _ in range(_ROUNDS):
        if search.holds(radius):
            low = radius
        else:
            high = radius
            shares = (share * high for share in _SHARES if share * high > low)
            low = next((r for r in shares if search.holds(r, again=False)), low)
        ahead = search.expected()
        if high < _NEAR * low or ahead < _NEAR**0.5 * low:
            break
        radius = further(low)
        radius = max(radius if radius < high else (low * high) ** 0.5, high / _FAR if high < float("inf") else 0.0)
    radius = _SHARPER * low
    for _ in range(_LAST if low and numbers(steps) <= _MODERATE else 0):
        around = search.around(radius)
        if around is None or float(around.region.radius) > _ROOM * radius:
            search.holds(_SHARPER * radius)  # what it leaves open is less to carry back twice
        tried, held = radius, search.holds(radius, twice=True)
        low = tried if held else low
        radius = further(low) if held else min(further(low), _SHORT * tried)
        if radius < _WORTH * low:
            break
    if box is not None:  # all inputs that there are
        search.best[search.best > torch.maximum(x - box[0], box[1] - x).norm() * (1 + 1e-9)] = torch.inf
    return search.best


class _Search:
    """What was found in balls around an input, and where the margins will end.

    Attributes:
        best: (targets,) the radii.
    """

    def __init__(self, steps: Sequence[Step], x: Tensor, rows: Tensor, box: tuple[float, float] | None) -> None:
        self._steps, self._x, self._rows, self._box = steps, x, Block.of(rows, steps[-1].shape), box
        self.best = torch.zeros(len(rows), dtype=torch.float64)
        self._open: list[Enclosed] = []  # what was found of balls that are not proved
        self._gaps = self._slopes = self._fallen = self.best  # margins at 0, how they fall there, and what more at …
        self._last = 0.0  # … the radius that rows were carried back for last
        self._power = torch.full_like(self.best, _POWER)

    def holds(self, radius: float, again: bool = True, twice: bool = False) -> bool:
        """Whether all rows are above 0 in a ball; without carrying back `again`, by the lines of the one around it."""
        region = Region(self._x, torch.tensor([radius], dtype=torch.float64), self._box)
        around = self.around(radius)
        found = enclose(self._steps, region, around.known if around else None, again, twice)
        last = carried(self._steps, len(self._steps) - 1, self._rows, 0, found)
        margin = last.low(region.radius)
        self.best = torch.where(margin > 0, self.best.clamp_min(radius), self.best)
        held = bool((margin > 0).all())
        if radius == 0:
            self._gaps, self._slopes = margin, last.norm
        elif again:
            self._slopes = torch.minimum(self._slopes, (self._gaps - margin).clamp_min(0) / radius)  # thanks to the box
            fallen = (self._gaps - radius * self._slopes - margin).clamp_min(1e-9 * self._gaps)
            if self._last and not twice and radius != self._last:
                ratio = (fallen / self._fallen).log() / math.log(radius / self._last)
                self._power = ratio.clamp(*_POWERS)
            self._last, self._fallen = radius, fallen
            if not held and not twice:
                self._open.append(found)
        return held

    def around(self, radius: float) -> Enclosed | None:
        """What was found of the smallest ball around this one."""
        found = [f for f in self._open if float(f.region.radius) >= radius]
        return min(found, key=lambda f: float(f.region.radius), default=None)

    def expected(self) -> float:
        """Where the first margin ends that falls in a straight line and a power of the radius from what is known."""
        low, high = torch.zeros_like(self._gaps), self._gaps / self._slopes.clamp_min(1e-300)
        for _ in range(_HALVINGS if self._last else 0):
            middle = low + (high - low) / 2
            more = self._fallen * (middle / self._last) ** self._power
            below = self._gaps - self._slopes * middle < more
            low, high = torch.where(below, low, middle), torch.where(below, middle, high)
        return float(high.min())


__all__ = ["MANY", "numbers", "proved"]
