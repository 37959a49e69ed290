"""Whether a network's gradient describes it: what it says of a step, beside what the answers do.

A network that rounds, quantises, compares or detaches its input, or a part of it, has a gradient that tells nothing of
that, and answers that change all the same: its Fisher information would be too small, and no attack by gradients would
get anywhere. Along a path the answers of any other change by the integral of the gradient (the fundamental theorem of
calculus), also over kinks and out of dead regions, so that these are not mistaken for one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# At every pixel, in units of the input range: some levels of 8-bit images, and beyond a threshold in the middle. One
# of them is enough: a network with straight-through estimators is described at steps of many levels only.
_STEPS = 2.0**-4, 0.6
_RANDOM = 2  # directions an input
_NODES, _FINE = (1, 4), (16, 64)  # of the integral; more where fewer leave it in doubt
_UNEXPLAINED = 0.2  # of the change; a third of an image comes to 0.4, half of it to 0.5
_EXPLAINED = 0.1  # on a short part of a path: there an honest network is as good as linear
_HALVINGS = 12  # of a path, after which a slope of thousands a pixel is seen to be one, and a jump still is a jump
_NOISE = 64  # machine epsilons of the answers
# At every pixel, in units of the input range: a step on which a network without kinks is as good as linear.
_SHORT = 2.0**-8
_LARGE = 2**14  # numbers of an input
_FOLLOWS, _FEW = 0.1, 8  # of the change on it, and machine epsilons that it has to exceed

_Score = Callable[[Tensor], Tensor]


def follows(score: _Score, x: Tensor, slope: Tensor, box: tuple[float, float], eps: float) -> bool:
    """Whether the answers of a network without kinks at inputs x (n, …) are seen to follow their gradient `slope`.

    It has no levels that a short step would stay between. Costs two forward passes over x; False leaves it open.
    """
    low, high = box
    signs = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(1)).to(x) * 2 - 1
    step = _SHORT * (high - low) * (signs + 0.5)  # in details, and everything at once
    with torch.no_grad():  # two inputs at once cost large networks more than one after the other
        ends = [torch.cat([score(one) for one in end.split(1)]) for end in (x + step, x - step)]
    told, change = 2 * (slope * step).flatten(1).sum(1), ends[0] - ends[1]
    if not slope.any():
        return not change.any()  # a constant network
    return bool(told.norm() > _FEW * eps * (1 + ends[0].norm()) and (change - told).norm() <= _FOLLOWS * told.norm())


def unexplained(score: _Score, x: Tensor, known: Tensor, box: tuple[float, float], eps: float) -> float:
    """The share of what the answers change along a path that its gradient leaves unexplained; 0 up to a fifth.

    Args:
        score: inputs (m, …) → one number each (m,), differentiable.
        x: (n, …) inputs.
        known: their scores (n,).
        box: the smallest and largest value of an input; steps that would leave it go the other way.
        eps: the machine epsilon of the scores.

    Costs a forward pass and a gradient over three times x, and only where these leave it in doubt some more.
    """
    low, high = box
    # Details, in random signs, and everything at once: a network may hide either from its gradient.
    random = torch.randint(0, 2, (_RANDOM, *x.shape), generator=torch.Generator().manual_seed(0)).to(x) * 2 - 1
    signs = torch.cat([random.flatten(0, 1), torch.ones_like(x)])
    x, start = torch.cat([x] * (_RANDOM + 1)), known.repeat(_RANDOM + 1)
    left = []
    for step in _STEPS:
        delta = step * (high - low) * signs
        outside = ((x + delta) < low) | ((x + delta) > high)
        delta = torch.where(outside, -delta, delta)
        with torch.no_grad():
            end = _each(score, x + delta)
        path = _Path(score, x, delta, (start.new_zeros(len(x)), start.new_ones(len(x))), (start, end))
        noise = _NOISE * eps * (1 + start.abs().max())
        if not path.change.norm() > noise:
            continue
        # A short part of a rough path costs less than a fine integral along all of it.
        if _least(path, _NODES) <= _UNEXPLAINED or _is_steep(path, noise):
            return 0.0
        share = _least(path, _FINE)
        if share <= _UNEXPLAINED:
            return 0.0
        left.append(share)
    return min(left, default=0.0)


def _each(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What a function gives of inputs, of large ones two at a time: more take memory and are no quicker."""
    return torch.cat([function(part) for part in x.split(2 if x[0].numel() > _LARGE else len(x))])


def _slope(score: _Score, x: Tensor) -> Tensor:
    here = x.requires_grad_()
    return torch.autograd.grad(score(here).sum(), here)[0]


def _share(change: Tensor, told: Tensor) -> float:
    """In the direction of which most is unexplained."""
    rest, told = ((t.view(_RANDOM + 1, -1)).norm(dim=1) for t in (change - told, told))
    return float((rest / (rest + told)).nan_to_num(0.0).amax())


def _least(path: _Path, some: tuple[int, ...]) -> float:
    """The share that an integral leaves unexplained, of as many nodes as explain it, or of the most."""
    share = 1.0
    for nodes in some:
        share = _share(path.change, path.told(nodes))
        if share <= _UNEXPLAINED:
            break
    return share


@dataclass(frozen=True)
class _Path:
    """Straight lines from x to x + δ, each between two places on it (0 to 1), with the scores at both."""

    score: _Score
    x: Tensor
    delta: Tensor
    places: tuple[Tensor, Tensor]
    scores: tuple[Tensor, Tensor]

    @property
    def change(self) -> Tensor:
        return self.scores[1] - self.scores[0]

    def told(self, nodes: int) -> Tensor:
        """How much of the change the gradient tells, by the midpoint rule."""
        length = (self.places[1] - self.places[0]) / nodes
        total = torch.zeros_like(length)
        for node in range(nodes):
            slope = _each(lambda some: _slope(self.score, some), self._at(self.places[0] + (node + 0.5) * length))
            total += (slope * self.delta).flatten(1).sum(1) * length
        return total

    def worse_half(self) -> tuple[_Path, Tensor]:
        """Of every line the half of which the gradient leaves more unexplained, and what it tells of that."""
        (start, end), middle = self.places, (self.places[0] + self.places[1]) / 2
        with torch.no_grad():
            between = _each(self.score, self._at(middle))
        first = replace(self, places=(start, middle), scores=(self.scores[0], between))
        second = replace(self, places=(middle, end), scores=(between, self.scores[1]))
        told = first.told(1), second.told(1)
        worse = (second.change - told[1]).abs() > (first.change - told[0]).abs()

        def chosen(of_second: tuple[Tensor, Tensor], of_first: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return torch.where(worse, of_second[0], of_first[0]), torch.where(worse, of_second[1], of_first[1])

        places, scores = chosen(second.places, first.places), chosen(second.scores, first.scores)
        return replace(self, places=places, scores=scores), torch.where(worse, told[1], told[0])

    def _at(self, places: Tensor) -> Tensor:
        return (self.x + places.view(-1, *[1] * (self.x.ndim - 1)) * self.delta).detach()


def _is_steep(path: _Path, noise: Tensor) -> bool:
    """Whether the gradient explains what happens on some short enough part of the worst of a path."""
    for _ in range(_HALVINGS):
        path, told = path.worse_half()
        if path.change.norm() <= noise:
            return False
        if _share(path.change, told) <= _EXPLAINED:
            return True
    # What a rough landscape still does on the last part is explained by a finer integral; what is hidden is not.
    return _least(path, _NODES + _FINE) <= _UNEXPLAINED
