"""What is known of one tensor on its way through a network: how strongly it can react to the input, at most.

All bounds are natural logarithms of factors in the tensor's own units a pixel unit: a product over a hundred layers
leaves the range of floating point long before it leaves that of its logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fimviz.bounds.active import Term

NOTHING = -math.inf  # the logarithm of no reaction at all


class NoRuleError(NotImplementedError):
    """A layer or function of the network that no rule bounds, with how to add one."""


class NoBoundError(ArithmeticError):
    """A rule's reason why no finite factor exists: what the result says instead of a number."""


@dataclass(frozen=True)
class Channels:
    """A tensor as a diagonal matrix times a concatenation, along one axis: y = diag(scale)·[u₁; u₂; …].

    The diagonal commutes with everything that acts on elements or on one channel at a time, so that it waits here
    for a layer with weights, which takes it into them.

    Attributes:
        axis: of the channels.
        sizes: channels of every part.
        logs: bound of every part u.
        base: bound of all parts together.
        scale: one factor a channel.
    """

    axis: int
    sizes: tuple[int, ...]
    logs: tuple[float, ...]
    base: float
    scale: Tensor

    @property
    def total(self) -> float:
        """The bound on y: the better of the largest factor on all and each part's on its own."""
        peaks = [log(float(s.abs().amax())) if s.numel() else NOTHING for s in self.scale.split(self.sizes)]
        return min(self.base + max(peaks), log_norm([a + b for a, b in zip(self.logs, peaks, strict=True)]))

    def louder(self, gain: float) -> Channels:
        """With all bounds raised by a logarithm."""
        return replace(self, logs=tuple(a + gain for a in self.logs), base=self.base + gain)


@dataclass(frozen=True)
class Scores:
    """Scores c·QKᵀ of an attention that is written out, and their softmax: what the product with values has to know.

    Attributes:
        q, k: flows (…, tokens, d).
        scale: c.
        live: (…, tokens, tokens) the scores that no mask has replaced; None for all.
        softmaxed: whether the tensor is the softmax of the scores over the keys.
    """

    q: Flow
    k: Flow
    scale: float = 1.0
    live: Tensor | None = None
    softmaxed: bool = False


@dataclass(frozen=True)
class Projection:
    """What a linear layer returned.

    Attributes:
        source: what it reads, (…, tokens, in).
        weight: (out, in) in double precision.
        bias: (out,) or None.
    """

    source: Flow
    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Heads:
    """What an attention returned: one window (tokens, d) for every head and every set of tokens that see each other.

    Attributes:
        rows: ln of a bound for every token, (windows, tokens); None in a bound that holds at every x.
        totals: ln of a bound for every head, (heads,).
        whole: ln of a bound for all of them.
        head: of every window, (windows,).
        size: tokens, d.
    """

    rows: Tensor | None
    totals: Tensor
    whole: float
    head: Tensor
    size: tuple[int, int]


@dataclass(frozen=True)
class Origin:
    """An earlier tensor whose elements those of a tensor are: what moves do not lose.

    Attributes:
        made: how that tensor came about.
        at: the number of every element in it; None where nothing has moved.
    """

    made: Projection | Heads
    at: Tensor | None = None

    def moved(self, at: Tensor) -> Origin:
        """Behind a move that has brought the elements of these numbers here."""
        return replace(self, at=at if self.at is None else self.at.flatten()[at])

    def numbers(self, shape: Sequence[int]) -> Tensor:
        """The elements' numbers, of the shape of the tensor."""
        return torch.arange(math.prod(shape)).view(*shape) if self.at is None else self.at.view(*shape)


@dataclass(frozen=True)
class Flow:
    """A tensor that depends on the input, with guaranteed bounds on its Jacobian J toward the pixels.

    Attributes:
        total: ln of a bound on ‖J‖.
        shape: of the tensor, for one input.
        value: the tensor at x in float64; None in a bound that holds at every x.
        channels: a finer bound along the channel axis, or None.
        grid: ln of a bound for every part of the tensor, of the tensor's rank: along every axis its length (one bound
            an index) or 1 (all indices together). None: only `total` is known.
        longest: (ln r, axis): no vector along that axis, at any x, is longer than r. None: nothing is known.
        off: how far an element of `value` may be off by rounding.
        on: whether an element can react to the input at all, at this x; None where nothing is known.
        terms: summands of J that wait for what filters them, an activation or a pool, before they are bounded; None
            where `total` is all that is known.
        origin: the linear layer or the attention whose outputs the elements are, wherever they have moved since; None
            where it is neither.
        scores: the queries and keys of which the tensor is the scores of an attention, or its weights; None if it is
            neither.
        level: whether the Jacobian of what lies along the last axis sums to 0, as behind a softmax.
        normed: whether the batch normalisation that follows is in `total` already.
        note: what the last rule did, as the waterfall tells it: (kind, ln of its own factor or None, formula).
    """

    total: float
    shape: torch.Size = field(default_factory=torch.Size)
    value: Tensor | None = None
    channels: Channels | None = None
    grid: Tensor | None = None
    longest: tuple[float, int] | None = None
    off: float = 0.0
    on: Tensor | None = None
    terms: tuple[Term, ...] | None = None
    origin: Origin | None = None
    scores: Scores | None = None
    level: bool = False
    normed: bool = False
    note: tuple[str, float | None, str] | None = None

    def times(self, gain: float, formula: str, *, kind: str = "") -> Flow:
        """The output of a layer whose Jacobian has a spectral norm of at most `gain`, by the formula in words."""
        return Flow(self.total + log(gain), note=(kind, log(gain), formula))

    def elementwise(self, gain: float, formula: str, *, kind: str = "", local: Tensor | None = None) -> Flow:
        """The output of a function of every element with |slope| ≤ gain; `local` holds the slopes at x."""
        up = log(gain)
        on, terms = self.on, self.terms
        if local is None:
            grid = None if self.grid is None else self.grid + up
            terms = terms and tuple(t.louder(up) for t in terms)
        else:
            if self.value is not None and local.numel() == math.prod(self.shape):
                local = local.expand(self.shape)
                on = local > 0 if on is None else on & (local > 0)
                terms = terms and tuple(t.filtered(local.clamp_max(gain)) for t in terms)
            else:
                terms = None
            up = min(up, log(float(local.amax())))
            grid = None if self.grid is None else self.grid + local.log().amax(
                [i for i, n in enumerate(self.grid.shape) if n == 1], keepdim=True).clamp_max(log(gain))  # fmt: skip
        channels = self.channels and self.channels.louder(up)
        return Flow(self.total + up, channels=channels, grid=grid, on=on, terms=terms, note=(kind, up, formula))

    def scaled(self, axis: int, scale: Tensor, formula: str, *, kind: str = "") -> Flow:
        """The output of a multiplication of every channel with a number of its own."""
        scale, axis = scale.detach().cpu().double(), axis % len(self.shape)
        c = self.channels
        if c is None or c.axis != axis:
            c = Channels(axis, (len(scale),), (self.total,), self.total, torch.ones_like(scale))
        c = replace(c, scale=c.scale * scale)
        own = log(float(scale.abs().amax()))
        total = min(c.total, self.total + own)
        grid = None if self.grid is None else self.grid + own
        wide = scale.abs().view([-1 if i == axis else 1 for i in range(len(self.shape))]).expand(self.shape)
        terms = self.terms and tuple(t.filtered(wide) for t in self.terms)
        return Flow(total, channels=c, grid=grid, on=self.on, terms=terms, note=(kind, own, formula))

    def settled(self) -> Flow:
        """With the bound of its terms, which filters have made as small as they can."""
        if self.terms is None:
            return self
        total = log_sum([t.bound for t in self.terms])
        return self if total >= self.total else replace(self, total=total)

    def channelwise(self, gain: float, formula: str, *, kind: str = "") -> Flow:
        """The output of one map of norm `gain` for every channel (axis 1): the channels' own bounds remain."""
        kept = self.channels.louder(log(gain)) if self.channels and self.channels.axis == 1 else None
        return replace(self.times(gain, formula, kind=kind), channels=kept)

    def weighted(self, axis: int, weight: Tensor, norm: Callable[[Tensor], float]) -> float:
        """The logarithm of the bound behind a linear layer with `weight` (out, in, …) that reads an axis' channels.

        The better of ‖W‖·‖J‖ and Σ‖W⁽ˢ⁾‖·‖J⁽ˢ⁾‖ over the parts s of a concatenation, with pending factors in W.
        """
        c = self.channels
        if c is None or c.axis != axis % len(self.shape):
            return self.total + log(norm(weight))
        weight = weight * c.scale.to(weight).view(1, -1, *[1] * (weight.ndim - 2))
        whole = c.base + log(norm(weight))
        if len(c.sizes) == 1:
            return whole
        parts = weight.split(c.sizes, 1)
        return min(whole, log_sum([a + log(norm(w)) for a, w in zip(c.logs, parts, strict=True)]))

    @property
    def finest(self) -> Tensor:
        """The grid, or one of a single cell that holds the total."""
        return torch.full([1] * len(self.shape), self.total, dtype=torch.float64) if self.grid is None else self.grid

    def gridded(self, grid: Tensor | None, note: tuple[str, float | None, str], total: float | None = None) -> Flow:
        """A flow from a grid, and from a bound on the whole where that is known too."""
        known = [t for t in (total, None if grid is None else log_norm(grid)) if t is not None]
        return Flow(min(known), grid=grid, note=note)


def log(x: float) -> float:
    """The natural logarithm, −∞ at 0."""
    return math.log(x) if x > 0 else NOTHING


def log_sum(logs: Sequence[float] | Tensor) -> float:
    """The logarithm of Σ e^a."""
    a = torch.as_tensor(logs, dtype=torch.float64).flatten()
    return float(torch.logsumexp(a, 0)) if len(a) and a.amax() > NOTHING else NOTHING


def times(matrix: Tensor, logs: Tensor) -> Tensor:
    """The logarithms of M e^a, for matrices (…, m, k) without negative elements and logarithms a (…, k, 1)."""
    return torch.logsumexp(matrix.log() + logs.mT, -1, keepdim=True)


def log_norm(logs: Sequence[float] | Tensor) -> float:
    """The logarithm of √Σ e^{2a}."""
    return log_sum(2 * torch.as_tensor(logs, dtype=torch.float64)) / 2


def collapsed(grid: Tensor, axes: list[int]) -> Tensor:
    """A grid with all indices of some axes taken together."""
    for axis in axes:
        grid = grid if grid.shape[axis] == 1 else torch.logsumexp(2 * grid, axis, keepdim=True) / 2
    return grid


@dataclass(frozen=True)
class Step:
    """What a rule is told beside the arguments of the call that it bounds.

    Attributes:
        op: the module or function; the name of a tensor method.
        output: what the call returned. Only its shape means something where `pointwise` is False.
        pointwise: whether the bound is to hold at one x, whose tensors are known, or at every x.
        following: one factor a channel of the batch normalisation that alone reads the output, or None. A rule that
            takes it into its weights returns a flow with normed=True.
    """

    op: Any
    output: Any
    pointwise: bool
    following: Tensor | None = None
