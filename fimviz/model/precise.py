"""A float32 graph of a network at the activations that float64 gives.

Where a ReLU's input or a max pool's lead is smaller than rounding, a forward pass in float32 takes another linear piece
of the network than exact arithmetic would: gradients can be off by percents. Layers that remember signs and positions
decide this in the forward pass alone. So every operation of that pass runs in float64, and what autograd keeps of it is
the outcome rounded to float32: signs and positions are float64's, and backward passes, which take nearly all the time,
stay in float32, right to a few machine epsilons. That does not hold where a backward pass compares what was rounded
(`amax`), subtracts it (tanh), or computes the layer again (checkpoints): `Steady` tells. What a ReLU6 and the like
compare with their edges, going back, is rounded so that it stays on its side of them.

A network without kinks (`Traits.smooth`) needs none of this: what rounding moves, it moves a little.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten

from fimviz.model.at_rest import plain_kernels

_WIDE = {torch.float32: torch.float64, torch.complex64: torch.complex128}
_NARROW = {wide: narrow for narrow, wide in _WIDE.items()}
_SWEEP = 32  # operations after which memory of tensors that are gone is given back
_PATCHES = 2**17  # numbers that stay in a processor's cache
# What goes back without comparing or subtracting what the forward pass has left.
_STEADY = {
    *("convolution_backward", "threshold_backward", "leaky_relu_backward", "native_batch_norm_backward"),
    *("hardtanh_backward", "hardswish_backward", "hardsigmoid_backward"),
    *("max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward", "avg_pool2d_backward"),
    *("_adaptive_avg_pool2d_backward", "upsample_nearest2d_backward", "upsample_bilinear2d_backward"),
    *("mm", "bmm", "mv", "add", "mul", "div", "neg", "sum", "where", "masked_fill", "cat", "index_select"),
    *("slice_backward", "select_backward", "constant_pad_nd", "slice", "select", "split", "unbind", "expand"),
    *("view", "_unsafe_view", "as_strided", "permute", "t", "transpose", "squeeze", "unsqueeze", "alias", "detach"),
    *("clone", "copy_", "zeros", "zeros_like", "new_zeros", "ones", "ones_like", "empty_like", "new_empty_strided"),
}
# What has a derivative that moves as little as its input does; the rest has kinks, or may have some.
_SMOOTH = {
    *("convolution", "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "_trilinear"),
    *("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training"),
    *("native_layer_norm", "native_group_norm", "_softmax", "_log_softmax", "_safe_softmax", "logsumexp"),
    *("gelu", "silu", "sigmoid", "tanh", "softplus", "mish", "elu", "celu", "exp", "log1p", "erf", "sin", "cos"),
    *("add", "sub", "rsub", "mul", "div", "neg", "addcmul", "lerp", "reciprocal", "rsqrt", "square"),
    *("sum", "mean", "var", "var_mean", "cumsum", "avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d"),
    *("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "constant_pad_nd", "reflection_pad2d", "roll"),
    *("view", "_unsafe_view", "reshape", "as_strided", "permute", "t", "transpose", "squeeze", "unsqueeze", "alias"),
    *("expand", "slice", "select", "split", "split_with_sizes", "unbind", "cat", "stack", "index", "index_select"),
    *("gather", "flip", "repeat", "unfold", "im2col", "pixel_shuffle", "masked_fill", "detach", "clone", "copy_"),
    *("_to_copy", "lift_fresh", "lift_fresh_copy", "fill_", "zero_", "arange", "scalar_tensor"),
    *("zeros", "ones", "full", "empty", "zeros_like", "ones_like", "full_like", "empty_like", "empty_strided"),
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"),
}
_STRAIGHT = 16.0  # where a sigmoid is 1 in float32
_beneath = threading.local()
_EDGES = {"hardtanh": (-1.0, 1.0), "hardswish": (-3.0, 3.0), "hardsigmoid": (-3.0, 3.0)}


@contextmanager
def float64_values(tangent: Tensor | None = None, *, recurrent: bool = True) -> Iterator[Float64Values]:
    """Inside, float32 operations give the values of float64, rounded.

    What depends on `tangent`, a direction of forward mode, stays in float32 entirely. `recurrent` is for a model with
    recurrent layers: oneDNN's know no float64, and the switch is the process's.
    """
    with plain_kernels.turned() if recurrent else nullcontext(), Float64Values(tangent) as values:
        yield values


def computes_values() -> bool:
    """Whether what this thread does now gives float64's values: operations that are nobody else's business."""
    return getattr(_beneath, "on", False)


class Float64Values(TorchDispatchMode):
    """`float64_values` on one thread.

    Every storage of float32 numbers has a twin of as many float64 ones, so that views and writes in place need no
    care.
    """

    def __init__(self, tangent: Tensor | None = None) -> None:
        super().__init__()
        self._twins: dict[int, tuple[StorageWeakRef, torch.UntypedStorage]] = {}
        self._moving = _Storages(tangent)  # what depends on the tangent
        self._count = 0
        self._copied: tuple[Tensor, Tensor] | None = None  # the last clone, and of what

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, which takes seconds, only to keep it away from here

    def of(self, t: Tensor) -> Tensor:
        """The values of a tensor made inside, in float64."""
        wide = _WIDE.get(t.dtype)
        if wide is None:
            return t
        if not _stored(t):
            return t.to(wide)
        storage = t.untyped_storage()
        reference, twin = self._twins.get(storage._cdata, (None, None))
        if reference is None or twin is None or reference.expired() or twin.nbytes() != 2 * storage.nbytes():
            everything = t.new_empty(0).set_(storage, 0, (storage.nbytes() // t.itemsize,), (1,))
            twin = self._note(storage, everything.to(wide).untyped_storage())
        out = torch.empty(0, dtype=wide, device=t.device).set_(twin, t.storage_offset(), t.size(), t.stride())
        return out.neg() if t.is_neg() else out.conj() if t.is_conj() else out

    def _note(self, storage: torch.UntypedStorage, twin: torch.UntypedStorage) -> torch.UntypedStorage:
        self._twins[storage._cdata] = StorageWeakRef(storage), twin
        return twin

    def _rounded(self, wide: Any) -> Any:
        if not isinstance(wide, Tensor) or wide.dtype not in _NARROW:
            return wide
        out = wide.to(_NARROW[wide.dtype])
        if _stored(out):
            if out.stride() != wide.stride() or wide.untyped_storage().nbytes() != 2 * out.untyped_storage().nbytes():
                wide = torch.empty_like(out, dtype=wide.dtype).copy_(wide)
            self._note(out.untyped_storage(), wide.untyped_storage())
        return out

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves, spec = tree_flatten((args, kwargs))
        tensors = [t for t in leaves if isinstance(t, Tensor)]
        if any(map(self._moving.__contains__, tensors)):
            out = func(*args, **kwargs)
            self._moving.add(*tree_leaves(out), *_written(func, args, kwargs))
            return out
        self._count += 1
        if self._count % _SWEEP == 0:
            self._twins = {at: pair for at, pair in self._twins.items() if not pair[0].expired()}
        narrowing = kwargs.get("dtype") in _WIDE and any(t.dtype in _NARROW for t in tensors)
        turns = func.is_view or torch.Tag.inplace_view in func.tags
        if turns or not (narrowing or any(t.dtype in _WIDE for t in tensors)):
            return func(*args, **kwargs)
        _beneath.on = True
        try:
            return self._wide(func, args, kwargs, leaves, spec, narrowing)
        finally:
            _beneath.on = False

    def _wide(self, func: Any, args: Any, kwargs: Any, leaves: list[Any], spec: TreeSpec, narrowing: bool) -> Any:
        """What an operation gives in float64, rounded."""
        tensors = [t for t in leaves if isinstance(t, Tensor)]
        wide_args, wide_kwargs = tree_unflatten([self.of(a) if isinstance(a, Tensor) else a for a in leaves], spec)
        edges = _edges(func, args)
        if edges:
            self._keep_sides(tensors[0], edges)
            # An operation in place goes back by a copy that autograd has made just before.
            if self._copied is not None and self._copied[0] is tensors[0]:
                self._keep_sides(self._copied[1], edges)
        asked = kwargs.get("dtype")
        if asked in _WIDE:
            wide_kwargs["dtype"] = _WIDE[asked]
        run = _convolution if func is torch.ops.aten.convolution.default else func
        out = run(*wide_args, **wide_kwargs)
        written = _written(func, args, kwargs)
        if written:
            for t, twin in zip(written, _written(func, wide_args, wide_kwargs), strict=True):
                if t is not twin:
                    t.copy_(twin)
                    if edges:
                        self._keep_sides(t, edges)
            return (tuple(written) if len(written) > 1 else written[0]) if func._schema.returns else None
        if asked in _NARROW or (any(t.dtype in _NARROW and t.ndim for t in tensors) and not narrowing):
            return out  # the model asked for float64 itself
        result = self._rounded(out) if isinstance(out, Tensor) else tree_map(self._rounded, out)
        self._copied = (tensors[0], result) if func is torch.ops.aten.clone.default else None
        return result

    def _keep_sides(self, t: Tensor, edges: tuple[float, ...]) -> None:
        """Move numbers that were rounded onto an edge back to the side where float64 has them."""
        for edge in filter(None, edges):  # only what underflows is rounded to 0
            there = t == edge
            if bool(there.any()):
                wide, at = self.of(t), torch.tensor(edge, dtype=t.dtype)
                for beyond, side in (wide < edge, -torch.inf), (wide > edge, torch.inf):
                    next_to_it = torch.nextafter(at, torch.tensor(side, dtype=t.dtype))
                    t.masked_fill_(there & beyond, float(next_to_it))


class Float64Convolutions(TorchDispatchMode):
    """Under it, convolutions of float64 numbers on a processor run as those of `float64_values` do."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default and args[0].dtype == torch.float64:
            return _convolution(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class Traits(TorchDispatchMode):
    """What the operations of a forward pass on x under it say of a network.

    Attributes:
        smooth: whether all that depend on x have derivatives without jumps.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.smooth, self._moving = True, _Storages(x)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(map(self._moving.__contains__, tree_leaves((args, kwargs)))):
            name = func.overloadpacket.__name__
            self.smooth &= _bends_nowhere(name, args, kwargs or {}, out)
            if not name.startswith("new_") and not name.endswith("_like"):  # of x these take the shape alone
                self._moving.add(*tree_leaves(out), *_written(func, args, kwargs or {}))
        return out


class _Storages:
    """Memory of some tensors and of their views; a reference keeps its place from being taken by another."""

    def __init__(self, *tensors: Any) -> None:
        self._known: dict[int, StorageWeakRef] = {}
        self.add(*tensors)

    def add(self, *tensors: Any) -> None:
        for t in tensors:
            if isinstance(t, Tensor) and _stored(t):
                self._known[t.untyped_storage()._cdata] = StorageWeakRef(t.untyped_storage())

    def __contains__(self, t: Any) -> bool:
        return isinstance(t, Tensor) and _stored(t) and t.untyped_storage()._cdata in self._known


def _bends_nowhere(name: str, args: Any, kwargs: Any, out: Any) -> bool:
    """Whether what an operation has made has a derivative without jumps; some have them with some arguments."""
    bare = name.removesuffix("_")
    if bare == "pow":
        return not isinstance(args[1], Tensor) and args[1] in (1, 2, 3, 4)
    if bare == "elu":  # slopes α and 1 beside 0
        alpha, _, inner = [*args[1:4], 1, 1, 1][:3]
        return alpha * inner == 1
    if bare == "softplus":  # a slope of 1 beyond the threshold
        return len(args) < 3 or args[2] >= _STRAIGHT
    if name in ("_to_copy", "copy_") and not out.is_floating_point():
        return False  # whole numbers go in steps
    return not kwargs.get("rounding_mode") and (name in _SMOOTH or bare in _SMOOTH)


def _edges(func: Any, args: Any) -> tuple[float, ...]:
    """Where an operation compares its input with numbers, going back."""
    name = func.overloadpacket.__name__.removesuffix("_")
    known = _EDGES.get(name, ())
    return (*args[1:3], *known[len(args) - 1 :]) if name == "hardtanh" else known


class Steady(TorchDispatchMode):
    """Whether a backward pass under it depends on what was rounded as on any number: `yes`."""

    yes = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        # A ReLU's threshold is 0, which rounding keeps; statistics of the input itself are subtracted from it.
        unsteady = (name == "threshold_backward" and args[2] != 0) or (name == "native_batch_norm_backward" and args[7])
        self.yes &= name in _STEADY and not unsteady
        return func(*args, **(kwargs or {}))


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """A convolution in float64, on a processor of a few inputs at a time.

    Processors have no kernel of their own for it: torch copies the patches of all inputs first, and beyond the cache
    that takes five times as long; groups it computes one by one.
    """
    card = x.device.type != "cpu"

    def run(x: Tensor) -> Tensor:
        if transposed or groups == 1 or card:
            convolve = torch.ops.aten.convolution.default
            return convolve(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
        z = _grouped(_windows(x, weight.shape[2:], stride, padding, dilation), weight, groups)
        return z if bias is None else z + bias.view(-1, *[1] * (weight.ndim - 2))

    some = len(x) if card else _PATCHES // max(1, weight[0].numel() * x[0, 0].numel())
    parts = [run(part) for part in x.split(max(1, some))]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _grouped(windows: Tensor, weight: Tensor, groups: int) -> Tensor:
    """What a convolution with groups makes of what its places see (n, channels, *out, *taps)."""
    taps = weight.ndim - 2
    out = windows.shape[2 : 2 + taps]
    if weight.shape[1] > 1:
        places = [0, 1, *range(2 + taps, windows.ndim), *range(2, 2 + taps)]
        patches = windows.permute(places).reshape(len(windows), groups, -1, out.numel()).flatten(0, 1)
        each = weight.reshape(groups, len(weight) // groups, -1).repeat(len(windows), 1, 1)
        return torch.bmm(each, patches).view(len(windows), -1, *out)
    # Channels by themselves: a sum over the taps, which copies nothing.
    windows = windows.unsqueeze(2)
    z = windows.new_zeros(len(windows), groups, len(weight) // groups, *out)
    for at in itertools.product(*(range(tap) for tap in weight.shape[2:])):
        seen, factor = windows, weight[:, 0]
        for place in reversed(at):
            seen, factor = seen[..., place], factor[..., place]
        z.addcmul_(seen, factor.view(groups, -1, *[1] * taps))
    return z.flatten(1, 2)


def _windows(
    x: Tensor, taps: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """What each place of a convolution's output sees, as a view (n, channels, *out, *taps)."""
    x = nn.functional.pad(x, [side for p in reversed(padding) for side in (p, p)])
    for dim, (tap, step, gap) in enumerate(zip(taps, stride, dilation, strict=True), 2):
        x = x.unfold(dim, gap * (tap - 1) + 1, step)[..., ::gap]
    return x


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors into which an operation writes."""
    given = [args[at] if at < len(args) else kwargs.get(name) for at, name in _outputs(func)]
    return [t for t in tree_leaves(given) if isinstance(t, Tensor)]


@cache
def _outputs(func: Any) -> list[tuple[int, str]]:
    slots = enumerate(func._schema.arguments)
    return [(at, slot.name) for at, slot in slots if slot.alias_info is not None and slot.alias_info.is_write]


def _stored(t: Tensor) -> bool:
    """Whether its numbers lie in a storage: a sparse tensor's do not, nor a zero of autograd's."""
    return t.layout == torch.strided and not t._is_zerotensor()
