"""A linear map as the list of operations that it performed, to be repeated without what its result never needed.

Products wᵀJ and J v both come from such lists: the first of a backward pass, the second of the derivative of the first.
Forward mode would compute the network again for every J v, and differentiating twice also gradients toward weights that
nobody asked for, with groups group by group: 2 to 30 forward passes instead of 1. What goes back is made plainer on its
way into the list (`fimviz.fisher.plain`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fimviz.fisher.plain import plainer
from fimviz.model.precise import computes_values

_BRANCHING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class RepeatError(Exception):
    """What was recorded cannot be repeated with another argument."""


def repeatable(linear: Callable[[Tensor], Tensor], v: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """linear(v), and the same map of other arguments; RepeatError where an operation leaves tensors.

    Tensors that do not depend on v are kept as they are.
    """
    with _Recorder(v) as recorder:
        result = linear(v)
    return result, _program(recorder.steps, recorder.moving, v, result)


class _Step:
    """An operation with the tensors that it took, made and wrote to."""

    def __init__(self, func: OpOverload, args: Any, kwargs: Any, out: Any) -> None:
        self.func, self.args, self.kwargs = func, args, kwargs
        self.tensors = list(_tensors((*args, *kwargs.values())))
        self.made = _results(out)
        written: list[Any] = []
        for at, slot in enumerate(func._schema.arguments):
            if slot.alias_info is not None and slot.alias_info.is_write:
                written += _results(args[at] if at < len(args) else kwargs.get(slot.name))
        self.changed = {_home(t) for t in (*self.made, *written) if isinstance(t, Tensor)}
        self.taken = {_home(t) for t in self.tensors}


class _Recorder(TorchDispatchMode):
    """Keeps the operations on what depends on v, and on blank tensors, into which it may be written later."""

    def __init__(self, v: Tensor) -> None:
        super().__init__()
        self.steps: list[_Step] = []
        self.moving = {_home(v)}
        self._blank: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, which takes seconds, only to keep it away from here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if computes_values():
            return out
        # Most operations have nothing to do with v: a look at their tensors is all the time that they may take.
        homes = {_home(t) for t in _tensors((*args, *(kwargs or {}).values()))}
        if homes.isdisjoint(self.moving) and homes.isdisjoint(self._blank) and not _makes_blank(func):
            return out
        step = _Step(func, args, kwargs or {}, out)
        if step.taken & self.moving:
            if _BRANCHING & set(func.tags):
                raise RepeatError(f"{func} may decide what the next operations are")
            self.moving |= step.changed
        else:
            self._blank |= step.changed
        self.steps.append(step)
        return out


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _results(out: Any) -> list[Any]:
    """What an operation returned, one by one."""
    return [out] if isinstance(out, Tensor) else tree_leaves(out)


@cache
def _makes_blank(func: OpOverload) -> bool:
    name = func.overloadpacket.__name__
    return name.startswith(("new_", "empty", "zeros", "ones", "full")) or name.endswith("_like")


def _home(t: Tensor) -> int:
    """The storage of a tensor, which its views share; an empty one, and a zero of autograd's, have none."""
    if t.layout != torch.strided:
        raise RepeatError(f"a tensor of layout {t.layout} has no storage to follow")
    return id(t) if t._is_zerotensor() else t.untyped_storage().data_ptr() or id(t)


def _program(steps: list[_Step], moving: set[int], v: Tensor, result: Tensor) -> Callable[[Tensor], Tensor]:
    needed, kept = {_home(result)}, []
    for step in reversed(steps):
        if step.changed & needed:
            kept.append(step)
            needed |= step.taken & moving
    slots, lines = {id(v): 0}, []
    for step in reversed(kept):
        moved = [t for t in step.tensors if _home(t) in moving]
        if any(id(t) not in slots for t in moved):
            raise RepeatError(f"{step.func} takes a tensor that no recorded operation made")
        ins = {id(t): slots[id(t)] for t in moved}
        func, args, kwargs, made = step.func, step.args, step.kwargs, step.made
        if len(moved) == 1 and moved[0] is args[0] and (plain := plainer(func, args, kwargs)):
            (func, args), kwargs, made = plain, {}, made[:1]
        outs = [slots.setdefault(id(t), len(slots)) if isinstance(t, Tensor) else None for t in made]
        lines.append((func, _arguments(args, kwargs, ins), list(ins.values()), outs))
    if id(result) not in slots:
        raise RepeatError("the result was not made by a recorded operation")
    end = slots[id(result)]
    last = {slot: at for at, line in enumerate(lines) for slot in (*line[3], *line[2])}

    def run(v: Tensor) -> Tensor:
        values = {0: v}
        for at, (func, arguments, sources, targets) in enumerate(lines):
            args, kwargs = arguments(values)
            for slot, made in zip(targets, _results(func(*args, **kwargs)), strict=True):
                if slot is not None:
                    values[slot] = made
            for slot in (*sources, *targets):
                if slot is not None and slot != end and last[slot] == at:
                    values.pop(slot, None)
        return values[end]

    return run


class _Slot(int):
    """Where in an operation's arguments a value goes, and which."""


def _arguments(args: Any, kwargs: dict[str, Any], slots: dict[int, int]) -> Callable[[dict[int, Tensor]], Any]:
    """What gives an operation's arguments, with the values of slots in the places of tensors of these ids."""
    given = [_marked(value, slots) for value in args]
    named = {name: _marked(value, slots) for name, value in kwargs.items()}
    places = [at for at, (value, marked) in enumerate(zip(args, given, strict=True)) if marked is not value]
    names = [name for name, marked in named.items() if marked is not kwargs[name]]

    def arguments(values: dict[int, Tensor]) -> tuple[list[Any], dict[str, Any]]:
        args, kwargs = given.copy(), named.copy()
        for at in places:
            args[at] = _filled(given[at], values)
        for name in names:
            kwargs[name] = _filled(named[name], values)
        return args, kwargs

    return arguments


def _marked(value: Any, slots: dict[int, int]) -> Any:
    """An argument with slots in the places of tensors of these ids; itself if there are none in it."""
    if isinstance(value, list | tuple):
        marked = [_marked(part, slots) for part in value]
        return marked if any(a is not b for a, b in zip(marked, value, strict=True)) else value
    return _Slot(slots[id(value)]) if isinstance(value, Tensor) and id(value) in slots else value


def _filled(value: Any, values: dict[int, Tensor]) -> Any:
    if isinstance(value, list):
        return [_filled(part, values) for part in value]
    return values[value] if isinstance(value, _Slot) else value
