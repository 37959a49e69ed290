"""What the code around a call has set for torch, put aside for as long as fimviz computes.

An evaluation function runs in inference mode, a training step under autocast, a notebook with another default device: a
number must not depend on that. What the user's own code sees, a model's forward or a function that is asked, is kept.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.autograd import forward_ad

_DEVICES = "cpu", "cuda", "mps"
_given = threading.local()  # the default device's type and the default dtype of the user, where they were put aside


@contextmanager
def ordinary(grad: bool = True) -> Iterator[None]:
    """Gradients on, and none of inference mode, autocast, anomaly detection, other default devices and types.

    With `grad` off, gradients stay on or off as they are.
    """
    _refuse_transforms()
    on, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    device = torch.get_default_device()
    lowered = [name for name in _DEVICES if torch.is_autocast_enabled(name)]
    inference, anomaly = torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()
    if (on or not grad) and dtype is torch.float32 and device.type == "cpu" and not (lowered or inference or anomaly):
        yield
        return
    with ExitStack() as stack:
        if inference:
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(on or grad))
        for name in lowered:
            stack.enter_context(torch.autocast(name, enabled=False))
        if anomaly:
            stack.enter_context(torch.autograd.set_detect_anomaly(False))
        if device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if dtype is not torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        before = getattr(_given, "now", None)
        stack.callback(setattr, _given, "now", before)
        _given.now = on, inference, device, dtype
        yield


@contextmanager
def as_given(device: torch.device | None = None) -> Iterator[None]:
    """The user's default device and type, for the user's own code; `device` in place of one that was put aside.

    Without it, gradients and inference mode are the user's too: for a function that only answers.
    """
    if (given := getattr(_given, "now", None)) is None:
        yield
        return
    on, inference, default, dtype = given
    with ExitStack() as stack:
        if default.type != "cpu":
            stack.enter_context(torch.device(device or default))
        if dtype is not torch.get_default_dtype():
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(dtype)
        if device is None:
            stack.enter_context(torch.inference_mode() if inference else torch.set_grad_enabled(on))
        yield


def in_ordinary(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that runs in ordinary surroundings."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        with ordinary():
            return function(*args, **options)

    return call


def _refuse_transforms() -> None:
    """Refuse to be traced or transformed: no call of fimviz can be written down as a graph."""
    around = ""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.jit.is_scripting():
        around = "what torch traces or compiles"
    elif torch._C._functorch.maybe_current_level() is not None:
        around = "a transform of torch.func"
    elif forward_ad._current_level >= 0:
        around = "forward-mode differentiation"
    elif torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None:
        around = "a mode of fake tensors"
    if around:
        raise RuntimeError(f"fimviz was called inside {around}, expected plain tensors: call it outside")
