"""The live margin view."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import traitlets

from fimviz._options import real, whole
from fimviz.margins.curve import shielding_curve
from fimviz.margins.trace import trace_margins
from fimviz.views.kit.inputs import inputs_of
from fimviz.views.kit.working import Check, Working
from fimviz.views.margins.numbers import numbers
from fimviz.views.margins.traced import FRAMES, made_with, point, trace_data

if TYPE_CHECKING:
    from fimviz.margins.traces import MarginTraces

SETTINGS = ("step", "damping", "trust_region", "target")
_CURVE_SAMPLES = 20  # that a live curve walks from
_DAMPINGS = (0.001, 0.01, 0.1, 1.0, 10.0)


class Margins(Working):
    """The live margin view: it traces again what the reader asks for, off the kernel's main thread.

    Its settings are those of the path that is shown; setting one asks for the same path made so, and opens it.
    """

    _module = "margins/view.js"
    _numbers = staticmethod(numbers)
    trace = traitlets.Int(
        0, help="Which path, by its place in the result, or a new one; one that is shown. Default: 0."
    ).tag(sync=True)
    position = traitlets.Float(
        0.0,
        help="Fisher–Rao length along the path, from 0 to its end: what lies beyond becomes it. Default: its end.",
    ).tag(sync=True)
    step = traitlets.Float(0.2, help="Fisher–Rao length η of a step, positive. Default: the path's.").tag(sync=True)
    damping = traitlets.Float(0.01, help="Damping τ, positive. Default: the path's.").tag(sync=True)
    trust_region = traitlets.Float(0.1, help="The longest step in L2 pixel units, positive. Default: the path's.").tag(
        sync=True
    )
    target = traitlets.Int(0, help="The class aimed at, another one than the model says. Default: the path's.").tag(
        sync=True
    )

    source: MarginTraces | None = None
    shown: tuple[int, ...] = ()
    made: Mapping[int, dict[str, Any]] = MappingProxyType({})  # of a path that is shown, what was asked for
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
            raise traitlets.TraitError("position is nan, expected a length along the path")
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
        """What the path that is shown was made with."""
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
        """Settings that are no longer those of the path: another one that has them, or a new one."""
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
            words = f"walking from sample {wanted['sample']} toward {self._traces().net.classes[wanted['target']]}"
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
        trace = {**trace_data(found, 0, inputs, FRAMES[1]), "id": name, "sample": sample}
        self.shown, self.retraced = (*self.shown, name), found
        self.made, self.lengths = {**self.made, name: made_with(trace)}, {**self.lengths, name: trace["length"]}
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
            points += [point(p) for p in curve.points]
            share = {"done": len(points), "total": len(_DAMPINGS), "samples": len(kept)}
            self.send({"kind": "curve", "id": content["id"], "points": list(points), **share})

    def _traces(self) -> MarginTraces:
        if self.source is None:
            raise RuntimeError("this view has no paths to start from: make it with MarginTraces.widget()")
        return self.source
