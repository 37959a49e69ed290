"""`explore`: where is a model fragile? Norms of a whole batch, and some of its samples in full detail."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from fimviz._options import named_options, whole
from fimviz._tell import tell
from fimviz._ways import named
from fimviz.explorer.choice import LEAST, chosen
from fimviz.explorer.detail import examine, nothing
from fimviz.explorer.parts import ATTACK_PASSES, PARTS, extended
from fimviz.explorer.results import CONFIDENCE, MAX_BYTES, Explored, Explorer
from fimviz.fisher.effort import FULL, WORK, Effort, affordable, effort
from fimviz.fisher.matched import spectrum_with_matched
from fimviz.fisher.spectrum import Spectrum
from fimviz.fisher.table import METHODS, by_gradients
from fimviz.model.classifier import Classifier, as_classifier
from fimviz.model.data import unpacked
from fimviz.model.engine.memory import limit
from fimviz.model.engine.parts import Work
from fimviz.model.engine.progress import Stages, wanted
from fimviz.model.failures import known, of_model, settle

_DETAIL, _PLANES = 64, 24  # samples at most, unless asked for
_LONG = "a pass of so large a network takes long"  # by the cost rule of `fimviz.fisher.effort`
_PLANE = 4  # times the rest of a sample's passes, that its plane takes
_PRODUCTS = 24  # vector-Jacobian products, and steps of Lanczos, of an input


@named_options
def explore(
    net: Classifier | nn.Module | Mapping[str, Classifier | nn.Module],
    images: Any,
    labels: Any = None,
    *,
    k: int | None = None,
    detail: int | Sequence[int] | None = None,
    include: Sequence[str] | None = None,
    method: str = "auto",
    max_memory: float | None = None,
    errors: str = "mark",
    seed: int = 0,
    progress: bool | Callable[[int, int], None] = False,
) -> Explorer:
    """Everything about a batch of inputs in one view, which stays alive without a kernel.

    λ₁ is computed for every input: as it is, which says how fast this answer can change, and at matched confidence, all
    logits rescaled to a confidence of 0.9, by which inputs and models are compared; this one leads. What takes many
    passes for each (eigenvectors, what the model says along them, the plane of two) is computed for some, three in four
    of them the most fragile; the live view, `.widget()`, computes the same for any other sample when it is opened.

    Args:
        net: a `Classifier` or a module from pixels in [0, 1] to logits; or two of them by name, to be compared.
        images: (n, …) floats, or a data set (see `Classifier`).
        labels: true classes (n,), or for several yes/no labels (n, K) of 0 and 1.
        k: how many directions of a sample in full detail; by default three, or as many as the method finds, and one
            where a pass over one input takes more than 8e9 multiplications, on a processor.
        detail: how many samples in full detail, or which; by default as many as take a few seconds, from 8 to 64.
            Large networks on large images are asked more coarsely: at some 13 distances, on planes of 5 × 5, and for
            eigenvalues to a thousandth, of smooth networks to what float32 leaves open: their errors say what it is.
        include: which of "plane" (the model on the plane of two directions), "bounds" (every formula of
            `compare_bounds`), "margins" (paths to other classes) and "attributions", of the samples in detail; and of
            "radius" (the certified one, from the norms) and "attacks" (the smallest that succeed, which takes hundreds
            of passes), of all samples. Both together are the distance between certificate and attack, and then the
            radius is from linear bounds too where all samples of a model take some seconds; `adversarial_distance`
            takes longer. By default "plane", but not where one direction is, and "radius" where it is cheap.
        method: of λ₁, as in `spectrum`.
        max_memory: bytes that it may take beside models and images, by default half of what is free.
        errors: what an image is to do whose logits or gradients are not finite, as in `spectrum`: "mark" or "raise".
        seed: of everything random.
        progress: True for a tqdm bar, or a function called with (percent of the time, 100).

    An interrupt returns what is complete.

    Example, p = softmax(x) at p = (½, ½), where λ₁ = ½ and moves along (1, −1)/√2:
        >>> import torch, fimviz as fv
        >>> net = fv.Classifier(torch.nn.Identity(), input_range=None)
        >>> found = fv.explore(net, torch.zeros(2, 2))
        >>> found.frame.spectral_norm.round(6).tolist(), found.places
        ([0.5, 0.5], (0, 1))
    """
    nets = dict[str, Classifier]()
    for name, one in _named(net).items():
        with of_model(name, bool(name)):
            nets[name] = as_classifier(one)
    errors, seed = known(errors), whole("seed", seed, 0)
    progress, max_memory = wanted(progress), limit(max_memory)
    way = named("method", method, METHODS, ["auto", *by_gradients()])
    most = way.most if way else None
    k = None if k is None else whole("k", k, 1)
    if most and k and k > most:
        raise ValueError(f"k is {k} and method is {method!r}, which finds {most} only: pass k={most} or another method")
    if isinstance(include, str) or not set(include or ()) <= set(PARTS):
        raise ValueError(f"include is {include!r}, expected a list of some of {', '.join(PARTS)}")
    images, labels = unpacked(images, labels, next(iter(nets.values())) if len(nets) == 1 else None)
    inputs = []
    for name, model in nets.items():
        with of_model(name, bool(name)):
            inputs.append(model.admit(images, max_memory).detach())
    _same_classes(nets)
    next(iter(nets.values())).likelihood.an_outcome("the explorer compares samples at one confidence")
    n = len(inputs[0])
    afford = affordable(nets.values(), inputs, WORK)
    if not isinstance(detail, Iterable):
        detail = min(n, max(LEAST, min(_DETAIL, afford)) if detail is None else whole("detail", detail, 1))
        count = detail
    else:
        detail = list(dict.fromkeys(whole("detail", place, 0) for place in detail))
        if not detail or max(detail) >= n:
            raise ValueError(f"detail is {detail}, expected places in the batch from 0 to {n - 1}")
        count = len(detail)
    hard = effort(nets.values(), inputs)
    notes = {} if hard.totals else {"direction": f"No trace, as {_LONG}: fv.spectrum has it."}
    if k is None:
        k = min(hard.directions, most or hard.directions)
        if hard.directions < FULL.directions and most != 1:
            notes["direction"] = (
                f"The leading direction alone, and no trace, as {_LONG}: fv.explore(…, k={FULL.directions}) has more "
                "directions, fv.spectrum the trace."
            )
    if include is None and not hard.planes:
        notes["plane"] = f"Left out, as {_LONG}."
    usual = (["plane"] if hard.planes else []) + (["radius"] if hard == FULL else [])
    parts = tuple(usual if include is None else include)
    planes = 0 if "plane" not in parts else count
    if include is None:
        planes = min(planes, _PLANES, max(LEAST, affordable(nets.values(), inputs, WORK // _PLANE)))
    later = [part for part in parts if part != "plane"]
    if (size := len(nets) * count * (1 + k) * inputs[0][0].numel()) > MAX_BYTES:
        warnings.warn(
            f"{count} samples of this size in full detail take about {size / 1e6:.0f} MB, and a page holds "
            f"{MAX_BYTES / 1e6:.0f} MB by itself, with as many as fit: give fewer with detail= or k=, or show all with "
            f".view(max_bytes={math.ceil(1.2 * size / 1e6)}e6)",
            stacklevel=3,
        )
    whole_batch = count == n  # whose eigenvectors are wanted anyway: one spectrum of each model then
    passes = [_passes(model, n, count, planes, k, hard, whole_batch) for model in nets.values()]
    stages = [("norms", p["norms"]) for p in passes] + [("detail", sum(p["detail"] for p in passes))]
    bar = Stages(progress, stages + [(part, p[part]) for p in passes for part in later])

    norms: dict[str, Spectrum] = {}
    matched: dict[str, tuple[Tensor, Tensor]] = {}
    deep: dict[str, Spectrum] = {}
    options: dict[str, Any] = {"method": method, "seed": seed, "errors": errors, "max_memory": max_memory}
    for (name, model), x in zip(nets.items(), inputs, strict=True):
        options |= {"k": k if whole_batch else 1, "vectors": whole_batch, "labels": labels, "progress": bar.next()}
        options |= {"tolerance": hard.tolerance, "totals": hard.totals, "enough": hard.enough}
        with of_model(name, bool(name)):
            norms[name], norm, error = spectrum_with_matched(model, x, confidence=CONFIDENCE, **options)
        matched[name] = norm, error
        if whole_batch:
            deep[name], norms[name] = norms[name], _leading(norms[name])
    shortest = min(len(s) for s in norms.values())
    if shortest < n:  # interrupted: the samples that all models have
        norms = {name: replace(s.take(range(shortest)), _walks={}, _parts={}) for name, s in norms.items()}
    models = {}
    for name, s in norms.items():
        norm, error = matched[name]
        models[name] = Explored(s, nothing(s), norm[:shortest], error[:shortest], notes=notes)
    found = Explorer(models, seed)
    settle(found.failures, shortest, errors)
    if shortest < n:
        return found
    work = Work(n, anyway=True)
    with work:
        places = chosen(list(models.values()), detail)
        options = {"known": deep, "max_memory": max_memory, "progress": bar.next()}
        details = examine(found, places, k, planes=min(planes, len(places)), **options)
        for name, detailed in details.items():
            models[name] = replace(models[name], detail=detailed)
        for name in nets:
            for part in later:
                options = {"max_memory": max_memory, "progress": bar.next(), "lines": "attacks" in parts}
                with of_model(name, bool(name)):
                    models[name] = extended(models[name], part, models[name].detail.places, seed, **options)
        bar.end()
    if work.stopped:
        tell("interrupted: the explorer holds what was complete")
    return Explorer(models, seed)


def _leading(s: Spectrum) -> Spectrum:
    """λ₁ alone, without its eigenvectors."""
    first, error = s.eigenvalues[:, :1], s.error[:, :1]
    return replace(s, eigenvalues=first, error=error, eigenvectors=None, _walks={}, _parts={})


def _passes(
    net: Classifier, n: int, count: int, planes: int, k: int, hard: Effort, whole_batch: bool
) -> dict[str, float]:
    """Roughly how many forward passes the parts take; what counts is how they compare."""
    products = 2.0 * min(len(net.classes) - 1, _PRODUCTS)  # a pass back takes as long as two forward
    paths = 1 if len(net.classes) > 24 else len(net.classes) - 1
    return {
        "norms": n * (1 + products),
        "detail": count * ((0 if whole_batch else 1 + products) + sum(hard.passes[:2]) + hard.passes[2] * (k - 1))
        + planes * hard.points**2,
        "radius": 2.0 * n,
        "bounds": count * (1 + products),
        "attacks": float(n * ATTACK_PASSES + planes * hard.points**2),
        "margins": count * paths * 20 * (1 + products),
        "attributions": count * 150.0,
    }


def _named(net: Any) -> dict[str, Classifier | nn.Module]:
    if not isinstance(net, Mapping) or isinstance(net, nn.Module):  # an nn.ModuleDict is a module
        return {"": net}
    if len(net) not in (1, 2) or not all(isinstance(name, str) and name for name in net):
        raise ValueError(f"the models are {list(net)}, expected one or two, each under a name")
    return dict(net)


def _same_classes(nets: dict[str, Classifier]) -> None:
    first, *others = nets.items()
    for name, other in others:
        if other.classes != first[1].classes or other.likelihood != first[1].likelihood:
            raise ValueError(
                f"{first[0]} has {len(first[1].classes)} classes and {name} has {len(other.classes)}, expected two "
                "models of the same classes under the same names: give both the same classes="
            )
