"""Guaranteed bounds on how strongly a network's features and logits can react to its pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fimviz._options import named_options
from fimviz.bounds.flow import Channels, Flow, NoRuleError
from fimviz.bounds.graph import Call, Head, Rounded, Walk
from fimviz.bounds.layers import folded
from fimviz.bounds.norms import matrix_norm
from fimviz.bounds.tracing import trace
from fimviz.model.at_rest import in_dtype
from fimviz.model.classifier import Classifier, _tensor_of, as_classifier
from fimviz.model.models import called

_SPARE = 1e-8  # added to every logarithm of a bound, for the double precision arithmetic of the rules


@dataclass(frozen=True)
class Layer:
    """One row of the waterfall.

    Attributes:
        name: the layer's name in the model, or where a function is called.
        kind: what it is, in words.
        log10_gain: log₁₀ of a bound on its own Jacobian's norm; None where it joins several tensors.
        log10_bound: log₁₀ of the bound on its output's Jacobian toward the pixels. It can be below the sum of the
            gains before it: a part of a concatenation, or a layer's factors, wait for the layer that reads them.
        formula: where the gain comes from, in words.
    """

    name: str
    kind: str
    log10_gain: float | None
    log10_bound: float
    formula: str


@dataclass(frozen=True)
class NetworkBound:
    """Bounds that hold at every x, of `network_bound`.

    Attributes:
        log10_features: log₁₀ of L_h, ‖∂h/∂x‖ ≤ L_h for the features h that the last linear layer reads, in units of h
            a pixel unit; None where there is none, for the given `reason`.
        log10_logits: log₁₀ of a bound on the Jacobian of the logits; None where there is none.
        weight, bias: (K, d) and (K,), z = weight·h + bias, temperature included; None if the network does not end in
            a linear layer.
        reason: why something is None; empty if nothing is.
        steps: the waterfall, in the order of the graph.
        source: the node of the traced graph that is h; empty where there is no h.
    """

    log10_features: float | None
    log10_logits: float | None
    weight: Tensor | None
    bias: Tensor | None
    reason: str
    steps: tuple[Layer, ...]
    source: str = ""

    @property
    def features(self) -> float | None:
        """L_h itself: infinite from 1e308 on, where its logarithm goes on."""
        return None if self.log10_features is None else _power(self.log10_features)

    @property
    def logits(self) -> float | None:
        """The bound on the Jacobian of the logits itself."""
        return None if self.log10_logits is None else _power(self.log10_logits)


@dataclass(frozen=True)
class LocalBound:
    """Bounds at n inputs, of `local_bound`: as `NetworkBound`, with tensors (n,) and one waterfall an input.

    Attributes:
        log10_features: (n,) or None.
        log10_logits: (n,) or None.
        weight, bias: as in `NetworkBound`.
        reason: why something is None; empty if nothing is.
        steps: n waterfalls.
        source: as in `NetworkBound`.
    """

    log10_features: Tensor | None
    log10_logits: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    reason: str
    steps: tuple[tuple[Layer, ...], ...]
    source: str = ""

    @property
    def features(self) -> Tensor | None:
        """(n,) the bounds on ‖∂h/∂x‖ themselves."""
        return None if self.log10_features is None else 10**self.log10_features

    @property
    def logits(self) -> Tensor | None:
        """(n,) the bounds on the Jacobian of the logits themselves."""
        return None if self.log10_logits is None else 10**self.log10_logits


@named_options
def network_bound(net: Classifier | nn.Module, inputs: Tensor | Sequence[int]) -> NetworkBound:
    """A guaranteed bound on the input Jacobian of a network, at every x: from its weights and the inputs' shape.

    Layer after layer, a bound on ‖∂tensor/∂x‖ is multiplied with the layer's own norm; where tensors are added,
    bounds are added, and where they are concatenated, squares are. So residual and dense connections need no case of
    their own. Norms are certified (`fimviz.bounds.norms`), never estimated. The result holds for the network in exact
    arithmetic with the weights that it has; the margins for the rounding of this computation are part of it.

    Args:
        net: a `Classifier`, whose normalisation is taken into account, or a model from pixels to logits.
        inputs: a batch (n, …), or the shape of one input without the batch axis, as (3, 224, 224). Only the shape is
            used: how many pixels an average is taken over is no property of the weights.

    Raises:
        NoRuleError: a layer without a rule, or a model that neither torch.fx nor torch.export can trace; the message
            names it.

    Source: the composition is that of Szegedy et al. (2014), §4.3, per tensor of the graph; ours where it goes on.

    Example, with the closed form ‖W‖ = 5 and a ReLU:
        >>> import torch, fimviz.bounds as bounds
        >>> first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 3)
        >>> _ = torch.nn.init.zeros_(first.weight)
        >>> first.weight.data[:, 0] = torch.tensor([3.0, 4.0])
        >>> bound = bounds.network_bound(torch.nn.Sequential(first, torch.nn.ReLU(), second), (2,))
        >>> round(bound.features, 4), [step.kind for step in bound.steps]
        (5.0, ['linear', 'ReLU', 'linear'])
    """
    net = as_classifier(net)
    shape = tuple(inputs.shape[1:]) if isinstance(inputs, Tensor) else tuple(int(n) for n in inputs)
    with net.at_rest(), torch.no_grad():
        low, high = net.input_range or (0.0, 1.0)
        x = torch.rand((1, *shape), generator=torch.Generator().manual_seed(0), dtype=net.dtype)
        x = (low + (high - low) * x).to(net.device)  # only its shape counts, but for the check of the graph
        walk = _walk(net, trace(net, x), x, False)
        parts = _parts(net, walk)
    steps = tuple(_layer(call) for call in walk.calls)
    return NetworkBound(*parts[:5], steps, parts[5])


@named_options
def local_bound(net: Classifier | nn.Module, images: Tensor) -> LocalBound:
    """Guaranteed bounds on the input Jacobian of a network at given inputs: from its weights and its tensors there.

    As `network_bound`, but every rule may look at the values that its layer has at x, in double precision: the scale
    of a layer normalisation, the weights of an attention, the factors of a product, the slopes of activations. What a
    ReLU has switched off takes no part (`fimviz.bounds.active`): single units of layers that can be written down, of
    larger convolutions (those of photographs) the channels that are off throughout. Tokens carry a bound each. It says
    nothing about any other x, however near.

    Args:
        net: a `Classifier` or a model from pixels to logits.
        images: (n, …) in pixels.

    Raises:
        NoRuleError: a layer without a rule, or a model that neither torch.fx nor torch.export can trace; the message
            names it.
        ValueError: the network cannot run in double precision.

    Source: for attention, the product rule of its three arguments at x; see `fimviz.bounds.tokens`.

    Example, with the slope of tanh at 1:
        >>> import math, torch, fimviz.bounds as bounds
        >>> net = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(1, 2))
        >>> float(bounds.local_bound(net, torch.ones(1, 1)).features.round(decimals=4)), round(1 - math.tanh(1)**2, 4)
        (0.42, 0.42)
    """
    net = as_classifier(net)
    images = net.admit(images)
    rows = []
    with net.at_rest(), torch.no_grad():
        traced = trace(net, images)  # which looks for parameters, and in_dtype puts plain tensors in their places
        if net.dtype != torch.float64 and not net.has_float64:
            raise ValueError(
                "the network cannot run in float64, expected one that can: a dtype is written into its forward"
            )
        for image in images.detach().cpu().double().to(net.device).split(1):
            rounded = {} if net.dtype == torch.float64 else _rounded(net, traced, image)
            with in_dtype(net.model, torch.float64), in_dtype(traced, torch.float64):
                walk = _walk(net, traced, image, True, rounded)
                rows.append((*_parts(net, walk), tuple(_layer(call) for call in walk.calls)))
    features, logits, weights, biases, reasons, sources, steps = zip(*rows, strict=True)
    reason = next((r for r in reasons if r), "")
    return LocalBound(_column(features), _column(logits), weights[0], biases[0], reason, steps, sources[0])


def _rounded(net: Classifier, traced: fx.GraphModule, x: Tensor) -> dict[str, Any]:
    """What all calls return in the network's own precision."""
    run = Rounded(traced)
    with in_dtype(traced, net.dtype):
        run.run(net.normalised(x.to(net.dtype)))
    return run.seen


def _walk(net: Classifier, traced: Any, x: Tensor, pointwise: bool, rounded: dict[str, Any] | None = None) -> Walk:
    scale = (1 / net.std).expand(x.shape[1]) if len(net.std) == 1 else 1 / net.std
    if len(scale) != x.shape[1]:
        raise ValueError(f"std has {len(net.std)} values and the inputs have {x.shape[1]} channels")
    start = Flow(0.0, shape=x.shape)
    top = math.log(float(scale.amax()))
    start = Flow(top, channels=Channels(1, (x.shape[1],), (0.0,), 0.0, scale))
    values = net.normalised(x)
    if not pointwise:
        values = values.to(next((p.dtype for p in net.model.parameters() if p.is_floating_point()), values.dtype))
    walk = Walk(traced, values.clone(), start, pointwise, rounded)
    if not walk.reason:
        check(_tensor_of(called(net.model, values)), walk.value())
    return walk


def check(z: Tensor, again: Tensor) -> None:
    """Refuse a graph that computes other logits than the model, whose bounds would be those of another network."""
    tolerance = min(max(256 * torch.finfo(z.dtype).eps, 1e-9), 1e-2)
    size = float(z.abs().nan_to_num(0.0, 0.0).amax())
    if z.shape != again.shape or not torch.isclose(z, again, tolerance, tolerance * size, equal_nan=True).all():
        raise NoRuleError(
            "the model returns other logits than its traced graph, so that bounds of the graph would not hold for it: "
            "look for hooks, and for forwards that were replaced or that decide by what torch.fx does not see"
        )


_Parts = tuple[float | None, float | None, Tensor | None, Tensor | None, str, str]


def _parts(net: Classifier, walk: Walk) -> _Parts:
    """log₁₀ L_h, log₁₀ of the logits' bound, weight, bias, reason, source; with temperature and a single logit."""
    if walk.reason:
        return None, None, None, None, walk.reason, ""
    logits, head = walk.logits().total - math.log(net.temperature), walk.head()
    if head is None:
        return None, _log10(logits), None, None, "the network does not end in a linear layer: see its logits", ""
    weight, bias = _classes(net, head)
    logits = min(logits, head.features + math.log(max(matrix_norm(weight), 1e-300)))
    return _log10(head.features), _log10(logits), weight, bias, "", head.source


def _classes(net: Classifier, head: Head) -> tuple[Tensor, Tensor]:
    weight = folded(head.weight, None).cpu()
    bias = weight.new_zeros(len(weight)) if head.bias is None else head.bias.cpu().double()
    return net.read_out(weight.mT).mT, net.read_out(bias[None])[0]


def _layer(call: Call) -> Layer:
    return Layer(call.name, call.kind, None if call.gain is None else _log10(call.gain, 0), _log10(call.total),
                 call.formula)  # fmt: skip


def _column(values: tuple[float | None, ...]) -> Tensor | None:
    known = [v for v in values if v is not None]
    return torch.tensor(known, dtype=torch.float64) if len(known) == len(values) else None


def _log10(natural: float, spare: float = _SPARE) -> float:
    return (natural + spare) / math.log(10)


def _power(log10: float) -> float:
    return math.inf if log10 > 308 else 10.0**log10


__all__ = ["Layer", "LocalBound", "NetworkBound", "NoRuleError", "local_bound", "network_bound"]
