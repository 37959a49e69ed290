"""The live explorer: what needs a kernel is computed beside it, one job at a time, the latest first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
import traitlets

from fimviz._options import whole
from fimviz.model.classifier import Classifier
from fimviz.views.explorer.explored import (
    attacks_data,
    batch_data,
    choices,
    details_data,
    nested_attributions,
    nested_bounds,
    nested_margins,
    planes_data,
    toward_data,
)
from fimviz.views.explorer.numbers import numbers
from fimviz.views.kit.inputs import Inputs
from fimviz.views.kit.working import Check, Tick, Working
from fimviz.views.perturbation.view import Along, extent_of
from fimviz.views.uploads import read_images

if TYPE_CHECKING:
    from fimviz.explorer.results import Explored, Explorer

TABS = ("direction", "plane", "bounds", "attacks", "distance", "margins", "attributions")
COLORS = ("class", "correct", "confidence")
SORTS = ("norm", "margin", "confidence", "index")


class Exploring(Along, Working):
    """The live explorer."""

    _module = "explorer/view.js"
    _numbers = staticmethod(numbers)
    tab = traitlets.Enum(TABS, "direction", help="Which part of the detail. Default: direction.").tag(sync=True)
    color = traitlets.Enum(COLORS, "class", help="What colours the dots. Default: class.").tag(sync=True)
    against = traitlets.Unicode("confidence", help="What λ₁ is plotted against. Default: confidence.").tag(sync=True)
    sort = traitlets.Enum(SORTS, "norm", help="Order of the gallery. Default: the most fragile first.").tag(sync=True)
    norm = traitlets.Unicode(
        "matched",
        help="Which λ₁ leads: matched (at confidence 0.9, to compare samples and models by) or raw (as it is: how fast "
        "this answer can change). Default: matched.",
    ).tag(sync=True)
    show = traitlets.Unicode(
        "all",
        help="Which samples the gallery shows: all, misclassified, fragile (the upper quarter of λ₁), uncertain (the "
        "lower quarter of the margin), differing (of two models) or class:3. Default: all.",
    ).tag(sync=True)
    selected = traitlets.List(
        traitlets.Int(), help="The samples that were brushed, by their places; empty for all. Default: empty."
    ).tag(sync=True)
    temperature = traitlets.Float(
        1.0,
        help="What the logits are divided by, besides the classifier's own temperature: a positive number. Back "
        "at what is shown where the computation is stopped or fails. Default: 1.",
    ).tag(sync=True)
    directions = traitlets.Int(
        3,
        help="How many eigenvectors of a sample Python computes, at least 1; all where there are fewer. Default: 3.",
    ).tag(sync=True)

    source: Explorer | None = None  # what is shown: another one after another temperature, or with more images
    total = 0
    choices: Mapping[str, tuple[str, ...]] = MappingProxyType({})  # what the page offers
    _warmth = 1.0  # the temperature that is shown

    @traitlets.validate("index")
    def _known(self, proposal: Any) -> int:
        if self.total and not 0 <= proposal.value < self.total:
            raise traitlets.TraitError(f"index is {proposal.value}, expected a sample from 0 to {self.total - 1}")
        if self.source is not None and (why := self.source.failures.get(proposal.value)):
            raise traitlets.TraitError(f"index is {proposal.value}, which could not be computed: {why}")
        return int(proposal.value)

    @traitlets.validate("selected")
    def _places(self, proposal: Any) -> list[int]:
        wrong = [i for i in proposal.value if self.total and not 0 <= i < self.total]
        if wrong:
            raise traitlets.TraitError(f"selected holds {wrong[0]}, expected samples from 0 to {self.total - 1}")
        return list(proposal.value)

    @traitlets.validate("color", "show", "against", "norm")
    def _offered(self, proposal: Any) -> str:
        name = proposal.trait.name
        lists = {"color": "colors", "show": "shows", "against": "criteria", "norm": "norms"}
        offered = self.choices.get(lists[name], (proposal.value,))
        if proposal.value not in offered:
            classes = [o for o in offered if o.startswith("class:")]
            words = [o for o in offered if o not in classes] + [f"class:0 to {classes[-1]}" for _ in classes[:1]]
            raise traitlets.TraitError(f"{name} is {proposal.value!r}, expected one of {', '.join(words)}")
        return str(proposal.value)

    @traitlets.validate("temperature")
    def _warm(self, proposal: Any) -> float:
        if not 0 < proposal.value < float("inf"):
            raise traitlets.TraitError(f"temperature is {proposal.value}, expected a positive finite number")
        if self.refused and proposal.value != self._warmth:
            raise traitlets.TraitError(self.refused)
        return float(proposal.value)

    @traitlets.validate("directions")
    def _some(self, proposal: Any) -> int:
        if proposal.value < 1:
            raise traitlets.TraitError(f"directions is {proposal.value}, expected at least 1")
        return int(proposal.value)

    # ---- requests ----

    @traitlets.observe("temperature")
    def _warmed(self, change: Any) -> None:
        if self.source is None:
            return
        if change.new == self._warmth:
            self._latest.stop("temperature")
            return
        # what was asked of a sample belongs to the temperature before, and the page asks anew for what it shows
        self._start(
            f"λ₁ of all samples at temperature {change.new:g}",
            lambda tick, check: self._at_temperature(change.new, tick, check),
            "temperature",
            ("temperature", "sample"),
        )

    def _heard(self, _: Any, content: Any, buffers: Any) -> None:
        """A request of the page: {kind: "compute" | "images" | "stop", …}."""
        kind = content.get("kind")
        if kind == "stop":
            self._latest.stop()
            self.temperature = self._warmth
        elif kind == "compute":
            index, what = content.get("index"), content.get("what")
            many = content.get("directions", self.directions)  # as the page has it: its traits may come later
            self._start(
                f"{what} of sample {index}",
                lambda tick, check: self._compute(what, index, many, tick, check),
                "sample",
                ("sample",),
                key=content.get("key"),
            )
        elif kind == "images":
            names, raw = list(content.get("names", [])), [bytes(b) for b in buffers or []]
            self._start("λ₁ of the new images", lambda tick, check: self._add(names, raw, tick, check), "images", ())
        else:
            self.send({"kind": "failed", "id": 0, "message": f"unknown request {kind!r}"})

    def _start(
        self,
        doing: str,
        work: Callable[[Tick, Check], None],
        kind: str,
        instead_of: tuple[str, ...],
        key: Any = None,
    ) -> None:
        """Run work in place of these kinds of work; the page hears how it goes, with its own key for the request."""
        job_id = next(self._jobs)

        def job(check: Check) -> None:
            self.send({"kind": "working", "id": job_id, "doing": doing})
            work(self._ticker(job_id, check), check)
            self.send({"kind": "done", "id": job_id})

        self._run(job_id, job, kind, instead_of, doing=doing, key=key)

    # ---- work ----

    def _compute(self, what: Any, index: Any, many: Any, tick: Tick, check: Check) -> None:
        """One part of the detail of one sample, for every model."""
        from fimviz.explorer.detail import effort_of, examine, struck, toward_attacks
        from fimviz.explorer.parts import attacks_of, extended

        found = self._shown()
        if whole("index", index, 0) >= len(found):
            raise ValueError(f"index is {index}, expected a sample from 0 to {len(found) - 1}")
        inputs = Inputs(found.first.spectrum.images.shape[1:], *found.first.spectrum.pixel_range)
        if what in ("direction", "plane"):
            many = whole("directions", many, 1)
            details = examine(found, [index], many, planes=int(what == "plane"), progress=tick)
            check()
            models: list[dict[str, Any]] = [
                {"details": details_data(found.models[name], d, inputs), "planes": planes_data(d, inputs)}
                for name, d in details.items()
            ]
            self.extent = {**self.extent, **extent_of(models[0]["details"])}
        elif what == "attacks":
            models = []
            for m in found.models.values():
                tried = attacks_of(m.spectrum, [index], found.seed, progress=tick)
                check()
                said = attacks_data(tried, [index], [index], struck(tried), inputs)
                if inputs.photographs:  # the page may not have it in detail
                    said[0]["image"] = inputs.encode(tried.spectrum.images[0])
                models.append({"attacks": said, "tried": tried})
            details = examine(found, [index], 1, planes=0, progress=tick)
            for model, detail in zip(models, details.values(), strict=True):
                check()
                toward = toward_attacks(detail, model.pop("tried"), [0], effort_of(found).points)
                model["toward"] = toward_data(toward, detail.spectrum.net, inputs)
        elif what == "distance":  # which is of all samples
            self._put(self._on_both_sides(found, tick, check))
            return
        elif what in ("bounds", "margins", "attributions"):
            models = []
            for m in found.models.values():
                more = extended(m, what, [index], found.seed, progress=tick)
                check()
                if what == "bounds":
                    assert more.bounds is not None
                    entry = nested_bounds(more.bounds, [index])
                elif what == "margins":
                    assert more.margins is not None
                    entry = nested_margins(more.margins, found.first.spectrum, [index])
                else:
                    assert more.attributions is not None
                    entry = nested_attributions(more.attributions, [index])
                models.append({"nested": {what: entry}})
        else:
            raise ValueError(f"what is {what!r}, expected one of {', '.join(TABS)}")
        self.send({
            "kind": "computed", "what": what, "index": index, "payload": inputs.payload.pack({"models": models}),
        })  # fmt: skip
        self._opened(None)

    def _on_both_sides(self, found: Explorer, tick: Tick, check: Check) -> Explorer:
        """The same with certified radii and attacks."""
        from fimviz.explorer.parts import extended

        models = {}
        for name, m in found.models.items():
            certified = extended(m, "radius", (), found.seed, progress=tick, lines=True)
            check()
            models[name] = extended(certified, "attacks", m.detail.places, found.seed, progress=tick)
            check()
        return replace(found, models=models)

    def _at_temperature(self, temperature: float, tick: Tick, check: Check) -> None:
        """The whole batch at another temperature; where that fails, the trait goes back to what is shown."""
        try:
            self._put(self._warmer(temperature, tick, check))
            self._warmth = temperature
        finally:
            if self.temperature == temperature != self._warmth:
                self.temperature = self._warmth

    def _warmer(self, temperature: float, tick: Tick, check: Check) -> Explorer:
        from fimviz.explorer.detail import nothing
        from fimviz.explorer.results import Explorer
        from fimviz.fisher.methods import spectrum

        found, models = self._shown(), {}
        for name, m in self._first_models().items():
            now = found.models[name].spectrum
            assert isinstance(m.spectrum.net, Classifier)
            twin = m.spectrum.net.at_temperature(m.spectrum.net.temperature * temperature)
            options: dict[str, Any] = {"method": now.method, "seed": found.seed, "progress": tick}
            s = spectrum(twin, now.images, k=1, vectors=False, **options)
            s = replace(s, labels=None if now.labels is None else now.labels[: len(s)])
            # λ₁ at matched confidence, radii and attacks are the same at every temperature
            kept = replace(found.models[name], bounds=None, margins=None, attributions=None, toward=None)
            models[name] = replace(kept, spectrum=s, detail=nothing(s))
            check()
        return Explorer(models, found.seed)

    def _add(self, names: list[str], raw: list[bytes], tick: Tick, check: Check) -> None:
        from fimviz.explorer.detail import nothing
        from fimviz.explorer.results import CONFIDENCE, Explored, Explorer
        from fimviz.fisher.matched import matched_with_errors
        from fimviz.fisher.methods import spectrum

        found = self._shown()
        s = found.first.spectrum
        images = read_images(names, raw, s.net, s.images.shape[1:], s.pixel_range)
        check()
        models = {}
        for name, m in found.models.items():
            more = spectrum(
                m.spectrum.net, images, k=1, vectors=False, method=m.spectrum.method, seed=found.seed, progress=tick
            )
            both = m.spectrum.joined(more)
            check()
            assert isinstance(m.spectrum.net, Classifier)
            options: dict[str, Any] = {"confidence": CONFIDENCE, "method": m.spectrum.method, "seed": found.seed}
            old = len(m.matched) if m.matched.isfinite().any() else 0  # an interrupt may have left it out
            more_matched, more_error = matched_with_errors(m.spectrum.net, both.images[old:], progress=tick, **options)
            matched = torch.cat([m.matched[:old], more_matched])
            error = torch.cat([m.matched_error[:old], more_error])
            models[name] = Explored(both, nothing(both), matched, error)
            check()
        self._put(Explorer(models, found.seed))
        self.index = len(found)

    def _put(self, found: Explorer) -> None:
        """Show another batch; the page reads it anew."""
        data, inputs = batch_data(found)
        data["left"] = ""
        self.source, self.total, self.choices = found, len(found), choices(data)
        self.extent = extent_of(data["models"][0]["details"])
        if self.against not in self.choices["criteria"]:
            self.against = self.choices["criteria"][0]
        if self.norm not in self.choices["norms"]:
            self.norm = self.choices["norms"][0]
        self.payload = inputs.payload.pack(data)

    def _shown(self) -> Explorer:
        if self.source is None:
            raise RuntimeError("this view has no batch to start from: make it with Explorer.widget()")
        return self.source

    def _first_models(self) -> dict[str, Explored]:
        if not hasattr(self, "_origin"):
            self._origin = self._shown().models
        return self._origin
