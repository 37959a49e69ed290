"""What every white-box method gives for some inputs of a batch, and what rounding did to it.

Passes in float32 harm in two ways. Ordinary rounding moves the rows A = Rᵀ J by some machine epsilons. And where a
ReLU's input or a max pool's lead is smaller than rounding, a forward pass takes another linear piece of the network
than exact arithmetic would: λ can be off by percents (11 % of MNIST digits on a robust LeNet-5, whose flat background
makes ties). So the forward pass runs in float64 (`fimviz.model.precise`), and other networks in float64 altogether.

What rounding did is measured at each input, whatever precision the passes are said to have, because a network may leave
it inside (half-precision weights, autocast, a softmax in float32): by a product that is also known as a sum of others.
That shows how backward passes round, and not what the forward pass has rounded before them, which all products share.
So where that pass may have rounded more than the last digits of float64, the product and the logits are compared with
those at a neighbour, too: an input moved by about as much as rounding moves it, where all roundings fall differently,
those at kinks included.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from fimviz.fisher.passes import Linearisation
from fimviz.model.classifier import Classifier
from fimviz.model.failures import LOGITS, check_finite
from fimviz.model.likelihoods import Factor, Likelihood

# Rounding in units of the machine epsilon, with margin over what was measured (tests/fisher/test_spectrum.py): of rows
# relative to all of them, with a forward pass in float64 and without; of a logit relative to the spread of the logits,
# and to the largest. Beyond the last, passes are less precise than they say.
_ROW_ROUNDING, _PLAIN_ROW_ROUNDING = 32, 128
_LOGIT_ROUNDING, _COMMON_ROUNDING = 32, 4
_UNUSUAL = 64
# Margins over one sample of what backward passes round, and over the largest of some neighbours' differences.
_SAMPLE, _NEIGHBOUR = 8, 3
_MOVES = (1.5, 0.5), (-1.0, 1.0), (0.5, -1.5)  # of contrast and brightness
# Float64 numbers, too few to be counted as memory; a card wants larger pieces.
_SLAB, _CARD_SLAB = 2**20, 2**24


@dataclass(frozen=True)
class Block:
    """Results for some inputs of a batch; on the CPU, float64 except the vectors."""

    logits: Tensor  # (n, K)
    logit_error: Tensor  # (n,)
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
    rough: Tensor | None = None  # (n,), of answers alone: whether they do not change smoothly
    beside: Tensor | None = None  # (n,), λ₁ under the other likelihood that was asked for
    beside_error: Tensor | None = None  # (n,)


def joined(blocks: Sequence[Block]) -> Block:
    """The inputs of some blocks, one after the other."""
    parts: dict[str, list[Any]] = {f.name: [getattr(block, f.name) for block in blocks] for f in fields(Block)}
    parts["history"] = padded(parts["history"])
    whole: dict[str, Any] = {name: None if of[0] is None else torch.cat(of) for name, of in parts.items()}
    return Block(**whole)


def padded(histories: Sequence[Tensor]) -> list[Tensor]:
    """Histories (n, s) as long as the longest of them, NaN behind an input's last step."""
    longest = max(history.shape[1] for history in histories)
    return [torch.nn.functional.pad(h, (0, longest - h.shape[1]), value=torch.nan) for h in histories]


class Ground:
    """A batch made ready: its passes, with the first one in float64 where `precise`, and the class-space factor."""

    def __init__(self, net: Classifier, x: Tensor, precise: bool, *, along: bool = False) -> None:
        self.precise = precise
        self.here = Linearisation(net, x, precise=precise, along=along)
        self.logits = self.here.logits.cpu().double()
        check_finite(self.logits, LOGITS)
        self.factor = net.likelihood.factor(self.logits)
        self.eps = torch.finfo(x.dtype).eps
        self.logit_error = logit_error(net.likelihood, self.logits, torch.finfo(self.here.logits.dtype).eps)
        self._net, self.x = net, x
        self._forwards, self._vjps = 1, 0  # the latter beside those of `here`

    def under(self, likelihood: Likelihood) -> Ground:
        """The same passes, seen by another likelihood of the same logits."""
        other = copy.copy(self)
        other.factor = likelihood.factor(self.logits)
        return other

    def rows(self, cotangents: int, to_logits: Callable[[Factor, Tensor], Tensor] = Factor.to_logits) -> Tensor:
        """All rows A = RᵀJ (n, r, D), or of another map of class space to logits, so many VJPs at a time."""
        # The cotangents of all classes are made where they are needed: on their way they would hold up the passes.
        factor = self.factor.to(wide_device(self.here.device))
        axes = torch.eye(factor.rank, dtype=torch.float64, device=factor.a.device).expand(len(self.logits), -1, -1)
        return torch.cat([self.here.vjp(to_logits(factor, some)) for some in axes.split(cotangents, 2)], 1)

    def rounding(self, rows: Tensor, basis: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What rounding did to rows basisᵀA (n, m, D) of A = RᵀJ, all of A where there is no basis (n, r, m).

        Returns their noise (n, 1), a norm, and `uncertainty`.
        """
        # For a normal g the mean square of ‖gᵀΔA‖ is ‖ΔA‖²_F: one VJP.
        g = torch.randn(rows.shape[:2], dtype=torch.float64, generator=torch.Generator().manual_seed(0))[..., None]
        cotangent = self.factor.to_logits(g if basis is None else basis @ g)
        return self.compared(rows, g, cotangent, rows.norm(dim=(1, 2)).cpu().double()[:, None]), self.uncertainty()

    def compared(self, rows: Tensor, g: Tensor, cotangents: Tensor, size: Tensor) -> Tensor:
        """The noise (n, m) of rows of sizes (n, m), from how far gᵀ rows and VJPs of m cotangents are apart.

        Where the forward pass may have rounded, it is taken again at a neighbour, and `logit_error` grows to what the
        logits differ by there.
        """
        sums = g.mT.to(rows) @ rows

        def apart(passes: Linearisation) -> Tensor:
            self._vjps += 0 if passes is self.here else cotangents.shape[2]
            return (passes.vjp(cotangents) - sums).norm(dim=2).cpu().double()

        near = own = torch.zeros_like(size)
        plain = not self.precise and self.eps > torch.finfo(torch.float64).eps
        if plain:
            near = apart(self._neighbour(torch.full_like(size[:, 0], self.eps), *_MOVES[0]))
        if not plain or (near > _UNUSUAL * self.eps * size).any():
            own = apart(self.here)
            share = (own / size.clamp_min(1e-300)).amax(1).clamp(self.eps, 1)
            if not self.precise and (share > _UNUSUAL * self.eps).any():
                for move in _MOVES:
                    near = torch.maximum(near, apart(self._neighbour(share, *move)))
        return torch.maximum(self.noise(size, own), _NEIGHBOUR * near)

    def trusted(self, size: Tensor, apart: Tensor) -> bool:
        """Whether a measurement of rows of that size leaves nothing to ask a neighbour."""
        exact = self.precise or self.eps == torch.finfo(torch.float64).eps
        return exact and not bool((apart > _UNUSUAL * self.eps * size).any())

    def _neighbour(self, share: Tensor, contrast: float, brightness: float) -> Linearisation:
        """The passes at inputs moved by a share (n,) of their largest value; notes by how much the logits differ.

        Contrast and brightness are moved, so that what is flat stays flat, and values tied there stay tied: noise would
        part all ties in an image's background, which rounding parts rarely.
        """
        largest = self.x.flatten(1).abs().amax(1).view(-1, *[1] * (self.x.ndim - 1))
        away = share.to(largest).view_as(largest)
        there = Linearisation(self._net, self.x + away * (contrast * self.x + brightness * largest))
        change = (there.logits.cpu().double() - self.logits).abs().amax(1)
        self.logit_error = torch.maximum(self.logit_error, _NEIGHBOUR * change)
        self._forwards += 1
        return there

    def noise(self, size: Tensor, apart: Tensor) -> Tensor:
        """The noise of rows of that size, if a measurement showed so much of it."""
        return torch.maximum(self.usual * size, _SAMPLE * apart)

    @property
    def usual(self) -> float:
        """The relative noise of rows that is stated at least."""
        return (_ROW_ROUNDING if self.precise else _PLAIN_ROW_ROUNDING) * self.eps

    def uncertainty(self) -> Tensor:
        """The relative error (n,) that the logits' own rounding adds to an eigenvalue."""
        return 2 * self.logit_error

    def passes(self) -> dict[str, Tensor]:
        """The passes taken so far, for each input."""
        taken = {"forwards": self._forwards, "vjps": self.here.vjps + self._vjps, "jvps": self.here.jvps}
        return {name: torch.full((len(self.logits),), count) for name, count in taken.items()}


def logit_error(likelihood: Likelihood, z: Tensor, eps: float) -> Tensor:
    """How far (n,) rounding may move a logit, in passes of that machine epsilon."""
    # What all logits have in common is rounded, too, but where it comes in, at the end.
    return eps * torch.maximum(_LOGIT_ROUNDING * (1 + likelihood.size(z)), _COMMON_ROUNDING * z.abs().amax(-1))


def wide_device(device: torch.device) -> torch.device:
    """Where float64 numbers of a device can be worked with: Metal has none."""
    return torch.device("cpu") if device.type == "mps" else device


def inner(rows: Tensor, others: Tensor) -> Tensor:
    """Products (n, a, b) of rows (n, a, D) and others (n, b, D), in float64, on the CPU."""
    return products(rows, others).cpu().double()


def products(rows: Tensor, others: Tensor) -> Tensor:
    """The same where the rows are, in the widest precision there."""
    precise = torch.float64 if wide_device(rows.device) == rows.device else torch.float32
    total = torch.zeros(len(rows), rows.shape[1], others.shape[1], dtype=precise, device=rows.device)
    # A slab at a time: in float64 the rows would take as much again as they do.
    size = _SLAB if rows.device.type == "cpu" else _CARD_SLAB
    slab = max(1, size // max(1, len(rows) * max(rows.shape[1], others.shape[1])))
    for one, other in zip(rows.split(slab, 2), others.split(slab, 2), strict=True):
        total += one.to(precise) @ other.mT.to(precise)
    return total


def unit(t: Tensor, dim: int = 1) -> Tensor:
    """The same of length 1, or zeros; also where it is so short that torch's `normalize` takes it for zero."""
    t = t / t.abs().amax(dim, keepdim=True).clamp_min(torch.finfo(t.dtype).tiny)
    return t / t.norm(dim=dim, keepdim=True).clamp_min(torch.finfo(t.dtype).tiny)


def rounding_error(mu: Tensor, noise: Tensor, uncertainty: Tensor, rank: int) -> Tensor:
    """How far (n, k) noise (n, 1 or k) may move eigenvalues μ: Weyl's bound on singular values √μ, and LAPACK's."""
    floor = 8 * rank * torch.finfo(mu.dtype).eps * mu.amax(1, keepdim=True)
    return 2 * mu.sqrt() * noise + noise**2 + uncertainty[:, None] * mu + floor


def eigenvectors(rows: Tensor, u: Tensor, mu: Tensor, ascent: Tensor, noise: Tensor) -> Tensor:
    """Unit eigenvectors (n, k, D) rowsᵀu on the CPU, signs fixed, from rows with noise (n, 1 or k).

    Sign rule: along +v the most probable outcome becomes less probable, to first order; where that is undecided,
    the component of largest magnitude is positive. A direction whose √μ lies below the rounding noise is unknown and
    comes back as zeros.
    """
    v = unit((u.mT.to(rows) @ rows).cpu().double(), 2)
    # ∇ log p(mode) ∝ rowsᵀ ascent, so that v · ∇ log p(mode) ∝ √μ (u · ascent).
    toward = (ascent[:, None] @ u)[:, 0] * mu.sqrt()
    decided = toward.abs() > 1e-6 * ascent.norm(dim=1, keepdim=True) * mu[:, :1].sqrt()
    peak = v.gather(2, v.abs().argmax(2, keepdim=True))[..., 0]
    sign = torch.where(decided, -toward.sign(), torch.where(peak < 0, -1.0, 1.0))
    return (v * (sign * (mu.sqrt() > noise))[..., None]).to(rows.dtype)


def ritz_vectors(rows: Tensor, u: Tensor, mu: Tensor, ascent: Tensor, noise: Tensor, wanted: bool) -> Tensor:
    """The same of k directions u (n, r, k) whose rows uᵀA (n, k, D) are orthogonal, or none."""
    if not wanted:
        return rows.new_zeros(len(rows), 0, rows.shape[2]).cpu()
    eye = torch.eye(mu.shape[1], dtype=torch.float64).expand(len(mu), -1, -1)
    return eigenvectors(rows, eye, mu, (u.mT @ ascent[..., None])[..., 0], noise)


def ritz_error(mu: Tensor, residual: Tensor) -> Tensor:
    """How far (n, m) a Ritz value may lie below its eigenvalue: the residual, or its square over the gap.

    The gap is counted from where the other values may still move to.
    """
    apart = (mu[:, :, None] - mu[:, None]).abs() + torch.diag_embed(torch.full_like(mu, torch.inf))
    if mu.shape[1] == 1:
        return residual  # nothing is known of the other eigenvalues
    gap = ((apart - residual[:, None]).amin(2) - residual).clamp_min(0)
    return torch.minimum(residual, residual**2 / gap.clamp_min(1e-300))
