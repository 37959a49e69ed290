"""Some samples in full detail: what the model says along their eigenvectors, and on the planes of two."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fimviz.explorer.results import Detail, Explorer
from fimviz.fisher.methods import spectrum
from fimviz.fisher.plane import Plane
from fimviz.fisher.spectrum import Spectrum
from fimviz.fisher.walk import walk
from fimviz.vulnerability import Vulnerability

_POINTS = 21  # of a plane, on each axis
_NODES = 33, 17  # distances along the leading direction, and along each other one


def nothing(s: Spectrum) -> Detail:
    """No sample in detail."""
    return Detail((), s, s.trace[:0], s.trace[:0, None], (), None)


def examine(
    found: Explorer,
    places: Sequence[int],
    k: int,
    *,
    planes: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Detail]:
    """Everything about some samples, for each model and as far out for all; planes for the first of them."""
    deep = {}
    at, count = list(places), len(found.models)
    for step, (name, m) in enumerate(found.models.items()):
        s = m.spectrum

        def tick(done: int, total: int, before: int = step * len(at)) -> None:
            progress(before + done, count * len(at))

        labels = None if s.labels is None else s.labels[at]
        method = s.method if s.reason == "asked for" else "auto"
        deep[name] = spectrum(s.net, s.images[at], k=k, labels=labels, method=method, seed=found.seed, progress=tick)
        if len(deep[name]) < len(at):
            raise KeyboardInterrupt
    lost = {at[i] for s in deep.values() for i in s.failures}  # where directions of more of them fail than λ₁ did
    if lost and (kept := [place for place in at if place not in lost]):
        return examine(found, kept, k, planes=min(planes, len(kept)), progress=progress)
    reach = torch.stack([s.reach for s in deep.values()]).amax(0)
    return {name: _examined(s, tuple(places), reach, planes) for name, s in deep.items()}


def _examined(deep: Spectrum, places: tuple[int, ...], reach: Tensor, planes: int) -> Detail:
    """Walks along all eigenvectors of some samples, and the planes of the first of them."""
    walks = []
    for order in range(deep.eigenvalues.shape[1]):
        nodes = _NODES[min(order, 1)]
        grid = torch.linspace(-1, 1, nodes, dtype=torch.float64) * reach[:, None]
        walks.append(walk(deep, order, grid, with_flips=True))
    found = None
    if planes:
        some = deep.take(range(planes))
        across = 1 if deep.eigenvalues.shape[1] > 1 else some.images
        found = some.plane(0, across, points=_POINTS, reach=reach[:planes])
    return Detail(places, deep, reach, deep.one_sided, tuple(walks), found)


def toward_attacks(detail: Detail, found: Vulnerability, rows: Sequence[int]) -> tuple[tuple[int, ...], Plane] | None:
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
    return tuple(detail.places[i] for i in some), shown.plane(0, moves, points=_POINTS, reach=reach)
