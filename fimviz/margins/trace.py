"""`trace_margins`: one door to all paths. What is asked, in what chunks, and one result of the pieces."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fimviz._options import flag, named_options, real, whole
from fimviz._tell import tell
from fimviz.margins.collect import collect
from fimviz.margins.state import Attempt, OpenPath, Rules, fallbacks
from fimviz.margins.stepper import Stepper
from fimviz.margins.traces import MarginTraces, Settings
from fimviz.model.classifier import Classifier, as_classifier
from fimviz.model.data import unpacked
from fimviz.model.engine.memory import limit
from fimviz.model.engine.parts import Work, answers
from fimviz.model.engine.plan import steps_together
from fimviz.model.engine.progress import Stages, Tick, wanted
from fimviz.model.failures import LOGITS, known, settle
from fimviz.model.labels import read_labels

METHODS = ("natural", "gradient", "pgd", "geodesic", "straight", "published")
SOLVERS = ("auto", "gram", "cg")
_GRAM = 64  # classes up to which all gradients are cheaper than conjugate gradients
_NOISE = 0.1  # of a smoothed slope's copies, of the input range's width
_RETRY = 4.0  # times as long as a path, that one takes which is made again
_GROUP = 128  # paths that are brought to their ends together, so that an interrupt finds some complete


@named_options
def trace_margins(
    net: Classifier | nn.Module,
    images: Any,
    labels: Any = None,
    *,
    targets: str | Sequence[int | str] | Tensor = "all",
    step: float | None = None,
    damping: float | None = None,
    trust_region: float | None = None,
    max_steps: int = 300,
    method: str = "natural",
    solver: str = "auto",
    verify: bool = True,
    retry: bool = True,
    keep_images: bool = True,
    seed: int = 0,
    max_memory: float | None = None,
    errors: str = "mark",
    progress: bool | Callable[[int, int], None] = False,
) -> MarginTraces:
    """Walk paths from inputs to other classes and measure how long they are in the model's own geometry.

    From every sample x of predicted class y toward every target k, the logit gap log p_y − log p_k is descended along
    v = (F + λI)⁻¹ g, g = ∇ₓ gap, until the class changes: to k, or to another class, which then shields k from y. The
    last step is closed in on, so that the path ends just beyond the boundary.

    The source is the class that the model predicts: margin(x, y) is 0 for any other. Labels do not move a path; they
    mark misclassified samples (for which the label is one of the targets), which `shielding` leaves out.

    Args:
        net: a `Classifier` of one of K classes, or a module from pixels in [0, 1] to logits.
        images: (m, …) floats, or a data set (see `Classifier`).
        labels: true classes (m,), or None.
        targets: "all" others; "runner-up", the second most probable class; classes by number or name, for every
            sample; or integers (m, t), for each sample its own.
        step: η, the Fisher–Rao length of a step: √(δᵀFδ), and at most 1.5 η as measured. By default 0.2, published 1.
        damping: τ, λ = τ λ_max(x): little follows the geometry of the simplex, much the plain gradient. By default
            0.01. With "published" λ itself, by default 1e-3, which the paper leaves open.
        trust_region: r, L2 length that no step exceeds, in pixel units; by default 0.1 of the input range's width.
        max_steps: at which a path ends anyway.
        method: the direction. "natural"; "gradient": g; "pgd": the signs of g after one random step; "geodesic": the
            simplex's shortest way to the boundary of y and k, by damped least squares; "straight": the line to the
            natural path's end, in as many pieces; "published": the paper's algorithm as printed (unit steps
            v/√(gᵀv), absolute damping, no trust region, no box, no line search, ends where it first finds another
            class), except for its sign, which as printed widens the gap, and its solver, of the same equations. Its
            count of steps is in `counted`; `length` is measured for it too.
        solver: "gram", K−1 VJPs a step and an exact solution in class space; "cg", conjugate gradients by VJPs and
            JVPs to a residual of 1e-3; "auto" takes "gram" up to 64 classes.
        verify: whether to path everything again with steps of half the size (half of η and of r, or of the longest
            step that a path took, if that was shorter), which triples the time, so that `length_error` tells what
            the steps' size did, whichever of the two set it.
        retry: whether a path that stalls or runs out of steps is made again with what gets through flat slopes: with
            damping 1, along the plain gradient, and where that fails too, with "pgd". `made_by` says which made each
            path; one that none brings to another class is that of the first. "published" is as printed, or not at all.
        keep_images: whether paths keep their images: 2 bytes a value and step, for differences from the start.
        seed: of the random first step of "pgd" and of the noise below, the same for all paths.
        max_memory: bytes for the passes, by default half of what is free.
        errors: what an image is to do whose logits or gradients are not finite: "mark", it has no paths, and a row of
            NaN with the reason in the frame, or "raise". A path that comes to such a place ends there as "failed".
        progress: True for a tqdm bar, or a function called with (how much of the time is over, counted in paths, and
            paths in all) after every step, which may raise to stop: KeyboardInterrupt as below, anything else for
            good.

    Networks trained to ignore small changes may have slopes that say nothing far from a boundary, as behind a threshold
    that almost every pixel is below. So from the third step on that has not narrowed the gap, a "natural", "gradient"
    or "geodesic" path takes its slope from the mean logits over four copies of the image with Gaussian noise of 0.1 of
    the input range's width (a new draw every step); where the path goes, how long it is and where it ends are still
    the network's own. `smoothed` tells on what share of the steps. The others never do.

    An interrupt returns all paths, with those not finished as far as they came and `status` "interrupted".

    Returns:
        `MarginTraces`.

    Raises:
        ValueError: labels or targets out of range, a target that is the source, several yes/no labels, a bad option.

    Source: Amari (1998) for the natural gradient; the algorithm and the definition of shielding are those of De and
    Säfken's poster on Fisher–Rao margins. Where this departs from it: `method`.

    Example, two classes p = softmax(x) from p = (0.9, 0.1): the boundary is at the closed-form distance:
        >>> import math, torch
        >>> from fimviz.model.classifier import Classifier
        >>> net = Classifier(torch.nn.Identity().double(), input_range=None)
        >>> x = torch.tensor([[math.log(9), 0.0]], dtype=torch.float64)
        >>> t = trace_margins(net, x, trust_region=1.0)
        >>> t.status, t.hit.item(), round(t.length.item(), 3), round(t.bound.item(), 3)
        (('flipped',), 1, 0.927, 0.927)
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
    if solver not in SOLVERS:
        raise ValueError(f"solver is {solver!r}, expected one of {', '.join(SOLVERS)}")
    literal = method == "published"
    step = positive("step", step, 1.0 if literal else 0.2)
    damping = positive("damping", damping, 1e-3 if literal else 0.01)
    errors, max_steps, seed = known(errors), whole("max_steps", max_steps, 1), whole("seed", seed, 0)
    verify, retry, keep_images = flag("verify", verify), flag("retry", retry), flag("keep_images", keep_images)
    progress, max_memory = wanted(progress), limit(max_memory)
    net = as_classifier(net)
    images, labels = unpacked(images, labels, net)
    x = net.admit(images, max_memory).detach().cpu()
    classes = len(net.classes)
    net.likelihood.one_of_classes("a margin needs one predicted class")
    truth = read_labels(labels, len(x), net)
    low, high = net.input_range or (float(v) for v in x.aminmax())
    trust_region = positive("trust_region", trust_region, 0.1 * (high - low) or 0.1)
    solver = ("gram" if classes <= _GRAM else "cg") if solver == "auto" else solver
    box = None if literal else net.input_range
    rules = Rules(
        "natural" if method == "straight" else method,
        step,
        damping,
        trust_region,
        max_steps,
        solver,
        box,
        _NOISE * (high - low),
        seed,
    )
    settings = Settings(method, step, damping, trust_region, max_steps, solver, verify, retry, seed)
    start = time.perf_counter()
    with net.at_rest():
        z = answers(net, x, max_memory=max_memory)
        failures = dict.fromkeys((~z.isfinite().all(1)).nonzero()[:, 0].tolist(), LOGITS)
        settle(failures, len(x), errors)
        paths = [
            OpenPath(i, int(z[i].argmax()), k, x[i], z[i])
            for i, aimed in enumerate(_targets(targets, z, net.classes, failures))
            for k in aimed
            if i not in failures
        ]
        whole_gram = rules.solver == "gram"
        rows = len(net.classes) - 1 if whole_gram else 4
        chunk = steps_together(net, x, rows, not whole_gram, max_memory)
        halved: dict[int, OpenPath] = {}
        twice = verify and not literal
        group, work = max(_GROUP, chunk), Work(len(paths), anyway=True)

        def expected(place: int) -> list[tuple[str, float]]:
            """The stages of all groups from a place on; half steps take twice as long."""
            counts = [min(group, len(paths) - start) for start in range(place, len(paths), group)]
            return [stage for n in counts for stage in (("path", n), *([("halved", 2 * n)] if twice else []))]

        bar = Stages(progress, expected(0), total=len(paths), unit="path")
        with work:
            for place in range(0, len(paths), group):
                some = paths[place : place + group]
                _bring(net, rules, method, keep_images, some, chunk, bar.next())
                for other in fallbacks(Attempt(method, damping)) if retry else []:
                    lost = [i for i in range(place, place + len(some)) if paths[i].status in ("stalled", "budget")]
                    if lost:
                        own = [("halved", 2.0 * len(some))] if twice else []
                        bar.expect([("retry", _RETRY * len(lost)), *own, *expected(place + group)])
                        _retry(net, rules, other, keep_images, paths, lost, chunk, bar.next())
                some = paths[place : place + group]
                if twice:
                    again = _again(net, rules, method, [_halved(t, x, z, rules) for t in some], chunk, bar.next())
                    halved.update({id(t): a for t, a in zip(some, again, strict=True)})
            bar.end()
        if work.stopped:
            done = sum(t.status != "interrupted" for t in paths)
            tell(f"{work.stopped}: {done} of {len(paths)} paths are complete")
    failures |= {t.sample: t.failure for t in paths if t.failure and not t.steps}
    settle(failures, len(x), errors)
    paths = [t for t in paths if t.sample not in failures]
    z[list(failures)] = torch.nan
    return collect(
        net, x, z, truth, paths, halved, settings, time.perf_counter() - start, dict(sorted(failures.items()))
    )


def _largest_share(path: OpenPath, rules: Rules) -> float:
    """The share of η or r that a path's longest step used: a path shorter than half of η is one step with that too."""
    return min(1.0, max((max(s.fr / rules.step, s.l2 / rules.trust_region) for s in path.steps), default=1.0)) or 1.0


def _halved(path: OpenPath, x: Tensor, z: Tensor, rules: Rules) -> OpenPath:
    """The same from its start, with steps of half the size."""
    start = x[path.sample], z[path.sample]
    return OpenPath(path.sample, path.source, path.target, *start, _largest_share(path, rules) / 2, path.attempt)


def _by(rules: Rules, attempt: Attempt | None) -> Rules:
    """The rules of another attempt."""
    if attempt is None:
        return rules
    method = "natural" if attempt.method == "straight" else attempt.method
    return rules._replace(method=method, damping=attempt.damping)


def _retry(
    net: Classifier,
    rules: Rules,
    attempt: Attempt,
    keep: bool,
    paths: list[OpenPath],
    lost: list[int],
    chunk: int,
    progress: Tick,
) -> None:
    """Put paths that change the class in the places, in place, of those that stalled or ran out of steps."""
    anew = [
        OpenPath(t.sample, t.source, t.target, t.origin, t.first, attempt=attempt) for t in (paths[i] for i in lost)
    ]
    try:
        _bring(net, _by(rules, attempt), attempt.method, keep, anew, chunk, progress)
    finally:  # also what an interrupt leaves
        for i, path in zip(lost, anew, strict=True):
            if path.status == "flipped":
                paths[i] = path


def _again(
    net: Classifier, rules: Rules, method: str, paths: list[OpenPath], chunk: int, progress: Tick
) -> list[OpenPath]:
    """The paths brought to their ends by what made their likes, with twice the steps."""
    finer, done = rules._replace(max_steps=2 * rules.max_steps), 0
    for attempt in dict.fromkeys(t.attempt for t in paths):
        made = [t for t in paths if t.attempt == attempt]

        def tick(part: int, whole: int, done: int = done, count: int = len(made)) -> None:
            progress(done * whole + part * count, len(paths) * whole)

        _bring(net, _by(finer, attempt), attempt.method if attempt else method, False, made, chunk, tick)
        done += len(made)
    return paths


def _bring(
    net: Classifier,
    rules: Rules,
    method: str,
    keep: bool,
    paths: list[OpenPath],
    chunk: int,
    progress: Tick,
) -> None:
    """Bring paths to their ends, in place; for the straight line, natural ones first.

    Those on their way count by how far they have narrowed the gap between the logits.
    """
    guides: list[OpenPath] = []

    def tick() -> None:
        along = [t.way if t.status == "interrupted" else 1.0 for t in (*guides, *paths)]
        progress(int(1000 * sum(along)), 1000 * len(along))

    if method != "straight":
        Stepper(net, rules, keep, tick=tick).run(paths, chunk)
        return
    guides += [OpenPath(t.sample, t.source, t.target, t.x, t.z, t.share) for t in paths]
    Stepper(net, rules, False, tick=tick).run(guides, chunk)
    goals = {id(t): (g.x, max(1, len(g.steps))) for t, g in zip(paths, guides, strict=True)}
    for t, g in zip(paths, guides, strict=True):
        if g.failure and not g.steps:
            t.status, t.failure = g.status, g.failure
    Stepper(net, rules._replace(method="straight"), keep, goals, tick).run(paths, chunk)


def positive(name: str, value: Any, default: float = 0.0) -> float:
    """An option that is a size, or its default for None."""
    number = default if value is None else real(name, value)
    if not 0 < number < float("inf"):
        raise ValueError(f"{name} is {value!r}, expected a positive finite number")
    return number


def _targets(targets: Any, z: Tensor, names: list[str], failures: Container[int] = ()) -> list[list[int]]:
    """The classes aimed at from each sample."""
    count, classes = z.shape
    source = z.argmax(1)
    if isinstance(targets, str):
        if targets == "all":
            return [[k for k in range(classes) if k != int(y)] for y in source]
        if targets == "runner-up":
            return [[int(k)] for k in z.scatter(1, source[:, None], -torch.inf).argmax(1)]
        raise ValueError(f"targets is {targets!r}, expected 'all', 'runner-up' or a list of classes")
    given = _listed(targets)
    if not isinstance(given, Iterable):
        raise TypeError(f"targets is {targets!r}, expected 'all', 'runner-up' or a list of classes")
    given = [_listed(row) for row in given]
    own = bool(given) and all(isinstance(row, list | tuple) for row in given)
    if own and len(given) != count:
        raise ValueError(f"targets have {len(given)} rows, expected one for each of {count} images")
    rows = [[_class(t, names) for t in row] for row in given] if own else [[_class(t, names) for t in given]] * count
    if not rows or not all(rows):
        raise ValueError("targets are empty, expected at least one class")
    for i, row in enumerate(rows):
        if len(set(row)) < len(row):
            raise ValueError(f"targets {row} name a class twice, expected each once")
        if int(source[i]) in row and i not in failures:
            raise ValueError(
                f"target {int(source[i])} is the class that the model predicts for image {i}, expected another one: "
                "leave that image out, or pass its own targets as a row of integers (m, t)"
            )
    return rows


def _listed(given: Any) -> Any:
    return given.tolist() if hasattr(given, "tolist") else given


def _class(given: Any, names: list[str]) -> int:
    if isinstance(given, str):
        if given not in names:
            raise ValueError(f"target {given!r} is no class of this model, expected one of {', '.join(names[:20])}")
        return names.index(given)
    number = whole("a target", given, 0)
    if number >= len(names):
        raise ValueError(f"target {number} is no class of this model, expected 0 to {len(names) - 1}")
    return number
