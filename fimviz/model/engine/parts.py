"""Inputs of a batch one part after the other: as many as fit, with progress, until all are done or somebody stops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor

from fimviz.model.blackbox import BlackBox, BudgetExceeded
from fimviz.model.classifier import Classifier
from fimviz.model.engine.plan import there_and_back
from fimviz.model.engine.progress import Progress, reporter
from fimviz.model.failures import NonFiniteError, settle

T = TypeVar("T")
_ANSWERS = 64  # inputs in a batch of forward passes


def in_parts(
    places: Iterable[int],
    size: int,
    compute: Callable[[list[int]], T],
    smaller: Callable[[], bool] = lambda: False,
    lose: Callable[[dict[int, str]], None] | None = None,
) -> Iterator[tuple[list[int], T]]:
    """What is computed for places of a batch, `size` at a time, and half as many from where memory runs out on.

    Args:
        places: of the inputs.
        size: how many fit, as far as is known: somebody else may take the memory meanwhile.
        compute: some places → what is wanted of them; it is asked again, for fewer of them, where memory runs out.
        smaller: makes `compute` take less for each input, and says whether it did: where one alone does not fit.
        lose: is told of places whose passes give NaN, and why; the others are computed without them. By default the
            error is the caller's.
    """
    left = list(places)
    while left:
        part = left[:size]
        try:
            found = compute(part)
        except torch.OutOfMemoryError:
            if not smaller() and len(part) == 1:
                raise
            size = (len(part) + 1) // 2
            continue
        except NonFiniteError as error:
            if lose is None:
                raise
            lost = {part[row]: error.reason for row in error.rows}
            lose(lost)
            left = [place for place in left if place not in lost]
            continue
        left = left[len(part) :]
        yield part, found
        del found  # before the next are computed


def by_rows(
    places: Iterable[int],
    size: int,
    cotangents: int,
    compute: Callable[[list[int], int], T],
    lose: Callable[[dict[int, str]], None] | None = None,
) -> Iterator[tuple[list[int], T]]:
    """`in_parts` of what takes so many cotangents at a time, which are halved with the inputs."""

    def smaller() -> bool:
        nonlocal cotangents
        halved, cotangents = cotangents > 1, (cotangents + 1) // 2
        return halved

    return in_parts(places, size, lambda some: compute(some, cotangents), smaller, lose)


class Work:
    """How far a computation over a batch is, and what becomes of it: a context that survives an interrupt.

    An interrupt, or a black box that may be asked no more, ends the context in silence if something is complete: what
    there is then is for the caller to say, with the cause in `stopped`.

    Args:
        count: how many inputs there are.
        progress: as the option of every public door.
        unit: what they are.
        errors: what is to become of inputs whose passes give NaN in `parts`: "mark" or "raise"; None leaves that open.
        anyway: whether an interrupt is survived also before anything is complete.

    Attributes:
        done: how many, from the first on, are complete.
        failures: place → why it could not be computed.
        stopped: why it ended early; empty if it did not.
    """

    def __init__(
        self,
        count: int,
        progress: Progress = False,
        unit: str = "input",
        *,
        errors: str | None = None,
        anyway: bool = False,
    ) -> None:
        self.count, self.done, self.stopped = count, 0, ""
        self.failures: dict[int, str] = {}
        self._errors, self._some, self._report = errors, anyway, reporter(progress, count, unit)

    def __enter__(self) -> Work:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if not self._some or not isinstance(error, KeyboardInterrupt | BudgetExceeded):
            return False
        self.stopped = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        self.failures = {place: why for place, why in self.failures.items() if place < self.done}
        return True

    def reached(self, done: int) -> None:
        """So many are complete."""
        self.done, self._some = done, self._some or done > 0
        self._report(done)

    def parts(
        self, size: int, cotangents: int, compute: Callable[[list[int], int], T]
    ) -> Iterator[tuple[list[int], T]]:
        """`by_rows` of the whole batch, but for `failures`; each is done when the next is asked for."""
        lose = self._lose if self._errors else None
        for part, found in by_rows(range(self.count), size, cotangents, compute, lose):
            yield part, found
            del found
            self.reached(part[-1] + 1)
        if self.done < self.count:  # the last ones failed
            self.done = self.count
            self._report(self.count)

    def _lose(self, lost: dict[int, str]) -> None:
        self.failures |= lost
        if self._errors == "raise":
            settle(self.failures, self.count, "raise")


def answers(
    net: Classifier | BlackBox, x: Tensor, dtype: torch.dtype | None = None, max_memory: float | None = None
) -> Tensor:
    """Logits (n, K) of an admitted batch in float64 on the CPU, from passes in `dtype`, by default that of x."""
    dtype = dtype or x.dtype
    size = there_and_back(net, x[:1].to(dtype), max_memory) if isinstance(net, Classifier) else _ANSWERS
    return answers_to(net, len(x), size, lambda places: x[places].to(net.device, dtype))


@torch.no_grad()
def answers_to(net: Classifier | BlackBox, count: int, size: int, made: Callable[[list[int]], Tensor]) -> Tensor:
    """Logits (n, K) in float64 on the CPU of `count` inputs, at least one, that are made of some places at a time."""
    with net.at_rest():
        asked = in_parts(range(count), size, lambda places: net.logits(made(places).to(net.device)).cpu().double())
        return torch.cat([z for _, z in asked])
