"""The plotly figure of divergences between samples."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fimviz.views.divergence.distributions import distributions
from fimviz.views.divergence.view import title
from fimviz.views.kit.palette import PALETTE

if TYPE_CHECKING:
    from fimviz.divergence.crosscategory import CrossCategoryKL


def plot(result: CrossCategoryKL, *, against: Mapping[str, CrossCategoryKL]) -> go.Figure:
    """The distributions of KL, G2 and G2/KL over pairs, each with its median; `against` is the result among others."""
    shown = distributions(against)
    figure: go.Figure = make_subplots(1, 3, subplot_titles=[d.title for d in shown], horizontal_spacing=0.06)
    for place, d in enumerate(shown, 1):
        width = (d.high - d.low) / len(d.models[0]["shares"])
        for n, (name, model) in enumerate(zip(against, d.models, strict=True)):
            edges = [d.low + width * k for k in range(len(model["shares"]) + 1)]
            low, middle, high = model["text"]
            figure.add_scatter(
                x=edges,
                y=[*(100 * s for s in model["shares"]), 0],
                mode="lines",
                line={"shape": "hv", "color": PALETTE[n % len(PALETTE)], "width": 2},
                fill="tozeroy" if len(against) == 1 else None,
                name=html.escape(name),
                legendgroup=str(n),
                showlegend=place == 1 and len(against) > 1,
                hovertemplate="%{y:.3g} % of the pairs<extra></extra>",
                row=1,
                col=place,
            )
            note = f"<br>{model['note']}" if model["note"] else ""
            said = f"median {middle} ({low} to {high}){note}"
            if model["places"][1] is not None:
                figure.add_scatter(
                    x=[model["places"][1]],
                    y=[0],
                    mode="markers",
                    marker={"symbol": "triangle-up", "size": 12, "color": PALETTE[n % len(PALETTE)]},
                    cliponaxis=False,
                    legendgroup=str(n),
                    showlegend=False,
                    hovertemplate=f"{html.escape(name)}: {said}<extra></extra>",
                    row=1,
                    col=place,
                )
            figure.add_annotation(
                text=(f"{html.escape(name)}: " if len(against) > 1 else "") + said,
                font={"color": PALETTE[n % len(PALETTE)], "size": 11},
                showarrow=False,
                align="left",
                xref=f"x{place if place > 1 else ''} domain",
                yref="paper",
                x=0,
                xanchor="left",
                y=-0.24 - 0.11 * n,
                yanchor="top",
            )
        at, texts = zip(*d.ticks, strict=True) if d.ticks else ((), ())
        figure.update_xaxes(
            title=d.axis, tickvals=list(at), ticktext=list(texts), range=[d.low, d.high], row=1, col=place
        )
        figure.update_yaxes(rangemode="tozero", row=1, col=place)
    figure.update_yaxes(title="% of the pairs", row=1, col=1)
    figure.update_layout(
        template="plotly_white",
        title=html.escape(title(against)),
        margin={"b": 110 + 40 * len(against)},
        height=380 + 40 * len(against),
    )
    return figure
