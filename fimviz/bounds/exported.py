"""What torch.export records, in the names that the rules know.

It runs the code on tensors without values and writes down ATen's operations, with modules' names beside them. Each is
called here by the function of torch.nn.functional, of torch or of a tensor that does the same, for which there are
rules; so the graph is walked as one of torch.fx is. That it computes what the model does is checked where it is run.
"""

from __future__ import annotations

import inspect
import logging
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.nn import functional as tf

from fimviz.bounds.flow import NoRuleError
from fimviz.bounds.rules import rule_of_function
from fimviz.model.classifier import _tensor_of

_Call = tuple[Any, tuple[Any, ...], dict[str, Any]]  # a function, or the name of a method, and its arguments


class UntraceableError(Exception):
    """What the model's code raised. torch.export prints the graph that it hangs onto an error: here it cannot."""

    partial_fx_graph = property(fset=lambda self, graph: None)


class _Logits(nn.Module):
    """The model, from inputs to its logits alone: what else it returns need not be a kind that torch.export knows."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        try:
            return _tensor_of(self.model(x))
        except Exception as error:
            raise UntraceableError(str(error) or type(error).__name__) from error


def export(model: nn.Module, x: Tensor) -> fx.GraphModule:
    """The calls of a model for inputs of the shape of x (n, …); of any number, where its code allows."""
    with _untold():
        program = _program(model, x)
    return _rewritten(program, x.dtype)


def _program(model: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    two = torch.cat([x[:1], x[:1]])  # the size of a batch of one would be taken for a constant
    program = torch.export.export(_Logits(model), (two,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=False)
    (given,) = program.graph_signature.user_inputs
    size = next(node.meta["val"].shape[0] for node in program.graph.nodes if node.name == given)
    if isinstance(size, int):
        return torch.export.export(_Logits(model), (x[:1],), strict=False)
    return program


@contextmanager
def _untold() -> Iterator[None]:
    """Without torch's own words beside the error that says it all."""
    logger, silence = logging.getLogger("torch.fx.experimental.symbolic_shapes"), lambda record: False
    logger.addFilter(silence)
    try:
        yield
    finally:
        logger.removeFilter(silence)


def _rewritten(program: torch.export.ExportedProgram, dtype: torch.dtype) -> fx.GraphModule:
    graph, place = fx.Graph(), {}
    signature, tensors = program.graph_signature, {**program.state_dict, **program.constants}
    held = {spec.arg.name: spec.target for spec in signature.input_specs if spec.kind != InputKind.USER_INPUT}
    for node in program.graph.find_nodes(op="placeholder"):
        target = held.get(node.name)
        place[node] = graph.placeholder(node.name) if target is None else graph.get_attr(_stripped(target))
    outputs = _copied(program.graph_module, graph, place, dtype)
    names = [arg.name for arg in program.graph.output_node().args[0]]
    (z,) = (out for name, out in zip(names, outputs, strict=True) if name in signature.user_outputs)
    graph.output(z)
    return fx.GraphModule({_stripped(name): tensors[name] for name in held.values()}, graph)


def _copied(source: fx.GraphModule, graph: fx.Graph, place: dict[fx.Node, Any], dtype: torch.dtype) -> Any:
    """Append the calls of a recorded graph, whose inputs have their `place`; return its outputs'."""
    calls = [node for node in source.graph.nodes if node.op == "call_function" and not _checks(node.target)]
    inside = Counter(map(_path, calls))
    for node in source.graph.find_nodes(op="get_attr"):
        place[node] = getattr(source, node.target)
    for node in calls:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), place.__getitem__)
        if node.target in _PARTS:
            part, inputs = _part(node, args)
            own = dict(zip(part.graph.find_nodes(op="placeholder"), inputs, strict=True))
            place[node] = tuple(_copied(part, graph, own, dtype))
            continue
        if node.target is operator.getitem and isinstance(args[0], tuple):
            place[node] = args[0][args[1]]
            continue
        function, args, kwargs = _translated(node, *_without(dtype, args, kwargs))
        kind = "call_method" if isinstance(function, str) else "call_function"
        place[node] = graph.create_node(kind, function, args, kwargs, node.name)
        path = _path(node)
        place[node].meta = {"inside": path, "alone": inside[path] == 1}
    return fx.node.map_arg(source.graph.output_node().args[0], place.__getitem__)


_PARTS = (torch.ops.higher_order.wrap_with_set_grad_enabled, torch.ops.higher_order.wrap_with_autocast)


def _part(node: fx.Node, args: Any) -> tuple[fx.GraphModule, Any]:
    """A part of the code under a switch of its own, and its inputs. Without gradients it reacts less, not more."""
    if node.target is torch.ops.higher_order.wrap_with_set_grad_enabled:
        return args[1], args[2:]
    if args[2]:  # device, dtype, enabled, cache
        raise NoRuleError("the model lowers its own precision (torch.autocast), which no rule bounds")
    return args[4], args[5:]


def _checks(op: Any) -> bool:
    """Whether an operation only looks whether a tensor is what it was while the graph was recorded."""
    name = getattr(op, "__name__", "")
    return name.startswith(("_assert_", "sym_constrain_"))


def _stripped(name: str) -> str:
    return name.removeprefix("model.")


def _path(node: fx.Node) -> str:
    """The name of the module that calls."""
    stack = node.meta.get("nn_module_stack") or {}
    path = [path for path, _ in stack.values()][-1] if stack else ""
    return _stripped(f"{path}.").rstrip(".").partition("@")[0]


def _without(dtype: torch.dtype, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Without the model's own precision where a call asks for it: it is to run in others too."""
    kept = {key: value for key, value in kwargs.items() if value != dtype}
    return tuple(None if a == dtype else a for a in args), kept


def _translated(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
    """The call of a function or a method that rules know, or else of the operation itself."""
    op: Any = node.target
    if not isinstance(op, torch._ops.OpOverload) or rule_of_function(op) is not None:
        return op, args, kwargs
    name = op._schema.name.partition("::")[2]
    if name in _OTHERWISE:
        return _OTHERWISE[name](node, *args, **kwargs)
    plain = name.removesuffix("_")
    for home in (torch, tf):
        function = getattr(home, name, None)
        if function is not None and rule_of_function(function) is not None:
            return function, args, kwargs
    if plain != name and "inplace" in _parameters(function := getattr(tf, plain, None)):
        return function, args, kwargs | {"inplace": True}
    return (name if hasattr(Tensor, name) else op), args, kwargs


def _parameters(function: Any) -> Any:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _slice(node: fx.Node, x: fx.Node, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> _Call:
    before = dim % node.meta["val"].ndim
    return operator.getitem, (x, (slice(None),) * before + (slice(start, end, step),)), {}


def _index(node: fx.Node, x: fx.Node, at: Any) -> _Call:
    return operator.getitem, (x, tuple(slice(None) if i is None else i for i in at)), {}


def _batch_norm(node: fx.Node, x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float,
                eps: float, *unused: Any) -> _Call:  # fmt: skip
    return tf.batch_norm, (x, mean, var, weight, bias, training, momentum, eps), {}


def _cast(node: fx.Node, x: Any, *args: Any, **kwargs: Any) -> _Call:
    """To another kind of number, or nothing where that was the model's own."""
    kinds = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.dtype)]
    return ("to", (x, *kinds), {}) if kinds else ("clone", (x,), {})


def _same(node: fx.Node, x: Any, *args: Any, **kwargs: Any) -> _Call:
    return "clone", (x,), {}


def _matrix_transpose(node: fx.Node, x: Any) -> _Call:
    return torch.transpose, (x, -2, -1), {}


def _vector_norm(node: fx.Node, x: Any, power: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> _Call:
    return torch.linalg.vector_norm, (x, power, dim, keepdim), {}


_OTHERWISE: dict[str, Callable[..., _Call]] = {
    "slice": _slice,
    "index": _index,
    "batch_norm": _batch_norm,
    "to": _cast,
    "_to_copy": _cast,
    "alias": _same,
    "lift_fresh_copy": _same,
    "einsum": lambda node, equation, operands, **_: (torch.einsum, (equation, *operands), {}),
    "linalg_vector_norm": _vector_norm,
    "mT": _matrix_transpose,
    "numpy_T": _matrix_transpose,
    "upsample_nearest2d": lambda node, x, size, scale=None, *_: (tf.interpolate, (x, size, scale), {"mode": "nearest"}),
}

__all__ = ["UntraceableError", "export"]
