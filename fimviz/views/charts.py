"""Plotly figures of results: to zoom, hover and publish."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from torch import Tensor

from fimviz._quantile import median, quantiles
from fimviz.model.failures import said

if TYPE_CHECKING:
    from fimviz.comparison import BoundComparison
    from fimviz.explorer import Explorer
    from fimviz.fisher.spectrum import Spectrum


def spectrum_figure(spectrum: Spectrum) -> go.Figure:
    """Eigenvalues against their index, one line an input, on a log axis; the most fragile input in the accent."""
    order = spectrum.fragile[::-1]
    index = list(range(1, spectrum.eigenvalues.shape[1] + 1))
    figure = go.Figure()
    for i in order:
        values = spectrum.eigenvalues[i]
        first = i == order[-1]
        figure.add_scatter(
            x=index,
            y=[v if v > 0 else None for v in values.tolist()],
            error_y={"type": "data", "array": spectrum.error[i].tolist(), "thickness": 1, "width": 0, "visible": first},
            mode="lines+markers",
            name=f"sample {i}" + (" (most fragile)" if first else ""),
            showlegend=first,
            line={"color": "#1976d2" if first else "rgba(128,128,128,0.35)", "width": 2.5 if first else 1},
            marker={"size": 6 if first else 4},
            hovertemplate=f"sample {i}: λ%{{x}} = %{{y:.4g}}<extra></extra>",
        )
    low, high = spectrum.spectral_norm[order].aminmax()
    figure.update_layout(
        template="plotly_white",
        title=f"λ₁ spans {low:.3g} to {high:.3g} over {len(spectrum)} inputs{said(spectrum.failures)}",
        xaxis={"title": "index of the eigenvalue", "dtick": 1 if len(index) <= 20 else None},
        yaxis={"title": "eigenvalue λ (nats per squared pixel unit)", "type": "log", "exponentformat": "power"},
        legend={"x": 1, "xanchor": "right", "y": 1},
    )
    return figure


def explorer_figure(found: Explorer) -> go.Figure:
    """1 − confidence against λ₁ at matched confidence, on log axes: one point a sample, crosses where it is wrong."""
    from fimviz.explorer.results import CONFIDENCE

    figure = go.Figure()
    for (name, m), color in zip(found.models.items(), ("#1976d2", "#d55e00"), strict=False):
        s = m.spectrum
        right = [True] * len(s) if s.correct is None else s.correct.tolist()
        r = found.ranks[name]["confidence"]
        figure.add_scatter(
            x=[v if v > 0 else None for v in m.matched.tolist()],
            y=[v if v > 0 else None for v in s.doubt.tolist()],
            mode="markers",
            name=f"{html.escape(name) or 'samples'}, ρ with confidence {r.rho:.2f}".replace("-", "−"),
            marker={"color": color, "size": 7, "symbol": ["circle" if ok else "x" for ok in right]},
            text=[str(i) for i in range(len(s))],
            hovertemplate="sample %{text}: λ₁ = %{x:.4g}, 1 − confidence %{y:.3g}<extra></extra>",
        )
    norm = f"λ₁ at confidence {CONFIDENCE}"
    known = found.first.matched[found.first.matched.isfinite()]
    said_of = f"{len(found)} inputs{said(found.first.spectrum.failures)}"
    spans = f" spans {known.min():.3g} to {known.max():.3g}" if len(known) else " is not known"
    figure.update_layout(
        template="plotly_white",
        title=f"{norm}{spans} over {said_of}",
        xaxis={
            "title": f"{norm} (nats per squared pixel unit)",
            "type": "log",
            "exponentformat": "power",
        },
        yaxis={"title": "1 − confidence", "type": "log", "exponentformat": "power"},
        legend={"x": 0, "y": 1},
    )
    return figure


def quartile_box(axis: str, values: Tensor) -> dict[str, Any]:
    """A plotly box at the quartiles of the library's rule (plotly has another), with all its points."""
    low, *quartiles, high = ([v] for v in quantiles(values, [0, 0.25, 0.5, 0.75, 1]).tolist())
    ends = {"lowerfence": low, "upperfence": high}
    return dict(zip(("q1", "median", "q3"), quartiles, strict=True)) | ends | {axis: [values.tolist()]}


_SYMBOLS = {
    "exact": "circle",
    "interval": "line-ns-open",
    "upper": "triangle-down",
    "lower": "triangle-up",
    "statistical": "circle-open",
    "unverified": "square-open",
}


def comparison_figure(result: BoundComparison) -> go.Figure:
    """Each method's value ÷ the reference, one row a method with its inputs and quartiles, on a log axis.

    The axis holds log₁₀ of the ratio: a bound may be beyond the largest float64.
    """
    from fimviz.views.comparison import logarithms, power_of_ten, rows_of

    reference = "exact" if "exact" in result.methods else next(iter(result.methods))
    truth = logarithms(result, reference)[0]
    figure = go.Figure()
    rungs: dict[str, float] = {}
    reach: list[float] = [0.0]
    for name in rows_of(result):
        logs = logarithms(result, name)[0] - truth
        known = logs[logs.isfinite()].tolist()
        reach += known
        guarantee = result.methods[name].guarantee if name in result.methods else "upper"
        figure.add_box(
            **quartile_box("x", logs[logs.isfinite()]),
            y=[name],
            name=name,
            orientation="h",
            boxpoints="all",
            pointpos=0,
            jitter=0.4,
            marker={"size": 6, "color": "#1976d2", "symbol": _SYMBOLS.get(guarantee, "circle")},
            line={"width": 1, "color": "rgba(128,128,128,0.9)"},
            fillcolor="rgba(128,128,128,0.15)",
            text=[f"×{power_of_ten(v)}" for v in known],
            hovertemplate=f"{name}: %{{text}}<extra></extra>",
        )
        if not known:
            why = result.reasons.get(name, "no ratio on any input")
            why = why if len(why) <= 70 else why[:69] + "…"
            figure.add_annotation(x=0, y=name, text=html.escape(f" {why}"), showarrow=False, xanchor="left")
        elif guarantee == "upper":
            rungs[name] = median(logs[logs.isfinite()])
    low, high = min(reach), max(reach)
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if (high - low) / s <= 12 or s == 1000)
    ticks = list(range(math.floor(low / step) * step, math.ceil(high) + step, step))
    best = min(rungs, key=rungs.__getitem__, default=None)
    truth_words = "the exact λ₁" if reference == "exact" else f"{reference}’s λ₁"
    figure.add_vline(x=0, line={"color": "rgba(128,128,128,0.9)", "width": 1})
    figure.update_layout(
        template="plotly_white",
        title=f"The tightest bound, {best}, is ×{power_of_ten(rungs[best], 2)} above {truth_words} in the median"
        if best
        else f"Estimate ÷ {truth_words} on {len(result)} inputs",
        xaxis={
            "title": f"ratio to {truth_words} (log axis)",
            "tickvals": ticks,
            "ticktext": [f"×{power_of_ten(float(t), 1).removeprefix('1·')}" for t in ticks],
            "zeroline": False,
        },
        yaxis={"autorange": "reversed"},
        height=120 + 34 * len(figure.data),
        showlegend=False,
    )
    return figure
