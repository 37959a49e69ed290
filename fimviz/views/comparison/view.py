"""The bound view of a `BoundComparison`: how close do formulas and estimates come to the truth, and at what cost?"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import traitlets
from torch import Tensor

from fimviz._ways import JVP_COST, VJP_COST
from fimviz.bounds.ladder import Formula
from fimviz.comparison import ways
from fimviz.views.comparison.numbers import numbers
from fimviz.views.kit.figure import Figure
from fimviz.views.kit.host import Widget
from fimviz.views.kit.inputs import finite, lost, still_of_lost
from fimviz.views.kit.numbers import power_of_ten
from fimviz.views.kit.payload import Payload

if TYPE_CHECKING:
    from fimviz.bounds import Layer
    from fimviz.comparison import BoundComparison, Column

_CURVE = 120  # points of a drawn convergence


class Comparison(Widget):
    """The live bound view."""

    _module = "comparison/view.js"
    _numbers = staticmethod(numbers)
    index = traitlets.Int(0, help="Which sample, by its place in the batch. Default: the most fragile.").tag(sync=True)
    method = traitlets.Unicode(help="The chosen row: a method or rung. Default: the bound from weights only.").tag(
        sync=True
    )
    everything = traitlets.Bool(False, help="Show how all samples are distributed, not one. Default: one.").tag(
        sync=True
    )
    samples: tuple[int, ...] = ()
    rows: tuple[str, ...] = ()

    @traitlets.validate("index")
    def _shown(self, proposal: Any) -> int:
        if self.samples and proposal["value"] not in self.samples:
            raise traitlets.TraitError(f"index is {proposal['value']}, expected a sample that is shown: {self.samples}")
        return int(proposal["value"])

    @traitlets.validate("method")
    def _listed(self, proposal: Any) -> str:
        if self.rows and proposal["value"] not in self.rows:
            raise traitlets.TraitError(
                f"method is {proposal['value']!r}, expected one of the rows: {', '.join(self.rows)}"
            )
        return str(proposal["value"])


def view(result: BoundComparison, *, samples: int, max_bytes: int, places: Sequence[int] | None = None) -> Figure:
    """The view of the most fragile samples of a comparison; `places` are their numbers in a larger batch."""
    if samples < 1:
        raise ValueError(f"samples is {samples}, expected at least 1")
    fragile = result.reference.nan_to_num(-1.0)  # samples without a number come last
    order = fragile.argsort(descending=True, stable=True).tolist()
    order = [i for i in order if i not in result.failures][:samples]
    called = [i if places is None else places[i] for i in order]
    names = rows_of(result)
    payload = Payload()
    logs = np.stack([np.stack([part.numpy() for part in logarithms(result, name)], 1) for name in names], 1)
    data = {
        "total": len(result) - len(result.failures),
        "lost": lost(result.failures),
        "unit": [1.0, VJP_COST, JVP_COST],
        "reference": "exact" if "exact" in result.methods else next(iter(result.methods)),
        "legend": result.likelihood.symbols.legend,
        "head": {"name": result.likelihood.symbols.last, "kind": result.likelihood.symbols.onto},
        "samples": [
            {"index": called[at], "prediction": result.said[i], "confidence": finite(result.confidence[i])}
            for at, i in enumerate(order)
        ],
        "methods": [_method(result, name, order) for name in names],
        "values": payload.add(logs[order].astype(np.float64)),
        "curves": [c for c in (_curve(result, name, order, payload) for name in result.methods) if c],
        **_waterfalls(result, order, payload),
    }
    layered = [m["name"] for m in data["methods"] if m["falls"]]
    return Figure(
        widget_class=Comparison,
        state={
            "payload": payload.pack(data),
            "index": called[0],
            "method": "L5" if "L5" in layered else _best(result, names, order[0]),
            "everything": False,
        },
        still=_still(result, order[0]) + still_of_lost(result.failures),
        summary=f"{len(names)} methods on {len(order)} of {len(result)} inputs",
        max_bytes=max_bytes,
        fewer="samples=",
        setup={"samples": tuple(called), "rows": tuple(names)},
    )


def _best(result: BoundComparison, names: Sequence[str], i: int) -> str:
    """The tightest rung that has a value at a sample, else the first row with one."""
    known = {n: float(m.log10[i]) for n, m in result.methods.items() if not bool(m.value[i].isnan())}
    rungs = [n for n in names if n in known and group_of(n) == "ladder"]
    if rungs:
        return min(rungs, key=known.__getitem__)
    return next((n for n in names if n in known), names[0])


def rows_of(result: BoundComparison) -> list[str]:
    """The methods in the order of the view: estimates, the ladder, lower brackets; rungs without a value too."""
    names = list(dict.fromkeys([*result.methods, *result.reasons]))
    rank = {name: "estimate ladder lower".index(group_of(name)) for name in names}
    return sorted(names, key=lambda name: (rank[name], name if rank[name] else ""))


def group_of(name: str) -> str:
    """Where a method stands: "ladder" for the rungs, "lower" for the lower brackets, "estimate" for all others."""
    way = ways()[name]
    return "estimate" if not isinstance(way, Formula) else "ladder" if way.guarantee == "upper" else "lower"


def logarithms(result: BoundComparison, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """log₁₀ of value, low and high (n,) of a method: NaN where there is no number, −inf at 0 and below."""
    column = result.methods.get(name)
    if column is None:
        none = torch.full((len(result),), torch.nan, dtype=torch.float64)
        return none, none, none
    # a bound can be beyond the largest float64, where its logarithm goes on
    value = torch.where(column.value.isinf(), column.log10.double(), _log10(column.value))
    low, high = (
        torch.where((part == column.value) & part.isinf(), value, _log10(part)) for part in (column.low, column.high)
    )
    return value, low, high


def _log10(values: Tensor) -> Tensor:
    return torch.where(values.isnan(), torch.nan, values.double().clamp_min(0).log10())


def _method(result: BoundComparison, name: str, order: Sequence[int]) -> dict[str, Any]:
    column: Column | None = result.methods.get(name)
    costs = None
    if column is not None:
        counts = zip(column.forwards[order], column.vjps[order], column.jvps[order], strict=True)
        costs = [[int(count) for count in row] for row in counts]
        costs = costs[:1] if all(row == costs[0] for row in costs) else costs
    way = ways()[name]
    formula, last = way.formula, ""
    if isinstance(way, Formula):
        formula, last = (way.written(text, result.likelihood) for text in (way.formula, way.last))
    known = column is not None and not bool(column.value.isnan().all())
    return {
        "name": name,
        "group": group_of(name),
        "guarantee": column.guarantee if column else "none",
        "short": way.short,
        "needs": result.needs.get(name, way.needs),
        "formula": formula,
        "reason": result.reasons.get(name, ""),
        "costs": costs,
        "seconds": column.seconds / len(result) if column else None,
        "falls": last if last and known and _steps(result, name) else None,
        "layered": bool(last),
        "local": name == "L4",
    }


def _steps(result: BoundComparison, name: str) -> bool:
    return bool(result.layers or (name == "L4" and result.local_layers))


def _curve(result: BoundComparison, name: str, order: Sequence[int], payload: Payload) -> dict[str, Any] | None:
    """The running value of a method, log₁₀ in float32 because it is drawn, thinned where it is long."""
    column = result.methods[name]
    history = column.history[order]
    if history.ndim != 2 or history.shape[1] < 2 or not bool(history.isfinite().any()):
        return None
    steps = history.shape[1]
    kept = np.unique(np.geomspace(1, steps, _CURVE).round().astype(int)) - 1 if steps > _CURVE else np.arange(steps)
    values = _log10(history)[:, kept].numpy().astype(np.float32)
    return {"method": name, "cost": column.history_cost[kept].tolist(), "values": payload.add(values)}


def _waterfalls(result: BoundComparison, order: Sequence[int], payload: Payload) -> dict[str, Any]:
    """The layer-by-layer bounds: what they share as tables, numbers as float32 because they are drawn."""
    tables: dict[tuple[tuple[str, str, str], ...], int] = {}

    def packed(steps: Sequence[Layer] | None) -> dict[str, Any] | None:
        if not steps:
            return None
        table = tables.setdefault(tuple((s.name, s.kind, s.formula) for s in steps), len(tables))
        nan = float("nan")
        numbers = [[nan if s.log10_gain is None else s.log10_gain for s in steps], [s.log10_bound for s in steps]]
        return {"table": table, "numbers": payload.add(np.array(numbers, np.float32))}

    # L4 takes the better of the bound at the input and that at every input
    every, local = result.layers, result.local_layers
    used = [local[i] for i in order] if local else []
    out = {
        "layers": packed(every),
        "local": [packed(s if not every or s[-1].log10_bound <= every[-1].log10_bound else None) for s in used]
        if used
        else None,
    }
    words = sorted({word for table in tables for row in table for word in row[1:]})
    place = {word: i for i, word in enumerate(words)}
    listed = [[[name, place[kind], place[formula]] for name, kind, formula in table] for table in tables]
    return {**out, "words": words, "tables": listed}


def _still(result: BoundComparison, i: int) -> str:
    """What is seen without scripts: the values at one sample."""
    truth = float(_log10(result.reference[i]))
    rows = []
    for name in rows_of(result):
        column = result.methods.get(name)
        if column is None or bool(column.value[i].isnan()):
            reason = result.reasons.get(name, "no value")
            rows.append(f'<tr><td>{html.escape(name)}</td><td colspan="3">{html.escape(reason)}</td></tr>')
            continue
        value = float(logarithms(result, name)[0][i])
        rows.append(
            f"<tr><td>{html.escape(name)}</td><td>{power_of_ten(value, 4)}</td>"
            f"<td>×{power_of_ten(value - truth, 3)}</td><td>{html.escape(column.guarantee)}</td></tr>"
        )
    head = "<tr><th>method</th><th>λ₁</th><th>÷ the truth</th><th>guarantee</th></tr>"
    return f"<p>Sample {i}: one row a way to find λ₁.</p><table>{head}{''.join(rows)}</table>"
