"""A program carried out by torch, a batch at a time: what a page says can be said, and checked, without a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fimviz.playground.program import Program

_UNARY: dict[str, Callable[..., Tensor]] = {
    "relu": functional.relu,
    "leaky": functional.leaky_relu,
    "elu": torch.ops.aten.elu.default,
    "clip": functional.hardtanh,
    "clamp": torch.clamp,
    "threshold": functional.threshold,
    "sigmoid": torch.sigmoid,
    "logsigmoid": functional.logsigmoid,
    "tanh": torch.tanh,
    "silu": functional.silu,
    "mish": functional.mish,
    "hardswish": functional.hardswish,
    "hardsigmoid": functional.hardsigmoid,
    "softplus": functional.softplus,
    "gelu": lambda x, tanh: functional.gelu(x, approximate="tanh" if tanh else "none"),
    "erf": torch.erf,
    "exp": torch.exp,
    "log": torch.log,
    "abs": torch.abs,
    "power": torch.pow,
    "sin": torch.sin,
    "cos": torch.cos,
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}


def replay(program: Program, x: Tensor) -> Tensor:
    """The logits (n, K) of inputs (n, D) in float64, by the operations of a program."""
    values: dict[int, Tensor] = {0: x}
    values |= {slot: value.to(x).expand(len(x), -1) for slot, value in program.constants.items()}
    for op in program.ops:
        values[op["to"]] = _KINDS[op["kind"]](op, *(values[slot] for slot in op["from"])).reshape(len(x), -1)
    return values[program.logits]


def _linear(op: dict[str, Any], x: Tensor) -> Tensor:
    rows = x.view(len(x), op["rows"], -1)
    return rows @ op["weight"].to(x).view(-1, rows.shape[-1]).T


def _conv(op: dict[str, Any], x: Tensor) -> Tensor:
    weight = op["weight"].to(x).view(op["outputs"], -1, *op["kernel"])
    bias = None if op["bias"] is None else op["bias"].to(x)
    planes = x.view(len(x), op["inputs"], *op["area"])
    return functional.conv2d(planes, weight, bias, op["stride"], op["padding"], op["dilation"], op["groups"])


def _matmul(op: dict[str, Any], a: Tensor, b: Tensor) -> Tensor:
    count, n, m, p = op["shape"]
    return a.reshape(len(a), count, n, m) @ b.reshape(len(a), count, m, p)


def _at(x: Tensor, places: Tensor, outside: float) -> Tensor:
    """Numbers of each row at these places, of which −1 is outside."""
    return functional.pad(x, (0, 1), value=outside)[:, places.long()]


def _windows(op: dict[str, Any], x: Tensor, outside: float) -> Tensor:
    return _at(x, op["at"], outside).unflatten(1, (-1, op["width"]))


def _affine(op: dict[str, Any], x: Tensor) -> Tensor:
    def spread(value: Any) -> Any:
        return value.to(x).repeat_interleave(op["inner"]) if isinstance(value, Tensor) else value

    return x * spread(op["scale"]) + spread(op["shift"])


def _norm(op: dict[str, Any], x: Tensor) -> Tensor:
    return functional.layer_norm(x.view(len(x), -1, op["width"]), (op["width"],), eps=op["eps"])


def _softmax(op: dict[str, Any], x: Tensor) -> Tensor:
    return x.view(len(x), -1, op["width"]).softmax(-1)


def _log_softmax(op: dict[str, Any], x: Tensor) -> Tensor:
    return x.view(len(x), -1, op["width"]).log_softmax(-1)


_KINDS: dict[str, Callable[..., Tensor]] = {  # those of fimviz/views/playground/layers.js
    "linear": _linear,
    "conv": _conv,
    "matmul": _matmul,
    "gather": lambda op, *sources: _at(torch.cat(sources, 1), op["at"], 0.0),
    "affine": _affine,
    "unary": lambda op, x: _UNARY[op["of"]](x, *op["by"]),
    "binary": lambda op, a, b: _BINARY[op["of"]](a, b),
    "max": lambda op, x: _windows(op, x, -torch.inf).max(-1).values,
    "sum": lambda op, x: _windows(op, x, 0.0).sum(-1) * op["weight"].to(x),
    "softmax": _softmax,
    "logsoftmax": _log_softmax,
    "norm": _norm,
    "stop": lambda op, x: x.detach(),
}

__all__ = ["replay"]
