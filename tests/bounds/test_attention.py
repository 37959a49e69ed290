"""An attention's bound does not depend on how it is written; and it stays above the dense Jacobian."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as tf

import fimviz.bounds as bounds

from .test_layers import bounds_net, check, drawn, model_of, randomised

TOKENS, DIM, HEADS = 5, 6, 2


def fused(q, k, v, mask):
    return tf.scaled_dot_product_attention(q, k, v, mask)


def matmul(q, k, v, mask):
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.size(-1))
    return torch.matmul(tf.dropout((scores if mask is None else scores + mask).softmax(-1), 0.1, training=False), v)


def operators(q, k, v, mask):
    scores = q * (DIM // HEADS) ** -0.5 @ k.transpose(2, 3)
    return (scores if mask is None else scores + mask).softmax(dim=-1) @ v


def attribute(q, k, v, mask):
    scores = (q @ k.mT) * (DIM // HEADS) ** -0.5
    return tf.softmax(scores if mask is None else mask + scores, -1).float().to(q.dtype) @ v


def einsum(q, k, v, mask):
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * (DIM // HEADS) ** -0.5
    return torch.einsum("bhqk,bhkd->bhqd", (scores if mask is None else scores + mask).softmax(-1), v)


def batched(q, k, v, mask):
    b = q.shape[0]
    q, k, v = (t.reshape(b * HEADS, TOKENS, DIM // HEADS) for t in (q, k, v))
    mask = torch.zeros(1, TOKENS, TOKENS, dtype=torch.float64) if mask is None else mask[0]
    scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=(DIM // HEADS) ** -0.5)
    return torch.bmm(scores.softmax(-1), v).view(b, HEADS, TOKENS, DIM // HEADS)


def filled(q, k, v, mask):
    scores = q @ k.transpose(-1, -2) / (DIM // HEADS) ** 0.5
    scores = scores if mask is None else scores.masked_fill(mask < 0, -math.inf)
    return torch.softmax(scores, -1) @ v


SPELLINGS = [matmul, operators, attribute, einsum, batched, filled]
MASK = torch.zeros(1, 1, TOKENS, TOKENS, dtype=torch.float64).masked_fill(
    torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1), -math.inf
)


class Attention(nn.Module):
    """Heads of an attention behind a layer normalisation."""

    def __init__(self, spelling, masked=False, joint=True, seed=0):
        super().__init__()
        self.norm, self.out = randomised(nn.LayerNorm(DIM), seed), randomised(nn.Linear(DIM, DIM), seed + 1)
        self.qkv, self.spelling, self.joint = randomised(nn.Linear(DIM, 3 * DIM), seed + 2), spelling, joint
        self.register_buffer("mask", MASK if masked else None)

    def forward(self, x):
        x = self.norm(x)
        b, n, d = x.shape
        if self.joint:
            q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = self.qkv(x).chunk(3, -1)
            q, k, v = (t.view(b, n, HEADS, d // HEADS).transpose(1, 2) for t in (q, k, v))
        return self.out(self.spelling(q, k, v, self.mask).transpose(1, 2).contiguous().view(b, n, d))


class Module(nn.Module):
    """The same heads, from torch's own module."""

    def __init__(self, like, batch_first=True, weights=False):
        super().__init__()
        self.norm, self.weights = like.norm, weights
        self.attention = nn.MultiheadAttention(DIM, HEADS, batch_first=batch_first)
        self.attention.in_proj_weight.data, self.attention.in_proj_bias.data = like.qkv.weight.data, like.qkv.bias.data
        self.attention.out_proj.load_state_dict(like.out.state_dict())
        self.register_buffer("mask", None if like.mask is None else like.mask[0, 0] < 0)

    def forward(self, x):
        x = self.norm(x)
        x = x if self.attention.batch_first else x.transpose(0, 1)
        x = self.attention(x, x, x, attn_mask=self.mask, need_weights=self.weights)[0]
        return x if self.attention.batch_first else x.transpose(0, 1)


def both(layer, x):
    net = bounds_net(model_of(layer, x))
    return bounds.local_bound(net, x).features.item(), bounds.network_bound(net, x).features


@pytest.mark.parametrize(("batch_first", "weights"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("joint", [False, True])
def test_the_module_is_what_it_calls(masked, joint, batch_first, weights):
    """One product for queries, keys and values or three: heads are told apart by the rows that they read."""
    x, like = drawn(1, TOKENS, DIM), Attention(matmul, masked, joint).double()
    assert both(Module(like, batch_first, weights), x) == pytest.approx(both(like, x), rel=1e-6)


class Layer(nn.Module):
    """A layer of torch's encoder, written out."""

    def __init__(self, m):
        super().__init__()
        self.m = m

    def forward(self, x):
        m = self.m
        if m.norm_first:
            x = x + self.attend(m.norm1(x))
            return x + m.linear2(m.activation(m.linear1(m.norm2(x))))
        x = m.norm1(x + self.attend(x))
        return m.norm2(x + m.linear2(m.activation(m.linear1(x))))

    def attend(self, x):
        q, k, v = nn.functional.linear(x, self.m.self_attn.in_proj_weight, self.m.self_attn.in_proj_bias).chunk(3, -1)
        q, k, v = (t.view(-1, TOKENS, HEADS, DIM // HEADS).transpose(1, 2) for t in (q, k, v))
        o = matmul(q, k, v, None).transpose(1, 2).reshape(-1, TOKENS, DIM)
        return nn.functional.linear(o, self.m.self_attn.out_proj.weight, self.m.self_attn.out_proj.bias)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_encoders_layer_is_what_it_calls(first, activation):
    x = drawn(1, TOKENS, DIM)
    m = randomised(nn.TransformerEncoderLayer(DIM, HEADS, 9, activation=activation, batch_first=True, norm_first=first))
    here, there = both(m, x)
    assert here == pytest.approx(both(Layer(m), x)[0], rel=1e-6)
    assert (there is None) is not first  # attention of pixels is steep without limit
    if first:
        assert there == pytest.approx(both(Layer(m), x)[1], rel=1e-6)
    check(m, x, anywhere=first)
    check(nn.TransformerEncoder(m, 2, nn.LayerNorm(DIM)), x, anywhere=first)


def test_hooks_of_the_module_are_seen():
    seen, x = [], drawn(1, TOKENS, DIM)
    layer = Module(Attention(matmul).double())
    before = both(layer, x)
    layer.attention.register_forward_hook(lambda m, args, out: seen.append(out))
    assert both(layer, x) == before
    assert seen
    layer.attention.register_forward_hook(lambda m, args, out: (2 * out[0], out[1]))
    assert both(layer, x) == pytest.approx([2 * b for b in before], rel=1e-6)
    assert "forward" not in vars(layer.attention)


def test_a_padding_mask_is_refused():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(DIM, HEADS, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, key_padding_mask=x.new_zeros(x.shape[:2]))[0]

    x = drawn(1, TOKENS, DIM)
    with pytest.raises(bounds.NoRuleError, match="attention with added keys or a padding mask"):
        bounds.local_bound(bounds_net(model_of(Padded(), x)), x)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda f: f.__name__)
def test_no_number_depends_on_the_spelling(spelling, masked):
    x = drawn(1, TOKENS, DIM)
    nets = [bounds_net(model_of(Attention(f, masked, joint=masked), x)) for f in (fused, spelling)]
    one, other = (bounds.local_bound(net, x).features.item() for net in nets)
    assert other == pytest.approx(one, rel=1e-6)
    one, other = (bounds.network_bound(net, x).features for net in nets)
    assert other == pytest.approx(one, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), spelling=st.sampled_from(SPELLINGS), masked=st.booleans(), scale=st.floats(0.1, 3))
def test_the_dense_jacobian_is_below(seed, spelling, masked, scale):
    check(Attention(spelling, masked, seed=seed), scale * drawn(1, TOKENS, DIM, seed=seed))


class Filled(nn.Module):
    """A finite filling, so that replaced scores keep a weight: they depend on no query."""

    def __init__(self, seed):
        super().__init__()
        self.value, self.maps = float(seed % 3), nn.ModuleList(randomised(nn.Linear(4, 4), seed + i) for i in range(3))
        self.register_buffer("mask", drawn(TOKENS, TOKENS, seed=seed) > 0)

    def forward(self, x):
        q, k, v = (m(x) for m in self.maps)
        return (q @ k.transpose(1, 2)).masked_fill(self.mask, self.value).softmax(-1) @ v


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_scores_that_are_replaced_react_to_nothing(seed):
    x = drawn(1, TOKENS, 4, seed=seed)
    check(Filled(seed), x, anywhere=False)


def test_what_transformers_calls_eager_attention():
    eager = pytest.importorskip("transformers.models.vit.modeling_vit").eager_attention_forward

    def spelling(q, k, v, mask):
        module = nn.Module().eval()
        out = eager(module, q, k, v, mask, scaling=(DIM // HEADS) ** -0.5)
        return out[0].transpose(1, 2)

    x = drawn(1, TOKENS, DIM)
    nets = [bounds_net(model_of(Attention(f), x)) for f in (fused, spelling)]
    one, other = (bounds.local_bound(net, x).features.item() for net in nets)
    assert other == pytest.approx(one, rel=1e-6)


def test_products_of_other_shapes():
    """Einsum in an order that no matrix product has; a diagonal is none."""

    class Products(nn.Module):
        def forward(self, x):
            return torch.einsum("bnd,bmd->bmn", x, 2 * x)

    check(Products(), drawn(1, 3, 4), anywhere=False)
    with pytest.raises(bounds.NoRuleError, match="write a rule"):
        bounds.local_bound(bounds_net(model_of(_Trace(), drawn(1, 3, 3))), drawn(1, 3, 3))


class _Trace(nn.Module):
    def forward(self, x):
        return torch.einsum("bii->bi", x)
