"""The steps of a network that are affine: which calls of ATen's are, and what they are as functions of their inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fimviz.bounds.linear.blocks import Convolution

aten = torch.ops.aten
# Sums of what they are given with coefficients of at least 0, in an order that only numbers and shapes choose.
GATHERING = {
    *("view", "_unsafe_view", "reshape", "expand", "permute", "transpose", "t", "squeeze", "unsqueeze", "select"),
    *("slice", "split", "split_with_sizes", "unbind", "cat", "stack", "clone", "alias", "detach", "_to_copy", "flip"),
    *("roll", "constant_pad_nd", "add", "sum", "mean", "avg_pool1d", "avg_pool2d", "avg_pool3d", "repeat", "unfold"),
    *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
    *("reflection_pad2d", "replication_pad2d", "upsample_nearest2d", "upsample_bilinear2d", "lift_fresh_copy"),
}
PRODUCTS = {"mul", "div", "mm", "addmm", "bmm", "baddbmm", "mv", "convolution", "native_batch_norm", "neg"}
_DIFFERENCES = {"sub", "rsub"}
_EACH = {"add", *_DIFFERENCES, "mul", "div", "neg", "native_batch_norm", "clone"}  # number by number
_PLAIN = {"alpha": 1, "beta": 1, "rounding_mode": None}  # what sums and quotients are called with here


@dataclass(frozen=True, eq=False)
class Affine:
    """A step L(…) + b of the steps that it reads.

    Attributes:
        run: of tensors as those steps return, for one input.
        offset: b, as large as one output.
        magnitude: |L|, with the absolute values of all coefficients, of tensors that are at least 0.
        terms: at least as many as any number of an output, or of its transpose, is summed from.
        factors: where every number is one of the same place, times a factor, those; one tensor for each that is read.
        convolution: where it is one of a single step.
        summed: what the sizes of the numbers that b was summed from add up to, where it is a sum itself.
    """

    run: Callable[..., Tensor]
    offset: Tensor
    magnitude: Callable[..., Tensor]
    terms: int
    factors: tuple[Tensor, ...] | None = None
    convolution: Convolution | None = None
    summed: Tensor | None = None


def is_affine(node: Any, name: str, sources: list[fx.Node]) -> bool:
    """Whether a call of this name is affine in what depends on the input."""
    turned = any(node.kwargs.get(option, plain) != plain for option, plain in _PLAIN.items())
    turned |= name == "constant_pad_nd" and any(node.args[2:])  # edges of another number than 0
    turned |= name in {"add", *_DIFFERENCES} and len(node.args) > 2  # a factor of what is added
    turned |= name.startswith("avg_pool") and any((n or 0) < 0 for n in node.args[6:7])  # another divisor
    sums = name in GATHERING or name in _DIFFERENCES
    return not turned and (sums or (name in PRODUCTS and _one_factor(node, name, sources)))


def _one_factor(node: Any, name: str, sources: list[fx.Node]) -> bool:
    """Whether a product is one with constants alone."""
    factors: Any = {"addmm": node.args[1:3], "baddbmm": node.args[1:3]}
    if name == "native_batch_norm":
        return not any(a in sources for a in node.args[1:5]) and not node.args[5]  # statistics of the batch
    held = [a for a in factors.get(name, node.args[:2]) if a in sources]
    return len(held) < 2 and not (name in ("div", "convolution") and node.args[1] in sources)


def affine(node: Any, name: str, sources: list[fx.Node], values: dict[fx.Node, Any], which: int = 0) -> Affine:
    """A call, or one of the items that it returns."""
    # What rows are carried through may lie otherwise in memory than what was recorded.
    target: Any = aten.reshape.default if name in ("view", "_unsafe_view") else node.target

    def with_inputs(change: Callable[[Any, int], Any]) -> Callable[..., Tensor]:
        """The call, as a function of what depends on the input; `change` of the other arguments and their places."""

        def run(*given: Tensor) -> Tensor:
            known = dict(zip(sources, given, strict=True))

            def at(n: fx.Node) -> Any:
                return known[n] if n in known else change(values[n], _place(node, n))

            args = [fx.node.map_arg(a, at) if _holds_nodes(a) else change(a, i) for i, a in enumerate(node.args)]
            out = target(*args, **fx.node.map_arg(node.kwargs, at))
            return out[which] if isinstance(out, (tuple, list)) else out

        return run

    run = with_inputs(lambda value, place: value)
    zeros = [torch.zeros_like(first(values[s])) for s in sources]
    offset = run(*zeros).contiguous()
    terms = sum(t.numel() for t in _tensors(values, node)) + offset.numel() + 16
    factors, local = None, None
    if name in _EACH and all(z.shape == offset.shape for z in zeros):
        factors = tuple(g.reshape(-1) for g in torch.func.vjp(run, *zeros)[1](torch.ones_like(offset)))
    if name == "convolution" and not any(a in sources for a in node.args[1:3]):
        weight, _, *rest = (values.get(a, a) if isinstance(a, fx.Node) else a for a in node.args[1:])
        local = _local(weight, *rest)
    magnitude, summed = _magnitude(node, name, sources, with_inputs), None
    if name == "native_batch_norm":  # by channel: shift − mean · scale
        each = (1, -1, *[1] * (offset.ndim - 2))
        _, shift, mean = (values[a].view(each) if isinstance(a, fx.Node) else torch.zeros(()) for a in node.args[1:4])
        summed = magnitude(mean.abs().expand_as(offset).contiguous()) + shift.abs()
    return Affine(run, offset, magnitude, terms, factors, local, summed)


def _local(weight: Tensor, stride: Any, padding: Any, dilation: Any, transposed: bool, outer: Any,
           groups: int) -> Convolution | None:  # fmt: skip
    """A convolution as one of blocks, which a transposed one is not."""
    axes = weight.ndim - 2
    stride, padding, dilation = ([*v] * (axes // len(v)) for v in (stride, padding, dilation))  # one may hold for all
    return None if transposed else Convolution(weight, stride, padding, dilation, groups)


def _magnitude(node: Any, name: str, sources: list[fx.Node], with_inputs: Any) -> Callable[..., Tensor]:
    added = {"addmm": {0}, "baddbmm": {0}, "convolution": {2}, "native_batch_norm": {2, 3}}.get(name, set())
    factors = {"mul": {0, 1}, "div": {1}, "mm": {0, 1}, "bmm": {0, 1}, "mv": {0, 1}, "addmm": {1, 2}}
    factors |= {"baddbmm": {1, 2}, "convolution": {1}, "native_batch_norm": {1}}
    signed = factors.get(name, set())
    sums = name in GATHERING or name in _DIFFERENCES

    def change(value: Any, place: int) -> Any:
        if isinstance(value, Tensor) and (sums or place in added):
            return torch.zeros_like(value)
        if name in ("add", "sub", "rsub") and isinstance(value, (int, float)):
            return 0
        return abs(value) if place in signed and isinstance(value, (Tensor, int, float)) else value

    run = with_inputs(change)
    if name == "neg":
        return lambda given: given
    if name in _DIFFERENCES:  # what is subtracted comes in with the other sign
        taken = node.args[1 if name == "sub" else 0]
        signs = [-1.0 if source is taken else 1.0 for source in sources]
        return lambda *given: run(*(sign * g for sign, g in zip(signs, given, strict=True)))
    return run


def normalised(convolution: Any, norm: Any, values: dict[fx.Node, Any]) -> Affine:
    """A convolution and the normalisation of its channels, in evaluation mode, as one step."""
    weight, bias, *rest = (values.get(a, a) if isinstance(a, fx.Node) else a for a in convolution.args[1:])
    gain, shift, mean, var = (values.get(a, a) if isinstance(a, fx.Node) else a for a in norm.args[1:5])
    scale = (var + norm.args[7]).rsqrt() * (1.0 if gain is None else gain)
    added = [(0.0 if bias is None else bias) * scale, -mean * scale, torch.zeros_like(mean) if shift is None else shift]
    bias, summed = sum(added), torch.stack([a.abs() for a in added]).sum(0)
    transposed, groups = rest[3], rest[5]
    if transposed:  # (in, out / groups, …)
        each = scale.view(groups, 1, -1, *[1] * (weight.ndim - 2))
        weight = (weight.unflatten(0, (groups, -1)) * each).flatten(0, 1)
    else:
        weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    x = values[convolution.args[0]]

    def run(x: Tensor) -> Tensor:
        return aten.convolution.default(x, weight, bias, *rest)

    offset = run(torch.zeros_like(x)).contiguous()
    terms = weight.numel() + x.numel() + offset.numel() + 64
    summed = summed.view(-1, *[1] * (offset.ndim - 2)).expand_as(offset)
    return Affine(
        run,
        offset,
        lambda given: aten.convolution.default(given, weight.abs(), None, *rest),
        terms,
        convolution=_local(weight, *rest),
        summed=summed,
    )


def first(value: Any) -> Tensor:
    """What a call returns, or the first item of it."""
    return value[0] if isinstance(value, (tuple, list)) else value


def _holds_nodes(value: Any) -> bool:
    return isinstance(value, fx.Node) or (isinstance(value, (tuple, list)) and any(map(_holds_nodes, value)))


def _place(node: Any, source: fx.Node) -> int:
    return next((i for i, a in enumerate(node.args) if a is source), -1)


def _tensors(values: dict[fx.Node, Any], node: Any) -> list[Tensor]:
    return [first(values[n]) for n in node.all_input_nodes if isinstance(first(values[n]), Tensor)]


__all__ = ["GATHERING", "PRODUCTS", "Affine", "affine", "first", "is_affine", "normalised"]
