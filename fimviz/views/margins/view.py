"""The margin view of `MarginTraces`: how far is it to another class, and which classes are met on the way?"""

from __future__ import annotations

import html
import operator
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import traitlets
from torch import Tensor

from fimviz._options import real, whole
from fimviz.margins.curve import ShieldingCurve, shielding_curve
from fimviz.margins.state import fallbacks
from fimviz.views.kit.figure import Figure, left_out
from fimviz.views.kit.inputs import Inputs, caution, finite, inputs_of, lost, picture, short, still_of_lost
from fimviz.views.kit.numbers import number
from fimviz.views.kit.palette import class_order
from fimviz.views.kit.working import Check, Working

if TYPE_CHECKING:
    from fimviz.margins.shielding import Shielding
    from fimviz.margins.traces import MarginTraces

_CLASSES_SHOWN = 5  # beside the path's own and "others", where there are more than eight
_TARGETS = 24  # traces of one sample that a page holds, the shortest first
_PAGE = 700_000  # bytes before packing that a page takes by default
_MOST = 4_000_000  # of those of eight samples, with few frames each
_FRAMES = (3, 40)  # images on the way of one trace, at least and at most
_POINT = 100  # bytes of numbers a step
_CURVE_SAMPLES = 20  # that a live curve traces
SETTINGS = ("step", "damping", "trust_region", "target")
_DAMPINGS = (0.001, 0.01, 0.1, 1.0, 10.0)


class Margins(Working):
    """The live margin view: it traces again what the reader asks for, off the kernel's main thread.

    Its settings are those of the trace that is shown; setting one asks for the same trace made so, and opens it.
    """

    _module = "margins/view.js"
    trace = traitlets.Int(
        0, help="Which trace, by its place in the result, or a new one; one that is shown. Default: 0."
    ).tag(sync=True)
    position = traitlets.Float(
        0.0,
        help="Fisher–Rao length along the trace, from 0 to its end: what lies beyond becomes it. Default: its end.",
    ).tag(sync=True)
    step = traitlets.Float(0.2, help="Fisher–Rao length η of a step, positive. Default: the trace's.").tag(sync=True)
    damping = traitlets.Float(0.01, help="Damping τ, positive. Default: the trace's.").tag(sync=True)
    trust_region = traitlets.Float(0.1, help="The longest step in L2 pixel units, positive. Default: the trace's.").tag(
        sync=True
    )
    target = traitlets.Int(0, help="The class aimed at, another one than the model says. Default: the trace's.").tag(
        sync=True
    )

    source: MarginTraces | None = None
    shown: tuple[int, ...] = ()
    made: Mapping[int, dict[str, Any]] = MappingProxyType({})  # of a trace that is shown, what was asked for
    lengths: Mapping[int, float] = MappingProxyType({})
    retraced: MarginTraces | None = None  # what the reader asked for last
    _asked: Mapping[str, Any] | None = None

    @traitlets.validate("trace")
    def _known(self, proposal: Any) -> int:
        if self.shown and proposal.value not in self.shown:
            raise traitlets.TraitError(f"trace is {proposal.value}, expected one that is shown: {self.shown}")
        return int(proposal.value)

    @traitlets.validate("position")
    def _along(self, proposal: Any) -> float:
        if proposal.value != proposal.value:
            raise traitlets.TraitError("position is nan, expected a length along the trace")
        return float(max(0.0, min(self.lengths.get(self.trace, proposal.value), proposal.value)))

    @traitlets.validate("step", "damping", "trust_region")
    def _positive(self, proposal: Any) -> float:
        name, value = proposal.trait.name, float(proposal.value)
        if not 0 < value < float("inf"):
            raise traitlets.TraitError(f"{name} is {value}, expected a positive finite number")
        return self._changeable(name, value)

    @traitlets.validate("target")
    def _aimed(self, proposal: Any) -> int:
        if self.source is not None and self.trace in self.made:
            count = len(self.source.net.classes)
            own = int(self.source.source[self.source.sample == self._own["sample"]][0])
            if not 0 <= proposal.value < count or proposal.value == own:
                raise traitlets.TraitError(
                    f"target is {proposal.value}, expected a class from 0 to {count - 1}, not {own}, its source"
                )
        return self._changeable("target", int(proposal.value))

    def _changeable(self, name: str, value: Any) -> Any:
        if self.refused and self.trace in self.made and value != self._own[name]:
            raise traitlets.TraitError(self.refused)
        return value

    @property
    def _own(self) -> dict[str, Any]:
        """What the trace that is shown was made with."""
        return self.made[self.trace]

    @traitlets.observe("trace")
    def _chose(self, change: Any) -> None:
        if self.trace in self.made:
            with self.hold_trait_notifications():
                for name in SETTINGS:
                    setattr(self, name, self._own[name])
                self.position = self.position

    @traitlets.observe(*SETTINGS)
    def _changed(self, change: Any) -> None:
        """Settings that are no longer those of the trace: another trace that has them, or a new one."""
        if not self._ready or self.trace not in self.made:
            return
        wanted = {**self._own, **{name: getattr(self, name) for name in SETTINGS}}
        known = next((name for name, own in self.made.items() if own == wanted), None)
        if wanted == self._own:
            return
        if known is not None:
            self.trace = known
        elif wanted != self._asked:
            asked = f"python {next(self._jobs)}"
            words = f"tracing sample {wanted['sample']} toward {self._traces().net.classes[wanted['target']]}"
            self.send({"kind": "working", "id": asked, "doing": words})
            self._request({"kind": "trace", "id": asked, "opened": True, **wanted})

    def _heard(self, _: Any, content: Any, buffers: Any) -> None:
        """A request of the page: {kind: "trace" | "curve" | "stop", id, …}. Its answers carry the same id."""
        if content.get("kind") == "stop":
            self._latest.stop()
        else:
            self._request(content)

    def _request(self, content: Any) -> None:
        kind, asked = content.get("kind"), content.get("id")
        work = {"trace": self._retrace, "curve": self._curve}.get(kind)
        if work is None:
            self.send({"kind": "failed", "id": asked, "message": f"unknown request {kind!r}"})
            return
        if kind == "trace":
            self._asked = {name: content.get(name) for name in ("sample", *SETTINGS)}
        self._run(asked, lambda check: work(content, check))

    def _retrace(self, content: Any, check: Check) -> None:
        from fimviz.margins.trace import trace_margins

        own = self._traces()
        sample = whole("sample", content["sample"], 0)
        if sample >= len(own.images):
            raise ValueError(f"sample is {sample}, expected a place from 0 to {len(own.images) - 1}")
        found = trace_margins(
            own.net,
            own.images[sample : sample + 1],
            None if own.labels is None else own.labels[sample : sample + 1],
            targets=[whole("target", content["target"], 0)],
            step=real("step", content["step"]),
            damping=real("damping", content["damping"]),
            trust_region=real("trust_region", content["trust_region"]),
            max_steps=own.settings.max_steps,
            method=own.settings.method,
            solver=own.settings.solver,
            seed=own.settings.seed,
            verify=False,
            retry=False,
            progress=self._ticker(content["id"], check),
        )
        check()
        inputs = inputs_of(own.net, own.images)
        name = max(self.shown) + 1
        trace = {**_trace(found, 0, inputs, _FRAMES[1]), "id": name, "sample": sample}
        self.shown, self.retraced = (*self.shown, name), found
        self.made, self.lengths = {**self.made, name: _made(trace)}, {**self.lengths, name: trace["length"]}
        self.send({"kind": "traced", "id": content["id"], "payload": inputs.payload.pack({"trace": trace})})
        if content.get("opened"):
            self.trace = name
            self.position = trace["length"]

    def _curve(self, content: Any, check: Check) -> None:
        own = self._traces()
        kept = list(range(len(own.images)))[:_CURVE_SAMPLES]
        points: list[dict[str, Any]] = []
        for damping in _DAMPINGS:
            curve = shielding_curve(
                own.net,
                own.images[kept],
                None if own.labels is None else own.labels[kept],
                dampings=[damping],
                steps=[real("step", content["step"])],
                trust_region=real("trust_region", content["trust_region"]),
                method=own.settings.method,
                max_steps=own.settings.max_steps,
                resamples=200,
                keep_images=False,
                seed=own.settings.seed,
                progress=self._ticker(content["id"], check),
            )
            check()
            points += [_point(p) for p in curve.points]
            share = {"done": len(points), "total": len(_DAMPINGS), "samples": len(kept)}
            self.send({"kind": "curve", "id": content["id"], "points": list(points), **share})

    def _traces(self) -> MarginTraces:
        if self.source is None:
            raise RuntimeError("this view has no traces to start from: make it with MarginTraces.widget()")
        return self.source


def view(
    traces: MarginTraces,
    *,
    samples: int | Sequence[int] | None,
    curve: ShieldingCurve | None,
    max_bytes: int,
    order: list[int] | None = None,
) -> Figure:
    """The view of the traces of some samples; the path matrix counts all. `order` of classes, for their colours."""
    if curve is not None and not isinstance(curve, ShieldingCurve):
        raise TypeError(f"curve is {curve!r}, expected a ShieldingCurve, which shielding_curve returns")
    if not len(traces):
        raise ValueError("there are no traces to show")
    inputs = inputs_of(traces.net, traces.images)
    chosen, traced = _chosen(traces, samples), traces.sample.unique()
    shown = [i for sample in chosen for i in _of_sample(traces, sample)]
    size = traces.images[0].numel()
    frames = int(np.clip((_PAGE / len(shown) - _POINT * 15) // size, *_FRAMES))
    first = _telling(traces, shown)
    drawn = [_trace(traces, i, inputs, frames) for i in shown]
    made = {t["id"]: _made(t) for t in drawn}
    rows, columns = _occurring(traces)
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
        "matrix": {"rows": rows, "columns": columns, **_matrix(traces, rows, columns)},
        "counted": _counted(traces),
        "others": traces.others(),
        "samples": [_sample(traces, inputs, i) for i in chosen],
        "traces": drawn,
        "points": [_point(p) for p in (curve.points if curve is not None else [traces.shielding(resamples=200)])],
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
    """The traces of a sample: the nearest classes where a page cannot hold all, in the order of their targets."""
    own = (traces.sample == sample).nonzero()[:, 0]
    nearest = own[traces.length[own].argsort(stable=True)][:_TARGETS]
    return sorted(nearest.tolist())


def _chosen(traces: MarginTraces, samples: int | Sequence[int] | None) -> list[int]:
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
        each = targets * (_POINT * 15 + 7 * traces.images[0].numel())
        least = targets * (_POINT * 15 + _FRAMES[0] * traces.images[0].numel())
        samples = max(1, min(24, _PAGE // each), min(8, _MOST // least))
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
    """The trace to open with: one that counts, a shielded one if there is any, with the most steps to look at."""
    shielded = traces.flipped & (traces.hit != traces.target)
    counted = torch.ones(len(traces), dtype=torch.bool) if traces.correct is None else traces.correct
    return max(shown, key=lambda i: (bool(counted[i]), bool(shielded[i]), int(traces.steps[i])))


def _occurring(traces: MarginTraces) -> tuple[list[int], list[int]]:
    """Rows and columns of the path matrix: every class up to sixteen, else those that occur; −1 is no change."""
    count = len(traces.net.classes)
    unchanged = [-1] if not traces.flipped.all() else []
    if count <= 16:
        return list(range(count)), [*range(count), *unchanged]
    met = traces.hit[traces.flipped].unique().tolist()
    return traces.source.unique().tolist(), [*met, *unchanged]


def _matrix(traces: MarginTraces, rows: list[int], columns: list[int]) -> dict[str, list[list[int]]]:
    """How many paths lead from a source to the class met, and how many of these aimed elsewhere."""
    counts, shielded = (torch.zeros(len(rows), len(columns), dtype=torch.long) for _ in range(2))
    for source, target, hit in zip(traces.source.tolist(), traces.target.tolist(), traces.hit.tolist(), strict=True):
        place = rows.index(source), columns.index(hit)
        counts[place] += 1
        shielded[place] += hit not in (-1, target)
    return {"counts": counts.tolist(), "shielded": shielded.tolist()}


def _counted(traces: MarginTraces) -> dict[str, int]:
    """Paths that met a class in the share of shielded ones, and all paths of wrongly classified samples beside it."""
    shielded = traces.flipped & (traces.hit != traces.target)
    right = torch.ones(len(traces), dtype=torch.bool) if traces.correct is None else traces.correct
    counts = (right & traces.flipped, right & shielded, ~right, ~right & shielded)
    return dict(zip(("paths", "shielded", "left", "leftShielded"), (int(c.sum()) for c in counts), strict=True))


def _sample(traces: MarginTraces, inputs: Inputs, i: int) -> dict[str, Any]:
    p = traces.probabilities[i]
    said = int(p.argmax())
    rest = float(torch.cat([p[:said], p[said + 1 :]]).sum())
    return {
        "index": i,
        "prediction": said,
        "doubt": rest,
        "label": None if traces.labels is None else int(traces.labels[i]),
        "traced": int((traces.sample == i).sum()),
        "image": inputs.encode(traces.images[i]),
    }


def _trace(traces: MarginTraces, i: int, inputs: Inputs, frames: int) -> dict[str, Any]:
    path, settings = traces.paths[i], traces.settings
    steps = len(path.pace)
    classes, p = _top_classes(traces, i)
    x = traces.images[int(traces.sample[i])]
    if path.shares is None:
        kept, differences = [0, steps], [traces.ends[i].double() - x.double()]
    else:
        kept = sorted({round(j) for j in np.linspace(0, steps, min(frames, steps) + 1)})
        differences = [path.difference(j) for j in kept[1:]]
    if not steps:
        kept, differences = [0], []
    scale = max((float(d.nan_to_num(0.0).abs().amax()) for d in differences), default=0.0)
    return {
        "id": i,
        "sample": int(traces.sample[i]),
        "source": int(traces.source[i]),
        "target": int(traces.target[i]),
        "hit": int(traces.hit[i]),
        "status": traces.status[i],
        "length": float(traces.length[i]),
        "error": finite(traces.length_error[i]),
        "verified": settings.verify and settings.method != "published",
        "retried": bool(traces.retried[i]),
        "tried": settings.retry and bool(fallbacks(traces.made_by[i])),
        "bound": float(traces.bound[i]),
        "distance": float(traces.distance[i]),
        "l2": float(traces.l2[i]),
        "settings": {
            "method": traces.made_by[i].method,
            "step": settings.step,
            "damping": traces.made_by[i].damping,
            "trust_region": settings.trust_region,
        },
        "shown": classes,
        "p": [short(row, 6) for row in p],
        "fr": path.fr.tolist(),
        "gap": short(path.gap, 5),
        "norm": short(path.spectral_norm, 5),
        "natural": short(path.natural, 5),
        "step": short(path.l2, 5),
        "pace": list(path.pace),
        "smoothed": list(path.smoothed),
        "kept": kept,
        "blended": path.shares is None and steps > 1,
        "scale": scale,
        "frames": [_difference(inputs, d, scale) for d in differences],
    }


def _made(trace: dict[str, Any]) -> dict[str, Any]:
    """What a trace was asked for with."""
    settings = {name: trace["settings"][name] for name in ("step", "damping", "trust_region")}
    return {"sample": trace["sample"], "target": trace["target"], **settings}


def _difference(inputs: Inputs, d: Tensor, scale: float) -> list[int]:
    """A frame's difference from the start: bytes in units of scale ÷ 127, or float32 for what is no image."""
    if inputs.kind == "series":
        return inputs.payload.add(d.float().numpy())
    levels = (d * (127 / (scale or 1.0))).round().nan_to_num(-128.0)
    planes = levels.reshape(inputs.shape[2], *inputs.shape[:2]).permute(1, 2, 0)
    return inputs.payload.add(planes.to(torch.int8).numpy())


def _top_classes(traces: MarginTraces, i: int) -> tuple[list[int], Tensor]:
    """The classes to draw with their probabilities (c, T + 1); the class −1 stands for all others together."""
    p = traces.paths[i].probabilities.T
    if len(p) <= 8:
        return list(range(len(p))), p
    own = {int(t[i]) for t in (traces.source, traces.target, traces.hit)} - {-1}
    top = own | set(p.amax(1).topk(_CLASSES_SHOWN).indices.tolist())
    kept = sorted(top)
    rest = [c for c in range(len(p)) if c not in top]
    return [*kept, -1], torch.cat([p[kept], p[rest].sum(0, keepdim=True)])


def _point(shielding: Shielding) -> dict[str, Any]:
    """One point of the curve of shielding against damping."""
    s = shielding.settings
    return {
        "damping": s.damping,
        "step": s.step,
        "shielded": finite(shielding.shielded.value),
        "low": finite(shielding.shielded.low),
        "high": finite(shielding.shielded.high),
        "possible": list(shielding.possible),
        "successful": shielding.successful,
        "attempted": shielding.attempted,
    }


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
