"""The loop of all paths: a direction, a pace, a measured length; the last step closed in on.

Every method is this loop with another direction. All paths of a group that still run take their steps together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fimviz.fisher.passes import Linearisation
from fimviz.margins import simplex
from fimviz.margins.direction import Direction, Slope, bounded
from fimviz.margins.length import between, measure
from fimviz.margins.state import CLOSE, PACES, Moved, OpenPath, Rules, Taken
from fimviz.model.classifier import Classifier
from fimviz.model.engine.parts import in_parts
from fimviz.model.failures import NonFiniteError

KINDS = {"natural": "natural", "published": "natural", "geodesic": "natural", "gradient": "gradient", "pgd": "sign"}
_OVERLONG = 1.5  # times η, a measured length beyond which a step is halved
_HALVINGS = 12
_RETRIES = 2  # halvings of a step that widens the gap; then it is taken: at a kink, ever smaller ones would jam
_CLEAR = 64  # machine epsilons of the logits by which an end lies beyond the boundary
_PATIENCE = 20  # steps in a row that gain nothing
_LOST = 3  # steps that gained nothing, after which a path's slope is a smoothed one
_COPIES = 4  # over which it is smoothed
_LED_BY_SLOPES = ("natural", "gradient", "geodesic")  # methods for which it is
_FORWARDS = 128  # images in a batch of forward passes


class _Smoothed(Classifier):
    """A classifier whose logits are the mean over displaced copies of its inputs: it slopes where the other is flat.

    Args:
        net: the classifier, at rest.
        noise: (copies, m, *input) displacements of m inputs.
    """

    def __init__(self, net: Classifier, noise: Tensor) -> None:
        self.__dict__.update(net.__dict__)
        self._own, self._noise = net, noise

    def logits(self, x: Tensor) -> Tensor:
        z = self._own.logits((x + self._noise).flatten(0, 1))
        return z.view(*self._noise.shape[:2], -1).mean(0)


class Stepper:
    """Takes steps of many paths at once, inside `net.at_rest()`.

    Args:
        net: the classifier.
        rules: how to step.
        keep: whether the images on the way are kept.
        goals: for the straight line, by the path's id, where it is to lead, and in how many steps.
        tick: called after every step of a chunk; what it raises ends the run.
    """

    def __init__(
        self,
        net: Classifier,
        rules: Rules,
        keep: bool,
        goals: dict[int, tuple[Tensor, int]] | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self.tick = tick
        self.net, self.rules, self.keep, self.goals = net, rules, keep, goals or {}
        self.eps = torch.finfo(net.dtype).eps

    def logits(self, x: Tensor) -> Tensor:
        """Logits (m, K), float64 on the CPU."""
        with torch.no_grad():
            parts = [self.net.logits(part.to(self.net.device)).cpu().double() for part in x.split(_FORWARDS)]
        return torch.cat(parts)

    def clear(self, z: Tensor) -> Tensor:
        """By how much (m,) a logit must be ahead for rounding not to matter."""
        # A straight line's goal has been cleared by the whole of it, and is met up to rounding.
        share = 0.5 if self.rules.method == "straight" else 1.0
        return share * _CLEAR * self.eps * (1 + z.amax(1) - z.amin(1))

    def run(self, paths: list[OpenPath], chunk: int) -> None:
        """Step all paths to their ends, `chunk` at a time."""
        live = [t for t in paths if t.status == "interrupted"]
        while live:
            lost = [t for t in live if t.lost]
            for some, copies in (([t for t in live if not t.lost], 1), (lost, _COPIES)):
                size = max(1, chunk // copies)

                def step(at: list[int], some: list[OpenPath] = some) -> None:
                    self.advance([some[i] for i in at])

                for at, _ in in_parts(range(len(some)), size, step):
                    self.tick()
                    if len(at) < min(size, len(some) - at[0]):  # memory ran out
                        chunk = min(chunk, len(at) * copies)
            live = [t for t in live if t.status == "interrupted"]

    def advance(self, paths: list[OpenPath]) -> None:
        """One step of each, all lost or none; sets `status` of those that end, and of those at which slopes fail."""
        rules = self.rules
        x = torch.stack([t.x for t in paths])
        z = torch.stack([t.z for t in paths])
        source = torch.tensor([t.source for t in paths])
        target = torch.tensor([t.target for t in paths])
        try:
            delta, natural, largest, pace = self._delta(paths, x, z, source, target)
        except NonFiniteError as found:  # the others take their step when they are asked again
            for row in found.rows:
                paths[row].status, paths[row].failure = "failed", found.reason
            return
        box = rules.box

        def at(rows: Tensor, shares: Tensor) -> Tensor:
            return self.logits(_moved(x[rows], delta[rows], shares, box))

        every = torch.arange(len(paths))
        share = torch.ones(len(paths), dtype=torch.float64)
        most = _OVERLONG * rules.step * torch.tensor([t.share for t in paths]).double()
        end, middle = at(torch.cat([every, every]), torch.cat([share, share / 2])).chunk(2)
        gap = _gap(z, source, target)
        flipped = self.net.likelihood.margin(end, source) < 0
        if not rules.literal:
            if rules.method != "straight":
                exempt = torch.tensor([rules.method == "pgd" and not t.steps for t in paths])
                for halvings in range(_HALVINGS):
                    overlong = between(z, middle) + between(middle, end) > most
                    beyond = self.net.likelihood.margin(end, source) < -self.clear(end)
                    widened = (_gap(end, source, target) >= gap) & ~beyond & ~exempt
                    again = (overlong | widened & (halvings < _RETRIES)).nonzero()[:, 0]
                    if not len(again):
                        break
                    share[again] /= 2
                    pace[again] = torch.where(overlong[again], PACES.index("step"), PACES.index("line search"))
                    end[again] = middle[again]
                    middle[again] = at(again, share[again] / 2)
            before = share.clone()
            flipped = self._close_in(at, z, middle, end, share, source)
            pace[share < before] = PACES.index("boundary")
        length, growth = measure(lambda rows, s: at(rows, s * share[rows]), z, middle, end)
        reached = _moved(x, delta, share, box)
        l2 = (reached - x).flatten(1).double().norm(dim=1)
        for i, path in enumerate(paths):
            left = path.z
            step = Taken(
                fr=float(length[i]),
                fr_error=float(growth[i]),
                natural=float(natural[i] * share[i]),
                largest=float(largest[i]),
                l2=float(l2[i]),
                pace=int(pace[i]),
                smoothed=path.lost,
                middle=middle[i].clone(),
                z=end[i].clone(),
                moved=Moved.between(path.origin, reached[i]) if self.keep else None,
            )
            path.take(step, reached[i].clone())
            now = float(path.z[path.source] - path.z[path.target])
            better = now < path.least - self.eps * (1 + abs(path.least))
            path.least, path.idle = (now, 0) if better else (path.least, path.idle + 1)
            path.vain += not better
            path.lost = rules.method in _LED_BY_SLOPES and path.vain >= _LOST
            if flipped[i]:
                path.status = "flipped"
            elif len(path.steps) >= (self._goal(path)[1] if rules.method == "straight" else rules.max_steps):
                path.status = "budget"
            elif (not rules.literal and path.idle >= _PATIENCE) or (torch.equal(left, path.z) and l2[i] == 0):
                path.status = "stalled"

    def _goal(self, path: OpenPath) -> tuple[Tensor, int]:
        return self.goals[id(path)]

    def _delta(
        self, paths: list[OpenPath], x: Tensor, z: Tensor, source: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Displacements (m, *input) that end in the box, √(δᵀFδ), λ_max and who set the pace (m,)."""
        rules = self.rules
        unknown = torch.full((len(paths),), torch.nan, dtype=torch.float64)
        pace = torch.full((len(paths),), PACES.index("step"))
        if rules.method == "straight":
            left = [self._goal(t)[1] - len(t.steps) for t in paths]
            goal = torch.stack([self._goal(t)[0] for t in paths])
            return (goal - x) / _column(torch.tensor(left), x).to(x), unknown, unknown, pace
        found = self._direction(paths, x, z, source, target)
        if rules.literal:
            size = rules.step / found.damped.clamp_min(1e-300)
        else:
            share = torch.tensor([t.share for t in paths]).double()
            by_step = share * rules.step / found.fisher.clamp_min(1e-300)
            by_trust = share * rules.trust_region / found.norm.clamp_min(1e-300)
            size = torch.minimum(by_step, by_trust)
            pace[by_trust < by_step] = PACES.index("trust region")
        v = found.v.cpu().view_as(x)
        wanted = (v.double() * -_column(size, x)).to(x.dtype)
        end = x + wanted if rules.box is None else (x + wanted).clamp(*rules.box)
        delta = end - x
        kept = delta.flatten(1).double().norm(dim=1) / (size * found.norm).clamp_min(1e-300)
        pace[kept < 0.9] = PACES.index("box")
        return delta, found.fisher * size * kept, found.largest, pace

    def _direction(self, paths: list[OpenPath], x: Tensor, z: Tensor, source: Tensor, target: Tensor) -> Direction:
        rules, net = self.rules, self.net
        classes = z.shape[1]
        if rules.method == "geodesic":
            first = simplex.log_probs(torch.stack([t.first for t in paths]))
            toward = -simplex.toward(simplex.log_probs(z), simplex.mirrored(first, source, target))
        else:
            toward = torch.nn.functional.one_hot(source, classes) - torch.nn.functional.one_hot(target, classes)
        places, distinct = torch.arange(len(paths)), torch.arange(len(paths))
        if rules.solver == "gram" and not any(t.steps for t in paths):  # paths of one sample leave together
            _, places = torch.tensor([t.sample for t in paths]).unique(return_inverse=True)
            distinct = torch.zeros(int(places.max()) + 1, dtype=torch.long).scatter_(0, places, distinct)
        here = x.to(net.device)
        if paths[0].lost:
            passes = Linearisation(_Smoothed(net, self._noise(paths, here)), here)
            z = passes.logits.cpu().double()
        else:
            passes = Linearisation(net, here[distinct])
        kind, relative = KINDS[rules.method], not rules.literal
        try:
            slope = Slope(passes, places, net.likelihood.factor(z), rules.solver)
            found = bounded(slope, toward.double(), here, rules.box, rules.damping, relative, kind)
        except NonFiniteError as error:  # of the distinct inputs, the paths that stand there
            own = torch.isin(places.cpu(), torch.tensor(error.rows))
            raise NonFiniteError(error.reason, own.nonzero()[:, 0].tolist()) from None
        if rules.method == "pgd":
            found = self._random_start(paths, found)
        return found

    def _noise(self, paths: list[OpenPath], x: Tensor) -> Tensor:
        """Displacements (copies, m, *input), of the seed and of how many steps a path has taken, not of its place."""
        parts = []
        for path in paths:
            draw = torch.Generator().manual_seed((self.rules.seed + 1_000_003 * len(path.steps)) % 2**63)
            parts.append(torch.randn(_COPIES, *x.shape[1:], generator=draw))
        return self.rules.noise * torch.stack(parts, 1).to(x)

    def _random_start(self, paths: list[OpenPath], found: Direction) -> Direction:
        """Random signs for paths that have not left yet (Madry et al. 2018); the trust region sets their length.

        They are the same for all, so that a path does not depend on its image's place in the batch.
        """
        v, fisher = found.v.clone(), found.fisher.clone()
        draw = torch.Generator().manual_seed(self.rules.seed % 2**63)
        signs = (2.0 * torch.randint(0, 2, v.shape[1:], generator=draw) - 1).to(v)
        for i, path in enumerate(paths):
            if not path.steps:
                v[i], fisher[i] = signs, 0
        return replace(found, v=v, fisher=fisher, norm=v.cpu().double().norm(dim=1))

    def _close_in(
        self,
        at: Callable[[Tensor, Tensor], Tensor],
        z: Tensor,
        middle: Tensor,
        end: Tensor,
        share: Tensor,
        source: Tensor,
    ) -> Tensor:
        """Shorten the steps that change the class to just beyond the change, in place; which those are (m,)."""

        def ahead(z: Tensor, rows: Tensor) -> Tensor:
            return self.net.likelihood.margin(z, source[rows]) + self.clear(z)

        every = torch.arange(len(z))
        early = ahead(middle, every) < 0
        flipped = early | (ahead(end, every) < 0)
        rows = flipped.nonzero()[:, 0]
        if not len(rows):
            return flipped
        high = torch.where(early, share / 2, share)[rows]
        low = torch.where(early, 0.0, share / 2)[rows]
        z_high, z_low = torch.where(early[:, None], middle, end)[rows], torch.where(early[:, None], z, middle)[rows]
        f_high, f_low = ahead(z_high, rows), ahead(z_low, rows).clamp_min(0)
        for _ in range(40):
            live = ((between(z_low, z_high) > CLOSE) & (high - low > 1e-9 * high)).nonzero()[:, 0]
            if not len(live):
                break
            part = (f_low[live] / (f_low[live] - f_high[live])).clamp(0.02, 0.98)
            new = low[live] + part * (high[live] - low[live])
            z_new = at(rows[live], new)
            f_new = ahead(z_new, rows[live])
            beyond = f_new < 0
            # The Illinois rule: halve the value at the end that stays, or that end would never move.
            f_low[live], f_high[live] = (
                torch.where(beyond, f_low[live] / 2, f_new),
                torch.where(beyond, f_new, f_high[live] / 2),
            )
            low[live], high[live] = torch.where(beyond, low[live], new), torch.where(beyond, new, high[live])
            z_low[live[~beyond]], z_high[live[beyond]] = z_new[~beyond], z_new[beyond]
        share[rows], end[rows] = high, z_high
        middle[rows] = at(rows, high / 2)
        return flipped


def _moved(x: Tensor, delta: Tensor, shares: Tensor, box: tuple[float, float] | None) -> Tensor:
    moved = x + (delta.double() * _column(shares, x)).to(x.dtype)
    return moved if box is None else moved.clamp(*box)


def _gap(z: Tensor, source: Tensor, target: Tensor) -> Tensor:
    return (z.gather(1, source[:, None]) - z.gather(1, target[:, None]))[:, 0]


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
