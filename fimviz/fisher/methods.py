"""`spectrum`: one door to all methods. Which one, in what chunks, and one result of the pieces."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fimviz._options import flag, named_options, real, whole
from fimviz._tell import tell
from fimviz._ways import named
from fimviz.fisher.block import Block, joined
from fimviz.fisher.method import ENOUGH, Asked, Beside, Method
from fimviz.fisher.precision import Precision
from fimviz.fisher.spectrum import Cost, Spectrum
from fimviz.fisher.table import METHODS
from fimviz.model.blackbox import BlackBox
from fimviz.model.classifier import Classifier, as_classifier
from fimviz.model.data import unpacked
from fimviz.model.engine.memory import limit
from fimviz.model.engine.parts import Work, answers
from fimviz.model.engine.plan import plan
from fimviz.model.engine.progress import wanted
from fimviz.model.failures import known, others, settle, spread
from fimviz.model.labels import read_labels

UNVERIFIED = "unverified"
# Gradients, for no and for each eigenvalue, beyond which Lanczos is cheaper than all of them: tests/benchmarks measured
# 23 to 26 for one and 30 to 38 for three.
_CROSSOVER = 18, 6


@named_options
def spectrum(
    net: Classifier | BlackBox | nn.Module,
    images: Any,
    *,
    k: int | None = None,
    method: str = "auto",
    vectors: bool = True,
    labels: Any = None,
    tolerance: float | None = None,
    max_steps: int = 100,
    probes: int = 100,
    step: float | None = None,
    seed: int = 0,
    verify: bool | None = None,
    max_memory: float | None = None,
    errors: str = "mark",
    progress: bool | Callable[[int, int], None] = False,
) -> Spectrum:
    """The spectrum of the input-space Fisher information at each input of a batch.

    F(x) = Jᵀ S(p) J with J = ∂logits/∂x has rank at most K−1, of outputs that are independent K. "exact" takes one
    forward pass and as many vector-Jacobian products toward the input, and gives all of it; "lanczos" takes some five
    pairs of VJP and JVP for the leading eigenvalue and three more for each other one, whatever K; "power" is the power
    iteration of the literature, for comparison; "blackbox" only asks the model for its answers (`BlackBox`), and gives
    estimates with error bars.

    Args:
        net: a `Classifier`, or a module from pixels in [0, 1] to logits.
        images: (n, …) floats, or a data set (see `Classifier`); batches larger than memory are fine on the CPU.
        k: how many eigenvalues, the largest first, at most as many as can differ from 0. By default all with "exact"
            (so with "auto" too), 1 with the others.
        method: "auto" takes "lanczos" where few eigenvalues of many classes are wanted, else "exact", and says why.
        vectors: whether to compute eigenvectors.
        labels: true classes (n,), for several yes/no labels (n, K) of 0 and 1, or of a likelihood of numbers (n, K) of
            these, shown beside the predictions.
        tolerance: relative iteration error at which "lanczos" stops, by default 1e-6, or 4e-6 where passes back are in
            float32, and 2e-5 where all are: rounding makes `error` as much anyway. Relative residual for "power", by
            default 1e-6.
        max_steps: at which both stop anyway, with what they have; `error` tells how far they came.
        probes: random directions of "blackbox"; it asks 2·probes + 1 questions an input, and a few to choose the step.
        step: its finite-difference step, an L2 length in input units; by default chosen for every input.
        seed: of everything random.
        verify: whether to take the forward pass in float64, so that rounding moves no input across a kink of the
            network, and to measure the rounding of the passes back. These stay in float32 where they go through
            convolutions, ReLUs, max pools and the like. Smooth networks run in float32 altogether, and again in float64
            at inputs where that leaves more than 0.05 % of λ₁ open; other models in float64. By default done unless the
            classifier says precision="float32", wherever the model and the device can. Without it passes run in
            float32, `guarantee` is "unverified", and `error` holds what rounding does at a neighbour of each input,
            kinks included, with one forward pass and VJP more; where values are tied, as in a flat background before a
            max pool, that may be as much as λ itself.
        max_memory: bytes that the computation may take beside model and images, by default half of what is free.
        errors: what an image is to do whose logits or gradients are not finite: "mark", its row is NaN and says why
            (`Spectrum.failures`, and the column `failure` of its frame), or "raise".
        progress: True for a tqdm bar, or a function called with (inputs done, inputs in all).

    An interrupt returns the inputs that are complete.

    Returns:
        A `Spectrum`. With "exact", relative error of λ₁ below 1e-4 for float32 networks, 1e-10 for float64 ones, also
        where the prediction is saturated (λ down to 1e-300).

    Example, p = softmax(W x) at p = (½, ½), where λ₁ = ¼ ‖w₁ − w₂‖²:
        >>> import torch, fimviz as fv
        >>> model = torch.nn.Linear(3, 2, bias=False).double()
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]))
        >>> s = fv.spectrum(model, torch.zeros(1, 3))
        >>> round(s.spectral_norm.item(), 12), s.eigenvectors.flatten().abs().tolist()
        (1.0, [1.0, 0.0, 0.0])
    """
    return found_with(
        net,
        images,
        None,
        k=k,
        method=method,
        vectors=vectors,
        labels=labels,
        tolerance=tolerance,
        max_steps=max_steps,
        probes=probes,
        step=step,
        seed=seed,
        verify=verify,
        max_memory=max_memory,
        errors=errors,
        progress=progress,
    )[0]


def found_with(
    net: Classifier | BlackBox | nn.Module,
    images: Any,
    beside: Beside | None,
    *,
    k: int | None = None,
    method: str = "auto",
    vectors: bool = True,
    labels: Any = None,
    tolerance: float | None = None,
    max_steps: int = 100,
    probes: int = 100,
    step: float | None = None,
    seed: int = 0,
    verify: bool | None = None,
    max_memory: float | None = None,
    errors: str = "mark",
    progress: bool | Callable[[int, int], None] = False,
    totals: bool = True,
    enough: float = ENOUGH,
) -> tuple[Spectrum, Tensor | None, Tensor | None]:
    """`spectrum`, and from the same passes λ₁ (n,) beside another likelihood and its error (n,), where one is given.

    Without `totals`, trace and Frobenius norm are NaN where they would take passes of their own; `enough` is the
    relative error of λ₁ that a smooth network's passes in float32 may state.
    """
    asked_for = named("method", method, METHODS, ("auto", *METHODS))
    errors = known(errors)
    k = None if k is None else whole("k", k, 1)
    max_steps, seed, probes = whole("max_steps", max_steps, 1), whole("seed", seed, 0), whole("probes", probes, 1)
    if seed >= 2**63:
        raise ValueError(f"seed is {seed}, expected less than 2**63")
    flag("vectors", vectors)
    flag("verify", False if verify is None else verify)
    progress, max_memory = wanted(progress), limit(max_memory)
    step = None if step is None else real("step", step)
    if asked_for and asked_for.most and k is not None and k > asked_for.most:
        what = "the leading eigenvalue" if asked_for.most == 1 else f"{asked_for.most} eigenvalues"
        raise ValueError(f"k is {k} and method is {method!r}, which finds {what} only: use 'lanczos'")
    if tolerance is not None and not 0 < real("tolerance", tolerance) < 1:
        raise ValueError(f"tolerance is {tolerance}, expected a number between 0 and 1")
    net = net if isinstance(net, BlackBox) else as_classifier(net)
    images, labels = unpacked(images, labels, net)
    x = net.admit(images, max_memory).detach()
    truth = read_labels(labels, len(x), net)
    possible = net.has_float64 or net.dtype == torch.float64
    if verify and not possible:
        raise ValueError("verify=True needs a float64 pass, which this model or device cannot do: leave it out")
    plain = isinstance(net, Classifier) and net.precision == "float32"
    verify = possible and not plain if verify is None else bool(verify)
    precision = Precision.of(net, x.dtype, verify)
    rank = net.likelihood.rank(len(net.classes))
    way, reason = _choose(net, asked_for, k, rank)
    guarantee, said = _meant(net, way, precision)
    asked = Asked(
        k=min(k or (rank if way.whole else 1), rank, x[0].numel()),
        vectors=vectors,
        tolerance=tolerance,
        max_steps=max_steps,
        probes=probes,
        step=step,
        seed=seed,
        precise=precision.precise,
        totals=totals,
        enough=enough,
        beside=beside,
    )
    start = time.perf_counter()
    work = Work(len(x), progress, errors=errors)
    blocks: list[Block] = []
    sharpened = 0

    def compute(places: list[int], cotangents: int) -> tuple[Block, int]:
        block, again = precision.run(net, x[places].to(net.device), way, replace(asked, cotangents=cotangents))
        return replace(block, eigenvectors=block.eigenvectors.to(x.dtype)), again

    with net.at_rest(), work:
        for _, (block, again) in work.parts(*_at_once(net, x, way, asked, precision, rank, max_memory), compute):
            blocks.append(block)
            sharpened += again
    done, failures = work.done, work.failures
    if work.stopped:
        tell(f"{work.stopped}: the spectrum holds the first {done} of {len(x)} inputs")
    settle(failures, done, errors)
    found = joined(blocks)
    if failures:
        found = spread(found, others(failures, done), done)
    said += _noticed(net, way, precision, found, sharpened)
    logits = _asked_again(net, x, found.logits, failures)
    forwards, vjps, jvps = (n.clamp_min(0) for n in (found.forwards, found.vjps, found.jvps))  # −1 where they failed
    s = Spectrum(
        eigenvalues=found.eigenvalues,
        error=found.error,
        trace=found.trace,
        trace_error=found.trace_error,
        frobenius=found.frobenius,
        frobenius_error=found.frobenius_error,
        eigenvectors=found.eigenvectors.unflatten(2, x.shape[1:]) if vectors else None,
        probabilities=net.likelihood.mean(logits),
        logits=logits,
        logit_error=found.logit_error,
        images=x[:done].cpu(),
        labels=None if truth is None else truth[:done],
        net=net,
        method=way.name,
        reason=reason + said,
        guarantee=guarantee,
        cost=Cost(forwards, vjps, jvps, time.perf_counter() - start),
        history=found.history,
        failures=dict(sorted(failures.items())),
    )
    return s, found.beside, found.beside_error


def _meant(net: Classifier | BlackBox, way: Method, precision: Precision) -> tuple[str, str]:
    """The guarantee that a method gives for a model, and what `Spectrum.reason` says of it."""
    guarantee, said = way.guarantee, ""
    if way.answers or isinstance(net, BlackBox):
        return guarantee, said
    if not precision.verified:
        guarantee = UNVERIFIED
        said = (
            "; not verified: passes in float32, whose rounding may have crossed kinks of the network, which `error` "
            "knows from a neighbour of the input"
        )
    if blind := net.undescribed:
        guarantee, said = "void", f"{said}; {blind}"
    return guarantee, said


def _at_once(
    net: Classifier | BlackBox,
    x: Tensor,
    way: Method,
    asked: Asked,
    precision: Precision,
    rank: int,
    max_memory: float | None,
) -> tuple[int, int]:
    """How many inputs, and how many cotangents of each, a method takes at a time."""
    if way.answers or isinstance(net, BlackBox):
        return 1, 1
    plain = ", fv.Classifier(…, precision='float32')" if precision.precise or precision.sharpens else ""
    other = "a smaller max_steps=" if way.along else "method='lanczos'"
    mend = f"use smaller images{plain} or {other}"
    inputs, cotangents = plan(
        net,
        x,
        asked.k,
        asked.vectors,
        way.rows(rank, asked.max_steps),
        way.along,
        precision.precise,
        max_memory,
        precision.passes,
        mend,
        precision.sharpens,
    )
    return inputs, 1 if way.along else cotangents


def _noticed(net: Classifier | BlackBox, way: Method, precision: Precision, found: Block, sharpened: int) -> str:
    """What `Spectrum.reason` says of passes that were taken again, and of answers that do not change smoothly."""
    said, count = "", len(found.logits)
    if precision.sharpens and not way.answers:
        said = "; the network is smooth: passes in float32, with their rounding measured"
        if sharpened:
            said += f", and at {sharpened} of {count} inputs again in float64"
    if found.rough is not None and (rough := int(found.rough.sum())):
        said += f"; at {rough} of {count} inputs the answers do not change smoothly"
        tell(
            f"at {rough} of {count} inputs the answers of {net!r} do not change smoothly (they are rounded, clipped, "
            "go in steps or never change): their intervals are wide"
        )
    return said


def _asked_again(net: Classifier | BlackBox, x: Tensor, logits: Tensor, failures: Mapping[int, str]) -> Tensor:
    """The logits, also of inputs where only slopes failed."""
    if failures and isinstance(net, Classifier):
        lost = sorted(failures)
        z = torch.cat([answers(net, x[[place]]) for place in lost])
        logits[lost] = torch.where(z.isfinite().all(1, keepdim=True), z, torch.nan)
    return logits


def _choose(net: Classifier | BlackBox, asked_for: Method | None, k: int | None, rank: int) -> tuple[Method, str]:
    """The method and why."""
    if isinstance(net, BlackBox):
        if asked_for and not asked_for.answers:
            raise ValueError(f"method is {asked_for.name!r} and a BlackBox has no gradients: use 'blackbox'")
        return asked_for or METHODS["blackbox"], "answers are all that this model gives"
    if asked_for:
        return asked_for, "asked for"
    exact, lanczos = METHODS["exact"], METHODS["lanczos"]
    base, each = _CROSSOVER
    if rank <= base + each:
        return exact, f"the {rank} gradients of so few classes cost no more than an iteration"
    if k is None or rank <= base + each * k:
        return exact, f"{'all' if k is None else k} of {rank} eigenvalues are wanted: give a smaller k for 'lanczos'"
    return lanczos, f"{k} of {rank} eigenvalues take fewer passes than {rank} gradients"
