"""The lines around the steps that bend, and what rows of such a step are in rows of what it reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fimviz.bounds.linear.blocks import Block
from fimviz.bounds.linear.curves import Curve, between, extent

if TYPE_CHECKING:
    from fimviz.bounds.linear.recorded import Largest

_UNIT = torch.finfo(torch.float64).eps
_Interval = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Line:
    """slope · h + height, all (n, outputs): h are the numbers in the given `places` of what the step reads, or all."""

    slope: Tensor
    height: Tensor
    places: Tensor | None = None

    def back(self, c: Block, image: int, shape: torch.Size) -> Block:
        """Rows of the step as rows of what it reads, of that shape."""
        handed = c.scaled(self.slope[image])
        if self.places is None:
            return Block(handed.rows, shape, c.spans)
        return Block.spread(handed.rows, c.of_step(self.places[image]), shape)


@dataclass(frozen=True)
class Band:
    """A line below, one above, and one with a band of a half width around it. A pool's read what is largest."""

    below: Line
    above: Line
    middle: Line
    half: Tensor

    def lower(self, c: Block, image: int, shape: torch.Size) -> tuple[Block, Tensor, Tensor]:
        """Rows of the step as rows of what it reads, what that adds to a lower bound of them, and 0."""
        up = replace(c, rows=c.rows.clamp_min(0))
        down = replace(c, rows=c.rows - up.rows)
        added = up.times(self.below.height[image]) + down.times(self.above.height[image])
        return self.below.back(up, image, shape) + self.above.back(down, image, shape), added, torch.zeros_like(added)

    def both(self, c: Block, image: int, shape: torch.Size) -> tuple[Block, Tensor, Tensor]:
        """As `lower`, with what is added to both bounds, and what more each is off."""
        off = replace(c, rows=c.rows.abs()).times(self.half[image])
        return self.middle.back(c, image, shape), c.times(self.middle.height[image]), off


def around_curve(curve: Curve, low: Tensor, high: Tensor) -> tuple[Band, _Interval, Tensor]:
    """The band around a curve on intervals (n, numbers), its own interval, and the largest a line's terms can be."""
    (below, under, above, over), (slope, bottom, _, top) = between(curve, low, high)
    middle = bottom + (top - bottom) / 2
    half = torch.maximum(top - middle, middle - bottom) * (1 + 4 * _UNIT)
    band = Band(Line(below, under), Line(above, over), Line(slope, middle), half)
    size = torch.maximum(torch.maximum(below.abs(), above.abs()), slope.abs()) * torch.maximum(low.abs(), high.abs())
    return band, extent(curve, low, high), size + torch.maximum(under.abs(), over.abs()) + middle.abs() + half


def around_largest(pool: Largest, low: Tensor, high: Tensor) -> tuple[Band, _Interval, Tensor]:
    """The same of a pool: below, what is largest at the middles; above, a chord over the one that can be largest."""
    lows, highs, each = low[:, pool.places], high[:, pool.places], torch.arange(len(pool.places))
    top, at = highs.max(2)
    floor = lows.gather(2, at[:, :, None])[..., 0]
    picked = pool.places[each, at]
    rest = torch.maximum(_others(pool, highs, picked), floor)
    # max(t, rest) ≤ rest + (t − floor)(top − rest)/(top − floor), for t in [floor, top].
    wide = top - floor
    slope = torch.where(wide > 0, (top - rest) / torch.where(wide > 0, wide, 1.0), 1.0).clamp(0, 1)
    rounding = 16 * _UNIT * (rest.abs() + floor.abs() + top.abs())
    above = Line(slope, torch.maximum(rest - slope * floor, top - slope * top) + rounding, picked)
    best = (lows + highs).argmax(2)
    places = pool.places[each, best]
    # max ≥ t, and max ≤ t + how much more than t the others can be.
    more = (_others(pool, highs, places) - lows.gather(2, best[:, :, None])[..., 0]).clamp_min(0) * (1 + 4 * _UNIT)
    one = torch.ones_like(top)
    band = Band(Line(one, torch.zeros_like(top), places), above, Line(one, more / 2, places), more / 2)
    size = torch.maximum(lows.abs(), highs.abs()).amax(2) + above.height.abs() + more
    return band, (lows.amax(2), top), size


def _others(pool: Largest, highs: Tensor, picked: Tensor) -> Tensor:
    """The largest that the numbers of each window but the picked ones (n, outputs) can be."""
    return highs.masked_fill(pool.places[None] == picked[:, :, None], -torch.inf).amax(2)


__all__ = ["Band", "Line", "around_curve", "around_largest"]
