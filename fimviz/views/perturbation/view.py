"""The perturbation view of a `Spectrum`: the worst direction, and what it does to the prediction."""

from __future__ import annotations

import html
import operator
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
import traitlets
from torch import Tensor

from fimviz.fisher.walk import evenly
from fimviz.views.kit.figure import Figure, left_out
from fimviz.views.kit.host import Widget
from fimviz.views.kit.inputs import Inputs, caution, finite, lost, picture, short, still_of_lost
from fimviz.views.kit.numbers import measured, number, probability
from fimviz.views.kit.palette import class_order
from fimviz.views.perturbation.numbers import numbers

if TYPE_CHECKING:
    from fimviz.fisher.spectrum import Spectrum
    from fimviz.fisher.walk import Walk

_CLASSES_SHOWN = 5  # beside "others", where there are more than eight
_GREYED = 400_000  # of the pictures of samples that were not computed, before packing
_PAGE = 5_000_000  # bytes that a page may have before fewer samples are shown than asked for by default


class Along(Widget):
    """What a reader moves of one sample and its directions, in a view of its own or within the explorer.

    What the sample cannot show is not taken: ε ends at the sample's reach, so that views of different reach can be
    linked, and a direction that is not there is refused.
    """

    index = traitlets.Int(
        0, help="Which sample, by its place in the batch; one that is shown. Default: the most fragile."
    ).tag(sync=True)
    direction = traitlets.Int(
        0, help="Which eigenvector of those that the sample has here, 0 for the leading one. Default: 0."
    ).tag(sync=True)
    epsilon = traitlets.Float(
        0.0,
        help="Step along the direction, in L2 pixel units, within the sample's reach on either side: what lies beyond "
        "becomes its end. Default: just past the nearest flip.",
    ).tag(sync=True)
    flipped = traitlets.Bool(False, help="Whether the direction's sign is turned. Default: False.").tag(sync=True)

    extent: Mapping[int, tuple[float, int]] = MappingProxyType(
        {}
    )  # of a sample, how far it reaches and how many directions it has

    @traitlets.validate("epsilon")
    def _within(self, proposal: Any) -> float:
        if proposal.value != proposal.value:
            raise traitlets.TraitError("epsilon is nan, expected a step in L2 pixel units")
        reach = self.extent[self.index][0] if self.index in self.extent else abs(proposal.value)
        return float(min(reach, max(-reach, proposal.value)))

    @traitlets.validate("direction")
    def _there(self, proposal: Any) -> int:
        count = self.extent[self.index][1] if self.index in self.extent else max(1, proposal.value + 1)
        if not 0 <= proposal.value < count:
            raise traitlets.TraitError(
                f"direction is {proposal.value}, expected one of sample {self.index} from 0 to {count - 1}"
            )
        return int(proposal.value)

    @traitlets.observe("index")
    def _opened(self, change: Any) -> None:
        """Another sample may reach less far, or have fewer directions."""
        if self.index in self.extent:
            self.direction = min(self.direction, self.extent[self.index][1] - 1)
            self.epsilon = self.epsilon


class Perturbation(Along):
    """The live perturbation view."""

    samples: tuple[int, ...] = ()

    _module = "perturbation/view.js"
    _numbers = staticmethod(numbers)

    @traitlets.validate("index")
    def _known(self, proposal: Any) -> int:
        if self.samples and proposal.value not in self.samples:
            raise traitlets.TraitError(f"index is {proposal.value}, expected a sample that is shown: {self.samples}")
        return int(proposal.value)


def view(spectrum: Spectrum, *, samples: int | Sequence[int] | None, directions: int, max_bytes: int) -> Figure:
    """The view of some samples of a spectrum, the most fragile first."""
    if spectrum.eigenvectors is None:
        raise ValueError("this spectrum has no eigenvectors to show: compute it with vectors=True")
    order = spectrum.fragile
    count = min(directions, spectrum.eigenvalues.shape[1])
    if count < 1:
        raise ValueError(f"directions is {directions}, expected at least 1")
    inputs = Inputs(spectrum.images.shape[1:], *spectrum.pixel_range)
    if samples is None:
        samples = max(1, min(32, int(_PAGE / ((1 + count) * inputs.weight * spectrum.images[0].numel()))))
    by_count, known = not isinstance(samples, Iterable), spectrum.eigenvalues.shape[1]
    chosen = _chosen(order, samples, spectrum.failures)
    shown = spectrum.take(chosen)
    walks, reach, one_sided, changed = shown.known(count)
    assert shown.eigenvectors is not None
    inputs.share_out(shown.images, shown.eigenvectors[:, :count].flatten(0, 1))
    greyed = max(1, _GREYED // spectrum.images[0].numel())
    rank = {index: place + 1 for place, index in enumerate(order)}
    data: dict[str, Any] = {
        **inputs.header,
        "classes": spectrum.net.classes,
        "order": class_order(spectrum.probabilities),
        "exclusive": shown.net.likelihood.exclusive,
        "numbers": not shown.net.likelihood.decides,
        "total": len(order),
        "caution": caution(spectrum.net),
        "lost": lost(spectrum.failures),
        "gone": [[place, inputs.encode(spectrum.images[place])] for place, _ in lost(spectrum.failures)[:greyed]],
        "left": " ".join(
            filter(
                None,
                (
                    left_out(
                        chosen,
                        order,
                        "the most fragile" if by_count else "as asked for",
                        f".view(samples={len(order)})",
                    ),
                    f"{count} of {known} directions are here: .view(directions={known}) shows all."
                    if count < known
                    else "",
                ),
            )
        ),
        "changed": changed,
        "samples": [
            sample_data(
                shown, inputs, walks, i, index=index, place=rank[index], reach=float(reach[i]), one_sided=one_sided[i]
            )
            for i, index in enumerate(chosen)
        ],
    }
    first = data["samples"][0]
    epsilon = just_past_the_flip(first["directions"][0], first["reach"])
    return Figure(
        widget_class=Perturbation,
        state={
            "payload": inputs.payload.pack(data),
            "index": chosen[0],
            "direction": 0,
            "epsilon": epsilon,
            "flipped": False,
        },
        still=_still(shown, inputs, epsilon, chosen) + still_of_lost(spectrum.failures),
        setup={"samples": tuple(chosen), "extent": extent_of(data["samples"])},
        summary=f"{len(chosen)} of {len(spectrum)} inputs × {count} directions",
        max_bytes=max_bytes,
        fewer="samples= or directions=",
    )


def extent_of(samples: Sequence[dict[str, Any]]) -> dict[int, tuple[float, int]]:
    """Of samples as the page has them, how far each reaches and how many directions it has."""
    return {s["index"]: (s["reach"], len(s["directions"])) for s in samples}


def _chosen(order: list[int], samples: int | Sequence[int], failures: Mapping[int, str]) -> list[int]:
    if isinstance(samples, str):
        raise TypeError(f"samples is {samples!r}, expected a number of samples or places in the batch")
    if not isinstance(samples, Iterable):
        if (samples := operator.index(samples)) < 1:
            raise ValueError(f"samples is {samples}, expected at least 1, or a list of places in the batch")
        return order[:samples]
    wanted = {int(s) for s in samples}
    for place in wanted & set(failures):
        raise ValueError(f"sample {place} was not computed: {failures[place]}")
    if not wanted or not wanted <= set(order):
        last = len(order) + len(failures) - 1
        raise ValueError(f"samples is {list(samples)}, expected places in the batch from 0 to {last}")
    return [index for index in order if index in wanted]


def sample_data(
    shown: Spectrum,
    inputs: Inputs,
    walks: Sequence[Walk],
    i: int,
    *,
    index: int,
    place: int,
    reach: float,
    one_sided: Tensor,
    image: list[int] | None = None,
) -> dict[str, Any]:
    """What the page needs of the i-th input and the walks along its eigenvectors, which go as far as `reach`.

    `image` stands for the input where it is in the payload already.
    """
    plain, labels = shown.net.likelihood.plain, shown.labels_of([i])
    return {
        "index": index,
        "place": place,
        "label": None if labels is None else plain(labels[0]),
        "correct": None if shown.correct is None or labels is None else bool(shown.correct[i]),
        "prediction": plain(shown.predictions[i]),
        "doubt": finite(shown.doubt[i]),
        "oneSided": [None if s != s else s for s in one_sided.tolist()],
        "trace": finite(shown.trace[i]),
        "traceError": finite(shown.trace_error[i]),
        "frobenius": finite(shown.frobenius[i]),
        "frobeniusError": finite(shown.frobenius_error[i]),
        "reach": reach,
        "image": image or inputs.encode(shown.images[i]),
        "directions": [_direction(shown, inputs, walk, i, k) for k, walk in enumerate(walks)],
    }


def _direction(shown: Spectrum, inputs: Inputs, walk: Walk, i: int, k: int) -> dict[str, Any]:
    assert shown.eigenvectors is not None
    v = shown.eigenvectors[i, k]
    classes, said = _shown(shown, walk, i)
    plain = shown.net.likelihood.plain
    return {
        "value": float(shown.eigenvalues[i, k]),
        "error": float(shown.error[i, k]),
        "linf": float(v.nan_to_num(0.0).abs().amax()),
        **inputs.encode_signed(v),
        "at": _ends(walk, i),
        "outcomes": [plain(o) for o in walk.outcomes[i]],
        "shown": classes,
        "logp" if shown.net.likelihood.decides else "means": [short(row, 4) for row in said],
        "kl": short(walk.kl[i], 4),
        "flips": [float(f) if f.isfinite() else None for f in walk.flips[i]],
        "becomes": [plain(b) for b in walk.becomes[i]],
    }


def _shown(shown: Spectrum, walk: Walk, i: int) -> tuple[list[int], Tensor]:
    """The outputs to draw, and what the model says of them (c, m); the class −1 stands for all others together."""
    likelihood = shown.net.likelihood
    said = likelihood.output(walk.logits[i]).T
    if len(said) <= 8:
        return list(range(len(said))), said
    most = said.amax(1) if likelihood.decides else said.amax(1) - said.amin(1)
    top = set(most.nan_to_num().topk(_CLASSES_SHOWN).indices.tolist())
    if likelihood.exclusive:
        top |= set(walk.outcomes[i].tolist()) | {int(shown.predictions[i])}
    kept = sorted(top)
    if not likelihood.exclusive:  # they do not share one unit of mass
        return kept, said[kept]
    rest = [c for c in range(len(said)) if c not in top]
    return [*kept, -1], torch.cat([said[kept], said[rest].logsumexp(0, keepdim=True)])


def _ends(walk: Walk, i: int) -> list[float]:
    """The two distances beside an even grid: the flips, or else its ends once more; all of them where none is even."""
    asked, (minus, plus) = walk.epsilon[i], walk.flips[i].tolist()
    reach = float(asked[-1])
    two = [max(minus, -reach), min(plus, reach)]
    grid = torch.cat([evenly(len(asked) - 2, asked[-1:])[0], torch.tensor(two, dtype=torch.float64)]).sort().values
    return two if len(grid) == len(asked) and torch.allclose(grid, asked, rtol=0, atol=1e-9 * reach) else asked.tolist()


def just_past_the_flip(direction: dict[str, Any], reach: float) -> float:
    """Where a view's slider starts: where the prediction has just become another, or half way out."""
    flips = [f for f in direction["flips"] if f is not None]
    return min(flips, key=abs) * 1.02 if flips else 0.5 * reach


def _still(shown: Spectrum, inputs: Inputs, epsilon: float, chosen: list[int]) -> str:
    """What is seen without scripts: the first sample before and after its worst step, and a table."""
    assert shown.eigenvectors is not None
    parts = []
    if inputs.kind == "image":
        moved = shown.images[0].double() + epsilon * shown.eigenvectors[0, 0].double()
        source = picture(inputs, [shown.images[0], moved])
        parts.append(
            f'<img alt="sample {chosen[0]}: the input x and x + {number(epsilon)} v₁" '
            f'src="{source}">'
            f"<p>Sample {chosen[0]}, the most fragile of the {len(chosen)} shown: the input, and the input moved by "
            f"{number(epsilon)} along its worst direction.</p>"
        )
    names = shown.net.classes
    rows = []
    for i, index in enumerate(chosen[:10]):
        said = shown.net.likelihood.said(shown.predictions[i], names)
        trace = measured(float(shown.trace[i]), float(shown.trace_error[i]))
        sure = probability(float(shown.confidence[i]), float(shown.doubt[i]))
        rows.append(
            f"<tr><td>{index}</td><td>{html.escape(said)}</td><td>{sure}</td>"
            f"<td>{number(float(shown.spectral_norm[i]), 4)}</td><td>{trace}</td></tr>"
        )
    head = "<tr><th>sample</th><th>prediction</th><th>confidence</th><th>λ₁</th><th>trace</th></tr>"
    return "".join(parts) + f"<table>{head}{''.join(rows)}</table>"
