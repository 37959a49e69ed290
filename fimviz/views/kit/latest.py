"""Work for a live view off the kernel's threads: one job at a time, and the latest request of a kind wins."""

from __future__ import annotations

import threading
from collections.abc import Callable

Job = Callable[[Callable[[], None]], None]


class OvertakenError(Exception):
    """Raised inside a job when nobody wants its result any more."""


class Latest:
    """A thread that runs jobs in their order and lets go of those that a newer one has made pointless.

    Widget callbacks run beside the user's cell, and Stop does not reach them; so a job asks `check` now and then,
    which raises `OvertakenError` when nobody wants its result any more. Nothing is killed.
    """

    def __init__(self) -> None:
        self._guard = threading.Condition()
        self._waiting: list[tuple[str, Job]] = []
        self._running = ""
        self._stopped = False
        self._thread: threading.Thread | None = None

    def ask(self, job: Job, kind: str = "", instead_of: tuple[str, ...] = ("",)) -> None:
        """Run `job(check)` after those that wait, in place of those whose kind is among `instead_of`."""
        with self._guard:
            self._let_go(instead_of)
            self._waiting.append((kind, job))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="fimviz view", daemon=True)
                self._thread.start()

    def stop(self, *kinds: str) -> None:
        """Make a running job of these kinds, or of any, stop at its next check, and forget those that wait."""
        with self._guard:
            self._let_go(kinds or (self._running, *(kind for kind, _ in self._waiting)))

    def wait(self, seconds: float) -> bool:
        """Whether all work is done within that time."""
        with self._guard:
            return self._guard.wait_for(lambda: self._thread is None, seconds)

    def _let_go(self, kinds: tuple[str, ...]) -> None:
        self._waiting = [w for w in self._waiting if w[0] not in kinds]
        self._stopped |= self._running in kinds

    def _check(self) -> None:
        if self._stopped:
            raise OvertakenError

    def _work(self) -> None:
        while True:
            with self._guard:
                if not self._waiting:
                    self._thread, self._running = None, ""
                    self._guard.notify_all()
                    return
                (self._running, job), self._stopped = self._waiting.pop(0), False
            try:
                job(self._check)
            except OvertakenError:
                continue
