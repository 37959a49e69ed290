"""A network as a graph of calls, and the rules carried over it."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as tf

import fimviz.bounds.activations
import fimviz.bounds.arithmetic
import fimviz.bounds.attention
import fimviz.bounds.pooling
import fimviz.bounds.shapes
import fimviz.bounds.tokens
import fimviz.bounds.transformer  # noqa: F401
from fimviz.bounds.flow import Flow, NoBoundError, NoRuleError, Step
from fimviz.bounds.layers import batch_norm_factors, batch_norm_scale
from fimviz.bounds.rules import is_patient, rule_of_function, rule_of_module
from fimviz.bounds.tracing import Run
from fimviz.model.models import called

_HOW = (
    "add one with @fimviz.bounds.rule({0}): def my_rule(step, x): return x.times(norm, 'why'), where norm bounds the "
    "spectral norm of its Jacobian"
)

_OVER_ON = "over the units that react at x"
# What rules raise on arguments that they were not written for.
_FAILURES = (TypeError, ValueError, AttributeError, LookupError, AssertionError, RuntimeError)


@dataclass(frozen=True)
class Call:
    """One call of the network, as bounded: the waterfall's row before it is worded."""

    name: str
    kind: str
    gain: float | None
    total: float
    formula: str


@dataclass(frozen=True)
class Head:
    """The linear layer that the logits come out of, and the node of the graph that it reads."""

    source: str
    features: float
    weight: Tensor
    bias: Tensor | None


class Walk:
    """The rules carried over a traced model at one input, in graph order.

    Args:
        traced: of `trace`.
        x: (1, …), what the model is called with.
        start: the flow of x.
        pointwise: whether x stands for itself, or only for its shape.
        rounded: what the calls return in the network's own precision, by the nodes' names: how far this is off says how
            far rounding can move a value.
    """

    def __init__(self, traced: fx.GraphModule, x: Tensor, start: Flow, pointwise: bool,
                 rounded: dict[str, Any] | None = None) -> None:  # fmt: skip
        self._pointwise = pointwise
        self._rounded = rounded or {}
        self._rows: dict[fx.Node, int] = {}
        self._traced = traced
        self._modules = dict(traced.named_modules())
        self._flows: dict[fx.Node, Any] = {}
        self._values: dict[fx.Node, Any] = {}
        self.calls: list[Call] = []
        self.reason = ""
        inputs = iter([(x, self._given(start, x, None))])
        try:
            for node in traced.graph.nodes:
                if node.op == "placeholder":
                    self._values[node], self._flows[node] = next(inputs, (node.args[0] if node.args else None,) * 2)
                elif node.op == "get_attr":
                    self._values[node] = self._flows[node] = _attribute(traced, node.target)
                elif node.op == "output":
                    self._output = node.args[0]
                else:
                    self._call(node)
        except NoBoundError as error:
            self.reason = f"{_name(node, self._modules)}: {error}"

    def logits(self) -> Flow:
        """The flow of the logits: the output, or its first item, or its item "logits"."""
        self._settle([self._logits_node()])
        flow = self._flows[self._logits_node()]
        if not isinstance(flow, Flow):
            raise NoRuleError("the logits do not depend on the input in the traced graph")
        return flow

    def value(self) -> Tensor:
        """The logits."""
        return self._values[self._logits_node()]

    def head(self) -> Head | None:
        """The linear layer that the logits come out of, if they do."""
        node = self._logits_node()
        while node.args and isinstance(source := node.args[0], fx.Node):
            if (layer := self._linear(node)) is not None:
                self._settle([source])
                flow = self._flows[source]
                alone = isinstance(flow, Flow) and len(flow.shape) == 2
                return Head(source.name, flow.total, *layer) if alone else None
            note = getattr(self._flows[node], "note", None)
            if note is None or note[0] not in ("identity", "reshape or slice") or (
                self._values[node].shape != self._values[source].shape
            ):  # fmt: skip
                return None
            node = source
        return None

    def _linear(self, node: fx.Node) -> tuple[Tensor, Tensor | None] | None:
        if node.op == "call_module" and isinstance(m := self._modules[str(node.target)], nn.Linear):
            return m.weight.detach(), None if m.bias is None else m.bias.detach()
        if node.op == "call_function" and node.target is tf.linear:
            given: Any = fx.node.map_arg((node.args[1:], node.kwargs), self._values.__getitem__)
            args, kwargs = given
            weight = args[0] if args else kwargs["weight"]
            bias = args[1] if len(args) > 1 else kwargs.get("bias")
            return weight.detach(), None if bias is None else bias.detach()
        return None

    def _logits_node(self) -> fx.Node:
        out = self._output
        if isinstance(out, dict):
            out = out.get("logits")
        elif isinstance(out, (tuple, list)) and out:
            out = out[0]
        if not isinstance(out, fx.Node):
            raise NoRuleError(
                "the traced model does not return its logits as a tensor, a tuple or a mapping with 'logits'"
            )
        return out

    def _call(self, node: fx.Node) -> None:
        args, kwargs = _looked_up(node, self._flows)
        given, options = _looked_up(node, self._values)
        op: Any = node.target
        if node.op == "call_module":
            op = self._modules[str(node.target)]
        flows = [a for a in node.all_input_nodes if any(True for _ in _flows_in(self._flows[a]))]
        if self._pointwise and flows and _may_write(op, given, options):
            for a in flows:  # the rule is to see what the call saw
                if isinstance(f := self._flows[a], Flow) and f.value is not None:
                    self._flows[a] = replace(f, value=f.value.clone())
            args, kwargs = _looked_up(node, self._flows)
        versions = {a: v._version for a in node.all_input_nodes if isinstance(v := self._values[a], Tensor)}
        out = self._run(node, op, given, options)
        self._values[node] = out
        if not flows or not any(True for _ in _tensors_in(out)):
            self._flows[node] = out
            return
        if op is operator.getitem and isinstance(args[0], (tuple, list)):
            self._flows[node] = args[0][args[1]]
            return
        name = _name(node, self._modules)
        if not any(t.is_floating_point() or t.is_complex() for t in _tensors_in(out)):
            raise NoRuleError(f"{name} makes decisions on what depends on the input, which no rule bounds")
        found = rule_of_module(op) if isinstance(op, nn.Module) else rule_of_function(op)
        if found is None:
            words = _words(op)
            raise NoRuleError(f"no rule bounds {words}, called in {name}: {_HOW.format(_qualified(op))}")
        step = Step(op, out, self._pointwise, self._following(node))
        try:
            if not is_patient(found):
                self._settle(flows)
                args, kwargs = _looked_up(node, self._flows)
            flow = found(step, *args, **kwargs)
            self._flows[node] = self._given(flow, out, self._rounded.get(node.name))
        except NoRuleError as error:
            raise NoRuleError(f"{name}: {error}") from None
        except torch.OutOfMemoryError:
            raise
        except _FAILURES as error:
            raise NoRuleError(
                f"{name}: the rule of {_words(op)} cannot be called as the network does "
                f"({type(error).__name__}: {error})"
            ) from error
        self._written(node, versions)
        first = next(_flows_in(flow), None)
        if first is not None:
            kind, gain, formula = first.note or ("", None, "")
            self._rows[node] = len(self.calls)
            self.calls.append(Call(name, kind or _words(op), gain, first.total, formula))

    def _run(self, node: fx.Node, op: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(op, nn.Module):
            out = called(op, *args, **kwargs)
            if op._forward_hooks and not _equal(out, op.forward(*args, **kwargs)):
                raise NoRuleError(f"{node.target} has a forward hook that changes its output, which no rule bounds")
            return out
        if node.op == "call_method":
            return getattr(args[0], op)(*args[1:], **kwargs)
        return op(*args, **kwargs)

    def _following(self, node: fx.Node) -> Tensor | None:
        """The factors of the batch normalisation that alone reads a node."""
        if len(node.users) != 1 or not node.op.startswith("call"):
            return None
        (user,) = node.users
        if user.op == "call_module":
            return batch_norm_scale(self._modules[str(user.target)])
        if user.target is not tf.batch_norm or user.args[:1] != (node,):
            return None
        known = {n: _attribute(self._traced, str(n.target)) for n in user.all_input_nodes if n.op == "get_attr"}
        given: Any = fx.node.map_arg((user.args[1:], user.kwargs), lambda n: known.get(n, n))
        return batch_norm_factors(*given[0], **given[1])

    def _settle(self, nodes: Sequence[fx.Node]) -> None:
        """Bound what has waited to be filtered, where a rule is to read it that hands nothing on."""
        for node in nodes:
            flow = self._flows[node]
            if not isinstance(flow, Flow) or (settled := flow.settled()) is flow:
                continue
            self._flows[node] = settled
            if (row := self._rows.get(node)) is not None:
                call, less = self.calls[row], settled.total - flow.total
                gain = None if call.gain is None else call.gain + less
                self.calls[row] = replace(call, gain=gain, total=settled.total, formula=f"{call.formula}; {_OVER_ON}")

    def _given(self, flow: Any, out: Any, rounded: Any) -> Any:
        """A rule's flows with the shapes, and at a given x the values, of what the call returned."""
        if isinstance(flow, Flow):
            value = out.detach() if self._pointwise else None
            off = 0.0 if value is None or not value.is_floating_point() else _off(value, rounded)
            grid = flow.grid
            if grid is not None and any(g not in (1, n) for g, n in zip(grid.shape, out.shape, strict=True)):
                raise RuntimeError(f"a rule gave a grid {tuple(grid.shape)} for an output {tuple(out.shape)}")
            return replace(flow, shape=out.shape, value=value, grid=grid, off=off)
        if isinstance(flow, (tuple, list)):
            parts = rounded if isinstance(rounded, (tuple, list)) else [None] * len(flow)
            return tuple(self._given(f, o, r) for f, o, r in zip(flow, out, parts, strict=True))
        return flow

    def _written(self, node: fx.Node, versions: dict[fx.Node, int]) -> None:
        """After a call that worked in place, its input is its output; another view of the same memory is unknown."""
        for source, version in versions.items():
            written = self._values[source]
            if written._version == version:
                continue
            for other, value in self._values.items():
                if other is node or not isinstance(value, Tensor) or all(u in self._values for u in other.users):
                    continue
                if value is written and written.shape == self._values[node].shape:
                    self._flows[other] = self._flows[node]
                elif value.untyped_storage().data_ptr() == written.untyped_storage().data_ptr():
                    raise NoRuleError(
                        f"{_name(node, self._modules)} works in place on memory that {other.name} shows too, which no "
                        "rule follows: write it out of place"
                    )


def _off(value: Tensor, rounded: Tensor | None) -> float:
    """How far a value may be off: what the network's own precision did to these, four times, and that of float64."""
    size = float(value.abs().amax()) if value.numel() else 0.0
    off = 1024 * torch.finfo(value.dtype).eps * size
    if rounded is not None and rounded.shape == value.shape:
        off = max(off, 4 * float((rounded.to(value) - value).abs().amax())) if value.numel() else off
    return off if math.isfinite(off) else math.inf


class Rounded(Run):
    """Runs a graph and keeps what every call returned, also where a later one writes into it."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.seen: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """One call; a copy of what it returned is kept."""
        out = super().run_node(n)
        if n.op.startswith("call"):
            self.seen[n.name] = fx.node.map_aggregate(out, lambda t: t.clone() if isinstance(t, Tensor) else t)
        return out


def _looked_up(node: fx.Node, where: dict[fx.Node, Any]) -> Any:
    return fx.node.map_arg((node.args, node.kwargs), where.__getitem__)


def _attribute(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


def _flows_in(value: Any) -> Iterator[Flow]:
    if isinstance(value, Flow):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _flows_in(item)


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors_in(item)


def _may_write(op: Any, args: Any, kwargs: Any) -> bool:
    if isinstance(op, str):
        return op.endswith("_") and not op.endswith("__")
    if getattr(op, "inplace", False) or getattr(op, "__name__", "").endswith("_"):
        return True
    if getattr(op, "__module__", "") == "_operator" and op.__name__.startswith("i"):
        return True
    return any(a is True for a in (*args, *kwargs.values()))


def _equal(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(_tensors_in(a), _tensors_in(b), strict=True))


def _words(op: Any) -> str:
    if isinstance(op, nn.Module):
        return type(op).__name__
    return f'"{op}"' if isinstance(op, str) else getattr(op, "__name__", str(op))


def _qualified(op: Any) -> str:
    """The name under which a class or function can be imported, or a method's name in quotes."""
    if isinstance(op, str):
        return f'"{op}"'
    if isinstance(op, torch._ops.OpOverload):
        return f"torch.ops.{op}"
    op = type(op) if isinstance(op, nn.Module) else op
    for home in (operator, torch, tf, torch.fft, torch.linalg, torch.special, nn):
        for name in dir(home):
            if not name.startswith("_") and vars(home).get(name) is op:
                return f"{home.__name__}.{name}"
    return f"{getattr(op, '__module__', '')}.{getattr(op, '__qualname__', op)}"


def _name(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """The module's name in the model, or the function's with that of the module that calls it."""
    if node.op == "call_module":
        return str(node.target)
    if "inside" in node.meta:  # of torch.export
        inside = node.meta["inside"]
        if inside and node.meta["alone"]:
            return str(inside)
    else:
        stack = node.meta.get("nn_module_stack") or {}
        paths = [path for path, _ in stack.values()] if stack else []
        inside = paths[-1] if paths else ""
    return f"{inside}.{node.name}" if inside else node.name
