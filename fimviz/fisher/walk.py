"""What a model says along an eigenvector: probabilities and KL at x + ε v, by forward passes.

The model is given x + ε v as it is, also where a pixel leaves the input range: that is the displacement that λ
speaks of. Views count such pixels. Only a `BlackBox` stops them at the range, as no service takes others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fimviz.fisher.block import logit_error
from fimviz.model.classifier import Classifier
from fimviz.model.engine.parts import answers, answers_to
from fimviz.model.precise import Float64Convolutions

if TYPE_CHECKING:
    from fimviz.fisher.spectrum import Spectrum
    from fimviz.model.blackbox import BlackBox

_SERIES = [m * 10.0**e for e in range(-3, 1) for m in (1, 2, 5)]
# Bytes of input in a batch of forward passes: on a processor as many photographs as its caches hold, three.
_WORK, _CARD_WORK = 2**21, 2**22
# The share of a divergence, and how many nats, beyond which its rounding is worth a pass in float64.
ROUNDED = 1e-3, 0.0
_SAME = 1e-9  # of the longest distance, by which two may differ
CLOSE = 1e-4  # of the gap between two distances, to which a flip is located


@dataclass(frozen=True, eq=False)
class Walk:
    """Forward passes along one eigenvector of each of n inputs; everything float64.

    Attributes:
        epsilon: (n, m) distances in L2 pixel units.
        logits, probabilities: (n, m, K); of a likelihood of numbers their means.
        kl: (n, m) KL(p(x) ‖ p(x + εv)) in nats; kl_error: (n, m) how far rounding may have moved it. Where float32
            would move it by more than a thousandth, by default of large networks on large images by more than a tenth
            and 1e-6 nats, the pass is taken again in float64, where the network can.
        quadratic: (n, m) its second-order prediction ½ ε² λ.
        flips: (n, 2) the ε nearest to 0 on the negative and on the positive side at which the prediction changes:
            the first change seen between neighbouring distances, located there to 1e-4 of their gap, by default of
            large networks on large images to 1e-2, just behind the change; infinite where the prediction stays. A
            change and return between two distances is not seen.
        becomes: the prediction there, (n, 2), or (n, 2, K) booleans for several yes/no labels.
        outcomes: the prediction at every distance, (n, m), or (n, m, K) booleans; numbers, which have no flips, too.
    """

    epsilon: Tensor
    logits: Tensor
    probabilities: Tensor
    kl: Tensor
    kl_error: Tensor
    quadratic: Tensor
    flips: Tensor
    becomes: Tensor
    outcomes: Tensor

    def take(self, at: Tensor) -> Walk:
        """The walks of some of the inputs."""
        return replace(self, **{f.name: getattr(self, f.name)[at] for f in fields(self)})


@dataclass(frozen=True, eq=False)
class Seen:
    """What a model said along an eigenvector of n inputs: distances (n, m), 0 for none, and logits (n, m, K)."""

    epsilon: Tensor
    logits: Tensor

    def told(self, epsilon: Tensor, z: Tensor) -> Tensor:
        """Writes into logits z (n, m, K) at distances (n, m) what is known there; which it is."""
        near, at = (epsilon[..., None] - self.epsilon[:, None]).abs().min(2)
        known = (near <= _SAME * epsilon[:, -1:]) & (epsilon != 0)
        z[known] = self.logits[torch.arange(len(z))[:, None], at][known]
        return known

    def joined(self, epsilon: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Ascending distances (n, m) and logits with these among them; the last once more where there are fewer."""
        end = epsilon[:, -1:]
        apart = (self.epsilon[..., None] - epsilon[:, None]).abs().amin(2) > _SAME * end
        apart &= (self.epsilon != 0) & (self.epsilon.abs() < end)
        order = (~apart).int().argsort(dim=1, stable=True)[:, : int(apart.sum(1).max())]
        inside, rows = apart.gather(1, order), torch.arange(len(z))[:, None]
        epsilon = torch.cat([epsilon, self.epsilon[rows, order].where(inside, end)], 1)
        z = torch.cat([z, self.logits[rows, order].where(inside[..., None], z[:, -1:])], 1)
        epsilon, order = epsilon.sort(1)
        return epsilon, z[rows, order]


def walk(
    spectrum: Spectrum,
    k: int,
    epsilon: Tensor,
    with_flips: bool = False,
    left_open: tuple[float, float] = ROUNDED,
    close: float = CLOSE,
    seen: Seen | None = None,
) -> Walk:
    """Walk along eigenvector k over epsilon (n, m), ascending; `with_flips` adds the flips to the distances.

    A missing flip adds the end of the range once more, so that the shape stays. `left_open` is the share of a
    divergence, and how many nats, that rounding may move before its pass is taken again in float64, `close` the share
    of a gap to which a flip is located. What has been `seen` within the range joins the distances, and is not asked
    again.
    """
    likelihood = spectrum.net.likelihood
    z, known = spectrum.logits[:, None].repeat(1, epsilon.shape[1], 1), epsilon == 0
    if seen is not None:
        known |= seen.told(epsilon, z)
    rows, at = (~known).nonzero(as_tuple=True)
    z[~known] = _logits(spectrum, k, rows, epsilon[rows, at])
    if seen is not None:
        epsilon, z = seen.joined(epsilon, z)
    rows = torch.arange(len(epsilon)).repeat_interleave(epsilon.shape[1])
    margin = likelihood.margin(z.flatten(0, 1), spectrum.predictions[rows]).view(epsilon.shape)
    sides = [_first_change(spectrum, k, epsilon, z, margin, sign, close) for sign in (-1, 1)]
    flips, at, at_flips = (torch.stack(both, 1) for both in zip(*sides, strict=True))
    becomes = torch.where(flips.isfinite()[..., None], at_flips, spectrum.logits[:, None])
    if with_flips:
        epsilon, order = torch.cat([epsilon, at], 1).sort(1)
        z = torch.cat([z, at_flips], 1).gather(1, order[..., None].expand(-1, -1, z.shape[2]))
    assert spectrum.eigenvectors is not None
    rows = torch.arange(len(epsilon)).repeat_interleave(epsilon.shape[1])
    moves = [(spectrum.eigenvectors[:, k], epsilon.flatten())]
    flat = z.flatten(0, 1)
    # The flips were found in this precision: another one would say of some of them that nothing has changed there yet.
    _, kl, kl_error = sharpened(spectrum, rows, moves, flat, left_open)
    return Walk(
        epsilon=epsilon,
        logits=z,
        probabilities=likelihood.mean(flat).view(z.shape),
        kl=kl.view(epsilon.shape),
        kl_error=kl_error.view(epsilon.shape),
        quadratic=0.5 * epsilon**2 * spectrum.eigenvalues[:, k, None],
        flips=flips,
        becomes=likelihood.predict(becomes.flatten(0, 1)).unflatten(0, flips.shape),
        outcomes=likelihood.predict(flat).unflatten(0, epsilon.shape),
    )


def sharpened(
    spectrum: Spectrum,
    rows: Tensor,
    moves: Sequence[tuple[Tensor, Tensor]],
    z: Tensor,
    left_open: tuple[float, float] = ROUNDED,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (m, K) of moved inputs as of `logits_at`, again in float64 where KL needs it; KL (m,) and its error."""
    net = spectrum.net
    kl, error = _divergence(spectrum, rows, spectrum.logits, z, net.dtype)
    nowhere = torch.stack([step == 0 for _, step in moves]).all(0)
    kl[nowhere], error[nowhere] = 0.0, 0.0
    share, least = left_open
    rounded = (error > share * kl) & (error > least)
    if net.has_float64 and bool(rounded.any()):
        z, some, here = z.clone(), rounded.nonzero()[:, 0], spectrum._float64_logits
        there = [(v, step[some]) for v, step in moves]
        z[some] = logits_at(spectrum, rows[some], there, torch.float64)
        kl[some], error[some] = _divergence(spectrum, rows[some], here, z[some], torch.float64)
    return z, kl, error


def _divergence(
    spectrum: Spectrum, rows: Tensor, here: Tensor, there: Tensor, precision: torch.dtype
) -> tuple[Tensor, Tensor]:
    """KL (m,) from logits (n, K) and (m, K) of passes in a precision, and how far rounding may have moved it."""
    likelihood, eps = spectrum.net.likelihood, torch.finfo(precision).eps
    off = logit_error(likelihood, here, eps)
    if precision == spectrum.net.dtype or spectrum.guarantee != "unverified":
        off = torch.maximum(off, spectrum.logit_error)
    kl = likelihood.kl(here[rows], there)
    # To second order √(2 KL) is a norm, in which the logits' difference moves by at most four times what each does,
    # weighted by the doubt, and by √λ₁ times what x + εv was rounded by.
    unsure = -torch.log1p(-likelihood.doubt(here).clamp_max(1 - 1e-16))
    moved = eps / 2 * spectrum.images.flatten(1).double().norm(dim=1) * spectrum.spectral_norm.sqrt()
    noise = ((4 * off * unsure.sqrt() + moved)[rows]) / 2**0.5
    return kl, 2 * kl.sqrt() * noise + noise**2 + 4 * off[rows] * kl


def unasked(spectrum: Spectrum, k: int, epsilon: Tensor) -> Walk:
    """What is known along eigenvector k without asking the model: the prediction at ε = 0, and NaN elsewhere."""
    here = (epsilon == 0)[..., None]
    z = torch.where(here, spectrum.logits[:, None], torch.nan)
    modes, width = spectrum.predictions[:, None], epsilon.shape[1]
    return Walk(
        epsilon=epsilon,
        logits=z,
        probabilities=torch.where(here, spectrum.probabilities[:, None], torch.nan),
        kl=torch.zeros_like(epsilon).where(epsilon == 0, torch.nan),
        kl_error=torch.zeros_like(epsilon).where(epsilon == 0, torch.nan),
        quadratic=0.5 * epsilon**2 * spectrum.eigenvalues[:, k, None],
        flips=torch.tensor([-torch.inf, torch.inf], dtype=torch.float64).expand(len(epsilon), 2),
        becomes=modes.expand(-1, 2, *modes.shape[2:]),
        outcomes=modes.expand(-1, width, *modes.shape[2:]),
    )


def reach(spectrum: Spectrum, coarse: bool = False) -> tuple[Tensor, Seen | None]:
    """The next but one of 0.001, 0.002, 0.005 … 5 beyond the change of prediction along ±v₁; 1 where none is seen.

    `coarse` looks at 0.05 first, and from there at every third down to the last change or up to the first, then back
    from it: a third of the passes, which miss a change and return between two of those, and which are given beside it.
    """
    low, high = spectrum.pixel_range
    series = (high - low) * torch.tensor(_SERIES, dtype=torch.float64)
    changed = torch.zeros(len(spectrum), len(series), dtype=torch.bool)
    asked = [torch.zeros(len(spectrum), 0, dtype=torch.float64)]
    said = [spectrum.logits[:, None][:, :0]]

    def look(some: Tensor, at: Tensor) -> None:
        epsilon = torch.cat([-series[at], series[at]], 1)
        rows = some.repeat_interleave(epsilon.shape[1])
        z = _logits(spectrum, 0, rows, epsilon.flatten())
        margin = spectrum.net.likelihood.margin(z, spectrum.predictions[rows])
        changed[some[:, None], at] = (margin < 0).view(len(some), 2, -1).any(1)
        if coarse:
            asked.append(torch.zeros(len(spectrum), epsilon.shape[1], dtype=torch.float64))
            said.append(spectrum.logits[:, None].repeat(1, epsilon.shape[1], 1))
            asked[-1][some], said[-1][some] = epsilon, z.view(*epsilon.shape, -1)

    if coarse:
        third = torch.full((len(spectrum),), 5)
        left, downward = torch.arange(len(spectrum)), torch.zeros(len(spectrum), dtype=torch.bool)
        while len(left):
            look(left, third[left, None])
            seen = changed[left, third[left]]
            downward[left] |= seen & (third[left] == 5)
            further = third[left] + torch.where(downward[left], -3, 3)
            goes_on = (seen == downward[left]) & (further >= 2) & (further < len(series))
            left, further = left[goes_on], further[goes_on]
            third[left] = further
        for step in (1, 0):
            back = changed.int().argmax(1) - 1
            some = (changed.any(1) & (back % 3 == step)).nonzero()[:, 0]
            if len(some):
                look(some, back[some, None])
    else:
        look(torch.arange(len(spectrum)), torch.arange(len(series)).expand(len(spectrum), -1))
    beyond = series[(changed.int().argmax(1) + 1).clamp_max(len(series) - 1)]
    far = torch.where(changed.any(1), beyond, torch.tensor(high - low, dtype=torch.float64))
    return far, Seen(torch.cat(asked, 1), torch.cat(said, 1)) if coarse else None


def evenly(points: int, reach: Tensor) -> Tensor:
    """An odd number of distances from −reach to reach (n,): (n, points), the middle one exactly 0."""
    return both_sides([(i + 1) / (points // 2) for i in range(points // 2)], reach)


def both_sides(shares: Sequence[float], reach: Tensor) -> Tensor:
    """Ascending distances (n, 2m + 1) at m shares of reach (n,) on either side, and 0."""
    side = torch.tensor(shares, dtype=torch.float64)
    return torch.cat([-side.flip(0), side.new_zeros(1), side]) * reach[:, None]


def one_sided(spectrum: Spectrum) -> Tensor:
    """KL ÷ ½ε²λ₁ (n, 2) just beside each input along −v₁ and +v₁, in float64.

    Not asked where passes are long and the network has no kinks, and a gradient that describes it: it is 1 there.
    """
    net, step = spectrum.net, 1e-6 * (spectrum.pixel_range[1] - spectrum.pixel_range[0])
    unknown = torch.full((len(spectrum), 2), torch.nan, dtype=torch.float64)
    if not (net.has_float64 or net.dtype == torch.float64):
        return unknown
    bends = not (net.smooth and spectrum.guarantee != "void" and spectrum._effort.coarse)
    rows, here = torch.arange(len(spectrum)), spectrum._float64_logits if bends else spectrum.logits
    quadratic = 0.5 * step**2 * spectrum.spectral_norm
    for side, sign in enumerate((-1.0, 1.0)):
        if not bends:
            unknown[:, side] = 1.0
            continue
        there = _logits(spectrum, 0, rows, torch.full((len(rows),), sign * step).double(), torch.float64)
        unknown[:, side] = net.likelihood.kl(here, there) / quadratic
    # Logits round to 1e-15 of their size, λ₁ being what a change of them by 1 would do.
    seen = (step**2 * spectrum.spectral_norm > 1e-22 * net.likelihood.doubt(here)) & (quadratic > 0)
    return torch.where(seen[:, None], unknown, torch.nan)


def _first_change(
    spectrum: Spectrum, k: int, epsilon: Tensor, z: Tensor, margin: Tensor, sign: int, close: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The smallest ε (n,) on one side whose prediction differs: bracketed on the grid, closed in by regula falsi.

    Returns it, infinite where there is none; it or else the outermost distance; and the logits (n, K) there.
    """
    likelihood = spectrum.net.likelihood
    start = likelihood.margin(spectrum.logits, spectrum.predictions)[:, None]
    here = sign * epsilon > 0
    outward, order = (sign * epsilon).clamp_min(0).sort(1)
    outward = torch.cat([torch.zeros_like(start), outward], 1)
    margin = torch.cat([start, torch.where(here, margin, start).gather(1, order)], 1)
    logits = torch.where(here[..., None], z, spectrum.logits[:, None])
    logits = torch.cat([spectrum.logits[:, None], logits.gather(1, order[..., None].expand_as(z))], 1)
    changed = margin < 0
    found = changed.any(1)
    rows = found.nonzero()[:, 0]
    first = changed.int().argmax(1)
    at, at_logits = outward[:, -1].clone(), logits[:, -1].clone()
    a, b = outward[rows, first[rows] - 1], outward[rows, first[rows]]
    fa, fb = margin[rows, first[rows] - 1], margin[rows, first[rows]]
    at_logits[rows] = logits[rows, first[rows]]
    narrow = close * (b - a)
    while len(live := ((b - a) > narrow).nonzero()[:, 0]):
        share = (fa[live] / (fa[live] - fb[live])).clamp(0.01, 0.99)
        middle = a[live] + share * (b[live] - a[live])
        z = _logits(spectrum, k, rows[live], sign * middle)
        f = likelihood.margin(z, spectrum.predictions[rows[live]])
        beyond = f < 0
        # The Illinois rule: halve the value at the end that stays, or that end would never move.
        fa[live], fb[live] = torch.where(beyond, fa[live] / 2, f), torch.where(beyond, f, fb[live] / 2)
        a[live], b[live] = torch.where(beyond, a[live], middle), torch.where(beyond, middle, b[live])
        at_logits[rows[live[beyond]]] = z[beyond]
    at[rows] = b
    return sign * torch.where(found, at, torch.inf), sign * at, at_logits


def _logits(spectrum: Spectrum, k: int, rows: Tensor, epsilon: Tensor, precision: torch.dtype | None = None) -> Tensor:
    """Logits (m, K), float64, of inputs `rows` (m,) moved by epsilon (m,) along v_k."""
    assert spectrum.eigenvectors is not None
    return logits_at(spectrum, rows, [(spectrum.eigenvectors[:, k], epsilon)], precision)


def logits_at(
    spectrum: Spectrum, rows: Tensor, moves: Sequence[tuple[Tensor, Tensor]], precision: torch.dtype | None = None
) -> Tensor:
    """Logits (m, K), float64, of inputs `rows` (m,), moved by distances (m,) along directions (n, *input)."""
    net = spectrum.net
    precision = precision or net.dtype
    work = _WORK if net.device.type == "cpu" else _CARD_WORK
    size = max(1, min(256, work // (4 * spectrum.images[0].numel())))
    if not len(rows):
        return torch.zeros(0, spectrum.logits.shape[1], dtype=torch.float64)

    def moved(places: list[int]) -> Tensor:
        some = rows[places]
        x = spectrum.images[some].to(precision)
        for v, distances in moves:
            x = x + distances[places].to(precision).view(-1, *[1] * (v.ndim - 1)) * v[some].to(precision)
        return x

    if precision == torch.float64:
        with Float64Convolutions():
            return answers_to(net, len(rows), size, moved)
    if spectrum._effort.channels_last and _takes_channels_last(net, spectrum.images):
        return answers_to(
            net, len(rows), size, lambda places: moved(places).contiguous(memory_format=torch.channels_last)
        )
    return answers_to(net, len(rows), size, moved)


def _takes_channels_last(net: Classifier | BlackBox, images: Tensor) -> bool:
    """Whether a network on a processor gives the same of images whose channels lie last; found out once.

    Its convolutions are sooner done then: 0.75 of a forward pass of EfficientNet-Lite0, 0.6 to 1.05 of other networks.
    """
    if not isinstance(net, Classifier) or net.device.type != "cpu" or images.ndim != 4:
        return False
    if net.channels_last is None:
        x = images[:1].to(net.dtype)
        x = torch.cat([x, x.flip(3)])  # of one image alone torch does not know how it lies
        plain = answers(net, x)
        try:
            other = answers(net, x.contiguous(memory_format=torch.channels_last))
            net.channels_last = torch.allclose(plain, other, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # of a view that only the usual layout has
            net.channels_last = False
    return net.channels_last
