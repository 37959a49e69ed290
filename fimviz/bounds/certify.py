"""Guaranteed upper bounds of the largest singular value in a stack of matrices, in floating point.

A power iteration approaches the norm from below and is only a guess. What makes the guess a bound is a Cholesky
factorisation: if that of tI − KK* runs to completion, every eigenvalue of KK* is below t plus a rounding term that is
known in advance (Rump 2006, *Verification of positive definiteness*, BIT 46; Higham 2002, *Accuracy and Stability of
Numerical Algorithms*, §3.1, §3.6, thm 10.3). Gram iteration (Delattre et al. 2023), the usual closed way, needs about
six products of r×r matrices a frequency for 5 %; this needs one and a factorisation, and ends within about 1 %.

All that rounds is added to the result, by worst-case formulas: an inner product of q terms is off by at most
qu/(1 − qu) times that of the absolute values, whatever the order of summation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

EXACT = 64  # up to this rank the eigenvalues of the Gram matrix are computed, in double precision
_BLOCK = 512
_LARGE = 2048  # rows from which a single Gram matrix is formed in blocks
_STEPS = 12  # of the power iteration that guesses
_ABOVE = 1.01
_SPARE = 1 + 1e-9  # for the double precision sums, roots and quotients of the formulas themselves


def largest_singular_value(stacks: Iterable[Tensor], above: float = _ABOVE) -> float:
    """An upper bound of the largest spectral norm among the matrices (f, m, q) of all stacks.

    `above`: by how much a guess of the largest eigenvalue is raised before it is tried; less costs more tries.
    """
    top = 0.0
    for stack in stacks:
        if stack.numel():
            top = max(top, _bound(stack if stack.shape[1] <= stack.shape[2] else stack.mH, top, above))
    return top


def _bound(k: Tensor, known: float, above: float) -> float:
    """The same for one stack (f, r, q) with r ≤ q; a result of at most `known` need not be tight.

    In a unit in which the largest entry is about 1: squares of small ones would leave the range of numbers.
    """
    r, q = k.shape[1:]
    if 0 < (size := float(k.abs().amax())) < float("inf"):
        unit = 2.0 ** max(-1000, min(1000, math.frexp(size)[1]))
        if not 2.0**-20 < unit < 2.0**20:
            return _bound(k.double() / unit if not k.is_complex() else k / unit, known / unit, above) * unit
    if r == 1:
        return float(k.abs().double().square().sum(2).amax().sqrt()) * _SPARE
    if r <= EXACT:
        k = k.to(torch.complex128 if k.is_complex() else torch.float64)
    if len(k) == 1 and r > _LARGE and not k.is_complex():
        gram, off = _large_gram(k[0])
    else:
        # A complex product rounds its real and imaginary parts, of 2q terms each: twice 2(q + 2)u covers both.
        gram, off = k @ k.mH, (4 if k.is_complex() else 1) * (q + 4) * torch.finfo(k.dtype).eps / 2
    u, wide = torch.finfo(gram.dtype).eps / 2, 4 if k.is_complex() else 1
    frobenius = float(gram.diagonal(dim1=1, dim2=2).real.double().sum(1).amax()) / (1 - 2 * off)
    if not frobenius < float("inf"):
        raise OverflowError("the weights of a layer are infinite, NaN or too large to be squared")
    if frobenius == 0:
        return 0.0
    rounding = off / (1 - off) * frobenius
    if r <= EXACT:
        value = float(torch.linalg.eigvalsh(gram).amax()) + 64 * r * u * frobenius
    else:
        # Margins must not pile up from stack to stack: what was known is tried without those that are added here.
        value = _certified(gram, (known / _SPARE) ** 2 - rounding, wide * (r + 8) * u, above)
    return (value + rounding) ** 0.5 * _SPARE


def _large_gram(k: Tensor) -> tuple[Tensor, float]:
    """KKᵀ (1, r, r) and how far off it is, in units of ‖K‖_F²: single precision products, double precision sums.

    Twice as fast as double precision alone, and the error is that of a product of `_BLOCK` columns. What lies above
    the diagonal is that below it.
    """
    gram = torch.zeros(len(k), len(k), dtype=torch.float64)
    for columns in k.split(_BLOCK, 1):
        part = columns.float()
        for i in range(0, len(k), _BLOCK):
            gram[i : i + _BLOCK, : i + _BLOCK] += part[i : i + _BLOCK] @ part[: i + _BLOCK].T
    for i in range(0, len(k), _BLOCK):
        gram[: i + _BLOCK, i : i + _BLOCK] = gram[i : i + _BLOCK, : i + _BLOCK].T
    # Two units more for the weights' own conversion, on either side.
    return gram[None], (_BLOCK + 8) * torch.finfo(torch.float32).eps / 2


def _certified(gram: Tensor, known: float, unit: float, above: float) -> float:
    """A t above every eigenvalue of the matrices of the stack, of which the factorisations are the proof."""
    if unit * gram.shape[1] > 0.1:  # the rounding term would be felt
        unit *= torch.finfo(torch.float64).eps / torch.finfo(gram.dtype).eps
        gram = gram.to(torch.complex128 if gram.is_complex() else torch.float64)
    trace = gram.diagonal(dim1=1, dim2=2).real.double().sum(1)
    added = 1 + unit * (gram.shape[1] + 2)
    top = min(max(above * float(_guess(gram).amax()), known / added), float(trace.amax()))
    left = torch.arange(len(gram))
    while len(left):
        shifted = -gram[left]
        shifted.diagonal(dim1=1, dim2=2).add_(top)
        info = torch.linalg.cholesky_ex(shifted)[1]
        left = left[info != 0]
        if len(left):
            top *= 2 * above - 1
    # The diagonal t − g was rounded once more; the trace of tI − G is at most r t.
    return top * added


def _guess(gram: Tensor) -> Tensor:
    """What a few steps of subspace iteration say of every λ_max (f,): from below, and no bound."""
    seed = torch.Generator().manual_seed(0)
    v = torch.randn(gram.shape[1], 4, generator=seed).to(gram).expand(len(gram), -1, -1)
    for _ in range(_STEPS):
        v = gram @ v
        v = v / v.abs().amax((1, 2), keepdim=True).clamp_min(1e-30)
    q = torch.linalg.qr(v).Q
    return torch.linalg.eigvalsh(q.mH @ gram @ q)[:, -1].double()
