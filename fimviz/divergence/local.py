"""`local_accuracy`: how far a change of an image may go before ½ δᵀFδ no longer tells its divergence."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fimviz._options import named_options, real, whole
from fimviz._tell import tell
from fimviz.attacks.attack import Options
from fimviz.attacks.budget import within
from fimviz.attacks.search import looks
from fimviz.attacks.steps import Ascent
from fimviz.attacks.table import ATTACKS
from fimviz.divergence.cckl import labelled
from fimviz.divergence.curvature import Point, passes_of_a_point, points, precision
from fimviz.divergence.localaccuracy import LocalAccuracy
from fimviz.fisher.methods import spectrum
from fimviz.fisher.passes import unsound
from fimviz.model.classifier import Classifier
from fimviz.model.engine.memory import limit
from fimviz.model.engine.parts import Work, answers
from fimviz.model.engine.progress import Stages, wanted
from fimviz.model.failures import known, others, settle, spread

DIRECTIONS = ("worst", "fgsm", "pgd", "random")
NORMS = ("linf", "l2")
_EPSILONS = tuple(k / 255 for k in range(1, 9))
_ROOM = 2**25  # float64 numbers in all changes of a chunk of inputs
_CHUNK = 32


@named_options
def local_accuracy(
    net: Classifier | nn.Module,
    images: Any,
    labels: Any = None,
    *,
    epsilons: Sequence[float] | Mapping[str, Sequence[float]] = _EPSILONS,
    norms: str | Sequence[str] = NORMS,
    directions: str | Sequence[str] = DIRECTIONS,
    steps: int = 10,
    seed: int = 0,
    max_memory: float | None = None,
    errors: str = "mark",
    progress: bool | Callable[[int, int], None] = False,
) -> LocalAccuracy:
    """The relative error |KL − ½ δᵀFδ| / KL of the quadratic form for changes δ of given size.

    KL is KL(f(x) ‖ f(x + δ)). The quadratic form is always that of the very δ that was added, with F at x: the paper's
    G1. Only along the leading eigenvector, with an L2 budget, is it ½ ε² λ₁ (the paper's equation 12). The paper does
    not say which δ its table is of; its model was trained against PGD in L∞ with 8/255.

    Directions:
        worst: ±ε v₁ for an L2 budget, and ±ε sign(v₁) for an L∞ one, whichever sign gives the larger KL. As in
            `Spectrum.walk`, a pixel may leave the input range: λ₁ speaks of that displacement.
        fgsm, pgd, random: `fimviz.attacks`, against the labels; these stay inside the range, so that δ may be shorter
            than ε.

    Where an input lies exactly on a kink of the network (a max pool over a flat background), F is that of one of the
    pieces that meet there, and the error does not vanish with ε: `Spectrum.one_sided` measures how they differ.

    Forward passes, and F, are in float64 wherever network and device can, because a KL of 1e-12 has no digits
    otherwise.

    Args:
        net: a `Classifier` of one of K classes, or a module from pixels in [0, 1] to logits.
        images: (n, …) floats, or a data set (see `Classifier`).
        labels: which the attacks leave: (n,) class indices; for several yes/no labels, and for numbers, (n, K).
        epsilons: budgets in pixel units, ascending, the same for both norms, or {"linf": …, "l2": …} with equally
            many. By default 1/255 … 8/255. The same number is far less in L2, where an L∞ budget ε allows ε √D.
        norms: "linf", "l2" or both.
        directions: which of "worst", "fgsm", "pgd", "random".
        steps: of PGD.
        seed: of the random directions.
        max_memory: bytes for the gradients, by default half of what is free.
        errors: what an image is to do whose logits or gradients are not finite: "mark", its numbers are NaN and the
            frame counts it as failed and says why, or "raise".
        progress: True for a tqdm bar, or a function called with (percent of the time, 100).

    An interrupt returns the inputs that are complete.

    Returns:
        A `LocalAccuracy`.

    Raises:
        ValueError: budgets that are not positive, finite and ascending, an unknown norm or direction, labels out of
            range.

    Source: "Towards Disentangling Non-Robust and Robust Components in Performance Metric", appendix C.

    Example, p = softmax(x) at p = (½, ½), where KL = log cosh(ε/√2) and ½ ε²λ₁ = ε²/4 along v₁:
        >>> import math, torch, fimviz as fv
        >>> x, options = torch.full((1, 2), 0.5), {"norms": "l2", "directions": "worst"}
        >>> r = fv.local_accuracy(torch.nn.Identity(), x, [0], epsilons=[0.5], **options)
        >>> kl = math.log(math.cosh(0.5 / math.sqrt(2)))
        >>> abs(r.kl.item() - kl) < 1e-7, abs(r.error.item() - (0.25 / 4 - kl) / kl) < 1e-6
        (True, True)
    """
    start = time.perf_counter()
    norms, directions = _chosen("norms", norms, NORMS), _chosen("directions", directions, _directions())
    budgets = _budgets(epsilons, norms)
    errors, steps, seed = known(errors), whole("steps", steps, 1), whole("seed", seed, 0)
    progress, max_memory = wanted(progress), limit(max_memory)
    net, x, truth = labelled(net, images, labels, "attacks need to know what to leave", categories=False)
    failures, count = unsound(net, x, max_memory=max_memory), len(x)
    settle(failures, count, errors)
    sound, all_truth = others(failures, count), truth
    x, truth = x[sound], truth[sound]
    places = [(a, b, c) for a in range(len(norms)) for b in range(len(directions)) for c in range(len(budgets[0]))]
    tried = [at for at in places for _ in range(1 + (directions[at[1]] == "worst"))]  # both signs of an eigenvector
    size = max(1, min(_CHUNK, _ROOM // (len(tried) * x[0].numel())))
    found = torch.full((3, len(norms), len(directions), len(budgets[0]), len(x)), torch.nan, dtype=torch.float64)
    logits: list[Tensor] = []
    costs, back = _passes(net, [directions[at[1]] for at in tried], steps), passes_of_a_point(net, len(tried))
    chunks = x.split(size)
    stages = [(kind, n * len(part)) for part in chunks for kind, n in (("changes", sum(costs)), ("forms", back))]
    bar, work = Stages(progress, stages), Work(len(x))
    with work:
        for part, own in zip(chunks, truth.split(size), strict=True):
            start_at, tick, made = work.done, bar.next(), []
            for change in _changes(net, part, own, norms, directions, budgets, steps, seed + start_at, max_memory):
                made.append(change)
                tick(round(1000 * sum(costs[: len(made)])), round(1000 * sum(costs)))
            changes, here = torch.stack(made, 1), []
            with net.at_rest():
                for i, point in enumerate(points(net, part, len(tried), max_memory, bar.next())):
                    for at, values in zip(tried, _measured(net, part[i], point, changes[i], max_memory).T, strict=True):
                        if not values[0] <= found[(0, *at, start_at + i)]:  # nothing is there yet, or the other sign
                            found[(slice(None), *at, start_at + i)] = values
                    here.append(point.logits)
            logits += here
            work.reached(len(logits))
        bar.end()
    if work.stopped:
        count = int(sound[len(logits)]) if len(logits) < len(sound) else count
        failures = {place: why for place, why in failures.items() if place < count}
        tell(f"{work.stopped}: the result holds the first {count} of {len(all_truth)} inputs")
    sound = sound[: len(logits)]
    kl, quadratic, length = spread(found[..., : len(logits)].movedim(-1, 0), sound, count).movedim(0, -1)
    return LocalAccuracy(
        kl=kl,
        quadratic=quadratic,
        length=length,
        norms=norms,
        directions=directions,
        epsilons=torch.tensor(budgets, dtype=torch.float64),
        logits=spread(torch.stack(logits), sound, count),
        labels=all_truth[:count],
        failures=failures,
        net=net,
        steps=steps,
        seed=seed,
        seconds=time.perf_counter() - start,
    )


def _directions() -> tuple[str, ...]:
    """What δ may be: along the leading eigenvector, or what an attack makes of a budget."""
    return "worst", *(way.name for way in ATTACKS.values() if way.aim and not way.vectors)


def _changes(
    net: Classifier,
    x: Tensor,
    labels: Tensor,
    norms: Sequence[str],
    directions: Sequence[str],
    budgets: list[list[float]],
    steps: int,
    seed: int,
    max_memory: float | None,
) -> Iterator[Tensor]:
    """Changes δ (c, D) in float64 by norm, direction and budget; of "worst" both signs."""
    if "worst" in directions:
        vectors = spectrum(net, x, k=1, max_memory=max_memory).eigenvectors
        assert vectors is not None
        v = vectors[:, 0].flatten(1).double()
    for norm, row in zip(norms, budgets, strict=True):
        for direction, epsilon in itertools.product(directions, row):
            if direction == "worst":
                step = epsilon * (v if norm == "l2" else v.sign())
                yield step
                yield -step
                continue
            options = Options(ascent=Ascent(steps=steps), seed=seed)
            moved = within(ATTACKS[direction], net, x, labels, epsilon, norm, options)
            yield (moved.cpu().double() - x.double()).flatten(1)


def _passes(net: Classifier, tried: Sequence[str], steps: int) -> list[float]:
    """How many forward passes each change of an input takes, roughly: one back takes as long as two."""
    options = Options(ascent=Ascent(steps=steps))
    each = {"worst": 0.0} | {name: way.passes(options) / looks(options) for name, way in ATTACKS.items()}
    vector = 1.0 + 2 * min(net.likelihood.rank(len(net.classes)), 25) if "worst" in tried else 0.0
    return [each[name] + (vector if place == 0 else 0.0) for place, name in enumerate(tried)]


def _measured(net: Classifier, x: Tensor, point: Point, changes: Tensor, max_memory: float | None) -> Tensor:
    """KL, ½ δᵀFδ and ‖δ‖ (3, m) of one input's changes (m, D)."""
    there = answers(net, x.double() + changes.unflatten(1, x.shape), precision(net), max_memory)
    kl = net.likelihood.kl(point.logits.expand_as(there), there)
    return torch.stack([kl, point.half_form(changes)[0], changes.norm(dim=1)])


def _chosen(name: str, wanted: Any, valid: tuple[str, ...]) -> tuple[str, ...]:
    """Some of the valid names, each once, in the order given."""
    names = (wanted,) if isinstance(wanted, str) else tuple(wanted) if isinstance(wanted, Iterable) else ()
    if not names or not all(n in valid for n in names) or len(set(names)) < len(names):
        raise ValueError(f"{name} is {wanted!r}, expected some of {', '.join(valid)}, each once")
    return names


def _budgets(epsilons: Any, norms: tuple[str, ...]) -> list[list[float]]:
    """Budgets for each norm, equally many."""
    if isinstance(epsilons, Mapping) and not set(norms) <= set(epsilons):
        raise ValueError(f"epsilons has {', '.join(epsilons)}, expected budgets for {' and '.join(norms)}")
    rows = []
    for norm in norms:
        given = epsilons[norm] if isinstance(epsilons, Mapping) else epsilons
        if isinstance(given, Tensor):
            given = given.tolist()
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise TypeError(f"epsilons is {given!r}, expected a list of budgets, for instance [1/255, 2/255]")
        row = [real("a budget", v) for v in given]
        if not row or not all(0 < v < float("inf") for v in row) or sorted(set(row)) != row:
            raise ValueError(f"epsilons are {row}, expected positive finite budgets, ascending")
        rows.append(row)
    if len({len(row) for row in rows}) > 1:
        raise ValueError("epsilons has different numbers of budgets for the two norms, expected equally many")
    return rows
