"""The exact spectrum of F = Jᵀ S J from K−1 vector-Jacobian products.

With S = e^s R Rᵀ (`fimviz.likelihood.Factor`) and the rows A = Rᵀ J, the class-space matrix e^s A Aᵀ has F's
non-zero eigenvalues, and F's eigenvectors are Aᵀ u / √μ. The VJPs that make A run in the network's own precision; R
is well scaled, so that a saturated prediction costs no digits. Everything of class size is float64 on the CPU, where
LAPACK is right, quick at these sizes and at home on every machine (Metal has no float64, and CUDA's batched
eigensolver is slow above n = 32, pytorch#175585).

Rounding harms in one more way: where a ReLU's input or a max pool's lead is smaller than float32's rounding, the
passes take another linear piece of the network than exact arithmetic would, and λ can be off by percents (11 % of
MNIST digits on a robust LeNet-5, whose flat background makes ties). So each input is verified by one forward pass
and one random VJP in float64, and those whose rows differ are computed again in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fimviz import _memory
from fimviz.classifier import Classifier
from fimviz.fisher.passes import Linearisation, footprint
from fimviz.likelihood import Factor

# Rounding in units of the machine epsilon, with margin over what was measured (tests/test_spectrum.py): of a row of
# A relative to all of them, of a logit relative to the spread of the logits.
_ROW_ROUNDING = 128
_LOGIT_ROUNDING = 32
_SLIP = 1e-5  # a relative difference to the float64 pass that only another linear piece explains
_CPU_WORK = 2**26  # bytes of the largest activation over a batch of passes


@dataclass(frozen=True)
class Block:
    """Exact results for some inputs of a batch; on the CPU, float64 except the vectors."""

    logits: Tensor  # (n, K)
    eigenvalues: Tensor  # (n, k), descending
    error: Tensor  # (n, k)
    trace: Tensor  # (n,)
    frobenius: Tensor  # (n,)
    eigenvectors: Tensor  # (n, k, D), or (n, 0, D) where none are wanted
    forwards: Tensor  # (n,)
    vjps: Tensor  # (n,)


def exact(net: Classifier, x: Tensor, k: int | None, vectors: bool, cotangents: int, verify: bool) -> Block:
    """The k largest eigenvalues at every input of x (n, …), `cotangents` VJPs at a time, inside `at_rest()`."""
    truth = Linearisation(net, x.double()) if verify else None
    here = Linearisation(net, x)
    z = (truth or here).logits.cpu().double()
    factor = net.likelihood.factor(z)
    k = min(k or factor.rank, factor.rank, x[0].numel())
    axes = torch.eye(factor.rank, dtype=z.dtype).expand(len(z), -1, -1)
    rows = torch.cat([here.vjp(factor.to_logits(some)) for some in axes.split(cotangents, 2)], 1)
    if not rows.isfinite().all():
        raise FloatingPointError("the gradient of the logits toward the images is NaN or infinite for some image")
    gram = _gram(rows)
    mu, u = torch.linalg.eigh(gram)
    mu, u = mu.flip(-1)[:, :k].clamp_min(0), u.flip(-1)[..., :k]

    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    eps = torch.finfo(x.dtype).eps
    noise, doubt = _ROW_ROUNDING * eps * trace.sqrt(), torch.zeros_like(trace)
    if truth is None:
        doubt = 2 * _LOGIT_ROUNDING * eps * (1 + z.amax(1) - z.amin(1))
    else:
        slip = slippage(truth, factor, rows)
        noise = torch.maximum(noise / 4, 8 * slip)
    error = 2 * mu.sqrt() * noise[:, None] + noise[:, None] ** 2 + doubt[:, None] * mu  # Weyl, for singular values
    error += 8 * factor.rank * torch.finfo(mu.dtype).eps * trace[:, None]  # of the eigensolver and the Gram

    scale = factor.log_scale.exp()
    none = rows.new_zeros(len(x), 0, rows.shape[2]).cpu()
    passes = torch.ones(len(x), dtype=torch.int64)
    block = Block(
        logits=z,
        eigenvalues=mu * scale[:, None],
        error=error * scale[:, None],
        trace=trace * scale,
        frobenius=gram.flatten(1).norm(dim=1) * scale,
        eigenvectors=eigenvectors(rows, u, mu, factor.ascent, noise) if vectors else none,
        forwards=passes * (1 + verify),
        vjps=passes * (factor.rank + verify),
    )
    if truth is None or not (moved := slip > _SLIP * trace.sqrt()).any():
        return block
    again = exact(net, x[moved.to(x.device)].double(), k, vectors, cotangents, verify=False)
    return _merge(block, again, moved.nonzero()[:, 0])


def slippage(truth: Linearisation, factor: Factor, rows: Tensor) -> Tensor:
    """‖gᵀ(A − A₆₄)‖ (n,) for rows A = Rᵀ J and a normal g: its mean square is ‖A − A₆₄‖²_F, at one float64 VJP."""
    g = torch.randn(rows.shape[:2], dtype=torch.float64, generator=torch.Generator().manual_seed(0))[..., None]
    exactly = truth.vjp(factor.to_logits(g))[:, 0]
    rounded = (g.mT.to(rows) @ rows)[:, 0]
    return (exactly - rounded).norm(dim=1).cpu().double()


def _merge(block: Block, again: Block, at: Tensor) -> Block:
    """The block with some inputs computed again; the passes add up."""
    merged = {}
    for f in fields(Block):
        old, new = getattr(block, f.name), getattr(again, f.name)
        new = new + old[at] if f.name in ("forwards", "vjps") else new.to(old.dtype)
        merged[f.name] = old.index_copy(0, at, new)
    return Block(**merged)


def plan(
    net: Classifier, x: Tensor, k: int | None, vectors: bool, max_memory: int | None, verify: bool
) -> tuple[int, int]:
    """How many inputs, and how many cotangents at a time, fit the memory and keep the processor busy."""
    room = _memory.budget(net.device) if max_memory is None else max_memory
    saved, largest, classes = footprint(net, x[:1].to(net.device))
    rank, size = net.likelihood.rank(classes), x[0].numel()
    k = min(k or rank, rank, size)
    width = torch.finfo(net.dtype).bits // 8
    one_input = saved * (1 + 2 * verify) + width * size * (2 * rank + 3 * k * vectors) + 8 * 8 * classes**2
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


def eigenvectors(rows: Tensor, u: Tensor, mu: Tensor, ascent: Tensor, noise: Tensor) -> Tensor:
    """Unit eigenvectors (n, k, D) rowsᵀu on the CPU, signs fixed.

    Sign rule: along +v the most probable outcome becomes less probable, to first order; where that is undecided,
    the component of largest magnitude is positive. A direction whose √μ lies below the rounding noise is unknown and
    comes back as zeros.
    """
    v = torch.nn.functional.normalize((u.mT.to(rows) @ rows).cpu().double(), dim=2)
    # ∇ log p(mode) ∝ rowsᵀ ascent, so that v · ∇ log p(mode) ∝ √μ (u · ascent).
    toward = (ascent[:, None] @ u)[:, 0] * mu.sqrt()
    decided = toward.abs() > 1e-6 * ascent.norm(dim=1, keepdim=True) * mu[:, :1].sqrt()
    peak = v.gather(2, v.abs().argmax(2, keepdim=True))[..., 0]
    sign = torch.where(decided, -toward.sign(), torch.where(peak < 0, -1.0, 1.0))
    return (v * (sign * (mu.sqrt() > noise[:, None]))[..., None]).to(rows.dtype)
