"""`compare_bounds`: the ways to find λ₁ side by side: value, interval, guarantee and cost, for every input."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fimviz._options import named_options
from fimviz.blackbox import BlackBox
from fimviz.classifier import Classifier, as_classifier
from fimviz.fisher.estimators import Estimate, hutchinson, published_blackbox, published_whitebox
from fimviz.fisher.methods import spectrum
from fimviz.fisher.spectrum import Spectrum
from fimviz.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from fimviz.views.figure import Figure

# Passes toward the input in units of a forward pass: measured on ResNet-20 and SqueezeNet, ± 25 %.
VJP_COST, JVP_COST = 1.3, 3.6
_SPECTRAL = ("exact", "lanczos", "power", "blackbox")
_ESTIMATORS: dict[str, Callable[..., Estimate]] = {
    "published-whitebox": published_whitebox,
    "published-blackbox": published_blackbox,
    "hutchinson-trace": lambda *args, **options: hutchinson(*args, **options)[0],
}
METHODS = (*_SPECTRAL, *_ESTIMATORS)
_BY_QUERIES = ("blackbox", "published-blackbox")
_CHUNK = 16  # inputs at a time


@dataclass(frozen=True, eq=False)
class Column:
    """One method on all inputs: value, low, high (n,); passes for each input; seconds; the running value (n, s)."""

    value: Tensor
    low: Tensor
    high: Tensor
    guarantee: str
    forwards: Tensor
    vjps: Tensor
    jvps: Tensor
    seconds: float
    history: Tensor
    history_cost: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class BoundComparison(Result):
    """λ₁ of the Fisher information at each of n inputs, by several methods.

    Attributes:
        methods: for each method a `Column` of values, intervals and costs; λ in nats per squared pixel unit.
        probabilities: (n, K); images: (n, *input); net: the classifier.
    """

    methods: dict[str, Column]
    confidence: Tensor
    said: list[str]

    def __len__(self) -> int:
        return len(self.confidence)

    def __repr__(self) -> str:
        return f"BoundComparison({len(self)} inputs: {', '.join(self.methods)})"

    @property
    def reference(self) -> Tensor:
        """The exact value (n,), or that of the first method where "exact" was not asked for."""
        first = self.methods.get("exact") or next(iter(self.methods.values()))
        return first.value

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a sample and method: value, low, high, guarantee, forwards, vjps, jvps, seconds of the batch/n."""
        import pandas as pd

        return pd.DataFrame(
            {
                "sample": i,
                "method": name,
                "value": float(m.value[i]),
                "low": float(m.low[i]),
                "high": float(m.high[i]),
                "guarantee": m.guarantee,
                "forwards": int(m.forwards[i]),
                "vjps": int(m.vjps[i]),
                "jvps": int(m.jvps[i]),
                "seconds": m.seconds / len(self),
            }
            for i in range(len(self))
            for name, m in self.methods.items()
        )

    def plot(self) -> go.Figure:
        """Value ÷ exact value of every method and input, on a log axis, as a plotly figure."""
        from fimviz.views.charts import comparison_figure

        return comparison_figure(self)

    @named_options
    def view(self, *, samples: int = 200, max_bytes: int = 20_000_000) -> Figure:
        """The comparison view: values with intervals on a log axis, and convergence against cost.

        Args:
            samples: how many inputs, the most fragile first.
            max_bytes: refuse a page larger than this.
        """
        from fimviz.views.comparison import comparison

        return comparison(self, samples=samples, max_bytes=max_bytes)


@named_options
def compare_bounds(
    net: Classifier | BlackBox | nn.Module,
    images: Any,
    *,
    methods: Sequence[str] | None = None,
    probes: int = 100,
    tolerance: float = 1e-6,
    max_steps: int = 100,
    seed: int = 0,
) -> BoundComparison:
    """λ₁ at each input of a batch by several methods, with intervals, guarantees and costs.

    Args:
        net: a `Classifier`, or a module from pixels in [0, 1] to logits.
        images: (n, …) floats.
        methods: names out of "exact", "lanczos", "power", "blackbox", "published-whitebox", "published-blackbox",
            "hutchinson-trace" (which estimates the trace, an upper bound of λ₁ in the mean); by default all.
        probes: random directions of the sampling methods.
        tolerance: where the iterations stop, as in `spectrum`.
        max_steps: at which they stop anyway.
        seed: of everything random.

    Example, two classes with p = (½, ½), where λ₁ = ¼ ‖w₁ − w₂‖² = 1:
        >>> import torch, fimviz as fv
        >>> model = torch.nn.Linear(3, 2, bias=False).double()
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]))
        >>> c = fv.compare_bounds(model, torch.zeros(1, 3), methods=["exact", "lanczos"])
        >>> c.frame.value.round(9).tolist()
        [1.0, 1.0]
    """
    allowed = _BY_QUERIES if isinstance(net, BlackBox) else METHODS
    chosen = list(allowed if methods is None else methods)
    if not chosen or not set(chosen) <= set(allowed):
        raise ValueError(f"methods are {chosen}, expected some of {', '.join(allowed)} for this model")
    net = net if isinstance(net, BlackBox) else as_classifier(net)
    x = net.admit(images).detach()
    columns = {}
    for name in chosen:
        if name in _SPECTRAL:
            s = spectrum(
                net,
                x,
                k=1,
                method=name,
                vectors=False,
                tolerance=tolerance,
                max_steps=max_steps,
                probes=probes,
                seed=seed,
            )
            columns[name] = _of_spectrum(s)
        else:
            columns[name] = _of_estimates(net, x, _ESTIMATORS[name], probes, seed)
    with net.at_rest(), torch.no_grad():
        z = torch.cat([net.logits(part.to(net.device)).cpu().double() for part in x.split(_CHUNK)])
    modes = net.likelihood.mode(z)
    names = net.classes
    said = [
        names[int(m)] if m.ndim == 0 else " + ".join(names[c] for c in m.nonzero()[:, 0]) or "no label" for m in modes
    ]
    return BoundComparison(methods=columns, confidence=net.likelihood.confidence(z), said=said)


def _of_spectrum(s: Spectrum) -> Column:
    value, error = s.spectral_norm, s.error[:, 0]
    return Column(
        value=value,
        low=(value - error).clamp_min(0),
        high=value + error,
        guarantee=s.guarantee,
        forwards=s.cost.forwards,
        vjps=s.cost.vjps,
        jvps=s.cost.jvps,
        seconds=s.cost.seconds,
        history=s.history,
        history_cost=_cost(s.method, s.history.shape[1]),
    )


def _of_estimates(
    net: Classifier | BlackBox, x: Tensor, estimator: Callable[..., Estimate], probes: int, seed: int
) -> Column:
    start = time.perf_counter()
    with net.at_rest():
        parts = [estimator(net, part.to(net.device), probes=probes, seed=seed) for part in x.split(_CHUNK)]

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    history = joined("history")
    kind = "blackbox" if bool((joined("vjps") == 0).all()) else "sampling"
    return Column(
        value=joined("value"),
        low=joined("low"),
        high=joined("high"),
        guarantee=parts[0].guarantee,
        forwards=joined("forwards"),
        vjps=joined("vjps"),
        jvps=joined("jvps"),
        seconds=time.perf_counter() - start,
        history=history,
        history_cost=_cost(kind, history.shape[1]),
    )


def _cost(kind: str, steps: int) -> Tensor:
    """Forward passes that a method has cost after each step of its history."""
    step = {"blackbox": 2.0, "sampling": VJP_COST}.get(kind, VJP_COST + JVP_COST)
    return 1 + step * torch.arange(1, steps + 1, dtype=torch.float64)
