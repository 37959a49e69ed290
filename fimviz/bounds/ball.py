"""`ball_bound`: how fragile an answer can be at most, anywhere within a radius of an input."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fimviz._options import named_options, whole
from fimviz._surroundings import looked_at_in_ordinary
from fimviz.bounds.ladder import Ladder
from fimviz.fisher.methods import spectrum
from fimviz.fisher.passes import Linearisation, unsound
from fimviz.model.at_rest import in_dtype
from fimviz.model.classifier import Classifier, as_classifier
from fimviz.model.engine.memory import limit
from fimviz.model.engine.parts import in_parts
from fimviz.model.engine.plan import there_and_back
from fimviz.model.engine.progress import Stages, Tick, wanted
from fimviz.model.failures import column, known, others, said, settle, spread

if TYPE_CHECKING:
    import pandas as pd

_RANDOM = 2  # points on the sphere that the search begins at, beside the input and both ways along v₁


@looked_at_in_ordinary
@dataclass(frozen=True, eq=False, repr=False)
class BallBound:
    """λ₁ at n inputs, and anywhere within a radius of each.

    Attributes:
        radius: (n,) in pixel units; the ball's points are those of the input range.
        at_point: (n,) λ₁ at the input.
        found: (n,) the largest λ₁ that a search in the ball has come to: what the bound cannot be below.
        bound: (n,) a guaranteed upper bound of λ₁ at every point of the ball; NaN where there is none.
        reason: why there is no bound; empty if there is.
        failures: place → why nothing could be computed there; its numbers are NaN.
    """

    radius: Tensor
    at_point: Tensor
    found: Tensor
    bound: Tensor
    reason: str
    failures: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.radius)

    def __repr__(self) -> str:
        size = f"{len(self)} inputs{said(self.failures)}"
        if self.reason:
            return f"BallBound({size}: none, {self.reason})"
        low, high = self.bound[others(self.failures, len(self))].aminmax()
        return f"BallBound({size}: λ₁ at most from {low:.3g} to {high:.3g})"

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a sample: radius, at_point, found, bound, failure."""
        import pandas as pd

        values = {c: getattr(self, c).tolist() for c in ("radius", "at_point", "found", "bound")}
        return pd.DataFrame({"sample": range(len(self)), **values, "failure": column(self.failures, len(self))})


@named_options
def ball_bound(
    net: Classifier | nn.Module,
    images: Any,
    radius: float | Tensor,
    *,
    steps: int = 4,
    seed: int = 0,
    max_memory: float | None = None,
    errors: str = "mark",
    progress: bool | Callable[[int, int], None] = False,
) -> BallBound:
    """A guaranteed upper bound of λ₁ at every point within a radius of each input, beside λ₁ there and what is found.

    Linear bounds over the ball (`fimviz.bounds.linear`) say how large the probabilities can be and between which
    slopes every unit is; the Jacobian is bounded from one with middle slopes and from what the open ones can add
    together. At a radius of 0 that is λ₁ (but where numbers of a pool's windows are as large as each other), in balls
    of a third of the radius that linear bounds prove about twice what is found, beyond that it grows fast: the bound
    from the weights, L5 of `compare_bounds`, takes over where it is better, and where a network has no linear bounds.
    It takes seconds an input. It holds for the network in exact arithmetic, at images as it reads them (in its own
    precision): all that this computation rounds is added.

    Args:
        net: a `Classifier`, or a module from pixels in [0, 1] to logits.
        images: (n, …) floats, or a data set (see `Classifier`).
        radius: in pixel units (L2), one number or (n,).
        steps: of the search for a large λ₁, from five points each.
        seed: of the search's random points.
        max_memory: bytes that spectra may take beside model and images, by default half of what is free.
        errors: what an image is to do whose logits or gradients are not finite: "mark", its row is NaN and says why, or
            "raise".
        progress: True for a tqdm bar, or a function called with (percent of the time, 100).

    Raises:
        ValueError: a radius that is negative or not finite, or not one for each image.

    Source: ours (`fimviz.bounds.linear.slopes`), on the relaxations of Zhang et al. (2018) and an inequality by which
        Fazlyab et al. (2019) bound networks everywhere.

    Example, two classes with F = p(1 − p)‖w‖², largest where p = ½, 0.1 away:
        >>> import torch, fimviz as fv
        >>> model = torch.nn.Linear(2, 2, bias=False).double()
        >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 0.0], [-3.0, 0.0]]))
        >>> b = fv.ball_bound(fv.Classifier(model, input_range=None), torch.tensor([[0.1, 0.0]]).double(), 0.1)
        >>> round(b.bound.item(), 4), round(b.found.item(), 4), round(0.25 * 6**2, 4)
        (9.0, 9.0, 9.0)
    """
    net = as_classifier(net)
    steps, seed = whole("steps", steps, 0), whole("seed", seed, 0)
    errors, progress, max_memory = known(errors), wanted(progress), limit(max_memory)
    x = net.admit(images, max_memory).detach()
    count = len(x)
    radii = within(radius, count)
    bar = Stages(progress, [("check", 3.0 * count), ("bound", 100.0 * count), ("search", 40.0 * steps * count)])
    failures = unsound(net, x, slopes=True, max_memory=max_memory, progress=bar.next())
    settle(failures, count, errors)
    places = others(failures, count)
    x, ball = x[places.to(x.device)], radii[places]
    value, reason = Ladder(net, x, max_memory=max_memory, radius=ball).ball(affordable=False, tick=bar.next())
    bound = torch.full((len(x),), torch.nan, dtype=torch.float64) if value is None else 10**value
    wide = torch.float64 if net.has_float64 else x.dtype
    with net.at_rest(), in_dtype(net.model, wide) if net.dtype != wide else nullcontext():
        at_point, best = _searched(net, x.to(net.device, wide), ball, steps, seed, max_memory, bar.next())
    found = BallBound(ball, at_point, best, bound, reason)
    bar.end()
    return replace(spread(found, places, count), radius=radii, failures=failures) if failures else found


def within(radius: Any, count: int) -> Tensor:
    """One radius for each of the images (count,)."""
    came = f"of shape {tuple(radius.shape)}" if isinstance(radius, Tensor) and radius.ndim else repr(radius)
    expected = f"expected a finite number of at least 0, or one for each of {count} images"
    try:
        radii = torch.as_tensor(radius)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"radius is {came}, {expected}") from None
    if radii.dtype == torch.bool or radii.is_complex() or radii.shape not in ((), (count,)):
        raise ValueError(f"radius is {came}, {expected}")
    radii = torch.as_tensor(radius, dtype=torch.float64).detach().cpu()  # 0.7 by itself would be one of float32
    if not bool((radii.isfinite() & (radii >= 0)).all()):
        raise ValueError(f"radius is {came}, {expected}")
    return radii.expand(count).clone()


def _searched(net: Classifier, x: Tensor, radius: Tensor, steps: int, seed: int, max_memory: float | None,
              tick: Tick) -> tuple[Tensor, Tensor]:  # fmt: skip
    """λ₁ at the inputs, and the largest that was met on the way up from them and from points around."""
    g = torch.Generator().manual_seed(seed)
    radius, (low, high) = radius.to(x), net.input_range or (-torch.inf, torch.inf)

    def by_image(numbers: Tensor) -> Tensor:
        return numbers.view(-1, *[1] * (x.ndim - 1))

    def along(direction: Tensor, length: Tensor) -> Tensor:
        return direction * by_image(length / direction.flatten(1).norm(dim=1).clamp_min(1e-30))

    def inside(step: Tensor) -> Tensor:
        # A hair inside the ball: what the pixels' own precision rounds is not to lead out of it.
        length = torch.minimum(radius * (1 - 1e-6), step.flatten(1).norm(dim=1))
        return (x + along(step, length)).clamp(low, high)

    def fragile(at: Tensor) -> tuple[Tensor, Tensor]:
        s = spectrum(net, at, k=1, max_memory=max_memory, verify=False)
        assert s.eigenvectors is not None
        return s.spectral_norm.cpu().double().nan_to_num(0.0), s.eigenvectors[:, 0].to(at).nan_to_num(0.0)

    at_point, v = fragile(x)
    best = at_point.clone()
    random = torch.randn(_RANDOM, *x.shape, generator=g).to(x)
    starts = [x, *(inside(along(d, radius)) for d in (v, -v, *random))]
    for i, here in enumerate(starts):
        with suppress(FloatingPointError):  # where a search has come to has no λ₁: the next one begins elsewhere
            for turn in range(steps):
                there, v = fragile(here)
                best = torch.maximum(best, there)
                here = inside(here - x + along(_upward(net, here, v, max_memory), radius * 2.0**-turn))
                tick(i * steps + turn + 1, len(starts) * steps)
            best = torch.maximum(best, fragile(here)[0])
    return at_point, best


def _upward(net: Classifier, x: Tensor, v: Tensor, max_memory: float | None) -> Tensor:
    """Which way λ₁ grows because p moves: along v it is the variance of J v under p."""

    def slopes(at: list[int]) -> Tensor:
        part = Linearisation(net, x[at])
        p = part.logits.softmax(1)
        along = part.jvp(v[at].flatten(1)).to(p)
        off = (along - (p * along).sum(1, keepdim=True)).square()
        return part.vjp((p * (off - (p * off).sum(1, keepdim=True)))[..., None])[:, 0].view_as(x[at])

    size = there_and_back(net, x, max_memory)
    return torch.cat([part for _, part in in_parts(range(len(x)), size, slopes)])


__all__ = ["BallBound", "ball_bound", "within"]
