"""The explorer: norms of a batch, a gallery, and what happens at the chosen sample, linked in one view."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import traitlets
from torch import Tensor

from fimviz.views.comparison import comparison
from fimviz.views.figure import Figure, Widget, module_source, style_source
from fimviz.views.inputs import Inputs, picture
from fimviz.views.margins import margins
from fimviz.views.perturbation import just_past_the_flip, outcome, sample_data

if TYPE_CHECKING:
    from fimviz.comparison import BoundComparison
    from fimviz.explorer import Detail, Explored, Explorer
    from fimviz.fisher.plane import Plane
    from fimviz.margins.traces import MarginTraces

TABS = ("direction", "plane", "bounds", "margins")
COLORS = ("class", "correct", "confidence")
SORTS = ("norm", "margin", "confidence", "index")
_THUMBS = 1_700_000  # bytes of all small pictures together
_THUMB_SIDE = 64
_REGIONS = 12  # outcomes that a plane names
_LEAST_LOGP = -25.0
_ANY = 10**9  # bytes: the whole page is weighed, not its parts


class Exploring(Widget):
    """The live explorer."""

    _esm = module_source("explorer")
    _css = style_source()
    index = traitlets.Int(0, help="Which sample, by its place in the batch. Default: the most fragile.").tag(sync=True)
    direction = traitlets.Int(0, help="Which eigenvector, 0 for the leading one. Default: 0.").tag(sync=True)
    epsilon = traitlets.Float(
        0.0, help="Step along the direction, in L2 pixel units. Default: just past the nearest flip."
    ).tag(sync=True)
    flipped = traitlets.Bool(False, help="Whether the direction's sign is turned. Default: False.").tag(sync=True)
    tab = traitlets.Enum(TABS, "direction", help="Which part of the detail. Default: direction.").tag(sync=True)
    color = traitlets.Enum(COLORS, "class", help="What colours the dots. Default: class.").tag(sync=True)
    against = traitlets.Unicode("confidence", help="What λ₁ is plotted against. Default: confidence.").tag(sync=True)
    sort = traitlets.Enum(SORTS, "norm", help="Order of the gallery. Default: the most fragile first.").tag(sync=True)
    show = traitlets.Unicode(
        "all",
        help="Which samples the gallery shows: all, misclassified, fragile (the upper quarter of λ₁), uncertain (the "
        "lower quarter of the margin), differing (of two models) or class:3. Default: all.",
    ).tag(sync=True)
    selected = traitlets.List(
        traitlets.Int(), help="The samples that were brushed, by their places; empty for all. Default: empty."
    ).tag(sync=True)
    live = traitlets.Bool(False, help="Whether Python answers: set by widget(). Default: False.").tag(sync=True)

    source: Explorer | None = None
    total = 0
    classes = 0

    @traitlets.validate("index")
    def _known(self, proposal: Any) -> int:
        if self.total and not 0 <= proposal.value < self.total:
            raise traitlets.TraitError(f"index is {proposal.value}, expected a sample from 0 to {self.total - 1}")
        return int(proposal.value)

    @traitlets.validate("selected")
    def _places(self, proposal: Any) -> list[int]:
        wrong = [i for i in proposal.value if self.total and not 0 <= i < self.total]
        if wrong:
            raise traitlets.TraitError(f"selected holds {wrong[0]}, expected samples from 0 to {self.total - 1}")
        return list(proposal.value)

    @traitlets.validate("show")
    def _filter(self, proposal: Any) -> str:
        known = ["all", "misclassified", "fragile", "uncertain", "differing"]
        known += [f"class:{c}" for c in range(self.classes)] if self.classes else [proposal.value]
        if proposal.value not in known:
            raise traitlets.TraitError(
                f"show is {proposal.value!r}, expected {', '.join(known[:5])} or class: and a class's number"
            )
        return str(proposal.value)


def explorer(found: Explorer, *, max_bytes: int) -> Figure:
    """The view of an `Explorer`."""
    s = found.first.spectrum
    low, high = s.pixel_range
    inputs = Inputs(s.images.shape[1:], low, high)
    small, thumbs = _thumbs(inputs, s.images)
    first = int(s.spectral_norm.argmax())
    data: dict[str, Any] = {
        "kind": inputs.kind,
        "shape": inputs.shape,
        "range": [low, high],
        "classes": s.net.classes,
        "multilabel": s.predictions.ndim == 2,
        "total": len(s),
        "labels": None if s.labels is None else [outcome(label) for label in s.labels],
        "thumbs": {"kind": inputs.kind, "shape": small, "range": [low, high], "at": thumbs},
        "models": [model_data(m, name, inputs, found.ranks[name], small, thumbs) for name, m in found.models.items()],
    }
    shown = found.places[0] if found.places else first
    epsilon = 0.0
    if found.places:
        sample = data["models"][0]["details"][0]
        epsilon = just_past_the_flip(sample["directions"][0], sample["reach"])
    return Figure(
        widget_class=Exploring,
        state={
            "payload": inputs.payload.pack(data),
            "index": shown,
            "direction": 0,
            "epsilon": epsilon,
            "flipped": False,
            "tab": "direction",
            "color": "class" if s.predictions.ndim == 1 else "confidence",
            "against": "confidence",
            "sort": "norm",
            "show": "all",
            "selected": [],
            "live": False,
        },
        still=_still(found, inputs, epsilon),
        setup={"source": found, "total": len(s), "classes": len(s.net.classes), "live": True},
        summary=f"{len(found.models)} models × {len(s)} inputs" if len(found.models) > 1 else f"{len(s)} inputs",
        max_bytes=max_bytes,
    )


def model_data(
    m: Explored, name: str, inputs: Inputs, ranks: dict[str, Any], small: list[int], thumbs: list[int]
) -> dict[str, Any]:
    """One model: numbers of all samples, and the samples in detail."""
    s = m.spectrum
    columns = {"norm": s.spectral_norm, "error": s.error[:, 0], "trace": s.trace, "confidence": s.confidence}
    columns |= {"doubt": s.doubt, "margin": m.margin}
    columns |= {} if m.radius is None else {"radius": m.radius}
    nested: dict[str, list[Any]] = {}
    if m.bounds is not None:
        nested["bounds"] = [nested_bounds(m.bounds, m.detail.places)]
    if m.margins is not None:
        nested["margins"] = [nested_margins(m.margins)]
    return {
        "name": name,
        "temperature": s.net.temperature if hasattr(s.net, "temperature") else 1.0,
        "method": s.method,
        "numbers": {key: inputs.payload.add(values.double().numpy()) for key, values in columns.items()},
        "predictions": [outcome(p) for p in s.predictions],
        "correct": None if s.correct is None else s.correct.tolist(),
        "ranks": {key: [_finite(v) for v in (r.rho, r.low, r.high)] for key, r in ranks.items()},
        "details": details_data(m, m.detail, inputs, thumbs if small == inputs.shape else None),
        "planes": planes_data(m.detail, inputs),
        "nested": nested,
        "notes": m.notes,
    }


def details_data(m: Explored, detail: Detail, inputs: Inputs, thumbs: list[int] | None = None) -> list[dict[str, Any]]:
    """The samples in detail as the perturbation panel takes them; `thumbs` are all images, where they are there."""
    size = 0 if thumbs is None else thumbs[1] // len(m.spectrum)
    order = m.spectrum.spectral_norm.argsort(descending=True, stable=True)
    rank = {int(place): i + 1 for i, place in enumerate(order)}
    return [
        sample_data(
            detail.spectrum,
            inputs,
            detail.walks,
            i,
            index=place,
            place=rank[place],
            reach=float(detail.reach[i]),
            image=None if thumbs is None else [thumbs[0] + place * size, size],
        )
        for i, place in enumerate(detail.places)
    ]


def planes_data(detail: Detail, inputs: Inputs) -> list[dict[str, Any]]:
    """The planes of the first samples in detail."""
    if detail.planes is None:
        return []
    count = len(detail.planes.kl)
    found = [_plane(detail.planes, detail, i, inputs) for i in range(count)]
    if detail.spectrum.eigenvalues.shape[1] == 1:  # the second axis is no eigenvector, so that its map travels too
        for i, p in enumerate(found):
            scale, image = inputs.encode_signed(detail.planes.axes[i, 1])
            p["across"] = {"scale": scale, "map": image}
    return found


def _plane(planes: Plane, detail: Detail, i: int, inputs: Inputs) -> dict[str, Any]:
    logp = detail.spectrum.net.likelihood.log_probs(planes.logits[i].flatten(0, 1))
    if planes.outcomes.ndim == 3:
        met, counts = planes.outcomes[i].flatten().unique(return_counts=True)
        shown = met[counts.argsort(descending=True)][:_REGIONS].sort().values
        values, names = logp[:, shown], shown.tolist()
    else:  # a set of labels is one outcome: the product of its labels' probabilities
        sets, counts = planes.outcomes[i].flatten(0, 1).unique(dim=0, return_counts=True)
        shown = sets[counts.argsort(descending=True)][:_REGIONS]
        other = detail.spectrum.net.likelihood.log_probs(-planes.logits[i].flatten(0, 1))
        values = torch.stack([torch.where(on, logp, other).sum(1) for on in shown], 1)
        names = [outcome(on) for on in shown]
    levels = (1000 * values.clamp(_LEAST_LOGP, 0)).nan_to_num(1000 * _LEAST_LOGP).round().to(torch.int16)
    return {
        "index": detail.places[i],
        "reach": float(planes.distances[i, -1]),
        "points": planes.distances.shape[1],
        "information": planes.information[i].tolist(),
        "shown": names,
        "logp": inputs.payload.add(levels.T.numpy()),
        "kl": inputs.payload.add(planes.kl[i].float().numpy()),
    }


def nested_bounds(bounds: BoundComparison, places: Sequence[int]) -> dict[str, Any]:
    """The state of a bound view of these samples, and which they are."""
    figure = comparison(bounds, samples=len(bounds), max_bytes=_ANY, places=places)
    return {"places": list(figure.setup["samples"]), "state": figure.state}


def nested_margins(traces: MarginTraces) -> dict[str, Any]:
    """The state of a margin view, which samples it shows, and the sample of each trace."""
    figure = margins(traces, samples=None, curve=None, max_bytes=_ANY)
    owners = {i: int(traces.sample[i]) for i in figure.setup["shown"]}
    return {"places": sorted(set(owners.values())), "owners": list(owners.items()), "state": figure.state}


def _thumbs(inputs: Inputs, images: Tensor) -> tuple[list[int], list[int]]:
    """The shape of small pictures and where their bytes stand; full ones where all of them are small enough."""
    if inputs.kind == "series":
        return inputs.shape, inputs.payload.add(images.flatten(1).float().numpy())
    h, w, channels = inputs.shape
    factor = max(1, -(-max(h, w) // _THUMB_SIDE))
    while len(images) * channels * (h // factor) * (w // factor) > _THUMBS and min(h, w) // (factor + 1) >= 8:
        factor += 1
    size = [h // factor, w // factor, channels]
    plates = [inputs.pixels(x)[: size[0] * factor, : size[1] * factor] for x in images]
    if factor > 1:
        blocks = (p.reshape(size[0], factor, size[1], factor, channels).mean((1, 3)) for p in plates)
        plates = [b.round().astype(np.uint8) for b in blocks]
    return size, inputs.payload.add(np.stack(plates))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _still(found: Explorer, inputs: Inputs, epsilon: float) -> str:
    """What is seen without scripts: the most fragile sample before and after its worst step, and a table."""
    s, parts = found.first.spectrum, []
    names = s.net.classes
    if inputs.kind == "image" and found.places:
        deep = found.first.detail.spectrum
        assert deep.eigenvectors is not None
        moved = deep.images[0].double() + epsilon * deep.eigenvectors[0, 0].double()
        said = f"Sample {found.places[0]}, the most fragile shown: the input, and moved by {epsilon:.3g} along v₁."
        parts.append(f'<img alt="{said}" src="{picture(inputs, [deep.images[0], moved])}"><p>{said}</p>')
    head = "<tr><th>sample</th><th>prediction</th><th>confidence</th>"
    head += "".join(f"<th>λ₁ {html.escape(name)}</th>" for name in found.models) + "</tr>"
    rows = []
    for i in s.spectral_norm.argsort(descending=True, stable=True)[:10].tolist():
        mode = outcome(s.predictions[i])
        said = " + ".join(names[c] for c in mode) or "no label" if isinstance(mode, list) else names[mode]
        norms = "".join(f"<td>{float(m.spectrum.spectral_norm[i]):.4g}</td>" for m in found.models.values())
        rows.append(f"<tr><td>{i}</td><td>{html.escape(said)}</td><td>{float(s.confidence[i]):.4f}</td>{norms}</tr>")
    return "".join(parts) + f"<table>{head}{''.join(rows)}</table>"
