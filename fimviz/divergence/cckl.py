"""`cckl`: one door to cross-category divergences. Which pairs, in what chunks, and one result of the pieces."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fimviz._options import named_options, whole
from fimviz._tell import tell
from fimviz.divergence.crosscategory import CrossCategoryKL
from fimviz.divergence.curvature import passes_of_a_point, points
from fimviz.divergence.pairs import choose
from fimviz.divergence.theorem import checked_alpha
from fimviz.fisher.passes import unsound
from fimviz.model.classifier import Classifier, as_classifier
from fimviz.model.data import unpacked
from fimviz.model.engine.memory import limit
from fimviz.model.engine.parts import Work
from fimviz.model.engine.progress import Stages, wanted
from fimviz.model.failures import known, others, settle
from fimviz.model.labels import read_labels
from fimviz.model.likelihoods import Likelihood

_SLAB = 2**21  # float64 numbers in a block of displacements or logits


@named_options
def cckl(
    net: Classifier | nn.Module,
    images: Any,
    labels: Any = None,
    *,
    pairs: int | str = "all",
    alpha: float = 0.99,
    seed: int = 0,
    resamples: int = 1000,
    max_memory: float | None = None,
    errors: str = "mark",
    progress: bool | Callable[[int, int], None] = False,
) -> CrossCategoryKL:
    """How far the model's answers to samples of different categories lie apart, and how much of it is second-order.

    For an ordered pair (i, j) of samples whose labels differ, KL(f(x_i) ‖ f(x_j)) = G1 + G2 with
    G1 = ½ (x_j − x_i)ᵀ F(x_i) (x_j − x_i), the part that F, and with it every small perturbation of x_i, knows of, and
    G2 all the rest, which may be negative. CCKL is the mean KL over pairs.

    All gradients of an input serve all its pairs, so that n samples take n forward passes and n (K − 1)
    vector-Jacobian products; with more classes than pairs of an input, one Jacobian-vector product a pair and some
    iterations for λ₁. Passes are in float64 wherever network and device can.

    Args:
        net: a `Classifier` of one of K classes, or a module from pixels in [0, 1] to logits.
        images: (n, …) floats, or a data set (see `Classifier`).
        labels: (n,) class indices. The category of a sample is its label, whatever the model says.
        pairs: "all", or how many, drawn by chance among all. Both directions of a pair are always taken, so that an
            odd number becomes the next even one.
        alpha: how much of a label stays on its class in Theorem 3.1, from 0 to 1; the rest is spread over all classes.
            The paper leaves it open.
        seed: of the pairs drawn and of the bootstrap.
        resamples: of the bootstrap over samples that gives standard errors.
        max_memory: bytes that the computation may take beside model and images, by default half of what is free.
        errors: what an image is to do whose logits or gradients are not finite: "mark", its pairs are in no mean, and
            stand in the frame as NaN with the reason, or "raise".
        progress: True for a tqdm bar, or a function called with (percent of the time, 100).

    An interrupt returns the pairs whose samples are both complete.

    Returns:
        A `CrossCategoryKL`.

    Raises:
        TypeError: labels missing or no numbers, an unknown option.
        ValueError: labels of one category only, several yes/no labels, an option out of range.
        MemoryError: more pairs than fit.

    Source: "Towards Disentangling Non-Robust and Robust Components in Performance Metric" (submitted to ICLR 2020),
    equations 2, 14 and 16 and Theorem 3.1.

    Example, a linear model of two classes with p = (½, ½) at x = 0 and (0.9, 0.1) at x = log 3, where KL, G1 and G2
    have closed forms:
        >>> import math, torch, fimviz as fv
        >>> model = torch.nn.Linear(1, 2, bias=False).double()
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
        >>> net = fv.Classifier(model, input_range=None)
        >>> r = fv.cckl(net, torch.tensor([[0.0], [math.log(3)]]), [0, 1])
        >>> [round(v, 6) for v in r.kl.tolist()]  # log(5/3), and 0.9 log 9/5 + 0.1 log 1/5
        [0.510826, 0.368064]
        >>> [round(v / math.log(3) ** 2, 6) for v in r.g1.tolist()]  # ½ Var of ±log 3, at either end
        [0.5, 0.18]
    """
    start = time.perf_counter()
    seed, resamples = whole("seed", seed, 0), whole("resamples", resamples, 2)
    errors, alpha = known(errors), checked_alpha(alpha)
    progress, max_memory = wanted(progress), limit(max_memory)
    net, x, truth = labelled(net, images, labels, "CCKL compares samples of different categories")
    i, j = choose(truth, pairs, seed, max_memory)
    passes = 3.0, passes_of_a_point(net, min(int(i.bincount().max()), len(x)))
    bar = Stages(progress, [(kind, n * len(x)) for kind, n in zip(("check", "gradients"), passes, strict=True)])
    failures = unsound(net, x, max_memory=max_memory, progress=bar.next())
    settle(failures, len(x), errors)
    sound = torch.isin(torch.arange(len(x)), others(failures, len(x)))
    both = sound[i] & sound[j]
    if not both.any():
        raise FloatingPointError(
            f"no pair of images of different categories can be computed: {'; '.join(set(failures.values()))} for image "
            f"{', '.join(map(str, failures))}"
        )
    lost = torch.stack([i[~both], j[~both]])
    i, j = i[both], j[both]
    each = i.bincount(minlength=len(x))
    used = each.nonzero()[:, 0]
    logits = torch.full((len(x), len(net.classes)), torch.nan, dtype=torch.float64)
    norms = torch.full((len(x),), torch.nan, dtype=torch.float64)
    g1, error, l2 = (torch.full((len(i),), torch.nan, dtype=torch.float64) for _ in range(3))
    flat = x.flatten(1)
    work, some = Work(len(used)), points(net, x[used], int(each.max()), max_memory, bar.next())
    with net.at_rest(), work:
        for at, point in zip(used.tolist(), some, strict=True):
            first = int(each[:at].sum())
            for part in torch.arange(first, first + int(each[at])).split(max(1, _SLAB // flat.shape[1])):
                deltas = flat[j[part]].double() - flat[at].double()
                g1[part], error[part] = point.half_form(deltas)
                l2[part] = deltas.norm(dim=1)
            logits[at], norms[at] = point.logits, point.spectral_norm
            work.reached(work.done + 1)
        bar.end()
    if work.stopped:
        complete = ~norms.isnan()
        kept = complete[i] & complete[j]
        if not kept.any():
            raise KeyboardInterrupt
        tell(f"{work.stopped}: the result holds {int(kept.sum())} of {len(i)} pairs")
        i, j, g1, error, l2 = (v[kept] for v in (i, j, g1, error, l2))
    return CrossCategoryKL(
        i=i,
        j=j,
        kl=divergences(net.likelihood, logits, i, j),
        g1=g1,
        g1_error=error,
        limit=0.5 * norms[i] * l2**2,
        l2=l2,
        logits=logits,
        spectral_norm=norms,
        images=x,
        labels=truth,
        net=net,
        drawn=pairs != "all",
        alpha=alpha,
        seed=seed,
        resamples=resamples,
        seconds=time.perf_counter() - start,
        failures=failures,
        lost=lost,
    )


def labelled(
    net: Classifier | nn.Module, images: Any, labels: Any, why: str, *, categories: bool = True
) -> tuple[Classifier, Tensor, Tensor]:
    """The classifier, an admitted batch on the CPU and its labels, or an error that says why they are needed.

    `categories` says that each label has to be one of K classes.
    """
    net = as_classifier(net)
    images, labels = unpacked(images, labels, net)
    x = net.admit(images).detach().cpu()
    if categories:
        net.likelihood.one_of_classes("a sample has one category here")
    truth = read_labels(labels, len(x), net)
    if truth is None:
        raise TypeError(f"labels is None, expected one for each of {len(x)} images: {why}")
    return net, x, truth


def divergences(likelihood: Likelihood, logits: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """KL(f(x_i) ‖ f(x_j)) (m,) in nats from logits (n, K) in float64."""
    size = max(1, _SLAB // logits.shape[1])
    return torch.cat([likelihood.kl(logits[a], logits[b]) for a, b in zip(i.split(size), j.split(size), strict=True)])
