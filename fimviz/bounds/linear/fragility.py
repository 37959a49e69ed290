"""The largest that λ₁ of the Fisher information can be anywhere in a ball, from linear bounds and from slopes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fimviz.bounds.flow import NoBoundError, NoRuleError
from fimviz.bounds.linear.blocks import Block
from fimviz.bounds.linear.enclosed import Enclosed, Region, carried, enclose
from fimviz.bounds.linear.radius import numbers
from fimviz.bounds.linear.recorded import Step, recorded, values
from fimviz.bounds.linear.slopes import Jacobian
from fimviz.model.classifier import Classifier

_TINY = 1e-200  # of a probability: what is smaller leaves double precision when it is squared
_PAIRS = 20  # classes up to which all pairs of them have rows of their own
_TWICE = 1e9  # numbers that rows are, up to which they are carried back twice
MANY = 2e9  # from here on, minutes an input


def by_slopes(net: Classifier, x: Tensor, radius: Tensor, affordable: bool,
              tick: Callable[[int, int], None]) -> tuple[Tensor, str]:  # fmt: skip
    """log₁₀ of a bound of λ₁ at every point within a radius of each input, and why there is none.

    Args:
        net: the classifier.
        x: (n, …) inputs.
        radius: (n,) in pixel units.
        affordable: whether to leave it where it would take minutes an input.
        tick: told after every input.
    """
    none = torch.full((len(x),), torch.nan, dtype=torch.float64)
    if not net.likelihood.exclusive:
        return none, f"linear bounds of λ₁ are of one of K classes, and the outputs are {net.likelihood.words}"
    if net.dtype != torch.float64 and not net.has_float64:
        return none, "linear bounds need a network that can run in float64"
    with net.at_rest(), torch.no_grad():
        try:
            steps = recorded(net, x)
            _check_slopes(net, x, steps)
        except (NoRuleError, NoBoundError) as error:
            return none, f"{error}"
        if affordable and (count := numbers(steps)) > MANY:
            return none, (
                f"bounds over a ball would compute up to {count:.1g} numbers for each input: `fimviz.ball_bound` does"
            )
        twice = numbers(steps) <= _TWICE
        flat, found = x.detach().cpu().double().flatten(1), none.clone()
        for i, (one, r) in enumerate(zip(flat.split(1), radius.split(1), strict=True)):
            region = Region(one, r.cpu().double(), net.input_range)
            found[i] = largest(steps, enclose(steps, region, twice=twice), values(steps, one)[-1][0])
            tick(i + 1, len(x))
    return found.log10(), ""


def _check_slopes(net: Classifier, x: Tensor, steps: Sequence[Step]) -> None:
    """Refuse a network whose gradient is not that of what it computes: λ₁ is of the gradient."""
    g = torch.Generator().manual_seed(0)
    at = x.double().cpu() + 0.01 * torch.randn(x.shape, generator=g)  # off the kinks that x may lie on
    row = torch.randn(steps[-1].shape.numel(), generator=g, dtype=torch.float64)

    def slope(z: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = at.clone().requires_grad_()
        return torch.autograd.grad((z(leaf).cpu() @ row).sum(), leaf)[0]

    with torch.enable_grad():
        own = slope(lambda at: net.logits(at.to(net.device)))
        stepped = slope(lambda at: values(steps, at.flatten(1))[-1])
    # A detach, which torch records as an alias: the gradient may be another elsewhere in the ball alone.
    cut = any(step.name in ("alias", "detach") for step in steps)
    if cut or not bool(((own - stepped).flatten(1).norm(dim=1) <= 1e-6 * stepped.flatten(1).norm(dim=1)).all()):
        raise NoRuleError(
            "the gradient of the network is not that of what it computes (a detach, or a gradient of its own)"
        )


def largest(steps: Sequence[Step], found: Enclosed, z: Tensor) -> float:
    """The bound over one ball, around an input with logits z (K,); inf where too much of it is open.

    F is the covariance of the logits' slopes J_k under p, at most their mean square around any point m, Σ p_k
    (J_k − m)(J_k − m)ᵀ, and this grows with every p_k. So that with the largest p̄_k that there are in the ball, and m a
    mean of the J_k itself, λ₁ ≤ ‖√p̄ (J − m)‖², which at a radius of 0 is λ₁. And λ₁ ≤ c(p) max ‖J_i − J_j‖² (see
    `fimviz.bounds.ladder`), which a ball that reaches p = (½, ½) needs.
    """
    classes, last = len(z), len(steps) - 1
    eye, y = torch.eye(classes, dtype=torch.float64), int(z.argmax())

    def least(rows: Tensor) -> Tensor:
        return carried(steps, last, Block.of(rows, steps[last].shape), 0, found).low(found.region.radius[0])

    if classes <= _PAIRS:
        gaps = least((eye[:, None] - eye).flatten(0, 1)).view(classes, classes)  # of z_j − z_k
    else:
        gaps = torch.full((classes, classes), -torch.inf, dtype=torch.float64)
        gaps[:, y] = least(eye - eye[y])
        gaps[y] = least(eye[y] - eye)
    gaps.fill_diagonal_(0.0)
    most = 1 / gaps.exp().sum(0)  # of p_k: all other logits are at their least
    most = torch.minimum(most, most[y] * (-gaps[y]).exp()).clamp_min(_TINY)  # p_k = p_y e^(z_k − z_y)
    odds = max(float((-gaps[y, torch.arange(classes) != y]).exp().sum()), _TINY)  # at most, of 1 − p_y to p_y
    try:
        square = _square(Jacobian(steps, found, 0), z, most, odds)
    except (NoBoundError, OverflowError, torch.linalg.LinAlgError):  # too much is open, or too large
        return float("inf")
    return square * (1 + 1e-9) if square < float("inf") else float("inf")


def _square(jacobian: Jacobian, z: Tensor, most: Tensor, odds: float) -> float:
    """The lesser of both bounds, for the largest that each p_k can be, and 1 − p_y to p_y."""
    classes, y = len(z), int(z.argmax())
    eye = torch.eye(classes, dtype=torch.float64)
    middle = jacobian.middle()
    around = [most.sqrt()[:, None] * (eye - q) for q in (z.softmax(0), eye[y], most / most.sum())]
    square = jacobian.norm(min(around, key=lambda rows: float((rows @ middle @ rows.T).trace()))) ** 2
    cap = odds / (1 + odds) ** 2 if odds <= 1 else 0.25  # of p_y (1 − p_y)
    apart = middle.diagonal() + middle.diagonal()[:, None] - 2 * middle
    if cap * float(apart.amax()) < square:  # else it cannot be less
        if classes <= _PAIRS:
            pairs = torch.combinations(torch.arange(classes))
            widest = float(jacobian.lengths(eye[pairs[:, 0]] - eye[pairs[:, 1]]).amax())
        else:
            widest = float(jacobian.lengths(eye - eye[y]).topk(2).values.sum())
        square = min(square, cap * widest**2)
    return square


__all__ = ["by_slopes", "largest"]
