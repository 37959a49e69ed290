"""The plotly figure of a reconstruction."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import plotly.graph_objects as go
import torch

from fimviz._quantile import quantiles
from fimviz.views.kit.inputs import finite
from fimviz.views.kit.palette import ACCENT, GREY, faded
from fimviz.views.reconstruction.view import headline

if TYPE_CHECKING:
    from fimviz.divergence.reconstruction import Reconstruction


def plot(result: Reconstruction) -> go.Figure:
    """Least standard deviation ÷ guess along each direction, one line an input; below 1 labels tell something."""
    ratio = (result.std / result.guess).where(result.guess.isfinite(), result.std)
    figure = go.Figure()
    index = list(range(1, ratio.shape[1] + 1))
    sound = result.spectrum.computed
    middle = quantiles(ratio[sound], [0.5])[0]
    for i, row in zip(sound.tolist(), ratio[sound], strict=True):
        figure.add_scatter(
            x=index,
            y=[finite(v) for v in row.tolist()],
            mode="lines",
            line={"color": faded(GREY, 0.35), "width": 1},
            showlegend=False,
            hovertemplate=f"sample {i}: %{{y:.3g}} along v%{{x}}<extra></extra>",
        )
    figure.add_scatter(
        x=index,
        y=[finite(v) for v in middle.tolist()],
        mode="lines+markers",
        line={"color": ACCENT, "width": 2.5},
        name="median",
        hovertemplate="median: %{y:.3g} along v%{x}<extra></extra>",
    )
    known = bool(torch.isfinite(result.guess).any())
    if known:
        figure.add_hline(y=1, line={"dash": "dash", "color": GREY}, annotation_text="a guess")
    figure.update_layout(
        template="plotly_white",
        title=html.escape(headline(result)),
        xaxis={"title": "eigenvector", "dtick": 1 if len(index) <= 20 else None},
        yaxis={
            "title": "least standard deviation" + (" ÷ that of a guess" if known else ", L2 pixel units"),
            "type": "log",
            "exponentformat": "power",
            "dtick": 1,
        },
    )
    return figure
