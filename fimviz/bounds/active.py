"""Norms over the units that react at one input: what a ReLU has switched off takes no part.

Behind an activation the Jacobian is diag(s) A diag(1_on) J_u: A is the layer before it, s holds the slopes at x, and
the columns of A that read units which are off are left out. Its norm, ‖diag(s) A diag(1_on)‖ ‖J_u‖ at most, is that of
a smaller matrix, written down with its zeros where that fits. The bound of the largest eigenvalue t of its Gram
matrix G is certified by a Cholesky factorisation of tI − G, as in `fimviz.bounds.certify`: units in the order of their
place in the image make G a band. Where no two windows of a convolution overlap, as in one of 1×1, A falls into a small
matrix for every place, and its norm is the largest of theirs. A layer that is too large for either leaves out the
channels that are off throughout.

A unit counts as off only if rounding cannot switch it on: `Flow.off` is how far a value may be off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as tf

from fimviz.bounds.certify import largest_singular_value

_WORK = 4e9  # operations that a factorisation may cost; larger layers keep the norm of all units
_CHUNK = 2**22  # numbers of blocks that are formed at once
_ENTRIES = 2e7  # of a matrix
_PAIRS = 5e8  # products of entries, one by one, that a sparse Gram matrix may cost
_SLOWER = 30  # times that one of these takes, of one in a dense product
_ABOVE = 1.004  # by how much a guess of the largest eigenvalue is raised before it is tried
_SPARE = 1 + 1e-9  # for the double precision sums, roots and quotients of the formulas themselves
_U = 2.0**-53
NOTHING = -np.inf
Rows = Callable[[np.ndarray, np.ndarray], Any]
Blocks = Callable[[np.ndarray, np.ndarray], Iterator[Tensor]]


@dataclass(eq=False)
class Layer:
    """A layer with weights as a matrix A.

    Attributes:
        rows: gives rows of A, by their numbers and times factors, with all columns; a number is a unit's place.
        entries: how many numbers a row has.
        outputs, inputs: (channels, places) of the two tensors.
        groups: of channels that read nothing of each other.
        blocks: gives the matrices that diag(slopes) A diag(on) falls into, in stacks; None where windows overlap.
        remaining: the norm of the layer with some output and some input channels alone (two masks); None where that
            costs as much as the units themselves.
    """

    rows: Rows
    entries: int
    outputs: tuple[int, int]
    inputs: tuple[int, int]
    groups: int = 1
    blocks: Blocks | None = None
    remaining: Callable[[np.ndarray, np.ndarray], float] | None = None

    def norm(self, slopes: np.ndarray) -> Callable[[np.ndarray], float] | None:
        """Of diag(slopes) A diag(on), a function of `on`; None where A is too large."""
        small, large = sorted((self.outputs[0] // self.groups, self.entries))
        if (blocks := self.blocks) is not None and self.outputs[1] * self.groups * small**2 * large <= _WORK:
            return lambda on: largest_singular_value(blocks(slopes, on), _ABOVE)
        rows = _by_place(slopes != 0, self.outputs[0], self.groups)
        if max(len(rows), self.outputs[1]) * self.entries > _ENTRIES:
            return None
        matrix = self.rows(rows, slopes[rows])
        return lambda on: norm(matrix[:, _by_place(on, self.inputs[0], self.groups)])


@dataclass(eq=False)
class Read:
    """A layer with weights, and the bounds of what it reads.

    Attributes:
        layer: A.
        on: (inputs,) which units react; None for all.
        parts: columns that are bounded apart, as how many channels each has.
        logs: ln of a bound of every part.
        base: ln of a bound of all inputs.
    """

    layer: Layer
    on: Tensor | None
    parts: Sequence[int]
    logs: Sequence[float]
    base: float

    def bound(self, slopes: Tensor | None) -> float:
        """The logarithm of a bound on the norm of diag(slopes) A diag(on) J; infinite where it would cost too much.

        A layer that is too large to be written down is bounded without the channels that are off throughout.
        """
        places = self.layer.inputs[1]
        s = np.ones(math.prod(self.layer.outputs)) if slopes is None else slopes.numpy()
        on = np.ones(math.prod(self.layer.inputs), dtype=bool) if self.on is None else self.on.numpy()
        if not s.any() or not on.any():
            return NOTHING
        norm_of = self.layer.norm(s)
        if norm_of is None:
            return self._by_channel(s, on)
        whole = _log(norm_of(on)) + self.base
        if whole == np.inf:
            whole = self._by_channel(s, on)
        if len(self.parts) < 2:
            return whole
        owner = np.repeat(np.arange(len(self.parts)), np.array(self.parts) * places)
        each = [a + _log(norm_of(on & (owner == i))) for i, a in enumerate(self.logs)]
        return min(whole, float(np.logaddexp.reduce(each)))

    def _by_channel(self, slopes: np.ndarray, on: np.ndarray) -> float:
        out = np.count_nonzero(slopes.reshape(self.layer.outputs[0], -1), axis=1) > 0
        read = np.count_nonzero(on.reshape(self.layer.inputs[0], -1), axis=1) > 0
        if self.layer.remaining is None or (out.all() and read.all()):
            return np.inf
        return _log(float(slopes.max())) + _log(self.layer.remaining(out, read)) + self.base


@dataclass(eq=False)
class Term:
    """One summand of a tensor's Jacobian: a layer behind what has filtered its outputs since.

    Attributes:
        plain: ln of its bound by the norms of all units.
        reads: ways to bound it by the units that react, of which the best counts.
        slopes: (outputs of the layer) the largest slope that each has met; None for 1.
        gain: ln of what came behind, such as a pool.
        lift: what slopes of the tensor as it is are slopes of in the layer's outputs; None for the same.
    """

    plain: float
    reads: tuple[Read, ...] = ()
    slopes: Tensor | None = None
    gain: float = 0.0
    lift: Callable[[Tensor], Tensor] | None = None

    def filtered(self, slopes: Tensor) -> Term:
        """Behind slopes of at most these sizes, of the shape of the tensor."""
        most = float(slopes.amax()) if slopes.numel() else 0.0
        if not self.reads:
            return Term(self.plain + _log(most))
        own = slopes.flatten() if self.lift is None else self.lift(slopes.flatten())
        own = own if self.slopes is None else self.slopes * own
        return Term(self.plain + _log(most), self.reads, own, self.gain, self.lift)

    def louder(self, gain: float) -> Term:
        """Behind a map of at most this norm, as a logarithm, that does not mix its elements."""
        return Term(self.plain + gain, self.reads, self.slopes, self.gain + gain, self.lift)

    def pooled(self, chosen: Tensor, lift: Callable[[Tensor], Tensor], gain: float) -> Term:
        """Behind a choice among elements, of which those not `chosen` anywhere are lost."""
        kept = self.filtered(chosen)
        before = kept.lift
        both = lift if before is None else (lambda s: before(lift(s)))
        return Term(kept.plain + gain, kept.reads, kept.slopes, kept.gain + gain, both)

    @cached_property
    def bound(self) -> float:
        """The better bound; the norms are computed when it is first asked for."""
        idle = self.slopes is None or bool((self.slopes == 1).all())
        found = [r.bound(self.slopes) + self.gain for r in self.reads if not (idle and r.on is None)]
        return min([self.plain, *found])


def linear_rows(weight: Tensor) -> Rows:
    """Rows of a dense layer."""
    matrix = weight.cpu().numpy()
    return lambda rows, factors: factors[:, None] * matrix[rows]


def conv_rows(weight: Tensor, read: Callable[[], Tensor], groups: int, inputs: int) -> Rows:
    """Rows of the matrix of a convolution with weight (out, in / groups, *kernel) on so many inputs.

    `read` gives (in, places, taps), which input, counted from 1, every tap reads; 0 is a zero.
    """
    out, each = weight.shape[:2]
    flat = weight.flatten(1).cpu().numpy()

    def rows(numbers: np.ndarray, factors: np.ndarray) -> Any:
        from scipy.sparse import csr_array

        at = read().numpy()
        at = at.reshape(groups, each, *at.shape[1:]).transpose(0, 2, 1, 3).reshape(groups, at.shape[1], -1)
        channel, place = np.divmod(numbers, at.shape[1])
        index = at[channel // (out // groups), place]
        values = np.where(index > 0, flat[channel], 0.0) * factors[:, None]
        starts = np.arange(len(numbers) + 1) * index.shape[1]
        entries = values.ravel(), np.maximum(index - 1, 0).ravel(), starts
        matrix = csr_array(entries, shape=(len(numbers), inputs))
        matrix.sum_duplicates()  # a pixel that is padded with copies is read more than once
        return matrix

    return rows


def conv_blocks(weight: Tensor, read: Callable[[], Tensor], groups: int) -> Blocks:
    """A matrix for every place and group of a convolution whose windows do not overlap: (n, out / groups, taps).

    `read` as in `conv_rows`.
    """
    flat = weight.cpu().flatten(1).unflatten(0, (groups, -1))

    def blocks(slopes: np.ndarray, on: np.ndarray) -> Iterator[Tensor]:
        at = read()
        reacts = torch.cat([torch.zeros(1, dtype=torch.bool), torch.from_numpy(on)])[at]
        columns = reacts.unflatten(0, (groups, -1)).permute(2, 0, 1, 3).flatten(2)
        rows = torch.from_numpy(slopes).view(groups, flat.shape[1], -1).permute(2, 0, 1)
        step = max(1, _CHUNK // flat.numel())
        pairs = zip(rows.split(step), columns.split(step), strict=True)
        return ((r[..., None] * flat * c[..., None, :]).flatten(0, 1) for r, c in pairs)

    return blocks


def patches(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """(channels, *padded) → (channels, places, taps): what every window of a padded tensor holds."""
    for axis, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True), 1):
        x = x.unfold(axis, d * (k - 1) + 1, s)[..., ::d]
    return x.flatten(1, len(kernel)).flatten(2)


def numbered(shape: Sequence[int], before: Sequence[int], after: Sequence[int], mode: str = "constant") -> Tensor:
    """The elements' numbers, from 1, of a tensor (channels, *space) with what is padded around it; zeros are 0."""
    numbers = torch.arange(1, int(np.prod(shape)) + 1, dtype=torch.float64).view(1, *shape)
    around = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
    return (tf.pad(numbers, around, mode) if any(around) else numbers)[0].long()


def norm(matrix: Any) -> float:
    """An upper bound of the spectral norm of a sparse or dense matrix; infinite where it would cost too much.

    Example:
        >>> import scipy.sparse
        >>> round(norm(scipy.sparse.csr_array([[3.0, 0.0], [4.0, 0.0]])), 6)
        5.0
    """
    if isinstance(matrix, np.ndarray):
        small, large = sorted(matrix.shape)
        if small**2 * large > 2 * _WORK:
            return float("inf")
        return largest_singular_value([torch.from_numpy(np.ascontiguousarray(matrix))[None]])
    matrix.eliminate_zeros()
    if not matrix.nnz:
        return 0.0
    tall = matrix.T.tocsr()
    work, thin = min((_band(m) ** 2 * m.shape[1], i) for i, m in enumerate((matrix, tall)))
    m = (matrix, tall)[thin]
    pairs = float((np.diff(m.indptr).astype(float) ** 2).sum())
    small, large = sorted(matrix.shape)
    if _SLOWER * pairs > small**2 * large and small**2 * large < _WORK:
        return norm(matrix.toarray())
    if work > _WORK or pairs > _PAIRS:
        return float("inf")
    # the Gram matrix MᵀM of the columns is a band as wide as a row of M reaches
    return _certified(m)


def _band(matrix: Any) -> int:
    """How far apart the columns of a row are, at most."""
    rows = np.diff(matrix.indptr) > 0
    starts = matrix.indptr[:-1][rows]
    return int((np.maximum.reduceat(matrix.indices, starts) - np.minimum.reduceat(matrix.indices, starts)).max())


def _certified(matrix: Any) -> float:
    """‖M‖ from above: t of which tI − MᵀM has a Cholesky factorisation, with what rounding may have hidden."""
    from scipy.linalg import cholesky_banded
    from scipy.sparse import tril

    gram = tril(matrix.T @ matrix).tocoo()
    n = gram.shape[0]
    i, j = gram.coords
    band = int((i - j).max())
    lower = np.zeros((band + 1, n))
    lower[i - j, j] = -gram.data
    frobenius = float((matrix.data**2).sum())
    terms = int(np.bincount(matrix.indices).max())
    rounding = 2 * (terms + 4) * _U * frobenius
    t = _ABOVE * _guess(matrix, -lower[0].min())
    if not np.isfinite(t):
        raise OverflowError("the weights of a layer are infinite, NaN or too large to be squared")
    while True:
        shifted = lower.copy()
        shifted[0] += t
        try:
            cholesky_banded(shifted, overwrite_ab=True, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            t *= 1.01
            continue
        # Inner products of at most band + 1 terms; the trace of tI − G is at most n t (see `certify`).
        return float((t * (1 + (band + 9) * _U * (n + 2)) + rounding) ** 0.5 * _SPARE)


def _guess(matrix: Any, least: float) -> float:
    """The largest eigenvalue of MᵀM from below: no bound, and where to begin."""
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    if min(matrix.shape) < 12:
        return max(least, float(np.linalg.norm(matrix.toarray(), 2)) ** 2)
    size = (matrix.shape[1],) * 2
    operator = LinearOperator(size, lambda v: matrix.T @ (matrix @ v), dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(matrix.shape[1])
    try:
        found = eigsh(operator, 1, v0=start, tol=1e-3, maxiter=60, return_eigenvectors=False)
        return max(least, float(found[0]))
    except ArpackError:
        return least


def _by_place(on: np.ndarray, channels: int, groups: int) -> np.ndarray:
    """The numbers of the units that are on, group by group, those of one place side by side."""
    order = np.arange(on.size).reshape(groups, channels // groups, -1).transpose(0, 2, 1).ravel()
    return order[on[order]]


def _log(x: float) -> float:
    return float(np.log(x)) if x > 0 else NOTHING


__all__ = ["Layer", "Read", "Term", "conv_blocks", "conv_rows", "linear_rows", "norm", "numbered", "patches"]
