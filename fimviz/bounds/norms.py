"""Guaranteed upper bounds of the operator norms of dense and convolution layers, for weights of any layout.

A convolution is diagonal in frequency: its norm is at most sup_ω ‖K̂(ω)‖ with the symbol
K̂(ω) = Σ_a k[:, :, a] e^{i⟨a, ω⟩} (Sedghi et al. 2019). The supremum is bounded from a grid of N frequencies a
dimension, in one of two ways:

* an image of n pixels with its zeros around it fits into a circular one of N ≥ n + p, of which the grid is exact. The
  grid of n frequencies itself bounds nothing: k = [1, 0, −1] on n = 2 pixels has norm 1, and both its values are 0;
* any grid of N > 2d = k − 1 frequencies, enlarged by 1/cos(πd/N) a dimension: what a trigonometric polynomial of degree
  d can do between its samples (Ehlich & Zeller 1964; half-integer d by doubling the angle).

Strides become channels (space to depth). Results are kept by the content of the weights: an optimiser's or a user's
write into `.data` changes neither their address nor their version. Nothing but numbers is kept.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fimviz.bounds.certify import EXACT, largest_singular_value

_CHUNK = 2**25  # bytes of symbol that are formed at once
_WORK = 3e10  # operations that a layer's grid may cost, unless it needs more to be a grid at all
_GRIDS = (32, 24, 20, 16, 12, 10, 8)  # for a kernel of 3
_KEPT = 4096
_known: OrderedDict[tuple[object, ...], float] = OrderedDict()
_guard = threading.Lock()  # views bound networks on threads of their own


@dataclass(frozen=True)
class Shape:
    """How a convolution reads its input: one entry a spatial dimension.

    Attributes:
        size: pixels of the input, without padding.
        stride, dilation: as in torch.
        before, after: zeros around the input.
        circular: whether the input is repeated instead, so often that the output is as large as the input.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    circular: bool = False


def matrix_norm(weight: Tensor) -> float:
    """An upper bound of the spectral norm of a matrix (m, q), or the largest of a stack (…, m, q).

    Example:
        >>> import torch
        >>> round(matrix_norm(torch.tensor([[3.0, 0.0], [4.0, 0.0]])), 6)
        5.0
    """
    weight = weight.detach().cpu().double()
    return _kept("matrix", weight, (), lambda: largest_singular_value([weight.flatten(0, -3) if weight.ndim > 2
                                                                       else weight[None]]))  # fmt: skip


def conv_norm(weight: Tensor, shape: Shape, groups: int = 1) -> float:
    """An upper bound of the norm of a convolution with weight (out, in / groups, *kernel).

    Example, the zero-padding counter-example, [[0, −1], [1, 0]] as a matrix on two pixels:
        >>> import torch
        >>> from fimviz.bounds.norms import Shape, conv_norm
        >>> round(conv_norm(torch.tensor([[[1.0, 0.0, -1.0]]]), Shape((2,), (1,), (1,), (1,), (1,))), 6)
        1.732051
    """
    weight = weight.detach().cpu().double()
    return _kept("convolution", weight, (shape, groups), lambda: _conv_norm(weight, shape, groups))


def _conv_norm(weight: Tensor, shape: Shape, groups: int) -> float:
    weight = weight.unflatten(0, (groups, -1))
    taps, lengths = [], []
    for axis, (n, s, d, before, after) in enumerate(
        zip(shape.size, shape.stride, shape.dilation, shape.before, shape.after, strict=True)
    ):
        k = weight.shape[3 + axis]
        if s > 1 and d > 1:
            weight = _spread(weight, 3 + axis, d)
            k, d = weight.shape[3 + axis], 1
        blocks = -(-k // s)
        taps.append(blocks)
        if shape.circular:  # exact on the grid of the size, but only if its matrix is the circulant one
            lengths.append(n if s == d == 1 else None)
        elif d > 1:  # the supremum over all frequencies does not see a dilation
            lengths.append(None)
        elif s > 1:
            lengths.append(-(-(n + before + after) // s))
        else:
            lengths.append(max(n + max(before, after), n + before + after - k + 1))
        weight = torch.nn.functional.pad(weight, [0, 0] * (weight.ndim - 4 - axis) + [0, blocks * s - k])
    rank = len(taps)
    parts = [size for pair in zip(taps, shape.stride, strict=True) for size in pair]
    weight = weight.reshape(*weight.shape[:3], *parts)
    order = [0, 1, 2, *range(4, 3 + 2 * rank, 2), *range(3, 3 + 2 * rank, 2)]
    # (groups, out, in · Π strides, Π taps)
    weight = weight.permute(order).flatten(3 + rank).flatten(2, 2 + rank)
    grid, factor = _grid(weight, taps, lengths)
    low, off = _precision(weight, math.prod(grid) == 1)
    stacks = _symbols(weight.to(low), taps, grid)
    return (largest_singular_value(stacks) + off) * factor


def _spread(weight: Tensor, axis: int, dilation: int) -> Tensor:
    """The kernel with its zeros between the taps."""
    size = list(weight.shape)
    size[axis] = (size[axis] - 1) * dilation + 1
    wide = weight.new_zeros(size)
    wide.transpose(0, axis)[::dilation] = weight.transpose(0, axis)
    return wide


def _grid(weight: Tensor, taps: Sequence[int], lengths: Sequence[int | None]) -> tuple[list[int], float]:
    """Frequencies a dimension and the correction factor: the tightest that the work allowed."""
    groups, out, inputs, _ = weight.shape
    r, q = min(out, inputs), max(out, inputs)
    each = groups * (8 * r * r * q + 8 * out * inputs * weight.shape[3] + (400 * r**3 if r <= EXACT else 4 * r**3))
    best: tuple[list[int], float] | None = None
    for n in _GRIDS:
        grid, factor = [], 1.0
        for k, length in zip(taps, lengths, strict=True):
            few = -(-n * max(2, k - 1) // 2) if k > 1 else 1  # one tap has no frequency
            if k > 1 and (length is None or length > few):
                grid.append(few)
                factor /= math.cos(math.pi * (k - 1) / 2 / few)
            else:
                grid.append(1 if k == 1 or length is None else length)
        if best is None or factor < best[1] or math.prod(grid) < math.prod(best[0]):
            best = grid, factor
        if math.prod(grid) * each / 2 <= _WORK:
            break
    assert best is not None
    return best


def _precision(weight: Tensor, single: bool) -> tuple[torch.dtype, float]:
    """Single precision for large symbols, and what that can add to a norm; else double precision."""
    if single or min(weight.shape[1:3]) <= EXACT:
        return torch.float64, float(1e-14 * weight.shape[3] * weight.abs().sum(3).square().sum((1, 2)).amax().sqrt())
    u = torch.finfo(torch.float32).eps / 2
    return torch.float32, float((weight.shape[3] + 8) * u * 2 * weight.abs().sum(3).square().sum((1, 2)).amax().sqrt())


def _symbols(weight: Tensor, taps: Sequence[int], grid: Sequence[int]) -> Iterator[Tensor]:
    """K̂ (f · groups, out, in) at the frequencies of the grid, without those that are conjugates of others."""
    axes = [torch.arange(n, dtype=torch.float64) * (2 * math.pi / n) for n in grid]
    index = torch.cartesian_prod(*(torch.arange(n) for n in grid)).reshape(-1, len(grid))
    mirror = torch.stack([-index[:, i] % n for i, n in enumerate(grid)], 1)
    place = [math.prod(grid[i + 1 :]) for i in range(len(grid))]
    index = index[(index * torch.tensor(place)).sum(1) <= (mirror * torch.tensor(place)).sum(1)]
    omega = torch.stack([axis[index[:, i]] for i, axis in enumerate(axes)], 1)
    where = torch.tensor(list(itertools.product(*(range(k) for k in taps))), dtype=torch.float64).reshape(-1, len(taps))
    angle = where @ omega.T
    cos, sin = angle.cos().to(weight.dtype), angle.sin().to(weight.dtype)
    if cos.shape == (1, 1):
        yield weight[..., 0]
        return
    step = max(1, _CHUNK // (16 * weight[..., 0].numel()))
    for c, s in zip(cos.split(step, 1), sin.split(step, 1), strict=True):
        yield torch.complex(weight @ c, weight @ s).movedim(3, 0).flatten(0, 1)


def _kept(kind: str, weight: Tensor, how: tuple[object, ...], compute: Callable[[], float]) -> float:
    content = hashlib.sha1(weight.contiguous().numpy().data, usedforsecurity=False).digest()
    key = (kind, tuple(weight.shape), content, *how)
    with _guard:
        if key in _known:
            _known.move_to_end(key)
            return _known[key]
    value = compute()
    with _guard:
        _known[key] = value
        if len(_known) > _KEPT:
            _known.popitem(last=False)
    return value
