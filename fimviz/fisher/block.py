"""What every white-box method gives for some inputs of a batch, and what rounding did to it.

Passes in float32 harm in two ways. Ordinary rounding moves the rows A = Rᵀ J by some hundred machine epsilons. And
where a ReLU's input or a max pool's lead is smaller than rounding, the passes take another linear piece of the network
than exact arithmetic would: λ can be off by percents (11 % of MNIST digits on a robust LeNet-5, whose flat background
makes ties). So each input is verified by one forward pass and one random VJP in float64, which measures both. Those
that took another piece are computed again in float64, or have the residual of what was found measured there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as tf

from fimviz.classifier import Classifier
from fimviz.fisher.passes import Linearisation

# Rounding in units of the machine epsilon, with margin over what was measured (tests/test_spectrum.py): of rows
# relative to all of them, of a logit relative to the spread of the logits.
_ROW_ROUNDING = 128
_LOGIT_ROUNDING = 32
_SLAB = 2**20  # float64 numbers, too few to be counted as memory
_SLIP = 4e-5  # a relative difference to the float64 pass that only another linear piece explains


@dataclass(frozen=True)
class Block:
    """Results for some inputs of a batch; on the CPU, float64 except the vectors."""

    logits: Tensor  # (n, K)
    eigenvalues: Tensor  # (n, k), descending
    error: Tensor  # (n, k)
    trace: Tensor  # (n,)
    trace_error: Tensor  # (n,)
    frobenius: Tensor  # (n,)
    frobenius_error: Tensor  # (n,)
    eigenvectors: Tensor  # (n, k, D), or (n, 0, D) where none are wanted
    forwards: Tensor  # (n,)
    vjps: Tensor  # (n,)
    jvps: Tensor  # (n,)
    history: Tensor  # (n, s), the running value of λ₁ after each step of an iteration

    def mended(self, moved: Tensor, x: Tensor, again: Callable[[Tensor], Block]) -> Block:
        """The block with the inputs of x that rounding moved (n,) computed again in float64; the passes add up.

        Half of the batch at a time, so that float64 fits where this block did.
        """
        parts = {f.name: getattr(self, f.name) for f in fields(Block)}
        for at in moved.nonzero()[:, 0].split((len(x) + 1) // 2) if moved.any() else ():
            block = again(x[at.to(x.device)].double())
            for name, old in parts.items():
                new = getattr(block, name)
                new = new + old[at] if name in ("forwards", "vjps", "jvps") else new.to(old.dtype)
                if name == "history":  # as many steps as the longer iteration has
                    steps = max(old.shape[1], new.shape[1])
                    old, new = (tf.pad(t, (0, steps - t.shape[1]), value=torch.nan) for t in (old, new))
                parts[name] = old.index_copy(0, at, new)
        return Block(**parts)


class Ground:
    """A batch made ready: its float64 passes where it is to be verified, its own, and the class-space factor."""

    def __init__(self, net: Classifier, x: Tensor, verify: bool) -> None:
        self.truth = Linearisation(net, x.double()) if verify else None
        self.here = Linearisation(net, x)
        self.logits = (self.truth or self.here).logits.cpu().double()
        self.factor = net.likelihood.factor(self.logits)
        self.eps = torch.finfo(x.dtype).eps

    def rounding(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What rounding did to all rows A = RᵀJ (n, r, D).

        Returns the noise ‖ΔA‖ (n,), the relative doubt (n,) that the logits' own rounding adds to an eigenvalue, and
        which inputs took another linear piece of the network (n,).
        """
        # For a normal g the mean square of ‖gᵀ(A − A₆₄)‖ is ‖A − A₆₄‖²_F: one VJP in float64.
        g = torch.randn(rows.shape[:2], dtype=torch.float64, generator=torch.Generator().manual_seed(0))[..., None]
        noise, moved = self.compared(rows, g, self.factor.to_logits(g), rows.norm(dim=(1, 2)).cpu().double())
        return noise, self.doubt() if self.truth is None else torch.zeros_like(noise), moved

    def compared(self, rows: Tensor, g: Tensor, cotangent: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """The noise (n,) of rows of that size, and which moved, from gᵀ rows against the cotangent's VJP in float64."""
        if self.truth is None:
            return _ROW_ROUNDING * self.eps * size, torch.zeros_like(size, dtype=torch.bool)
        slip = self.slip(cotangent, g.mT.to(rows) @ rows)
        return torch.maximum(_ROW_ROUNDING / 4 * self.eps * size, 8 * slip), slip > _SLIP * size

    def slip(self, cotangent: Tensor, row: Tensor) -> Tensor:
        """How far (n,) a row (n, 1, D) lies from the VJP of its cotangent (n, K, 1) in float64."""
        assert self.truth is not None
        return (self.truth.vjp(cotangent) - row).norm(dim=(1, 2)).cpu().double()

    def doubt(self) -> Tensor:
        """How much of an eigenvalue (n,) the rounding of the logits may be, without float64 passes."""
        return 2 * logit_error(self.logits, self.eps)

    def passes(self) -> dict[str, Tensor]:
        """The passes taken so far, for each input."""
        count = len(self.logits)
        both = [self.here] + [self.truth] * (self.truth is not None)
        return {
            "forwards": torch.full((count,), len(both)),
            "vjps": torch.full((count,), sum(p.vjps for p in both if p)),
            "jvps": torch.full((count,), sum(p.jvps for p in both if p)),
        }


def logit_error(z: Tensor, eps: float) -> Tensor:
    """How far (n,) rounding may move a logit, in passes of that machine epsilon."""
    return _LOGIT_ROUNDING * eps * (1 + z.amax(1) - z.amin(1))


def inner(rows: Tensor, others: Tensor) -> Tensor:
    """Products (n, a, b) of rows (n, a, D) and others (n, b, D), in float64, on the CPU."""
    precise = torch.float64 if rows.device.type != "mps" else torch.float32
    total = torch.zeros(len(rows), rows.shape[1], others.shape[1], dtype=precise, device=rows.device)
    # A slab at a time: in float64 the rows would take as much again as they do.
    slab = max(1, _SLAB // (len(rows) * max(rows.shape[1], others.shape[1])))
    for one, other in zip(rows.split(slab, 2), others.split(slab, 2), strict=True):
        total += one.to(precise) @ other.mT.to(precise)
    return total.cpu().double()


def rounding_error(mu: Tensor, noise: Tensor, doubt: Tensor, rank: int) -> Tensor:
    """How far (n, k) rounding may move eigenvalues μ: Weyl's bound on singular values √μ, and the eigensolver's."""
    noise = noise[:, None]
    floor = 8 * rank * torch.finfo(mu.dtype).eps * mu.amax(1, keepdim=True)
    return 2 * mu.sqrt() * noise + noise**2 + doubt[:, None] * mu + floor


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


@dataclass(frozen=True)
class Found:
    """Orthonormal class-space directions u with their Rayleigh–Ritz values, in float64 where the passes could."""

    mu: Tensor  # (n, k), descending
    rows: Tensor  # (n, k, D), uᵀA
    u: Tensor  # (n, r, k)
    off: Tensor  # (n, k), residuals that rounding of the search may hide
    error: Tensor  # (n, k), of the values themselves
    noise: Tensor  # (n,), of the rows
    moved: Tensor  # (n,), which inputs may have taken another linear piece of the network

    def eigenvectors(self, ascent: Tensor, wanted: bool) -> Tensor:
        """Unit eigenvectors (n, k, D) with their signs fixed, or none."""
        if not wanted:
            return self.rows.new_zeros(len(self.rows), 0, self.rows.shape[2]).float().cpu()
        own = (self.u.mT @ ascent[..., None])[..., 0]
        eye = torch.eye(self.mu.shape[1], dtype=torch.float64).expand(len(self.mu), -1, -1)
        return eigenvectors(self.rows, eye, self.mu, own, self.noise)


def polished(ground: Ground, rows: Tensor, u: Tensor) -> Found:
    """Rayleigh–Ritz once more, in float64, on the directions u (n, r, k) that float32 passes found, rows = uᵀA.

    The error of a Rayleigh quotient is of second order in that of its vector, so that k VJPs in float64 give values
    to float64's accuracy from directions to float32's, and lower bounds of the eigenvalues.
    """
    size, floor = rows.norm(dim=(1, 2)).cpu().double(), torch.finfo(torch.float64).eps
    noise, moved = _ROW_ROUNDING * ground.eps * size, torch.zeros_like(size, dtype=torch.bool)
    slip = noise[:, None].expand(-1, u.shape[2])
    if ground.truth is not None:
        exactly = torch.cat([ground.truth.vjp(ground.factor.to_logits(one)) for one in u.split(1, 2)], 1)
        slip = (exactly - rows).norm(dim=2).cpu().double()
        noise = slip.norm(dim=1)
        moved = noise > _SLIP / 4 * size
        rows = exactly
    mu, turn = torch.linalg.eigh(inner(rows, rows))
    mu, turn = mu.flip(-1).clamp_min(0), turn.flip(-1)
    if ground.truth is None:
        error = rounding_error(mu, noise, ground.doubt(), ground.factor.rank)
    else:
        error = 64 * floor * mu.amax(1, keepdim=True).expand_as(mu) * ground.factor.rank**0.5
    # Products with F move by what the rows move and by what the pass back moves; as in `rounding`, eight times as much.
    off = 8 * mu[:, :1].sqrt() * (turn.mT.abs() @ slip[..., None])[..., 0]
    return Found(mu, turn.mT.to(rows) @ rows, u @ turn, off, error, noise, moved)


def true_residual(ground: Ground, found: Found) -> Tensor:
    """‖F v − μ v‖ (n, k) of what was found, by JVPs in float64: across a kink nothing in float32 tells it."""
    assert ground.truth is not None
    pushed = [ground.truth.jvp_once(row)[..., None].cpu().double() for row in found.rows.unbind(1)]
    products = ground.factor.from_logits(torch.cat(pushed, 2))
    return (products - found.u * found.mu[:, None]).norm(dim=1)


def ritz_error(mu: Tensor, residual: Tensor) -> Tensor:
    """How far (n, m) a Ritz value may lie below its eigenvalue: the residual, or its square over the gap.

    The gap is counted from where the other values may still move to.
    """
    apart = (mu[:, :, None] - mu[:, None]).abs() + torch.diag_embed(torch.full_like(mu, torch.inf))
    if mu.shape[1] == 1:
        return residual  # nothing is known of the other eigenvalues
    gap = ((apart - residual[:, None]).amin(2) - residual).clamp_min(0)
    return torch.minimum(residual, residual**2 / gap.clamp_min(1e-300))
