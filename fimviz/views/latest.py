"""Work for a live view off the kernel's threads: one job at a time, and the latest request wins."""

from __future__ import annotations

import threading
from collections.abc import Callable


class OvertakenError(Exception):
    """Raised inside a job when a newer one waits or it was told to stop."""


class Latest:
    """A thread that runs the newest job it was given and lets go of the one before.

    Widget callbacks run beside the user's cell, and Stop does not reach them; so a job asks `check` now and then,
    which raises `OvertakenError` when nobody wants its result any more. Nothing is killed.
    """

    def __init__(self) -> None:
        self._guard = threading.Condition()
        self._waiting: Callable[[Callable[[], None]], None] | None = None
        self._stopped = False
        self._thread: threading.Thread | None = None

    def ask(self, job: Callable[[Callable[[], None]], None]) -> None:
        """Run `job(check)` next, in place of any other that waits or runs."""
        with self._guard:
            self._waiting, self._stopped = job, True
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="fimviz view", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Make the running job stop at its next check, and forget the waiting one."""
        with self._guard:
            self._waiting, self._stopped = None, True

    def wait(self, seconds: float) -> bool:
        """Whether all work is done within that time."""
        with self._guard:
            return self._guard.wait_for(lambda: self._thread is None, seconds)

    def _check(self) -> None:
        if self._stopped:
            raise OvertakenError

    def _work(self) -> None:
        while True:
            with self._guard:
                job, self._waiting, self._stopped = self._waiting, None, False
                if job is None:
                    self._thread = None
                    self._guard.notify_all()
                    return
            try:
                job(self._check)
            except OvertakenError:
                continue
