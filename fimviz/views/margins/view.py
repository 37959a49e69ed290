"""The margin view of `MarginTraces`: how far is it to another class, and which classes are met on the way?"""

from __future__ import annotations

import html
import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fimviz.margins.curve import ShieldingCurve
from fimviz.views.kit.figure import Figure, left_out
from fimviz.views.kit.inputs import Inputs, caution, inputs_of, lost, picture, still_of_lost
from fimviz.views.kit.numbers import number
from fimviz.views.kit.palette import class_order
from fimviz.views.margins.live import SETTINGS, Margins
from fimviz.views.margins.traced import FRAMES, counted, made_with, matrix, occurring, point, sample_data, trace_data

if TYPE_CHECKING:
    from fimviz.margins.traces import MarginTraces

_TARGETS = 24  # paths of one sample that a page holds, the shortest first
_PAGE = 700_000  # bytes that a page takes by default
_MOST = 4_000_000  # of those of eight samples, with few frames each
_POINT = 100  # bytes of numbers a step


def view(
    traces: MarginTraces,
    *,
    samples: int | Sequence[int] | None,
    curve: ShieldingCurve | None,
    max_bytes: int,
    order: list[int] | None = None,
) -> Figure:
    """The view of the paths of some samples; the path matrix counts all. `order` of classes, for their colours."""
    if curve is not None and not isinstance(curve, ShieldingCurve):
        raise TypeError(f"curve is {curve!r}, expected a ShieldingCurve, which shielding_curve returns")
    if not len(traces):
        raise ValueError("there are no paths to show")
    inputs = inputs_of(traces.net, traces.images)
    chosen, traced = _chosen(traces, samples, inputs), traces.sample.unique()
    shown = [i for sample in chosen for i in _of_sample(traces, sample)]
    frames = int(np.clip((_PAGE / len(shown) - _POINT * 15) // _size(inputs), *FRAMES))
    inputs.share_out(traces.images[chosen], traces.ends[shown] - traces.images[traces.sample[shown]], times=frames)
    first = _telling(traces, shown)
    drawn = [trace_data(traces, i, inputs, frames) for i in shown]
    made = {t["id"]: made_with(t) for t in drawn}
    rows, columns = occurring(traces)
    data: dict[str, Any] = {
        **inputs.header,
        "classes": traces.net.classes,
        "order": class_order(traces.probabilities) if order is None else order,
        "total": len(traces),
        "left": left_out(
            chosen, traced.tolist(), "with every class that is met among them", f".view(samples={len(traced)})"
        ),
        "caution": caution(traces.net),
        "lost": lost(traces.failures),
        "matrix": {"rows": rows, "columns": columns, **matrix(traces, rows, columns)},
        "counted": counted(traces),
        "others": traces.others(),
        "samples": [sample_data(traces, inputs, i) for i in chosen],
        "traces": drawn,
        "points": [point(p) for p in (curve.points if curve is not None else [traces.shielding(resamples=200)])],
        "curve": curve is not None,
    }
    return Figure(
        widget_class=Margins,
        state={
            "payload": inputs.payload.pack(data),
            "trace": first,
            "position": float(traces.length[first]),
            **{name: made[first][name] for name in SETTINGS},
            "live": False,
            "refused": "",
        },
        still=_still(traces, inputs, shown, first) + still_of_lost(traces.failures),
        setup={
            "source": traces,
            "shown": tuple(shown),
            "made": made,
            "lengths": {t["id"]: t["length"] for t in drawn},
        },
        summary=f"{len(shown)} of {len(traces)} traces, {len(chosen)} of {len(traces.images)} inputs",
        max_bytes=max_bytes,
        fewer="samples=",
    )


def _of_sample(traces: MarginTraces, sample: int) -> list[int]:
    """The paths of a sample: the nearest classes where a page cannot hold all, in the order of their targets."""
    own = (traces.sample == sample).nonzero()[:, 0]
    nearest = own[traces.length[own].argsort(stable=True)][:_TARGETS]
    return sorted(nearest.tolist())


def _size(inputs: Inputs) -> float:
    """About how many bytes a page takes for a frame of a path."""
    return float(np.prod(inputs.shape)) * (inputs.weight if inputs.photographs else 1)


def _chosen(traces: MarginTraces, samples: int | Sequence[int] | None, inputs: Inputs) -> list[int]:
    traced = traces.sample.unique().tolist()
    if isinstance(samples, str):
        raise TypeError(f"samples is {samples!r}, expected a number of samples or places in the batch")
    if isinstance(samples, Iterable):
        wanted = {int(s) for s in samples}
        if not wanted or not wanted <= set(traced):
            raise ValueError(f"samples is {list(samples)}, expected places of traced images from 0 to {max(traced)}")
        return sorted(wanted)
    if samples is None:
        targets = min(_TARGETS, -(-len(traces) // len(traced)))
        each = targets * (_POINT * 15 + 7 * _size(inputs))
        least = targets * (_POINT * 15 + FRAMES[0] * _size(inputs))
        samples = max(1, min(24, int(_PAGE / each)), min(8, int(_MOST / least)))
    elif (samples := operator.index(samples)) < 1:
        raise ValueError(f"samples is {samples}, expected at least 1, or a list of places in the batch")
    # Every class in turn, so that each row of the path matrix has something to open.
    seen: dict[int, int] = {}
    turns = []
    for sample in traced:
        source = int(traces.source[traces.sample == sample][0])
        seen[source] = seen.get(source, -1) + 1
        turns.append((seen[source], sample))
    return sorted(sample for _, sample in sorted(turns)[:samples])


def _telling(traces: MarginTraces, shown: list[int]) -> int:
    """The path to open with: one that counts, a shielded one if there is any, with the most steps to look at."""
    shielded = traces.flipped & (traces.hit != traces.target)
    counted = torch.ones(len(traces), dtype=torch.bool) if traces.correct is None else traces.correct
    return max(shown, key=lambda i: (bool(counted[i]), bool(shielded[i]), int(traces.steps[i])))


def _still(traces: MarginTraces, inputs: Inputs, shown: list[int], first: int) -> str:
    """What is seen without scripts: one path's two ends, and a table."""
    names, parts = traces.net.classes, []
    if inputs.kind == "image":
        sample = int(traces.sample[first])
        source = picture(inputs, [traces.images[sample], traces.ends[first]])
        met = int(traces.hit[first])
        end = f"where the model says {names[met]}" if met >= 0 else "where the class is still the same"
        said = html.escape(
            f"Sample {sample}, which the model takes for {names[int(traces.source[first])]}, and the end of its path "
            f"toward {names[int(traces.target[first])]}, {end}: Fisher–Rao length "
            f"{number(float(traces.length[first]))}, "
            f"L2 {number(float(traces.l2[first]))}."
        )
        parts.append(f'<img alt="{said}" src="{source}"><p>{said}</p>')
    rows = []
    for i in shown[:12]:
        met = int(traces.hit[i])
        cells = (
            *(names[int(t[i])] for t in (traces.source, traces.target)),
            (names[met] if met >= 0 else traces.status[i]) + " (another attempt)" * bool(traces.retried[i]),
            *(number(float(t[i]), 4) for t in (traces.length, traces.bound, traces.l2)),
        )
        rows.append(f"<tr><td>{int(traces.sample[i])}</td>{''.join(f'<td>{html.escape(c)}</td>' for c in cells)}</tr>")
    head = "".join(f"<th>{c}</th>" for c in ("sample", "from", "toward", "meets", "length", "floor", "L2"))
    return "".join(parts) + f"<table><tr>{head}</tr>{''.join(rows)}</table>"
