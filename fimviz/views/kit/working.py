"""A live view that Python answers: requests are worked on beside the kernel's threads, on copies of the models."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import traitlets

from fimviz._surroundings import ordinary
from fimviz.model.at_rest import beside
from fimviz.views.kit.host import Widget
from fimviz.views.kit.latest import Latest, OvertakenError

_OFTEN = 0.2  # seconds between two reports of progress

Check = Callable[[], None]
Tick = Callable[[int, int], None]


class Working(Widget):
    """The live host of a view whose page sends requests, one job at a time; an answer carries the id of its job.

    `source` is what the view shows, an object whose `apart()` is the same on copies of its models: requests are
    answered at any moment, and the user may be training the models then.
    """

    live = traitlets.Bool(
        False, help="Whether Python answers, which is settled when the widget is made. Default: False."
    ).tag(sync=True)
    refused = traitlets.Unicode(
        "", help="Why Python does not answer, where a model cannot be copied; settled with live. Default: nothing."
    ).tag(sync=True)

    source: Any = None
    _ready = False

    def __init__(self, **state: Any) -> None:
        super().__init__(**state)
        self._latest = Latest()
        self._jobs = itertools.count(1)
        self.on_msg(self._heard)

    def set_up(self, **known: Any) -> None:
        """What Python knows of the view, with copies of the models, or the reason why it cannot answer."""
        super().set_up(**known)
        try:
            self.source = self.source.apart()
            self.live = True
        except ValueError as error:
            self.refused = f"Python does not compute for this view: {error}."
        self._ready = True

    @traitlets.validate("live", "refused")
    def _settled(self, proposal: Any) -> Any:
        if self._ready and proposal.value != getattr(self, proposal.trait.name):
            name = proposal.trait.name
            raise traitlets.TraitError(f"{name} is settled when the widget is made and cannot be changed")
        return proposal.value

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

    def _run(
        self,
        job_id: Any,
        work: Callable[[Check], None],
        kind: str = "",
        instead_of: tuple[str, ...] = ("",),
        **said: Any,
    ) -> None:
        """Do work in place of what it makes pointless; the page hears of a stop or failure, with what is `said`."""

        def job(check: Check) -> None:
            try:
                with beside(), ordinary():
                    work(check)
            except OvertakenError:
                self.send({"kind": "stopped", "id": job_id, **said})
                raise
            except Exception as error:
                self.send({"kind": "failed", "id": job_id, "message": f"{type(error).__name__}: {error}", **said})

        if self.refused:
            self.send({"kind": "failed", "id": job_id, "message": self.refused, **said})
        else:
            self._latest.ask(job, kind, instead_of)

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
