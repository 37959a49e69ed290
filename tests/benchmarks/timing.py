"""Seconds in units of one forward pass, competitors in turn, and tables of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

_LONG = 2.0  # seconds of a run in which warming up no longer shows


@dataclass
class Peer:
    """One competitor.

    Attributes:
        run: what is timed.
        values: from what `run` returned to λ₁ (m,) of the first m images and its stated errors (m,) or None, not timed.
        share: images that `run` takes, as a part of the batch whose forward pass is the unit.
        few, passes: where `run` is a part of the whole, for instance (1, 40, 999): `few` makes 1 VJP, `run` 40, and
            the whole would make 999. Its cost is that of `few` and a straight line through both.
    """

    name: str
    run: Callable[[], Any]
    values: Callable[[Any], Any] | None = None
    share: float = 1.0
    few: Callable[[], Any] | None = None
    passes: tuple[int, int, int] = (0, 1, 1)
    note: str = ""
    forwards: list[float] = field(default_factory=list)
    result: Any = None
    failure: str = ""

    def clock(self) -> tuple[float, float]:
        """Seconds of the whole, and seconds that were spent on it."""
        start = 0.0 if self.few is None else clock(self.few)[0]
        seconds, self.result = clock(self.run)
        few, some, whole = self.passes
        return start + (seconds - start) * (whole - few) / (some - few), start + seconds

    @property
    def median(self) -> float:
        return statistics.median(self.forwards) if self.forwards else float("nan")


def clock(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def forward_seconds(net: torch.nn.Module, x: torch.Tensor, repeats: int = 3) -> float:
    with torch.no_grad():
        return statistics.median(clock(lambda: net(x))[0] for _ in range(repeats))


def race(net: torch.nn.Module, x: torch.Tensor, peers: list[Peer], repeats: int, budget: float) -> list[Peer]:
    """Time every peer up to `repeats` times, all in turn, each between two measurements of the forward pass.

    A peer leaves once it has used up `budget` seconds. Its first run warms up and counts only where it is long.
    """

    def once(peer: Peer) -> tuple[float, float]:
        before = forward_seconds(net, x)
        whole, spent = peer.clock()
        unit = (before + forward_seconds(net, x)) / 2
        return whole / unit / peer.share, spent

    used: dict[str, float] = {}
    forward_seconds(net, x)
    for peer in peers:
        try:
            if peer.few is not None:
                peer.few()
            cost, used[peer.name] = once(peer)
        except ModuleNotFoundError as error:
            peer.failure = f"not installed here: {error.name}"
        except Exception as error:  # a peer that does not run on this torch or network is a row, not the end
            peer.failure = f"does not run: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
        else:
            if used[peer.name] > _LONG:
                peer.forwards.append(cost)
    for _ in range(repeats):
        running = [peer for peer in peers if not peer.failure and (not peer.forwards or used[peer.name] < budget)]
        for peer in running:
            cost, spent = once(peer)
            used[peer.name] += spent
            peer.forwards.append(cost)
    return peers


def accuracy(peer: Peer, truth: torch.Tensor) -> tuple[torch.Tensor | None, str]:
    """Relative errors of λ₁ and how many images lie within the stated error."""
    if peer.values is None or peer.result is None:
        return None, "–"
    value, error = peer.values(peer.result)
    value, true = value.detach().cpu().double(), truth[: len(value)]
    off = (value - true).abs()
    inside = "–" if error is None else f"{int((off <= error).sum())} of {len(off)}"
    return off / true, inside


def peer_rows(peers: list[Peer], truth: torch.Tensor) -> list[list[str]]:
    rows = []
    for peer in peers:
        if peer.failure:
            rows.append([peer.name, "–", "–", "–", "–", "–", "–", peer.failure])
            continue
        off, inside = accuracy(peer, truth)
        errors = ["–", "–"] if off is None else [f"{off.max():.1e}", f"{off.median():.1e}"]
        spread = f"{min(peer.forwards):.4g}–{max(peer.forwards):.4g}" if len(peer.forwards) > 1 else "–"
        cost = f"{peer.median:.4g}"
        rows.append([peer.name, cost, spread, str(len(peer.forwards)), *errors, inside, peer.note])
    return rows


PEER_HEADER = ["method", "forwards", "from–to", "runs", "worst error of λ₁", "median", "inside `error`", "note"]


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
