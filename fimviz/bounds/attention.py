"""Rules for dot-product attention, in one piece where the network calls it in one.

With weights aᵢ = softmax(c·K qᵢ + mask) and outputs v̄ᵢ = Σⱼ aᵢⱼvⱼ, one head's differential is

    dv̄ᵢ = Σⱼ aᵢⱼ dvⱼ + c·Cov_{aᵢ}(v, k) dqᵢ + c·Σⱼ aᵢⱼ(vⱼ − v̄ᵢ) ⟨qᵢ, dkⱼ⟩.

Each term is bounded for every token i, from the bounds of single tokens or from that of all, whichever is smaller.
Dot-product attention has no bound that holds everywhere (Kim et al. 2021), but behind a layer normalisation no token
h is longer than some R. Then the variance of Wh under any weights is at most (‖W‖R)², whatever the offset, so that
‖A‖ ≤ √N, ‖Cov‖ ≤ ‖W_v‖‖W_k‖R² and ‖qᵢ‖ ≤ ‖W_q‖R + ‖b_q‖ bound all three terms at every x. Both are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as tf

from fimviz.bounds.flow import Flow, Heads, NoBoundError, NoRuleError, Origin, Step, log, log_norm, log_sum, times
from fimviz.bounds.heads import Part, parts
from fimviz.bounds.layers import linear
from fimviz.bounds.rules import rule
from fimviz.bounds.shapes import turned
from fimviz.bounds.tokens import SPARE, gram_norms, norms

_UNBOUNDED = "dot-product attention has no bound at every x, except behind a layer normalisation; local_bound has one"


_Gains = tuple[Tensor, Tensor, Tensor]  # ln of how much of a bound on q, on k and on v comes through, (h, 1, 1)


def _weights_of(q: Part, k: Part, scale: float, mask: Tensor | float) -> Tensor:
    """The weights of an attention at x."""
    scores = scale * (q.values @ k.values.mT) + mask
    return scores.softmax(-1).masked_fill((scores == -math.inf).all(-1, keepdim=True), 0.0)  # torch attends to nothing


def _heads_at(q: Part, k: Part, v: Part, scale: float, a: Tensor, live: Tensor | None = None) -> tuple[Tensor, _Gains]:
    """The logarithms of bounds on the outputs of heads at x, for every token (…, h, tokens, 1), and of `_Gains`.

    `a` are the weights; scores that are not `live` do not depend on queries and keys, whatever their weight.
    """
    mean = a @ v.values
    own = a if live is None else a * live
    moments = (v.values[..., None] * k.values[..., None, :]).flatten(-2)
    covariance = (own @ moments).unflatten(-1, (v.values.shape[-1], -1)) - (
        mean[..., None] * (own @ k.values)[..., None, :]
    )
    # What is left of the difference is off by rounding of the moments themselves.
    off = 1e-13 * v.values.norm(dim=-1).amax(-1)[..., None, None] * k.values.norm(dim=-1).amax(-1)[..., None, None]
    spread = (gram_norms(covariance)[..., 0] + off).log()
    apart = torch.cdist(mean, v.values, compute_mode="donot_use_mm_for_euclid_dist")
    far = own * (apart + 1e-13 * v.values.norm(dim=-1).amax(-1)[..., None, None])
    size = q.values.norm(dim=-1, keepdim=True).log()
    c = log(abs(scale))

    def mixed(weights: Tensor, part: Part) -> Tensor:
        single = times(weights, part.rows.expand(*part.values.shape[:-1], 1))
        return torch.minimum(single, weights.norm(dim=-1, keepdim=True).log() + part.total)

    rows = torch.stack([mixed(a, v), c + spread + q.rows, c + size + mixed(far, k)]).logsumexp(0)
    lead = tuple(range(a.ndim - 3))  # windows read tokens of their own: the largest counts

    def most(t: Tensor) -> Tensor:
        return t.amax(lead) if lead else t

    shifts = (size.exp() * far.norm(dim=-1, keepdim=True)).norm(dim=-2, keepdim=True).log()
    return rows + SPARE, (c + most(spread.amax(-2, keepdim=True)), c + most(shifts), most(norms(a).log()))


def _heads_anywhere(tokens: int, scale: float, q: Part, k: Part, v: Part) -> _Gains:
    """The gains of heads with so many queries at every x."""
    if q.longest is None or k.longest is None or v.longest is None:
        raise NoBoundError(_UNBOUNDED)
    c, root = log(abs(scale)), 0.5 * log(tokens)
    longest = torch.logaddexp(q.longest, q.offset)
    return c + v.longest + k.longest, c + root + longest + v.longest, torch.full_like(v.longest, root)


def _additive(mask: Tensor) -> Tensor:
    """A mask to be added to scores; a boolean one says where not to attend, as that of nn.MultiheadAttention."""
    mask = mask.detach().cpu()
    return torch.zeros(mask.shape, dtype=torch.float64).masked_fill(mask, -math.inf) if mask.dtype == torch.bool else (
        mask.double())  # fmt: skip


@rule(tf.scaled_dot_product_attention)
def _scaled(step: Step, query: Flow, key: Flow, value: Flow, attn_mask: Any = None, dropout_p: float = 0.0,
            is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> Flow:  # fmt: skip
    """Attention of given queries, keys and values (…, tokens, d)."""
    inputs = (query, key, value)
    if not all(isinstance(f, Flow) for f in inputs) or isinstance(attn_mask, Flow) or enable_gqa or dropout_p:
        raise NoRuleError("attention on constants, with a mask of its input, shared heads or dropout: write a rule")
    mask: Tensor | float = 0.0
    if attn_mask is not None:  # here a boolean says where to attend
        mask = _additive(~attn_mask if attn_mask.dtype == torch.bool else attn_mask)
    if is_causal:
        mask = _additive(torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).triu(1))
    return _attention(inputs, query.shape[-1] ** -0.5 if scale is None else scale, mask)


def written_out(weights: Flow, value: Flow) -> Flow:
    """The product of an attention's weights with values, where scores, softmax and this stand in a network apart."""
    scores = weights.scores
    assert scores is not None
    return _attention((scores.q, scores.k, value), scores.scale, weights=weights.value, live=scores.live)


def _attention(inputs: tuple[Flow, Flow, Flow], scale: float, mask: Tensor | float = 0.0,
               weights: Tensor | None = None, live: Tensor | None = None) -> Flow:  # fmt: skip
    """The one rule: of queries, keys and values (…, tokens, d) with a mask to be added, or with the weights."""
    query, key, _ = inputs
    if any(f.shape[:-2] != query.shape[:-2] for f in inputs):
        raise NoRuleError("attention whose keys or values are shared by broadcasting: expand them first")
    windows, (q, k, v) = parts(inputs)
    shape = (*query.shape[:-1], key.shape[-2])

    def ordered(t: Tensor) -> Tensor:
        return t.cpu().double().expand(shape).reshape(-1, *shape[-2:])[windows]

    rows: Tensor | None = None
    if query.value is None:
        gains = _heads_anywhere(query.shape[-2], scale, q, k, v)
    else:
        if weights is None:
            a = _weights_of(q, k, scale, mask if isinstance(mask, float) else ordered(mask))
        else:
            a = ordered(weights)
        made, gains = _heads_at(q, k, v, scale, a, None if live is None else ordered(live))
        rows = torch.empty(windows.numel(), query.shape[-2], dtype=torch.float64)
        rows[windows] = made.expand(*windows.shape, query.shape[-2], 1)[..., 0]
    through = list(zip(gains, (q, k, v), strict=True))
    totals = torch.stack([gain + part.total for gain, part in through]).logsumexp(0).flatten() + SPARE
    whole = min(log_sum([float(gain.amax()) + part.whole for gain, part in through]) + SPARE, log_norm(totals))
    head = torch.empty(windows.numel(), dtype=torch.long)
    head[windows] = torch.arange(windows.shape[1]).expand_as(windows)
    note = ("attention", None, "its three terms, head by head")
    out = query.gridded(None if rows is None else rows.view(*query.shape[:-1], 1), note, whole)
    return replace(out, origin=Origin(Heads(rows, totals, whole, head, (query.shape[-2], inputs[2].shape[-1]))))


@rule("torchvision.models.swin_transformer.shifted_window_attention")
def _shifted_window(step: Step, x: Flow, qkv_weight: Tensor, proj_weight: Tensor, relative_position_bias: Tensor,
                    window_size: list[int], num_heads: int, shift_size: list[int], attention_dropout: float = 0.0,
                    dropout: float = 0.0, qkv_bias: Tensor | None = None, proj_bias: Tensor | None = None,
                    logit_scale: Tensor | None = None, training: bool = True) -> Flow:  # fmt: skip
    """Attention inside windows of an image (1, h, w, d), on a torus that is shifted first (Liu et al. 2021)."""
    if logit_scale is not None:
        raise NoRuleError("attention by cosines (Swin V2): write a rule for ShiftedWindowAttentionV2")
    if training and (attention_dropout or dropout):
        raise NoBoundError("dropout that ignores evaluation mode is random")
    h, w = x.shape[1:3]
    tall, wide = (-(-n // s) * s for n, s in zip((h, w), window_size, strict=True))
    shift = [0 if s >= n else t for s, n, t in zip(window_size, (tall, wide), shift_size, strict=True)]
    grid = tall // window_size[0], wide // window_size[1]

    def windows(t: Tensor) -> Tensor:
        """(1, h, w, d) → (windows, tokens, d)."""
        t = tf.pad(t, (0, 0, 0, wide - w, 0, tall - h)).roll((-shift[0], -shift[1]), (1, 2))
        t = t.view(grid[0], window_size[0], grid[1], window_size[1], -1)
        return t.transpose(1, 2).reshape(-1, math.prod(window_size), t.shape[-1])

    def back(t: Tensor) -> Tensor:
        t = t.view(*grid, *window_size, -1).transpose(1, 2).reshape(1, tall, wide, t.shape[-1])
        return t.roll((shift[0], shift[1]), (1, 2))[:, :h, :w]

    def layer(f: Flow, weight: Tensor, bias: Tensor | None) -> Flow:
        """A linear layer; what it returns is known where its input is."""
        value = None if f.value is None else tf.linear(f.value, weight, bias)
        out = linear(replace(step, op=tf.linear, output=value), f, weight, bias)
        return replace(out, shape=torch.Size([*f.shape[:-1], len(weight)]), value=value)

    def part(i: int) -> Callable[[Tensor], Tensor]:
        return lambda t: t.unflatten(-1, (3, num_heads, -1))[..., i, :, :].transpose(1, 2)

    mask = relative_position_bias.detach().cpu().double()
    if any(shift):  # tokens that the torus has brought together do not see each other
        region = [(torch.arange(n) >= n - s).long() + (torch.arange(n) >= n - t).long()
                  for n, s, t in zip((tall, wide), window_size, shift, strict=True)]  # fmt: skip
        at = (3 * region[0][:, None] + region[1]).view(grid[0], window_size[0], grid[1], window_size[1])
        at = at.transpose(1, 2).reshape(-1, 1, math.prod(window_size))
        mask = mask - 100.0 * (at.mT != at)[:, None]
    given = turned(x, windows)
    if x.longest is not None and x.longest[1] % 4 == 3:  # what is padded is 0
        given = replace(given, longest=(x.longest[0], 2))
    qkv = layer(given, qkv_weight, qkv_bias)
    q, k, v = (turned(qkv, part(i)) for i in range(3))
    out = replace(_attention((q, k, v), q.shape[-1] ** -0.5, mask), shape=q.shape)
    out = turned(out, lambda t: t.transpose(1, 2).flatten(2))
    return turned(layer(out, proj_weight, proj_bias), back)


__all__ = ["written_out"]
