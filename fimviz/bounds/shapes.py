"""Rules for what moves, joins and averages elements: views, slices, padding, sums, products, concatenation."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as tf

from fimviz.bounds.flow import NOTHING, Channels, Flow, NoBoundError, NoRuleError, Step, log, log_norm
from fimviz.bounds.rules import patient, rule

_SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
         "contiguous", "clone", "detach", "detach_", torch.detach, "to", "float", "double", "type", "type_as",
         "cpu", "cuda", "requires_grad_", torch.clone)  # fmt: skip
_DROPOUTS = (tf.dropout, tf.dropout1d, tf.dropout2d, tf.dropout3d, tf.alpha_dropout, torch.dropout)
_MOVES = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle,
          torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.swapaxes, torch.movedim, torch.squeeze,
          torch.unsqueeze, torch.roll, torch.flip, torch.narrow, torch.select, torch.chunk, torch.split, torch.unbind,
          torch.unflatten, torch.tile, tf.pixel_shuffle, tf.pixel_unshuffle, tf.channel_shuffle,
          torch.broadcast_to, torch.index_select, torch.swapdims, torch.moveaxis,
          "flatten", "unflatten", "reshape", "view", "permute", "transpose", "swapaxes", "swapdims", "movedim",
          "moveaxis", "squeeze", "unsqueeze", "roll", "flip", "narrow", "select", "chunk", "split", "unbind", "expand",
          "repeat", "tile", "t", "index_select",
          "unfold", "ravel", "split_with_sizes", "repeat_interleave", torch.ravel, torch.split_with_sizes,
          torch.repeat_interleave,
          "torchvision.models.swin_transformer._patch_merging_pad",
         operator.getitem)  # fmt: skip


@patient
@rule(*_SAME)
def _same(step: Step, x: Flow, *args: Any, **kwargs: Any) -> Flow:
    return replace(x, note=("identity", 0.0, "in evaluation mode"))


@patient
@rule(*_DROPOUTS, "torchvision.ops.stochastic_depth.stochastic_depth")
def _dropout(step: Step, x: Flow, *args: Any, **kwargs: Any) -> Flow:
    names = ("p", "mode", "training") if step.op.__name__ == "stochastic_depth" else ("p", "training", "inplace")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if given.get("training", given.get("train", True)) and given.get("p", 0.5) > 0:
        raise NoBoundError("dropout that ignores evaluation mode is random")
    return replace(x, note=("identity", 0.0, "in evaluation mode"))


@patient
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


@patient
@rule("expand_as", "reshape_as", "view_as")
def _as_another(step: Step, x: Any, other: Any) -> Any:
    """Of the other tensor the shape alone counts."""
    kind, shape = step.op.removesuffix("_as"), step.output.shape
    return moved(x, lambda t: getattr(t, kind)(shape)) if isinstance(x, Flow) else step.output


@patient
@rule(torch.zeros_like, torch.ones_like, torch.full_like, "new_zeros", "new_ones", "new_full")
def _like(step: Step, x: Any, *args: Any, **kwargs: Any) -> Any:
    """A constant of the tensor's shape."""
    return step.output


@patient
@rule(getattr)
def _attribute(step: Step, x: Flow, name: str) -> Any:
    """x.mT and the like."""
    if name not in ("mT", "T", "mH", "H"):
        raise NoRuleError(f"the attribute {name!r} of a tensor: write a rule for the module that reads it")
    return moved(x, lambda t: getattr(t, name))


def turned(x: Flow, move: Callable[[Tensor], Tensor]) -> Flow:
    """The flow behind a move that a rule makes, with the tensor itself."""
    shape = move(torch.empty(x.shape, device="meta")).shape
    return replace(moved(x, move), shape=shape, value=None if x.value is None else move(x.value))


def moved(x: Flow, again: Any) -> Any:
    """Read what a call does to elements from what it does to their numbers."""
    placed = again(torch.arange(1, math.prod(x.shape) + 1).view(x.shape))
    several = isinstance(placed, (tuple, list))
    flows = tuple(_placed(x, p - 1) for p in (placed if several else (placed,)))  # a padding's zeros are constants
    return flows if several else flows[0]


def _placed(x: Flow, at: Tensor) -> Flow:
    """The flow whose elements are those of x at the given numbers; a number below 0 is a constant."""
    still = at.numel() == math.prod(x.shape) and bool((at.flatten() == torch.arange(at.numel())).all())
    if not still:
        x = x.settled()
    on = None
    if x.on is not None:
        on = torch.cat([x.on.flatten(), torch.tensor([False])])[at]
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
    origin = x.origin.moved(at) if x.origin and len(real) == at.numel() else None
    channels = _moved_channels(x, at) if copies == 1 else None
    return Flow(total, grid=grid, channels=channels, longest=_moved_longest(x, at), on=on, origin=origin,
                terms=x.terms if still else None, note=note)  # fmt: skip


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


def _moved_channels(x: Flow, at: Tensor) -> Channels | None:
    """Channels survive a move of all elements behind which one axis alone tells them apart, as a flattening."""
    c = x.channels
    if c is None or at.numel() != math.prod(x.shape) or not at.numel():
        return None
    channel = at // math.prod(x.shape[c.axis + 1 :]) % x.shape[c.axis]
    part = torch.arange(len(c.sizes)).repeat_interleave(torch.tensor(c.sizes))
    for axis in [*range(1, at.ndim), 0][: at.ndim]:
        lines = channel.movedim(axis, 0).flatten(1) if at.ndim > 1 else channel[:, None]
        own = lines[:, 0]
        if bool((lines == own[:, None]).all()) and bool((part[own].diff() >= 0).all()):
            sizes = part[own].bincount(minlength=len(c.sizes)).tolist()
            return replace(c, axis=axis, sizes=tuple(sizes), scale=c.scale[own])
    return None


def _moved_longest(x: Flow, at: Tensor) -> tuple[float, int] | None:
    """Vectors that are parts of bounded vectors stay bounded: along the last axis, or the one before it."""
    if x.longest is None:
        return None
    size, axis = x.longest
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
    on = None
    if step.pointwise and any(isinstance(t, Flow) and t.on is not None for t in tensors):
        on = torch.cat([_on(t) for t in tensors], dim)
    grid = _cat_grids(tensors, dim)
    if grid is not None:
        total = min(total, log_norm(grid))
    note = ("concatenation", None, "bounds add in squares")
    return Flow(total, channels=channels, grid=grid, on=on, note=note)


def _on(t: Any) -> Tensor:
    """Which elements of a tensor can react."""
    if isinstance(t, Flow):
        return torch.ones(t.shape, dtype=torch.bool) if t.on is None else t.on
    return torch.zeros(t.shape, dtype=torch.bool)


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
