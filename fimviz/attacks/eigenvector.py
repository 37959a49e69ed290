"""One step along the leading eigenvector of the Fisher information."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fimviz._options import named_options
from fimviz.attacks.attack import Aim, Attack, Options
from fimviz.attacks.budget import within
from fimviz.attacks.problem import Problem
from fimviz.attacks.search import along, bracketed, looks
from fimviz.fisher.methods import spectrum
from fimviz.model.classifier import Classifier


def _aim(problem: Problem, options: Options) -> Aim:
    def ways(part: Problem, at: Tensor) -> list[Tensor]:
        if options.spectrum is None:
            vectors = spectrum(part.net, part.x, k=1, verify=False, max_memory=part.max_memory).eigenvectors
        else:
            vectors = options.spectrum.eigenvectors
            vectors = None if vectors is None else vectors[at]
        assert vectors is not None
        return part.both_ways(vectors[:, 0])

    return along(ways)


SPECTRAL = Attack(
    name="spectral",
    search=bracketed(_aim),
    aim=_aim,
    passes=lambda options: 2 * looks(options),
    needs="the point, and the leading eigenvector of F there",
    short="along v₁",
    formula="x ± ε v₁",
    vectors=True,
)


@named_options
def spectral(
    net: Classifier | nn.Module,
    images: Any,
    labels: Any,
    epsilon: Any,
    *,
    norm: str = "l2",
    max_memory: float | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> Tensor:
    """One step along the leading eigenvector of the Fisher information: ±ε v₁, the better of both signs.

    In L2 no direction changes the prediction more to second order. In L∞ the step is ±ε sign(v₁), which is what FGSM
    makes of a gradient; it is not the worst one of that norm, which is hard to find. Labels only choose the sign.

    Args:
        net: as in `fgsm`.
        images: (n, …) floats, or a data set (see `Classifier`).
        labels: what to miss, as in `fgsm`.
        epsilon: the budget in pixel units, a number or (n,).
        norm: "linf" or "l2".
        max_memory: as in `fgsm`.
        progress: as in `fgsm`.

    Returns:
        As `fgsm`; an image whose eigenvector is lost in rounding stays as it is.

    Source: Zhao et al. (2019), with the exact eigenvector.

    Example, where F = p₁ p₂ (w₁ − w₂)(w₁ − w₂)ᵀ, so that the way is that of the gradient:
        >>> import torch, fimviz as fv
        >>> moved = fv.attacks.spectral(torch.nn.Identity(), torch.tensor([[0.5, 0.25]]), [0], 0.25)
        >>> [round(v, 4) for v in moved[0].tolist()]
        [0.3232, 0.4268]
    """
    return within(SPECTRAL, net, images, labels, epsilon, norm, max_memory=max_memory, progress=progress)
