"""Rules for functions of single elements: the largest slope anywhere, and the slopes at x.

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
from fimviz.bounds.rules import patient, rule

# sup|f′|, and whether |f(x)| ≤ |x|
_SLOPES: list[tuple[float, bool, tuple[Any, ...]]] = [
    (1.0, True, (nn.ReLU, tf.relu, torch.relu, "relu", "relu_", torch.relu_, tf.relu_)),
    (1.0, True, (nn.ReLU6, tf.relu6)),
    (1.0, True, (nn.Softshrink, tf.softshrink)),
    (1.0, True, (nn.Tanhshrink, tf.tanhshrink)),
    (1.0, True, (nn.Softsign, tf.softsign)),
    (1.0, True, (nn.Tanh, torch.tanh, tf.tanh, "tanh")),
    (1.0, False, (nn.LogSigmoid, tf.logsigmoid)),
    (1.0, True, (torch.abs, "abs", abs)),
    (1.0, True, (operator.neg, torch.neg, torch.negative, "neg", "neg_", "negative", "__neg__")),
    (1.0, True, (torch.sin, "sin")),
    (1.0, False, (torch.cos, "cos")),
    (0.25, False, (nn.Sigmoid, torch.sigmoid, tf.sigmoid, "sigmoid", "sigmoid_")),
    (0.16667, False, (nn.Hardsigmoid, tf.hardsigmoid)),
    (1.5, True, (nn.Hardswish, tf.hardswish)),
    (1.12905, True, (nn.GELU, tf.gelu)),
    (1.09985, True, (nn.SiLU, tf.silu)),
    (1.08851, True, (nn.Mish, tf.mish)),
    (1.75810, False, (nn.SELU, tf.selu, torch.selu)),
]
_LIMITED = {nn.Sigmoid, torch.sigmoid, tf.sigmoid, "sigmoid", nn.Hardsigmoid, tf.hardsigmoid}


def _register(slope: float, shrinks: bool, targets: tuple[Any, ...]) -> None:
    @patient
    @rule(*targets)
    def element(step: Step, x: Flow, *args: Any, **kwargs: Any) -> Flow:
        out = sloped(step, x, slope, lambda v: call(step, v, *args, **kwargs))
        if shrinks:
            return replace(out, longest=x.longest)
        return limited(step, out)


def limited(step: Step, out: Flow) -> Flow:
    """Every output lies in [0, 1], and no vector of d of them is longer than √d."""
    if step.pointwise or not any(step.op is t or type(step.op) is t for t in _LIMITED if not isinstance(t, str)):
        return out
    return replace(out, longest=(0.5 * log(step.output.shape[-1]), step.output.ndim - 1))


for _entry in _SLOPES:
    _register(*_entry)


def call(step: Step, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The rule's module, function or method at another value, not in place."""
    kwargs.pop("inplace", None)
    if isinstance(step.op, str):
        return getattr(value.clone(), step.op)(*args, **kwargs)
    return step.op(value.clone(), *args, **kwargs)


def sloped(step: Step, x: Flow, slope: float, function: Callable[[Tensor], Tensor], kind: str = "") -> Flow:
    """The output of a function of every element with |f′| ≤ slope, and less at x."""
    kind = kind or (
        type(step.op).__name__ if isinstance(step.op, nn.Module) else getattr(step.op, "__name__", str(step.op))
    )
    if x.value is None:
        return x.elementwise(slope, "sup|f′|", kind=kind)
    slopes = []
    with torch.enable_grad():
        # On which side of a kink a value lies is known but for rounding.
        for moved in (x.value, x.value - x.off, x.value + x.off):
            v = moved.detach().clone().requires_grad_()
            slopes.append(torch.autograd.grad(function(v).sum(), v)[0].abs())
    local = torch.stack(slopes).amax(0).cpu().double()
    # Where the slope is 0 around x it stays so. Elsewhere what rounding can move it by, its derivative being of order
    # 1, is far below 1e−8.
    local = torch.where(local > 0, local + 1e-8, 0.0).clamp_max(slope)
    return x.elementwise(slope, "the largest |f′| at x", kind=kind, local=local)


@patient
@rule(nn.LeakyReLU)
def _leaky(step: Step, x: Flow) -> Flow:
    return _leaky_function(step, x, step.op.negative_slope)


@patient
@rule(tf.leaky_relu)
def _leaky_function(step: Step, x: Flow, negative_slope: float = 0.01, inplace: bool = False) -> Flow:
    return sloped(step, x, max(1.0, abs(negative_slope)), lambda v: tf.leaky_relu(v, negative_slope), "LeakyReLU")


@patient
@rule(nn.PReLU)
def _prelu(step: Step, x: Flow) -> Flow:
    return _prelu_function(step, x, step.op.weight)


@patient
@rule(tf.prelu)
def _prelu_function(step: Step, x: Flow, weight: Tensor) -> Flow:
    steepest = max(1.0, float(weight.detach().cpu().double().abs().amax()))
    return sloped(step, x, steepest, lambda v: tf.prelu(v, weight.detach().to(v)), "PReLU")


@rule(nn.RReLU)
def _rrelu(step: Step, x: Flow) -> Flow:
    return x.elementwise(max(1.0, abs(step.op.lower + step.op.upper) / 2), "max(1, |mean slope|)", kind="RReLU")


@patient
@rule(nn.ELU)
def _elu(step: Step, x: Flow) -> Flow:
    return _elu_function(step, x, step.op.alpha)


@patient
@rule(tf.elu)
def _elu_function(step: Step, x: Flow, alpha: float = 1.0, inplace: bool = False) -> Flow:
    return sloped(step, x, max(1.0, abs(alpha)), lambda v: tf.elu(v, alpha), "ELU")


@patient
@rule(nn.CELU)
def _celu(step: Step, x: Flow) -> Flow:
    return _celu_function(step, x, step.op.alpha)


@patient
@rule(tf.celu, torch.celu)
def _celu_function(step: Step, x: Flow, alpha: float = 1.0, inplace: bool = False) -> Flow:
    if not alpha > 0:
        raise NoBoundError(f"CELU with α = {alpha:g} is steep without limit: its slope is e^(x/α) below 0")
    return replace(sloped(step, x, 1.0, lambda v: tf.celu(v, alpha), "CELU"), longest=x.longest)


@patient
@rule(nn.Hardtanh, tf.hardtanh, torch.clamp, "clamp", "clamp_", "clamp_min", "clamp_max", torch.clip, "clip")
def _clamp(step: Step, x: Flow, *args: Any, **kwargs: Any) -> Flow:
    if any(isinstance(a, (Flow, Tensor)) for a in (*args, *kwargs.values())):
        raise NoRuleError("a clamp between tensors: write a rule for the module that holds it")
    return sloped(step, x, 1.0, lambda v: call(step, v, *args, **kwargs), "clamp")


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


@rule(nn.GLU)
def _glu(step: Step, x: Flow) -> Flow:
    return _glu_function(step, x, step.op.dim)


@rule(tf.glu)
def _glu_function(step: Step, x: Flow, dim: int = -1) -> Flow:
    """a·σ(b) of the two halves: rows (σ, a·σ(1 − σ)) that share no element, so that the longest is J's norm at x."""
    if x.value is None:
        raise NoBoundError("a gated linear unit is a product, which has a bound only at a given x")
    a, b = x.value.cpu().double().chunk(2, dim)
    gate = b.sigmoid()
    longest = float((gate.square() + (a * gate * (1 - gate)).square()).amax().sqrt()) * (1 + 1e-9)
    return x.times(longest, "the largest √(σ² + (aσ′)²) at x", kind="GLU")
