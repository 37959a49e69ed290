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
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

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
        self.leaves: list[Any]
        self.spec: TreeSpec
        self.leaves, self.spec = tree_flatten((args, kwargs))
        self.made = tree_leaves(out)
        written: list[Any] = []
        for at, slot in enumerate(func._schema.arguments):
            if slot.alias_info is not None and slot.alias_info.is_write:
                written += tree_leaves(args[at] if at < len(args) else kwargs.get(slot.name))
        self.changed = {_home(t) for t in (*self.made, *written) if isinstance(t, Tensor)}
        self.taken = {_home(t) for t in self.leaves if isinstance(t, Tensor)}


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
        moves = [isinstance(leaf, Tensor) and _home(leaf) in moving for leaf in step.leaves]
        if any(moved and id(leaf) not in slots for leaf, moved in zip(step.leaves, moves, strict=True)):
            raise RepeatError(f"{step.func} takes a tensor that no recorded operation made")
        ins = [slots[id(leaf)] if moved else None for leaf, moved in zip(step.leaves, moves, strict=True)]
        made = step.made
        if moves[:1] == [True] and sum(moves) == 1 and (plain := plainer(step.func, step.args, step.kwargs)):
            step, made = _Step(*plain, {}, None), made[:1]
            ins = [ins[0], *[None] * (len(step.leaves) - 1)]
        outs = [slots.setdefault(id(t), len(slots)) if isinstance(t, Tensor) else None for t in made]
        lines.append((step.func, _arguments(step, ins), ins, outs))
    if id(result) not in slots:
        raise RepeatError("the result was not made by a recorded operation")
    end = slots[id(result)]
    last = {slot: at for at, line in enumerate(lines) for slot in (*line[3], *line[2]) if slot is not None}

    def run(v: Tensor) -> Tensor:
        values = {0: v}
        for at, (func, arguments, sources, targets) in enumerate(lines):
            args, kwargs = arguments(values)
            for slot, made in zip(targets, tree_leaves(func(*args, **kwargs)), strict=True):
                if slot is not None:
                    values[slot] = made
            for slot in (*sources, *targets):
                if slot is not None and slot != end and last[slot] == at:
                    values.pop(slot, None)
        return values[end]

    return run


def _arguments(step: _Step, sources: list[int | None]) -> Callable[[dict[int, Tensor]], tuple[Any, Any]]:
    """What gives an operation's arguments from the values of the slots that its leaves come from."""
    fixed = [leaf if slot is None else None for leaf, slot in zip(step.leaves, sources, strict=True)]
    spec = step.spec

    def anywhere(values: dict[int, Tensor]) -> tuple[Any, Any]:
        leaves = [leaf if slot is None else values[slot] for leaf, slot in zip(fixed, sources, strict=True)]
        args, kwargs = tree_unflatten(leaves, spec)
        return args, kwargs

    plain = list(step.args)
    slots = {id(leaf): slot for leaf, slot in zip(step.leaves, sources, strict=True) if slot is not None}
    places = [(at, slots[id(given)]) for at, given in enumerate(plain) if id(given) in slots]
    if len(places) < sum(slot is not None for slot in sources):
        return anywhere  # in a list of tensors, say
    kwargs = step.kwargs
    for at, _ in places:
        plain[at] = None

    def direct(values: dict[int, Tensor]) -> tuple[Any, Any]:
        # Putting a tree together takes as long as a small operation.
        args = plain.copy()
        for at, slot in places:
            args[at] = values[slot]
        return args, kwargs

    return direct
