"""The plotly figure of a local accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fimviz.divergence.localaccuracy import budget
from fimviz.views.kit.palette import PALETTE, faded
from fimviz.views.localaccuracy.view import NAMES, title

if TYPE_CHECKING:
    from fimviz.divergence.localaccuracy import LocalAccuracy


def plot(result: LocalAccuracy) -> go.Figure:
    """Medians of |KL − ½ δᵀFδ|/KL against the budget with quartiles as a band; one panel a norm, log axis."""
    titles = [f"budget in {NAMES[n]}" for n in result.norms]
    figure: go.Figure = make_subplots(1, len(titles), shared_yaxes=True, subplot_titles=titles)
    for place, norm in enumerate(result.norms, 1):
        for n, direction in enumerate(result.directions):
            rows = result.frame[(result.frame.norm == norm) & (result.frame.direction == direction)]
            common = {"legendgroup": direction, "row": 1, "col": place}
            figure.add_scatter(
                x=[*rows.epsilon, *rows.epsilon[::-1]],
                y=[*rows.q75, *rows.q25[::-1]],
                mode="lines",
                fill="toself",
                fillcolor=faded(PALETTE[n], 0.12),
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                **common,
            )
            figure.add_scatter(
                x=rows.epsilon,
                y=rows["median"],
                mode="lines+markers",
                name=direction,
                line={"color": PALETTE[n], "width": 2},
                showlegend=place == 1,
                customdata=rows[["q25", "q75", "measured", "zero", "failed"]],
                hovertemplate=f"{direction}, ε = %{{x:.4g}}: median %{{y:.3g}}, quartiles %{{customdata[0]:.3g}} and "
                "%{customdata[1]:.3g}<br>%{customdata[2]} inputs, %{customdata[3]} of KL 0, %{customdata[4]} failed"
                "<extra></extra>",
                **common,
            )
        at = result.epsilons[place - 1].tolist()
        figure.update_xaxes(title="ε, pixel units", tickvals=at, ticktext=[budget(e) for e in at], row=1, col=place)
    figure.update_yaxes(type="log", exponentformat="power", dtick=1)
    figure.update_yaxes(title="|KL − ½ δᵀFδ| ÷ KL, median and quartiles", row=1, col=1)
    figure.update_layout(template="plotly_white", title=title(result))
    return figure
