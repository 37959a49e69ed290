"""Rules for functions of single elements: the largest slope anywhere, and the slopes at x where they are smooth.

The suprema of the slopes that are not plain are computed once by a fine scan in tests, and stand here rounded up.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as tf

from fimviz.bounds.flow import Flow, NoBoundError, NoRuleError, Step, log
from fimviz.bounds.rules import rule

# sup|f′|, whether f is smooth enough for its slopes at x to be read, and whether |f(x)| ≤ |x|
_SLOPES: list[tuple[float, bool, bool, tuple[Any, ...]]] = [
    (1.0, False, True, (nn.ReLU, tf.relu, torch.relu, "relu", "relu_", torch.relu_, tf.relu_)),
    (1.0, False, True, (nn.ReLU6, tf.relu6)),
    (1.0, False, True, (nn.Softshrink, tf.softshrink)),
    (1.0, True, True, (nn.Tanhshrink, tf.tanhshrink)),
    (1.0, True, True, (nn.Softsign, tf.softsign)),
    (1.0, True, True, (nn.Tanh, torch.tanh, tf.tanh, "tanh")),
    (1.0, True, False, (nn.LogSigmoid, tf.logsigmoid)),
    (1.0, False, True, (torch.abs, "abs", abs)),
    (1.0, False, True, (operator.neg, torch.neg, torch.negative, "neg", "neg_", "negative", "__neg__")),
    (1.0, True, True, (torch.sin, "sin")),
    (1.0, True, False, (torch.cos, "cos")),
    (0.25, True, False, (nn.Sigmoid, torch.sigmoid, tf.sigmoid, "sigmoid", "sigmoid_")),
    (0.16667, False, False, (nn.Hardsigmoid, tf.hardsigmoid)),
    (1.5, False, True, (nn.Hardswish, tf.hardswish)),
    (1.12905, True, True, (nn.GELU, tf.gelu)),
    (1.09985, True, True, (nn.SiLU, tf.silu)),
    (1.08851, True, True, (nn.Mish, tf.mish)),
    (1.75810, False, False, (nn.SELU, tf.selu, torch.selu)),
]
_LIMITED = {nn.Sigmoid, torch.sigmoid, tf.sigmoid, "sigmoid", nn.Hardsigmoid, tf.hardsigmoid}


def _register(slope: float, smooth: bool, shrinks: bool, targets: tuple[Any, ...]) -> None:
    @rule(*targets)
    def element(step: Step, x: Flow, *args: Any, **kwargs: Any) -> Flow:
        out = sloped(step, x, slope, smooth, lambda v: call(step, v, *args, **kwargs))
        if shrinks:
            return replace(out, reach=x.reach)
        return limited(step, out)


def limited(step: Step, out: Flow) -> Flow:
    """Every output lies in [0, 1], and no vector of d of them is longer than √d."""
    if step.pointwise or not any(step.op is t or type(step.op) is t for t in _LIMITED if not isinstance(t, str)):
        return out
    return replace(out, reach=(0.5 * log(step.output.shape[-1]), step.output.ndim - 1))


for _entry in _SLOPES:
    _register(*_entry)


def call(step: Step, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The rule's module, function or method at another value, not in place."""
    kwargs.pop("inplace", None)
    if isinstance(step.op, str):
        return getattr(value.clone(), step.op)(*args, **kwargs)
    return step.op(value.clone(), *args, **kwargs)


def sloped(step: Step, x: Flow, slope: float, smooth: bool, function: Callable[[Tensor], Tensor]) -> Flow:
    """The output of a function of every element with |f′| ≤ slope, and less at x where it is known."""
    kind = type(step.op).__name__ if isinstance(step.op, nn.Module) else getattr(step.op, "__name__", str(step.op))
    if x.value is None or not smooth:
        return x.elementwise(slope, "sup|f′|", kind=kind)
    with torch.enable_grad():
        v = x.value.detach().clone().requires_grad_()
        (local,) = torch.autograd.grad(function(v).sum(), v)
    # What the values' own rounding can move a slope by, its second derivatives being of order 1, is far below 1e−8.
    local = (local.abs().cpu().double() + 1e-8).clamp_max(slope)
    return x.elementwise(slope, "the largest |f′| at x", kind=kind, local=local)


@rule(nn.LeakyReLU)
def _leaky(step: Step, x: Flow) -> Flow:
    return _leaky_function(step, x, step.op.negative_slope)


@rule(tf.leaky_relu)
def _leaky_function(step: Step, x: Flow, negative_slope: float = 0.01, inplace: bool = False) -> Flow:
    return x.elementwise(max(1.0, abs(negative_slope)), "max(1, |slope|)", kind="LeakyReLU")


@rule(nn.PReLU)
def _prelu(step: Step, x: Flow) -> Flow:
    return _prelu_function(step, x, step.op.weight)


@rule(tf.prelu)
def _prelu_function(step: Step, x: Flow, weight: Tensor) -> Flow:
    return x.elementwise(max(1.0, float(weight.detach().cpu().double().abs().amax())), "max(1, |slope|)", kind="PReLU")


@rule(nn.RReLU)
def _rrelu(step: Step, x: Flow) -> Flow:
    return x.elementwise(max(1.0, abs(step.op.lower + step.op.upper) / 2), "max(1, |mean slope|)", kind="RReLU")


@rule(nn.ELU)
def _elu(step: Step, x: Flow) -> Flow:
    return _elu_function(step, x, step.op.alpha)


@rule(tf.elu)
def _elu_function(step: Step, x: Flow, alpha: float = 1.0, inplace: bool = False) -> Flow:
    return x.elementwise(max(1.0, abs(alpha)), "max(1, α)", kind="ELU")


@rule(nn.CELU)
def _celu(step: Step, x: Flow) -> Flow:
    return _celu_function(step, x, step.op.alpha)


@rule(tf.celu, torch.celu)
def _celu_function(step: Step, x: Flow, alpha: float = 1.0, inplace: bool = False) -> Flow:
    if not alpha > 0:
        raise NoBoundError(f"CELU with α = {alpha:g} is steep without limit: its slope is e^(x/α) below 0")
    return replace(x.elementwise(1.0, "sup|f′|", kind="CELU"), reach=x.reach)


@rule(nn.Hardtanh, tf.hardtanh, torch.clamp, "clamp", "clamp_", "clamp_min", "clamp_max", torch.clip, "clip")
def _clamp(step: Step, x: Flow, *args: Any, **kwargs: Any) -> Flow:
    if any(isinstance(a, (Flow, Tensor)) for a in (*args, *kwargs.values())):
        raise NoRuleError("a clamp between tensors: write a rule for the module that holds it")
    return x.elementwise(1.0, "sup|f′|", kind="clamp")


@rule(nn.Softplus)
def _softplus(step: Step, x: Flow) -> Flow:
    return _softplus_function(step, x, step.op.beta, step.op.threshold)


@rule(tf.softplus)
def _softplus_function(step: Step, x: Flow, beta: float = 1.0, threshold: float = 20.0) -> Flow:
    """Where βx passes the threshold t, torch goes on with x itself: a jump, of ln(1 + e^−t)/t relative to x.

    No slope bounds a jump. From t ≈ 14 on, 20 by default, it is below the rounding of single precision.
    """
    if beta == 0 or threshold <= 0 or math.log1p(math.exp(-threshold)) > 2**-24 * threshold:
        raise NoBoundError(
            f"softplus with the threshold {threshold:g} jumps there, by more than rounding: take one of at least 15"
        )
    return x.elementwise(1.0, "sup|f′|", kind="Softplus")


@rule(torch.exp, "exp", torch.sqrt, "sqrt", torch.rsqrt, "rsqrt", torch.log, "log", torch.square, "square", torch.pow,
      "pow", operator.pow)  # fmt: skip
def _steep(step: Step, x: Flow, *args: Any, **kwargs: Any) -> Flow:
    """Slopes without limit: what they are at x only."""
    name = step.op if isinstance(step.op, str) else step.op.__name__
    if not isinstance(x, Flow) or any(isinstance(a, Flow) for a in (*args, *kwargs.values())):
        raise NoRuleError(
            f"{name} with an exponent that depends on the input: write a rule for the module that holds it"
        )
    if x.value is None:
        raise NoBoundError(f"{name} is steep without limit, so that only a bound at a given x exists")
    with torch.enable_grad():
        v = x.value.detach().clone().requires_grad_()
        (local,) = torch.autograd.grad(call(step, v, *args, **kwargs).sum(), v)
    if not local.isfinite().all():
        raise NoBoundError(f"{name} has no finite slope at this x")
    local = local.abs().cpu().double() * (1 + 1e-6) + 1e-12
    return x.elementwise(float(local.amax()), "the largest |f′| at x", kind=name, local=local)
