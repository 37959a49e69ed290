"""The comparison view of a `BoundComparison`: how close do estimates and formulas come to the truth, at what cost?"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import traitlets

from fimviz.views.figure import Figure, Payload, Widget, module_source, style_source

if TYPE_CHECKING:
    from fimviz.comparison import BoundComparison


class Comparison(Widget):
    """The live comparison view."""

    _esm = module_source("comparison")
    _css = style_source()
    index = traitlets.Int(0, help="Which sample, by its place in the batch. Default: the most fragile.").tag(sync=True)


def comparison(result: BoundComparison, *, samples: int, max_bytes: int) -> Figure:
    """The view of the most fragile samples of a comparison."""
    if samples < 1:
        raise ValueError(f"samples is {samples}, expected at least 1")
    order = result.reference.argsort(descending=True, stable=True).tolist()[:samples]
    data = {"samples": [_sample(result, i) for i in order]}
    return Figure(
        widget_class=Comparison,
        state={"payload": Payload().pack(data), "index": order[0]},
        still=_still(result, order[0]),
        summary=f"{len(result.methods)} methods on {len(order)} of {len(result)} inputs",
        max_bytes=max_bytes,
    )


def _sample(result: BoundComparison, i: int) -> dict[str, Any]:
    rows = [
        {
            "method": name,
            "value": _finite(m.value[i]),
            "low": _finite(m.low[i]),
            "high": _finite(m.high[i]),
            "guarantee": m.guarantee,
            "forwards": int(m.forwards[i]),
            "vjps": int(m.vjps[i]),
            "jvps": int(m.jvps[i]),
        }
        for name, m in result.methods.items()
    ]
    traces = []
    for name, m in result.methods.items():
        kept = m.history[i].isfinite()
        if int(kept.sum()) > 1:
            cost = m.history_cost[: len(kept)][kept]
            traces.append({"method": name, "cost": cost.tolist(), "value": m.history[i][kept].tolist()})
    return {
        "index": i,
        "prediction": result.said[i],
        "confidence": float(result.confidence[i]),
        "rows": rows,
        "traces": traces,
    }


def _finite(value: Any) -> float | None:
    return float(value) if value.isfinite() else None


def _still(result: BoundComparison, i: int) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{float(m.value[i]):.4g}</td><td>{float(m.low[i]):.4g}</td>"
        f"<td>{float(m.high[i]):.4g}</td><td>{m.guarantee}</td></tr>"
        for name, m in result.methods.items()
    )
    head = "<tr><th>method</th><th>λ₁</th><th>low</th><th>high</th><th>guarantee</th></tr>"
    return f"<p>Sample {i}: one row a way to find λ₁.</p><table>{head}{rows}</table>"
