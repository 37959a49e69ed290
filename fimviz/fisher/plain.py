"""Operations of backward passes, as plainer ones that do the same to the gradient that they take.

Going back, an operation multiplies a gradient by numbers that do not depend on it, or convolves it with weights. Torch
finds the numbers anew in every pass, and differentiates some of these operations group by group, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._ops import OpOverload

_ELEMENTWISE = {
    *("threshold_backward", "hardtanh_backward", "hardswish_backward", "hardsigmoid_backward", "leaky_relu_backward"),
    *("silu_backward", "gelu_backward", "mish_backward", "elu_backward", "softplus_backward"),
    *("sigmoid_backward", "tanh_backward", "native_dropout_backward"),
}


def plainer(func: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[OpOverload, tuple[Any, ...]] | None:
    """An operation and its arguments that give what this one gives of its first argument, the rest left as it is."""
    name = func.overloadpacket.__name__
    if func is torch.ops.aten.detach.default:  # a step of a backward pass may be differentiated
        return torch.ops.aten.alias.default, tuple(args)
    if func is torch.ops.aten.view.default:  # what comes may have other strides than what was recorded
        return torch.ops.aten.reshape.default, tuple(args)
    if name in _ELEMENTWISE and func._overloadname == "default":
        return torch.ops.aten.mul.Tensor, (args[0], func(torch.ones_like(args[0]), *args[1:], **kwargs))
    if name == "native_batch_norm_backward" and not args[7] and list(args[9]) == [True, False, False]:
        gradient, values = (t[tuple(slice(1) if at != 1 else slice(None) for at in range(t.ndim))] for t in args[:2])
        return torch.ops.aten.mul.Tensor, (args[0], func(torch.ones_like(gradient), values, *args[2:])[0])
    if name == "convolution_backward" and list(args[10]) == [True, False, False]:
        return torch.ops.aten.convolution.default, _transposed(*args[:3], *args[4:10])
    return None


def _transposed(
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> tuple[Any, ...]:
    """The arguments of a convolution that takes a gradient of another one's output to that of its input x."""
    ends = [0] * (x.ndim - 2)
    if not transposed:
        given = (
            v if len(v) == len(ends) else [*v] * len(ends) for v in (stride, padding, dilation)
        )  # one for all axes
        sizes = zip(x.shape[2:], gradient.shape[2:], weight.shape[2:], *given, strict=True)
        ends = [size - ((out - 1) * step - 2 * pad + gap * (tap - 1) + 1) for size, out, tap, step, pad, gap in sizes]
    return gradient, weight, None, stride, padding, dilation, not transposed, ends, groups
