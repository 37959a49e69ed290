"""All that the gradients of the logits say about F at an input, in class space: what exact value and bounds share.

The rows are C J: for one of K classes the gradients of the logits minus the winner's, for outputs that are independent
the gradients themselves. Unlike the whitened rows of `fimviz.fisher.exact`, to which their Gram matrix leads in
float64, they know no probabilities, so that differences of improbable classes are not lost to them. Norms of
differences come with their rounding, upward or downward as the bound that they serve wants.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import pad

from fimviz.fisher.block import Ground, inner, logit_error, rounding_error
from fimviz.model.classifier import Classifier
from fimviz.model.engine.parts import answers, by_rows
from fimviz.model.engine.plan import plan
from fimviz.model.likelihoods import Factor, Likelihood

_GRAM_ROUNDING = 1e-13  # of products in float64, relative to the squares of all rows


@dataclass(frozen=True)
class Contrasts:
    """At n inputs, on the CPU, in float64.

    Attributes:
        logits: (n, K); logit_error: (n,) how far rounding may have moved one.
        widest: (n,) at least the largest ‖J_a − J_b‖, for independent outputs ‖J‖.
        centred: (n,) at least ‖J − 1J̄‖ with J̄ the mean of J's rows, which no difference knows; else ‖J‖.
        log_pair: (n,) at most the logarithm of the largest p_a p_b ‖J_a − J_b‖², for independent outputs s_k ‖J_k‖².
        log_scale: (n,) what the logarithm of everything below is to be raised by: F itself may underflow.
        eigenvalues: (n, r) of F, descending, with their `error` (n, r).
        trace, frobenius: (n,) of F, with `trace_error` and `frobenius_error`.
        forwards, vjps: (n,) passes.
    """

    logits: Tensor
    logit_error: Tensor
    widest: Tensor
    centred: Tensor
    log_pair: Tensor
    log_scale: Tensor
    eigenvalues: Tensor
    error: Tensor
    trace: Tensor
    trace_error: Tensor
    frobenius: Tensor
    frobenius_error: Tensor
    forwards: Tensor
    vjps: Tensor


def contrasts(net: Classifier, x: Tensor, max_memory: float | None = None) -> Contrasts:
    """The rows' products at every input of an admitted batch x (n, …), verified in float64 where the network can."""
    precise = net.precise
    passes = torch.float64 if net.has_float64 and not precise else x.dtype
    rank = net.likelihood.rank(len(net.classes))
    with net.at_rest():
        inputs, cotangents = plan(net, x, 1, False, rank, False, precise, max_memory, passes)

        def compute(places: list[int], cotangents: int) -> Contrasts:
            return _contrasts(net, x[places].to(net.device, passes), cotangents, precise)

        return _joined([part for _, part in by_rows(range(len(x)), inputs, cotangents, compute)])


def precise_logits(net: Classifier, x: Tensor, max_memory: float | None = None) -> tuple[Tensor, Tensor]:
    """Logits (n, K) in float64, from passes in float64 where the network can, and how far off each may be (n,)."""
    dtype = torch.float64 if net.has_float64 else x.dtype
    z = answers(net, x, dtype, max_memory)
    return z, logit_error(net.likelihood, z, torch.finfo(dtype).eps)


def _contrasts(net: Classifier, x: Tensor, cotangents: int, precise: bool) -> Contrasts:
    ground = Ground(net, x, precise)
    factor, classes = ground.factor, ground.logits.shape[1]
    axes = torch.eye(factor.rank, dtype=torch.float64).expand(len(x), -1, -1)
    rows = ground.rows(cotangents, lambda f, some: _spread(f, some, classes))
    gram = inner(rows, rows)
    whitening = factor.from_logits(_spread(factor, axes, classes, 0.0))
    white = whitening @ gram @ whitening.mT
    mu = torch.linalg.eigvalsh((white + white.mT) / 2).flip(-1).clamp_min(0)
    g = torch.randn(*rows.shape[:2], 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sizes = torch.stack([m.diagonal(dim1=1, dim2=2).sum(1).clamp_min(0).sqrt() for m in (white, gram)], 1)
    mixes = torch.cat([whitening.mT @ g, g], 2)
    noises = ground.compared(rows, mixes, torch.cat([factor.to_logits(g), _spread(factor, g, classes)], 2), sizes)
    white_noise, noise = noises[:, :1], noises[:, 1]
    z_error = ground.logit_error
    error = rounding_error(mu, white_noise, 4 * z_error, factor.rank)
    trace = mu.sum(1)
    off = 2 * trace.sqrt() * white_noise[:, 0] + white_noise[:, 0] ** 2 + (4 * z_error + 1e-12) * trace
    per_input = zip(ground.logits, gram, noise, strict=True)
    widest, centred, log_pair = torch.stack([_norms(net.likelihood, *one) for one in per_input]).unbind(1)
    passes = ground.passes()
    return Contrasts(
        logits=ground.logits,
        logit_error=z_error,
        widest=widest,
        centred=centred,
        log_pair=log_pair - 4 * z_error,
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


def _norms(likelihood: Likelihood, z: Tensor, gram: Tensor, noise: Tensor) -> Tensor:
    """`widest`, `centred` and `log_pair` (3,) at one input, from its logits (K,) and its rows' products (r, r)."""
    floor = _GRAM_ROUNDING * gram.trace()
    if not likelihood.invariant:
        log_w = likelihood.log_weights(z)
        squares = gram.diagonal()
        norm = _norm(gram)
        widest, off = norm, noise
    else:
        winner = int(z.argmax())
        log_w = likelihood.log_weights(torch.cat([z[winner : winner + 1], z[:winner], z[winner + 1 :]]))  # as the rows
        gram = pad(gram, (1, 0, 1, 0))  # the winner's difference to itself
        squares = gram.diagonal()[:, None] + gram.diagonal() - 2 * gram
        widest, off = (squares.amax() + floor).sqrt(), 2**0.5 * noise
        norm = _norm(gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean())
    least = ((squares - floor).clamp_min(0).sqrt() - off).clamp_min(0)
    return torch.stack([widest + off, (norm**2 + floor).sqrt() + noise, (log_w + 2 * least.log()).amax()])


def _norm(gram: Tensor) -> Tensor:
    return torch.linalg.eigvalsh((gram + gram.mT) / 2)[-1].clamp_min(0).sqrt()


def _spread(factor: Factor, y: Tensor, classes: int, winner: float = -1.0) -> Tensor:
    """Cᵀ y, (n, r, m) → (n, K, m); with another number for the winner's share, e_c where the share is 0."""
    if factor.others is None or factor.winner is None:
        return y
    out = y.new_zeros(len(y), classes, y.shape[2])
    out.scatter_(1, factor.others[..., None].expand_as(y), y)
    return out.scatter_(1, factor.winner[..., None].expand(-1, -1, y.shape[2]), winner * y.sum(1, keepdim=True))


def _joined(parts: list[Contrasts]) -> Contrasts:
    return Contrasts(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Contrasts)})
