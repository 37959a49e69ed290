"""What a first call has found of a model, kept for the next classifier that wraps it, while all is as it was.

A bare module makes a classifier at every call, and asking a network what its passes can do costs as much as many of
them. The memory is weak and outside the module: it dies with it, and copies and pickles do not carry it. Whatever a
pass may depend on is compared: modules, modes, hooks and plain attributes one by one, tensors by versions and by
fingerprints, and what forward names of its class and its file. Where something stands in a module that cannot be
compared, nothing is remembered.
"""

from __future__ import annotations

import enum
import functools
import threading
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as everywhere

from fimviz.model.origin import Print, weights_of

if TYPE_CHECKING:
    from fimviz.model.classifier import Classifier

_NOTES = (
    *("likelihood", "batched_vjp", "_dtypes", "precise", "smooth", "alone", "footprints"),
    *("_draws", "_writes", "_caches", "_sizes"),
)
_PLAIN = bool, int, float, complex, str, bytes, range, type(None), torch.dtype, torch.device
_CONTAINERS = dict, list, tuple, set, frozenset, deque
_HOOKS = "_global_forward_pre_hooks", "_global_forward_hooks", "_global_backward_pre_hooks", "_global_backward_hooks"
_MANY = 256  # things a module that are compared
_KEPT = 8  # classifiers of one model that are remembered: options, shapes of inputs, precisions
_HEAP = 1 << 9  # the flag of classes that Python code has made

_known: weakref.WeakKeyDictionary[nn.Module, deque[tuple[Any, _State, dict[str, Any]]]] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


class Memory:
    """What is remembered of a classifier's model for inputs of one shape; make it before the model is asked."""

    def __init__(self, net: Classifier, shape: torch.Size) -> None:
        self._net = net
        options = (net.mean.tolist(), net.std.tolist(), net.temperature, net._wanted, net.input_range)
        self._key = (*options, net.device, net._weight_dtype, shape)
        self._state: _State | None
        try:
            self._state = _State(net.model)
        except _IncomparableError:
            self._state = None

    def recall(self) -> bool:
        """Note in the classifier what is known, if something is."""
        if self._state is None:
            return False
        with _guard:
            entries = list(_known.get(self._net.model, ()))
        for key, state, notes in entries:
            if key == self._key and state.same(self._state):
                vars(self._net).update(notes)
                return True
        return False

    def keep(self) -> None:
        """Remember what the classifier has noted."""
        if self._state is None:
            return
        notes = {name: getattr(self._net, name) for name in _NOTES}
        with _guard:
            _known.setdefault(self._net.model, deque(maxlen=_KEPT)).appendleft((self._key, self._state, notes))


class _IncomparableError(Exception):
    """Something in a module of which nobody can tell whether it has changed."""


class _State:
    """A model as it is now, without keeping it alive."""

    def __init__(self, model: nn.Module) -> None:
        self._things: list[weakref.ref[Any]] = []  # what has to be the very same
        self._values: list[Any] = [torch.get_default_dtype()]  # what has to be equal
        self._seen: dict[int, int] = {}
        self._tensors: dict[int, Tensor] = {}
        self._classes: set[type] = set()
        self._left = _MANY * (1 + sum(1 for _ in model.modules()))
        self._all(chain([model], (getattr(everywhere, name) for name in _HOOKS)))
        weights = list(weights_of(model))
        for _, t in weights:
            self._tensors.pop(id(t), None)
        with torch.no_grad():
            self._prints = Print.of(weights), Print.of(("", t.detach().cpu()) for t in self._tensors.values())
        del self._seen, self._tensors, self._classes

    def same(self, other: _State) -> bool:
        """Whether both are of the very same things with the same values."""
        if self._values != other._values or len(self._things) != len(other._things):
            return False
        pairs = ((a(), b()) for a, b in zip(self._things, other._things, strict=True))
        if not all(a is not None and a is b for a, b in pairs):
            return False
        return all(a.agrees(b) for a, b in zip(self._prints, other._prints, strict=True))

    def _all(self, values: Iterable[Any]) -> None:
        for value in values:
            self._look(value)

    def _look(self, value: Any) -> None:
        kind = type(value)
        if kind in _PLAIN:
            self._values.append((kind, value))
            return
        if (at := self._seen.get(id(value))) is not None:
            self._values.append((kind.__name__, at))
            return
        self._seen[id(value)] = len(self._seen)
        self._left -= 1
        if self._left < 0:
            raise _IncomparableError
        if isinstance(value, _CONTAINERS) and (not kind.__flags__ & _HEAP or kind is torch.Size):
            self._values.append((kind.__name__, len(value)))
            self._all(chain.from_iterable(value.items()) if isinstance(value, dict) else value)
            return
        if isinstance(value, types.MethodType):
            self._all((value.__func__, value.__self__))
            return
        self._same(value)
        if isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, types.FunctionType):
            self._all((value.__code__, value.__defaults__, value.__kwdefaults__))
            self._all(_contents(cell) for cell in value.__closure__ or ())
        elif isinstance(value, functools.partial):
            self._all((value.func, value.args, value.keywords))
        elif not isinstance(value, type | enum.Enum | types.BuiltinFunctionType | types.CodeType):
            self._object(value)

    def _same(self, value: Any) -> None:
        try:
            self._things.append(weakref.ref(value))
        except TypeError:
            raise _IncomparableError from None

    def _tensor(self, t: Tensor) -> None:
        if t.layout != torch.strided or t.is_inference() or t.is_meta:
            raise _IncomparableError
        self._tensors[id(t)] = t
        self._values.append((t._version, t.data_ptr(), t.dtype, t.shape, t.stride()))

    def _object(self, value: Any) -> None:
        """What Python code has made, with all that it holds."""
        kind = type(value)
        made = all(c.__flags__ & _HEAP and not c.__dict__.get("__slots__") for c in kind.__mro__[:-1])
        if not made or not hasattr(value, "__dict__") or isinstance(value, torch.jit.ScriptModule):
            raise _IncomparableError
        self._same(kind)
        if isinstance(value, nn.Module):
            self._look(kind.forward)
            if kind not in self._classes:
                self._classes.add(kind)
                for named in _named(kind):
                    self._beside(named)
        self._all(chain.from_iterable(vars(value).items()))

    def _beside(self, value: Any) -> None:
        """What stands beside a module: of objects and classes what is plain, since they may lead anywhere."""
        if type(value) in (*_PLAIN, *_CONTAINERS, types.FunctionType) or isinstance(value, Tensor):
            self._look(value)
        elif not isinstance(value, types.ModuleType) and id(value) not in self._seen:
            self._seen[id(value)] = len(self._seen)
            for name, held in dict(getattr(value, "__dict__", {})).items():
                if type(held) in _PLAIN and not name.startswith("__"):
                    self._values.append((name, held))


def _named(kind: type[nn.Module]) -> Iterator[Any]:
    """What a class's forward names of the class and of the file, and what the functions among these name in turn."""
    home = _package(kind)
    if home == "torch":
        return
    own = [vars(c) for c in kind.__mro__[:-1] if _package(c) != "torch"]
    left, seen = [kind.forward, kind.__call__], set()
    while left:
        value = left.pop()
        value = getattr(value, "fget", getattr(value, "__func__", value))  # of properties, of static and class methods
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, types.FunctionType) and _package(value) == home:
            names = set(_names(value.__code__))
            for held in (*own, value.__globals__):
                left += [held[name] for name in sorted(names & held.keys())]
            left += [c for c in map(_contents, value.__closure__ or ()) if isinstance(c, types.FunctionType)]


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _names(inner)


def _package(thing: Any) -> str:
    return (thing.__module__ or "").partition(".")[0]


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty one
        return None
