"""Some samples in full detail: what the model says along their eigenvectors, and on the planes of two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fimviz.explorer.results import Detail, Explorer
from fimviz.fisher.effort import Effort, effort
from fimviz.fisher.methods import found_with
from fimviz.fisher.plane import Plane, plane
from fimviz.fisher.spectrum import Spectrum
from fimviz.fisher.walk import Seen, both_sides, walk
from fimviz.fisher.walk import reach as far
from fimviz.model.classifier import Classifier
from fimviz.model.engine.parts import answers
from fimviz.model.engine.progress import Tick, silent
from fimviz.vulnerability import Vulnerability


def nothing(s: Spectrum) -> Detail:
    """No sample in detail."""
    return Detail((), s, s.trace[:0], s.trace[:0, None], (), None)


def examine(
    found: Explorer,
    places: Sequence[int],
    k: int,
    *,
    planes: int,
    known: Mapping[str, Spectrum] = MappingProxyType({}),
    max_memory: float | None = None,
    progress: Tick = silent,
) -> dict[str, Detail]:
    """Everything about some samples, for each model and as far out for all; planes for the first of them.

    `known` are spectra of the whole batch with these eigenvectors, of models for which they are there.
    """
    deep = {}
    at, count = list(places), len(found.models)
    classes = len(found.first.spectrum.net.classes)
    hard = effort_of(found)
    # Shares of the time, in forward passes of a sample: the spectrum, and what the model says around it.
    around = sum(hard.passes[:2]) + hard.passes[2] * (k - 1) + hard.points**2 * planes / max(1, len(at))
    own = 0 if known else 1 + 2 * min(classes - 1, 24)
    whole = 1000
    share = own / (own + around)
    for step, (name, m) in enumerate(found.models.items()):
        s = m.spectrum

        def tick(done: int, total: int, before: int = step) -> None:
            progress(int(whole * share * (before + done / total) / count), whole)

        if name in known:
            deep[name] = known[name].take(at)
            continue
        labels = s.labels_of(at)
        method = s.method if s.reason == "asked for" else "auto"
        options: dict[str, Any] = {"k": k, "labels": labels, "method": method, "seed": found.seed}
        options |= {"tolerance": hard.tolerance, "totals": hard.totals, "enough": hard.enough}
        deep[name], *_ = found_with(s.net, s.images[at], None, max_memory=max_memory, progress=tick, **options)
        if len(deep[name]) < len(at):
            raise KeyboardInterrupt
    lost = {at[i] for s in deep.values() for i in s.failures}  # where directions of more of them fail than λ₁ did
    if lost and (kept := [place for place in at if place not in lost]):
        options = {"known": known, "max_memory": max_memory, "progress": progress}
        return examine(found, kept, k, planes=min(planes, len(kept)), **options)
    looked = {name: _reach(s, hard) for name, s in deep.items()}
    reach = torch.stack([own for own, _ in looked.values()]).amax(0)
    examined = {}
    for step, (name, s) in enumerate(deep.items()):

        def told(part: float, before: int = step) -> None:
            progress(int(whole * (share + (1 - share) * (before + part) / count)), whole)

        with s.net.at_rest():  # once: to note all that a network holds takes as long as a pass over one input
            examined[name] = _examined(s, tuple(places), reach, looked[name][1], planes, hard, told)
    return examined


def _reach(s: Spectrum, hard: Effort) -> tuple[Tensor, Seen | None]:
    with s.net.at_rest():
        return far(s, hard.coarse)


def effort_of(found: Explorer) -> Effort:
    """How finely the samples of an explorer are asked."""
    spectra = [m.spectrum for m in found.models.values()]
    nets = [s.net for s in spectra]
    return effort([net for net in nets if isinstance(net, Classifier)], [s.images for s in spectra])


def _examined(
    deep: Spectrum,
    places: tuple[int, ...],
    reach: Tensor,
    seen: Seen | None,
    planes: int,
    hard: Effort,
    told: Callable[[float], None],
) -> Detail:
    """Walks along all eigenvectors of some samples, and the planes of the first of them; told what share is done."""
    first, leading, other = hard.passes
    passes = [first, leading, *[other] * (deep.eigenvalues.shape[1] - 1)]
    total, done = sum(passes) * len(places) + hard.points**2 * planes, first * len(places)
    told(done / total)
    walks = []
    for order in range(deep.eigenvalues.shape[1]):
        grid, known = both_sides(hard.nodes[min(order, 1)], reach), None if order else seen
        walks.append(walk(deep, order, grid, with_flips=True, left_open=hard.open, close=hard.close, seen=known))
        done += passes[1 + order] * len(places)
        told(done / total)
    found = None
    if planes:
        some = deep if planes == len(places) else deep.take(range(planes))
        across = 1 if deep.eigenvalues.shape[1] > 1 else some.images
        found = plane(some, 0, across, hard.points, reach[:planes], hard.open, walks[:2])
    told(1.0)
    return Detail(places, deep, reach, deep.one_sided, tuple(walks), found)


def struck(found: Vulnerability) -> Tensor:
    """Logits (n, attacks, K), float64, of what the attacks made of the inputs."""
    net, moved = found.spectrum.net, found.moved
    return answers(net, moved.flatten(0, 1).to(net.dtype)).unflatten(0, moved.shape[:2])


def toward_attacks(
    detail: Detail, found: Vulnerability, rows: Sequence[int], points: int
) -> tuple[tuple[int, ...], Plane] | None:
    """The planes of v₁ and the smallest attack; `rows` are where the first samples in detail stand in `found`."""
    at = list(rows)
    best = found.epsilon[at].where(found.epsilon[at] > 0, torch.inf)
    length, which = best.min(1)
    some = length.isfinite().nonzero()[:, 0].tolist()
    if not some:
        return None
    shown = detail.spectrum.take(some)
    moves = torch.stack([found.moved[at[i], which[i]].to(shown.images) - shown.images[j] for j, i in enumerate(some)])
    reach = torch.maximum(detail.reach[some], 1.25 * moves.flatten(1).double().norm(dim=1))
    return tuple(detail.places[i] for i in some), shown.plane(0, moves, points=points, reach=reach)
