"""What the explorer's page needs of a model and its samples, as JSON values and arrays of a payload."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fimviz.attacks.table import attack_of
from fimviz.views.attributions.view import view as attributions
from fimviz.views.comparison.view import view as comparison
from fimviz.views.distance.view import view as distance
from fimviz.views.kit.inputs import Inputs, caution, finite, lost
from fimviz.views.kit.palette import class_order
from fimviz.views.margins.view import view as margins
from fimviz.views.perturbation.view import sample_data

if TYPE_CHECKING:
    from fimviz.attributions import Attributions
    from fimviz.comparison import BoundComparison
    from fimviz.distance import AdversarialDistance
    from fimviz.explorer.results import Detail, Explored, Explorer
    from fimviz.fisher.plane import Plane
    from fimviz.fisher.spectrum import Spectrum
    from fimviz.margins.traces import MarginTraces
    from fimviz.views.kit.figure import Figure
    from fimviz.vulnerability import Vulnerability

_THUMBS = 1_700_000  # bytes of all small pictures together
_THUMB_SIDE = 64
_ROOM = 570_000  # bytes of photographs in detail and their maps: the module of the page is large
_COARSE = 1.5  # root mean squares, to which what attacks add to photographs is rounded
_REGIONS = 12  # outcomes that a plane names
_LEAST_LOGP = -25.0
CRITERIA = {"confidence": "doubt"} | {name: name for name in ("margin", "radius", "attack", "ratio")}  # their columns
_ANY = 10**9  # bytes: the whole page is weighed, not its parts


def batch_data(found: Explorer, most: int | None = None) -> tuple[dict[str, Any], Inputs]:
    """All of an explorer, and what its bytes stand in.

    `most` is how many of the samples in detail are packed in detail, the most fragile first; all by default.
    """
    from fimviz.explorer.results import CONFIDENCE

    s = found.first.spectrum
    labels = None
    if s.labels is not None:
        both = zip(s.labels, s.labelled.tolist(), strict=True)
        labels = [s.net.likelihood.plain(label) if known else None for label, known in both]
    inputs = Inputs(s.images.shape[1:], *s.pixel_range)
    deep = [m.detail.spectrum for m in found.models.values() if m.detail.places[:most]]
    if deep:
        maps = torch.cat([t.eigenvectors[:most].flatten(0, 1) for t in deep if t.eigenvectors is not None])
        inputs.share_out(torch.cat([t.images[:most] for t in deep]), maps, room=_ROOM)
    small, thumbs = _small_pictures(inputs, s.images)
    ranks = {"matched": found.ranks, "raw": found.raw_ranks}
    models = [
        _model(m, name, inputs, {norm: of[name] for norm, of in ranks.items()}, small, thumbs, most)
        for name, m in found.models.items()
    ]
    for m in models:
        if labels is not None:
            both = zip(labels, m["predictions"], strict=True)
            m["correct"] = [None if label is None else label == said for label, said in both]
    return {
        **inputs.header,
        "classes": s.net.classes,
        "order": class_order(s.probabilities),
        "exclusive": s.net.likelihood.exclusive,
        "rank": min(s.net.likelihood.rank(len(s.net.classes)), s.images[0].numel()),
        "total": len(s),
        "confidence": CONFIDENCE,
        "norms": [*(["matched"] if all(m.matched.isfinite().any() for m in found.models.values()) else []), "raw"],
        "caution": caution(s.net),
        "lost": lost(found.failures),
        "labels": labels,
        "thumbs": {**inputs.header, "shape": small, "at": thumbs},
        "models": models,
        "nested": {} if found.distance is None else {"distance": [nested_distance(found.distance)]},
    }, inputs


def choices(data: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """What the page offers for a batch: to colour dots, to show, to lead with and to plot λ₁ against."""
    models, labelled = data["models"], data["labels"] is not None
    against = [
        key if at == 0 else f"{key}:{m['name']}"
        for at, m in enumerate(models)
        for key, column in CRITERIA.items()
        if column in m["numbers"]
    ]
    return {
        "colors": tuple(
            name for name, there in (("class", data["exclusive"]), ("correct", labelled), ("confidence", True)) if there
        ),
        "shows": (
            "all",
            *(["misclassified"] if labelled else []),
            "fragile",
            "uncertain",
            *(["differing"] if len(models) > 1 else []),
            *([f"class:{c}" for c in range(len(data["classes"]))] if data["exclusive"] else []),
        ),
        "norms": tuple(data["norms"]),
        "criteria": (*against, *(f"norm:{m['name']}" for m in models[1:])),
    }


def _model(
    m: Explored,
    name: str,
    inputs: Inputs,
    ranks: dict[str, Any],
    small: list[int],
    thumbs: list[int],
    most: int | None,
) -> dict[str, Any]:
    """One model: numbers of all samples, and the samples in detail."""
    s = m.spectrum
    columns = {"raw": s.spectral_norm, "error": s.error[:, 0], "matched": m.matched, "matchedError": m.matched_error}
    columns |= {"trace": s.trace, "traceError": s.trace_error}
    columns |= {"confidence": s.confidence, "doubt": s.doubt, "margin": m.margin}
    columns |= {name: values for name, values in m.quantities.items() if name in ("radius", "attack", "ratio")}
    nested: dict[str, list[Any]] = {}
    kept = m.detail.places[:most]
    if m.bounds is not None:
        nested["bounds"] = [nested_bounds(m.bounds, m.detail.places)]
    if m.margins is not None:
        nested["margins"] = [nested_margins(m.margins, s, kept)] if kept else []
    if m.attributions is not None:
        nested["attributions"] = [nested_attributions(m.attributions, kept)] if kept else []
    return {
        "name": name,
        "temperature": s.net.temperature if hasattr(s.net, "temperature") else 1.0,
        "method": s.method,
        "numbers": {key: inputs.payload.add(values.double().numpy()) for key, values in columns.items()},
        "predictions": [s.net.likelihood.plain(p) for p in s.predictions],
        "correct": None,
        "proofs": None if m.certificate is None else m.certificate.method,
        "ranks": {
            norm: {key: [finite(v) for v in (r.rho, r.low, r.high)] for key, r in of.items()}
            for norm, of in ranks.items()
        },
        "details": details_data(m, m.detail, inputs, thumbs if small == inputs.shape else None, most),
        "planes": planes_data(m.detail, inputs, most),
        "nested": nested,
        "toward": [p for p in toward_data(m.toward, s.net, inputs) if p["index"] in kept],
        "attacks": []
        if m.attacks is None or m.struck is None
        else attacks_data(m.attacks, range(len(s)), kept, m.struck, inputs),
        "notes": m.notes,
    }


def details_data(
    m: Explored, detail: Detail, inputs: Inputs, thumbs: list[int] | None = None, most: int | None = None
) -> list[dict[str, Any]]:
    """The samples in detail as the perturbation panel takes them; `thumbs` are all images, where they are there."""
    size = 0 if thumbs is None else thumbs[1] // len(m.spectrum)
    rank = {place: i + 1 for i, place in enumerate(m.fragile)}
    return [
        sample_data(
            detail.spectrum,
            inputs,
            detail.walks,
            i,
            index=place,
            place=rank[place],
            reach=float(detail.reach[i]),
            one_sided=detail.one_sided[i],
            image=None if thumbs is None else [thumbs[0] + place * size, size],
        )
        for i, place in enumerate(detail.places[:most])
    ]


def planes_data(detail: Detail, inputs: Inputs, most: int | None = None) -> list[dict[str, Any]]:
    """The planes of the first samples in detail."""
    if detail.planes is None:
        return []
    alone = detail.spectrum.eigenvalues.shape[1] == 1  # the second axis is no eigenvector, so that its map travels too
    return [
        _plane(detail.planes, detail.spectrum.net, i, detail.places[i], inputs, alone)
        for i in range(len(detail.planes.kl[:most]))
    ]


def toward_data(toward: tuple[tuple[int, ...], Plane] | None, net: Any, inputs: Inputs) -> list[dict[str, Any]]:
    """The planes of the leading eigenvector and an attack."""
    places, planes = toward or ((), None)
    return [] if planes is None else [_plane(planes, net, i, place, inputs, True) for i, place in enumerate(places)]


def _plane(planes: Plane, net: Any, i: int, place: int, inputs: Inputs, mapped: bool) -> dict[str, Any]:
    z, outcomes = planes.logits[i].flatten(0, 1), planes.outcomes[i].flatten(0, 1)
    met, counts = outcomes.unique(dim=0, return_counts=True)
    shown = met[counts.argsort(descending=True)[:_REGIONS].sort().values]
    values = torch.stack([net.likelihood.log_prob(z, one.expand_as(outcomes)) for one in shown], 1)
    names = [net.likelihood.plain(one) for one in shown]
    levels = (1000 * values.clamp(_LEAST_LOGP, 0)).nan_to_num(1000 * _LEAST_LOGP).round().to(torch.int16)
    across = None
    if mapped:
        across = inputs.encode_signed(planes.axes[i, 1])
    return {
        "index": place,
        "across": across,
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
    return _nested(figure, "index", {i: i for i in figure.setup["samples"]})


def nested_attributions(found: Attributions, places: Sequence[int]) -> dict[str, Any]:
    """The state of an attribution view, and which samples it shows, in its order."""
    figure = attributions(found, samples=len(places), max_bytes=_ANY, places=places)
    return _nested(figure, "sample", dict(enumerate(places)))


def attacks_data(
    found: Vulnerability, places: Sequence[int], pictured: Sequence[int], ends: Tensor, inputs: Inputs
) -> list[dict[str, Any]]:
    """The smallest attacks on some samples: what each takes and, of those `pictured`, what it makes of the image.

    `ends` (n, attacks, K) are the logits of what they make of all.
    """
    likelihood, rows = found.spectrum.net.likelihood, []
    for i, place in enumerate(places):
        tried = []
        for j, (attack, norm) in enumerate(found.attacks):
            epsilon = float(found.epsilon[i, j])
            one: dict[str, Any] = {
                "attack": attack,
                "words": attack_of(attack).short,
                "norm": norm,
                "epsilon": finite(epsilon),
                "length": finite(found.length[i, j]),
            }
            if place in pictured and 0 < epsilon < math.inf:
                z = ends[i, j : j + 1]
                if inputs.photographs:  # which a change that nobody sees would leave as they are
                    change = found.moved[i, j] - found.spectrum.images[i]
                    one["change"] = inputs.encode_signed(change, inputs.scale_of(change, _COARSE))
                else:
                    one["image"] = inputs.encode(found.moved[i, j])
                one |= {
                    "becomes": likelihood.plain(likelihood.predict(z)[0]),
                    "confidence": float(likelihood.confidence(z)[0]),
                }
            tried.append(one)
        rows.append({"index": place, "tried": tried})
    return rows


def nested_margins(traces: MarginTraces, batch: Spectrum, places: Sequence[int]) -> dict[str, Any]:
    """The state of a margin view of these samples in the colours of the batch, and the sample of each path."""
    order = class_order(batch.probabilities)
    figure = margins(traces, samples=places, curve=None, max_bytes=_ANY, order=order)
    return _nested(figure, "trace", {i: int(traces.sample[i]) for i in figure.setup["shown"]})


def nested_distance(found: AdversarialDistance) -> dict[str, Any]:
    """The state of a distance view of all samples that could be computed for all models."""
    figure = distance(found, max_bytes=_ANY)
    computed = (set(m.computed.tolist()) for m in found.models.values())
    return _nested(figure, "sample", {i: i for i in sorted(set.intersection(*computed))})


def _nested(figure: Figure, trait: str, owners: dict[int, int]) -> dict[str, Any]:
    """A view within the explorer: its state, and which sample it shows at which value of a trait."""
    places = list(dict.fromkeys(owners.values()))
    return {"places": places, "trait": trait, "owners": list(owners.items()), "state": figure.state}


def _small_pictures(inputs: Inputs, images: Tensor) -> tuple[list[int], list[int]]:
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
