"""How the Jacobian can be anywhere in a ball: a middle one, and what the slopes that are open add to it.

Over a ball a unit's slope lies in an interval (0 and 1 for a ReLU that may be on or off), m + δ with |δ| ≤ h: a unit
that reads z hands on mz + w, with |w| ≤ |hz|. A pool hands on one number of a window or another, their mean and w: of
k that can be largest, e_i − 1/k is √(1 − 1/k) long and orthogonal to (1, …, 1), so that |w| is at most so many times
the length of the numbers' differences from their mean. Where a ReLU comes before the pool it may hand on none of them
as well: then w is minus their mean, which goes beside the differences. With all w as they are, everything else is
linear: rows are carried back with the middles, and gather what they are of every w and of the input. What follows
from |w| ≤ ‖z‖ alone is said in `multipliers`. Ours; it holds through skips and concatenations, because rows take
whatever path there is.

Rounding. As for lines (`enclosed`): what a step hands on is off by at most γ_n|c||L|, and what that changes is at most
γ_n‖c‖‖|L|‖ times how fast what the step reads can change, for which products of norms are close enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fimviz.bounds.flow import NoBoundError
from fimviz.bounds.linear.affine import Affine
from fimviz.bounds.linear.blocks import Block
from fimviz.bounds.linear.curves import Curve, slopes
from fimviz.bounds.linear.enclosed import Enclosed, pulled
from fimviz.bounds.linear.multipliers import Coupled, Part
from fimviz.bounds.linear.recorded import VANISHING, Largest, Step

_UNIT = torch.finfo(torch.float64).eps
_TERMS = 256  # units of rounding that a curve's slope may be off by, far above what it is
_NUMBERS = 2**22  # of a chunk of rows at the widest step
_MOST = 2**27  # of what all z are of the w before them
_FAST = 1e4  # a product of norms from which on it is worth while to look closer


@dataclass(frozen=True)
class Turn:
    """A step that bends, over a ball: what it hands on in the middle, and what of it is open.

    Attributes:
        source: the step that it reads.
        middle: (outputs, window) slopes, of what is read at `places`; or (outputs,), of what is read in the same place.
        places: (outputs, window), if it reads elsewhere.
        open: (w,) which outputs have a w.
        into: (z, inputs) sparse rows of what it reads.
        owner: (z,) which w each is of.
        gain: a bound of its own Jacobian.
    """

    source: int
    middle: Tensor
    places: Tensor | None
    open: Tensor
    into: Tensor
    owner: Tensor
    gain: float

    def back(self, c: Tensor) -> Tensor:
        """Rows of what it returns as rows of what it reads, in the middle."""
        if self.places is None:
            return c * self.middle
        zeros = c.new_zeros(len(c), self.into.shape[1])
        return zeros.index_add_(1, self.places.flatten(), (c[:, :, None] * self.middle).flatten(1))


@dataclass(eq=False)
class Jacobian:
    """The Jacobian of a network's steps by its input, at every point of the ball around one input.

    Raises:
        NoBoundError: too many slopes are open.
    """

    steps: Sequence[Step]
    found: Enclosed
    image: int

    def __post_init__(self) -> None:
        self._turns: dict[int, Turn] = {}
        self._first: dict[int, int] = {}  # of the w of each
        self._reach: list[float] = []  # of the w of each, a rough bound of ‖w‖/‖u‖
        self._coupled = Coupled([], 0)
        self._speed = [1.0]  # how fast every step can change with the input, roughly
        self._lost = [0.0]  # how much of a row's length a step can lose to rounding, as a change of its Jacobian
        for place, step in enumerate(self.steps[1:], 1):
            if isinstance(step.does, Affine):
                speed = sum(self._speed[r] ** 2 for r in step.reads) ** 0.5 * _schur(self.steps, step)
                terms = step.does.terms + 8
            else:
                speed, terms = self._bend(place), _TERMS
            self._speed.append(speed)
            self._lost.append(2 * terms * _UNIT * speed)

    def middle(self) -> Tensor:
        """(K, K) products of the rows in the middle."""
        M = self._carried(torch.eye(self.steps[-1].shape.numel(), dtype=torch.float64), len(self.steps) - 1)[1]
        return M @ M.T

    def norm(self, rows: Tensor) -> float:
        """An upper bound of ‖rows · ∂z/∂x‖ over the ball, for rows (p, K) of the last step."""
        return self._coupled.norm(*self._carried(rows, len(self.steps) - 1))

    def lengths(self, rows: Tensor) -> Tensor:
        """(p,): the same of every row by itself."""
        return self._coupled.lengths(*self._carried(rows, len(self.steps) - 1))

    def _bend(self, place: int) -> float:
        """Take up a step that bends; how fast it can change."""
        self._turns[place] = turn = self._turn(place)
        if self._speed[turn.source] > _FAST:  # products of norms: too rough
            self._speed[turn.source] = min(self._speed[turn.source], self._frobenius(turn.source))
        if len(turn.open):
            if sum(p.N.numel() for p in self._coupled.parts) + len(turn.owner) * self._coupled.count > _MOST:
                raise NoBoundError(f"{self._coupled.count} slopes are open, too many for what they do together")
            N, A, off = self._gathered(turn.into, turn.source)
            off = off + 8 * _UNIT * _lengths(turn.into) * self._speed[turn.source]
            self._first[place] = N.shape[1]
            self._reach.append(self._rough(N, A, off))
            self._coupled = Coupled([*self._coupled.parts, Part(N, A, off, turn.owner)], N.shape[1] + len(turn.open))
        return self._speed[turn.source] * turn.gain

    def _rough(self, N: Tensor, A: Tensor, off: Tensor) -> float:
        """A bound of ‖rows · ∂step/∂x‖_F, from what rows are of every w and of the input."""
        ends = [*list(self._first.values())[1:], N.shape[1]]
        parts = zip(self._first.values(), ends, self._reach, strict=False)
        through = sum(float(N[:, first:end].norm()) * reach for first, end, reach in parts)
        return (float(A.norm()) + through + float(off.norm())) * (1 + 1e-9)

    def _frobenius(self, source: int) -> float:
        """A bound of ‖∂step/∂x‖, from all of its rows."""
        size = self.steps[source].shape.numel()
        every = _rows(torch.arange(size), torch.arange(size), torch.ones(size, dtype=torch.float64), (size, size))
        pieces = (self._rough(*self._carried(some, source)) for some in _dense(every, self._together(source)))
        return sum(piece**2 for piece in pieces) ** 0.5 * (1 + 1e-9)

    def _together(self, source: int) -> int:
        return max(1, _NUMBERS // max(s.shape.numel() for s in self.steps[: source + 1]))

    def _gathered(self, rows: Tensor, source: int) -> tuple[Tensor, Tensor, Tensor]:
        chunks = [self._carried(some, source) for some in _dense(rows, self._together(source))]
        N, A, off = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        return N, A, off

    def _carried(self, rows: Tensor, source: int) -> tuple[Tensor, Tensor, Tensor]:
        """What rows of a step are of all w so far, of the input, and what rounding may add to that."""
        waiting = {source: rows}
        found, off = rows.new_zeros(len(rows), self._coupled.count), rows.new_zeros(len(rows))
        for place in range(source, 0, -1):
            if (c := waiting.pop(place, None)) is None:
                continue
            step = self.steps[place]
            off += self._lost[place] * c.norm(dim=1)
            if isinstance(step.does, Affine):
                parts = pulled(self.steps, step, step.does, Block.of(c, step.shape))
                handed = [(r, part.complete()) for r, part in zip(step.reads, parts, strict=True)]
            else:
                turn = self._turns[place]
                if len(turn.open):
                    found[:, self._first[place] :][:, : len(turn.open)] = c[:, turn.open]
                handed = [(turn.source, turn.back(c))]
            for target, part in handed:
                if target in waiting:
                    part = waiting[target] + part
                    off += _UNIT * self._speed[target] * part.norm(dim=1)
                waiting[target] = part
        width = self.steps[0].shape.numel()
        return found, waiting.pop(0, rows.new_zeros(len(rows), width)), off + VANISHING

    def _turn(self, place: int) -> Turn:
        step = self.steps[place]
        source = step.reads[0]
        low, high = self.found.low[source][self.image], self.found.high[source][self.image]
        if isinstance(step.does, Curve):
            if self._passed(place):  # the pool will see to it
                none = torch.zeros(0, dtype=torch.int64)
                into = _rows(none, none, torch.zeros(0, dtype=torch.float64), (0, len(low)))
                return Turn(source, torch.ones_like(low), None, none, into, none, 1.0)
            return _bent(source, step.does, low, high)
        assert isinstance(step.does, Largest)
        if self._passed(source):
            before = self.steps[source].reads[0]
            least, most = self.found.low[before][self.image], self.found.high[before][self.image]
            return _picked(before, step.does, low, high, most > 0, least <= 0)
        every = torch.ones_like(low, dtype=torch.bool)
        return _picked(source, step.does, low, high, every, ~every)

    def _passed(self, place: int) -> bool:
        """Whether a step is a ReLU that only a pool reads."""
        does = self.steps[place].does
        readers = [s for s in self.steps if place in s.reads]
        relu = isinstance(does, Curve) and does.run is torch.relu
        return relu and len(readers) == 1 and isinstance(readers[0].does, Largest)


def _bent(source: int, curve: Curve, low: Tensor, high: Tensor) -> Turn:
    least, most = slopes(curve, low, high)
    middle = least + (most - least) / 2
    half = torch.maximum(most - middle, middle - least) * (1 + 1e-12)
    gain = float(torch.maximum(least.abs(), most.abs()).amax())
    (open_,) = (half > _TERMS / 2 * _UNIT * gain).nonzero(as_tuple=True)
    each = torch.arange(len(open_))
    into = _rows(each, open_, half[open_], (len(open_), len(low)))
    return Turn(source, middle, None, open_, into, each, gain)


def _picked(source: int, pool: Largest, low: Tensor, high: Tensor, moves: Tensor, stays: Tensor) -> Turn:
    """A pool of numbers in [low, high], which by what it reads at `source` have a slope of 1, of 0, or either."""
    places, window = pool.places, pool.places.shape[1]
    twice = (places[:, :, None] == places[:, None, :]).tril(-1).any(2)
    can = (high[places] >= low[places].amax(1, keepdim=True)) & ~twice
    on, none = can & moves[places], (can & stays[places]).any(1)
    count = on.sum(1)
    share = torch.where(count > 1, 1.0 / count.double(), torch.where(none, 0.5, 1.0).double())
    (open_,) = ((count > 1) | (none & (count == 1))).nonzero(as_tuple=True)
    ranked = places.gather(1, (~on).long().argsort(dim=1, stable=True))[open_]
    k, mean, none = count[open_], share[open_], none[open_]
    rows: list[Tensor] = []
    columns: list[Tensor] = []
    numbers: list[Tensor] = []
    owner: list[Tensor] = []
    for j in range(window):  # Helmert's rows, from the second number on, and before them that of the mean
        (mine,) = ((k > j) & (none | (j > 0))).nonzero(as_tuple=True)
        at = torch.arange(len(mine)) + sum(len(o) for o in owner)
        own = ranked[mine]
        if j:
            weights = torch.tensor([*[1.0] * j, -float(j)]).double() / (j * (j + 1)) ** 0.5
            numbers.append(((1 - mean[mine]).sqrt()[:, None] * weights).flatten())
            columns.append(own[:, : j + 1].flatten())
            rows.append(at.repeat_interleave(j + 1))
        else:
            (entry,) = (torch.arange(window) < k[mine][:, None]).flatten().nonzero(as_tuple=True)
            numbers.append(mean[mine].repeat_interleave(k[mine]))
            columns.append(own.flatten()[entry])
            rows.append(at.repeat_interleave(k[mine]))
        owner.append(mine)
    whose = torch.cat(owner)
    into = _rows(torch.cat(rows), torch.cat(columns), torch.cat(numbers) * (1 + 1e-12), (len(whose), len(low)))
    each = torch.arange(len(places))[:, None].expand_as(places)
    shared = torch.stack([each, places]).flatten(1).unique(dim=1)[1].bincount()  # windows that a number is in
    return Turn(source, on * share[:, None], places, open_, into, whose, float(shared.amax()) ** 0.5)


def _rows(rows: Tensor, columns: Tensor, numbers: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.sparse_coo_tensor(torch.stack([rows, columns]), numbers, shape, check_invariants=False).coalesce()


def _lengths(rows: Tensor) -> Tensor:
    """Of sparse rows."""
    return torch.sparse.sum(rows * rows, 1).to_dense().sqrt()


def _dense(rows: Tensor, together: int) -> Iterator[Tensor]:
    """So many rows at a time."""
    return (rows.index_select(0, some).to_dense() for some in torch.arange(len(rows)).split(together) if len(some))


def _schur(steps: Sequence[Step], step: Step) -> float:
    """‖|L|‖ ≤ (‖L‖₁‖L‖_∞)^½ of an affine step (Schur's test)."""
    assert isinstance(step.does, Affine)
    ones = [torch.ones(steps[r].shape, dtype=torch.float64) for r in step.reads]
    out, pull = torch.func.vjp(step.does.magnitude, *ones)[:2]
    columns = max(float(part.amax()) for part in pull(torch.ones_like(out)))
    return (float(out.amax()) * columns) ** 0.5 * (1 + 1e-9)


__all__ = ["Jacobian"]
