"""Rules for what mixes or rescales by its own values: normalisation by the input, softmax, products of tensors.

None of it has a useful bound that holds everywhere; at one x, the Jacobian is known in closed form. Tokens (the
positions of a sequence or an image) keep a bound each where a rule can tell them apart.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as tf

from fimviz.bounds.flow import Flow, NoBoundError, NoRuleError, Step, collapsed, log, log_norm, log_sum, times
from fimviz.bounds.layers import normalised
from fimviz.bounds.rules import rule

SPARE = 1e-9  # added to logarithms of what is computed from values at x, for their rounding in double precision


@rule(nn.LayerNorm)
def _layer_norm(step: Step, x: Flow) -> Flow:
    return _layer_norm_function(step, x, step.op.normalized_shape, step.op.weight, step.op.bias, step.op.eps)


@rule(tf.layer_norm, torch.layer_norm)
def _layer_norm_function(step: Step, x: Flow, normalized_shape: Any, weight: Tensor | None = None,
                         bias: Tensor | None = None, eps: float = 1e-5, *unused: Any) -> Flow:  # fmt: skip
    """J = diag(γ)(I − 11ᵀ/d − x̂x̂ᵀ/d)/s with s = √(var + ε): ‖·‖ ≤ max|γ|/s, and s ≥ √ε at every x."""
    rank = len(x.shape)
    axes = list(range(rank - len(normalized_shape), rank))
    size = None if x.value is None else (x.value.var(axes, correction=0, keepdim=True) + eps).sqrt()
    out = _rescaled(x, axes, size, eps, "layer normalisation", "max|γ|/√(var + ε)")
    return _with_affine(out, x, axes, weight, bias)


def _rescaled(x: Flow, axes: list[int], size: Tensor | None, eps: float, kind: str, formula: str) -> Flow:
    """Vectors along axes divided by their own size: at x as large as `size`, and never smaller than √ε."""
    if size is None:
        if not eps > 0:
            raise NoBoundError(f"{kind} without an ε is steep without limit, so that only a bound at a given x exists")
        return replace(x.times(1 / math.sqrt(eps), formula + ", at least √ε", kind=kind), shape=x.shape)
    up = -size.detach().cpu().double().log() + SPARE
    grid = collapsed(x.finest, axes) + up
    note = (kind, float(up.amax()), formula + " at x")
    return replace(x.gridded(grid, note, x.total + float(up.amax())), shape=x.shape)


def _with_affine(out: Flow, x: Flow, axes: list[int], weight: Tensor | None, bias: Tensor | None) -> Flow:
    """Factors and offsets behind a normalisation of vectors of d elements, of which none is longer than √d."""
    peak = 1.0 if weight is None else float(weight.detach().cpu().double().abs().amax())
    kind, gain, formula = out.note or ("", 0.0, "")
    note = (kind, None if gain is None else gain + log(peak), formula)
    longest = None
    if x.value is None:
        size = math.sqrt(math.prod(x.shape[a] for a in axes)) * peak
        longest = (
            log(size + (0.0 if bias is None else float(bias.detach().cpu().double().norm()))) + SPARE,
            len(x.shape) - 1,
        )
    if weight is not None and len(axes) == 1:
        out = out.scaled(axes[0], weight, formula)
    elif weight is not None:
        out = out.elementwise(peak, formula)
    return replace(out, note=note, longest=longest)


@rule(nn.RMSNorm)
def _rms_norm(step: Step, x: Flow) -> Flow:
    return _rms_norm_function(step, x, step.op.normalized_shape, step.op.weight, step.op.eps)


@rule(tf.rms_norm, torch.rms_norm)
def _rms_norm_function(step: Step, x: Flow, normalized_shape: Any, weight: Tensor | None = None,
                       eps: float | None = None) -> Flow:  # fmt: skip
    """J = diag(γ)(I − x̂x̂ᵀ/d)/r with r = √(mean x² + ε)."""
    rank = len(x.shape)
    axes = list(range(rank - len(normalized_shape), rank))
    size = None if x.value is None else (x.value.square().mean(axes, keepdim=True) + (eps or 0.0)).sqrt()
    out = _rescaled(x, axes, size, eps or 0.0, "RMS normalisation", "max|γ|/√(mean x² + ε)")
    return _with_affine(out, x, axes, weight, None)


@rule(nn.GroupNorm)
def _group_norm(step: Step, x: Flow) -> Flow:
    return _group_norm_function(step, x, step.op.num_groups, step.op.weight, step.op.bias, step.op.eps)


@rule(tf.group_norm, torch.group_norm)
def _group_norm_function(step: Step, x: Flow, num_groups: int, weight: Tensor | None = None,
                         bias: Tensor | None = None, eps: float = 1e-5, *unused: Any) -> Flow:  # fmt: skip
    """As layer normalisation, over the channels of a group at all positions; γ waits for the layer behind."""
    gain = 1 / math.sqrt(eps)
    if x.value is not None:
        groups = x.value.reshape(len(x.value), num_groups, -1)
        gain = float((groups.var(2, correction=0) + eps).rsqrt().amax()) * (1 + SPARE)
    out = replace(x.times(gain, "1/√(var + ε) of a group", kind="group normalisation"), shape=x.shape)
    return out if weight is None else replace(out.scaled(1, weight, ""), note=out.note)


@rule(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
def _instance_norm(step: Step, x: Flow) -> Flow:
    m = step.op
    if m.track_running_stats:
        scale = (m.running_var.detach().cpu().double() + m.eps).rsqrt()
        return normalised(x, scale if m.weight is None else scale * m.weight.detach().cpu().double())
    return _group_norm_function(step, x, x.shape[1], m.weight, m.bias, m.eps)


@rule(tf.normalize)
def _normalize(step: Step, x: Flow, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Flow:
    """J = (I − x̂x̂ᵀ)/‖x‖."""
    if p != 2:
        raise NoRuleError(f"normalisation by the norm of power {p}: write a rule for the module that uses it")
    size = None if x.value is None else x.value.norm(dim=dim, keepdim=True).clamp_min(eps)
    flow = _rescaled(x, [dim % len(x.shape)], size, eps**2, "normalisation", "1/‖x‖")
    return flow if size is not None else replace(flow, longest=(SPARE, dim % len(x.shape)))


@rule(torch.linalg.vector_norm, torch.norm, torch.functional.norm, "norm")
def _vector_norm(step: Step, x: Flow, ord: Any = 2, dim: Any = None, keepdim: bool = False,  # noqa: A002
                 **options: Any) -> Flow:  # fmt: skip
    """J = xᵀ/‖x‖ for every vector: 1, at every x."""
    ord = options.get("p", ord)  # noqa: A001
    if ord not in (2, None, "fro") or options.get("dtype") is not None:
        raise NoRuleError(f"the norm of power {ord}: write a rule for the module that uses it")
    axes = list(range(len(x.shape))) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    axes = [a % len(x.shape) for a in axes]
    grid = None if x.grid is None else collapsed(x.grid, axes)
    if grid is not None and not keepdim:
        grid = grid.reshape([n for i, n in enumerate(grid.shape) if i not in axes])
    return x.gridded(grid, ("norm", 0.0, "1, for every vector"), x.total)


@rule(torch.logsumexp, "logsumexp")
def _log_sum_exp(step: Step, x: Flow, *args: Any, **kwargs: Any) -> Flow:
    """J = softmax(x)ᵀ for every vector: at most 1."""
    return x.times(1.0, "‖softmax‖", kind="logsumexp")


@rule(nn.Softmax)
def _softmax(step: Step, x: Flow) -> Flow:
    return _softmax_function(step, x, step.op.dim)


@rule(tf.softmax, torch.softmax, "softmax")
def _softmax_function(step: Step, x: Flow, dim: int | None = None, *unused: Any, **options: Any) -> Flow:
    """J = diag(a) − aaᵀ: at most max aᵢ, and by Gershgorin 2 max aᵢ(1 − aᵢ) ≤ ½, at every x."""
    if dim is None:
        raise NoRuleError("a softmax that does not say along which axis: pass dim")
    dim %= len(x.shape)
    level, kind = dim == len(x.shape) - 1, "softmax"
    scores = replace(x.scores, softmaxed=True) if x.scores and level else None
    if not step.pointwise:
        out = x.times(0.5, "½, by Gershgorin's circles", kind=kind)
        return replace(out, longest=(0.0, dim), level=level, scores=scores)
    a = step.output.detach().cpu().double()
    up = torch.minimum(a.amax(dim, keepdim=True), (2 * a * (1 - a)).amax(dim, keepdim=True)).log() + SPARE
    note = (kind, float(up.amax()), "min(max a, 2 max a(1 − a)) at x")
    out = x.gridded(collapsed(x.finest, [dim]) + up, note, x.total + float(up.amax()))
    return replace(out, level=level, scores=scores)


@rule(nn.LogSoftmax, tf.log_softmax, torch.log_softmax, "log_softmax")
def _log_softmax(step: Step, x: Flow, *args: Any, **kwargs: Any) -> Flow:
    """J = I − 1pᵀ: ‖·‖ = √K‖p‖ ≤ √K, for I − 11ᵀ/K and 1(1/K − p)ᵀ map into orthogonal spaces."""
    dim: Any = step.op.dim if isinstance(step.op, nn.Module) else kwargs.get("dim", args[0] if args else None)
    if dim is None:
        raise NoRuleError("a log-softmax that does not say along which axis: pass dim")
    gain = math.sqrt(x.shape[dim])
    if step.pointwise:
        gain *= float(step.output.cpu().double().exp().norm(dim=dim).amax()) * (1 + SPARE)
    return x.times(gain, "√K·‖p‖", kind="log-softmax")


def product(step: Step, x: Flow, y: Flow) -> Flow:
    """XY of matrices that both depend on the input: d(XY)ᵢ = dXᵢ Y + Xᵢ dY, row by row.

    Behind a softmax the rows of dX sum to 0, and the rows of Y can be centred first.
    """
    if min(len(x.shape), len(y.shape)) < 2 or x.shape[:-2] != y.shape[:-2]:
        raise NoRuleError("a product of tensors of different ranks: write a rule for the module that holds it")
    note = ("product", None, "‖Y‖·a_X + ‖X‖·a_Y")
    if x.value is None or y.value is None:
        return Flow(log_sum([_size(y) + x.total, _size(x) + y.total]), note=note)
    X, Y = (f.value.cpu().double() for f in (x, y) if f.value is not None)
    known = norms(Y - Y.mean(-2, keepdim=True) if x.level else Y).log() + SPARE
    rows = collapsed(x.finest, [X.ndim - 1]) + known
    whole = collapsed(y.finest, [Y.ndim - 2, Y.ndim - 1]).clamp_max(y.total)
    mixed = X.norm(dim=-1, keepdim=True).log() + whole
    if y.finest.shape[-2] > 1:
        mixed = torch.minimum(mixed, times(X.abs(), collapsed(y.finest, [Y.ndim - 1])))
    total = log_sum([float(known.amax()) + x.total, float(norms(X).log().amax()) + y.total])
    return x.gridded(torch.logaddexp(rows, mixed) + SPARE, note, total)


def _size(x: Flow) -> float:
    """The logarithm of a bound on ‖X‖ for every matrix of the last two axes, at every x."""
    if x.longest is None or x.longest[1] < len(x.shape) - 2:
        raise NoBoundError("a product of two tensors that both depend on the input has a bound only at a given x")
    vectors = x.shape[-2] if x.longest[1] == len(x.shape) - 1 else x.shape[-1]
    return x.longest[0] + 0.5 * log(vectors)


def norms(x: Tensor) -> Tensor:
    """An upper bound of ‖X‖ for every matrix (…, m, q) of double precision, (…, 1, 1)."""
    gram = x @ x.mT if x.shape[-2] <= x.shape[-1] else x.mT @ x
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    values = torch.linalg.eigvalsh(gram)[..., -1] if gram.shape[-1] > 1 else gram[..., 0, 0]
    return (values.clamp_min(0) + 1e-11 * trace).sqrt()[..., None, None]


def gram_norms(x: Tensor, steps: int = 4) -> Tensor:
    """The same for many small matrices, by Gram iteration: ‖G_t‖_F^{1/2^t} (Delattre et al. 2023)."""
    scale = torch.zeros(x.shape[:-2], dtype=torch.float64)
    for t in range(steps):
        size = x.flatten(-2).norm(dim=-1).clamp_min(1e-150)
        scale = scale + size.log() / 2**t
        x = x / size[..., None, None]
        x = x @ x.mT if x.shape[-2] <= x.shape[-1] else x.mT @ x
    # Rounding moves the last power by a relative 1e−12 of its norm before the roots are taken.
    return (scale + (x.flatten(-2).norm(dim=-1) + 1e-12).log() / 2**steps).exp()[..., None, None] * (1 + 1e-10)


__all__ = ["SPARE", "gram_norms", "log_norm", "norms", "product"]
