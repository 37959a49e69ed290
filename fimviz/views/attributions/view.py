"""The attribution view: the worst direction beside what methods say that the model looks at."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import traitlets

from fimviz._quantile import median
from fimviz.attributions import INCOMPLETE
from fimviz.views.attributions.numbers import numbers
from fimviz.views.kit.figure import WARN_BYTES, Figure, left_out
from fimviz.views.kit.host import Widget
from fimviz.views.kit.inputs import Inputs, caution, finite, lost, picture, still_of_lost
from fimviz.views.kit.numbers import number, percent

if TYPE_CHECKING:
    from fimviz.attributions import Attributions

_HELP = (
    "An attribution map says how much each pixel counts for the class named; the worst direction v₁ says where pixels "
    "change the prediction fastest. Both are compared without signs: the cosine of |map| and |v₁| is 1 for the same "
    "picture, and far above 0 even by chance, because sizes have no sign; ρ is Spearman's correlation over the pixels, "
    "0 by chance. Some methods promise that a map sums to f(x) − f(baseline); what it misses of that is said under it, "
    "and where it is more than 5 % the map is not what its method promises."
)


class AttributionView(Widget):
    """The live attribution view."""

    _module = "attributions/view.js"
    _numbers = staticmethod(numbers)
    sample = traitlets.Int(0, help="Which sample of those shown, by its place in the batch. Default: 0.").tag(sync=True)

    @traitlets.validate("sample")
    def _shown(self, proposal: Any) -> int:
        return int(self.fitting("sample", proposal.value))


def view(result: Attributions, *, samples: int | None, max_bytes: int, places: Sequence[int] | None = None) -> Figure:
    """The view of the first samples of a result; `places` are their numbers in a larger batch."""
    s = result.spectrum
    assert s.eigenvectors is not None
    inputs = Inputs(s.images.shape[1:], *s.pixel_range)
    rows: list[dict[str, Any]] = []
    if samples is None:
        each = (2 + len(result.methods)) * inputs.weight * s.images[0].numel()
        samples = max(1, min(32, int(WARN_BYTES / each)))
    shown = s.computed[:samples].tolist()
    every = torch.cat([s.eigenvectors[shown, :1], result.maps[shown]], 1)
    inputs.share_out(s.images[shown], every.flatten(0, 1))
    for i in shown:
        maps = []
        for j, name in enumerate(result.methods):
            scores = {key: finite(getattr(result, key)[i, j]) for key in ("cosine", "rank", "gap")}
            maps.append({"name": name, **inputs.encode_signed(result.maps[i, j])} | scores)
        rows.append(
            {
                "index": i if places is None else places[i],
                "image": inputs.encode(s.images[i]),
                "vector": inputs.encode_signed(s.eigenvectors[i, 0]),
                "maps": maps,
                "target": s.net.classes[int(result.targets[i])],
                "prediction": s.net.classes[int(s.predictions[i])],
                "norm": float(s.spectral_norm[i]),
            }
        )
    data = {
        "title": title(result),
        "caution": caution(s.net),
        "lost": lost(s.failures),
        "help": _HELP,
        **inputs.header,
        "incomplete": INCOMPLETE,
        "chance": [finite(v) for v in result.chance],
        "samples": rows,
        "left": left_out(shown, s.computed.tolist(), "the first", f".view(samples={len(s.computed)})"),
    }
    return Figure(
        widget_class=AttributionView,
        state={"payload": inputs.payload.pack(data), "sample": 0},
        setup={"offered": {"sample": range(len(rows))}},
        still=_still(result, inputs) + still_of_lost(s.failures),
        summary=f"{len(rows)} samples, {len(result.methods)} methods",
        max_bytes=max_bytes,
        fewer="samples=",
    )


def title(result: Attributions) -> str:
    """What is seen, in a sentence."""
    return result.verdict[0].upper() + result.verdict[1:]


def _still(result: Attributions, inputs: Inputs) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{number(median(result.cosine[:, j]))}</td>"
        f"<td>{number(median(result.rank[:, j]))}</td><td>{percent(median(result.gap[:, j]), 2)}</td></tr>"
        for j, name in enumerate(result.methods)
    )
    first = ""
    if inputs.kind == "image":
        first = f'<p><img alt="the first image" src="{picture(inputs, [result.spectrum.sound.images[0]])}"></p>'
    return (
        f"<p><strong>{html.escape(title(result))}</strong></p>{first}"
        "<table><tr><th>method</th><th>median cosine</th><th>median ρ</th><th>misses of completeness</th></tr>"
        f"{rows}</table>"
    )
