"""Rules for pooling: what a window's elements become, and in how many windows one element can be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as tf

from fimviz.bounds.active import numbered, patches
from fimviz.bounds.flow import Flow, NoBoundError, NoRuleError, Step, log
from fimviz.bounds.layers import many
from fimviz.bounds.norms import matrix_norm
from fimviz.bounds.rules import patient, rule

MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVG_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def _windows(n: int, k: int, s: int, d: int) -> int:
    """In how many windows an input of n pixels can be: of an output of any length."""
    return max(1, min(k, -(-(d * (k - 1) + 1) // s)))


@patient
@rule(*MAX_POOLS)
def _max_pool(step: Step, x: Flow) -> Flow:
    m = step.op
    return max_pool(step, x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices)


@patient
@rule(tf.max_pool1d, tf.max_pool2d, tf.max_pool3d, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d)
def max_pool(step: Step, x: Flow, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
             ceil_mode: bool = False, return_indices: bool = False) -> Flow:  # fmt: skip
    """One input wins in at most ⌈k/s⌉ windows a dimension; every output copies one input: √Π⌈k/s⌉."""
    if return_indices:
        raise NoRuleError("max pooling that returns its indices too: write a rule for the module that uses them")
    spatial = len(x.shape) - 2
    k, d = many(kernel_size, spatial), many(dilation, spatial)
    s = k if stride is None or stride == [] else many(stride, spatial)
    wins = [_windows(n, *ksd) for n, *ksd in zip(x.shape[2:], k, s, d, strict=True)]
    if x.value is None or x.shape[0] != 1:
        gain = math.sqrt(math.prod(wins))
        return x.settled().channelwise(gain, "√Π⌈k/s⌉: the windows that one pixel can win", kind="max pooling")
    return _chosen(step, x, k, s, d, many(padding, spatial))


def _chosen(step: Step, x: Flow, k: Sequence[int], s: Sequence[int], d: Sequence[int], pad: Sequence[int]) -> Flow:
    """At x it is known which elements can win: those no further below the largest of a window than rounding."""
    assert x.value is not None
    extent = [(o - 1) * si + di * (ki - 1) + 1 for o, ki, si, di in zip(step.output.shape[2:], k, s, d, strict=True)]
    after = [max(0, r - n - p) for r, n, p in zip(extent, x.shape[2:], pad, strict=True)]
    numbers = numbered(x.shape[1:], pad, after)
    numbers = numbers[(slice(None), *(slice(r) for r in extent))]
    at = patches(numbers, k, s, d) - 1  # (channels, windows, taps)
    values = torch.cat([x.value.cpu().double().flatten(), torch.tensor([-torch.inf], dtype=torch.float64)])[at]
    can = (at >= 0) & ~(values < values.amax(2, keepdim=True) - 2 * x.off)
    if x.on is not None:
        can &= torch.cat([x.on.flatten(), torch.tensor([False])])[at]
    wins = torch.bincount(at[can], minlength=math.prod(x.shape))
    taps = can.nonzero(as_tuple=True)

    def lift(slopes: Tensor) -> Tensor:
        """Slopes of the windows as slopes of the elements that can win them."""
        of = slopes.view(can.shape[:2])[taps[0], taps[1]]
        return torch.zeros(len(wins), dtype=torch.float64).scatter_reduce(0, at[can], of, "amax")

    gain = math.sqrt(int(wins.amax()))
    out = x.channelwise(gain, "the root of how many windows one pixel can win at x", kind="max pooling")
    terms = x.terms and tuple(t.pooled((wins > 0).double(), lift, log(gain)) for t in x.terms)
    return replace(out, on=can.any(2).view(step.output.shape), terms=terms)


@rule(*AVG_POOLS)
def _avg_pool(step: Step, x: Flow) -> Flow:
    m = step.op
    return avg_pool(step, x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad,
                    getattr(m, "divisor_override", None))  # fmt: skip


@rule(tf.avg_pool1d, tf.avg_pool2d, tf.avg_pool3d)
def avg_pool(step: Step, x: Flow, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
             count_include_pad: bool = True, divisor_override: int | None = None) -> Flow:  # fmt: skip
    """A product of one small matrix a dimension, whose norms are computed."""
    spatial = len(x.shape) - 2
    k, p = many(kernel_size, spatial), many(padding, spatial)
    s = k if stride is None or stride == [] else many(stride, spatial)
    gain = 1.0
    for n, ki, si, pi in zip(x.shape[2:], k, s, p, strict=True):
        if n > 2048:  # √(largest row sum · largest column sum)
            least = ki if pi == 0 and not ceil_mode else 1
            gain *= math.sqrt(_windows(n, ki, si, 1) * (ki if divisor_override else 1 / least))
            continue
        matrix = tf.avg_pool2d(torch.eye(n, dtype=torch.float64)[:, None, :, None], (ki, 1), (si, 1), (pi, 0),
                               ceil_mode, count_include_pad, 1 if divisor_override else None)  # fmt: skip
        gain *= matrix_norm(matrix[:, 0, :, 0])
    gain /= abs(divisor_override or 1)
    out = x.channelwise(gain, "a product of exact one-dimensional norms", kind="average pooling")
    return _averaged(x, out, lambda t: _AVERAGES[spatial](t, k, s, p, ceil_mode))


_AVERAGES: dict[int, Any] = {1: tf.avg_pool1d, 2: tf.avg_pool2d, 3: tf.avg_pool3d}


def _averaged(x: Flow, out: Flow, average: Callable[[Tensor], Tensor]) -> Flow:
    """An average can react where one of its elements can."""
    return out if x.on is None else replace(out, on=average(x.on.double()) > 0)


@rule(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
def _adaptive_avg(step: Step, x: Flow) -> Flow:
    return adaptive_avg_pool(step, x, step.op.output_size)


@rule(tf.adaptive_avg_pool1d, tf.adaptive_avg_pool2d, tf.adaptive_avg_pool3d)
def adaptive_avg_pool(step: Step, x: Flow, output_size: Any = None) -> Flow:
    """As average pooling, with windows of several sizes."""
    gain = math.prod(matrix_norm(adaptive(n, m)) for n, m in zip(x.shape[2:], step.output.shape[2:], strict=True))
    out = x.channelwise(gain, "a product of exact one-dimensional norms", kind="average pooling")
    kind: Any = (tf.adaptive_avg_pool1d, tf.adaptive_avg_pool2d, tf.adaptive_avg_pool3d)[len(x.shape) - 3]
    return _averaged(x, out, lambda t: kind(t, tuple(step.output.shape[2:])))


def adaptive(n: int, m: int) -> Tensor:
    """The matrix (n, m) that averages n pixels into m."""
    return tf.adaptive_avg_pool1d(torch.eye(n, dtype=torch.float64)[:, None], m)[:, 0]


@rule(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
def _adaptive_max(step: Step, x: Flow) -> Flow:
    if isinstance(step.output, tuple):
        raise NoRuleError("max pooling that returns its indices too: write a rule for the module that uses them")
    wins = [int((adaptive(n, m) > 0).sum(1).amax()) for n, m in zip(x.shape[2:], step.output.shape[2:], strict=True)]
    return x.channelwise(math.sqrt(math.prod(wins)), "√Π windows that one pixel can win", kind="max pooling")


@rule(tf.adaptive_max_pool1d, tf.adaptive_max_pool2d, tf.adaptive_max_pool3d)
def _adaptive_max_function(step: Step, x: Flow, output_size: Any = None, return_indices: bool = False) -> Flow:
    return _adaptive_max(step, x)


@rule(nn.LPPool1d, nn.LPPool2d)
def _lp_pool(step: Step, x: Flow) -> Flow:
    """‖∇‖u‖_p‖₂ = ‖·‖₂ of a vector of norm 1 in the dual norm p/(p − 1) ≤ 2: at most 1 for even p."""
    m, spatial = step.op, len(x.shape) - 2
    k = many(m.kernel_size, spatial)
    s = k if m.stride is None else many(m.stride, spatial)
    p = float(m.norm_type)
    if p != 1 and (p < 2 or p % 2):
        raise NoBoundError(f"LP pooling with the power {p:g} is steep without limit where a window's powers cancel")
    wins = math.prod(_windows(n, ki, si, 1) for n, ki, si in zip(x.shape[2:], k, s, strict=True))
    # torch averages what is inside the image of a window that ceil_mode clips, and multiplies by the full size.
    inside = [min(ki, n - (o - 1) * si) for n, o, ki, si in zip(x.shape[2:], step.output.shape[2:], k, s, strict=True)]
    up = math.prod(k) / math.prod(inside)
    gain = math.sqrt(wins) * (up * math.sqrt(math.prod(inside)) if p == 1 else up ** (1 / p))
    return x.channelwise(gain, "√Π⌈k/s⌉ times the dual norm of a window's gradient", kind="LP pooling")
