"""All that the gradients of the logits say about F at an input, in class space: what exact value and bounds share.

The rows are C J: for one of K classes the gradients of the logits minus the winner's, for yes/no labels the gradients
themselves. Unlike the whitened rows of `fimviz.fisher.exact`, to which their Gram matrix leads in float64, they know
no probabilities, so that differences of improbable classes are not lost to them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fimviz.classifier import Classifier
from fimviz.fisher.block import Ground, inner, rounding_error
from fimviz.fisher.methods import plan
from fimviz.likelihood import Factor

_LOGIT_ROUNDING = 32  # of a logit, in machine epsilons of the logits' spread, as in `fimviz.fisher.block`


@dataclass(frozen=True)
class Contrasts:
    """At n inputs, on the CPU, in float64.

    Attributes:
        logits: (n, K); logit_error: (n,) how far rounding may have moved one.
        gram: (n, r, r) products of the rows C J.
        noise: (n,) bound of the rounding ‖Δ(CJ)‖_F.
        log_scale: (n,) what the logarithm of everything below is to be raised by: F itself may underflow.
        eigenvalues: (n, r) of F, descending, with their `error` (n, r).
        trace, frobenius: (n,) of F, with `trace_error` and `frobenius_error`.
        forwards, vjps: (n,) passes.
    """

    logits: Tensor
    logit_error: Tensor
    gram: Tensor
    noise: Tensor
    log_scale: Tensor
    eigenvalues: Tensor
    error: Tensor
    trace: Tensor
    trace_error: Tensor
    frobenius: Tensor
    frobenius_error: Tensor
    forwards: Tensor
    vjps: Tensor


def contrasts(net: Classifier, x: Tensor) -> Contrasts:
    """The rows' products at every input of an admitted batch x (n, …), verified in float64 where the network can."""
    verify = net.has_float64 and net.dtype != torch.float64
    rank = net.likelihood.rank(len(net.classes))
    with net.at_rest():
        inputs, cotangents = plan(net, x, 1, False, rank, False, verify, None)
        return _joined([_contrasts(net, part.to(net.device), cotangents, verify) for part in x.split(inputs)])


def precise_logits(net: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (n, K) in float64, from passes in float64 where the network can, and how far off each may be (n,)."""
    dtype = torch.float64 if net.has_float64 else x.dtype
    with net.at_rest(), torch.no_grad():
        z = torch.cat([net.logits(part.to(net.device, dtype)).cpu().double() for part in x.split(16)])
    return z, logit_error(z, dtype)


def logit_error(z: Tensor, dtype: torch.dtype) -> Tensor:
    """How far (n,) rounding in passes of that precision may move a logit."""
    return _LOGIT_ROUNDING * torch.finfo(dtype).eps * (1 + z.amax(1) - z.amin(1))


def _contrasts(net: Classifier, x: Tensor, cotangents: int, verify: bool) -> Contrasts:
    ground = Ground(net, x, verify)
    factor, classes = ground.factor, ground.logits.shape[1]
    axes = torch.eye(factor.rank, dtype=torch.float64).expand(len(x), -1, -1)
    rows = torch.cat([ground.here.vjp(_spread(factor, some, classes)) for some in axes.split(cotangents, 2)], 1)
    if not rows.isfinite().all():
        raise FloatingPointError("the gradient of the logits toward the images is NaN or infinite for some image")
    gram = inner(rows, rows)
    whitening = factor.from_logits(_spread(factor, axes, classes, 0.0))
    white = whitening @ gram @ whitening.mT
    mu = torch.linalg.eigvalsh((white + white.mT) / 2).flip(-1).clamp_min(0)
    g = torch.randn(*rows.shape[:2], 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    size = white.diagonal(dim1=1, dim2=2).sum(1).clamp_min(0).sqrt()
    white_noise, white_moved = ground.compared(rows, whitening.mT @ g, factor.to_logits(g), size)
    size = gram.diagonal(dim1=1, dim2=2).sum(1).sqrt()
    noise, moved = ground.compared(rows, g, _spread(factor, g, classes), size)
    z_error = logit_error(ground.logits, torch.float64 if verify else x.dtype)
    error = rounding_error(mu, white_noise, 4 * z_error, factor.rank)
    trace = mu.sum(1)
    off = 2 * trace.sqrt() * white_noise + white_noise**2 + (4 * z_error + 1e-12) * trace
    passes = ground.passes()
    result = Contrasts(
        logits=ground.logits,
        logit_error=z_error,
        gram=gram,
        noise=noise,
        log_scale=factor.log_scale,
        eigenvalues=mu,
        error=error,
        trace=trace,
        trace_error=off,
        frobenius=mu.norm(dim=1),
        frobenius_error=error.norm(dim=1),
        forwards=passes["forwards"],
        vjps=passes["vjps"],
    )
    del ground, rows
    return _mended(net, result, moved | white_moved, x)


def _mended(net: Classifier, block: Contrasts, moved: Tensor, x: Tensor) -> Contrasts:
    """With the inputs computed again in float64 that rounding has taken across a kink; the passes add up."""
    for at in moved.nonzero()[:, 0]:
        again = _contrasts(net, x[at : at + 1].double(), 1, False)
        for f in fields(Contrasts):
            old, new = getattr(block, f.name), getattr(again, f.name)
            old[at] = new[0] + (old[at] if f.name in ("forwards", "vjps") else 0)
    return block


def _spread(factor: Factor, y: Tensor, classes: int, winner: float = -1.0) -> Tensor:
    """Cᵀ y, (n, r, m) → (n, K, m); with another number for the winner's share, e_c where the share is 0."""
    if factor.others is None or factor.winner is None:
        return y
    out = y.new_zeros(len(y), classes, y.shape[2])
    out.scatter_(1, factor.others[..., None].expand_as(y), y)
    return out.scatter_(1, factor.winner[..., None].expand(-1, -1, y.shape[2]), winner * y.sum(1, keepdim=True))


def _joined(parts: list[Contrasts]) -> Contrasts:
    return Contrasts(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Contrasts)})
