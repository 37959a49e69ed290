"""`explore`: where is a model fragile? Norms of a whole batch, and some of its samples in full detail."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fimviz._options import flag, named_options, reporter, whole
from fimviz.attributions import Attributions, attributions
from fimviz.bounds.certificate import certified_radius
from fimviz.classifier import Classifier, as_classifier
from fimviz.comparison import BoundComparison, compare_bounds
from fimviz.fisher.methods import METHODS, spectrum
from fimviz.fisher.passes import footprint
from fimviz.fisher.plane import Plane
from fimviz.fisher.spectrum import Spectrum
from fimviz.fisher.walk import Walk, walk
from fimviz.margins.trace import trace_margins
from fimviz.margins.traces import MarginTraces
from fimviz.ranking.spearman import Rank, spearman_of_many
from fimviz.result import Result
from fimviz.vulnerability import Vulnerability, vulnerability

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from fimviz.views.figure import Figure

PARTS = ("plane", "radius", "bounds", "attacks", "margins", "attributions")
RUNGS = ("exact", "L1", "L2", "L3", "L4", "L5", "L6", "lower-pair", "lower-trace")
# Bytes that passes keep, over all samples in full detail: a few seconds' work. Planes take more passes than the rest.
_DETAIL_WORK, _PLANE_WORK = 2**25, 2**23
_DETAIL, _PLANES = 64, 24  # samples at most, unless asked for
_POINTS = 21  # of a plane, on each axis
_NODES = 33, 17  # distances along the leading direction, and along each other one
_HALVINGS = 5  # of a bracket: ε of an attack is 3 % too large at most
_ENOUGH = 10  # samples for an interval
_FRAGILE = 0.75  # of the samples in detail; the others stand at even steps of the order


@dataclass(frozen=True, eq=False)
class Detail:
    """Everything about some samples of one model.

    Attributes:
        places: their places in the batch, m of them.
        spectrum: theirs, with eigenvectors, in that order.
        reach: (m,) how far the walks and planes go, in L2 pixel units.
        walks: along each eigenvector.
        planes: of the first samples on the plane of two eigenvectors, or of the only one and the image itself; or None.
    """

    places: tuple[int, ...]
    spectrum: Spectrum
    reach: Tensor
    walks: tuple[Walk, ...]
    planes: Plane | None


@dataclass(frozen=True, eq=False)
class Explored:
    """One model on the whole batch.

    Attributes:
        spectrum: λ₁ of all n inputs, without eigenvectors.
        detail: everything about some of them.
        radius: (n,) the certified L2 radius, or None, for the reason that `notes` gives.
        attacks: the smallest successful attacks of all inputs, where they were asked for.
        toward: some samples in detail with a smallest attack, and their planes of v₁ and that attack; or None.
        bounds, margins, attributions: of the samples in detail, where they were asked for.
        notes: why a part is missing, by its name.
    """

    spectrum: Spectrum
    detail: Detail
    radius: Tensor | None = None
    attacks: Vulnerability | None = None
    toward: tuple[tuple[int, ...], Plane] | None = None
    bounds: BoundComparison | None = None
    margins: MarginTraces | None = None
    attributions: Attributions | None = None
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def margin(self) -> Tensor:
        """(n,) the gap of the logits between the prediction and the nearest other one."""
        s = self.spectrum
        return s.net.likelihood.margin(s.logits, s.predictions)

    @property
    def quantities(self) -> dict[str, Tensor]:
        """What λ₁ may be compared with, (n,) each."""
        found = {"confidence": self.spectrum.confidence, "margin": self.margin}
        found |= {} if self.radius is None else {"radius": self.radius}
        return found if self.attacks is None else {**found, "attack": self.attacks.best("l2")}


@dataclass(frozen=True, eq=False, repr=False)
class Explorer(Result):
    """One model or two on a batch of n inputs: all norms, and some samples in full detail.

    Attributes:
        models: by name, in the order given; the name of a single one is "".
        seed: of the resampling in `correlations`.
    """

    models: dict[str, Explored]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.first.spectrum)

    def __repr__(self) -> str:
        s = self.first.spectrum
        median = float(s.spectral_norm.quantile(0.5))
        several = f"{len(self.models)} models, " if len(self.models) > 1 else ""
        return f"Explorer({several}{len(self)} inputs, {len(self.places)} in full detail: median λ₁ {median:.3g})"

    @property
    def first(self) -> Explored:
        """The model that was given first."""
        return next(iter(self.models.values()))

    @property
    def places(self) -> tuple[int, ...]:
        """The samples in full detail."""
        return self.first.detail.places

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a sample and model: the columns of `Spectrum.frame`, the model, correct, margin, radius, attack."""
        import pandas as pd

        parts = []
        for name, m in self.models.items():
            part = m.spectrum.frame.copy()
            part["margin"] = m.margin.numpy()
            if m.spectrum.correct is not None:
                part["correct"] = m.spectrum.correct.numpy()
            for extra in ("radius", "attack"):
                if extra in m.quantities:
                    part[extra] = m.quantities[extra].numpy()
            if len(self.models) > 1:
                part.insert(1, "model", name)
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def ranks(self) -> dict[str, dict[str, Rank]]:
        """For each model, how λ₁ ranks the samples against each of `quantities`, and against the other model's λ₁."""
        found: dict[str, dict[str, Rank]] = {}
        for name, m in self.models.items():
            norm = m.spectrum.spectral_norm.tolist()
            others = {key: v for key, v in m.quantities.items() if v.isfinite().any()}
            others |= {f"λ₁ of {o}": q.spectrum.spectral_norm for o, q in self.models.items() if o != name}
            found[name] = {key: _rank(norm, v.tolist(), self.seed) for key, v in others.items()}
        return found

    @property
    def correlations(self) -> pd.DataFrame:
        """Spearman's ρ of λ₁ with other numbers: columns model, against, rho, low, high, n.

        The interval is the bootstrap's over samples, NaN for fewer than ten. A large |ρ| with confidence is the rule:
        λ₁ falls to 0 as a prediction saturates.
        """
        import pandas as pd

        return pd.DataFrame(
            {"model": name, "against": key, "rho": r.rho, "low": r.low, "high": r.high, "n": r.n}
            for name, ranks in self.ranks.items()
            for key, r in ranks.items()
        )

    def plot(self) -> go.Figure:
        """λ₁ of every sample on a log axis against the confidence, as a plotly figure."""
        from fimviz.views.charts import explorer_figure

        return explorer_figure(self)

    @named_options
    def view(self, *, max_bytes: int = 20_000_000) -> Figure:
        """The explorer: norms, gallery and detail, linked.

        Args:
            max_bytes: refuse a page larger than this.
        """
        from fimviz.views.explorer import explorer

        return explorer(self, max_bytes=max_bytes)


@named_options
def explore(
    net: Classifier | nn.Module | Mapping[str, Classifier | nn.Module],
    images: Any,
    labels: Any = None,
    *,
    k: int = 3,
    detail: int | Sequence[int] | None = None,
    include: Sequence[str] | None = None,
    method: str = "auto",
    seed: int = 0,
    progress: bool | Callable[[int, int], None] = False,
) -> Explorer:
    """Everything about a batch of inputs in one view, which stays alive without a kernel.

    λ₁ is computed for every input. What takes many passes for each (eigenvectors, what the model says along them, the
    plane of two) is computed for some, three in four of them the most fragile; the live view, `.widget()`, computes
    the same for any other sample when it is opened.

    Args:
        net: a `Classifier` or a module from pixels in [0, 1] to logits; or two of them by name, to be compared.
        images: (n, …) floats.
        labels: true classes (n,), or for several yes/no labels (n, K) of 0 and 1.
        k: how many directions of a sample in full detail.
        detail: how many samples in full detail, or which; by default as many as take a few seconds, up to 64.
        include: which of "plane" (the model on the plane of two directions), "bounds" (every formula of
            `compare_bounds`), "margins" (paths to other classes) and "attributions", of the samples in detail; and of
            "radius" (the certified one) and "attacks" (the smallest that succeed, which takes hundreds of passes),
            of all samples. By default "plane" and "radius" where they are cheap.
        method: of λ₁, as in `spectrum`.
        seed: of everything random.
        progress: True for a tqdm bar, or a function called with (steps done, steps in all).

    An interrupt returns what is complete.

    Example, p = softmax(x) at p = (½, ½), where λ₁ = ½ and moves along (1, −1)/√2:
        >>> import torch, fimviz as fv
        >>> net = fv.Classifier(torch.nn.Identity(), input_range=None)
        >>> found = fv.explore(net, torch.zeros(2, 2))
        >>> found.frame.spectral_norm.round(6).tolist(), found.places
        ([0.5, 0.5], (0, 1))
    """
    nets = {name: as_classifier(model) for name, model in _named(net).items()}
    k, seed = whole("k", k, 1), whole("seed", seed, 0)
    flag("progress", callable(progress) or progress)
    if method not in METHODS or method == "blackbox":
        raise ValueError(f"method is {method!r}, expected one of {', '.join(m for m in METHODS if m != 'blackbox')}")
    if isinstance(include, str) or not set(include or ()) <= set(PARTS):
        raise ValueError(f"include is {include!r}, expected a list of some of {', '.join(PARTS)}")
    inputs = [model.admit(images).detach() for model in nets.values()]
    _same_classes(nets)
    n = len(inputs[0])
    afford = min(_afford(model, x, _DETAIL_WORK) for model, x in zip(nets.values(), inputs, strict=True))
    if not isinstance(detail, Iterable):
        detail = min(n, max(1, min(_DETAIL, afford)) if detail is None else whole("detail", detail, 1))
        count = detail
    else:
        detail = list(dict.fromkeys(whole("detail", place, 0) for place in detail))
        if not detail or max(detail) >= n:
            raise ValueError(f"detail is {detail}, expected places in the batch from 0 to {n - 1}")
        count = len(detail)
    parts = (("plane", "radius") if afford >= 12 else ()) if include is None else tuple(include)
    planes = 0 if "plane" not in parts else count
    if include is None:
        planes = min(planes, _PLANES, *(_afford(m, x, _PLANE_WORK) for m, x in zip(nets.values(), inputs, strict=True)))
    later = [part for part in parts if part != "plane"]
    steps = _Steps(progress, len(nets) * (n + count + len(later)))

    norms: dict[str, Spectrum] = {}
    options: dict[str, Any] = {"method": method, "seed": seed}
    for (name, model), x in zip(nets.items(), inputs, strict=True):
        norms[name] = spectrum(model, x, k=1, vectors=False, labels=labels, progress=steps.within(n), **options)
    shortest = min(len(s) for s in norms.values())
    if shortest < n:  # interrupted: the samples that all models have
        norms = {name: replace(s.take(range(shortest)), _walks={}, _parts={}) for name, s in norms.items()}
    places = _chosen(list(norms.values()), detail)
    found = Explorer({name: Explored(s, nothing(s)) for name, s in norms.items()}, seed)
    if shortest < n:
        return found
    models = dict(found.models)
    try:
        details = examine(found, places, k, planes=planes, progress=steps.within(count * len(nets)))
        for name, detailed in details.items():
            models[name] = replace(models[name], detail=detailed)
        for name in nets:
            for part in later:
                models[name] = extended(models[name], part, places, seed)
                steps.add(1)
    except KeyboardInterrupt:
        warnings.warn("interrupted: the explorer holds what was complete", stacklevel=3)
    return Explorer(models, seed)


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
    return Detail(places, deep, reach, tuple(walks), found)


def extended(
    m: Explored, part: str, places: Sequence[int], seed: int, progress: bool | Callable[[int, int], None] = False
) -> Explored:
    """The model with one part more, or with the reason why it has none; `places` are those that the part is about."""
    s, at = m.spectrum, list(places)
    assert isinstance(s.net, Classifier)
    if part == "radius":
        certificate = certified_radius(s.net, s.images, attack=False)
        if certificate.reason:
            return replace(m, notes={**m.notes, part: certificate.reason})
        return replace(m, radius=certificate.radius)
    if part == "bounds":
        return replace(m, bounds=compare_bounds(s.net, s.images[at], methods=RUNGS))
    if part == "attributions":
        known = m.detail.spectrum if m.detail.places == tuple(at) else None
        return replace(m, attributions=attributions(s.net, s.images[at], spectrum=known, seed=seed, progress=progress))
    if part == "attacks":
        found = attacks_of(s, range(len(s)), seed, progress)
        count = 0 if m.detail.planes is None else len(m.detail.planes.kl)
        return replace(m, attacks=found, toward=toward_attacks(m.detail, found, at[:count]))
    return replace(m, margins=margins_of(s, at, seed, progress))


def attacks_of(
    s: Spectrum, places: Sequence[int], seed: int, progress: bool | Callable[[int, int], None] = False
) -> Vulnerability:
    """The smallest change of some samples by which each attack makes the model miss, in L2."""
    assert isinstance(s.net, Classifier)
    at = list(places)
    labels = None if s.labels is None else s.labels[at]
    return vulnerability(s.net, s.images[at], labels, norm="l2", halvings=_HALVINGS, seed=seed, progress=progress)


def toward_attacks(detail: Detail, found: Vulnerability, rows: Sequence[int]) -> tuple[tuple[int, ...], Plane] | None:
    """The planes of v₁ and the smallest attack; `rows` are where the first samples in detail stand in `found`."""
    at = list(rows)
    best = found.epsilon[at].nan_to_num(torch.inf).where(found.epsilon[at] > 0, torch.inf)
    length, which = best.min(1)
    some = length.isfinite().nonzero()[:, 0].tolist()
    if not some:
        return None
    shown = detail.spectrum.take(some)
    moves = torch.stack([found.moved[at[i], which[i]].to(shown.images) - shown.images[j] for j, i in enumerate(some)])
    reach = torch.maximum(detail.reach[some], 1.25 * moves.flatten(1).double().norm(dim=1))
    return tuple(detail.places[i] for i in some), shown.plane(0, moves, points=_POINTS, reach=reach)


def margins_of(
    s: Spectrum, places: Sequence[int], seed: int, progress: bool | Callable[[int, int], None] = False
) -> MarginTraces:
    """Paths from some samples to every other class, or to the nearest where there are many; all samples beside them."""
    assert isinstance(s.net, Classifier)
    at = list(places)
    targets = "all" if len(s.net.classes) <= 24 else "runner-up"
    labels = None if s.labels is None else s.labels[at]
    traces = trace_margins(s.net, s.images[at], labels, targets=targets, seed=seed, verify=False, progress=progress)
    own = torch.tensor(at)[traces.sample]
    return replace(traces, sample=own, images=s.images, labels=s.labels, probabilities=s.probabilities)


def _rank(x: Sequence[float], y: Sequence[float], seed: int) -> Rank:
    """ρ over the pairs that are known, with an interval where there are enough to draw from."""
    known = [(a, b) for a, b in zip(x, y, strict=True) if a == a and b == b]
    r = spearman_of_many([a for a, _ in known], [b for _, b in known], seed=seed)
    return r if r.n >= _ENOUGH else replace(r, low=math.nan, high=math.nan)


def _named(net: Any) -> dict[str, Classifier | nn.Module]:
    if not isinstance(net, Mapping) or isinstance(net, nn.Module):  # an nn.ModuleDict is a module
        return {"": net}
    if len(net) not in (1, 2) or not all(isinstance(name, str) and name for name in net):
        raise ValueError(f"the models are {list(net)}, expected one or two, each under a name")
    return dict(net)


def _same_classes(nets: dict[str, Classifier]) -> None:
    first, *others = nets.items()
    for name, other in others:
        if other.classes != first[1].classes or other.likelihood.name != first[1].likelihood.name:
            raise ValueError(
                f"{first[0]} has {len(first[1].classes)} classes and {name} has {len(other.classes)}, expected two "
                "models of the same classes under the same names: give both the same classes="
            )


def _afford(net: Classifier, x: Tensor, work: int) -> int:
    """How many samples the given work is enough for."""
    with net.at_rest():
        return work // max(1, footprint(net, x[:1].to(net.device))[0])


def _chosen(norms: list[Spectrum], detail: int | Sequence[int]) -> tuple[int, ...]:
    """The samples in full detail, the most fragile first: of each model in turn, and some along the first's order."""
    orders = [s.spectral_norm.argsort(descending=True, stable=True).tolist() for s in norms]
    if isinstance(detail, Sequence):
        return tuple(sorted(set(detail), key=orders[0].index))
    n = len(orders[0])
    fragile = [place for places in zip(*orders, strict=True) for place in places]
    chosen = list(dict.fromkeys(fragile))[: round(_FRAGILE * detail) if detail < n else n]
    even = [orders[0][round(q)] for q in np.linspace(n - 1, 0, 4 * detail)]
    left = [place for place in dict.fromkeys([orders[0][-1], *even]) if place not in chosen]
    spread = [left[round(q)] for q in np.linspace(0, len(left) - 1, detail - len(chosen))] if left else []
    kept = dict.fromkeys([*chosen, *spread])
    return tuple(sorted(kept, key=orders[0].index))


def nothing(s: Spectrum) -> Detail:
    """No sample in detail."""
    return Detail((), s, s.trace[:0], (), None)


class _Steps:
    """One count of progress over several computations."""

    def __init__(self, wanted: bool | Callable[[int, int], None], total: int) -> None:
        self._report, self._done = reporter(wanted, total), 0

    def add(self, steps: int) -> None:
        self._done += steps
        self._report(self._done)

    def within(self, steps: int) -> Callable[[int, int], None]:
        """The progress of a computation that counts as that many steps."""
        before = self._done

        def tick(done: int, total: int) -> None:
            self._done = before + steps * done // total
            self._report(self._done)

        return tick
