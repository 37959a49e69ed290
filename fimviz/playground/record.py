"""A network as the list of the operations that it performs on one input, for a page that has no torch.

The network runs once, and what torch does on the way is written down: whatever its code looks like, that is one of a
few dozen operations, and each becomes one of the dozen kinds that `fimviz/views/playground/network.js` carries out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fimviz.bounds.tracing import own_functions
from fimviz.model.at_rest import in_dtype
from fimviz.model.classifier import Classifier, _tensor_of
from fimviz.model.models import called
from fimviz.playground.program import NoRuleError, Program
from fimviz.playground.rules import rule_of

_BLANK = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}  # take a shape, and no value
_LOST = -1  # the slot of what an operation gives beside its result, which the page does not compute


def record(net: Classifier, images: Tensor) -> Program:
    """What a network does to one input of the shape of images (n, …) in pixels: normalisation and temperature included.

    Raises:
        NoRuleError: a layer without a rule, or a network that decides by the values of its input.
    """
    dtype = torch.float64 if net.dtype == torch.float64 or net.has_float64 else net.dtype
    x = images[:1].detach().to(net.device, dtype)
    other = torch.linspace(0, 1, x.numel(), dtype=dtype, device=x.device).view_as(x)  # of no image's values
    own = in_dtype(net.model, dtype) if net.dtype != dtype else nullcontext()
    with net.at_rest(), torch.no_grad(), own:
        program, again = (_recorded(net, values) for values in (x, other))
    with net.at_rest(), torch.enable_grad(), in_dtype(net.model, net.dtype):  # weights in half precision among them
        leaf = images[:1].detach().to(net.device, net.dtype).clone().requires_grad_()
        lost = own_functions(called(net.model, net.normalised(leaf)))
    if lost:
        raise NoRuleError(
            f"{type(net.model).__name__} goes back through {next(iter(lost))}, an autograd function of its own, whose "
            "gradient no rule carries into a page"
        )
    if not program.same_as(again):
        raise NoRuleError(
            f"{type(net.model).__name__} does other things to other inputs, which a page cannot follow: expected the "
            "same layers for all"
        )
    return program


def _recorded(net: Classifier, x: Tensor) -> Program:
    with _Recorder(x) as recorder, _named(net.model, recorder.inside):
        z = net.read_out(_tensor_of(called(net.model, net.normalised(x))))
    recorder.program.logits = recorder.read(z)
    return recorder.program


class _Recorder(TorchDispatchMode):
    """Translates the operations on what depends on x; all else is a constant."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.program = Program([x.numel()])
        self.inside: list[str] = []  # the modules that are running, outermost first
        self._slots = {id(x): 0}
        self._kept = [x]  # so that no other tensor gets the identity of one that is gone
        self._stale: set[int] = set()

    def read(self, t: Tensor) -> int:
        """The slot of a tensor."""
        if id(t) in self._stale:
            raise NoRuleError(
                f"{self.where} works in place on memory that is read elsewhere too: write it out of place"
            )
        slot = self._slots.get(id(t))
        if slot == _LOST:
            raise NoRuleError(f"{self.where} uses more of an operation than its first result, which no rule carries")
        return self.program.constant(t) if slot is None else slot

    def depends(self, t: Any) -> bool:
        """Whether something is a tensor that depends on the input."""
        return isinstance(t, Tensor) and id(t) in self._slots

    @property
    def where(self) -> str:
        """The module that runs, in words."""
        return self.inside[-1] if self.inside else "the model"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        moving = name not in _BLANK and any(self.depends(leaf) for leaf in tree_leaves((args, kwargs)))
        rule = rule_of(name) if moving else None
        if moving and name == "_local_scalar_dense":
            raise NoRuleError(f"{self.where} decides by the values of its input, which a page cannot follow")
        if moving and rule is None:
            raise NoRuleError(
                f"no rule carries {name.strip('_')} of {self.where} into a page: fv.playground takes linear, "
                "convolution, normalisation, pooling and attention layers, and smooth or piecewise activations"
            )
        out = func(*args, **kwargs)
        if rule is None:
            for t in self._written(func, args, kwargs):
                self._slots.pop(id(t), None)
            return out
        found = rule(self, func, args, kwargs, out)
        results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        for t in self._written(func, args, kwargs):
            home = t.untyped_storage().data_ptr()
            if id(t) not in self._slots:
                raise NoRuleError(f"{self.where} writes what depends on the input into a tensor that it keeps")
            self._stale |= {id(k) for k in self._kept if k is not t and k.untyped_storage().data_ptr() == home}
        for t, slot in zip(results, [*found, *[_LOST] * (len(results) - len(found))], strict=True):
            self._slots[id(t)] = slot
            self._stale.discard(id(t))
            self._kept.append(t)
        return out

    @staticmethod
    def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
        given = [args[i] if i < len(args) else kwargs.get(a.name) for i, a in enumerate(func._schema.arguments)]
        writes = [a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments]
        return [t for t, write in zip(given, writes, strict=True) if write and isinstance(t, Tensor)]


@contextmanager
def _named(model: nn.Module, inside: list[str]) -> Iterator[None]:
    """Keep in `inside` which modules of a model are running."""
    names = {id(m): f"{name} ({type(m).__name__})" if name else type(m).__name__ for name, m in model.named_modules()}

    def enter(module: nn.Module, args: Any) -> None:
        if id(module) in names:
            inside.append(names[id(module)])

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        if id(module) in names:
            inside.pop()

    handles = hooks.register_module_forward_pre_hook(enter), hooks.register_module_forward_hook(leave)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


__all__ = ["record"]
