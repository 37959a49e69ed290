"""Borrow a model: in evaluation mode, frozen, under its lock, and returned exactly as it came."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from fimviz._surroundings import ordinary
from fimviz.model.state import State

_resting = threading.local()
# Two wrappers of one model share its lock, or a widget's callback could switch the mode under a running cell.
_locks: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


@contextmanager
def beside() -> Iterator[None]:
    """On this thread, beside the user's own code: the process's switches stay as they are, which it runs under too.

    Attention is taken apart on this thread alone; float32 keeps what the user allows, which rounding is measured for.
    """
    before = getattr(_resting, "beside", False)
    _resting.beside = True
    try:
        with _PlainAttention():
            yield
    finally:
        _resting.beside = before


class _PlainAttention(TorchFunctionMode):
    """Attention by the operations that it is made of, on one thread."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not args or not isinstance(args[0], torch.Tensor):  # what a graph is traced with
            return func(*args, **kwargs)
        if func is nn.functional.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_attention_math(*args, **kwargs)[0]
        if func is nn.functional.multi_head_attention_forward:  # which fuses nothing where its weights are wanted
            out, weights = func(*args, **kwargs | {"need_weights": True})
            return out, weights if kwargs.get("need_weights", True) else None
        return func(*args, **kwargs)


def lock_of(model: nn.Module) -> threading.RLock:
    """The one lock of a model."""
    with _guard:
        return _locks.setdefault(model, threading.RLock())


@contextmanager
def at_rest(
    model: nn.Module, device: torch.device, keep_rng: bool = True, thorough: bool = False
) -> Iterator[Restored]:
    """Hold the model's lock with the model in evaluation mode and frozen; restore everything afterwards.

    Gradients are enabled and autocast and TF32 disabled inside, whatever the caller's thread has set: a widget's
    callback does not run on the thread of the user's cell. `keep_rng` is for a model that draws or seeds: the
    generator is the process's, and putting it back would rewind what another thread has drawn meanwhile. `thorough` is
    for a model that writes into its own weights.
    """
    with (
        lock_of(model),
        ordinary(),
        _restored(model, thorough) as restored,
        torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=keep_rng),
        nullcontext() if _is_beside(model) else _exact_process.turned(),
        _no_cudnn.turned() if device.type == "cuda" and recurs(model) else nullcontext(),
    ):
        yield restored


def _is_beside(model: nn.Module) -> bool:
    """Whether the process's switches can be left alone: compiled and scripted parts hear of nothing else."""
    fixed = any(isinstance(m, torch.jit.ScriptModule) or _compiled(m) for m in model.modules())
    return getattr(_resting, "beside", False) and not fixed


def _compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


@contextmanager
def in_dtype(model: nn.Module, dtype: torch.dtype, caches: bool = True) -> Iterator[None]:
    """The model with copies of its weights, of another precision, in the places of its own; call it at rest.

    `caches` is for a model with tensors in plain attributes: they are converted too, and what the pass leaves there in
    this precision is none for a pass in another. torch.func.functional_call would leave its copies in a module that
    stands in two places of the model.
    """
    if any(isinstance(m, torch.jit.ScriptModule) for m in model.modules()):
        raise RuntimeError("a scripted module has the precision that it was scripted in")
    copies: dict[int, torch.Tensor] = {}

    def converted(t: torch.Tensor) -> torch.Tensor:
        if not t.is_floating_point() or t.dtype == dtype:
            return t
        if id(t) not in copies:
            copies[id(t)] = t.detach().to(dtype)
        return copies[id(t)]

    stores = [store for m in model.modules() for store in (m._parameters, m._buffers)]
    own = [(store, name, t) for store in stores for name, t in store.items() if t is not None]
    state = State(model, numbers=False) if caches else None
    try:
        for store, name, t in own:
            store[name] = converted(t)  # type: ignore[assignment]
        if state is not None:
            state.turn(converted)
        yield
    finally:
        if state is not None:
            state.restore()
        for store, name, t in own:
            store[name] = t  # type: ignore[assignment]


class Restored:
    """What is known of a model when its rest has ended.

    Attributes:
        writes: whether passes wrote into parameters.
        caches: whether tensors of real numbers stand in plain attributes, or passes replaced something there.
    """

    writes = caches = False


@contextmanager
def _restored(model: nn.Module, thorough: bool) -> Iterator[Restored]:
    """The model in evaluation mode and frozen; inside another rest of this thread, as it is."""
    restored = Restored()
    here: dict[int, bool] = _resting.__dict__.setdefault("models", {})
    before = here.get(id(model))
    if before is not None and before >= thorough:
        yield restored
        return
    with _no_parametrisations_cached():
        state = State(model, thorough=thorough)
        here[id(model)] = thorough
        try:
            state.turn(lambda t: t.clone() if t.is_inference() else t)
            with suppress(NotImplementedError):  # an exported program has one mode
                model.eval()
            for parameter in model.parameters():  # one by one: a scripted module cannot be frozen as a whole
                parameter.requires_grad_(False)
            yield restored
        finally:
            replaced, restored.writes = state.restore()
            restored.caches = replaced or state.holds_numbers
            if before is None:
                del here[id(model)]
            else:
                here[id(model)] = before


@contextmanager
def _no_parametrisations_cached() -> Iterator[None]:
    """Without the weights that parametrize.cached() holds: of another precision, or of weights in training."""
    enabled, cache = parametrize._cache_enabled, parametrize._cache
    parametrize._cache_enabled, parametrize._cache = 0, {}
    try:
        yield
    finally:
        parametrize._cache_enabled, parametrize._cache = enabled, cache


@contextmanager
def _ieee_float32() -> Iterator[None]:
    """Full float32 products: TF32, the default of CUDA convolutions, keeps three decimal digits only."""
    cudnn, cuda, mkldnn = (getattr(torch.backends, name) for name in ("cudnn", "cuda", "mkldnn"))
    operations = cudnn.conv, cudnn.rnn, cuda.matmul, mkldnn.conv, mkldnn.rnn, mkldnn.matmul
    switches: list[tuple[Any, str, Any, Any]] = [
        (operation, "fp32_precision", operation.fp32_precision, "ieee") for operation in operations
    ]
    # Beside torch's new switches its old one has to agree, or cudnn.flags() in a model's forward raises; it cannot be
    # read where the user has turned the new ones alone.
    with suppress(RuntimeError):
        switches.insert(0, (cudnn, "allow_tf32", cudnn.allow_tf32, False))
    try:
        for owner, name, _, exact in switches:
            setattr(owner, name, exact)
        yield
    finally:
        for owner, name, before, _ in switches:
            setattr(owner, name, before)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """No fused attention, which has no second derivative and no forward mode.

    torch.nn.attention.sdpa_kernel would do, but has to be left on the thread that entered it.
    """
    cuda, mha = torch.backends.cuda, torch.backends.mha
    fused = [
        (mha.set_fastpath_enabled, mha.get_fastpath_enabled()),
        (cuda.enable_flash_sdp, cuda.flash_sdp_enabled()),
        (cuda.enable_mem_efficient_sdp, cuda.mem_efficient_sdp_enabled()),
        (cuda.enable_cudnn_sdp, cuda.cudnn_sdp_enabled()),
    ]
    try:
        for switch, _ in fused:
            switch(False)
        yield
    finally:
        for switch, before in fused:
            switch(before)


@contextmanager
def _eager() -> Iterator[None]:
    """No compiled code: it can go back once, and for one cotangent; no spectrum comes out of it.

    Nobody has compiled where torch._dynamo is not loaded, and loading it takes seconds.
    """
    with torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext():
        yield


@contextmanager
def _no_onednn() -> Iterator[None]:
    before, *_ = torch.backends.mkldnn.set_flags(False, _fp32_precision=None)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(before, _fp32_precision=None)


def recurs(model: nn.Module) -> bool:
    """Whether a model has recurrent layers, also scripted ones."""
    kinds = (getattr(m, "original_name", type(m).__name__) for m in model.modules())
    return any(isinstance(m, nn.RNNBase) for m in model.modules()) or not {"RNN", "LSTM", "GRU"}.isdisjoint(kinds)


@contextmanager
def _plain_recurrence() -> Iterator[None]:
    """No cuDNN, which goes back through recurrent layers in training mode only; torch's own kernels do in both."""
    before = torch.backends.cudnn.enabled
    try:
        torch.backends.cudnn.enabled = False
        yield
    finally:
        torch.backends.cudnn.enabled = before


class _Process:
    """Switches of the whole process, turned by the first thread that needs them so and back by the last."""

    def __init__(self, *switches: Callable[[], AbstractContextManager[None]]) -> None:
        self._switches, self._users, self._stack = switches, 0, ExitStack()

    @contextmanager
    def turned(self) -> Iterator[None]:
        with _guard:
            if self._users == 0:
                for switch in self._switches:
                    self._stack.enter_context(switch())
            self._users += 1
        try:
            yield
        finally:
            with _guard:
                self._users -= 1
                if self._users == 0:
                    self._stack.close()


_exact_process = _Process(_eager, _ieee_float32, _plain_attention)
_no_cudnn = _Process(_plain_recurrence)
plain_kernels = _Process(_no_onednn)
