"""The plotly figure of a spectrum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from fimviz.model.failures import said
from fimviz.views.kit.numbers import number
from fimviz.views.kit.palette import ACCENT, GREY, faded

if TYPE_CHECKING:
    from fimviz.fisher.spectrum import Spectrum


def plot(spectrum: Spectrum) -> go.Figure:
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
            line={"color": ACCENT if first else faded(GREY, 0.35), "width": 2.5 if first else 1},
            marker={"size": 6 if first else 4},
            hovertemplate=f"sample {i}: λ%{{x}} = %{{y:.4g}}<extra></extra>",
        )
    low, high = (number(float(v)) for v in spectrum.spectral_norm[order].aminmax())
    figure.update_layout(
        template="plotly_white",
        title=f"λ₁ spans {low} to {high} over {len(spectrum)} inputs{said(spectrum.failures)}",
        xaxis={"title": "index of the eigenvalue", "dtick": 1 if len(index) <= 20 else None},
        yaxis={"title": "eigenvalue λ (nats per squared pixel unit)", "type": "log", "exponentformat": "power"},
        legend={"x": 1, "xanchor": "right", "y": 1},
    )
    return figure
