"""Plotly figures of margins: lengths against bounds, one path, the shielding table and its dependence on damping."""

from __future__ import annotations

import math

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from fimviz._quantile import median
from fimviz.margins.curve import ShieldingCurve
from fimviz.margins.shielding import Shielding
from fimviz.margins.traces import MarginTraces
from fimviz.views.kit.numbers import number, percent
from fimviz.views.kit.palette import ACCENT, GREY, PALETTE, WARN, class_color, class_order, faded

_NAMES = 24  # characters of a class name that a figure can hold


def plot(result: MarginTraces | Shielding | ShieldingCurve, *, trace: int | None = None) -> go.Figure:
    """The figure of paths, of one `trace` by its place, of a shielding or of its curve."""
    if isinstance(result, Shielding):
        return _shielding(result)
    if isinstance(result, ShieldingCurve):
        return _curve(result)
    return _lengths(result) if trace is None else _path(result, trace)


def _lengths(traces: MarginTraces) -> go.Figure:
    """Length against closed-form bound, one point a path; on the dashed line a path is a geodesic of the simplex."""
    names = _names(traces.net.classes)
    flipped, target = traces.flipped, traces.hit == traces.target
    kinds = [
        ("met its target", flipped & target, ACCENT, "circle"),
        ("met another class first", flipped & ~target, WARN, "diamond"),
        ("class unchanged", ~flipped, GREY, "x-thin-open"),
    ]
    top = 1.05 * max(float(traces.length.max()), float(traces.bound.max()), 0.1)
    figure = go.Figure()
    figure.add_scatter(
        x=[0, top], y=[0, top], mode="lines", line={"color": GREY, "dash": "dash", "width": 1.5}, name="length = bound"
    )
    for name, chosen, color, symbol in kinds:
        places = chosen.nonzero()[:, 0].tolist()
        if not places:
            continue
        error = [float(e) if e.isfinite() else None for e in traces.length_error[places]]
        figure.add_scatter(
            x=traces.bound[places].tolist(),
            y=traces.length[places].tolist(),
            error_y={"type": "data", "array": error, "thickness": 1, "width": 0},
            mode="markers",
            name=name,
            marker={"color": color, "symbol": symbol, "size": 7, "opacity": 0.8},
            text=[
                f"trace {i}, sample {int(traces.sample[i])}: {names[int(traces.source[i])]} → "
                f"{names[int(traces.target[i])]}, "
                + (f"meets {names[int(traces.hit[i])]}" if flipped[i] else traces.status[i])
                for i in places
            ],
            hovertemplate="%{text}<br>length %{y:.4g}, bound %{x:.4g}<extra></extra>",
        )
    middle = median(traces.ratio.where(flipped, torch.inf))
    excess = f"; half are within {percent(middle - 1)} of the closed-form floor" if math.isfinite(middle) else ""
    figure.update_layout(
        template="plotly_white",
        title=f"{int(flipped.sum())} of {len(traces)} paths change the class{excess}",
        xaxis={"title": "closed-form Fisher–Rao distance to the class met", "rangemode": "tozero"},
        yaxis={"title": "measured Fisher–Rao length of the path", "rangemode": "tozero"},
        legend={"x": 1, "xanchor": "right", "y": 0},
    )
    return figure


def _path(traces: MarginTraces, trace: int) -> go.Figure:
    """Stacked class probabilities of one path against Fisher–Rao length, the closed-form floor dashed."""
    names, path = _names(traces.net.classes), traces.paths[trace]
    source, target, hit = (int(t[trace]) for t in (traces.source, traces.target, traces.hit))
    mass = path.probabilities.amax(0)
    top = {*mass.topk(min(8, len(mass))).indices.tolist(), source, target} | ({hit} if hit >= 0 else set())
    ends = {source: -1, target: len(mass) + 1, hit: len(mass)}
    figure = go.Figure()
    for c in sorted(top, key=lambda c: ends.get(c, c)):
        figure.add_scatter(
            x=path.fr.tolist(),
            y=path.probabilities[:, c].tolist(),
            stackgroup="all",
            name=names[c],
            line={"color": class_color(c, class_order(traces.probabilities)), "width": 1},
            hovertemplate=f"{names[c]}: %{{y:.4g}} at %{{x:.3g}}<extra></extra>",
        )
    bound = float(traces.bound[trace])
    figure.add_vline(x=bound, line={"dash": "dash", "color": GREY}, annotation_text=f"floor {number(bound)}")
    said = f"meets {names[hit]} at {number(float(traces.length[trace]))}" if hit >= 0 else traces.status[trace]
    figure.update_layout(
        template="plotly_white",
        title=f"Sample {int(traces.sample[trace])}, {names[source]} → {names[target]}: {said}",
        xaxis={"title": "Fisher–Rao length along the path"},
        yaxis={"title": "probability", "range": [0, 1]},
    )
    return figure


def _shielding(shielding: Shielding) -> go.Figure:
    """Path matrix, shielding landscape, and effort by class: Fisher–Rao beside L2, the most robust class first."""
    names = _names(list(shielding.classes))
    figure = make_subplots(
        rows=2,
        cols=2,
        subplot_titles=(
            "Path matrix: class left → class met",
            "Shielding landscape",
            "Effort to leave a class, Fisher–Rao",
            "Effort to leave a class, L2",
        ),
        vertical_spacing=0.17,
        horizontal_spacing=0.14,
    )
    counts = shielding.matrix.tolist()
    figure.add_heatmap(
        z=[[v or None for v in row] for row in counts],
        x=names,
        y=names,
        colorscale=[[0, faded(ACCENT, 0.12)], [1, ACCENT]],
        showscale=False,
        text=[[str(v) if v else "" for v in row] for row in counts] if len(names) <= 16 else None,
        texttemplate="%{text}" if len(names) <= 16 else None,
        hovertemplate="%{z} paths left %{y} and met %{x} first<extra></extra>",
        row=1,
        col=1,
    )
    order = [int(c) for c in shielding.rank.argsort() if shielding.rank[c] > 0]
    low, high = shielding.intervals["shielding"]
    figure.add_scatter(
        x=shielding.fr_margin[order].tolist(),
        y=(100 * shielding.shielding[order]).tolist(),
        error_y=_whiskers(100 * shielding.shielding, 100 * low, 100 * high, order),
        mode="markers+text" if len(order) <= 20 else "markers",
        text=[names[c] for c in order],
        textposition="top center",
        marker={"color": ACCENT, "size": 8},
        hovertemplate="%{text}: first met on %{y:.3g} % of paths, left in %{x:.3g}<extra></extra>",
        row=1,
        col=2,
    )
    for column, name in enumerate(("fr_margin", "l2"), 1):
        values, (low, high) = getattr(shielding, name), shielding.intervals[name]
        figure.add_scatter(
            x=[names[c] for c in order],
            y=values[order].tolist(),
            error_y=_whiskers(values, low, high, order),
            mode="markers",
            marker={"color": ACCENT, "size": 8},
            hovertemplate="%{x}: %{y:.4g}<extra></extra>",
            row=2,
            col=column,
        )
    figure.update_yaxes(autorange="reversed", title="class left", type="category", row=1, col=1)
    figure.update_xaxes(title="class met first", type="category", row=1, col=1)
    figure.update_xaxes(title="mean Fisher–Rao length to leave it", row=1, col=2)
    figure.update_yaxes(title="first met on the way elsewhere, % of paths", rangemode="tozero", row=1, col=2)
    for column, title in ((1, "mean Fisher–Rao length"), (2, "mean ‖δ‖₂, pixel units")):
        figure.update_yaxes(title=title, rangemode="tozero", row=2, col=column)
        figure.update_xaxes(type="category", title="class, largest Fisher–Rao length first", row=2, col=column)
    settings = shielding.settings
    figure.update_layout(
        template="plotly_white",
        height=760,
        showlegend=False,
        title=f"{_share(shielding.shielded.value)} of {shielding.successful} paths meet another class first "
        + _of_all(shielding)
        + f"(damping τ = {number(settings.damping)}, step η = {number(settings.step)})",
    )
    return figure


def _curve(curve: ShieldingCurve) -> go.Figure:
    """Share of shielded paths against damping, with intervals, one line a step."""
    frame, figure = curve.frame, go.Figure()
    for i, (step, part) in enumerate(frame.groupby("step", sort=True)):
        part = part.sort_values("damping")
        shielded = 100 * part.shielded
        figure.add_scatter(
            x=part.damping.tolist(),
            y=shielded.tolist(),
            error_y={
                "type": "data",
                "array": (100 * part.shielded_high - shielded).tolist(),
                "arrayminus": (shielded - 100 * part.shielded_low).tolist(),
                "thickness": 1,
                "width": 3,
            },
            mode="lines+markers",
            name=f"step η = {step:g}",
            line={"color": PALETTE[i % len(PALETTE)]},
            customdata=(100 * part.flipped).tolist(),
            hovertemplate="τ = %{x:g}: %{y:.3g} % shielded, %{customdata:.3g} % of paths flipped<extra></extra>",
        )
        if (part.flipped < 1).any():
            middle, reach = (part.possible_low + part.possible_high) / 2, (part.possible_high - part.possible_low) / 2
            figure.add_scatter(
                x=part.damping.tolist(),
                y=(100 * middle).tolist(),
                error_y={
                    "type": "data",
                    "array": (100 * reach).tolist(),
                    "thickness": 8,
                    "width": 0,
                    "color": faded(ACCENT, 0.22),
                },
                mode="markers",
                marker={"opacity": 0},
                showlegend=False,
                hovertemplate="τ = %{x:g}: of all paths %{y:.3g} ± %{error_y.array:.3g} %<extra></extra>",
            )
    published = curve.points[0].settings.method == "published"
    values = [s for s in frame.shielded if not math.isnan(s)]
    span = f"{_share(min(values))} to {_share(max(values))}" if values else "unknown shares"
    if values and (frame.flipped < 1).any():
        span += f" (of all, {_share(min(frame.possible_low))} to {_share(max(frame.possible_high))})"
    figure.update_layout(
        template="plotly_white",
        title=f"{span} of paths are shielded, by the settings alone" if len(frame) > 1 else f"{span} of paths shielded",
        xaxis={"title": "damping λ" if published else "damping τ, in units of λ_max", "type": "log", "dtick": 1},
        yaxis={"title": "paths that meet another class first, %", "range": [0, 100]},
        showlegend=frame.step.nunique() > 1,
    )
    return figure


def _of_all(shielding: Shielding) -> str:
    """Between which shares of all paths the truth lies, where some have changed no class."""
    if shielding.successful == shielding.attempted:
        return ""
    low, high = shielding.possible
    return f"({percent(low)} to {percent(high)} of all {shielding.attempted}) "


def _whiskers(values: Tensor, low: Tensor, high: Tensor, order: list[int]) -> dict[str, object]:
    return {
        "type": "data",
        "array": (high - values)[order].clamp_min(0).tolist(),
        "arrayminus": (values - low)[order].clamp_min(0).tolist(),
        "thickness": 1,
        "width": 3,
    }


def _share(value: float) -> str:
    return "none" if math.isnan(value) else percent(value)


def _names(classes: list[str]) -> list[str]:
    """Class names as plotly, which reads some HTML, can show them: short, as text, and no two the same."""
    short: list[str] = []
    for i, name in enumerate(classes):
        text = name if len(name) <= _NAMES else f"{name[: _NAMES - 1]}…"
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        short.append(text if text not in short else f"{text} ({i})")
    return short
