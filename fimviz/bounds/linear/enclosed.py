"""What the steps of a network can be over a ball of inputs, by lines carried back from every step to the input.

A row c of a step's numbers is replaced, step by step, by a row of what that step reads: an affine step hands on cL and
adds c·b; one that bends hands on the slopes of its lines, the lower one where c ≥ 0, the upper one elsewhere. At the
input a row is bounded over the ball and the box of the pixels in closed form (Zhang et al. 2018, *Efficient neural
network robustness certification with general activation functions*; Xu et al. 2020, *Automatic perturbation analysis
for scalable certified robustness*). Before lines can be drawn around a step, what it reads is bounded: by intervals,
and where these leave open on which side of a kink a number lies, by a row of its own. For these two parallel lines are
taken, with which one row bounds a number from both sides (Weng et al. 2018, *Towards fast computation of certified
robustness for ReLU networks*), or twice the rows where that is worth while.

Rounding. A row as computed is itself the row that goes on: what it is off from what the step behind it hands on exactly
is at most γ_n|c||L|, n the number of terms of a sum (Higham 2002, §3.1), and so it changes the bound by at most
γ_n|c|·(|L||h| + |b|) ≤ γ_n‖c‖‖|L||h| + |b|‖, with the largest |h| that there is over the ball. Twice that is taken off,
and what sums over steps and over readers round. What underflows is less than `VANISHING`, as `recorded` sees to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from fimviz.bounds.linear.affine import Affine
from fimviz.bounds.linear.blocks import Block, near_by_near
from fimviz.bounds.linear.curves import Curve
from fimviz.bounds.linear.lines import Band, around_curve, around_largest
from fimviz.bounds.linear.recorded import VANISHING, Largest, Step

_UNIT = torch.finfo(torch.float64).eps
_NUMBERS = 2**18  # of a chunk of rows at the widest step: what stays in a processor's cache
TOGETHER, _MOST = 64, 2**22  # rows that are taken together all the same, as most are 0 there, up to so many numbers
_NARROW = 1e-9  # what rounding leaves of intervals at a point
_TURNS, _FREE = 3, 1e-9  # in search of the price of the box, and what is left of one where all that counts is cut off


@dataclass(frozen=True)
class Region:
    """n balls in L2 around inputs x (n, d), of the given radii (n,), and the box (low, high) that the inputs are in."""

    x: Tensor
    radius: Tensor
    box: tuple[float, float] | None

    def interval(self) -> tuple[Tensor, Tensor]:
        """The smallest and largest number of every pixel."""
        r = self.radius[:, None] * (1 + 4 * _UNIT)
        low, high = self.x - r, self.x + r
        if self.box is not None:
            low, high = low.clamp_min(self.box[0]), high.clamp_max(self.box[1])
        return torch.minimum(low, self.x), torch.maximum(high, self.x)


@dataclass
class Rows:
    """What p rows can be over a ball.

    Attributes:
        under, over: A·x at its centre with what the lines add, from below and from above.
        norm: ‖A‖.
        less, more: how far below and above that they can be elsewhere in the ball; `more` of two-sided rows alone.
    """

    under: Tensor
    over: Tensor
    norm: Tensor
    less: Tensor
    more: Tensor

    def low(self, radius: Tensor) -> Tensor:
        """Lower bounds; those of a smaller ball follow from the same lines."""
        return self.under - torch.minimum(self.less, radius * self.norm)

    def high(self, radius: Tensor) -> Tensor:
        """Upper bounds."""
        return self.over + torch.minimum(self.more, radius * self.norm)

    def parts(self) -> list[Tensor]:
        """All of them, as they are written above."""
        return [getattr(self, f.name) for f in fields(self)]


@dataclass
class Known:
    """Some numbers (image, place) of a step, and their rows."""

    image: Tensor
    place: Tensor
    rows: Rows

    def renewed(self, new: Known, shape: torch.Size) -> Known:
        """With new rows in the place of those of the same numbers, of a step of this shape."""
        again = torch.zeros(shape, dtype=torch.bool)
        again[new.image, new.place] = True
        stays = ~again[self.image, self.place]
        rows = Rows(
            *(torch.cat([old[stays], other]) for old, other in zip(self.rows.parts(), new.rows.parts(), strict=True))
        )
        return Known(torch.cat([self.image[stays], new.image]), torch.cat([self.place[stays], new.place]), rows)


@dataclass
class Enclosed:
    """What was found of the steps over a region: intervals (n, numbers), bands around those that bend, and rows."""

    region: Region
    low: list[Tensor] = field(default_factory=list)
    high: list[Tensor] = field(default_factory=list)
    bands: dict[int, Band] = field(default_factory=dict)
    off: dict[int, tuple[float, Tensor]] = field(default_factory=dict)  # γ_n, and ‖|L||h| + |b|‖ (n,)
    known: dict[int, Known] = field(default_factory=dict)

    def size(self, place: int, image: int) -> float:
        """At most the length of what a step returns."""
        return float(torch.maximum(self.low[place][image].abs(), self.high[place][image].abs()).norm()) * (1 + 1e-9)


def enclose(steps: Sequence[Step], region: Region, known: dict[int, Known] | None = None, again: bool = True,
            twice: bool = False) -> Enclosed:  # fmt: skip
    """Intervals of all steps over a region.

    What is `known` of a region around it holds here too. Rows that it leaves open are carried back `again`, or not;
    `twice` for lines of their own from below and from above: tighter, though they do not shrink along with a ball.
    """
    found = Enclosed(region)
    for place, step in enumerate(steps):
        does = step.does
        if does is None:
            low, high = region.interval()
        elif isinstance(does, Affine):
            low, high = _carried(steps, step, does, found, place)
        else:
            source = step.reads[0]
            if source not in found.known:
                _narrow(steps, source, does, found, (known or {}).get(source), again, twice)
            low, high = found.low[source], found.high[source]
            drawn = around_curve(does, low, high) if isinstance(does, Curve) else around_largest(does, low, high)
            found.bands[place], (low, high), size = drawn
            found.off[place] = _gamma(size.shape[1] + 16), size.norm(dim=1)
        found.low.append(low)
        found.high.append(high)
    return found


def _gamma(terms: int) -> float:
    return terms * _UNIT


def _each(run: Callable[..., Tensor], shapes: Sequence[torch.Size], given: Sequence[Tensor]) -> Tensor:
    """A step's function of one input, of many: flat numbers (n, …) to flat numbers."""
    shaped = [g.reshape(len(g), *shape) for g, shape in zip(given, shapes, strict=True)]
    return torch.func.vmap(run)(*shaped).reshape(len(given[0]), -1)


def _carried(steps: Sequence[Step], step: Step, does: Affine, found: Enclosed, place: int) -> tuple[Tensor, Tensor]:
    """The interval of an affine step, from those of what it reads."""
    shapes = [steps[r].shape for r in step.reads]
    low, high = [found.low[r] for r in step.reads], [found.high[r] for r in step.reads]
    middle = [a + (b - a) / 2 for a, b in zip(low, high, strict=True)]
    half = [torch.maximum(b - m, m - a) for a, b, m in zip(low, high, middle, strict=True)]
    size = [torch.maximum(a.abs(), b.abs()) for a, b in zip(low, high, strict=True)]
    summed = does.offset.abs() if does.summed is None else does.summed
    off = _each(does.magnitude, shapes, size) + summed.reshape(1, -1)
    found.off[place] = _gamma(does.terms + 8), off.norm(dim=1)
    centre = _each(does.run, shapes, middle)
    around = _each(does.magnitude, shapes, half) * (1 + 1e-12) + 2 * _gamma(does.terms + 8) * off
    return centre - around, centre + around


def _narrow(steps: Sequence[Step], source: int, does: Curve | Largest, found: Enclosed, known: Known | None,
            again: bool, twice: bool) -> None:  # fmt: skip
    """Better intervals of what a curve or a pool reads, where they matter."""

    def tighten(have: Known) -> None:
        at, radius = (have.image, have.place), found.region.radius[have.image]
        low, high = found.low[source].clone(), found.high[source].clone()
        low[at] = torch.maximum(low[at], have.rows.low(radius))
        high[at] = torch.minimum(high[at], have.rows.high(radius))
        found.low[source], found.high[source] = low, torch.maximum(low, high)  # rounding may have crossed them

    if known is not None:
        tighten(known)
    if again or known is None:
        image, place = _open(does, found.low[source], found.high[source]).nonzero(as_tuple=True)
        order = near_by_near(place, steps[source].shape)
        order = order[image[order].argsort(stable=True)]
        image, place = image[order], place[order]
        new = Known(image, place, _single(steps, source, image, place, found, twice))
        tighten(new)
        known = new if known is None else known.renewed(new, found.low[source].shape)
    found.known[source] = known


def _open(does: Curve | Largest, low: Tensor, high: Tensor) -> Tensor:
    """(n, numbers): whether a narrower interval would change what is drawn around a step."""
    wide = high - low > _NARROW
    if isinstance(does, Curve):
        return wide if does.bend else torch.stack([(low < k) & (k < high) for k in does.kinks]).any(0)
    rivals = high[:, does.places] > low[:, does.places].amax(2, keepdim=True)
    several = rivals & (rivals.sum(2, keepdim=True) > 1)
    places = does.places.reshape(1, -1).expand(len(low), -1)
    return (torch.zeros_like(low).scatter_add_(1, places, several.flatten(1).to(low)) > 0) & wide


def _single(steps: Sequence[Step], source: int, image: Tensor, place: Tensor, found: Enclosed,
            twice: bool) -> Rows:  # fmt: skip
    """Both bounds of single numbers of a step; those of an image lie together."""
    parts = [Rows(*torch.zeros(5, 0, dtype=torch.float64))]
    counts = image.bincount(minlength=len(found.region.x)).tolist()
    widest = max(s.shape.numel() for s in steps[: source + 1])
    together = max(1, _NUMBERS // widest, min(TOGETHER, _MOST // widest))
    for i, own in enumerate(place.split(counts)):
        for some in own.split(together) if len(own) else ():
            rows = Block.ones(some, steps[source].shape)
            if twice:
                radius = found.region.radius[i]
                signed = ((sign, replace(rows, rows=sign * rows.rows)) for sign in (1, -1))
                low, high = (sign * carried(steps, source, some, i, found).low(radius) for sign, some in signed)
                parts.append(Rows(low, high, *torch.zeros(3, len(some), dtype=torch.float64)))
            else:
                parts.append(carried(steps, source, rows, i, found, parallel=True))
    return Rows(*map(torch.cat, zip(*(p.parts() for p in parts), strict=True)))


def carried(steps: Sequence[Step], source: int, rows: Block, image: int, found: Enclosed,
            parallel: bool = False) -> Rows:  # fmt: skip
    """Bounds of rows of a step over the ball around one input, from below.

    With `parallel` lines, which are looser, they are bounds from both sides.
    """
    waiting = {source: rows}
    under, over = (torch.zeros(len(rows.rows), dtype=torch.float64) for _ in range(2))
    off = torch.full_like(under, VANISHING)
    for place in range(source, 0, -1):
        if (c := waiting.pop(place, None)) is None:
            continue
        step, (gamma, size) = steps[place], found.off[place]
        off += 2 * gamma * size[image] * torch.linalg.vector_norm(c.rows, dim=1)
        if isinstance(step.does, Affine):
            handed = pulled(steps, step, step.does, c)
            added = c.times(step.does.offset.view(-1))
            around = torch.zeros_like(added)
        else:
            back = found.bands[place].both if parallel else found.bands[place].lower
            part, added, around = back(c, image, steps[step.reads[0]].shape)
            handed = [part]
        under += added - around
        over += added + around
        off += _UNIT * (under.abs() + over.abs() + added.abs() + around)
        for target, part in zip(step.reads, handed, strict=True):
            if target in waiting:
                part = waiting[target] + part
                off += _UNIT * found.size(target, image) * torch.linalg.vector_norm(part.rows, dim=1)
            waiting[target] = part
    last = waiting.pop(0, None)
    if last is None:
        return Rows(under - off, over + off, *torch.zeros(3, len(under), dtype=torch.float64))
    a = last.rows
    region = found.region
    x, radius = last.of_step(region.x[image]), region.radius[image]
    norm = torch.linalg.vector_norm(a, dim=1) * (1 + _gamma(a.shape[1] + 8))
    off += 2 * _gamma(a.shape[1] + 64) * (norm * x.norm() + under.abs() + over.abs())
    centre = a @ x
    less = _less(a, x, radius, norm, region.box)
    more = _less(-a, x, radius, norm, region.box) if parallel else less
    return Rows(centre + under - off, centre + over + off, norm, less, more)


def pulled(steps: Sequence[Step], step: Step, does: Affine, c: Block) -> list[Block]:
    """cL, for each of what an affine step reads."""
    if does.factors is not None:
        return [c.scaled(factor) for factor in does.factors]
    shapes = [steps[r].shape for r in step.reads]
    if does.convolution is not None:
        return [does.convolution.back(c, *shapes)]
    zeros = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    parts = torch.func.vmap(torch.func.vjp(does.run, *zeros)[1])(c.complete().reshape(len(c.rows), *step.shape))
    return [Block.of(p.reshape(len(c.rows), -1), shape) for p, shape in zip(parts, shapes, strict=True)]


def _less(a: Tensor, x: Tensor, radius: Tensor, norm: Tensor, box: tuple[float, float] | None) -> Tensor:
    """How much less than at its centre A·x can be over ball and box, at most: by any price μ of a unit of length².

    min A·δ over ‖δ‖ ≤ ε and the box is at least min over the box of A·δ + μ(‖δ‖² − ε²)/2, whose minimiser is −A/μ, cut
    off at the box. The best μ makes that as long as ε. Only pixels that are nearer to an edge than ε can be cut off.
    """
    reach = radius * norm
    if box is None:
        return reach
    low, high = (box[0] - x).clamp_max(0), (box[1] - x).clamp_min(0)
    near = ((low > -radius) | (high < radius)).nonzero()[:, 0]
    if not len(near):
        return reach
    gamma = _gamma(a.shape[1] + 16)
    if len(near) == len(x):  # the corner of the box
        reach = torch.minimum(reach, torch.maximum(-a * low, -a * high).sum(1) * (1 + gamma))
    a, low, high = a[:, near], low[near] / radius, high[near] / radius  # so that lengths are shares of ε
    far = (norm.square() * (1 + gamma) - a.square().sum(1) * (1 - gamma)).clamp_min(0)
    price = norm.clamp_min(1e-300)
    for _ in range(_TURNS):
        step = (-a / price[:, None]).clamp(low, high)
        cut = (step == low) | (step == high)
        spare = 1 - torch.where(cut, step, 0.0).square().sum(1)
        better = ((far + torch.where(cut, 0.0, a).square().sum(1)) / spare.clamp_min(1e-300)).sqrt()
        price = torch.where(spare > 0, torch.maximum(better, _FREE * price), price).clamp_min(1e-300)
    step = (-a / price[:, None]).clamp(low, high)
    along, square = (a * step).sum(1), step.square().sum(1)
    size = (a * step).abs().sum(1) + price * (square + 1) + far / price
    value = radius * (-along - price * (square - 1) / 2 + far / price / 2 + 4 * gamma * size)
    return torch.minimum(reach, value.clamp_min(0))
