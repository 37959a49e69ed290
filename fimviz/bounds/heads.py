"""The heads of an attention, told apart by where their numbers come from, however the network is written.

Queries, keys and values come out of linear layers, of which each head reads its own rows, W⁽ʰ⁾; its outputs meet
columns of their own in the layer behind. So every head is bounded with its own norms, and all of them together by the
best of ‖W‖√Σa⁽ʰ⁾², Σ‖W⁽ʰ⁾‖a⁽ʰ⁾ and what holds for them as one. Reshaping, splitting and turning axes do not hide them:
`Flow.origin` follows every element.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fimviz.bounds.flow import Flow, Heads, Origin, Projection, collapsed, log
from fimviz.bounds.norms import matrix_norm


@dataclass(frozen=True)
class Part:
    """Queries, keys or values (…, tokens, d) of h heads in w windows each, whose tokens do not see each other.

    Attributes:
        values: (w, h, tokens, d) at x; empty in a bound that holds at every x.
        rows: ln of a bound for every token, broadcastable to (w, h, tokens, 1).
        total: ln of a bound for all tokens of a head, (h, 1, 1).
        whole: ln of a bound for all tokens of all heads.
        longest, offset: (h, 1, 1) ln of how long a token's vector can be at any x without a common offset, if that is
            known, and ln of the offset's length.
    """

    values: Tensor
    rows: Tensor
    total: Tensor
    whole: float
    longest: Tensor | None
    offset: Tensor


def parts(flows: Sequence[Flow]) -> tuple[Tensor, list[Part]]:
    """The windows' numbers (w, h), and queries, keys and values; what no linear layers have returned is one head."""
    read = [_read(f) for f in flows]
    windows = math.prod(flows[0].shape[:-2])
    known = [r for r in read if r is not None]
    if len(known) < len(read) or any(not torch.equal(r.head, known[0].head) for r in known):
        return torch.arange(windows)[:, None], [_as_one(f) for f in flows]
    order = known[0].head.argsort(stable=True).view(1 + int(known[0].head.amax()), -1).mT
    return order, [_by_head(f, r, order) for f, r in zip(flows, known, strict=True)]


@dataclass(frozen=True)
class _Read:
    """Which rows of which layer the windows are: head (windows,), rows of every head, token (windows, tokens)."""

    made: Projection
    head: Tensor
    rows: list[Tensor]
    token: Tensor


def _read(f: Flow) -> _Read | None:
    if f.origin is None or not isinstance(made := f.origin.made, Projection):
        return None
    at = f.origin.numbers(f.shape).reshape(-1, *f.shape[-2:])
    row, token = at % len(made.weight), at // len(made.weight)
    if not (row == row[:, :1]).all() or not (token == token[..., :1]).all() or len(at.unique()) < at.numel():
        return None
    rows, found = row[:, 0].unique(dim=0, return_inverse=True)
    first = [int((found == i).nonzero()[0]) for i in range(len(rows))]
    place = torch.tensor(first).argsort()  # heads in the order of their first windows, for all three alike
    head = place.argsort()[found]
    if len(head.bincount().unique()) > 1:
        return None
    return _Read(made, head, [rows[i] for i in place], token[..., 0])


def _by_head(f: Flow, read: _Read, order: Tensor) -> Part:
    source, weights = read.made.source, [read.made.weight[rows] for rows in read.rows]
    up = _column([log(matrix_norm(w)) for w in weights])
    last = len(source.shape) - 1
    own = collapsed(source.finest, [last]).expand(*source.shape[:-1], 1).flatten()
    longest = None
    if source.longest is not None and source.longest[1] % len(source.shape) == last:
        longest = up + source.longest[0]
    offset = [0.0 if read.made.bias is None else float(read.made.bias[rows].norm()) for rows in read.rows]
    return Part(
        values=_values(f)[order] if f.value is not None else torch.empty(0),
        rows=own[read.token[order]][..., None] + up,
        total=_column([source.weighted(last, w, matrix_norm) for w in weights]),
        whole=source.weighted(last, torch.cat(weights), matrix_norm),
        longest=longest,
        offset=_column([log(b) for b in offset]),
    )


def _as_one(f: Flow) -> Part:
    rows = collapsed(f.finest, [len(f.shape) - 1])
    lead = f.shape[:-2]
    longest = None
    if f.longest is not None and f.longest[1] % len(f.shape) == len(f.shape) - 1:
        longest = _column([f.longest[0]])
    return Part(
        values=_values(f)[:, None] if f.value is not None else torch.empty(0),
        rows=rows.expand(*lead, *rows.shape[-2:]).reshape(math.prod(lead), 1, -1, 1),
        total=_column([f.total]),
        whole=f.total,
        longest=longest,
        offset=_column([-math.inf]),
    )


def _values(f: Flow) -> Tensor:
    assert f.value is not None
    return f.value.cpu().double().reshape(-1, *f.shape[-2:])


def of_heads(x: Flow, weight: Tensor) -> tuple[float, Tensor | None] | None:
    """Behind a layer with weight (out, in) that reads what heads have returned: bounds of all, and of every token.

    None where the tensor is something else, or where a head's columns of the weight are not the same for every token.
    """
    if x.origin is None or not isinstance(made := x.origin.made, Heads):
        return None
    at = x.origin.numbers(x.shape).reshape(-1, x.shape[-1])
    token = at // made.size[1]
    head = made.head[token // made.size[0]]
    if not (head == head[:1]).all() or len(at.unique()) < at.numel():
        return None
    columns = [(head[0] == h).nonzero()[:, 0] for h in range(len(made.totals)) if (head[0] == h).any()]
    if any((token[:, c] != token[:, c[:1]]).any() for c in columns):
        return None
    whole = log(matrix_norm(weight))
    each = torch.tensor([log(matrix_norm(weight[:, c])) for c in columns], dtype=torch.float64)

    def joined(logs: Tensor) -> Tensor:
        return torch.minimum(whole + torch.logsumexp(2 * logs, -1) / 2, torch.logsumexp(logs + each, -1))

    first = torch.stack([c[0] for c in columns])
    total = min(float(joined(made.totals[head[0, first]])), whole + made.whole)
    if made.rows is None:
        return total, None
    return total, joined(made.rows.flatten()[token[:, first]]).view(*x.shape[:-1], 1)


def louder(origin: Origin | None, factor: float) -> Origin | None:
    """Behind a multiplication with a constant, which goes into the layer."""
    if origin is None or not isinstance(made := origin.made, Projection):
        return None
    bias = None if made.bias is None else factor * made.bias
    return replace(origin, made=replace(made, weight=factor * made.weight, bias=bias))


def _column(logs: Sequence[float]) -> Tensor:
    return torch.tensor(logs, dtype=torch.float64)[:, None, None]


__all__ = ["Part", "louder", "of_heads", "parts"]
