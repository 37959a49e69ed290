"""From paths as they ended to one result: lengths, bounds, and how far a length may be off."""

from __future__ import annotations

import torch
from torch import Tensor

from fimviz.margins import simplex
from fimviz.margins.length import between
from fimviz.margins.state import CLOSE, PACES, Attempt, OpenPath
from fimviz.margins.traces import MarginTraces, Path, Settings
from fimviz.model.classifier import Classifier

_ROUNDING = 16  # machine epsilons of the logits, of a length: its points' errors cancel between neighbours
_HALVING = 3.0  # times what halving the step changed: twice for an error linear in it, and half as much again


def collect(
    net: Classifier,
    x: Tensor,
    z: Tensor,
    labels: Tensor | None,
    paths: list[OpenPath],
    halved: dict[int, OpenPath],
    settings: Settings,
    seconds: float,
    failures: dict[int, str],
) -> MarginTraces:
    """The result of all paths; `halved` holds, by the path's id, the one with half the step."""
    ends = torch.stack([t.z for t in paths])
    starts = torch.stack([t.first for t in paths])
    source, target = (torch.tensor([getattr(t, name) for t in paths]) for name in ("source", "target"))
    flipped = torch.tensor([t.status == "flipped" for t in paths])
    hit = torch.where(flipped, ends.argmax(1), -1)
    sample = torch.tensor([t.sample for t in paths])
    last = torch.stack([t.x for t in paths])
    steps = torch.tensor([len(t.steps) for t in paths])
    smoothed = torch.tensor([sum(s.smoothed for s in t.steps) / max(1, len(t.steps)) for t in paths]).double()
    pace = torch.tensor([[sum(s.pace == p for s in t.steps) for p in range(len(PACES))] for t in paths]).double()
    return MarginTraces(
        sample=sample,
        source=source,
        target=target,
        hit=hit,
        length=torch.tensor([_length(t) for t in paths], dtype=torch.float64),
        length_error=torch.tensor([_error(t, halved.get(id(t)), settings, net.dtype) for t in paths]).double(),
        bound=simplex.boundary_distance(simplex.log_probs(starts), source, torch.where(flipped, hit, target)),
        distance=between(starts, ends),
        l2=(last - x[sample]).flatten(1).double().norm(dim=1),
        steps=steps,
        counted=settings.step * steps.double(),
        status=tuple(t.status for t in paths),
        made_by=tuple(t.attempt or Attempt(settings.method, settings.damping) for t in paths),
        pace=pace / pace.sum(1, keepdim=True).clamp_min(1),
        smoothed=smoothed,
        paths=tuple(_path(t, x[t.sample], end) for t, end in zip(paths, last, strict=True)),
        ends=last,
        images=x,
        labels=labels,
        probabilities=simplex.log_probs(z).exp(),
        net=net,
        settings=settings,
        seconds=seconds,
        failures=failures,
        reasons=tuple(t.failure for t in paths),
    )


def _length(path: OpenPath) -> float:
    return sum(s.fr for s in path.steps)


def _error(path: OpenPath, halved: OpenPath | None, settings: Settings, dtype: torch.dtype) -> float:
    z = path.logits
    rounding = _ROUNDING * torch.finfo(dtype).eps * (1 + float((z.amax(1) - z.amin(1)).max()))
    error = sum(s.fr_error for s in path.steps) + 2 * CLOSE + rounding  # its end's and the halved path's
    if settings.verify and settings.method != "published":
        # Not run, or not to its end: nothing is known.
        if halved is None or halved.status in ("interrupted", "failed"):
            return float("inf")
        # Two paths may be equally long by chance; how far apart they end does not hide that.
        apart = float(between(path.z, halved.z))
        error += _HALVING * abs(_length(path) - _length(halved)) + apart + _bends(path)
    return error


def _bends(path: OpenPath) -> float:
    """What the path's bends, within steps and between them, add to its length, which finer steps may save."""
    if not path.steps:
        return 0.0
    z, middle = path.logits, torch.stack([s.middle for s in path.steps])
    within = _length(path) - float(between(z[:-1], z[1:]).sum())
    corners = between(middle[:-1], z[1:-1]) + between(z[1:-1], middle[1:]) - between(middle[:-1], middle[1:])
    return within + float(corners.sum())


def _path(path: OpenPath, image: Tensor, last: Tensor) -> Path:
    z, steps = path.logits, path.steps
    log_p = simplex.log_probs(z)
    largest = [*(s.largest for s in steps), float("nan")]
    moved = [s.moved for s in steps if s.moved is not None]
    lengths = torch.tensor([0.0, *(s.fr for s in steps)], dtype=torch.float64)
    return Path(
        start=image,
        end=last,
        shares=torch.stack([m.shares for m in moved]) if moved else None,
        units=torch.tensor([m.unit for m in moved], dtype=torch.float64),
        probabilities=log_p.exp(),
        logits=z,
        fr=lengths.cumsum(0),
        gap=log_p[:, path.source] - log_p[:, path.target],
        spectral_norm=torch.tensor(largest, dtype=torch.float64),
        natural=torch.tensor([s.natural for s in steps], dtype=torch.float64),
        l2=torch.tensor([s.l2 for s in steps], dtype=torch.float64),
        pace=tuple(PACES[s.pace] for s in steps),
        smoothed=tuple(s.smoothed for s in steps),
    )
