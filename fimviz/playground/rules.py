"""How each operation of torch becomes one that the page carries out: a table of functions by their names in ATen.

A rule is called as `rule(recorder, func, args, kwargs, out)` and returns the slots of the operation's results.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from fimviz.playground.program import NoRuleError, Program

Rule = Callable[..., list[int]]
_RULES: dict[str, Rule] = {}


def rule_of(name: str) -> Rule | None:
    """The rule of an operation, also of the one in place."""
    return _RULES.get(name) or _RULES.get(name.removesuffix("_"))


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, function))
        return function

    return register


def _named(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments by their names, defaults included."""
    given = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    return given | {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | kwargs


_PLACES = [  # operations whose results are numbers of their arguments at other places, or 0
    "view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "clone", "contiguous", "alias",
    "lift_fresh", "transpose", "permute", "t", "numpy_T", "expand", "squeeze", "unsqueeze", "select", "slice", "split",
    "split_with_sizes", "unsafe_split", "unbind", "chunk", "cat", "stack", "flip", "roll", "repeat", "narrow",
    "diagonal", "index_select", "unfold", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "tril",
    "native_channel_shuffle", "triu", "as_strided", "im2col", "reflection_pad1d", "reflection_pad2d",
    "replication_pad1d", "replication_pad2d",
    "constant_pad_nd", "upsample_nearest2d", "movedim", "index",
]  # fmt: skip


@_rule(*_PLACES)
def _places(r: Any, func: Any, args: Any, kwargs: Any, out: Any) -> list[int]:
    """Which place each number comes from: asked of torch, by numbers that say where they stand."""
    if func._schema.name == "aten::constant_pad_nd" and _named(func, args, kwargs).get("value"):
        raise NoRuleError(f"no rule carries the padding of {r.where} by another number than 0 into a page")
    if func._schema.name == "aten::as_strided":
        raise NoRuleError(f"no rule carries as_strided of {r.where} into a page")
    leaves, form = tree_flatten((args, kwargs))
    sources, start = [], 1
    for i, t in enumerate(leaves):
        if not isinstance(t, Tensor) or not t.is_floating_point():
            continue
        sources.append(r.read(t))
        leaves[i] = torch.arange(start, start + t.numel(), dtype=torch.float64, device=t.device).view(t.shape)
        start += t.numel()
    placed_args, placed_kwargs = tree_unflatten(leaves, form)
    return [gathered(r.program, sources, one) for one in tree_leaves(func(*placed_args, **placed_kwargs))]


def gathered(program: Program, sources: list[int], places: Tensor) -> int:
    """The slot of the numbers at these places, counted from 1 over all sources; 0 stands for the number 0."""
    at = places.detach().reshape(-1).cpu().to(torch.int32) - 1
    if len(sources) == 1 and torch.equal(at, torch.arange(program.sizes[sources[0]], dtype=torch.int32)):
        return sources[0]
    return program.call("gather", sources, at.numel(), at=at)


@_rule("_to_copy", "to")
def _converted(r: Any, func: Any, args: Any, kwargs: Any, out: Any) -> list[int]:
    if not out.is_floating_point():
        raise NoRuleError(f"{r.where} turns what depends on the input into whole numbers, which no rule carries")
    return [r.read(args[0])]


@_rule("detach")
def _detach(r: Any, func: Any, args: Any, kwargs: Any, out: Any) -> list[int]:
    return [r.program.call("stop", [r.read(args[0])], out.numel())]


def _parameters(*names: str) -> Callable[[dict[str, Any]], list[float]]:
    return lambda given: [float(given[name]) for name in names]


_UNARY: dict[str, tuple[str, Callable[[dict[str, Any]], list[float]]]] = {
    "relu": ("relu", _parameters()),
    "leaky_relu": ("leaky", _parameters("negative_slope")),
    "elu": ("elu", _parameters("alpha", "scale", "input_scale")),
    "celu": ("elu", lambda given: [float(given["alpha"]), 1.0, 1 / float(given["alpha"])]),
    "selu": ("elu", lambda given: [1.6732632423543772, 1.0507009873554805, 1.0]),
    "hardtanh": ("clip", _parameters("min_val", "max_val")),
    "threshold": ("threshold", _parameters("threshold", "value")),
    "sigmoid": ("sigmoid", _parameters()),
    "log_sigmoid_forward": ("logsigmoid", _parameters()),
    "tanh": ("tanh", _parameters()),
    "silu": ("silu", _parameters()),
    "mish": ("mish", _parameters()),
    "hardswish": ("hardswish", _parameters()),
    "hardsigmoid": ("hardsigmoid", _parameters()),
    "softplus": ("softplus", _parameters("beta", "threshold")),
    "gelu": ("gelu", lambda given: [float(given["approximate"] == "tanh")]),
    "erf": ("erf", _parameters()),
    "exp": ("exp", _parameters()),
    "log": ("log", _parameters()),
    "abs": ("abs", _parameters()),
    "sqrt": ("power", lambda given: [0.5]),
    "rsqrt": ("power", lambda given: [-0.5]),
    "reciprocal": ("power", lambda given: [-1.0]),
    "square": ("power", lambda given: [2.0]),
    "sin": ("sin", _parameters()),
    "cos": ("cos", _parameters()),
}


@_rule(*_UNARY)
def _unary(r: Any, func: Any, args: Any, kwargs: Any, out: Any) -> list[int]:
    name = func._schema.name.partition("::")[2]
    function, parameters = _UNARY.get(name) or _UNARY[name.removesuffix("_")]
    size = tree_leaves(out)[0].numel()
    return [r.program.call("unary", [r.read(args[0])], size, of=function, by=parameters(_named(func, args, kwargs)))]


@_rule("clamp", "clamp_min", "clamp_max")
def _clamp(r: Any, func: Any, args: Any, kwargs: Any, out: Any) -> list[int]:
    given = _named(func, args, kwargs)
    ends = [given.get("min"), given.get("max")]
    if any(isinstance(end, Tensor) for end in ends):
        raise NoRuleError(f"no rule carries a clamp of {r.where} by tensors into a page")
    low, high = (d if end is None else float(end) for end, d in zip(ends, (-1e300, 1e300), strict=True))
    return [r.program.call("unary", [r.read(args[0])], out.numel(), of="clamp", by=[low, high])]


@_rule("pow")
def _pow(r: Any, func: Any, args: Any, kwargs: Any, out: Any) -> list[int]:
    x, exponent = args[:2]
    if isinstance(x, Tensor) and not isinstance(exponent, Tensor):
        return [r.program.call("unary", [r.read(x)], out.numel(), of="power", by=[float(exponent)])]
    raise NoRuleError(f"no rule carries a power of {r.where} by a tensor into a page")


@_rule("_prelu_kernel")
def _prelu(r: Any, func: Any, args: Any, kwargs: Any, out: Any) -> list[int]:
    """The difference relu(x) − w relu(−x)."""
    x, weight = args
    up = r.program.call("unary", [r.read(x)], out.numel(), of="relu", by=[])
    turned = _scaled(r, r.read(x), out, -1.0)
    down = _scaled(r, r.program.call("unary", [turned], out.numel(), of="relu", by=[]), out, -weight)
    return [r.program.call("binary", [up, down], out.numel(), of="add")]


def _scaled(r: Any, slot: int, out: Tensor, scale: Any = 1.0, shift: Any = 0.0) -> int:
    """A slot of scale · x + shift, by numbers or by tensors that do not depend on the input, of fitting shapes."""
    how: dict[str, Any] = {}
    inner = 1
    shapes = [t.shape for t in (scale, shift) if isinstance(t, Tensor) and t.numel() > 1]
    if shapes:
        last = out.ndim
        while last and all(len(s) < out.ndim - last + 1 or s[last - out.ndim - 1 + len(s)] == 1 for s in shapes):
            last -= 1
        inner = math.prod(out.shape[last:])
    for name, value in (("scale", scale), ("shift", shift)):
        if not isinstance(value, Tensor) or value.numel() == 1:
            how[name] = float(value)
        else:
            how[name] = value.detach().expand(out.shape).reshape(-1, inner)[:, 0]
    if not shapes and how == {"scale": 1.0, "shift": 0.0}:
        return slot
    return int(r.program.call("affine", [slot], out.numel(), inner=inner, **how))


def _wide(r: Any, t: Tensor, out: Tensor) -> int:
    """The slot of a tensor, repeated to the shape of the result."""
    slot = r.read(t)
    if t.shape == out.shape:
        return int(slot)
    places = torch.arange(1, t.numel() + 1, dtype=torch.float64).view(t.shape).expand(out.shape)
    return gathered(r.program, [slot], places)


@_rule("add", "sub", "rsub", "mul", "div")
def _arithmetic(r: Any, func: Any, args: Any, kwargs: Any, out: Tensor) -> list[int]:
    name = func._schema.name.partition("::")[2].removesuffix("_")
    given = _named(func, args, kwargs)
    a, b, alpha = args[0], args[1], given.get("alpha", 1)
    if given.get("rounding_mode"):
        raise NoRuleError(f"no rule carries a division of {r.where} that rounds into a page")
    if name == "rsub":
        a, b, name = b, a, "sub"
    if r.depends(a) and r.depends(b):
        one, other = _wide(r, a, out), _wide(r, b, out)
        if alpha != 1:
            other = _scaled(r, other, out, float(alpha))
        return [r.program.call("binary", [one, other], out.numel(), of=name)]
    x, c = (a, b) if r.depends(a) else (b, a)
    slot, first = _wide(r, x, out), x is a
    if name == "add":
        return [_scaled(r, slot, out, 1.0 if first else alpha, c * alpha if first else c)]
    if name == "sub":
        return [_scaled(r, slot, out, 1.0, -(c * alpha)) if first else _scaled(r, slot, out, -float(alpha), c)]
    if name == "mul":
        return [_scaled(r, slot, out, c)]
    if first:
        return [_scaled(r, slot, out, 1 / c)]
    return [_scaled(r, r.program.call("unary", [slot], out.numel(), of="power", by=[-1.0]), out, c)]


@_rule("neg")
def _neg(r: Any, func: Any, args: Any, kwargs: Any, out: Any) -> list[int]:
    return [_scaled(r, r.read(args[0]), out, -1.0)]


@_rule("maximum", "minimum")
def _extreme(r: Any, func: Any, args: Any, kwargs: Any, out: Any) -> list[int]:
    name = func._schema.name.partition("::")[2]
    return [r.program.call("binary", [_wide(r, t, out) for t in args[:2]], out.numel(), of=name)]


@_rule("convolution")
def _convolution(r: Any, func: Any, args: Any, kwargs: Any, out: Tensor) -> list[int]:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = args[:9]
    if transposed:
        raise NoRuleError(f"no rule carries the transposed convolution of {r.where} into a page")
    if r.depends(weight) or x.ndim not in (3, 4):
        raise NoRuleError(f"no rule carries the convolution of {r.where} into a page: expected one or two dimensions")
    flat = x.ndim == 3  # (n, c, length) is (n, c, 1, length)

    def two(values: Any, empty: int) -> list[int]:
        values = list(values) * (x.ndim - 2) if len(values) == 1 else list(values)
        return [empty, *values] if flat else values

    sizes = [([1, *t.shape[2:]] if flat else list(t.shape[2:])) for t in (x, weight, out)]
    return [
        r.program.call(
            "conv", [r.read(x)], out.numel(),
            weight=weight.detach().reshape(-1), bias=None if bias is None else bias.detach(),
            groups=groups, inputs=x.shape[1], outputs=out.shape[1], area=sizes[0], kernel=sizes[1], onto=sizes[2],
            stride=two(stride, 1), padding=two(padding, 0), dilation=two(dilation, 1),
        )
    ]  # fmt: skip


@_rule("addmm")
def _addmm(r: Any, func: Any, args: Any, kwargs: Any, out: Tensor) -> list[int]:
    given = _named(func, args, kwargs)
    product = _product(r, given["mat1"], given["mat2"], out)
    if given["alpha"] != 1:
        product = _scaled(r, product, out, float(given["alpha"]))
    if r.depends(given["self"]):
        bias = _wide(r, given["self"], out)
        bias = bias if given["beta"] == 1 else _scaled(r, bias, out, float(given["beta"]))
        return [r.program.call("binary", [product, bias], out.numel(), of="add")]
    return [_scaled(r, product, out, 1.0, given["self"] * given["beta"])]


@_rule("baddbmm")
def _baddbmm(r: Any, func: Any, args: Any, kwargs: Any, out: Tensor) -> list[int]:
    given = _named(func, args, kwargs)
    product = _product(r, given["batch1"], given["batch2"], out)
    product = product if given["alpha"] == 1 else _scaled(r, product, out, float(given["alpha"]))
    if given["beta"] == 0:
        return [product]
    if r.depends(given["self"]):
        raise NoRuleError(f"no rule carries baddbmm of {r.where} onto what depends on the input into a page")
    return [_scaled(r, product, out, 1.0, given["self"] * given["beta"])]


@_rule("mm", "bmm")
def _matrices(r: Any, func: Any, args: Any, kwargs: Any, out: Tensor) -> list[int]:
    return [_product(r, args[0], args[1], out)]


def _product(r: Any, a: Tensor, b: Tensor, out: Tensor) -> int:
    if r.depends(a) and not r.depends(b) and b.ndim == 2:
        return int(r.program.call("linear", [r.read(a)], out.numel(), rows=a.shape[0], weight=b.detach().T.reshape(-1)))
    count = 1 if a.ndim == 2 else a.shape[0]
    n, m, p = a.shape[-2], a.shape[-1], b.shape[-1]
    return int(r.program.call("matmul", [r.read(a), r.read(b)], out.numel(), shape=[count, n, m, p]))


@_rule("_softmax", "_safe_softmax", "_log_softmax", "softmax", "log_softmax")
def _softmax(r: Any, func: Any, args: Any, kwargs: Any, out: Tensor) -> list[int]:
    x, dim = args[:2]
    places = torch.arange(1, x.numel() + 1, dtype=torch.float64).view(x.shape).movedim(dim, -1)
    rows = gathered(r.program, [r.read(x)], places)
    kind = "logsoftmax" if "log" in func._schema.name else "softmax"
    done = r.program.call(kind, [rows], out.numel(), width=x.shape[dim])
    back = torch.arange(1, x.numel() + 1, dtype=torch.float64).view(places.shape).movedim(-1, dim)
    return [gathered(r.program, [done], back)]


@_rule("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "_batch_norm_no_update")
def _batch_norm(r: Any, func: Any, args: Any, kwargs: Any, out: Any) -> list[int]:
    given = _named(func, args, kwargs)
    x, mean, var = given["input"], given["running_mean"], given["running_var"]
    if given.get("training") or mean is None:
        raise NoRuleError(f"no rule carries {r.where}, which normalises by the input itself, into a page")
    eps = given["eps"] if "eps" in given else given["epsilon"]
    scale = (var.double() + eps).rsqrt() * (1.0 if given["weight"] is None else given["weight"].double())
    shift = (0.0 if given["bias"] is None else given["bias"].double()) - mean.double() * scale
    shape = (-1,) + (1,) * (x.ndim - 2)
    return [_scaled(r, r.read(x), tree_leaves(out)[0], scale.view(shape), shift.view(shape))]


@_rule("native_layer_norm")
def _layer_norm(r: Any, func: Any, args: Any, kwargs: Any, out: Any) -> list[int]:
    x, shape, weight, bias, eps = args[:5]
    done = r.program.call("norm", [r.read(x)], x.numel(), width=math.prod(shape), eps=float(eps))
    if weight is None and bias is None:
        return [done]
    return [_scaled(r, done, x, 1.0 if weight is None else weight, 0.0 if bias is None else bias)]


@_rule("native_group_norm")
def _group_norm(r: Any, func: Any, args: Any, kwargs: Any, out: Any) -> list[int]:
    x, weight, bias, _, channels, room, groups, eps = args[:8]
    done = r.program.call("norm", [r.read(x)], x.numel(), width=channels * room // groups, eps=float(eps))
    if weight is None and bias is None:
        return [done]
    shape = (-1,) + (1,) * (x.ndim - 2)
    scale, shift = (d if t is None else t.view(shape) for t, d in ((weight, 1.0), (bias, 0.0)))
    return [_scaled(r, done, x, scale, shift)]


def _over(r: Any, x: Tensor, windows: Tensor, weights: Tensor | None) -> int:
    """The largest of each row of places (m, w), counted from 1, or their sum times its weight (m,)."""
    how = {} if weights is None else {"weight": weights.reshape(-1).double()}
    kind = "max" if weights is None else "sum"
    at = windows.cpu().to(torch.int32) - 1
    return int(r.program.call(kind, [r.read(x)], len(windows), width=windows.shape[1], at=at.reshape(-1), **how))


@_rule("mean", "sum")
def _mean(r: Any, func: Any, args: Any, kwargs: Any, out: Tensor) -> list[int]:
    x = args[0]
    dims = _named(func, args, kwargs).get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(x.ndim))
    places = torch.arange(1, x.numel() + 1).view(x.shape).movedim(dims, list(range(-len(dims), 0)))
    windows = places.reshape(out.numel(), -1)
    weight = 1.0 if func._schema.name == "aten::sum" else 1 / windows.shape[1]
    return [_over(r, x, windows, torch.full((len(windows),), weight, dtype=torch.float64))]


def _pairs(values: Any, default: Any = None) -> list[int]:
    values = list(values) or list(default)
    return [int(v) for v in (values * 2 if len(values) == 1 else values)]


def _windows(x: Tensor, rows: list[list[int]], columns: list[list[int]]) -> Tensor:
    """Places (m, w) of the windows of these rows and columns in every plane of x; what lies outside is 0."""
    height, width = x.shape[-2:]
    planes = torch.arange(1, x.numel() + 1).view(-1, height, width)
    planes = torch.nn.functional.pad(planes, (0, 1, 0, 1))  # the place of what lies outside

    def padded(lines: list[list[int]], most: int) -> Tensor:
        long = max(map(len, lines))
        inside = [[i if 0 <= i < most else most for i in line] for line in lines]
        return torch.tensor([line + [most] * (long - len(line)) for line in inside])

    at_row, at_column = padded(rows, height), padded(columns, width)
    found = planes[:, at_row[:, None, :, None], at_column[None, :, None, :]]
    return found.reshape(-1, at_row.shape[1] * at_column.shape[1])


def _sliding(given: dict[str, Any], out: Tensor) -> list[list[list[int]]]:
    kernel = _pairs(given["kernel_size"])
    stride, padding = _pairs(given["stride"], kernel), _pairs(given["padding"])
    dilation = _pairs(given.get("dilation", [1]))
    return [
        [[o * s - p + k * d for k in range(size)] for o in range(count)]
        for count, size, s, p, d in zip(out.shape[-2:], kernel, stride, padding, dilation, strict=True)
    ]


@_rule("max_pool2d_with_indices", "max_pool2d")
def _max_pool(r: Any, func: Any, args: Any, kwargs: Any, out: Any) -> list[int]:
    rows, columns = _sliding(_named(func, args, kwargs), tree_leaves(out)[0])
    return [_over(r, args[0], _windows(args[0], rows, columns), None)]


@_rule("avg_pool2d")
def _avg_pool(r: Any, func: Any, args: Any, kwargs: Any, out: Tensor) -> list[int]:
    rows, columns = _sliding(_named(func, args, kwargs), out)
    windows = _windows(args[0], rows, columns)
    # torch says what it divides by, where windows reach beyond an edge
    ones = func(torch.ones_like(args[0]), *args[1:], **kwargs).reshape(-1).cpu()
    return [_over(r, args[0], windows, ones.double() / (windows > 0).sum(1).clamp_min(1))]


def _adaptive(x: Tensor, out: Tensor) -> list[list[list[int]]]:
    return [
        [list(range(i * size // count, -(-(i + 1) * size // count))) for i in range(count)]
        for size, count in zip(x.shape[-2:], out.shape[-2:], strict=True)
    ]


@_rule("_adaptive_avg_pool2d", "adaptive_avg_pool2d")
def _adaptive_avg(r: Any, func: Any, args: Any, kwargs: Any, out: Tensor) -> list[int]:
    windows = _windows(args[0], *_adaptive(args[0], out))
    return [_over(r, args[0], windows, 1 / (windows > 0).sum(1).double())]


@_rule("adaptive_max_pool2d")
def _adaptive_max(r: Any, func: Any, args: Any, kwargs: Any, out: Any) -> list[int]:
    return [_over(r, args[0], _windows(args[0], *_adaptive(args[0], tree_leaves(out)[0])), None)]


__all__ = ["gathered", "rule_of"]
