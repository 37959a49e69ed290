"""The plotly figure of an adversarial distance."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from fimviz.views.distance.view import axis, title
from fimviz.views.kit.palette import PALETTE, faded

if TYPE_CHECKING:
    from fimviz.distance import AdversarialDistance


def plot(result: AdversarialDistance) -> go.Figure:
    """Robust accuracy against ε, between what is certified and what attacks leave; one band a model, log axis."""
    low, high, *_ = axis(result)
    accuracy = result.accuracy()
    start = accuracy.epsilon.where(accuracy.epsilon > 10**low, 10**low)
    figure = go.Figure()
    for place, name in enumerate(result.models):
        color = PALETTE[place % len(PALETTE)]
        own = accuracy[accuracy.model == name].assign(x=start)
        own = own.drop_duplicates("x", keep="last")
        shown = html.escape(name)
        for side, dash in (("attacked", "dash"), ("certified", "solid")):
            figure.add_scatter(
                x=[*own.x, 10**high], y=[*own[side], own[side].iloc[-1]], name=f"{shown}, {side}", legendgroup=name,
                line={"shape": "hv", "color": color, "dash": dash}, hovertemplate="ε = %{x:.3g}: %{y:.1%}",
                **({"fill": "tonexty", "fillcolor": faded(color, 0.15)} if side == "certified" else {}),
            )  # fmt: skip
    first = next(iter(result.models.values()))
    kept = "unchanged" if first.labels is None else "right"
    figure.update_xaxes(title="ε, L2 in pixel units", type="log", range=[low, high])
    figure.update_yaxes(title=f"share of the images that are {kept}", range=[0, 1.02])
    figure.update_layout(template="plotly_white", title=html.escape(title(first, next(iter(result.models)))))
    return figure
