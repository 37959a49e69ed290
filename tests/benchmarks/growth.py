"""How the cost grows with classes, image size and batch, and where Lanczos becomes cheaper than all gradients."""

from __future__ import annotations

import math

import torch

import fimviz as fv
from tests.benchmarks.memory import measured
from tests.benchmarks.peers import floor_batched, floor_loop, floor_vmap
from tests.benchmarks.settings import Convnet, Sizes
from tests.benchmarks.timing import Peer, race, table

_CLASS_IMAGES = 8


def _spectrum(net: fv.Classifier, x: torch.Tensor, method: str, k: int, verify: bool) -> Peer:
    name = f"{method} k={k}{', verified' if verify else ''}" if method != "exact" else f"exact{', verified' * verify}"
    return Peer(name, lambda: fv.spectrum(net, x, k=k, method=method, vectors=False, verify=verify))


def _measured(net: Convnet, x: torch.Tensor, peers: list[Peer], sizes: Sizes) -> list[float]:
    race(net, x, peers, min(sizes.repeats, 3), sizes.growth_budget)
    if failed := next((peer for peer in peers if peer.failure), None):
        raise RuntimeError(f"{failed.name}: {failed.failure}")
    return [peer.median for peer in peers]


def classes(sizes: Sizes) -> tuple[str, dict[str, float]]:
    """The table over K and the crossovers by name."""
    rows, costs = [], []
    for count in sizes.growth_classes:
        net, x = Convnet(count), torch.rand(_CLASS_IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        wrapped = fv.Classifier(net)
        wrapped(x)
        peers = [
            _spectrum(wrapped, x, method, k, verify)
            for verify in (False, True)
            for method, k in (("exact", 1), ("lanczos", 1), ("lanczos", 3))
        ]
        cost = _measured(net, x, peers, sizes)
        steps = peers[1].result.cost.jvps[0].item(), peers[2].result.cost.jvps[0].item()
        rows.append([str(count), *(f"{c:.4g}" for c in cost), f"{steps[0]}, {steps[1]}"])
        costs.append(cost)
    crossovers = {}
    for verify in (False, True):
        for i, k in ((1, 1), (2, 3)):
            name = f"k={k}{', verified' if verify else ''}"
            crossovers[name] = _crossover(sizes.growth_classes, costs, 3 * verify, 3 * verify + i)
    names = [peer.name for peer in peers]
    return table(["K", *names, "steps k=1, k=3"], rows), crossovers


def _crossover(counts: tuple[int, ...], costs: list[list[float]], exact: int, other: int) -> float:
    """The K at which the costs are equal, on straight lines between the logarithms; NaN where they do not cross."""
    gaps = [math.log(cost[other] / cost[exact]) for cost in costs]
    for a, b, before, after in zip(counts, counts[1:], gaps, gaps[1:], strict=False):
        if before > 0 >= after:
            return math.exp(math.log(a) + before / (before - after) * math.log(b / a))
    return math.nan


def pixels_and_batch(sizes: Sizes) -> str:
    """The tables over D and over the batch, K = 10."""
    net, parts, generator = Convnet(10), [], torch.Generator().manual_seed(0)
    wrapped = fv.Classifier(net)
    cases = {
        "D": [(f"3×{side}×{side}", torch.rand(4, 3, side, side, generator=generator)) for side in sizes.growth_pixels],
        "batch": [(str(count), torch.rand(count, 3, 32, 32, generator=generator)) for count in sizes.growth_images],
    }
    for title, points in cases.items():
        rows = []
        for name, x in points:
            wrapped(x)
            peers = [
                Peer("floor, loop", lambda x=x: floor_loop(net, x)),
                Peer("floor, is_grads_batched", lambda x=x: floor_batched(net, x)),
                Peer("floor, vmap", lambda x=x: floor_vmap(net, x)),
                _spectrum(wrapped, x, "exact", 1, False),
                _spectrum(wrapped, x, "exact", 1, True),
                _spectrum(wrapped, x, "lanczos", 1, False),
                _spectrum(wrapped, x, "lanczos", 1, True),
            ]
            rows.append([name, *(f"{c:.4g}" for c in _measured(net, x, peers, sizes))])
        parts.append(table([title, *(peer.name for peer in peers)], rows))
    return "\n\n".join(parts)


def memory(sizes: Sizes) -> tuple[str, float]:
    """The table of peaks, and the largest peak over its budget."""
    rows, worst = [], 0.0
    for method in ("exact", "lanczos"):
        for room in sizes.memory:
            options = {"method": method, "k": 2, "max_steps": 4, "max_memory": room}
            grown = measured("resnet18", 10, options, sizes.memory_images, sizes.memory_pixels)["grown"]
            rows.append([method, f"{room / 1e6:.0f} MB", f"{grown / 1e6:.0f} MB", f"{grown / room:.2f}"])
            worst = max(worst, grown / room)
    return table(["method", "`max_memory`", "growth of the process at its peak", "share"], rows), worst
