"""Everything that a model holds, taken down before passes and put back after them.

A module may do something when its mode changes (adapters that fold into a weight, caches that are emptied), and a pass
may replace attributes: tables for a shape or a precision, running states, weights that a parametrisation computes. So
not what fimviz does to a model is undone, but what has become of it, whoever did that.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import _lru_cache_wrapper
from itertools import chain
from operator import is_
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_FEW = 1024  # entries of a container that are looked into
_SMALL = 2**16  # numbers of a tensor in a plain attribute that are kept; larger ones are hardly written into
_PLAIN = {bool, int, float, complex, str, bytes, type(None)}
_CODE = type, FunctionType, ModuleType


class Found(NamedTuple):
    """What passes had done to a model: replaced attributes or entries, modes aside, and written into parameters."""

    replaced: bool
    written: bool


class State:
    """What a model and the containers in it hold: members, by identity, and the numbers that may be written into.

    These are of all buffers, small tensors in plain attributes, and parameters of modules that do something of their
    own when their mode changes; with `thorough`, of all parameters, and with `numbers` off, of nothing.
    """

    def __init__(self, model: nn.Module, *, thorough: bool = False, numbers: bool = True) -> None:
        self._holders: list[tuple[Any, Any]] = []  # a container, and a copy of it
        self._empty: list[Any] = []  # containers that hold nothing
        self._places: list[tuple[Any, Any, Any]] = []  # of a tensor in a plain attribute: container, key, and itself
        self._modes: list[tuple[Any, bool]] = []
        self._memory: list[tuple[Tensor, Tensor, bool]] = []  # a tensor, where its numbers are, and if it is trained
        self._kept: list[Tensor] = []
        self._seen: dict[int, Any] = {}
        modules = list(model.modules())
        self._parameters = {id(t) for m in modules for t in m._parameters.values() if t is not None}
        own = (m for m in modules if type(m).train is not nn.Module.train or type(m).eval is not nn.Module.eval)
        self._watched = self._parameters if thorough else {id(t) for m in own for t in m.parameters()}
        for module in modules:
            self._module(module)
        self._numbers = [_Numbers(group) for group in _grouped(self._kept if numbers else [])]
        classes = _own_classes(modules)
        for one in classes:
            shared = ((key, value) for key, value in vars(one).items() if isinstance(value, dict | list | set | deque))
            self._members(None, shared, one.__module__)
        self._lru = [(cache, cache.cache_info().misses) for cache in _caches_of(classes)]

    @property
    def holds_numbers(self) -> bool:
        """Whether tensors of real numbers stand in plain attributes."""
        return any(t.is_floating_point() for _, _, value in self._places for t in _leaves(value))

    def turn(self, change: Callable[[Tensor], Tensor]) -> None:
        """Put others in the places of tensors in plain attributes, until `restore`."""
        for holder, key, value in self._places:
            holder[key] = _turned(value, change)

    def restore(self) -> Found:
        """Put everything back; say what had changed."""
        for holder, mode in self._modes:
            if isinstance(holder, dict):
                holder["training"] = mode
            else:
                holder.training = mode
        changed = [(holder, ()) for holder in self._empty if holder]
        changed += [(holder, before) for holder, before in self._holders if not _same(holder, before)]
        for holder, before in changed:
            holder.clear()
            holder.update(before) if isinstance(holder, dict | set) else holder.extend(before)
        written = False
        for t, memory, trained in self._memory:
            if t.data_ptr() != memory.data_ptr() or t.shape != memory.shape or t.stride() != memory.stride():
                t.data = memory
                written |= id(t) in self._parameters
            if t.requires_grad is not trained and t.is_leaf:
                t.requires_grad_(trained)
        for cache, misses in self._lru:
            if cache.cache_info().misses != misses:  # it may hold tables of another precision now
                cache.cache_clear()
        for group in self._numbers:
            written |= not self._parameters.isdisjoint(group.restore())
        return Found(bool(changed), written)

    def _module(self, module: nn.Module) -> None:
        if id(module) in self._seen:
            return
        self._seen[id(module)] = module
        if isinstance(module, torch.jit.ScriptModule):  # its members are in C++
            if (mode := getattr(module, "training", None)) is not None:
                self._modes.append((module, mode))
            for t in chain(module.parameters(recurse=False), module.buffers(recurse=False)):
                self._tensor(t, True)
            return
        own = vars(module)
        if "training" in own:  # a compiled module asks the one that it wraps
            self._modes.append((own, own["training"]))
        self._holders.append((own, own.copy()))
        for name in ("_parameters", "_buffers", "_modules"):
            store = own[name]
            self._seen[id(store)] = store
            if not store:
                self._empty.append(store)
                continue
            self._holders.append((store, store.copy()))
            if name != "_modules":
                for t in store.values():
                    if t is not None:
                        self._tensor(t, name == "_buffers" or id(t) in self._watched)
        self._members(own, own.items(), type(module).__module__)

    def _members(self, holder: Any, items: Iterable[tuple[Any, Any]], home: str) -> None:
        """What stands in attributes or in a container."""
        for key, value in items:
            kind = type(value)
            if kind in _PLAIN:
                continue
            if isinstance(value, Tensor):
                self._places.append((holder, key, value))
                self._tensor(value, value.numel() <= _SMALL)
            elif isinstance(value, dict | list | set | deque):
                if not value:
                    self._empty.append(value)
                elif id(value) not in self._seen:
                    self._seen[id(value)] = value
                    self._holders.append((value, value.copy()))
                    if len(value) <= _FEW:
                        self._members(value, value.items() if isinstance(value, dict) else enumerate(value), home)
            elif isinstance(value, tuple):
                if not _PLAIN.issuperset(map(type, value)) and len(value) <= _FEW:
                    tensors = list(_leaves(value))
                    if tensors:
                        self._places.append((holder, key, value))
                    for t in tensors:
                        self._tensor(t, t.numel() <= _SMALL)
                    self._members(value, ((0, one) for one in value if not isinstance(one, Tensor)), home)
            elif isinstance(value, nn.Module):
                self._module(value)
            elif kind.__module__ == home and not isinstance(value, _CODE) and hasattr(value, "__dict__"):
                self._members(value, ((0, vars(value)),), home)

    def _tensor(self, t: Tensor, keep: bool) -> None:
        # No layer writes into a sparse or quantised one, and torch.equal knows strided tensors only.
        if id(t) in self._seen or t.layout != torch.strided or t.is_quantized:
            return
        self._seen[id(t)] = t
        self._memory.append((t, t.detach(), t.requires_grad))
        if keep:
            self._kept.append(t)


class _Numbers:
    """The numbers of some tensors of one type on one device."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors, self._before = tensors, _joined(tensors).clone() if len(tensors) == 1 else _joined(tensors)

    def restore(self) -> list[int]:
        """Write back what differs, and only that: a write would invalidate a graph of the user's that saved it."""
        if _equal(_joined(self._tensors), self._before):
            return []
        changed, parts = [], self._before.split([t.numel() for t in self._tensors])
        with torch.no_grad():
            for t, part in zip(self._tensors, parts, strict=True):
                if not _equal(t.detach().reshape(-1), part):
                    t.copy_(part.view(t.shape))
                    changed.append(id(t))
        return changed


def _grouped(tensors: list[Tensor]) -> list[list[Tensor]]:
    """Tensors that can stand in one: small ones together, large ones alone, so that no memory is taken twice."""
    groups: dict[Any, list[Tensor]] = {}
    for t in tensors:
        groups.setdefault((t.dtype, t.device) if t.numel() <= _SMALL else id(t), []).append(t)
    return list(groups.values())


def _joined(tensors: list[Tensor]) -> Tensor:
    flat = [t.detach().reshape(-1) for t in tensors]
    return torch.cat(flat) if len(flat) > 1 else flat[0]


def _leaves(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif type(value) is tuple:
        for one in value:
            yield from _leaves(one)


def _turned(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    return tuple(_turned(one, change) for one in value) if type(value) is tuple else value


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))  # NaN


def _same(holder: Any, before: Any) -> bool:
    if len(holder) != len(before):
        return False
    if isinstance(holder, dict):
        return all(map(is_, holder, before)) and all(map(is_, holder.values(), before.values()))
    return holder == before if isinstance(holder, set) else all(map(is_, holder, before))


def _own_classes(modules: list[nn.Module]) -> list[type]:
    """The classes of modules that are not torch's."""
    every = dict.fromkeys(c for kind in dict.fromkeys(map(type, modules)) for c in kind.__mro__)
    return [c for c in every if c.__module__.partition(".")[0] not in ("torch", "builtins")]


def _caches_of(classes: list[type]) -> list[Any]:
    """What functools caches for some classes: their methods, and the functions beside them."""
    homes = (sys.modules.get(name) for name in dict.fromkeys(c.__module__ for c in classes))
    owners = chain(classes, (home for home in homes if home is not None))
    values = (value for owner in owners for value in list(vars(owner).values()))
    return list({id(value): value for value in values if isinstance(value, _lru_cache_wrapper)}.values())
