"""`compare_bounds`: estimates and guaranteed bounds of λ₁ side by side: value, interval, guarantee, cost, needs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fimviz._options import named_options
from fimviz._tell import tell
from fimviz._ways import VJP_COST, Way
from fimviz.bounds.ball import within
from fimviz.bounds.formulas import BALL, RUNGS
from fimviz.bounds.ladder import Formula, Ladder
from fimviz.bounds.network import Layer
from fimviz.fisher.estimators import ESTIMATORS, Estimate, Estimator
from fimviz.fisher.methods import UNVERIFIED, spectrum
from fimviz.fisher.passes import unsound
from fimviz.fisher.spectrum import Spectrum
from fimviz.fisher.table import METHODS
from fimviz.model.blackbox import BlackBox
from fimviz.model.classifier import Classifier, as_classifier
from fimviz.model.engine.memory import limit
from fimviz.model.engine.parts import Work, answers, in_parts
from fimviz.model.engine.plan import footprint, there_and_back
from fimviz.model.engine.progress import Stages, Tick, wanted
from fimviz.model.failures import ANSWERS, known, others, settle, spread
from fimviz.model.failures import said as lacking
from fimviz.model.likelihoods import LIKELIHOODS, Likelihood
from fimviz.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from fimviz.result import Figure

_CHUNK = 16  # inputs at a time
_STEPS = 8  # that an iteration takes for λ₁, roughly
# Bytes that passes keep, times gradients of an input, that nobody gets who does not ask: half a minute's work at least.
_DEAR = 1e10


def ways() -> dict[str, Way]:
    """All that can be compared, by name: the methods of `spectrum`, the estimators, and the bounds by formula."""
    return {**METHODS, **ESTIMATORS, **RUNGS, BALL.name: BALL}


@dataclass(frozen=True, eq=False)
class Column:
    """One method on all inputs.

    Attributes:
        value: (n,); NaN where the method has none. For a rung, the bound itself, its rounding included; infinite from
            1e308 on, where `log10` goes on.
        low, high: (n,) what it says λ₁ is between.
        guarantee: of the interval: "exact", "interval", "upper", "lower", "statistical" (95 %) or "unverified", as in
            `Spectrum.guarantee`.
        forwards, vjps, jvps: (n,) passes that the method takes by itself, also where it shared them with others.
        seconds: for the batch, what was shared included.
        history, history_cost: (n, s) and (s,) the running value, and what it had cost in forward passes.
        log10: (n,) the logarithm of the value.
        failures: place → why the method could not be computed there; its numbers are NaN.
    """

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
    log10: Tensor
    failures: dict[int, str] = field(default_factory=dict)

    def among(self, places: Tensor, count: int, failures: dict[int, str]) -> Column:
        """The column of a larger batch, NaN where there is nothing."""
        wide = spread(replace(self, history_cost=self.value), places, count)
        passes = {name: getattr(wide, name).clamp_min(0) for name in ("forwards", "vjps", "jvps")}
        own = {int(places[i]): why for i, why in self.failures.items()}
        return replace(wide, history_cost=self.history_cost, failures={**failures, **own}, **passes)


@dataclass(frozen=True, eq=False, repr=False)
class BoundComparison(Result):
    """λ₁ of the Fisher information at each of n inputs, by several methods.

    Attributes:
        methods: for each method a `Column` of values, intervals and costs; λ in nats per squared pixel unit.
        confidence: (n,) of the predictions; said: the predictions in words.
        layers: the bound at every x that L5 and L6 use, layer by layer; None where there is none, for the `reason`.
        local_layers: the same at each input, as L4 uses it, or None.
        reason: why something is None; empty if nothing is.
        reasons: for each rung without a value, why.
        needs: for each method, what has to be known for it.
        radius: (n,) within which the rung "ball" holds.
        failures: place → why nothing could be computed there.
        likelihood: what the model's outputs describe.
    """

    methods: dict[str, Column]
    confidence: Tensor
    said: list[str]
    layers: tuple[Layer, ...] | None = None
    local_layers: tuple[tuple[Layer, ...], ...] | None = None
    reason: str = ""
    reasons: dict[str, str] = field(default_factory=dict)
    needs: dict[str, str] = field(default_factory=dict)
    radius: Tensor | None = None
    failures: dict[int, str] = field(default_factory=dict)
    likelihood: Likelihood = LIKELIHOODS["categorical"]

    def __len__(self) -> int:
        return len(self.confidence)

    def __repr__(self) -> str:
        return f"BoundComparison({len(self)} inputs{lacking(self.failures)}: {', '.join(self.methods)})"

    @property
    def reference(self) -> Tensor:
        """The exact value (n,), or that of the first method where "exact" was not asked for."""
        first = self.methods.get("exact") or next(iter(self.methods.values()))
        return first.value

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a sample and method: value, low, high, guarantee, passes, seconds of the batch/n, log10, failure.

        A method that was left out has rows too, with the reason for a failure.
        All are of λ₁ at the input, but "ball" bounds it at every point within the radius: over "exact" it is not how
        loose it is. `ball_bound` has the largest λ₁ found there.
        """
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
                "log10": float(m.log10[i]),
                "failure": m.failures.get(i, ""),
            }
            for i in range(len(self))
            for name, m in {**self.methods, **self._missing}.items()
        )

    @property
    def _missing(self) -> dict[str, Column]:
        """What was left out, as columns without numbers."""
        names = [name for name in self.reasons if name not in self.methods]
        unknown = torch.full((len(self),), torch.nan, dtype=torch.float64)
        none = torch.zeros(len(self), dtype=torch.int64)
        blank = Column(
            *(unknown, unknown, unknown, "none", none, none, none, 0.0, unknown[:, None][:, :0], unknown[:0], unknown)
        )
        return {name: replace(blank, failures=dict.fromkeys(range(len(self)), self.reasons[name])) for name in names}

    def plot(self) -> go.Figure:
        """Value ÷ exact value of every method and input, on a log axis, as a plotly figure."""
        return self._plotted()

    @named_options
    def view(self, *, samples: int = 200, max_bytes: int = 20_000_000) -> Figure:
        """The comparison view: values with intervals on a log axis, and convergence against cost.

        Args:
            samples: how many inputs, the most fragile first.
            max_bytes: refuse a page larger than this.
        """
        return self._viewed(samples=samples, max_bytes=max_bytes)


@named_options
def compare_bounds(
    net: Classifier | BlackBox | nn.Module,
    images: Any,
    *,
    methods: Sequence[str] | None = None,
    probes: int = 100,
    tolerance: float | None = None,
    max_steps: int = 100,
    seed: int = 0,
    feature_vjps: int = 256,
    radius: float | Tensor | None = None,
    max_memory: float | None = None,
    errors: str = "mark",
    progress: bool | Callable[[int, int], None] = False,
) -> BoundComparison:
    """λ₁ at each input of a batch by estimates and by guaranteed bounds, with intervals, costs and what each needs.

    The rungs L1 to L6 are upper bounds, each needing less than the one before, down to the weights alone; formulas
    in `fimviz.bounds.ladder`. Their values and those of the lower bounds "lower-pair" and "lower-trace" include the
    rounding of their own computation: that of passes as in `Spectrum.error`, all other in the worst case. "exact" and
    the bounds from gradients take their passes once, together.

    Args:
        net: a `Classifier`, or a module from pixels in [0, 1] to logits.
        images: (n, …) floats, or a data set (see `Classifier`).
        methods: names out of "exact", "lanczos", "power", "blackbox", "published-whitebox", "published-blackbox",
            "hutchinson-trace", "L1" to "L6", "lower-pair", "lower-trace" and, with a `radius`, "ball"; by default all
            but those that take the gradients of all logits where these are minutes' work, as of a photograph on a
            thousand classes: `reasons` says so, as do the frame and the view.
            Of "hutchinson-trace" the value estimates tr F, and low and high are what that says of λ₁: λ₁ ≤ tr F ≤ r λ₁
            at a rank of r.
        probes: random directions of the sampling methods.
        tolerance: where the iterations stop, as in `spectrum`.
        max_steps: at which they stop anyway.
        seed: of everything random.
        feature_vjps: the bound L3 takes a vector-Jacobian product for each feature that the last layer reads, and has
            no value where there are more than this.
        radius: in pixel units (L2), one number or (n,): the rung "ball" holds at every point within it, as that of
            `ball_bound`, which has the largest λ₁ found there too; here it stands beside λ₁ at the input.
        max_memory: bytes that it may take beside model and images, by default half of what is free.
        errors: what an image is to do whose logits or gradients are not finite: "mark", its rows are NaN with the
            reason in the frame's column `failure`, or "raise".
        progress: True for a tqdm bar, or a function called with (percent of the time, 100).

    An interrupt returns the methods that are complete.

    Example, two classes with p = (½, ½), where λ₁ = ¼ ‖w₁ − w₂‖² = 1:
        >>> import torch, fimviz as fv
        >>> model = torch.nn.Linear(3, 2, bias=False).double()
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]))
        >>> c = fv.compare_bounds(model, torch.zeros(1, 3), methods=["exact", "lanczos"])
        >>> c.frame.value.round(9).tolist()
        [1.0, 1.0]
    """
    listed = {name: way for name, way in ways().items() if way.answers or not isinstance(net, BlackBox)}
    if radius is None and BALL.name in (methods or ()):
        raise ValueError(f"{BALL.name!r} is a bound within a radius, expected radius= with it")
    if radius is not None and isinstance(net, BlackBox):
        raise ValueError("radius= is for a bound from the weights, of which a black box has none: leave it out")
    if radius is None:
        listed.pop(BALL.name, None)
    errors = known(errors)
    if methods is not None and (not methods or not set(methods) <= set(listed)):
        raise ValueError(f"methods are {list(methods)}, expected some of {', '.join(listed)} for this model")
    progress, max_memory = wanted(progress), limit(max_memory)
    net = net if isinstance(net, BlackBox) else as_classifier(net)
    x = net.admit(images, max_memory).detach()
    count = len(x)
    left = left_out(net, x, listed) if methods is None else {}
    chosen = [name for name in listed if name not in left] if methods is None else list(methods)
    every = None if radius is None else within(radius, count)
    asked = {name: listed[name] for name in chosen}
    bar = Stages(progress, [("check", 3.0 * count), *_forecast(net, x, asked, probes, feature_vjps)])
    tick = bar.next()
    z = answers(net, x, max_memory=max_memory)
    failures = dict.fromkeys((~z.isfinite().all(1)).nonzero()[:, 0].tolist(), ANSWERS)
    if isinstance(net, Classifier):
        failures = unsound(net, x, max_memory=max_memory, progress=tick)
    settle(failures, count, errors)
    places = others(failures, count)
    x, z = (x[places.to(x.device)], z[places]) if failures else (x, z)
    formulas = {name: way for name, way in asked.items() if isinstance(way, Formula)}
    radii = None if every is None else every[places]
    ladder = Ladder(net, x, feature_vjps, max_memory, radii) if isinstance(net, Classifier) and formulas else None
    columns: dict[str, Column] = {}
    reasons = dict(left)
    work = Work(len(asked))
    with work:
        for name, way in asked.items():
            tick = bar.next()
            if ladder and isinstance(way, Formula):
                columns[name], reasons[name] = _of_rung(ladder, way)
            elif ladder and name == "exact" and any("rows" in formula.shares for formula in formulas.values()):
                exact = net.precise or net.has_float64 or net.dtype == torch.float64
                columns[name] = _of_rows(ladder, "exact" if exact else UNVERIFIED)
            elif isinstance(way, Estimator):
                columns[name] = _of_estimates(net, x, way, probes, seed, max_memory, tick)
            else:
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
                    max_memory=max_memory,
                    progress=tick,
                )
                if len(s) < len(x):  # it keeps what an interrupt left, which does not compare
                    raise KeyboardInterrupt
                columns[name] = _of_spectrum(s, way)
            work.reached(len(columns))
        bar.end()
    if work.stopped:
        asked = dict(list(asked.items())[: work.done])
        columns = {name: columns[name] for name in asked}
        chosen = list(asked)
        tell(f"{work.stopped}: the comparison holds {work.done} of {work.count} methods")
    if isinstance(net, Classifier) and net.undescribed:
        by_gradients = [name for name, way in asked.items() if way.sees == "slopes"]
        columns |= {name: replace(columns[name], guarantee="void") for name in by_gradients}
    layers, local_layers, reason = None, None, "no bound from the weights was asked for"
    if ladder and {"L5", "L6"} & set(chosen):
        layers, reason = ladder.layers
    if ladder and "L4" in chosen:
        local_layers = ladder.local_layers
    modes = net.likelihood.predict(z)
    said = [net.likelihood.said(mode, net.classes) for mode in modes]
    confidence = net.likelihood.confidence(z)
    if failures:
        columns = {name: column.among(places, count, failures) for name, column in columns.items()}
        confidence = spread(confidence, places, count)
        all_said = dict(zip(places.tolist(), said, strict=True))
        said = [all_said.get(i, "") for i in range(count)]
        if local_layers:
            all_local = dict(zip(places.tolist(), local_layers, strict=True))
            local_layers = tuple(all_local.get(i, ()) for i in range(count))
    return BoundComparison(
        methods=columns,
        confidence=confidence,
        said=said,
        layers=layers,
        local_layers=local_layers,
        failures=failures,
        likelihood=net.likelihood,
        reason=reason,
        reasons={name: why for name, why in reasons.items() if why},
        needs={name: _needs(way, radii) for name, way in asked.items()},
        radius=every,
    )


def left_out(net: Classifier | BlackBox, x: Tensor, names: Iterable[str]) -> dict[str, str]:
    """Why nobody who does not ask for them by name gets some of these methods: name → what they take."""
    if isinstance(net, BlackBox) or net.device.type != "cpu":
        return {}
    rank = net.likelihood.rank(len(net.classes))
    with net.at_rest():
        saved = footprint(net, x[:1])[0]
    if rank * saved <= _DEAR:
        return {}
    why = f"left out, as it takes {rank} gradients of each input: name it in methods= to have it"
    every = ways()
    return {name: why for name in names if (way := every[name]).name == "exact" or "rows" in getattr(way, "shares", ())}


def _needs(way: Way, radii: Tensor | None) -> str:
    if way is not BALL or radii is None:
        return way.needs
    lengths = dict.fromkeys(f"{float(r):.3g}" for r in radii.aminmax())
    return f"{way.needs}, {' to '.join(lengths)}; λ₁ there may be larger than at the point, to which its ratio is"


def _of_rung(ladder: Ladder, way: Formula) -> tuple[Column, str]:
    rung = ladder.rung(way)
    value = _power(rung.log10)
    known, lower = ~value.isnan(), way.guarantee == "lower"
    column = Column(
        value=value,
        low=torch.where(known, value, 0.0) if lower else torch.zeros_like(value),
        high=torch.full_like(value, torch.inf) if lower else torch.where(known, value, torch.inf),
        guarantee=way.guarantee,
        forwards=rung.forwards,
        vjps=rung.vjps,
        jvps=torch.zeros_like(rung.vjps),
        seconds=rung.seconds,
        history=value.new_zeros(len(value), 0),
        history_cost=value.new_zeros(0),
        log10=rung.log10,
    )
    return column, rung.reason


def _of_rows(ladder: Ladder, guarantee: str) -> Column:
    """The exact value from the gradients that bounds need too."""
    start = time.perf_counter()
    rows = ladder.rows
    scale = rows.log_scale.exp()
    value, error = rows.eigenvalues[:, 0], rows.error[:, 0]
    return Column(
        value=value * scale,
        low=(value - error).clamp_min(0) * scale,
        high=(value + error) * scale,
        guarantee=guarantee,
        forwards=rows.forwards,
        vjps=rows.vjps,
        jvps=torch.zeros_like(rows.vjps),
        seconds=time.perf_counter() - start,
        history=value.new_zeros(len(value), 0),
        history_cost=value.new_zeros(0),
        log10=value.log10() + rows.log_scale / math.log(10),
    )


def _power(log10: Tensor) -> Tensor:
    return torch.where(log10 > 308, torch.inf, 10.0 ** log10.clamp_max(308))


def _of_spectrum(s: Spectrum, way: Way) -> Column:
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
        history_cost=_cost(way, s.history.shape[1]),
        log10=value.log10(),
        failures=s.failures,
    )


def _forecast(
    net: Classifier | BlackBox, x: Tensor, asked: Mapping[str, Way], probes: int, feature_vjps: int
) -> list[tuple[str, float]]:
    """How many forward passes each method takes, roughly; what several read counts for the first of them."""
    rank = min(net.likelihood.rank(len(net.classes)), x[0].numel())
    parts = {"rows": 1.0 + VJP_COST * rank, "features": VJP_COST * feature_vjps / 4, "local": 100.0, "ball": 1000.0}
    parts["weights"] = 100.0 / len(x)
    costs: dict[str, float] = {}
    for name, way in asked.items():
        if isinstance(way, Estimator) or way.answers:
            costs[name] = way.cost * probes
        elif isinstance(way, Formula) or not way.cost:
            reads = way.shares if isinstance(way, Formula) else ("rows",)
            costs[name] = sum(parts.pop(part, 0.0) for part in reads)
        else:
            costs[name] = 1.0 + way.cost * _STEPS
    return [(name, len(x) * cost) for name, cost in costs.items()]


def _of_estimates(
    net: Classifier | BlackBox,
    x: Tensor,
    way: Estimator,
    probes: int,
    seed: int,
    max_memory: float | None,
    progress: Tick,
) -> Column:
    start, parts = time.perf_counter(), []
    size = min(_CHUNK, there_and_back(net, x, max_memory)) if isinstance(net, Classifier) else _CHUNK

    def estimated(places: list[int]) -> Estimate:
        return way.run(net, x[places].to(net.device), probes=probes, seed=seed)

    with net.at_rest():
        for places, part in in_parts(range(len(x)), size, estimated):
            parts.append(part)
            progress(places[-1] + 1, len(x))

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    history = joined("history")
    return Column(
        value=joined("value"),
        low=joined("low"),
        high=joined("high"),
        guarantee=way.guarantee,
        forwards=joined("forwards"),
        vjps=joined("vjps"),
        jvps=joined("jvps"),
        seconds=time.perf_counter() - start,
        history=history,
        history_cost=_cost(way, history.shape[1]),
        log10=joined("value").log10(),
    )


def _cost(way: Way, steps: int) -> Tensor:
    """Forward passes that a method has cost after each step of its history."""
    return 1 + way.cost * torch.arange(1, steps + 1, dtype=torch.float64)
