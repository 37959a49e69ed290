"""Attacks: changes of an image, of at most a given length, that should make the model miss a label.

All run in pixel space, because a `Classifier` holds the normalisation. Whatever a method proposes, `Problem.moved`
alone makes images of it, so that all of them stay within the budget and the input range.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as tf

from fimviz import _memory
from fimviz._images import read_labels
from fimviz._options import named_options, real, whole
from fimviz.bounds import descent
from fimviz.classifier import Classifier, as_classifier
from fimviz.fisher.methods import spectrum
from fimviz.fisher.passes import footprint

NORMS = ("linf", "l2")
OWN = ("spectral", "fgsm", "pgd", "random")
_CHUNK = 64
_TINY = 1e-30


@named_options
def fgsm(net: Classifier | nn.Module, images: Any, labels: Any, epsilon: Any, *, norm: str = "linf") -> Tensor:
    """One step along the gradient of the loss: its sign in L∞, the gradient itself in L2.

    The loss is the log-odds against the label, log((1 − p)/p), which grows with cross-entropy, so that its gradient has
    the same direction; it does not vanish where p rounds to 1.

    Args:
        net: a `Classifier`, or a module from pixels in [0, 1] to logits.
        images: (n, …) floats.
        labels: what the model should miss: classes (n,), for yes/no labels (n, K) of 0 and 1; None for its predictions.
        epsilon: the budget in pixel units, a number or (n,).
        norm: "linf", the most that a pixel may change, or "l2", the length of the change.

    Returns:
        (n, …) the changed images, on the device of `images` and in their dtype. They lie in the input range, and no
        farther than epsilon from `images` (in float64 up to rounding); where the range stops a pixel, nearer.

    Source: Goodfellow et al. (2015), by captum.robust. Captum takes gradients up to 1e-6 for zero, here none is.

    Example, two classes apart by x₁ − x₂, where all that matters is sign(w₂ − w₁) = (−1, 1):
        >>> import torch, fimviz as fv
        >>> fv.attacks.fgsm(torch.nn.Identity(), torch.tensor([[0.5, 0.25]]), [0], 0.125).tolist()
        [[0.375, 0.375]]
    """
    return _attack("fgsm", net, images, labels, epsilon, norm)


@named_options
def pgd(
    net: Classifier | nn.Module,
    images: Any,
    labels: Any,
    epsilon: Any,
    *,
    norm: str = "linf",
    steps: int = 20,
    step: Any = None,
    loss: str = "ce",
    restarts: int = 1,
    seed: int = 0,
) -> Tensor:
    """Projected gradient ascent: many steps along the gradient, each brought back into the budget and the range.

    Of all points on the way the one with the least margin is returned, so that more steps never do less. The first
    start is the image itself, the others are random in the budget; with one, nothing is random.

    Args:
        net: as in `fgsm`.
        images: (n, …) floats.
        labels: what to miss, as in `fgsm`.
        epsilon: the budget in pixel units, a number or (n,).
        norm: "linf" or "l2".
        steps: of every ascent.
        step: the length of one, in pixel units, a number or (n,); by default 2.5 · epsilon / steps.
        loss: "ce", the log-odds against the label (see `fgsm`), or "cw", the margin of the logits.
        restarts: how many ascents.
        seed: of the random starts.

    Returns:
        As `fgsm`.

    Source: Madry et al. (2018), by captum.robust; the margin, Carlini and Wagner (2017). Captum 0.9 steps along the
    sign of the gradient in L2 too, and its random start in L2 fails on batches: both are replaced here.

    Example, p = softmax(x): the shortest way to the second class leads along (−1, 1).
        >>> import torch, fimviz as fv
        >>> moved = fv.attacks.pgd(torch.nn.Identity(), torch.tensor([[0.5, 0.25]]), [0], 0.25, norm="l2")
        >>> [round(v, 4) for v in moved[0].tolist()]
        [0.3232, 0.4268]
    """
    return _attack("pgd", net, images, labels, epsilon, norm, Ascent(steps, step, loss, restarts), seed)


@named_options
def spectral(net: Classifier | nn.Module, images: Any, labels: Any, epsilon: Any, *, norm: str = "l2") -> Tensor:
    """One step along the leading eigenvector of the Fisher information: ±ε v₁, the better of both signs.

    In L2 no direction changes the prediction more to second order. In L∞ the step is ±ε sign(v₁), which is what FGSM
    makes of a gradient; it is not the worst one of that norm, which is hard to find. Labels only choose the sign.

    Args:
        net: as in `fgsm`.
        images: (n, …) floats.
        labels: what to miss, as in `fgsm`.
        epsilon: the budget in pixel units, a number or (n,).
        norm: "linf" or "l2".

    Returns:
        As `fgsm`; an image whose eigenvector is lost in rounding stays as it is.

    Source: Zhao et al. (2019), with the exact eigenvector.

    Example, where F = p₁ p₂ (w₁ − w₂)(w₁ − w₂)ᵀ, so that the way is that of the gradient:
        >>> import torch, fimviz as fv
        >>> moved = fv.attacks.spectral(torch.nn.Identity(), torch.tensor([[0.5, 0.25]]), [0], 0.25)
        >>> [round(v, 4) for v in moved[0].tolist()]
        [0.3232, 0.4268]
    """
    return _attack("spectral", net, images, labels, epsilon, norm)


@named_options
def random(
    net: Classifier | nn.Module, images: Any, labels: Any, epsilon: Any, *, norm: str = "l2", seed: int = 0
) -> Tensor:
    """One step along a random direction, the better of both signs: what a change does that knows nothing.

    Uniform on the sphere in L2; ±ε at every pixel in L∞.

    Args:
        net: as in `fgsm`.
        images: (n, …) floats.
        labels: what to miss, as in `fgsm`.
        epsilon: the budget in pixel units, a number or (n,).
        norm: "linf" or "l2".
        seed: of the direction.

    Returns:
        As `fgsm`.

    Example:
        >>> import torch, fimviz as fv
        >>> moved = fv.attacks.random(torch.nn.Identity(), torch.full((1, 2), 0.5), [0], 0.25, norm="linf")
        >>> (moved - 0.5).abs().tolist()
        [[0.25, 0.25]]
    """
    return _attack("random", net, images, labels, epsilon, norm, seed=seed)


def smallest_attack(net: Classifier, x: Tensor, labels: Tensor, *, targets: int = 4, steps: int = 30) -> Tensor:
    """The L2 length (n,) of the smallest change by which gradient descent makes the model miss the label.

    That of `fimviz.bounds.descent.smallest`, toward the likeliest other classes. It is an upper bound of the true
    smallest change: no attack proves that there is no smaller one.

    Args:
        net: the classifier, of one of K classes.
        x: (n, …), as `Classifier.admit` returned it.
        labels: (n,) class indices on the CPU.
        targets: how many other classes, 1 for the likeliest.
        steps: of every descent.

    Returns:
        (n,) float64 in input units; 0 where the label is missed without a change, infinite where no change was found.

    Example, two classes apart by 2 along a gap of slope √2 in logits:
        >>> import torch
        >>> net = Classifier(torch.nn.Identity(), input_range=None)
        >>> attack = smallest_attack(net, net.admit(torch.tensor([[2.0, 0.0]])), torch.tensor([0]))
        >>> round(attack.item(), 2)
        1.41
    """
    with net.at_rest():
        size = chunk(net, x)
        parts = zip(x.split(size), labels.split(size), strict=True)
        return torch.cat([
            descent.smallest(net, a.to(net.device), b.to(net.device), targets=targets, steps=steps).cpu()
            for a, b in parts
        ])  # fmt: skip


@dataclass(frozen=True)
class Ascent:
    """The options of `pgd`, as there."""

    steps: int = 20
    step: Any = None
    loss: str = "ce"
    restarts: int = 1

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)
        whole("restarts", self.restarts, 1)
        if self.loss not in ("ce", "cw"):
            raise ValueError(f"loss is {self.loss!r}, expected 'ce' (cross-entropy) or 'cw' (margin of the logits)")


@dataclass(frozen=True)
class Problem:
    """Inputs x (n, …) and the outcomes that the model should miss, on its device; in which norm. Use it at rest."""

    net: Classifier
    x: Tensor
    labels: Tensor
    norm: str

    def __getitem__(self, at: Tensor | slice) -> Problem:
        return replace(self, x=self.x[at], labels=self.labels[at])

    def split(self) -> Iterator[tuple[Problem, slice]]:
        """Parts that fit the memory, and their places."""
        size = chunk(self.net, self.x)
        for start in range(0, len(self.x), size):
            at = slice(start, start + size)
            yield self[at], at

    def moved(self, d: Tensor, epsilon: Tensor) -> Tensor:
        """X + ε d for directions d (n, …) of length 1 at most, within the range and the budget.

        In float64, and rounded toward x: float32 next to x may lie farther than ε.
        """
        wide = torch.float32 if self.x.device.type == "mps" else torch.float64
        x, step, room = self.x.to(wide), d.to(wide), _as(epsilon.to(self.x.device, wide), self.x)
        step = step * (room / _as(self.length(step), self.x).clamp_min(_TINY)).clamp_max(room)
        step = step * (1 - 1e-12) if self.norm == "l2" else step  # its length is a rounded number
        return _toward(self.x, _inside(x, step, self.net.input_range))

    def length(self, d: Tensor) -> Tensor:
        """The length (n,) of changes in the norm."""
        return d.flatten(1).norm(dim=1, p=2 if self.norm == "l2" else math.inf)

    def missed(self, moved: Tensor) -> Tensor:
        """Whether (n,) the model misses the labels there."""
        with torch.no_grad():
            return miss(self.net, self.net.logits(moved), self.labels)

    def better(self, candidates: list[Tensor]) -> Tensor:
        """Of several changed images of every input the one with the least margin."""
        if len(candidates) == 1:
            return candidates[0]
        with torch.no_grad():
            left = torch.stack([self.net.likelihood.margin(self.net.logits(c), self.labels) for c in candidates])
        return torch.stack(candidates)[left.argmin(0), torch.arange(len(self.x), device=self.x.device)]

    def directions(self, attack: str, seed: int = 0) -> list[Tensor]:
        """Those (n, …) of length 1 along which an attack of one step goes, whatever its budget."""
        if attack == "fgsm":
            return [self._steepest()]
        if attack == "spectral":
            v = spectrum(self.net, self.x, k=1, verify=False).eigenvectors
            assert v is not None
            return self.both_ways(v[:, 0])
        if attack == "random":
            generator = torch.Generator().manual_seed(seed)
            return self.both_ways(torch.randn(self.x.shape, generator=generator, dtype=torch.float64))
        raise ValueError(f"{attack!r} is no attack of one step")

    def both_ways(self, v: Tensor) -> list[Tensor]:
        """± the direction of length 1 that vectors (n, …) give in the norm."""
        d = self._unit(v.to(self.x))
        return [d, -d]

    def linear_distance(self) -> Tensor:
        """The budget (n,) at which the margin would close if it were linear."""
        x = self.x.detach().requires_grad_()
        margin = self.net.likelihood.margin(self.net.logits(x), self.labels)
        (g,) = torch.autograd.grad(margin.sum(), x)
        slope = g.flatten(1).norm(dim=1, p=2 if self.norm == "l2" else 1)
        return margin.detach().clamp_min(0) / slope.clamp_min(_TINY)

    def _unit(self, g: Tensor) -> Tensor:
        """The direction of length 1 along which wᵀx with w = g grows most."""
        return g.sign() if self.norm == "linf" else g / _as(self.length(g), g).clamp_min(_TINY)

    def _steepest(self) -> Tensor:
        ones = torch.ones(len(self.x), dtype=self.x.dtype, device=self.x.device)
        step, _ = _captum(self, ones, odds_against)
        with _quiet():
            return step.perturb(torch.zeros_like(self.x), 1.0, self.labels)

    def ascend(self, epsilon: Tensor, options: Ascent, start: Tensor | None = None) -> Tensor:
        """PGD's directions d (n, …) from the inputs or from a `start` of the same kind: x + ε d is the best point."""
        eps = epsilon.to(self.x).clamp_min(_TINY)
        size = torch.full_like(eps, 2.5 / options.steps)
        if options.step is not None:
            size = _lengths("step", options.step, len(self.x)).to(eps) / eps
        loss = odds_against if options.loss == "ce" else _margin_against
        _, walk = _captum(self, eps, loss, start)
        best = torch.zeros_like(self.x)
        least = torch.full_like(eps, torch.inf)

        def look(d: Tensor, z: Tensor) -> None:
            nonlocal best, least
            margin = self.net.likelihood.margin(z.detach(), self.labels)
            best = torch.where(_as(margin < least, d), d.detach(), best)
            least = torch.minimum(margin, least)

        walk.look = look
        with _quiet():
            norm = "L2" if self.norm == "l2" else "Linf"
            there = (torch.zeros_like(self.x), 1.0, _as(size, self.x), options.steps, self.labels)
            last = walk.perturb(*there, random_start=start is not None, norm=norm)
            with torch.no_grad():
                walk.forward_func(last)
        return best


def _captum(problem: Problem, eps: Tensor, loss: Any, start: Tensor | None = None) -> tuple[Any, Any]:
    """Captum's FGSM and PGD on d ↦ model(x + ε d): every budget is 1 there, whatever the input's ε."""
    from captum.robust import FGSM, PGD

    net, x, scale = problem.net, problem.x, _as(eps, problem.x)

    def forward(d: Tensor) -> Tensor:
        z = net.logits(x + scale * d)
        walk.look(d, z)
        return z

    class Step(FGSM):
        def _perturb(self, inputs: Any, grads: Any, epsilon: Any, targeted: bool, masks: Any) -> Any:
            return tuple(d + epsilon * problem._unit(g) for d, g in zip(inputs, grads, strict=True))

    class Walk(PGD):
        look = staticmethod(lambda d, z: None)

        def _random_point(self, center: Tensor, *_: Any) -> Tensor:
            return center if start is None else center + start

    def harm(z: Tensor, labels: Tensor) -> Tensor:
        return loss(net, z, labels)

    step, walk = Step(forward, harm), Walk(forward, harm)
    walk.fgsm = step
    low, high = net.input_range or (-math.inf, math.inf)
    bounds = ((low - x) / scale).clamp_max(0), ((high - x) / scale).clamp_min(0)
    walk.bound = lambda d: d.clamp(*bounds)
    return step, walk


@contextmanager
def _quiet() -> Iterator[None]:
    """Without captum's warning that it turns on gradients of its own tensors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Input Tensor", UserWarning)
        yield


def miss(net: Classifier, z: Tensor, labels: Tensor) -> Tensor:
    """Whether (n,) the outcome of logits (n, K) is not the labels, one of several yes/no labels being enough."""
    other = net.likelihood.mode(z) != labels
    return other if other.ndim == 1 else other.any(1)


def odds_against(net: Classifier, z: Tensor, labels: Tensor) -> Tensor:
    """A loss (n,) that grows with cross-entropy and never saturates.

    For classes log((1 − p)/p) of the label; for yes/no labels the logarithm of the sum of their cross-entropies.
    """
    if net.likelihood.name == "bernoulli":
        t = torch.where(labels, -z, z)
        return torch.where(t < -15, t, tf.softplus(t.clamp_min(-15)).log()).logsumexp(1)
    own = labels[:, None]
    return z.scatter(1, own, -torch.inf).logsumexp(1) - z.gather(1, own)[:, 0]


def _margin_against(net: Classifier, z: Tensor, labels: Tensor) -> Tensor:
    return -net.likelihood.margin(z, labels)


def starts(problem: Problem, count: int, seed: int) -> list[Tensor]:
    """Random points (n, …) of the unit ball in the problem's norm, the same on every device."""
    generator, wide = torch.Generator().manual_seed(seed), torch.float64
    found = []
    for _ in range(count):
        if problem.norm == "linf":
            d = 2 * torch.rand(problem.x.shape, generator=generator, dtype=wide) - 1
        else:
            d = torch.randn(problem.x.shape, generator=generator, dtype=wide)
            size = torch.rand(len(d), generator=generator, dtype=wide) ** (1 / d[0].numel())
            d = d * _as(size / problem.length(d), d)
        found.append(d.to(problem.x))
    return found


def chunk(net: Classifier, x: Tensor) -> int:
    """How many inputs to attack at a time."""
    room = _memory.budget(net.device) // max(1, 6 * footprint(net, x[:1].to(net.device))[0])
    return max(1, min(_CHUNK, room))


def pose(net: Classifier | nn.Module, images: Any, labels: Any, norm: str) -> Problem:
    """The problem of attacking these images: checked, and the model's own predictions where labels are None."""
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}, expected 'linf' or 'l2'")
    net = _white_box(net)
    x = net.admit(images).detach()
    truth = read_labels(labels, len(x), net)
    if truth is None:
        with net.at_rest(), torch.no_grad():
            parts = x.split(chunk(net, x))
            truth = torch.cat([net.likelihood.mode(net.logits(part.to(net.device))) for part in parts])
    return Problem(net, x.to(net.device), truth.to(net.device), norm)


def _white_box(net: Any) -> Classifier:
    if not isinstance(net, Classifier | nn.Module):
        raise TypeError(f"net is a {type(net).__name__}, expected a Classifier or nn.Module: attacks need gradients")
    return as_classifier(net)


def _attack(
    name: str,
    net: Classifier | nn.Module,
    images: Any,
    labels: Any,
    epsilon: Any,
    norm: str,
    options: Ascent | None = None,
    seed: int = 0,
) -> Tensor:
    seed, net = whole("seed", seed, 0), _white_box(net)
    given = net.batch(images).detach()
    task = pose(net, given, labels, norm)
    eps = _lengths("epsilon", epsilon, len(task.x))
    size = None if options is None or options.step is None else _lengths("step", options.step, len(eps))
    others = starts(task, options.restarts - 1, seed) if options else []
    out = []
    with task.net.at_rest():
        ways = task.directions(name, seed) if name == "random" else None
        for part, at in task.split():
            if options:
                one = replace(options, step=None if size is None else size[at])
                found = [part.ascend(eps[at], one, start) for start in (None, *(s[at] for s in others))]
            else:
                found = [d[at] for d in ways] if ways else part.directions(name)
            out.append(part.better([part.moved(d, eps[at]) for d in found]))
    wide = torch.float32 if task.x.device.type == "mps" else torch.float64
    step = (torch.cat(out).to(wide) - task.x.to(wide)).to(given.device)
    return _toward(given, _inside(given.to(wide), step, task.net.input_range))


def _inside(x: Tensor, step: Tensor, input_range: tuple[float, float] | None) -> Tensor:
    """X + step, stopped where the range ends, or at x where that lies a rounding beyond it."""
    low, high = input_range or (-math.inf, math.inf)
    return (x + step).clamp(x.clamp_max(low), x.clamp_min(high))


def _toward(x: Tensor, goal: Tensor) -> Tensor:
    """A goal in the precision of x, rounded toward x: its neighbour on the other side would be farther."""
    moved = goal.to(x.dtype)
    over = (moved.to(goal.dtype) - x.to(goal.dtype)).abs() > (goal - x.to(goal.dtype)).abs()
    return torch.where(over, torch.nextafter(moved, x), moved)


def _lengths(name: str, given: Any, n: int) -> Tensor:
    """A budget for every input (n,), float64."""
    if isinstance(given, str | bytes | bool):
        real(name, given)
    try:
        values = torch.as_tensor(given, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} is a {type(given).__name__}, expected a number or one an image ({n},)") from None
    if values.ndim and values.shape != (n,):
        raise ValueError(f"{name} has shape {tuple(values.shape)}, expected a number or one an image ({n},)")
    if not (values.isfinite() & (values >= 0)).all():
        raise ValueError(f"{name} is {given}, expected lengths from 0, in pixel units")
    return values.expand(n)


def _as(v: Tensor, x: Tensor) -> Tensor:
    return v.view(-1, *[1] * (x.ndim - 1))
