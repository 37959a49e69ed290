"""Rules for what moves, joins and averages elements: views, slices, padding, sums, products, concatenation."""

from __future__ import annotations

import math
import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as tf

from fimviz.bounds.flow import NOTHING, Channels, Flow, NoBoundError, NoRuleError, Step, log, log_norm, log_sum
from fimviz.bounds.layers import mean_gain
from fimviz.bounds.norms import matrix_norm
from fimviz.bounds.rules import rule

_SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
         "contiguous", "clone", "detach_", "to", "float", "double", "type", "type_as", "cpu", "cuda",
         "requires_grad_", torch.clone)  # fmt: skip
_DROPOUTS = (tf.dropout, tf.dropout1d, tf.dropout2d, tf.dropout3d, tf.alpha_dropout, torch.dropout)
_MOVES = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle,
          torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.swapaxes, torch.movedim, torch.squeeze,
          torch.unsqueeze, torch.roll, torch.flip, torch.narrow, torch.select, torch.chunk, torch.split, torch.unbind,
          torch.unflatten, torch.tile, tf.pixel_shuffle, tf.pixel_unshuffle, tf.channel_shuffle,
          torch.broadcast_to, torch.index_select, torch.swapdims, torch.moveaxis,
          "flatten", "unflatten", "reshape", "view", "permute", "transpose", "swapaxes", "swapdims", "movedim",
          "moveaxis", "squeeze", "unsqueeze", "roll", "flip", "narrow", "select", "chunk", "split", "unbind", "expand",
          "expand_as", "repeat", "tile", "t", "reshape_as", "view_as", "index_select",
          "torchvision.models.swin_transformer._patch_merging_pad",
         operator.getitem)  # fmt: skip


@rule(*_SAME)
def _same(step: Step, x: Flow, *args: Any, **kwargs: Any) -> Flow:
    return replace(x, note=("identity", 0.0, "in evaluation mode"))


@rule(*_DROPOUTS, "torchvision.ops.stochastic_depth.stochastic_depth")
def _dropout(step: Step, x: Flow, *args: Any, **kwargs: Any) -> Flow:
    names = ("p", "mode", "training") if step.op.__name__ == "stochastic_depth" else ("p", "training", "inplace")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if given.get("training", given.get("train", True)) and given.get("p", 0.5) > 0:
        raise NoBoundError("dropout that ignores evaluation mode is random")
    return replace(x, note=("identity", 0.0, "in evaluation mode"))


@rule(*_MOVES)
def _move(step: Step, x: Flow, *args: Any, **kwargs: Any) -> Flow | tuple[Flow, ...]:
    """Every output element is one input element: the root of how often the most copied one is, exact."""
    if not isinstance(x, Flow) or any(isinstance(a, Flow) for a in (*args, *kwargs.values())):
        raise NoRuleError("an index that depends on the input: write a rule for the module that holds it")

    def again(t: Tensor) -> Any:
        if isinstance(step.op, str):
            return getattr(t, step.op)(*args, **kwargs)
        return step.op(t, *args, **kwargs)

    return moved(x, again)


def moved(x: Flow, again: Any) -> Any:
    """Read what a call does to elements from what it does to their numbers."""
    placed = again(torch.arange(1, math.prod(x.shape) + 1).view(x.shape))
    several = isinstance(placed, (tuple, list))
    flows = tuple(_placed(x, p - 1) for p in (placed if several else (placed,)))  # a padding's zeros are constants
    return flows if several else flows[0]


def _placed(x: Flow, at: Tensor) -> Flow:
    """The flow whose elements are those of x at the given numbers; a number below 0 is a constant."""
    real = at[at >= 0]
    copies = int(real.flatten().bincount().amax()) if real.numel() else 0
    up = 0.5 * log(copies)
    grid = None
    if x.grid is not None:
        grid = _cells(x, at) + up
    note = ("reshape or slice" if copies <= 1 else "copies", up, "the root of how often an element is copied")
    total = x.total + up
    if grid is not None:
        total = min(total, log_norm(grid))
    return Flow(total, grid=grid, channels=_flat_channels(x, at), reach=_moved_reach(x, at), note=note)


def _cells(x: Flow, at: Tensor) -> Tensor:
    """The grid behind a move: an axis along which the source cell never changes stays collective."""
    assert x.grid is not None
    cell = torch.arange(x.grid.numel()).view(x.grid.shape).expand(x.shape).reshape(-1)
    grid = torch.cat([x.grid.flatten(), torch.tensor([NOTHING], dtype=torch.float64)])
    source = torch.where(at >= 0, cell[at.clamp_min(0)], x.grid.numel())
    for axis in range(source.ndim):
        first = source.narrow(axis, 0, 1)
        if source.shape[axis] and bool((source == first).all()):
            source = first
    return grid[source]


def _flat_channels(x: Flow, at: Tensor) -> Channels | None:
    """Channels survive a flattening of what is behind them, and a move that keeps them where they are."""
    c = x.channels
    if c is None or c.axis != 1 or at.ndim < 2 or at.shape[0] != 1 or at.numel() != math.prod(x.shape):
        return None
    channel = at.reshape(at.shape[1], -1) // math.prod(x.shape[2:])
    each, rest = divmod(at.shape[1], x.shape[1])
    expected = torch.arange(x.shape[1]).repeat_interleave(max(each, 1))
    if rest or not torch.equal(channel, expected[:, None].expand_as(channel)):
        return None
    return replace(c, sizes=tuple(n * each for n in c.sizes), scale=c.scale.repeat_interleave(each))


def _moved_reach(x: Flow, at: Tensor) -> tuple[float, int] | None:
    """Vectors that are parts of bounded vectors stay bounded: along the last axis, or the one before it."""
    if x.reach is None:
        return None
    size, axis = x.reach
    axis %= len(x.shape)
    vector = torch.arange(math.prod(x.shape) // x.shape[axis]).view(
        *[n for i, n in enumerate(x.shape) if i != axis]).unsqueeze(axis).expand(x.shape).reshape(-1)  # fmt: skip
    source = torch.where(at >= 0, vector[at.clamp_min(0)], -1)
    for out in range(at.ndim - 1, -1, -1):
        if at.shape[out] > 1 and bool((source == source.narrow(out, 0, 1)).all()):
            line = at.movedim(out, -1)
            if bool((line.sort(-1).values.diff(dim=-1) > 0).all()):
                return size, out
    return None


@rule(tf.pad, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d,
      nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d, nn.ReplicationPad1d, nn.ReplicationPad2d,
      nn.ReplicationPad3d, nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d)  # fmt: skip
def pad(step: Step, x: Flow, pad: Any = None, mode: str = "constant", value: float | None = None) -> Flow:
    """Constants around the elements, or copies of them."""
    numbers = torch.arange(math.prod(x.shape), dtype=torch.float64).view(x.shape)
    if not isinstance(step.op, nn.Module):
        placed = tf.pad(numbers, pad, mode, -1.0 if mode == "constant" else None)
    elif isinstance(step.op, (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)):  # zero padding is one of these
        placed = tf.pad(numbers, step.op.padding, "constant", -1.0)
    else:
        placed = step.op(numbers)
    return _placed(x, placed.long())


@rule(nn.Upsample, tf.interpolate)
def _upsample(step: Step, x: Flow, *args: Any, **kwargs: Any) -> Flow:
    mode = step.op.mode if isinstance(step.op, nn.Module) else kwargs.get("mode", "nearest")
    if mode not in ("nearest", "nearest-exact"):
        raise NoRuleError(f"interpolation of mode {mode!r}: write a rule for the module that uses it")
    numbers = torch.arange(math.prod(x.shape), dtype=torch.float64).view(x.shape)
    return _placed(x, step.op(numbers, *args, **kwargs).long())


@rule(operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub, torch.subtract, "add", "add_",
      "sub", "sub_", "__radd__", "__rsub__", torch.rsub)  # fmt: skip
def _add(step: Step, x: Any, y: Any, *, alpha: float = 1) -> Flow:
    """Bounds add; a constant adds nothing."""
    flows = [_broadcast(f, step.output.shape) for f in (x, y) if isinstance(f, Flow)]
    if alpha != 1 and isinstance(y, Flow):
        flows[-1] = replace(flows[-1].elementwise(abs(alpha), ""), note=None)
    if len(flows) == 1:
        (flow,) = flows
        return replace(flow, reach=None, normed=False, note=("constant added", 0.0, "the Jacobian stays"))
    a, b = flows
    grid = None
    if a.grid is not None or b.grid is not None:
        grid = torch.logaddexp(*torch.broadcast_tensors(a.finest, b.finest))
    total = log_sum([a.total, b.total])
    return Flow(total, grid=grid, note=("addition", None, "bounds add"))


def _broadcast(x: Flow, shape: torch.Size) -> Flow:
    """The flow at the shape of a result, with what repeating its elements costs."""
    if x.shape == shape:
        return x
    return replace(moved(x, lambda t: t.expand(shape)), shape=shape)


@rule(operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "__rmul__")
def _mul(step: Step, x: Any, y: Any) -> Flow:
    if isinstance(x, Flow) and isinstance(y, Flow):
        return _product(step, x, y)
    flow, other = (x, y) if isinstance(x, Flow) else (y, x)
    return _by_constant(step, flow, other)


@rule(operator.truediv, operator.itruediv, torch.div, torch.divide, torch.true_divide, "div", "div_", "true_divide")
def _div(step: Step, x: Any, y: Any) -> Flow:
    if not isinstance(y, Flow):
        return _by_constant(step, x, 1 / y if not isinstance(y, Tensor) else y.detach().double().reciprocal())
    raise NoRuleError("a division by what depends on the input: write a rule for the module that holds it")


def _by_constant(step: Step, x: Flow, c: Any) -> Flow:
    shape = step.output.shape
    c = torch.as_tensor(c).detach().double().cpu()
    wide = _broadcast(x, shape)
    long = [i + len(shape) - c.ndim for i, n in enumerate(c.shape) if n > 1]
    if not long:
        out = wide.elementwise(float(c.abs().max()), "the constant", kind="multiplication")
        return replace(out, reach=wide.reach and (wide.reach[0] + log(float(c.abs().max())), wide.reach[1]))
    if len(long) == 1:
        return wide.scaled(long[0], c.flatten(), "the largest constant", kind="multiplication")
    local = c.abs().expand(shape)
    return wide.elementwise(float(c.abs().max()), "the largest constant", kind="multiplication", local=local)


def _product(step: Step, x: Flow, y: Flow) -> Flow:
    """d(uv) = v du + u dv: each factor's values are the other's gain."""
    if x.value is None or y.value is None:
        raise NoBoundError("a product of two tensors that both depend on the input has a bound only at a given x")
    total = log_sum([_gain(u, v) + u.total for u, v in ((x, y.value), (y, x.value))])
    return Flow(total, note=("product", None, "‖v‖·a_u + ‖u‖·a_v with the values at x"))


def _gain(u: Flow, v: Tensor) -> float:
    """The logarithm of ‖du ↦ v du‖; where v repeats the elements of u, the largest norm of what meets one element."""
    v = v.double().cpu()
    shape = torch.broadcast_shapes(u.shape, v.shape)
    squares = v.expand(shape).square()
    padded = (1,) * (len(shape) - len(u.shape)) + tuple(u.shape)
    axes = [i for i, n in enumerate(shape) if padded[i] == 1 and n > 1]
    if axes:
        squares = squares.sum(axes)
    return 0.5 * log(float(squares.amax())) + 1e-9


@rule(torch.cat, torch.concat, torch.concatenate)
def _cat(step: Step, tensors: Any, dim: int = 0, *, axis: int | None = None) -> Flow:
    """Bounds add in squares; the parts stay known, for the layer that reads them."""
    rank = step.output.ndim
    dim = (dim if axis is None else axis) % rank
    total = log_norm([t.total for t in tensors if isinstance(t, Flow)])
    sizes: list[int] = []
    logs: list[float] = []
    scale: list[Tensor] = []
    bases: list[float] = []
    for t in tensors:
        c = t.channels if isinstance(t, Flow) else None
        one = torch.ones(t.shape[dim], dtype=torch.float64)
        if c is None or c.axis != dim:
            here = t.total if isinstance(t, Flow) else NOTHING
            c = Channels(dim, (t.shape[dim],), (here,), here, one)
        sizes += c.sizes
        logs += c.logs
        bases.append(c.base)
        scale.append(c.scale)
    channels = Channels(dim, tuple(sizes), tuple(logs), log_norm(bases), torch.cat(scale))
    grid = _cat_grids(tensors, dim)
    if grid is not None:
        total = min(total, log_norm(grid))
    note = ("concatenation", None, "bounds add in squares")
    return Flow(total, channels=channels, grid=grid, note=note)


def _cat_grids(tensors: Any, dim: int) -> Tensor | None:
    if not any(isinstance(t, Flow) and t.grid is not None for t in tensors):
        return None
    grids = []
    for t in tensors:
        grid = t.finest if isinstance(t, Flow) else torch.full([1] * t.ndim, NOTHING, dtype=torch.float64)
        grids.append(grid.expand(*[t.shape[dim] if i == dim else n for i, n in enumerate(grid.shape)]))
    wide = [max(n) for n in zip(*(g.shape for g in grids), strict=True)]
    return torch.cat([g.expand(*[g.shape[dim] if i == dim else n for i, n in enumerate(wide)]) for g in grids], dim)


@rule(torch.stack)
def _stack(step: Step, tensors: Any, dim: int = 0) -> Flow:
    total = log_norm([t.total for t in tensors if isinstance(t, Flow)])
    return Flow(total, note=("concatenation", None, "bounds add in squares"))


@rule(torch.mean, torch.sum, "mean", "sum")
def _mean(step: Step, x: Flow, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Flow:
    """1/√m for a mean of m elements, √m for a sum."""
    name = step.op if isinstance(step.op, str) else step.op.__name__
    dim = kwargs.pop("axis", dim)
    axes = (
        list(range(len(x.shape)))
        if dim is None
        else [d % len(x.shape) for d in ([dim] if isinstance(dim, int) else dim)]
    )
    gain, grid = mean_gain(x, axes, name == "mean")
    if grid is not None and not (keepdim or kwargs.get("keepdim")):
        grid = grid.reshape([n for i, n in enumerate(grid.shape) if i not in axes])
    words = "1/√m over m elements" if name == "mean" else "√m over m elements"
    note = (name, log(gain), words)
    channels = None
    if x.channels is not None and x.channels.axis == 1 and 0 not in axes and 1 not in axes:
        channels = x.channels.louder(log(gain))
    total = x.total + log(gain)
    return Flow(total if grid is None else min(total, log_norm(grid)), channels=channels, grid=grid, note=note)


@rule(torch.amax, torch.max, torch.amin, torch.min, "amax", "max", "amin", "min")
def _max(step: Step, x: Flow, *args: Any, **kwargs: Any) -> Any:
    """Every output copies an element, no element is copied twice."""
    if any(isinstance(a, Flow) for a in (*args, *kwargs.values())):
        raise NoRuleError("the larger of two tensors: write a rule for the module that uses it")
    out = x.times(1.0, "a choice of elements", kind="maximum")
    return out if isinstance(step.output, Tensor) else (out, None)


@rule(torch.matmul, torch.bmm, operator.matmul, "matmul", "bmm", "__matmul__", "__rmatmul__", torch.mm, "mm")
def _matmul(step: Step, x: Any, y: Any) -> Flow:
    if isinstance(x, Flow) and isinstance(y, Flow):
        from fimviz.bounds.tokens import product

        return product(step, x, y)
    flow, other = (x, y) if isinstance(x, Flow) else (y, x)
    if other.ndim < 2 or len(flow.shape) < 2:
        raise NoRuleError("a product with a vector: write a rule for the module that holds it")
    return flow.times(matrix_norm(other), "‖C‖ of the constant factor", kind="product with a constant")
