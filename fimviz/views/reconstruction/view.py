"""The view of a `Reconstruction`: what of an image does the model's answer tell, and how well?"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import traitlets

from fimviz._quantile import median
from fimviz.views.kit.figure import WARN_BYTES, Figure, left_out
from fimviz.views.kit.host import Widget
from fimviz.views.kit.inputs import Inputs, caution, finite, lost, picture, still_of_lost
from fimviz.views.kit.numbers import number, percent
from fimviz.views.reconstruction.numbers import numbers

if TYPE_CHECKING:
    from fimviz.divergence.reconstruction import Reconstruction


_MOST = 1e9  # labels


class ReconstructionView(Widget):
    """The live view of a reconstruction."""

    _module = "reconstruction/view.js"
    _numbers = staticmethod(numbers)
    sample = traitlets.Int(0, help="Which input, by its place among those shown. Default: 0.").tag(sync=True)
    draws = traitlets.Float(
        1.0, help="How many labels are drawn, from 1 to 10⁹: what lies beyond becomes it. Default: the result's."
    ).tag(sync=True)

    @traitlets.validate("sample", "draws")
    def _shown(self, proposal: Any) -> Any:
        return self.fitting(proposal.trait.name, proposal.value)


def view(result: Reconstruction, *, samples: int | None, max_bytes: int) -> Figure:
    """The first inputs with what is visible of them."""
    spectrum = result.spectrum
    inputs = Inputs(spectrum.images.shape[1:], *spectrum.pixel_range)
    if samples is None:
        samples = max(1, min(32, int(WARN_BYTES / (2 * inputs.weight * spectrum.images[0].numel()))))
    shown = spectrum.computed[:samples].tolist()
    inputs.share_out(spectrum.images[shown], result.visible[shown])
    rows = []
    for i in shown:
        rows.append(
            {
                "index": i,
                "image": inputs.encode(spectrum.images[i]),
                **inputs.encode_signed(result.visible[i]),
                "share": finite(result.share[i]),
                "wrong": spectrum.correct is not None and not spectrum.correct[i],
                "says": spectrum.net.likelihood.said(spectrum.predictions[i], spectrum.net.classes),
                "confidence": finite(spectrum.confidence[i]),
                "doubt": finite(spectrum.doubt[i]),
                "one": [finite(v) for v in (result.std[i] * result.draws**0.5).tolist()],
                "guess": [finite(v) for v in result.guess[i].tolist()],
            }
        )
    data = {
        "size": spectrum.images[0].numel(),
        "caution": caution(spectrum.net),
        "lost": lost(spectrum.failures),
        **inputs.header,
        "samples": rows,
        "left": left_out(shown, spectrum.computed.tolist(), "the first", f".view(samples={len(spectrum.computed)})"),
    }
    return Figure(
        widget_class=ReconstructionView,
        state={"payload": inputs.payload.pack(data), "sample": 0, "draws": float(result.draws)},
        setup={"offered": {"sample": range(len(shown))}, "limits": {"draws": (1.0, max(_MOST, float(result.draws)))}},
        still=_still(result, inputs, shown) + still_of_lost(spectrum.failures),
        summary=f"what labels tell of {len(shown)} inputs",
        max_bytes=max_bytes,
        fewer="samples=",
    )


def _still(result: Reconstruction, inputs: Inputs, shown: list[int]) -> str:
    parts = [f"<p><strong>{html.escape(headline(result))}</strong></p>"]
    if inputs.kind == "image":
        first = shown[0]
        x, seen = result.spectrum.images[first].double(), result.visible[first].double()
        source = picture(inputs, [x, x.mean() + seen])
        parts.append(
            f'<img alt="sample {first}, and its mean plus what is visible" src="{source}">'
            f"<p>Sample {first}, and its mean brightness with the part of it that the answer depends on.</p>"
        )
    size = result.spectrum.images[0].numel()
    rows = "".join(
        f"<tr><td>{i}</td><td>{int(result.std[i].isfinite().sum())} of {size}</td><td>{int(result.known[i])}</td>"
        f"<td>{number(float(result.std[i, 0]))}</td><td>{number(float(result.guess[i, 0]))}</td>"
        f"<td>{percent(float(result.share[i]))}</td></tr>"
        for i in shown[:10]
    )
    return "".join(parts) + (
        "<table><tr><th>sample</th><th>visible directions</th><th>better than a guess</th><th>least std along v₁</th>"
        f"<th>a guess</th><th>share of the image</th></tr>{rows}</table>"
    )


def headline(result: Reconstruction) -> str:
    """What is seen, in a sentence."""
    size = result.spectrum.images[0].numel()
    labels = "one label" if result.draws == 1 else f"{result.draws:,} labels"
    known = number(median(result.known[result.spectrum.computed]))
    return (
        f"At best {known} of {result.std.shape[1]} directions in {size:,} values are told better than by a guess "
        f"from {labels} (median image)"
    )
