"""The plotly figure of a training history."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fimviz.views.kit.palette import PALETTE
from fimviz.views.training.view import title

if TYPE_CHECKING:
    from fimviz.training.history import TrainingHistory


def plot(result: TrainingHistory) -> go.Figure:
    """Accuracy, loss, CCKL and mean ‖F‖_F on one step axis, one colour a run; confidence dashed."""
    titles = ["accuracy (confidence dashed)", "cross-entropy, nats", "CCKL, nats", "mean ‖F‖_F, log axis"]
    places = {"accuracy": (1, 1), "confidence": (1, 1), "loss": (1, 2), "cckl": (2, 1), "mean_frobenius": (2, 2)}
    figure: go.Figure = make_subplots(2, 2, shared_xaxes="all", subplot_titles=titles, vertical_spacing=0.12)
    for i, (name, records) in enumerate(result.runs.items()):
        for column, (row, col) in places.items():
            figure.add_scatter(
                x=[r["step"] for r in records],
                y=[r[column] for r in records],
                mode="lines+markers" if len(records) <= 30 else "lines",
                name=html.escape(name),
                legendgroup=name,
                showlegend=column == "accuracy" and len(result.runs) > 1,
                line={"color": PALETTE[i % len(PALETTE)], "dash": "dash" if column == "confidence" else "solid"},
                marker={"size": 4},
                hovertemplate=f"{html.escape(name)}, step %{{x}}: {column} %{{y:.4g}}<extra></extra>",
                row=row,
                col=col,
            )
    figure.update_xaxes(title="training step", row=2)
    figure.update_yaxes(type="log", exponentformat="power", row=2, col=2)
    figure.update_layout(template="plotly_white", title=html.escape(title(result)), height=620)
    return figure
