"""The plotly figure of an explorer."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from fimviz.model.failures import said
from fimviz.views.kit.numbers import fixed, number
from fimviz.views.kit.palette import ACCENT, PALETTE

if TYPE_CHECKING:
    from fimviz.explorer import Explorer


def plot(found: Explorer) -> go.Figure:
    """1 − confidence against λ₁ at matched confidence, on log axes: one point a sample, crosses where it is wrong."""
    from fimviz.explorer.results import CONFIDENCE

    figure = go.Figure()
    for (name, m), color in zip(found.models.items(), (ACCENT, PALETTE[1]), strict=False):
        s = m.spectrum
        right = [True] * len(s) if s.correct is None else s.correct.tolist()
        r = found.ranks[name]["confidence"]
        figure.add_scatter(
            x=[v if v > 0 else None for v in m.matched.tolist()],
            y=[v if v > 0 else None for v in s.doubt.tolist()],
            mode="markers",
            name=f"{html.escape(name) or 'samples'}, ρ with confidence {fixed(r.rho)}",
            marker={"color": color, "size": 7, "symbol": ["circle" if ok else "x" for ok in right]},
            text=[str(i) for i in range(len(s))],
            hovertemplate="sample %{text}: λ₁ = %{x:.4g}, 1 − confidence %{y:.3g}<extra></extra>",
        )
    norm = f"λ₁ at confidence {CONFIDENCE}"
    known = found.first.matched[found.first.matched.isfinite()]
    said_of = f"{len(found)} inputs{said(found.first.spectrum.failures)}"
    spans = f" spans {number(float(known.min()))} to {number(float(known.max()))}" if len(known) else " is not known"
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
