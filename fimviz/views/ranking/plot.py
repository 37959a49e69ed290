"""The plotly figure of a comparison of models."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fimviz.ranking.comparison import QUANTITIES
from fimviz.views.kit.numbers import fixed
from fimviz.views.kit.palette import ACCENT
from fimviz.views.ranking.view import title

if TYPE_CHECKING:
    from fimviz.ranking.comparison import ModelComparison


def plot(result: ModelComparison) -> go.Figure:
    """The formula from the weights, and matched λ₁, against the smallest attack: one point a model."""
    shown = ("weights_only", "equally_sure_spectral_norm")
    titles = []
    for r in (result.ranks[name] for name in shown):
        rho = "" if math.isnan(r.spearman) else f"ρ = {fixed(r.spearman)} ({fixed(r.low)} to {fixed(r.high)}), "
        titles.append(f"{rho}{r.discordant} of {r.pairs} pairs in the wrong order")
    figure: go.Figure = make_subplots(1, 2, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.06)
    frame = result.frame
    for place, name in enumerate(shown, 1):
        q = QUANTITIES[name]
        figure.add_scatter(
            x=frame[name],
            y=frame.smallest_attack.where(frame.smallest_attack < math.inf),
            text=frame.model.map(html.escape),
            mode="markers+text",
            textposition="top center",
            cliponaxis=False,
            marker={"size": 9, "color": ACCENT},
            hovertemplate=f"%{{text}}<br>{q.title}: %{{x:.4g}}<br>smallest attack: %{{y:.3g}}<extra></extra>",
            row=1,
            col=place,
        )
        figure.update_xaxes(title=q.title, type="log" if q.log == "decades" else "linear", row=1, col=place)
    figure.update_yaxes(title="smallest attack, median L2", row=1, col=1)
    figure.update_layout(template="plotly_white", title=title(result), showlegend=False)
    return figure
