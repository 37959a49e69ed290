"""Tensors without a device are made on the CPU here, whatever `torch.set_default_device` says outside.

All of class size lives on the CPU (`fimviz.fisher.exact`), and is made without naming it. The user's own code, a
model's forward or a black box, runs with the default that the user has set.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")

_outside: ContextVar[torch.device | None] = ContextVar("_outside", default=None)


@contextmanager
def on_cpu() -> Iterator[None]:
    """Inside, the default device is the CPU."""
    device = torch.get_default_device()
    if device.type == "cpu":
        yield
        return
    token = _outside.set(device)
    try:
        with torch.device("cpu"):
            yield
    finally:
        _outside.reset(token)


def as_outside() -> AbstractContextManager[Any]:
    """Inside, the default device is the user's again."""
    return _outside.get() or nullcontext()


def from_cpu(function: Callable[P, T]) -> Callable[P, T]:
    """The same function with the CPU as its default device."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with on_cpu():
            return function(*args, **kwargs)

    return call
