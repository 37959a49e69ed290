"""Plotly figures of results: to zoom, hover and publish."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

if TYPE_CHECKING:
    from fimviz.comparison import BoundComparison
    from fimviz.fisher.spectrum import Spectrum


def spectrum_figure(spectrum: Spectrum) -> go.Figure:
    """Eigenvalues against their index, one line an input, on a log axis; the most fragile input in the accent."""
    order = spectrum.spectral_norm.argsort()
    index = list(range(1, spectrum.eigenvalues.shape[1] + 1))
    figure = go.Figure()
    for i in order.tolist():
        values = spectrum.eigenvalues[i]
        first = i == int(order[-1])
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
    low, high = spectrum.spectral_norm.aminmax()
    figure.update_layout(
        template="plotly_white",
        title=f"λ₁ spans {low:.3g} to {high:.3g} over {len(spectrum)} inputs",
        xaxis={"title": "index of the eigenvalue", "dtick": 1 if len(index) <= 20 else None},
        yaxis={"title": "eigenvalue λ (nats per squared pixel unit)", "type": "log", "exponentformat": "power"},
        legend={"x": 1, "xanchor": "right", "y": 1},
    )
    return figure


def comparison_figure(result: BoundComparison) -> go.Figure:
    """Each method's value ÷ the reference, one box a method over the inputs, on a log axis."""
    figure = go.Figure()
    for name, column in result.methods.items():
        ratio = column.value / result.reference
        figure.add_box(
            y=[float(r) if r > 0 else None for r in ratio],
            name=name,
            boxpoints="all",
            pointpos=0,
            jitter=0.4,
            marker={"size": 4, "color": "#1976d2"},
            line={"width": 1, "color": "rgba(128,128,128,0.9)"},
            fillcolor="rgba(128,128,128,0.15)",
            hovertemplate=f"{name}: ×%{{y:.4g}}<extra></extra>",
        )
    figure.add_hline(y=1, line={"color": "#1976d2", "width": 1})
    figure.update_layout(
        template="plotly_white",
        title=f"Estimate ÷ λ₁ on {len(result)} inputs",
        yaxis={"title": "ratio to the exact value", "type": "log", "exponentformat": "power"},
        showlegend=False,
    )
    return figure
