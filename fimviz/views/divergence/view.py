"""The divergence view of `CrossCategoryKL`: how much of what tells two classes apart does F know of?"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import traitlets

from fimviz._options import whole
from fimviz._quantile import median
from fimviz.divergence.path import Path
from fimviz.views.divergence.distributions import Distribution, distributions
from fimviz.views.divergence.numbers import numbers
from fimviz.views.kit.contrast import colours
from fimviz.views.kit.figure import Figure
from fimviz.views.kit.host import Widget
from fimviz.views.kit.inputs import Inputs, caution, finite, inputs_of, lost, picture, short, still_of_lost
from fimviz.views.kit.numbers import number, percent
from fimviz.views.kit.palette import PALETTE

if TYPE_CHECKING:
    from fimviz.divergence.crosscategory import CrossCategoryKL

QUANTITIES = ("kl", "g1", "g2", "ratio")
_CLASSES = 24  # that the map shows, those of the most pairs
_STEPS = 20  # of a line
_PAIRS = 270  # lines of a page: three for each pair of ten classes
_PAGE = 700_000  # bytes of images that a page takes by default


class Divergence(Widget):
    """The live divergence view."""

    _module = "divergence/view.js"
    _numbers = staticmethod(numbers)
    quantity = traitlets.Enum(QUANTITIES, "kl", help="What the map shows. Default: kl.").tag(sync=True)
    pair = traitlets.Int(-1, help="The chosen pair, by its place in the result; −1 for none.").tag(sync=True)
    position = traitlets.Int(0, help="How far along its line, from 0 to steps. Default: halfway.").tag(sync=True)
    steps = traitlets.Int(
        _STEPS, help="Into how many pieces a line is cut, as it was when the view was made. Default: 20."
    ).tag(sync=True)

    offered = MappingProxyType({"steps": (_STEPS,)})

    shown: tuple[int, ...] = ()

    @traitlets.validate("pair")
    def _known(self, proposal: Any) -> int:
        if self.shown and proposal.value not in (-1, *self.shown):
            raise traitlets.TraitError(
                f"pair is {proposal.value}, expected the place of a pair that carries its line, for instance "
                f"{self.shown[0]}: result.view(pairs=[(i, j)]) chooses which do"
            )
        return int(proposal.value)

    @traitlets.validate("steps")
    def _cut(self, proposal: Any) -> int:
        return int(self.fitting("steps", proposal.value))

    @traitlets.validate("position")
    def _on_the_line(self, proposal: Any) -> int:
        return max(0, min(int(proposal.value), self.steps))


def view(
    result: CrossCategoryKL,
    *,
    against: Mapping[str, CrossCategoryKL],
    pairs: int | Sequence[tuple[int, int]] | None,
    max_bytes: int,
) -> Figure:
    """The view of a result, `against` it and others by name."""
    if len(against) > len(PALETTE):
        raise ValueError(
            f"{len(against)} models are given, expected at most {len(PALETTE)}, as many as there are colours"
        )
    net = result.net
    inputs = inputs_of(net, result.images)
    count = torch.tensor(result.by_class["pairs"].values)
    present = (count.sum(0) + count.sum(1)).argsort(descending=True, stable=True)
    classes = sorted(present[:_CLASSES][(count.sum(0) + count.sum(1))[present[:_CLASSES]] > 0].tolist())
    chosen = _chosen(result, pairs, inputs)
    lines, changed = result.known([place for place, _ in chosen], _STEPS)
    ends_only = f" The lines between samples are known at their ends only: {changed}." if changed else ""
    samples = sorted({s for line in lines for s in (line.i, line.j)})
    inputs.share_out(result.images[samples])
    modes = net.likelihood.predict(result.logits)
    confidence = net.likelihood.confidence(result.logits)
    bound = result.theorem()
    seen = distributions(against)
    tables = {name: _cells(result.by_class[name].values[np.ix_(classes, classes)]) for name in ("pairs", *QUANTITIES)}
    data = {
        "title": title(against),
        "of": next(iter(against)) if len(against) > 1 else "",
        "summary": _summary(result) + ends_only,
        "caution": caution(result.net),
        "lost": lost(result.failures),
        "left": _left(result, chosen, wanted=pairs),
        "theorem": f"Theorem 3.1: {bound}.",
        "models": [
            {"name": name, "color": "currentColor" if len(against) == 1 else PALETTE[n]}
            for n, name in enumerate(against)
        ],
        "distributions": [_distribution(d) for d in seen],
        "classes": net.classes,
        "shown": classes,
        "left_out": len(present[(count.sum(0) + count.sum(1))[present] > 0]) - len(classes),
        "tables": tables,
        "drawn": result.drawn,
        **inputs.header,
        "samples": [
            {
                "index": s,
                "image": inputs.encode(result.images[s]),
                "label": int(result.labels[s]),
                "prediction": int(modes[s]),
                "confidence": float(confidence[s]),
                "doubt": float(net.likelihood.doubt(result.logits[s])),
                "norm": float(result.spectral_norm[s]),
            }
            for s in samples
        ],
        "pairs": [_pair(result, place, roles, line) for (place, roles), line in zip(chosen, lines, strict=True)],
    }
    first = _first(result, chosen)
    return Figure(
        widget_class=Divergence,
        state={
            "payload": inputs.payload.pack(data),
            "quantity": "kl",
            "steps": _STEPS,
            "pair": chosen[first][0],
            "position": _STEPS // 2,
        },
        still=_still(result, inputs, lines[first], seen, against) + still_of_lost(result.failures),
        summary=f"{len(result)} pairs, {len(chosen)} with their lines",
        max_bytes=max_bytes,
        fewer="pairs=",
        setup={"shown": tuple(place for place, _ in chosen)},
    )


def _chosen(
    result: CrossCategoryKL, wanted: int | Sequence[tuple[int, int]] | None, inputs: Inputs
) -> list[tuple[int, list[str]]]:
    """Places of the pairs that carry their lines, with the part that each plays in its class pair."""
    if wanted is not None and not isinstance(wanted, int):
        if isinstance(wanted, str) or not all(np.shape(pair) == (2,) for pair in wanted):
            raise TypeError(f"pairs is {wanted!r}, expected a number or a list of pairs (i, j)")
        own = [result.place(int(i), int(j)) for i, j in wanted]
        if not own:
            raise ValueError("pairs is empty, expected at least one pair (i, j)")
        return [(place, ["chosen"]) for place in dict.fromkeys(own)]
    room = _PAIRS if wanted is None else whole("pairs", wanted, 1)
    cells = (result.labels[result.i] * len(result.net.classes) + result.labels[result.j]).tolist()
    groups: dict[int, list[int]] = {}
    for place in result.kl.argsort(stable=True).tolist():
        groups.setdefault(cells[place], []).append(place)
    order = sorted(groups, key=lambda cell: -len(groups[cell]))
    roles: dict[int, list[str]] = {}
    size = (inputs.weight if inputs.photographs else 1 if inputs.kind == "image" else 4) * int(np.prod(inputs.shape))
    images: set[int] = set()
    for role, at in (("median", None), ("smallest", 0), ("largest", -1)):
        for cell in order:
            own = groups[cell]
            place = own[(len(own) - 1) // 2 if at is None else at]
            ends = {int(result.i[place]), int(result.j[place])}
            full = len(roles) >= room or (wanted is None and roles and size * len(images | ends) > _PAGE)
            if place not in roles and full:
                continue
            images |= ends
            roles.setdefault(place, []).append(role)
    return sorted(roles.items())


def _left(result: CrossCategoryKL, chosen: list[tuple[int, list[str]]], wanted: Any) -> str:
    """Which pairs carry no line on the page, and how to get them; nothing where all do."""
    if len(chosen) == len(result):
        return ""
    which = "those that were asked for"
    if wanted is None or isinstance(wanted, int):
        cells = {(int(result.labels[i]), int(result.labels[j])) for i, j in zip(result.i, result.j, strict=True)}
        held = {(int(result.labels[result.i[p]]), int(result.labels[result.j[p]])) for p, _ in chosen}
        named = (("median", "the median KL"), ("smallest", "the smallest"), ("largest", "the largest"))
        counts = [(sum(role in roles for _, roles in chosen), words) for role, words in named]
        parts = [f"{words} of {count} class pairs" for count, words in counts if count]
        which = ", ".join([*parts, *([f"none of {len(cells - held)} others"] if cells - held else [])])
    how = ".view(pairs=[(i, j)]) opens any"
    return f"{len(chosen)} of {len(result):,} pairs carry their lines here: {which}. All are in the numbers; {how}."


def _first(result: CrossCategoryKL, chosen: list[tuple[int, list[str]]]) -> int:
    """Where the view opens: a median pair whose KL is nearest to the median of all."""
    middle = median(result.kl)
    return min(
        range(len(chosen)),
        key=lambda k: ("median" not in chosen[k][1], float((result.kl[chosen[k][0]] - middle).abs())),
    )


def _pair(result: CrossCategoryKL, place: int, roles: list[str], line: Path) -> dict[str, Any]:
    top = line.probabilities.max(1)
    return {
        "place": place,
        "i": line.i,
        "j": line.j,
        "role": "only" if len(roles) == 3 else " and ".join(roles),
        "kl": float(result.kl[place]),
        "g1": float(result.g1[place]),
        "limit": float(result.limit[place]),
        "l2": float(result.l2[place]),
        "difference": colours(result.images[line.j].double() - result.images[line.i].double()),
        "along": short(line.kl, 6),
        "says": top.indices.tolist(),
        "p": short(top.values, 6),
    }


def _distribution(d: Distribution) -> dict[str, Any]:
    models = [{**m, "shares": [float(f"{s:.4g}") for s in m["shares"]]} for m in d.models]
    return {**d._asdict(), "models": models}


def _cells(values: np.ndarray) -> list[list[float | None]]:
    return [[finite(float(f"{v:.6g}")) for v in row] for row in values.tolist()]


def _summary(result: CrossCategoryKL) -> str:
    used = len(result.i.unique())
    middle = 1 - median(result.ratio)
    known = "" if math.isnan(middle) else f" In the median pair G1, what F at x_i knows of, is {percent(middle)} of KL."
    above = float((result.g1 > result.kl).double().mean())
    negative = f" G2 is negative for {percent(above)} of the pairs." if above else ""
    drawn = ", drawn by chance" if result.drawn else ""
    pairs = f"{len(result):,} ordered pairs of {used} samples with different labels{drawn}{result.without}"
    return f"{pairs}.{known}{negative}"


def _still(
    result: CrossCategoryKL,
    inputs: Inputs,
    line: Path,
    seen: list[Distribution],
    models: Mapping[str, CrossCategoryKL],
) -> str:
    """What is seen without scripts: a pair and what is between, and the numbers."""
    parts = []
    labels = [html.escape(result.net.classes[int(result.labels[s])]) for s in (line.i, line.j)]
    if inputs.kind == "image":
        ends = [result.images[s].double() for s in (line.i, line.j)]
        row = [ends[0], (ends[0] + ends[1]) / 2, ends[1]]
        parts.append(
            f'<img alt="sample {line.i}, halfway, and sample {line.j}" src="{picture(inputs, row)}">'
            f"<p>From sample {line.i} ({labels[0]}) to sample {line.j} ({labels[1]}): KL {number(float(line.kl[-1]))} "
            f"nats; its second-order part is {number(float(line.quadratic[-1]))}.</p>"
        )
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(d.title)}</td>"
        + "".join(f"<td>{v}</td>" for v in d.models[n]["text"])
        + f"<td>{html.escape(d.models[n]['note'])}</td></tr>"
        for n, name in enumerate(models)
        for d in seen
    )
    return (
        f"<p><strong>{html.escape(title(models))}</strong><br>{html.escape(_summary(result))}</p>{''.join(parts)}"
        "<table><tr><th>model</th><th>over pairs</th><th>lower quartile</th><th>median</th><th>upper quartile</th>"
        f"<th></th></tr>{rows}</table>"
    )


def title(results: Mapping[str, CrossCategoryKL]) -> str:
    """What is seen, in a sentence."""
    parts = []
    for name, r in results.items():
        error = "" if math.isnan(r.cckl_error) else f" ± {number(r.cckl_error, 2)}"
        value = f"CCKL = {number(r.cckl)}{error} nats"
        share = r.means["g1"].value / r.cckl if r.cckl > 0 else 0.0
        said = (
            f"{percent(share)} of it second-order"
            if share <= 1
            else f"its second-order part alone is {number(share)} times that"
        )
        parts.append(f"{value}, {said}" if len(results) == 1 else f"{name}: {value}, {said}")
    return "; ".join(parts[:3]) + (f"; and {len(parts) - 3} more" if len(parts) > 3 else "")
