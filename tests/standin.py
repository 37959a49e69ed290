"""A device that is not there: the CPU under another name, with the manners of an accelerator.

Tensors that were moved to it know it by their `device`; whoever mixes them with others, asks them for an array, or for
a precision that it does not have, is refused as torch would refuse. So what runs on it is found out without one: that a
result comes home, that nothing meets on two devices, and that Metal is never asked for float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
# What takes tensors of two devices: the way between them, and places given on the CPU.
_CROSSES = {_aten.copy_.default, _aten._to_copy.default}
_PLACES = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}


@contextmanager
def standin(name: str, *refused: torch.dtype) -> Iterator[torch.device]:
    """Inside, there is a device of this name, without some precisions."""
    where = _where(name, refused)
    with _Below(where), _Above(where):
        yield where.device


@cache
def _where(name: str, refused: tuple[torch.dtype, ...]) -> _Where:
    """One for all that is inside of it one after the other: a module may keep a tensor from then to now."""
    return _Where(torch.device(name), set(refused))


class _Where:
    """Which storages lie on the device."""

    def __init__(self, device: torch.device, refused: set[torch.dtype]) -> None:
        self.device, self.refused = device, refused
        self._there: dict[int, StorageWeakRef] = {}
        self.landing: bool | None = None  # where the results of an operation come to lie, if it was said

    def holds(self, t: Tensor) -> bool:
        while torch._C._functorch.is_functorch_wrapped_tensor(t):
            t = torch._C._functorch.get_unwrapped(t)
        if t.layout != torch.strided or t._is_zerotensor():
            return False
        reference = self._there.get(t.untyped_storage()._cdata)
        return reference is not None and not reference.expired()

    def note(self, t: Tensor) -> None:
        if t.dtype in self.refused:
            raise TypeError(f"Cannot convert a {self.device.type} tensor to {t.dtype}: it does not support {t.dtype}")
        if t.layout == torch.strided and not t._is_zerotensor():
            storage = t.untyped_storage()
            self._there[storage._cdata] = StorageWeakRef(storage)

    def is_meant(self, device: Any) -> bool:
        return device is not None and torch.device(device).type == self.device.type

    @contextmanager
    def lands(self, there: bool | None) -> Iterator[None]:
        before, self.landing = self.landing, there
        try:
            yield
        finally:
            self.landing = before


class _Below(TorchDispatchMode):
    """Follows tensors from operation to operation."""

    def __init__(self, where: _Where) -> None:
        super().__init__()
        self.where = where

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        where = self.where
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        there = [where.holds(t) for t in given]
        if where.landing is None and func not in _CROSSES and any(there) and not all(there):
            strangers = [t for t, held in zip(given, there, strict=True) if not held and t.ndim]
            if strangers and not (func in _PLACES and there[0]):
                raise RuntimeError(
                    f"Expected all tensors to be on the same device, but {func} got some on {where.device} and "
                    f"{tuple(strangers[0].shape)} on cpu"
                )
        out = func(*args, **(kwargs or {}))
        if func is _aten.copy_.default:
            return out
        if where.landing if where.landing is not None else any(there):
            for t in tree_leaves(out):
                if isinstance(t, Tensor):
                    where.note(t)
        return out


class _Above(TorchFunctionMode):
    """Answers for the device where Python asks."""

    def __init__(self, where: _Where) -> None:
        super().__init__()
        self.where = where

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        where, kwargs = self.where, dict(kwargs or {})
        if func == Tensor.device.__get__:
            return where.device if where.holds(args[0]) else func(*args)
        if func in (Tensor.numpy, Tensor.__array__) and where.holds(args[0]):
            raise TypeError(f"can't convert {where.device} device type tensor to numpy. Use Tensor.cpu() first")
        if func is Tensor.cpu:
            return self._moved(args[0], False, None, {})
        if func is Tensor.to:
            return self._to(*args, **kwargs)
        if func is torch.autograd.grad:  # what autograd makes on its own lies where its outputs do
            with where.lands(True if any(where.holds(t) for t in tree_leaves(args[0])) else None):
                return func(*args, **kwargs)
        if (device := kwargs.get("device")) is not None:
            there = where.is_meant(device)
            if there:
                del kwargs["device"]
            with where.lands(there):
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _to(self, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            other = args[0]
            return self._moved(t, self.where.holds(other), other.dtype, kwargs)
        copy = kwargs.pop("copy", False)
        device, dtype, _, form = torch._C._nn._parse_to(*args, **kwargs)
        there = self.where.holds(t) if device is None else self.where.is_meant(device)
        options = {} if form is None else {"memory_format": form}
        return self._moved(t, there, dtype, options | {"copy": copy})

    def _moved(self, t: Tensor, there: bool, dtype: torch.dtype | None, options: dict[str, Any]) -> Tensor:
        where, dtype = self.where, dtype or t.dtype
        if there == where.holds(t):
            return t.to(dtype, **options)
        # As Metal does it: to the device in the precision that is wanted, and from it in the one that is there.
        if not there and dtype != t.dtype and dtype in where.refused:
            raise TypeError(f"Cannot convert a {where.device.type} tensor to {dtype}: move it to the CPU first")
        with where.lands(there):
            return t.to(dtype, **options | {"copy": True})
