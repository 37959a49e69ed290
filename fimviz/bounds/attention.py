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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as tf

from fimviz.bounds.flow import Flow, NoBoundError, NoRuleError, Step, log, log_norm, log_sum, times
from fimviz.bounds.norms import matrix_norm
from fimviz.bounds.rules import rule
from fimviz.bounds.tokens import SPARE, collapsed, gram_norms, norms

_KIND = "attention"
_UNBOUNDED = "dot-product attention has no bound at every x, except behind a layer normalisation; local_bound has one"


@dataclass(frozen=True)
class Part:
    """Queries, keys or values of h heads.

    Attributes:
        values: (…, h, tokens, d) at x.
        rows: ln of a bound for every token, broadcastable to (…, h, tokens, 1).
        total: ln of a bound for all tokens, (h, 1, 1).
    """

    values: Tensor
    rows: Tensor
    total: Tensor


def weights_of(q: Part, k: Part, scale: float, mask: Tensor | float) -> Tensor:
    """The weights of an attention at x."""
    scores = scale * (q.values @ k.values.mT) + mask
    return scores.softmax(-1).masked_fill((scores == -math.inf).all(-1, keepdim=True), 0.0)  # torch attends to nothing


def heads_at(q: Part, k: Part, v: Part, scale: float, a: Tensor, live: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The logarithms of bounds on the outputs of heads at x: of every token (…, h, tokens, 1), and of all (h, 1, 1).

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
    terms = [most(norms(a).log()) + v.total, c + most(spread.amax(-2, keepdim=True)) + q.total,
             c + most(shifts) + k.total]  # fmt: skip
    return rows + SPARE, torch.stack(terms).logsumexp(0) + SPARE


def heads_anywhere(tokens: int, scale: float, q: tuple[float, float], k: tuple[float, float],
                   v: tuple[float, float]) -> float:  # fmt: skip
    """The logarithm of a bound on one head's output at every x, from (bound, reach) of its three arguments.

    The reach of keys and values may leave out a common offset.
    """
    c, root = log(abs(scale)), 0.5 * log(tokens)
    return log_sum([root + v[0], c + v[1] + k[1] + q[0], c + root + q[1] + v[1] + k[0]]) + SPARE


def _out(rows: Tensor | None, total: Tensor, weight: Tensor) -> tuple[Tensor | None, float]:
    """Behind the output projection (d, h·d_h): the better of ‖W‖√Σa² and Σ‖W⁽ʰ⁾‖a over heads."""
    heads = len(total)
    each = torch.tensor([log(matrix_norm(w)) for w in weight.chunk(heads, 1)], dtype=torch.float64)[:, None, None]
    whole = log(matrix_norm(weight))

    def joined(t: Tensor) -> Tensor:
        return torch.minimum(whole + torch.logsumexp(2 * t, -3) / 2, torch.logsumexp(t + each, -3))

    return None if rows is None else joined(rows), float(joined(total))


def _projected(step: Step, x: Flow, tokens: Tensor | None, rows: Tensor, weight: Tensor, bias: Tensor | None,
               heads: int) -> tuple[Part | None, list[tuple[float, float]]]:  # fmt: skip
    """One of the three projections: a `Part` at x, and everywhere (bound, reach without the offset) of every head."""
    weight = weight.detach().cpu().double()
    parts = list(weight.chunk(heads, 0))
    totals = [x.weighted(-1, w, matrix_norm) for w in parts]
    if tokens is None:
        if x.reach is None or x.reach[1] % len(x.shape) != len(x.shape) - 1:
            raise NoBoundError(_UNBOUNDED)
        return None, [(t, log(matrix_norm(w)) + x.reach[0]) for t, w in zip(totals, parts, strict=True)]
    values = tf.linear(tokens, weight, None if bias is None else bias.detach().cpu().double())
    values = values.unflatten(-1, (heads, -1)).transpose(-2, -3)
    up = torch.tensor([log(matrix_norm(w)) for w in parts], dtype=torch.float64)[:, None, None]
    return Part(values, rows[..., None, :, :] + up, torch.tensor(totals, dtype=torch.float64)[:, None, None]), []


def _attend(step: Step, inputs: tuple[Flow, Flow, Flow], tokens: Sequence[Tensor | None], rows: list[Tensor],
            weights: Sequence[Tensor], biases: Sequence[Tensor | None], heads: int, mask: Tensor | float, out: Tensor,
            length: int) -> tuple[Tensor | None, float]:  # fmt: skip
    """Projections, heads and output projection: bounds of every token at x or None, and of all."""
    scale = (len(weights[0]) // heads) ** -0.5
    made = [_projected(step, *args, heads) for args in zip(inputs, tokens, rows, weights, biases, strict=True)]
    out = out.detach().cpu().double()
    if step.pointwise:
        q, k, v = (part for part, _ in made if part is not None)
        return _out(*heads_at(q, k, v, scale, weights_of(q, k, scale, mask)), out)
    offsets = (
        [0.0] * heads
        if biases[0] is None
        else [float(b.cpu().double().norm()) for b in biases[0].detach().chunk(heads)]
    )
    total = torch.tensor([
        heads_anywhere(length, scale, (q[0], log_sum([q[1], log(b)])), k, v)
        for q, k, v, b in zip(*(every for _, every in made), offsets, strict=True)
    ], dtype=torch.float64)[:, None, None]  # fmt: skip
    return _out(None, total, out)


@rule(nn.MultiheadAttention)
def _multihead(step: Step, query: Flow, key: Flow, value: Flow, key_padding_mask: Any = None,
               need_weights: bool = True, attn_mask: Any = None, average_attn_weights: bool = True,
               is_causal: bool = False) -> tuple[Flow, Flow | None]:  # fmt: skip
    m = step.op
    inputs = (query, key, value)
    if not all(isinstance(f, Flow) and len(f.shape) == 3 for f in inputs):
        raise NoRuleError("attention on a constant, or without a batch axis: write a rule for the module that holds it")
    if m.bias_k is not None or m.add_zero_attn or key_padding_mask is not None:
        raise NoRuleError("attention with added keys or a padding mask: write a rule for the module that holds it")
    d, h = m.embed_dim, m.num_heads
    if m.in_proj_weight is not None:
        weights = list(m.in_proj_weight.chunk(3))
    else:
        weights = [m.q_proj_weight, m.k_proj_weight, m.v_proj_weight]
    mask: Tensor | float = 0.0
    if attn_mask is not None:
        if isinstance(attn_mask, Flow):
            raise NoRuleError("attention with a mask that depends on the input: write a rule for its module")
        mask = _additive(attn_mask)
        mask = mask.unflatten(0, (-1, h)) if mask.ndim == 3 else mask
    axis = 1 if m.batch_first else 0
    tokens, rows = [], []
    for f in inputs:
        tokens.append(None if f.value is None else _first(f.value.cpu().double(), m.batch_first))
        rows.append(_first(collapsed(f.finest, [2]), m.batch_first))
    made, total = _attend(step, inputs, tokens, rows, weights, _thirds(m.in_proj_bias), h, mask, m.out_proj.weight,
                          query.shape[axis])  # fmt: skip
    grid = None if made is None else _first(made.expand(1, query.shape[axis], 1), m.batch_first)
    flow = query.gridded(grid, (_KIND, total - query.total, "its three terms, head by head"), total)
    assert d == query.shape[2]
    return flow, None if step.output[1] is None else Flow(math.inf, note=("attention weights", None, "not bounded"))


def _thirds(bias: Tensor | None) -> Sequence[Tensor | None]:
    return (None, None, None) if bias is None else bias.chunk(3)


def _first(t: Tensor, batch_first: bool) -> Tensor:
    return t if batch_first else t.transpose(0, 1)


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
    if any(f.shape[:-2] != query.shape[:-2] for f in inputs):
        raise NoRuleError("attention whose keys or values are shared by broadcasting: expand them first")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if not step.pointwise:
        return _anywhere(inputs, scale)
    mask: Tensor | float = 0.0
    if attn_mask is not None:  # here a boolean says where to attend
        mask = _additive(~attn_mask if attn_mask.dtype == torch.bool else attn_mask)
    if is_causal:
        mask = _additive(torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).triu(1))
    q, k, v = (_windows(f) for f in inputs)
    shape = (*query.shape[:-1], key.shape[-2])
    mask = _flat(mask.expand(shape)) if isinstance(mask, Tensor) else mask
    return _pieces(query, q, k, v, scale, weights_of(q, k, scale, mask), None)


_PIECES = (_KIND, None, "its three terms")


def written_out(weights: Flow, value: Flow) -> Flow:
    """The product of an attention's weights with values, where scores, softmax and this stand in a network apart."""
    scores = weights.scores
    assert scores is not None
    if value.shape[:-2] != scores.q.shape[:-2]:
        raise NoRuleError("attention whose keys or values are shared by broadcasting: expand them first")
    if weights.value is None:
        return _anywhere((scores.q, scores.k, value), scores.scale)
    live = None if scores.live is None else _flat(scores.live.double().expand(weights.shape))
    q, k, v = (_windows(f) for f in (scores.q, scores.k, value))
    return _pieces(scores.q, q, k, v, scores.scale, _flat(weights.value.cpu().double()), live)


def _anywhere(inputs: tuple[Flow, Flow, Flow], scale: float) -> Flow:
    query = inputs[0]
    if any(f.reach is None or f.reach[1] % len(f.shape) != len(f.shape) - 1 for f in inputs):
        raise NoBoundError(_UNBOUNDED)
    args = [(f.total, f.reach[0]) for f in inputs if f.reach is not None]
    return Flow(heads_anywhere(query.shape[-2], scale, *args), note=_PIECES)


def _pieces(query: Flow, q: Part, k: Part, v: Part, scale: float, a: Tensor, live: Tensor | None) -> Flow:
    made, total = heads_at(q, k, v, scale, a, live)
    grid = made.expand(-1, -1, query.shape[-2], 1).reshape(*query.shape[:-1], 1)
    return query.gridded(grid, _PIECES, float(total))


def _windows(f: Flow) -> Part:
    """Whatever stands before the tokens is a window of its own."""
    assert f.value is not None
    values = f.value.cpu().double()
    rows = collapsed(f.finest, [len(f.shape) - 1])
    rows = rows.expand(*values.shape[:-2], *rows.shape[-2:]).reshape(math.prod(values.shape[:-2]), 1, -1, 1)
    return Part(_flat(values), rows, torch.full((1, 1, 1), f.total).double())


def _flat(t: Tensor) -> Tensor:
    return t.reshape(-1, 1, *t.shape[-2:])


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

    def windows(t: Tensor, fill: float) -> Tensor:
        """(1, h, w, d) → (windows, tokens, d)."""
        t = tf.pad(t, (0, 0, 0, wide - w, 0, tall - h), value=fill).roll((-shift[0], -shift[1]), (1, 2))
        t = t.view(tall // window_size[0], window_size[0], wide // window_size[1], window_size[1], -1)
        return t.transpose(1, 2).reshape(-1, window_size[0] * window_size[1], t.shape[-1])

    tokens: Tensor | None = None
    rows = torch.zeros(1, 1, 1, dtype=torch.float64)
    mask: Tensor | float = 0.0
    if x.value is not None:
        tokens = windows(x.value.cpu().double(), 0.0)
        rows = windows(collapsed(x.finest, [3]).expand(1, h, w, 1), -math.inf)
        mask = relative_position_bias.detach().cpu().double()
        if any(shift):  # tokens that the torus has brought together do not see each other
            region = [(torch.arange(n) >= n - s).long() + (torch.arange(n) >= n - t).long()
                      for n, s, t in zip((tall, wide), window_size, shift, strict=True)]  # fmt: skip
            at = (3 * region[0][:, None] + region[1])[None, :, :, None]
            at = at.view(tall // window_size[0], window_size[0], wide // window_size[1], window_size[1])
            at = at.transpose(1, 2).reshape(-1, 1, window_size[0] * window_size[1])
            mask = mask - 100.0 * (at.mT != at)[:, None]
    made, total = _attend(step, (x, x, x), (tokens, tokens, tokens), [rows] * 3, qkv_weight.chunk(3), _thirds(qkv_bias),
                          num_heads, mask, proj_weight, math.prod(window_size))  # fmt: skip
    grid = None
    if made is not None:
        place = windows(torch.arange(1, h * w + 1, dtype=torch.float64).view(1, h, w, 1), 0.0).long().flatten()
        grid = torch.full((h * w + 1,), -math.inf, dtype=torch.float64).index_put((place,), made.flatten())
        grid = grid[1:].view(1, h, w, 1)
    return x.gridded(grid, (_KIND + " in windows", total - x.total, "its three terms, head by head"), total)


__all__ = ["heads_anywhere", "heads_at", "log_norm", "weights_of", "written_out"]
