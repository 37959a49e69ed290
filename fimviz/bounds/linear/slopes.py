"""How large the Jacobian can be anywhere in a ball: a middle one, and what the slopes that are open add to it.

Over a ball a unit's slope lies in an interval (0 and 1 for a ReLU that may be on or off), m + δ with |δ| ≤ h. Let M be
the Jacobian with all slopes at their middles and J(x′) the one at a point x′ of the ball. Replacing the slopes by
middle ones, the last step first, changes J one step b at a time, by what lies behind b with middle slopes, times δ_b,
times what lies before b as it is at x′:

    C J(x′) = C M + Σ_b C R_b diag(δ_b) A_b(x′),     ‖C R_b diag(δ_b) A_b(x′)‖ ≤ ‖C R_b √h_b‖ · sup ‖√h_b A_b‖

where R_b is the middle Jacobian of the output by what b returns and A_b(x′) that of what b reads by the input. A pool
hands on one number of a window or another: there δ takes differences of rows of A. The suprema are bounded in the same
way, the first step first; only units with open slopes take part, so that a small ball costs little and is bounded
closely. ‖Y_0 + … + Y_B‖² ≤ ‖Σ Y_b Y_bᵀ/α_b‖ for all α > 0 of sum 1, which for α proportional to the ‖Y_b‖ is at most
their sum's square. Ours; it holds through skips and concatenations, because what lies behind a step is whatever path
leads on from it.

Rounding. As for lines (`enclosed`): what a step hands on is off by at most γ_n|c||L|, and what that changes is at most
γ_n‖c‖‖|L|‖ times how fast what the step reads can change, for which products of norms are close enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fimviz.bounds.certify import largest_singular_value
from fimviz.bounds.linear.curves import Curve, slopes
from fimviz.bounds.linear.enclosed import Enclosed, pulled
from fimviz.bounds.linear.recorded import Affine, Largest, Step

_UNIT = torch.finfo(torch.float64).eps
_TERMS = 256  # units of rounding that a curve's slope may be off by, far above what it is
_NUMBERS = 2**22  # of a chunk of rows at the widest step
_FAST = 1e4  # a product of norms from which on it is worth while to look closer
_TURNS = 6  # of the power iterations that share out


@dataclass(frozen=True)
class Turn:
    """A step that bends, over a ball: what it hands on in the middle, and what of it is open.

    Attributes:
        middle: (outputs,) slopes, of what is read at `places`.
        places: (outputs,)
        out: (outputs,) weights √h of its outputs; 0 where nothing is open.
        into: (open, inputs) sparse rows of what it reads, so that ‖c δ A‖ ≤ ‖c √h‖ ‖into · A‖.
        gain: a bound of its own Jacobian.
    """

    middle: Tensor
    places: Tensor
    out: Tensor
    into: Tensor
    gain: float


@dataclass(eq=False)
class Jacobian:
    """The Jacobian of a network's steps by its input, at every point of the ball around one input."""

    steps: Sequence[Step]
    found: Enclosed
    image: int

    def __post_init__(self) -> None:
        self._turns: dict[int, Turn] = {}
        self._before: dict[int, float] = {}  # sup ‖into · A‖ of the steps that bend
        self._speed = [1.0]  # how fast every step can change with the input, roughly
        self._lost = [0.0]  # how much of a row's length a step can lose to rounding, as a change of its Jacobian
        for place, step in enumerate(self.steps[1:], 1):
            read = sum(self._speed[r] ** 2 for r in step.reads) ** 0.5
            if isinstance(step.does, Affine):
                speed = read * _schur(self.steps, step)
                terms = step.does.terms + 8
            else:
                source = step.reads[0]
                self._turns[place] = turn = self._turn(step)
                if read > _FAST:  # products of norms: too rough
                    self._speed[source] = min(read, self._frobenius(source))
                self._before[place] = self.norm(turn.into, source)
                speed, terms = self._speed[source] * turn.gain, _TERMS
            self._speed.append(speed)
            self._lost.append(2 * terms * _UNIT * speed)

    def _frobenius(self, source: int) -> float:
        """A bound of ‖A‖ of a step, from the lengths of its rows."""
        size = self.steps[source].shape.numel()
        rows = _rows(torch.arange(size), torch.ones(size, dtype=torch.float64), size)
        square = sum(float(self.lengths(some, source).square().sum()) for some in _dense(rows, self._together(source)))
        return square**0.5 * (1 + 1e-9)

    def _together(self, source: int) -> int:
        return max(1, _NUMBERS // max(s.shape.numel() for s in self.steps[: source + 1]))

    def norm(self, rows: Tensor, source: int = -1) -> float:
        """An upper bound of ‖rows · ∂step/∂x‖ over the ball, for rows (p, numbers) of a step, by default the last."""
        if not len(rows):
            return 0.0
        parts, off = self._parts(rows, source)
        parts = [part for part in parts if bool(part.any())]
        if not parts:
            return float(off.norm())
        sizes = [_about(part) for part in parts]
        total = sum(sizes)
        stack = torch.cat([part.mul_((total / size) ** 0.5) for part, size in zip(parts, sizes, strict=True)], 1)
        del parts
        return largest_singular_value([stack[None]]) + float(off.norm()) * (1 + 1e-9)

    def lengths(self, rows: Tensor, source: int = -1) -> Tensor:
        """(p,): the same of every row by itself."""
        parts, off = self._parts(rows, source)
        return sum((part.norm(dim=1) for part in parts), off) * (1 + 1e-9)

    def _parts(self, rows: Tensor, source: int) -> tuple[list[Tensor], Tensor]:
        """C M, the C R_b √h_b sup ‖√h_b A_b‖ that are not 0, and what rounding may add to each row."""
        source = source % len(self.steps)
        chunks = [self._carried(some, source) for some in _dense(rows, self._together(source))]
        places = chunks[0][0]
        return [torch.cat([c[0][p] for c in chunks]) for p in places], torch.cat([c[1] for c in chunks])

    def _carried(self, rows: Tensor, source: int) -> tuple[dict[int, Tensor], Tensor]:
        waiting, found = {source: rows}, {}
        off = torch.zeros(len(rows), dtype=torch.float64)
        for place in range(source, 0, -1):
            if (c := waiting.pop(place, None)) is None:
                continue
            step = self.steps[place]
            off += self._lost[place] * c.norm(dim=1)
            if isinstance(step.does, Affine):
                handed = pulled(self.steps, step, step.does, c)
            else:
                turn = self._turns[place]
                if (open_ := turn.out > 0).any() and self._before[place] > 0:
                    found[place] = c[:, open_] * turn.out[open_] * self._before[place]
                zeros = c.new_zeros(len(c), turn.into.shape[1])
                handed = [zeros.index_add_(1, turn.places, c * turn.middle)]
            for target, part in zip(step.reads, handed, strict=True):
                waiting[target] = waiting[target] + part if target in waiting else part
        found[0] = waiting.pop(0, rows.new_zeros(len(rows), self.steps[0].shape.numel()))
        return found, off

    def _turn(self, step: Step) -> Turn:
        source = step.reads[0]
        low, high = self.found.low[source][self.image], self.found.high[source][self.image]
        if isinstance(step.does, Curve):
            return _bent(step.does, low, high)
        assert isinstance(step.does, Largest)
        point = bool((self.found.low[0] == self.found.high[0])[self.image].any())
        return _picked(step.does, low, high, point)


def _bent(curve: Curve, low: Tensor, high: Tensor) -> Turn:
    least, most = slopes(curve, low, high)
    middle = least + (most - least) / 2
    half = torch.maximum(most - middle, middle - least) * (1 + 1e-12)
    gain = float(torch.maximum(least.abs(), most.abs()).amax())
    root = torch.where(half > _TERMS / 2 * _UNIT * gain, half, 0.0).sqrt() * (1 + 1e-12)
    (open_,) = root.nonzero(as_tuple=True)
    return Turn(middle, torch.arange(len(low)), root, _rows(open_, root[open_], len(low)), gain)


def _picked(pool: Largest, low: Tensor, high: Tensor, point: bool) -> Turn:
    """Which number of a window is handed on is open between one of them and others: rows of their differences.

    A unit that is off hands on what is constant, and has no slope; of a ball that is a `point` that says nothing.
    """
    places = pool.places
    can = high[places] >= low[places].amax(1, keepdim=True)  # (outputs, window)
    one = places.gather(1, (low + high)[places].masked_fill(~can, -torch.inf).argmax(1, keepdim=True))
    moves = (can & ((high > low)[places] | point)).any(1, keepdim=True)
    output, at = (can & (places != one) & moves).nonzero(as_tuple=True)
    ones = torch.ones(len(output), dtype=low.dtype)
    into = _rows(places[output, at], ones, len(low)) - _rows(one[output, 0], ones, len(low))
    out = torch.zeros(len(places), dtype=low.dtype).index_fill_(0, output, 1.0)
    each = torch.arange(len(places))[:, None].expand_as(places)
    shared = torch.stack([each, places]).flatten(1).unique(dim=1)[1].bincount()  # windows that a number is in
    gain = float(shared.amax()) ** 0.5
    return Turn(torch.ones_like(out), one[:, 0], out, into, gain)


def _rows(places: Tensor, numbers: Tensor, size: int) -> Tensor:
    """Sparse rows with one number each."""
    each = torch.stack([torch.arange(len(places)), places])
    return torch.sparse_coo_tensor(each, numbers, (len(places), size), is_coalesced=True, check_invariants=False)


def _dense(rows: Tensor, together: int) -> Iterator[Tensor]:
    """So many rows at a time."""
    if not rows.is_sparse:
        return iter(rows.split(together))
    return (rows.index_select(0, some).to_dense() for some in torch.arange(len(rows)).split(together))


def _schur(steps: Sequence[Step], step: Step) -> float:
    """‖|L|‖ ≤ (‖L‖₁‖L‖_∞)^½ of an affine step (Schur's test)."""
    assert isinstance(step.does, Affine)
    ones = [torch.ones(steps[r].shape, dtype=torch.float64) for r in step.reads]
    out, pull = torch.func.vjp(step.does.magnitude, *ones)[:2]
    columns = max(float(part.amax()) for part in pull(torch.ones_like(out)))
    return (float(out.amax()) * columns) ** 0.5 * (1 + 1e-9)


def _about(matrix: Tensor) -> float:
    """About ‖matrix‖: no bound is needed of what shares out, but a number above 0."""
    v = matrix.square().sum(0).sqrt()
    for _ in range(_TURNS):
        v = matrix.T @ (matrix @ (v / v.norm().clamp_min(1e-300)))
    return max(float(v.norm()) ** 0.5, 1e-3 * float(matrix.norm()))


__all__ = ["Jacobian"]
