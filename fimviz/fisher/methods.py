"""`spectrum`: one door to all methods. Which one, in what chunks, and one result of the pieces."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fimviz import _memory
from fimviz._options import named_options
from fimviz.classifier import Classifier, as_classifier
from fimviz.fisher.block import Block
from fimviz.fisher.exact import exact
from fimviz.fisher.lanczos import lanczos
from fimviz.fisher.passes import footprint
from fimviz.fisher.power import power
from fimviz.fisher.spectrum import Cost, Spectrum

METHODS = ("auto", "exact", "lanczos", "power")
GUARANTEES = {"exact": "exact", "lanczos": "interval", "power": "lower"}
_CROSSOVER = 32  # classes beyond which Lanczos is cheaper than all gradients, measured: docs/benchmarks.md
_CPU_WORK = 2**26  # bytes of the largest activation over a batch of passes


@named_options
def spectrum(
    net: Classifier | nn.Module,
    images: Any,
    *,
    k: int | None = None,
    method: str = "auto",
    vectors: bool = True,
    labels: Any = None,
    tolerance: float = 1e-6,
    max_steps: int = 100,
    seed: int = 0,
    verify: bool | None = None,
    max_memory: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Spectrum:
    """The spectrum of the input-space Fisher information at each input of a batch.

    F(x) = Jᵀ S(p) J with J = ∂logits/∂x has rank at most K−1. "exact" takes one forward pass and K−1
    vector-Jacobian products toward the input, and gives all of it; "lanczos" takes some five to eight pairs of VJP and
    JVP for the leading eigenvalues, whatever K; "power" is the power iteration of the literature, for comparison.

    Args:
        net: a `Classifier`, or a module from pixels in [0, 1] to logits.
        images: (n, …) floats, a tensor or an array; batches larger than memory are fine on the CPU.
        k: how many eigenvalues, the largest first, at most as many as can differ from 0. By default all with "exact"
            (so with "auto" too), 1 with the others.
        method: "auto" takes "lanczos" where few eigenvalues of many classes are wanted, else "exact", and says why.
        vectors: whether to compute eigenvectors.
        labels: (n,) true classes, shown beside the predictions.
        tolerance: relative iteration error at which "lanczos" stops; relative residual for "power".
        max_steps: at which both stop anyway, with what they have; `error` tells how far they came.
        seed: of the random start.
        verify: whether to compare every input with a pass in float64 and to compute those again, in float64, that
            rounding has moved across a kink of the network. It costs one forward pass and one VJP in float64 an
            input; by default done wherever the model and the device can. Without it, `error` counts ordinary
            rounding only.
        max_memory: bytes that the computation may take, by default half of what is free.
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
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
    if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
        raise ValueError(f"k is {k!r}, expected a whole number of at least 1, or None")
    if method == "power" and k not in (None, 1):
        raise ValueError(f"k is {k} and method is 'power', which finds the leading eigenvalue only: use 'lanczos'")
    if not 0 < tolerance < 1 or max_steps < 1:
        raise ValueError(f"tolerance is {tolerance} and max_steps {max_steps}, expected (0, 1) and at least 1")
    net = as_classifier(net)
    x = net.admit(images).detach()
    truth = _labels(labels, len(x))
    if verify and not net.has_float64:
        raise ValueError("verify=True needs float64 passes, which this model or device cannot do: leave it out")
    verify = net.has_float64 and net.dtype != torch.float64 if verify is None else verify
    rank = net.likelihood.rank(len(net.classes))
    method, reason = _choose(method, k, rank)
    k = min(k or (rank if method == "exact" else 1), rank, x[0].numel())
    start = time.perf_counter()
    report = _progress(progress, len(x))
    blocks: list[Block] = []
    done = 0
    with net.at_rest():
        rows = rank if method == "exact" else min(rank, max_steps, k + 20)
        inputs, cotangents = _plan(net, x, k if vectors else 0, rows, method != "exact", verify, max_memory)
        try:
            for part in x.split(inputs):
                here = part.to(net.device)
                if method == "exact":
                    blocks.append(exact(net, here, k, vectors, cotangents, verify))
                elif method == "lanczos":
                    blocks.append(lanczos(net, here, k, vectors, tolerance, max_steps, seed, verify))
                else:
                    blocks.append(power(net, here, vectors, tolerance, max_steps, seed, verify))
                done += len(part)
                report(done)
        except KeyboardInterrupt:
            if not blocks:
                raise
            warnings.warn(f"interrupted: the spectrum holds the first {done} of {len(x)} inputs", stacklevel=2)

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(block, name) for block in blocks])

    logits = joined("logits")
    return Spectrum(
        eigenvalues=joined("eigenvalues"),
        error=joined("error"),
        trace=joined("trace"),
        trace_error=joined("trace_error"),
        frobenius=joined("frobenius"),
        frobenius_error=joined("frobenius_error"),
        eigenvectors=joined("eigenvectors").unflatten(2, x.shape[1:]) if vectors else None,
        probabilities=net.likelihood.log_probs(logits).exp(),
        logits=logits,
        images=x[:done].cpu(),
        labels=None if truth is None else truth[:done],
        net=net,
        method=method,
        reason=reason,
        guarantee=GUARANTEES[method],
        cost=Cost(joined("forwards"), joined("vjps"), joined("jvps"), time.perf_counter() - start),
    )


def _choose(method: str, k: int | None, rank: int) -> tuple[str, str]:
    """The method and why."""
    if method != "auto":
        return method, "asked for"
    if rank <= _CROSSOVER:
        return "exact", f"the {rank} gradients of so few classes cost no more than an iteration"
    if k is None or 4 * k > rank:
        return "exact", f"{'all' if k is None else k} of {rank} eigenvalues are wanted: give a smaller k for 'lanczos'"
    return "lanczos", f"{k} of {rank} eigenvalues take fewer passes than {rank} gradients"


def _plan(
    net: Classifier, x: Tensor, k: int, rows: int, twice: bool, verify: bool, max_memory: int | None
) -> tuple[int, int]:
    """How many inputs, and how many cotangents at a time, fit the memory and keep the processor busy.

    k eigenvectors are kept and `rows` rows of A at a time; `twice` is for the graph of a graph.
    """
    room = _memory.budget(net.device) if max_memory is None else max_memory
    saved, largest = footprint(net, x[:1].to(net.device))
    size, classes = x[0].numel(), len(net.classes)
    width = torch.finfo(net.dtype).bits // 8
    one_input = saved * (1 + 2 * verify + 3 * twice) + width * size * (2 * rows + 3 * k) + 8 * 8 * rows * classes
    one_pass = 4 * largest
    if one_input + one_pass > room:
        raise MemoryError(
            f"one input needs about {(one_input + one_pass) / 1e9:.1f} GB for {rows} gradients of {size} values, "
            f"and {room / 1e9:.1f} GB may be taken: allow more with max_memory=, or use smaller images"
            + ("" if twice else ", or method='lanczos'")
        )
    kept = len(x) * width * size * k
    if net.device.type == "cpu" and kept > room:
        raise MemoryError(
            f"the {k} eigenvectors of {len(x)} inputs take {kept / 1e9:.1f} GB and {room / 1e9:.1f} GB may be taken: "
            "ask for fewer with k=, pass fewer images, or vectors=False"
        )
    # A processor's caches, not its memory, bound the useful batch of passes; a GPU wants all that fits.
    busy = max(1, min(128, _CPU_WORK // largest)) if net.device.type == "cpu" else 4096
    inputs = max(1, min(len(x), busy, room // (one_input + one_pass)))
    cotangents = max(1, min(rows, busy // inputs, (room - inputs * one_input) // (inputs * one_pass)))
    return inputs, cotangents


def _labels(labels: Any, count: int) -> Tensor | None:
    if labels is None:
        return None
    given = torch.as_tensor(np.asarray(labels)).cpu()
    if given.shape != (count,) or given.is_floating_point():
        raise ValueError(f"labels are {given.dtype} of shape {tuple(given.shape)}, expected class indices ({count},)")
    return given.long()


def _progress(wanted: bool | Callable[[int, int], None], total: int) -> Callable[[int], None]:
    if callable(wanted):
        return lambda done: wanted(done, total)
    if not wanted:
        return lambda done: None
    from tqdm.auto import tqdm

    bar = tqdm(total=total, unit="input", leave=False)

    def update(done: int) -> None:
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return update
