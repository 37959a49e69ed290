"""A live view that Python answers: requests are worked on beside the kernel's threads, the latest first."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import traitlets

from fimviz.views.figure import Widget
from fimviz.views.latest import Latest, OvertakenError

_OFTEN = 0.2  # seconds between two reports of progress

Check = Callable[[], None]
Tick = Callable[[int, int], None]


class Working(Widget):
    """The live host of a view whose page sends requests, one job at a time; an answer carries the id of its job."""

    live = traitlets.Bool(False, help="Whether Python answers: set by widget(). Default: False.").tag(sync=True)

    def __init__(self, **state: Any) -> None:
        super().__init__(**state)
        self._latest = Latest()
        self.on_msg(self._heard)

    def close(self) -> None:
        """Stop what runs for this view, and close it."""
        if hasattr(self, "_latest"):
            self._latest.stop()
        super().close()

    def wait(self, seconds: float = 60.0) -> bool:
        """Whether all that was asked for is done within that time."""
        return self._latest.wait(seconds)

    def _heard(self, _: Any, content: Any, buffers: Any) -> None:
        """A request of the page."""
        raise NotImplementedError

    def _run(self, job_id: Any, work: Callable[[Check], None], **said: Any) -> None:
        """Do work in place of what runs; the page hears, with what else is `said`, if it was stopped or failed."""

        def job(check: Check) -> None:
            try:
                work(check)
            except OvertakenError:
                self.send({"kind": "stopped", "id": job_id, **said})
                raise
            except Exception as error:
                self.send({"kind": "failed", "id": job_id, "message": f"{type(error).__name__}: {error}"})

        self._latest.ask(job)

    def _ticker(self, job_id: Any, check: Check) -> Tick:
        """Progress that ends an unwanted job and tells the page now and then how far it is."""
        steps, told = 0, time.monotonic()

        def tick(done: int, total: int) -> None:
            nonlocal steps, told
            check()
            steps += 1
            if time.monotonic() - told > _OFTEN:
                told = time.monotonic()
                self.send({"kind": "progress", "id": job_id, "steps": steps, "done": done, "total": total})

        return tick
