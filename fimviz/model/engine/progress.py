"""How far work is: one bar, whose share is time, also over work of several kinds; tqdm says from it what is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from fimviz._options import flag

SOON = 5.0  # seconds after which work that nobody called for by name shows a bar
Tick = Callable[[int, int], None]
"""Is told how much is done, and how much there is."""
Progress = bool | Tick
"""The option `progress` of every public door: True for a tqdm bar, or a function."""


def silent(done: int, total: int) -> None:
    """Progress that nobody asked for."""


def wanted(progress: Any) -> Progress:
    """The option `progress`."""
    return progress if callable(progress) else flag("progress", progress)


def reporter(progress: Progress, total: int, unit: str = "input", delay: float = 0) -> Callable[[int], None]:
    """The option `progress` as a function of what is done.

    A bar with a `delay`, which is seen after so many seconds, is one that nobody has asked for: it is for terminals
    alone, since a notebook would keep it among its outputs.
    """
    if callable(progress):
        return lambda done: progress(done, total)
    if not progress or (delay and not sys.stderr.isatty()):
        return lambda done: None
    from tqdm.auto import tqdm

    bar = tqdm(total=total, unit=unit, leave=False, delay=delay)

    def update(done: int) -> None:
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return update


def ticker(progress: Progress, total: int, unit: str = "input") -> Tick:
    """The option `progress`, which counts to `total`, as a function of what is done and how much there is."""
    report = reporter(progress, total, unit)
    return lambda done, there: report(total * done // there)


class Stages:
    """Stages of work that are done one after the other, each of a kind and with a forecast of what it costs.

    Costs are in any unit, forward passes for instance: what counts is how they compare. What has been done says how
    long a unit takes, of the same kind where one is complete, so that a forecast that was wrong is wrong for a while.
    """

    def __init__(
        self,
        progress: Progress,
        stages: Sequence[tuple[str, float]],
        *,
        total: int = 100,
        unit: str = "%",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report, self._total, self._clock = reporter(progress, total, unit), total, clock
        self._stages = [(kind, max(cost, 1e-9)) for kind, cost in stages]
        self._at, self._began, self._spent = -1, clock(), [0.0] * len(stages)
        self._said = 0

    def next(self) -> Tick:
        """The progress of the next stage; the one before it is complete."""
        if self._at >= 0:
            self._spent[self._at] = self._clock() - self._began
        self._at, self._began = self._at + 1, self._clock()
        stage = self._at

        def tick(done: int, total: int) -> None:
            if stage == self._at:
                self._tell(done / total if total else 1.0)

        tick(0, 1)
        return tick

    def expect(self, stages: Sequence[tuple[str, float]]) -> None:
        """Another forecast of what comes after the stage that is being done."""
        self._stages[self._at + 1 :] = [(kind, max(cost, 1e-9)) for kind, cost in stages]
        self._spent[self._at + 1 :] = [0.0] * len(stages)

    def end(self) -> None:
        """All is done."""
        self._said = self._total
        self._report(self._total)

    def _tell(self, share: float) -> None:
        """Time so far, as a part of it and of what is still to come."""
        spent = self._spent[: self._at]
        here = self._clock() - self._began
        so_far = sum(spent) + here
        units = sum(c for _, c in self._stages[: self._at]) + share * self._stages[self._at][1]
        rate = so_far / units if units else 0.0
        left = here * (1 - share) / share if share else self._rate(self._at, rate) * self._stages[self._at][1]
        left += sum(self._rate(j, rate) * self._stages[j][1] for j in range(self._at + 1, len(self._stages)))
        part = so_far / (so_far + left) if units and so_far + left > 0 else 0.0
        # a bar does not go back, and is full at the end alone
        self._said = max(self._said, min(self._total - 1, int(self._total * part)))
        self._report(self._said)

    def _rate(self, stage: int, overall: float) -> float:
        """Seconds for a unit of a stage's cost: as for a complete one of its kind, else as for all that was done."""
        kind = self._stages[stage][0]
        same = [(self._spent[j], c) for j, (k, c) in enumerate(self._stages[: self._at]) if k == kind]
        return sum(s for s, _ in same) / sum(c for _, c in same) if same else overall
