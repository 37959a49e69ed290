"""Copies of models for views that answer beside the user's code: whatever they do, the user's own model is not touched.

A live view is answered on a thread of its own, at any moment. A model that is borrowed then would be frozen and in
evaluation mode in the middle of the user's training. So the view asks a copy: the model as it was when the view was
made.
"""

from __future__ import annotations

import copy
import functools
import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fimviz.model.at_rest import lock_of
from fimviz.model.origin import Print, weights_of

# Versions tell of steps however small, fingerprints of what is written past them, through .data.
_State = tuple[tuple[tuple[int, int], ...], Print]
# One copy serves all views of a model that has not changed, for as long as one of them lives: notebooks keep old views.
_copies: weakref.WeakKeyDictionary[nn.Module, tuple[_State, weakref.ref[nn.Module]]] = weakref.WeakKeyDictionary()


def apart(model: nn.Module) -> nn.Module:
    """A copy of the model that shares nothing with it; the same one while the model stays as it is.

    Raises:
        ValueError: it cannot be copied, or what it runs would reach back into the original; the reason.
    """
    with lock_of(model):
        versions = tuple((id(t), t._version) for t in _tensors(model))
        with torch.no_grad():
            state = versions, Print.of(weights_of(model))
        if model in _copies and (kept := _copies[model][1]()) is not None and _same(_copies[model][0], state):
            return kept
        try:
            # What a forward pass has left behind is no leaf, and deepcopy refuses it.
            left = {id(t): t.detach().clone() for m in model.modules() for t in _inside(vars(m)) if not t.is_leaf}
            twin = copy.deepcopy(model, left)
        except Exception as error:  # whatever a module's own __deepcopy__ or __getstate__ may raise
            why = f"the model cannot be copied ({type(error).__name__}: {error})"
            raise ValueError(f"{why}, and itself may be in training when it is asked") from None
        if reaching := _reaching_back(twin, model):
            raise ValueError(
                f"a copy of the model would run parts of the original, through {reaching}: that may be in training"
            )
        _copies[model] = state, weakref.ref(twin)
        return twin


def _same(a: _State, b: _State) -> bool:
    return a[0] == b[0] and a[1].agrees(b[1])


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _inside(value: Any, depth: int = 3) -> Iterator[Tensor]:
    """The tensors in an attribute and in the containers in it."""
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, dict | list | tuple | set):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _inside(item, depth - 1)


def _reaching_back(twin: nn.Module, model: nn.Module) -> str:
    """The name of a function in the copy that holds a part of the original: functions are not copied."""
    own = {id(part) for part in (*model.modules(), *_tensors(model))}
    for module in twin.modules():
        for name, value in vars(module).items():
            for function in _functions(value):
                if any(id(held) in own for held in _held(function)):
                    where = getattr(function, "__qualname__", name)
                    return f"{where} in {type(module).__name__}.{name}"
    return ""


def _functions(value: Any) -> Iterator[Any]:
    if isinstance(value, types.FunctionType):
        yield value
    elif isinstance(value, functools.partial):
        yield from _functions(value.func)
    elif isinstance(value, types.MethodType):
        yield value.__func__
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _functions(item)


def _held(function: Any) -> Iterable[Any]:
    """What a function remembers: its closure and defaults, and the owners of methods among them."""
    held = [
        *(getattr(function, "__defaults__", None) or ()),
        *(getattr(function, "__kwdefaults__", None) or {}).values(),
    ]
    for cell in getattr(function, "__closure__", None) or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # an empty cell
            continue
    for value in held:
        yield getattr(value, "__self__", value)
