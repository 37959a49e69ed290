"""Rules for layers with weights and for batch normalisation, which goes into them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as tf

from fimviz.bounds.active import Layer, Read, Term, conv_blocks, conv_rows, linear_rows, numbered, patches
from fimviz.bounds.flow import Flow, NoBoundError, NoRuleError, Origin, Projection, Step, log, log_sum
from fimviz.bounds.heads import of_heads
from fimviz.bounds.norms import Shape, conv_norm, matrix_norm
from fimviz.bounds.rules import patient, rule

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def folded(weight: Tensor, scale: Tensor | None, axis: int = 0) -> Tensor:
    """The weight in double precision behind a diagonal on its outputs."""
    weight = weight.detach().cpu().double()
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
    offset = None if bias is None else bias.detach().cpu().double()
    up = log(matrix_norm(weight))
    total = x.weighted(last, weight, matrix_norm)
    grid = None
    if x.grid is not None and last > 0 and x.grid.shape[-1] == 1:
        grid = x.grid + up
    if (heads := of_heads(x, weight)) is not None:
        own, each = heads
        total = min(total, own)
        grid = each if grid is None or each is None else torch.minimum(grid, each)
    longest = None
    if x.longest is not None and x.longest[1] in (-1, last):
        longest = (log_sum([up + x.longest[0], log(0.0 if offset is None else float(offset.norm()))]) + 1e-12, last)
    note = ("linear", up, "‖W‖, certified" + _batch_norm_words(scale))
    terms = None
    if step.pointwise and last == 1:
        out, read = weight.shape
        terms = (_term(x, total, weight, lambda w: Layer(linear_rows(w), read, (out, 1), (read, 1))),)
    origin = None if last < 2 else Origin(Projection(x, weight, offset))
    return Flow(total, grid=grid, longest=longest, origin=origin, terms=terms, normed=scale is not None, note=note)


def _term(x: Flow, total: float, weight: Tensor, layer: Callable[[Tensor], Layer]) -> Term:
    """A layer that waits to be bounded over the units that react: with the factors that wait for it, and without."""
    on, c = None if x.on is None else x.on.flatten(), x.channels
    own = layer(weight)
    reads = [Read(own, on, own.inputs[:1], (x.total,), x.total)]
    if c is not None and c.axis == 1 and sum(c.sizes) == own.inputs[0] == weight.shape[1]:
        scaled = layer(weight * c.scale.to(weight).view(1, -1, *[1] * (weight.ndim - 2)))
        reads = [*(reads if x.terms else []), Read(scaled, on, c.sizes, c.logs, c.base)]
    return Term(total, tuple(reads))


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
    mode = "constant" if m.padding_mode == "zeros" else m.padding_mode
    reads = _reads(step, x, m.kernel_size, m.stride, m.dilation, before, after, mode)
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
    return _convolved(step, x, m.weight, shape, m.groups, gain, reads)


def _reads(step: Step, x: Flow, kernel: Any, stride: Any, dilation: Any, before: Any, after: Any,
           mode: str = "constant") -> Callable[[], Tensor] | None:  # fmt: skip
    """What every tap of a convolution reads, at a given x."""
    if not step.pointwise or len(x.shape) != len(kernel) + 2 or x.shape[0] != 1:
        return None
    return lambda: patches(numbered(x.shape[1:], before, after, mode), kernel, stride, dilation)


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
    reads = _reads(step, x, weight.shape[2:], stride, dilation, before, after)
    shape = Shape(tuple(x.shape[-spatial:]), stride, dilation, before, after)
    return _convolved(step, x, weight, shape, groups, 1.0, reads)


def _convolved(step: Step, x: Flow, weight: Tensor, shape: Shape, groups: int, gain: float,
               reads: Callable[[], Tensor] | None) -> Flow:  # fmt: skip
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
    terms = None
    if reads is not None:
        size = (len(weight), math.prod(step.output.shape[2:])), (x.shape[1], x.shape[2:].numel())
        windows = zip(shape.stride, shape.dilation, weight.shape[2:], strict=True)
        apart = gain == 1 and all(s > d * (k - 1) for s, d, k in windows)

        def layer(w: Tensor) -> Layer:
            rows, blocks = conv_rows(w, reads, groups, x.shape[1:].numel()), conv_blocks(w, reads, groups)
            remaining = (lambda out, read: norm(w[out][:, read]) * gain) if groups == 1 else None
            return Layer(rows, w[0].numel(), *size, groups, blocks if apart else None, remaining)

        terms = (_term(x, total, weight, layer),)
    return Flow(total, grid=grid, terms=terms, normed=step.following is not None,
                note=("convolution", log(own), words))  # fmt: skip


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
        weight = (m.weight.detach().cpu().double().unflatten(0, (m.groups, -1)) * scale).flatten(0, 1)
    else:
        weight = m.weight.detach().cpu().double()
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
    scale = (m.running_var.detach().cpu().double() + m.eps).rsqrt()
    return (scale if m.weight is None else scale * m.weight.detach().cpu().double()).cpu()


@patient
@rule(*BATCH_NORMS)
def _batch_norm(step: Step, x: Flow) -> Flow:
    scale = batch_norm_scale(step.op)
    if scale is None:
        raise NoBoundError(
            "batch normalisation without running statistics lets the inputs of a batch influence each other"
        )
    return normalised(x, scale)


@patient
@rule(tf.batch_norm)
def _batch_norm_function(step: Step, x: Flow, *args: Any, **kwargs: Any) -> Flow:
    scale = batch_norm_factors(*args, **kwargs)
    if scale is None:
        raise NoBoundError("batch normalisation by the batch lets the inputs of a batch influence each other")
    return normalised(x, scale)


def batch_norm_factors(mean: Any, var: Any, weight: Any = None, bias: Any = None, training: bool = False,
                       momentum: float = 0.1, eps: float = 1e-5) -> Tensor | None:  # fmt: skip
    """γ/√(σ² + ε) of the function, from its arguments behind the input; None where they are not constants."""
    if training or not isinstance(var, Tensor) or not isinstance(weight, Tensor | None):
        return None
    scale = (var.detach().cpu().double() + eps).rsqrt()
    return scale if weight is None else scale * weight.detach().cpu().double()


def normalised(x: Flow, scale: Tensor) -> Flow:
    """diag(γ/√(σ² + ε)), which waits for the next layer with weights unless the one before has taken it."""
    if x.normed:
        words = "in the weights of the layer before"
        return Flow(x.total, grid=x.grid, terms=x.terms, note=("batch normalisation", 0.0, words))
    return x.settled().scaled(
        1, scale, "max|γ|/√(σ² + ε), or in the weights of the layer behind", kind="batch normalisation"
    )
