"""Functions of one number between two lines, over an interval.

Both lines take the slope, of a few, that leaves the least area between line and function: what a line is at the middle
of the interval, times its width. Their heights are found on a grid with the function's kinks in it. Between two of its
points, f(t) − st is at most bend · h²/8 above the larger end and below the smaller one, where bend is a bound of |f″|:
so the lines hold everywhere, and for functions of straight pieces they touch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as tf

_POINTS = 16  # of the grid, for functions that are not of straight pieces
_ROUNDING = 64 * torch.finfo(torch.float64).eps  # of a function, and of a line's height


@dataclass(frozen=True)
class Curve:
    """A function of one number.

    Attributes:
        run: the function.
        kinks: where its slope jumps.
        bend: a bound of its second derivative between them; 0 for straight pieces.
        jump: how far it may be off where formulas meet.
    """

    run: Callable[[Tensor], Tensor]
    kinks: tuple[float, ...] = ()
    bend: float = 0.0
    jump: float = 0.0


def _points(curve: Curve, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """A grid (points, …) with kinks, in order, and half of the largest error between its points for a bend of 1."""
    shares = torch.linspace(0, 1, 2 if curve.bend == 0 else _POINTS, dtype=low.dtype)
    grid = low + (high - low) * shares.view(-1, *[1] * low.ndim)
    grid[-1] = high
    kinks = [low.new_full((), k).clamp(low, high)[None] for k in curve.kinks]
    step = (high - low) / (len(shares) - 1)
    return torch.cat([grid, *kinks]), step.square() / 8


Lines = tuple[Tensor, Tensor, Tensor, Tensor]  # slope and height of the line below, and of that above


def between(curve: Curve, low: Tensor, high: Tensor) -> tuple[Lines, Lines]:
    """The lines around a function on [low, high], tensors of one shape; and the two that are parallel to its chord."""
    grid, gap = _points(curve, low, high)
    f = curve.run(grid)
    off = curve.bend * gap * (1 + 1e-9) + curve.jump
    far, middle = torch.maximum(low.abs(), high.abs()), low + (high - low) / 2
    size = _size(curve, f, far)

    def along(slope: Tensor) -> Lines:
        rest = f - slope * grid
        more = off + _ROUNDING * (size + slope.abs() * far)  # f, the product, the difference, and the line's own value
        return slope, rest.amin(0) - more, slope, rest.amax(0) + more

    chord, *others = _slopes(curve, grid, f)
    best = first = along(chord)
    for slope in others:
        best = _tighter(best, along(slope), middle)
    return best, first


def _slopes(curve: Curve, grid: Tensor, f: Tensor) -> list[Tensor]:
    """Slopes to choose from: the chord's, chords' to kinks, and the pieces' or the curve's at the ends and between."""
    tiny = torch.finfo(grid.dtype).tiny
    count = 2 if curve.bend == 0 else _POINTS
    places = [0, count - 1, *range(count, len(grid))]
    pairs = [(a, b) for i, a in enumerate(places) for b in places[i + 1 :]]
    if curve.bend:  # next to an end, at its quarters
        pairs += [(0, 1), (count - 2, count - 1), *((i, i + 1) for i in (count // 4, count // 2 - 1, 3 * count // 4))]
    found = []
    for a, b in pairs:
        run = grid[b] - grid[a]
        found.append(torch.where(run.abs() > tiny, (f[b] - f[a]) / torch.where(run == 0, 1.0, run), 0.0))
    return [torch.where(s.isfinite(), s, 0.0) for s in found]


def _tighter(a: Lines, b: Lines, at: Tensor) -> Lines:
    lower, upper = b[0] * at + b[1] > a[0] * at + a[1], b[2] * at + b[3] < a[2] * at + a[3]
    pairs = zip((lower, lower, upper, upper), a, b, strict=True)
    return tuple(torch.where(better, new, old) for better, old, new in pairs)  # type: ignore[return-value]


def extent(curve: Curve, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest value on [low, high], from outside."""
    grid, gap = _points(curve, low, high)
    f = curve.run(grid)
    size = _size(curve, f, torch.maximum(low.abs(), high.abs()))
    off = curve.bend * gap * (1 + 1e-9) + curve.jump + _ROUNDING * size
    return f.amin(0) - off, f.amax(0) + off


def _size(curve: Curve, f: Tensor, far: Tensor) -> Tensor:
    """What the rounding of a function is in units of: t · ½(1 + erf t) and the like cancel to less than |t|."""
    return f.abs().amax(0) + (far if curve.bend else 0.0)


def slopes(curve: Curve, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest slope on [low, high], from outside."""
    grid = _points(curve, low, high)[0].sort(0).values
    middles, widths = grid[:-1] + (grid[1:] - grid[:-1]) / 2, grid[1:] - grid[:-1]
    with torch.enable_grad():
        middles = middles.detach().requires_grad_()
        slope = torch.autograd.grad(curve.run(middles).sum(), middles)[0]
    far = torch.maximum(low.abs(), high.abs())
    off = curve.bend * widths / 2 * (1 + 1e-9) + _ROUNDING * (slope.abs() + curve.bend * (1 + far))
    return (slope - off).amin(0), (slope + off).amax(0)


def _hardtanh(low: float = -1.0, high: float = 1.0) -> Curve:
    return Curve(lambda t: tf.hardtanh(t, low, high), (low, high))


def _clamp(low: float | None = None, high: float | None = None) -> Curve | None:
    kinks = tuple(float(k) for k in (low, high) if isinstance(k, (int, float)))
    return Curve(lambda t: t.clamp(low, high), kinks) if kinks else None


def _elu(alpha: float = 1.0, scale: float = 1.0, inner: float = 1.0) -> Curve:
    bend = abs(alpha * scale) * inner**2
    return Curve(lambda t: torch.ops.aten.elu(t, alpha, scale, inner), (0.0,), bend)


def _softplus(beta: float = 1.0, threshold: float = 20.0) -> Curve | None:
    if beta <= 0:  # torch takes it, and what it gives jumps at the threshold
        return None
    return Curve(
        lambda t: tf.softplus(t, beta, threshold), (threshold / beta,), beta / 4, 2 * math.exp(-threshold) / beta
    )


def _gelu(approximate: str = "none") -> Curve:
    return Curve(lambda t: tf.gelu(t, approximate=approximate), (), 1.2 if approximate == "none" else 1.3)


def _pow(exponent: float) -> Curve | None:
    return Curve(torch.square, (0.0,), 2.0) if exponent == 2 else None


CURVES: dict[str, Callable[..., Curve | None]] = {
    "relu": lambda: Curve(torch.relu, (0.0,)),
    "leaky_relu": lambda slope=0.01: Curve(lambda t: tf.leaky_relu(t, slope), (0.0,)),
    "abs": lambda: Curve(torch.abs, (0.0,)),
    "relu6": lambda: Curve(tf.relu6, (0.0, 6.0)),
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "clamp_min": lambda low: _clamp(low),
    "hardswish": lambda: Curve(tf.hardswish, (-3.0, 3.0), 1 / 3),
    "hardsigmoid": lambda: Curve(tf.hardsigmoid, (-3.0, 3.0)),
    "tanh": lambda: Curve(torch.tanh, (), 0.77),
    "sigmoid": lambda: Curve(torch.sigmoid, (), 0.0963),
    "softplus": _softplus,
    "silu": lambda: Curve(tf.silu, (), 0.5),
    "gelu": _gelu,
    "elu": _elu,
    "pow": _pow,
    "square": lambda: _pow(2),
}
"""By ATen's names, from the arguments behind the tensor; None for arguments that this knows no curve for.

|tanh″| ≤ 4/(3√3) = 0.7698…, |σ″| ≤ 1/(6√3) = 0.09623, |silu″| ≤ ½ and |gelu″| ≤ 2φ(0) = 0.7979 at 0.
"""


__all__ = ["CURVES", "Curve", "between", "extent", "slopes"]
