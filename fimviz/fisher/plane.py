"""What a model says on a plane through an input, spanned by an eigenvector and another direction, by forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fimviz.fisher.passes import Linearisation
from fimviz.fisher.walk import ROUNDED, Walk, evenly, logits_at, sharpened
from fimviz.model.classifier import Classifier
from fimviz.model.engine.parts import in_parts

if TYPE_CHECKING:
    from fimviz.fisher.spectrum import Spectrum

_CHUNK = 4  # inputs whose graph is held at a time


@dataclass(frozen=True, eq=False)
class Plane:
    """Forward passes on an even grid x + a·u + b·w at each of n inputs; everything float64.

    Attributes:
        axes: (n, 2, *input) u and w, orthonormal; zeros where there is no such direction.
        distances: (n, m) the places on both axes, in L2 pixel units, ascending; the middle one is 0.
        logits: (n, m, m, K), first along u, then along w.
        kl: (n, m, m) KL(p(x) ‖ p(x + a·u + b·w)) in nats; kl_error: (n, m, m) how far rounding may have moved it.
        outcomes: (n, m, m) the predicted class, or (n, m, m, K) booleans for several yes/no labels.
        information: (n, 2) uᵀFu and wᵀFw. Since u is an eigenvector and w orthogonal to it, uᵀFw = 0, and the ellipse
            ½(a²·uᵀFu + b²·wᵀFw) = c holds the steps of c nats, as F predicts them.
    """

    axes: Tensor
    distances: Tensor
    logits: Tensor
    kl: Tensor
    kl_error: Tensor
    outcomes: Tensor
    information: Tensor


def plane(
    spectrum: Spectrum,
    k: int,
    across: int | Tensor,
    points: int,
    reach: Tensor,
    left_open: tuple[float, float] = ROUNDED,
    walks: Sequence[Walk] = (),
) -> Plane:
    """The plane of eigenvector k and another, or the part of displacements (n, *input) that is orthogonal to it.

    `walks` along the axes, of these inputs and maybe more behind them, are taken for what they say there.
    """
    assert spectrum.eigenvectors is not None
    u = spectrum.eigenvectors[:, k]
    if isinstance(across, int):
        w, other = spectrum.eigenvectors[:, across], spectrum.eigenvalues[:, across]
    else:
        w = _orthogonal(across.to(u), u)
        other = _information(spectrum, w)
    distances = evenly(points, reach)
    count, middle = len(u), points // 2
    z = spectrum.logits[:, None, None].repeat(1, points, points, 1)
    kl, kl_error = (torch.zeros(count, points, points, dtype=torch.float64) for _ in range(2))
    asked = torch.ones(count, points, points, dtype=torch.bool)
    asked[:, middle, middle] = False
    for axis, walked in enumerate(walks):
        near, at = (walked.epsilon[:count, None] - distances[..., None]).abs().min(2)
        known = near <= 1e-9 * reach[:, None]
        for grid, said in ((z, walked.logits), (kl, walked.kl), (kl_error, walked.kl_error)):
            line = grid.select(2 - axis, middle)
            line[known] = said[torch.arange(count)[:, None], at][known]
        asked.select(2 - axis, middle)[known] = False
    rows, i, j = asked.nonzero(as_tuple=True)
    moves = [(u, distances[rows, i]), (w, distances[rows, j])]
    z[asked], kl[asked], kl_error[asked] = sharpened(spectrum, rows, moves, logits_at(spectrum, rows, moves), left_open)
    return Plane(
        axes=torch.stack([u, w], 1),
        distances=distances,
        logits=z,
        kl=kl,
        kl_error=kl_error,
        outcomes=spectrum.net.likelihood.predict(z.flatten(0, 2)).unflatten(0, (count, points, points)),
        information=torch.stack([spectrum.eigenvalues[:, k], other], 1),
    )


def _orthogonal(given: Tensor, u: Tensor) -> Tensor:
    """The unit part of displacements (n, *input) that is orthogonal to u; zeros where there is none."""
    flat, along = given.flatten(1).double(), u.flatten(1).double()
    for _ in range(2):  # once more takes away what rounding left
        flat = flat - (flat * along).sum(1, keepdim=True) * along
    size = flat.norm(dim=1, keepdim=True)
    seen = size > 1e-9 * given.flatten(1).double().norm(dim=1, keepdim=True)
    return torch.where(seen, flat / size, 0.0).to(u.dtype).view_as(u)


def _information(spectrum: Spectrum, w: Tensor) -> Tensor:
    """The form wᵀFw (n,), by one product with the Jacobian."""
    net = spectrum.net
    assert isinstance(net, Classifier)

    def along(places: list[int]) -> Tensor:
        passes = Linearisation(net, spectrum.images[places].to(net.device, net.dtype))
        return passes.jvp(w[places].to(net.device).flatten(1)).cpu().double()

    with net.at_rest():
        parts = [z for _, z in in_parts(range(len(w)), _CHUNK, along)]
    factor = net.likelihood.factor(spectrum.logits)
    whitened = factor.from_logits(torch.cat(parts)[..., None])[..., 0]
    return factor.log_scale.exp() * (whitened**2).sum(1)
