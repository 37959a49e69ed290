"""The exact spectrum of F = Jᵀ S J from K−1 vector-Jacobian products.

With S = e^s Cᵀ-contrasted M Mᵀ (`fimviz.likelihood`) and the rows D = C J, the matrix e^s (Mᵀ D)(Mᵀ D)ᵀ of
class-space size has F's non-zero eigenvalues, and F's eigenvectors are Dᵀ M u / √μ. The network passes run in
its own precision; they see no probability, so that a saturated prediction costs no digits. Everything of class
size is float64 on the CPU, where LAPACK is right, quick at these sizes and at home on every machine (Metal has no
float64, and CUDA's batched eigensolver is slow above n = 32, pytorch#175585).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fimviz import _memory
from fimviz.classifier import Classifier
from fimviz.fisher.passes import Linearisation, footprint
from fimviz.likelihood import Likelihood

# Rounding of the passes in units of the machine epsilon: of a row of D relative to its norm, and of a logit
# relative to the largest. Generous multiples of what was measured against float64 (tests/test_exact.py).
_ROW_ROUNDING = 128
_LOGIT_ROUNDING = 32
_CPU_WORK = 2**26  # bytes of the largest activation over a batch of passes


@dataclass(frozen=True)
class Block:
    """Exact results for some inputs of a batch; float64 on the CPU except the vectors."""

    logits: Tensor  # (n, K)
    eigenvalues: Tensor  # (n, k), descending
    error: Tensor  # (n, k)
    trace: Tensor  # (n,)
    frobenius: Tensor  # (n,)
    eigenvectors: Tensor | None  # (n, k, D)
    vjps: int  # passes for each input


def exact(net: Classifier, x: Tensor, k: int | None, vectors: bool, cotangents: int) -> Block:
    """The k largest eigenvalues at every input of x (n, …), `cotangents` VJPs at a time, inside `at_rest()`."""
    here = Linearisation(net, x)
    z = here.logits.cpu().double()
    contrasts = net.likelihood.contrasts(z)
    k = min(k or len(contrasts), len(contrasts), x[0].numel())
    rows = torch.cat([here.vjp(c.to(x.device)) for c in contrasts.split(cotangents)]).transpose(0, 1)
    if not rows.isfinite().all():
        raise FloatingPointError("the gradient of the logits toward the images is NaN or infinite for some image")
    gram = _gram(rows)
    root, log_scale = net.likelihood.root(z)
    small = root.mT @ gram @ root
    mu, u = torch.linalg.eigh(small)
    mu, u = mu.flip(-1)[:, :k].clamp_min(0), u.flip(-1)[..., :k]

    trace = small.diagonal(dim1=-2, dim2=-1).sum(-1)
    eps = torch.finfo(net.dtype).eps
    noise = _ROW_ROUNDING * eps * trace.sqrt()  # Weyl for singular values: |√μ − √μ̂| ≤ ‖ΔMᵀD‖
    spread = z.amax(1) - z.amin(1) if z.shape[1] > 1 else z.abs().amax(1)
    doubt = _LOGIT_ROUNDING * eps * (1 + spread)
    error = 2 * mu.sqrt() * noise[:, None] + noise[:, None] ** 2 + 2 * doubt[:, None] * mu

    scale = log_scale.exp()
    return Block(
        logits=z,
        eigenvalues=mu * scale[:, None],
        error=error * scale[:, None],
        trace=trace * scale,
        frobenius=small.flatten(1).norm(dim=1) * scale,
        eigenvectors=_vectors(net.likelihood, z, rows, gram, root @ u, mu, noise) if vectors else None,
        vjps=here.vjps,
    )


def plan(net: Classifier, x: Tensor, k: int | None, vectors: bool, max_memory: int | None) -> tuple[int, int]:
    """How many inputs, and how many cotangents at a time, fit the memory and keep the processor busy."""
    room = _memory.budget(net.device) if max_memory is None else max_memory
    saved, largest, classes = footprint(net, x[:1].to(net.device))
    rank, size = net.likelihood.rank(classes), x[0].numel()
    k = min(k or rank, rank, size)
    width = torch.finfo(net.dtype).bits // 8
    one_input = saved + width * size * (2 * rank + 3 * k * vectors) + 8 * 8 * classes**2
    one_pass = 4 * largest
    if one_input + one_pass > room:
        raise MemoryError(
            f"one input needs about {(one_input + one_pass) / 1e9:.1f} GB for {rank} gradients of {size} values, "
            f"and {room / 1e9:.1f} GB may be taken: allow more with max_memory=, or use smaller images"
        )
    kept = len(x) * width * size * k * vectors
    if net.device.type == "cpu" and kept > room:
        raise MemoryError(
            f"the {k} eigenvectors of {len(x)} inputs take {kept / 1e9:.1f} GB and {room / 1e9:.1f} GB may be taken: "
            "ask for fewer with k=, pass fewer images, or vectors=False"
        )
    # A processor's caches, not its memory, bound the useful batch of passes; a GPU wants all that fits.
    busy = max(1, min(128, _CPU_WORK // largest)) if net.device.type == "cpu" else 4096
    inputs = max(1, min(len(x), busy, room // (one_input + one_pass)))
    cotangents = max(1, min(rank, busy // inputs, (room - inputs * one_input) // (inputs * one_pass)))
    return inputs, cotangents


def _gram(rows: Tensor) -> Tensor:
    """Inner products (n, r, r) of rows (n, r, D), in float64 on the CPU, a slab of columns at a time."""
    precise = torch.float64 if rows.device.type != "mps" else torch.float32
    total = torch.zeros(len(rows), rows.shape[1], rows.shape[1], dtype=precise, device=rows.device)
    for slab in rows.split(16384, dim=2):
        total += slab.to(precise) @ slab.mT.to(precise)
    return total.cpu().double()


def _vectors(
    likelihood: Likelihood, z: Tensor, rows: Tensor, gram: Tensor, mixed: Tensor, mu: Tensor, noise: Tensor
) -> Tensor:
    """Unit eigenvectors (n, k, D) from their class-space coefficients `mixed` (n, r, k), signs fixed.

    Sign rule: along +v the most probable outcome becomes less probable, to first order; where that is undecided,
    the component of largest magnitude is positive. A direction whose √μ lies below the rounding noise is unknown
    and comes back as zeros.
    """
    ascent = likelihood.ascent(z)
    toward = torch.einsum("nr,nrs,nsk->nk", ascent, gram, mixed)
    size = torch.einsum("nr,nrs,ns->n", ascent, gram, ascent).clamp_min(0).sqrt()
    decided = toward.abs() > 1e-6 * size[:, None] * mu.sqrt()
    known = mu.sqrt() > noise[:, None]
    v = (mixed.mT.to(rows) @ rows).cpu()
    v = torch.nn.functional.normalize(v.double(), dim=2)
    peak = v.gather(2, v.abs().argmax(2, keepdim=True))[..., 0]
    sign = torch.where(decided, -toward.sign(), torch.where(peak < 0, -1.0, 1.0))
    return (v * (sign * known)[..., None]).to(rows.dtype)
