"""Tasks one after the other in a process of their own, so that a crash, a hang or a failure costs one task alone.

A worker sends a record after every task; where it hangs or dies, the next one goes on behind the task that it was at.
"""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

_START = 120.0  # seconds that a worker may take to import torch and to wake the card
_GRACE = 10.0  # seconds beyond the end that a task may take which began before it
_BROKEN = ("CUDA error", "device-side assert", "an illegal memory access", "CUBLAS_STATUS", "CUDNN_STATUS")


@dataclass(frozen=True)
class Place:
    """Where tasks run."""

    device: str
    quick: bool

    @property
    def card(self) -> bool:
        return self.device != "cpu"


@dataclass(frozen=True)
class Task:
    """One thing to find out: `run` returns what it measured, or raises.

    Attributes:
        part: "checks" or "figures".
        limit: seconds after which it counts as hung.
    """

    name: str
    part: str
    run: Callable[[Place], dict[str, Any]]
    limit: float = 60.0


def work(tasks: Sequence[Task], place: Place, until: float, to: Connection) -> None:
    """Run tasks in this process; a worker's main function."""
    torch.set_num_threads(1)  # the networks of the checks are small: a second thread mostly waits
    if place.card:
        torch.zeros(1, device=place.device)
    for task in tasks:
        if time.time() > until:
            to.send({"name": task.name, "part": task.part, "status": "no time left"})
            continue
        to.send(task.name)
        record, broken = _record(task, place)
        to.send(record)
        if broken:
            return  # the process can use the card no more
        if place.card:
            torch.cuda.empty_cache()


def _record(task: Task, place: Place) -> tuple[dict[str, Any], bool]:
    start, found, status, broken = time.perf_counter(), {}, "ok", False
    try:
        torch.manual_seed(0)
        found = task.run(place)
    except Exception as error:  # whatever it is, it is this task's result
        status, broken = "failed", any(sign in str(error) for sign in _BROKEN)
        found = {"error": f"{type(error).__name__}: {error}"[:2000], "trace": traceback.format_exc()[-4000:]}
    seconds = round(time.perf_counter() - start, 2)
    return {"name": task.name, "part": task.part, "status": status, "seconds": seconds, **found}, broken


def run(tasks: Sequence[Task], place: Place, until: float, note: Callable[[dict[str, Any]], None]) -> None:
    """Run all tasks, handing `note` a record of each, as it comes; those that no time is left for say so."""
    left = list(tasks)
    while left and time.time() < until:
        lost, code = _worker(left, place, until, note)
        if lost:
            task = left.pop(0)
            note({"name": task.name, "part": task.part, "status": lost, "limit": task.limit, "exit": code})
    for task in left:
        note({"name": task.name, "part": task.part, "status": "no time left"})


def _worker(left: list[Task], place: Place, until: float, note: Callable[[dict[str, Any]], None]) -> tuple[str, Any]:
    """Take from `left` what one worker does; returns what befell the task that it was at, and its exit code."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    worker = context.Process(target=work, args=(left, place, until, theirs))
    worker.start()
    theirs.close()
    inside, limit, lost = False, _START, ""
    try:
        while left:
            if not ours.poll(min(limit, max(1.0, until + _GRACE - time.time()))):
                lost = "hung" if time.time() < until + _GRACE else "no time left"
                break
            message = ours.recv()
            if isinstance(message, str):
                inside, limit = True, left[0].limit * (1 if place.card else 5)
            else:
                left.pop(0)
                note(message)
                inside, limit = False, _START
    except EOFError:
        worker.join(10)
        lost = "crashed" if inside or worker.exitcode else ""  # else it went because it could use the card no more
    finally:
        worker.join(0 if lost else 10)
        if worker.is_alive():
            worker.kill()
            worker.join()
    return lost, worker.exitcode
