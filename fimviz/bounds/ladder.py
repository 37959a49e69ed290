"""The ladder: guaranteed upper bounds on λ₁ of the Fisher information, each weaker and needing less, and lower ones.

For a softmax, F is the covariance of the gradients J_y of the logits under p, so that λ₁ is the largest variance of
uᵀJ_y over unit u. With c(p) = max p_A(1 − p_A) over sets A of classes, at most ¼ and p₁(1 − p₁) once the winner has
half of the probability, Popoviciu's inequality gives

    λ₁ ≤ L2 = c(p) max ‖J_i − J_j‖² ≤ L3 = c(p) Δ² ‖J_h(x)‖² ≤ L4 = c(p) Δ² L_h(x)² ≤ L5 = ¼ Δ² L_h² ≤ L6 = ½ ‖W‖² L_h²

for logits z = W h + b, Δ the largest distance between rows of W and L_h a bound of ‖J_h‖; and λ₁ ≤ L1 = tr F. From
below, p_a p_b ‖J_a − J_b‖² for every pair, tr F / rank and ‖F‖²_F / tr F. A network that does not end in a linear
layer, or that cannot be traced, has its logits, without their mean, for features, W = I and Δ = √2.

K independent outputs have F = Σ s_k J_kᵀJ_k, for yes/no labels with s_k = p_k(1 − p_k), so that s = max s_k takes the
place of c(p), its largest value that of ¼, ‖W‖ that of Δ, ‖W‖_F/√2 that of ‖W‖ in L6, and L2 = s ‖J‖². A single output
bounds from below, s_k ‖J_k‖².

All are ours: worked from the definitions, tested against the exact λ₁. Values are logarithms to the base 10: L5 of a
deep network leaves the range of floating point.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from fimviz._ways import Way
from fimviz.bounds.features import feature_norms
from fimviz.bounds.flow import NoRuleError
from fimviz.bounds.linear.fragility import by_slopes
from fimviz.bounds.network import Layer, LocalBound, NetworkBound, local_bound, network_bound
from fimviz.bounds.norms import matrix_norm
from fimviz.fisher.contrasts import Contrasts, contrasts, precise_logits
from fimviz.model.classifier import Classifier
from fimviz.model.engine.progress import Tick, silent
from fimviz.model.likelihoods import Likelihood

_B = TypeVar("_B")
SPARE = 1e-9  # relative, for the double precision of the formulas themselves
_CHUNK = 256


@dataclass(frozen=True)
class Rung:
    """One bound at n inputs.

    Attributes:
        log10: (n,) of the bound, its rounding included; NaN where there is none, for the `reason`.
        reason: why there is no value; empty if there is.
        forwards, vjps: (n,) passes that it takes by itself.
        seconds: that it took, with what it shares with others.
    """

    log10: Tensor
    reason: str
    forwards: Tensor
    vjps: Tensor
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Formula(Way):
    """A bound of λ₁ by a formula, "upper" or "lower".

    Attributes:
        bound: a ladder → log₁₀ of the bound (n,), or None and why there is none.
        shares: the parts of the ladder that it reads: "rows", the gradients of the logits; "features"; "local",
            "weights", "logits".
        last: where it multiplies layers, what stands between their product and the bound.
    """

    bound: Callable[[Ladder], tuple[Tensor | None, str]]
    shares: tuple[str, ...]
    last: str = ""

    def written(self, text: str, likelihood: Likelihood) -> str:
        """Its formula, or what it says of its `last` step, in the symbols of a likelihood."""
        return text.format(**vars(likelihood.symbols))


@dataclass(frozen=True)
class Head:
    """What the last layer does to a bound on what it reads.

    Attributes:
        spread: Δ, or ‖W‖ for independent outputs.
        norm: ‖W‖, or ‖W‖_F/√2 for independent outputs.
        pairs: (K, K) ‖w_i − w_j‖, or (K,) ‖w_k‖ for independent outputs.
    """

    spread: float
    norm: float
    pairs: Tensor


@dataclass(eq=False)
class Ladder:
    """All that the rungs at an admitted batch share, computed when it is first asked for.

    Args:
        net: a classifier that has been called.
        x: (n, …), as `Classifier.admit` returned it.
        feature_vjps: L3 takes one VJP a feature, and is left out where there are more.
        max_memory: bytes that passes may take, by default half of what is free.
        radius: (n,) of the balls that `ball` holds in.
    """

    net: Classifier
    x: Tensor
    feature_vjps: int = 256
    max_memory: float | None = None
    radius: Tensor | None = None
    _seconds: dict[str, float] = field(default_factory=dict)

    def rung(self, formula: Formula) -> Rung:
        """A bound at the batch, and what it took."""
        start = time.perf_counter()
        before = sum(self._seconds.values())
        bound, reason = formula.bound(self)
        if bound is None:
            bound = torch.full((len(self.x),), torch.nan, dtype=torch.float64)
        forwards, vjps = self._passes(formula)
        own = time.perf_counter() - start - (sum(self._seconds.values()) - before)
        shared = sum(self._seconds.get(part, 0.0) for part in formula.shares)
        return Rung(bound, reason, forwards, vjps, own + shared)

    @cached_property
    def rows(self) -> Contrasts:
        """The gradients' products."""
        with _Timed(self, "rows"):
            return contrasts(self.net, self.x, self.max_memory)

    @cached_property
    def everywhere(self) -> tuple[NetworkBound | None, str]:
        """The bound from the weights, or why there is none."""
        with _Timed(self, "weights"):
            return _attempt(lambda: network_bound(self.net, self.x))

    @cached_property
    def here(self) -> tuple[LocalBound | None, str]:
        """The bound at the inputs, or why there is none."""
        with _Timed(self, "local"):
            return _attempt(lambda: local_bound(self.net, self.x))

    @cached_property
    def log_c(self) -> Tensor:
        """log₁₀ of the likelihood's cap (n,), above its rounding."""
        if "rows" in self.__dict__:
            return largest_variance(self.net, self.rows.logits, self.rows.logit_error)
        with _Timed(self, "logits"):
            return largest_variance(self.net, *precise_logits(self.net, self.x, self.max_memory))

    @cached_property
    def head(self) -> Head:
        """The last layer, or the identity on the logits."""
        bound = self._bound()
        return last_layer(self.net, None if bound is None else bound.weight)

    def _bound(self) -> NetworkBound | LocalBound | None:
        """A bound that knows how the network ends: where there is none at every x, that at the inputs."""
        bound = self.everywhere[0]
        return bound if bound is not None and bound.log10_logits is not None else self.here[0]

    @property
    def layers(self) -> tuple[tuple[Layer, ...] | None, str]:
        """The waterfall of the bound from the weights, or why there is none."""
        bound, reason = self.everywhere
        if bound is None or bound.log10_logits is None:
            return None, reason or (bound.reason if bound else "")
        return bound.steps, bound.reason

    @property
    def local_layers(self) -> tuple[tuple[Layer, ...], ...] | None:
        """One waterfall an input, or None."""
        bound = self.here[0]
        return None if bound is None or bound.log10_logits is None else bound.steps

    def log_lipschitz(self) -> tuple[float | None, str]:
        """log₁₀ of L_h at every x, or why there is none."""
        return _log_lipschitz(*self.everywhere)

    def trace(self) -> tuple[Tensor, str]:
        """L1, the trace of F."""
        rows = self.rows
        return _up(rows.trace + rows.trace_error) + rows.log_scale / math.log(10), ""

    def widest(self) -> tuple[Tensor, str]:
        """L2, from the largest distance of two gradients."""
        return self.log_c + 2 * _up(self.rows.widest), ""

    def features(self) -> tuple[Tensor | None, str]:
        """L3, from the Jacobian of what the last layer reads."""
        bound = self._bound()
        weight = None if bound is None else bound.weight  # None where the logits are their own features
        width = self.net.likelihood.rank(len(self.net.classes)) if weight is None else weight.shape[1]
        if width > self.feature_vjps and not (weight is None and "rows" in self.__dict__):
            return None, (
                f"it would take one VJP for each of {width} features at every input, more than "
                f"feature_vjps={self.feature_vjps}"
            )
        if bound is None or weight is None:
            return self.log_c + 2 * log10(self.head.spread) + 2 * _up(self.rows.centred), ""
        try:
            with _Timed(self, "features"):
                norms = feature_norms(self.net, self.x, bound.source, width, self.max_memory)
        except MemoryError as error:
            return None, str(error)
        return self.log_c + 2 * log10(self.head.spread) + 2 * _up(norms), ""

    def local(self) -> tuple[Tensor | None, str]:
        """L4, from the layers as they are at the inputs."""
        local, reason = _log_lipschitz(*self.here)
        everywhere = self.log_lipschitz()[0]
        if local is None and everywhere is None:
            return None, reason
        if local is None:
            local = self.log_c.new_full((len(self.x),), torch.inf)
        best = local.clamp_max(math.inf if everywhere is None else everywhere)
        return self.log_c + 2 * (log10(self.head.spread) + best) + SPARE, ""

    def weights_only(self, factor: float, which: str) -> tuple[Tensor | None, str]:
        """L5 and L6, from the layers as they can be anywhere; `factor` is a logarithm, `which` a field of `Head`."""
        value, reason = self.log_lipschitz()
        if value is None:
            return None, reason
        if never := self.net.likelihood.unlimited:
            return None, f"no bound holds at every x: {never}"
        largest = self.net.likelihood.log_limit / math.log(10)
        bound = math.log10(factor) + largest + 2 * (log10(getattr(self.head, which)) + value) + SPARE
        return torch.full((len(self.x),), bound, dtype=torch.float64), ""

    def ball(self, affordable: bool = True, tick: Tick = silent) -> tuple[Tensor | None, str]:
        """What λ₁ can be anywhere within the radius of each input: from linear bounds, or from the weights if better.

        With `affordable`, no linear bounds of networks that they would take minutes an input for.
        """
        assert self.radius is not None
        value, reason = by_slopes(self.net, self.x, self.radius, affordable, tick)
        everywhere, why = self.weights_only(1.0, "spread")
        if everywhere is not None:
            value = torch.fmin(value, everywhere)
        known = not bool(value.isnan().any())
        return (value, "") if known else (None, reason if reason == why else f"{reason}; {why}")

    def _passes(self, formula: Formula) -> tuple[Tensor, Tensor]:
        none = torch.zeros(len(self.x), dtype=torch.int64)
        features = "features" in formula.shares
        if "rows" in formula.shares or (features and "features" not in self._seconds and "rows" in self.__dict__):
            return self.rows.forwards, self.rows.vjps
        if features:
            bound = self._bound()
            width = 0 if bound is None or bound.weight is None else bound.weight.shape[1]
            return none + 2, none + (width if "features" in self._seconds else 0)
        return (none + 2 if "local" in formula.shares else none), none


class _Timed:
    """Notes the seconds of a shared part."""

    def __init__(self, ladder: Ladder, name: str) -> None:
        self._ladder, self._name = ladder, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._ladder._seconds[self._name] = time.perf_counter() - self._start


def largest_variance(net: Classifier, z: Tensor, error: Tensor) -> Tensor:
    """log₁₀ of the likelihood's cap (n,), for one of K classes c(p), above the rounding of z."""
    log_c = net.likelihood.log_cap(z) + 2 * error + SPARE
    return log_c.clamp_max(net.likelihood.log_limit + SPARE) / math.log(10)


def last_layer(net: Classifier, weight: Tensor | None) -> Head:
    """What the last layer's weights (K, d), or the identity on the logits for None, do to a bound of the features."""
    spare = 1 + SPARE
    if not net.likelihood.invariant:
        if weight is None:
            classes = len(net.classes)
            return Head(1.0, (classes / 2) ** 0.5 * spare, torch.ones(classes, dtype=torch.float64))
        norms = weight.norm(dim=1)
        norm = matrix_norm(weight)
        return Head(norm, max(float(weight.norm()), norm) / 2**0.5 * spare, norms * spare)
    if weight is None:
        classes = len(net.classes)
        pairs = 2**0.5 * spare * (1 - torch.eye(classes, dtype=torch.float64))
        return Head(2**0.5 * spare, 1.0 * spare, pairs)
    exactly = "donot_use_mm_for_euclid_dist"
    pairs = torch.cat([torch.cdist(some, weight, compute_mode=exactly) for some in weight.split(_CHUNK)]) * spare
    return Head(float(pairs.amax()), matrix_norm(weight), pairs)


def lower_trace(rows: Contrasts, size: int) -> Tensor:
    """log₁₀ of the larger of tr F/rank and ‖F‖²_F/tr F (n,), below its rounding; rank F is at most the input's size."""
    rank = min(rows.eigenvalues.shape[1], size)
    mean = (rows.trace - rows.trace_error).clamp_min(0) / rank
    weighted = (rows.frobenius - rows.frobenius_error).clamp_min(0) ** 2 / (rows.trace + rows.trace_error)
    return torch.maximum(mean, weighted.nan_to_num()).log10() + rows.log_scale / math.log(10) - SPARE


def log10(x: float) -> float:
    """The logarithm to the base 10, −∞ at 0: some last layers start from zeros."""
    return math.log10(x) if x > 0 else -math.inf


def _log_lipschitz(bound: NetworkBound | LocalBound | None, reason: str) -> tuple[Any, str]:
    if bound is None:
        return None, reason
    value = bound.log10_logits if bound.weight is None else bound.log10_features
    return value, "" if value is not None else bound.reason


def _up(x: Tensor) -> Tensor:
    """log₁₀ x above the rounding of double precision."""
    return x.log10() + SPARE


def _attempt(compute: Callable[[], _B]) -> tuple[_B | None, str]:
    try:
        return compute(), ""
    except (NoRuleError, ValueError, OverflowError, torch.linalg.LinAlgError) as error:
        return None, str(error)
