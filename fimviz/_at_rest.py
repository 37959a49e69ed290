"""Borrow a model: in evaluation mode, frozen, under its lock, and returned exactly as it came."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Two wrappers of one model share its lock, or a widget's callback could switch the mode under a running cell.
_locks: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


def lock_of(model: nn.Module) -> threading.RLock:
    """The one lock of a model."""
    with _guard:
        return _locks.setdefault(model, threading.RLock())


@contextmanager
def at_rest(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Hold the model's lock with the model in evaluation mode and frozen; restore everything afterwards.

    Gradients are enabled and autocast and TF32 disabled inside, whatever the caller's thread has set: torch keeps
    them by thread, and a widget's callback does not run on the thread of the user's cell.
    """
    with (
        lock_of(model),
        _restored(model),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        _ieee_float32(),
    ):
        model.eval()
        model.requires_grad_(False)
        yield


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in model.modules()]
    frozen = [(p, p.requires_grad) for p in model.parameters()]
    # A forward pass may replace a buffer or write into it (running statistics, call counters).
    buffers = [(m, n, b, b.clone()) for m in model.modules() for n, b in m._buffers.items() if isinstance(b, Tensor)]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in frozen:
            parameter.requires_grad_(flag)
        for module, name, buffer, value in buffers:
            if not torch.equal(torch.nan_to_num(buffer), torch.nan_to_num(value)):
                buffer.copy_(value)
            module._buffers[name] = buffer


@contextmanager
def _ieee_float32() -> Iterator[None]:
    """Full float32 products: TF32, the default of CUDA convolutions, keeps three decimal digits only."""
    switches: tuple[Any, ...] = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
