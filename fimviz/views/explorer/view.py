"""The explorer: norms of a batch, a gallery, and what happens at the chosen sample, linked in one view."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

from fimviz.views.explorer.explored import batch_data, choices
from fimviz.views.explorer.exploring import Exploring
from fimviz.views.kit.figure import Figure, left_out
from fimviz.views.kit.inputs import Inputs, picture, still_of_lost
from fimviz.views.kit.numbers import number, probability
from fimviz.views.perturbation.view import extent_of, just_past_the_flip

if TYPE_CHECKING:
    from fimviz.explorer import Explorer


def view(found: Explorer, *, max_bytes: int) -> Figure:
    """The view of an `Explorer`."""
    s = found.first.spectrum
    data, inputs, payload = _fitting(found, max_bytes)
    first = found.first.fragile[0]
    shown = found.places[0] if found.places else first
    epsilon = 0.0
    if found.places:
        sample = data["models"][0]["details"][0]
        epsilon = just_past_the_flip(sample["directions"][0], sample["reach"])
    return Figure(
        widget_class=Exploring,
        state={
            "payload": payload,
            "index": shown,
            "direction": 0,
            "epsilon": epsilon,
            "flipped": False,
            "tab": "direction",
            "color": "class" if s.net.likelihood.exclusive else "confidence",
            "against": "confidence",
            "norm": data["norms"][0],
            "sort": "norm",
            "show": "all",
            "selected": [],
            "temperature": 1.0,
            "directions": max(1, len(found.first.detail.walks)),
            "live": False,
            "refused": "",
        },
        still=_still(found, inputs, epsilon) + still_of_lost(found.failures),
        setup={
            "source": found,
            "total": len(s),
            "extent": extent_of(data["models"][0]["details"]),
            "choices": choices(data),
        },
        summary=f"{len(found.models)} models × {len(s)} inputs" if len(found.models) > 1 else f"{len(s)} inputs",
        max_bytes=max_bytes,
        fewer="samples in detail with fv.explore(…, detail=, k=)",
    )


def _fitting(found: Explorer, max_bytes: int) -> tuple[dict[str, Any], Inputs, str]:
    """The page with as many samples in detail as it can hold, and what it says of the others."""
    most, needed = len(found.places), 0
    while True:
        data, inputs = batch_data(found, most)
        data["left"] = _left(found, most, needed)
        payload = inputs.payload.pack(data)
        if len(payload) <= max_bytes or not most:
            return data, inputs, payload
        needed = needed or len(payload)
        most = min(most - 1, int(0.95 * most * max_bytes / len(payload)))


def _left(found: Explorer, most: int, needed: int) -> str:
    if most < len(found.places):
        return (
            f"{most} of the {len(found.places)} samples in full detail fit this page: "
            f".view(max_bytes={math.ceil(needed / 1e6)}e6) shows all, in {needed / 1e6:.0f} MB."
        )
    return left_out(found.places[:most], found.first.fragile, "in full detail", f"fv.explore(…, detail={len(found)})")


def _still(found: Explorer, inputs: Inputs, epsilon: float) -> str:
    """What is seen without scripts: the most fragile sample before and after its worst step, and a table."""
    from fimviz.explorer.results import CONFIDENCE

    s, parts = found.first.spectrum, []
    names = s.net.classes
    if inputs.kind == "image" and found.places:
        deep = found.first.detail.spectrum
        assert deep.eigenvectors is not None
        moved = deep.images[0].double() + epsilon * deep.eigenvectors[0, 0].double()
        said = f"Sample {found.places[0]}, the most fragile shown: the input, and moved by {number(epsilon)} along v₁."
        parts.append(f'<img alt="{said}" src="{picture(inputs, [deep.images[0], moved])}"><p>{said}</p>')
    head = "<tr><th>sample</th><th>prediction</th><th>confidence</th>"
    kinds = f"at confidence {CONFIDENCE}", "as it is"
    head += "".join(f"<th>λ₁ {kind} {html.escape(name)}</th>" for name in found.models for kind in kinds) + "</tr>"
    rows = []
    for i in found.first.fragile[:10]:
        said = s.net.likelihood.said(s.predictions[i], names)
        values = [v for m in found.models.values() for v in (m.matched[i], m.spectrum.spectral_norm[i])]
        norms = "".join(f"<td>{number(float(v), 4)}</td>" for v in values)
        sure = probability(float(s.confidence[i]), float(s.doubt[i]))
        rows.append(f"<tr><td>{i}</td><td>{html.escape(said)}</td><td>{sure}</td>{norms}</tr>")
    return "".join(parts) + f"<table>{head}{''.join(rows)}</table>"
