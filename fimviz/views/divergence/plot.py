"""Plotly figures of divergences between samples: to zoom, hover and publish."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from fimviz.divergence.localaccuracy import budget
from fimviz.views.divergence.distributions import distributions, percent
from fimviz.views.kit.palette import PALETTE

if TYPE_CHECKING:
    from fimviz.divergence.crosscategory import CrossCategoryKL
    from fimviz.divergence.localaccuracy import LocalAccuracy


def distributions_figure(results: Mapping[str, CrossCategoryKL]) -> go.Figure:
    """The distributions of KL, G2 and G2/KL over pairs, of one or several models, each with its median."""
    from plotly.subplots import make_subplots

    shown = distributions(results)
    figure: go.Figure = make_subplots(1, 3, subplot_titles=[d.title for d in shown], horizontal_spacing=0.06)
    for place, d in enumerate(shown, 1):
        width = (d.high - d.low) / len(d.models[0]["shares"])
        for n, (name, model) in enumerate(zip(results, d.models, strict=True)):
            edges = [d.low + width * k for k in range(len(model["shares"]) + 1)]
            low, middle, high = model["text"]
            figure.add_scatter(
                x=edges,
                y=[*(100 * s for s in model["shares"]), 0],
                mode="lines",
                line={"shape": "hv", "color": PALETTE[n % len(PALETTE)], "width": 2},
                fill="tozeroy" if len(results) == 1 else None,
                name=html.escape(name),
                legendgroup=str(n),
                showlegend=place == 1 and len(results) > 1,
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
                text=(f"{html.escape(name)}: " if len(results) > 1 else "") + said,
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
        title=html.escape(title(results)),
        margin={"b": 110 + 40 * len(results)},
        height=380 + 40 * len(results),
    )
    return figure


def title(results: Mapping[str, CrossCategoryKL]) -> str:
    """What is seen, in a sentence."""
    parts = []
    for name, r in results.items():
        error = "" if math.isnan(r.cckl_error) else f" ± {r.cckl_error:.2g}"
        value = f"CCKL = {r.cckl:.3g}{error} nats"
        share = r.means["g1"].value / r.cckl if r.cckl > 0 else 0.0
        said = (
            f"{percent(share)} of it second-order"
            if share <= 1
            else f"its second-order part alone is {share:.3g} times that"
        )
        parts.append(f"{value}, {said}" if len(results) == 1 else f"{name}: {value}, {said}")
    return "; ".join(parts[:3]) + (f"; and {len(parts) - 3} more" if len(parts) > 3 else "")


def local_accuracy_figure(result: LocalAccuracy) -> go.Figure:
    """Medians of |KL − ½ δᵀFδ|/KL against the budget with quartiles as a band; one panel a norm, log axis."""
    from plotly.subplots import make_subplots

    names = {"linf": "L∞", "l2": "L2"}
    titles = [f"budget in {names[n]}" for n in result.norms]
    figure: go.Figure = make_subplots(1, len(titles), shared_yaxes=True, subplot_titles=titles)
    for place, norm in enumerate(result.norms, 1):
        for n, direction in enumerate(result.directions):
            rows = result.frame[(result.frame.norm == norm) & (result.frame.direction == direction)]
            red, green, blue = (int(PALETTE[n][k : k + 2], 16) for k in (1, 3, 5))
            common = {"legendgroup": direction, "row": 1, "col": place}
            figure.add_scatter(
                x=[*rows.epsilon, *rows.epsilon[::-1]],
                y=[*rows.q75, *rows.q25[::-1]],
                mode="lines",
                fill="toself",
                fillcolor=f"rgba({red},{green},{blue},0.12)",
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
    figure.update_layout(template="plotly_white", title=local_title(result))
    return figure


def local_title(result: LocalAccuracy) -> str:
    """What is seen, in a sentence."""
    rows = result.frame[(result.frame.norm == result.norms[0]) & (result.frame.direction == result.directions[0])]
    first, last = (rows.iloc[k] for k in (0, -1))
    norm = {"linf": "L∞", "l2": "L2"}[result.norms[0]]
    what = {"worst": "the worst direction", "fgsm": "FGSM", "pgd": "PGD", "random": "a random direction"}
    if not int(rows.measured.sum()):
        return (
            f"No change along {what[result.directions[0]]} moves the prediction: KL is 0, or no number, at every image"
        )
    return (
        f"Along {what[result.directions[0]]} ½ δᵀFδ is {percent(first['median'])} off at {budget(first.epsilon)} and "
        f"{percent(last['median'])} at {budget(last.epsilon)} ({norm}, median of {int(last.measured)} images)"
    )
