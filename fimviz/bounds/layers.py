"""Rules for layers with weights, batch normalisation and pooling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as tf

from fimviz.bounds.flow import Flow, NoBoundError, NoRuleError, Step, log, log_sum
from fimviz.bounds.norms import Shape, conv_norm, matrix_norm
from fimviz.bounds.rules import rule

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVG_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def folded(weight: Tensor, scale: Tensor | None, axis: int = 0) -> Tensor:
    """The weight in double precision behind a diagonal on its outputs."""
    weight = weight.detach().double()
    if scale is None:
        return weight
    return weight * scale.to(weight).view(*[-1 if i == axis else 1 for i in range(weight.ndim)])


@rule(nn.Linear)
def _linear(step: Step, x: Flow) -> Flow:
    return linear(step, x, step.op.weight, step.op.bias)


@rule(tf.linear)
def linear(step: Step, x: Flow, weight: Tensor, bias: Tensor | None = None) -> Flow:
    """Wx + b along the last axis: ‖W‖, the same for every token."""
    if isinstance(weight, Flow):
        raise NoRuleError("a linear layer whose weight depends on the input: write a rule for the module that holds it")
    last = len(x.shape) - 1
    scale = step.following if last == 1 else None
    weight = folded(weight, scale)
    up = log(matrix_norm(weight))
    total = x.weighted(last, weight, matrix_norm)
    grid = None
    if x.grid is not None and last > 0 and x.grid.shape[-1] == 1:
        grid = x.grid + up
    reach = None
    if x.reach is not None and x.reach[1] in (-1, last):
        offset = 0.0 if bias is None else float(bias.detach().double().norm())
        reach = (log_sum([up + x.reach[0], log(offset)]) + 1e-12, last)
    note = ("linear", up, "‖W‖, certified" + _batch_norm_words(scale))
    return Flow(total, grid=grid, reach=reach, normed=scale is not None, note=note)


def _batch_norm_words(scale: Tensor | None) -> str:
    return "" if scale is None else ", with the batch normalisation that follows in W"


@rule(*CONVS)
def _conv(step: Step, x: Flow) -> Flow:
    m = step.op
    spatial = len(m.kernel_size)
    gain = 1.0
    if isinstance(m.padding, str):
        around = [d * (k - 1) if m.padding == "same" else 0 for d, k in zip(m.dilation, m.kernel_size, strict=True)]
        before = [p // 2 for p in around]
        after = [p - b for p, b in zip(around, before, strict=True)]
    else:
        before = after = list(m.padding)
    size = list(x.shape[-spatial:])
    circular = False
    if m.padding_mode != "zeros" and any(before + after):
        circular = m.padding_mode == "circular" and all(
            s == 1 and b + a == d * (k - 1)
            for s, b, a, d, k in zip(m.stride, before, after, m.dilation, m.kernel_size, strict=True)
        )
        if not circular:
            gain = math.prod(_padding_gain(n, b, a, m.padding_mode)
                             for n, b, a in zip(size, before, after, strict=True))  # fmt: skip
            size = [n + b + a for n, b, a in zip(size, before, after, strict=True)]
            before = after = [0] * spatial
    shape = Shape(tuple(size), tuple(m.stride), tuple(m.dilation), tuple(before), tuple(after), circular)
    return _convolved(step, x, m.weight, shape, m.groups, gain)


@rule(tf.conv1d, tf.conv2d, tf.conv3d, torch.conv1d, torch.conv2d, torch.conv3d)
def _conv_function(step: Step, x: Flow, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
                   dilation: Any = 1, groups: int = 1) -> Flow:  # fmt: skip
    if isinstance(weight, Flow):
        raise NoRuleError("a convolution whose weight depends on the input: write a rule for the module that holds it")
    spatial = weight.ndim - 2
    stride, dilation = many(stride, spatial), many(dilation, spatial)
    if isinstance(padding, str):
        around = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, weight.shape[2:], strict=True)]
        before = tuple(p // 2 for p in around)
        after = tuple(p - b for p, b in zip(around, before, strict=True))
    else:
        before = after = many(padding, spatial)
    return _convolved(step, x, weight, Shape(tuple(x.shape[-spatial:]), stride, dilation, before, after), groups, 1.0)


def _convolved(step: Step, x: Flow, weight: Tensor, shape: Shape, groups: int, gain: float) -> Flow:
    if len(x.shape) != weight.ndim:
        raise NoRuleError("a convolution of an input without a batch axis: give it one")
    weight = folded(weight, step.following)

    def norm(w: Tensor) -> float:
        return conv_norm(w, shape, groups)

    own = norm(weight) * gain
    total = log(gain) + (_grouped(x, weight, norm) if groups > 1 else x.weighted(1, weight, norm))
    grid = None
    patches = shape.stride == tuple(weight.shape[2:]) and not any((*shape.before, *shape.after))
    if step.pointwise and patches and max(shape.dilation) == 1:
        # Every output position sees a patch of its own.
        grid = torch.full((1, 1, *step.output.shape[2:]), min(total, x.total + log(own)), dtype=torch.float64)
        if x.grid is not None and max(shape.stride) == 1 and x.grid.shape[1] == 1:
            grid = torch.minimum(grid, x.grid + log(own))
    words = "sup‖K̂(ω)‖ from a grid of frequencies, certified" + _batch_norm_words(step.following)
    return Flow(total, grid=grid, normed=step.following is not None, note=("convolution", log(own), words))


def _grouped(x: Flow, weight: Tensor, norm: Callable[[Tensor], float]) -> float:
    """Groups read different channels: pending factors go into each group's weight, parts are not told apart."""
    c = x.channels
    if c is None or c.axis != 1:
        return x.total + log(norm(weight))
    groups = len(c.scale) // weight.shape[1]
    scale = c.scale.to(weight).view(groups, 1, -1, *[1] * (weight.ndim - 2))
    return min(c.base + log(norm((weight.unflatten(0, (groups, -1)) * scale).flatten(0, 1))),
               x.total + log(norm(weight)))  # fmt: skip


@rule(*TRANSPOSED)
def _conv_transposed(step: Step, x: Flow) -> Flow:
    """The adjoint of the convolution with the same weight from the output's size, and of the same norm."""
    m = step.op
    spatial = len(m.kernel_size)
    if step.following is not None:  # (in, out / groups): the outputs' factors, group by group
        scale = step.following.double().view(m.groups, 1, -1, *[1] * spatial)
        weight = (m.weight.detach().double().cpu().unflatten(0, (m.groups, -1)) * scale).flatten(0, 1)
    else:
        weight = m.weight.detach().double().cpu()
    pad = tuple(m.padding)
    shape = Shape(tuple(step.output.shape[-spatial:]), tuple(m.stride), tuple(m.dilation), pad, pad)
    own = conv_norm(weight, shape, m.groups)
    if m.groups == 1:
        total = x.weighted(1, weight.transpose(0, 1), lambda w: conv_norm(w.transpose(0, 1), shape))
    else:
        total = x.total + log(own)
    words = "the norm of its adjoint, a convolution" + _batch_norm_words(step.following)
    return Flow(total, normed=step.following is not None, note=("transposed convolution", log(own), words))


def _padding_gain(n: int, before: int, after: int, mode: str) -> float:
    """‖P‖ of a padding that copies pixels: the root of how often one pixel is copied, exact."""
    at = tf.pad(torch.arange(n, dtype=torch.float64)[None, None], (before, after), mode=mode).long()
    return math.sqrt(int(at.flatten().bincount().amax()))


def many(value: Any, spatial: int) -> tuple[int, ...]:
    """One number, or one a dimension."""
    given = (value,) if isinstance(value, int) else tuple(value)
    return tuple(int(v) for v in (given * spatial if len(given) == 1 else given))


def batch_norm_scale(m: nn.Module) -> Tensor | None:
    """γ/√(σ² + ε), what batch normalisation multiplies channels with in evaluation mode; None where it does not."""
    if not isinstance(m, BATCH_NORMS) or m.running_var is None:
        return None
    scale = (m.running_var.detach().double() + m.eps).rsqrt()
    return (scale if m.weight is None else scale * m.weight.detach().double()).cpu()


@rule(*BATCH_NORMS)
def _batch_norm(step: Step, x: Flow) -> Flow:
    scale = batch_norm_scale(step.op)
    if scale is None:
        raise NoBoundError(
            "batch normalisation without running statistics lets the inputs of a batch influence each other"
        )
    return normalised(x, scale)


@rule(tf.batch_norm)
def _batch_norm_function(step: Step, x: Flow, mean: Tensor | None, var: Tensor | None, weight: Tensor | None = None,
                         bias: Tensor | None = None, training: bool = False, momentum: float = 0.1,
                         eps: float = 1e-5) -> Flow:  # fmt: skip
    if training or var is None:
        raise NoBoundError("batch normalisation by the batch lets the inputs of a batch influence each other")
    scale = (var.detach().double() + eps).rsqrt()
    return normalised(x, scale if weight is None else scale * weight.detach().double())


def normalised(x: Flow, scale: Tensor) -> Flow:
    """diag(γ/√(σ² + ε)), which waits for the next layer with weights unless the one before has taken it."""
    if x.normed:
        return Flow(x.total, grid=x.grid, note=("batch normalisation", 0.0, "in the weights of the layer before"))
    return x.scaled(1, scale, "max|γ|/√(σ² + ε), or in the weights of the layer behind", kind="batch normalisation")


def _windows(n: int, k: int, s: int, d: int) -> int:
    """In how many windows an input of n pixels can be: of an output of any length."""
    return max(1, min(k, -(-(d * (k - 1) + 1) // s)))


@rule(*MAX_POOLS)
def _max_pool(step: Step, x: Flow) -> Flow:
    m = step.op
    return max_pool(step, x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices)


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
    return x.channelwise(math.sqrt(math.prod(wins)), "√Π⌈k/s⌉: the windows that one pixel can win", kind="max pooling")


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
    gain /= divisor_override or 1
    return x.channelwise(gain, "a product of exact one-dimensional norms", kind="average pooling")


@rule(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
def _adaptive_avg(step: Step, x: Flow) -> Flow:
    return adaptive_avg_pool(step, x, step.op.output_size)


@rule(tf.adaptive_avg_pool1d, tf.adaptive_avg_pool2d, tf.adaptive_avg_pool3d)
def adaptive_avg_pool(step: Step, x: Flow, output_size: Any = None) -> Flow:
    """As average pooling, with windows of several sizes."""
    gain = math.prod(matrix_norm(adaptive(n, m)) for n, m in zip(x.shape[2:], step.output.shape[2:], strict=True))
    return x.channelwise(gain, "a product of exact one-dimensional norms", kind="average pooling")


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
    gain = math.sqrt(wins * (math.prod(k) if p == 1 else 1))
    return x.channelwise(gain, "√Π⌈k/s⌉ times the dual norm of a window's gradient", kind="LP pooling")


def mean_gain(x: Flow, axes: list[int], average: bool) -> tuple[float, Tensor | None]:
    """‖·‖ of a sum or mean over axes, and what remains of a grid."""
    count = math.prod(x.shape[a] for a in axes)
    gain = 1 / math.sqrt(count) if average else math.sqrt(count)
    if x.grid is None:
        return gain, None
    collective = [a for a in axes if x.grid.shape[a] == 1]
    single = [a for a in axes if x.grid.shape[a] > 1]
    up = 0.5 * log(math.prod(x.shape[a] for a in collective))
    grid = x.grid + up
    for a in single:
        grid = torch.logsumexp(grid, a, keepdim=True)
    return gain, grid - (log(count) if average else 0.0)
