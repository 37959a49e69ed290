"""Torch's own modules with attention, written with the calls that attention has rules for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as tf

from fimviz.bounds.flow import NoRuleError
from fimviz.bounds.rules import written


@written(nn.MultiheadAttention)
def _multihead(m: nn.MultiheadAttention, query: Any, key: Any, value: Any, key_padding_mask: Any = None,
               need_weights: bool = True, attn_mask: Any = None, average_attn_weights: bool = True,
               is_causal: bool = False) -> tuple[Any, Any]:  # fmt: skip
    if m.bias_k is not None or m.add_zero_attn or key_padding_mask is not None:
        raise NoRuleError("attention with added keys or a padding mask: write a rule for the module that holds it")
    inputs = [t if m.batch_first else t.transpose(0, 1) for t in (query, key, value)]
    q, k, v = (t.unflatten(-1, (m.num_heads, -1)).transpose(1, 2) for t in _projected(m, *inputs))
    mask = None if attn_mask is None else _additive(attn_mask, m.num_heads, m.out_proj.weight)
    out = tf.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
    out = tf.linear(out, m.out_proj.weight, m.out_proj.bias)
    weights = None
    if need_weights:
        scores = m.head_dim**-0.5 * (q @ k.transpose(2, 3))
        weights = (scores if mask is None else scores + mask).softmax(-1)
        weights = weights.mean(1) if average_attn_weights else weights
    return out if m.batch_first else out.transpose(0, 1), weights


def _projected(m: nn.MultiheadAttention, *inputs: Any) -> list[Any]:
    d, bias = m.embed_dim, m.in_proj_bias
    if m.in_proj_weight is not None:  # a part of a parameter is not one that the graph would know again
        return [tf.linear(t, m.in_proj_weight, bias).narrow(-1, i * d, d) for i, t in enumerate(inputs)]
    weights = m.q_proj_weight, m.k_proj_weight, m.v_proj_weight
    flat = [tf.linear(t, w) for t, w in zip(inputs, weights, strict=True)]
    return flat if bias is None else [t + _third(bias, i) for i, t in enumerate(flat)]


@torch.fx.wrap
def _third(bias: Tensor, i: int) -> Tensor:
    return bias.chunk(3)[i]


@torch.fx.wrap
def _additive(mask: Tensor, heads: int, like: Tensor) -> Tensor:
    """A mask to be added to scores, from one that is True where a query does not attend; three axes: one a head."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -torch.inf)
    mask = mask.to(like)
    return mask.unflatten(0, (-1, heads)) if mask.ndim == 3 else mask


@written(nn.TransformerEncoderLayer)
def _encoder_layer(m: nn.TransformerEncoderLayer, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None,
                   is_causal: bool = False) -> Any:  # fmt: skip
    def attend(x: Any) -> Any:
        mask = {"key_padding_mask": src_key_padding_mask, "attn_mask": src_mask}
        return m.dropout1(m.self_attn(x, x, x, need_weights=False, **mask)[0])

    def feed(x: Any) -> Any:
        return m.dropout2(m.linear2(m.dropout(m.activation(m.linear1(x)))))

    if m.norm_first:
        x = src + attend(m.norm1(src))
        return x + feed(m.norm2(x))
    x = m.norm1(src + attend(src))
    return m.norm2(x + feed(x))


@written(nn.TransformerEncoder)
def _encoder(m: nn.TransformerEncoder, src: Any, mask: Any = None, src_key_padding_mask: Any = None,
             is_causal: bool | None = None) -> Any:  # fmt: skip
    for layer in m.layers:
        src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask)
    return src if m.norm is None else m.norm(src)
