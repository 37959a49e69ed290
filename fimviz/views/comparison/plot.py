"""The plotly figure of a comparison of bounds."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from fimviz._quantile import median
from fimviz.views.comparison.view import logarithms, rows_of
from fimviz.views.kit.boxes import quartile_box
from fimviz.views.kit.numbers import power_of_ten
from fimviz.views.kit.palette import ACCENT, GREY, faded

if TYPE_CHECKING:
    from fimviz.comparison import BoundComparison

_SYMBOLS = {
    "exact": "circle",
    "interval": "line-ns-open",
    "upper": "triangle-down",
    "lower": "triangle-up",
    "statistical": "circle-open",
    "unverified": "square-open",
}


def plot(result: BoundComparison) -> go.Figure:
    """Each method's value ÷ the reference, one row a method with its inputs and quartiles, on a log axis.

    The axis holds log₁₀ of the ratio: a bound may be beyond the largest float64.
    """
    reference = "exact" if "exact" in result.methods else next(iter(result.methods))
    truth = logarithms(result, reference)[0]
    figure = go.Figure()
    rungs: dict[str, float] = {}
    seen: list[float] = [0.0]
    for name in rows_of(result):
        logs = logarithms(result, name)[0] - truth
        known = logs[logs.isfinite()].tolist()
        seen += known
        guarantee = result.methods[name].guarantee if name in result.methods else "upper"
        figure.add_box(
            **quartile_box("x", logs[logs.isfinite()]),
            y=[name],
            name=name,
            orientation="h",
            boxpoints="all",
            pointpos=0,
            jitter=0.4,
            marker={"size": 6, "color": ACCENT, "symbol": _SYMBOLS.get(guarantee, "circle")},
            line={"width": 1, "color": GREY},
            fillcolor=faded(GREY, 0.15),
            text=[f"×{power_of_ten(v)}" for v in known],
            hovertemplate=f"{name}: %{{text}}<extra></extra>",
        )
        if not known:
            why = result.reasons.get(name, "no ratio on any input")
            why = why if len(why) <= 70 else why[:69] + "…"
            figure.add_annotation(x=0, y=name, text=html.escape(f" {why}"), showarrow=False, xanchor="left")
        elif guarantee == "upper":
            rungs[name] = median(logs[logs.isfinite()])
    low, high = min(seen), max(seen)
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if (high - low) / s <= 12 or s == 1000)
    ticks = list(range(math.floor(low / step) * step, math.ceil(high) + step, step))
    best = min(rungs, key=rungs.__getitem__, default=None)
    truth_words = "the exact λ₁" if reference == "exact" else f"{reference}’s λ₁"
    figure.add_vline(x=0, line={"color": GREY, "width": 1})
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
