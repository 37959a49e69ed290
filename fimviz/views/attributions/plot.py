"""The plotly figure of attributions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from fimviz.views.attributions.view import title
from fimviz.views.kit.boxes import quartile_box
from fimviz.views.kit.palette import ACCENT, GREY

if TYPE_CHECKING:
    from fimviz.attributions import Attributions


def plot(result: Attributions) -> go.Figure:
    """Cosines of |map| and |v₁|, one box a method, and what chance gives as a dashed line."""
    figure = go.Figure()
    for j, name in enumerate(result.methods):
        figure.add_box(
            **quartile_box("y", result.cosine[:, j]), x=[name], name=name, boxpoints="all",
            marker={"color": ACCENT, "size": 4},
        )  # fmt: skip
    figure.add_hline(result.chance[0], line={"dash": "dash", "color": GREY}, annotation_text="by chance")
    figure.update_layout(
        template="plotly_white", title=title(result), showlegend=False, yaxis={"range": [0, 1.02]},
        yaxis_title="cosine of |map| and |v₁|",
    )  # fmt: skip
    return figure
