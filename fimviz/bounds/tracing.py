"""The calls of a network as a graph: by torch.fx, and by torch.export where that cannot follow the code."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn

from fimviz.bounds.exported import export
from fimviz.bounds.flow import NoRuleError
from fimviz.bounds.rules import rule_of_module, written_form
from fimviz.model.classifier import Classifier, _tensor_of
from fimviz.model.models import called, unwrapped

_UNHOOKED = "write what it does into the forward of a module, or remove it"


class _Tracer(fx.Tracer):
    """Looks into every module that has no rule, but for torch's own without children, which could not be bounded."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if rule_of_module(m) is not None:
            return True
        own = type(m).__module__.startswith("torch.nn.") and not isinstance(m, nn.Sequential)
        return own and next(m.children(), None) is None

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if (form := written_form(m)) is not None:
            twin = copy.copy(m)  # its hooks and parameters are those of the module
            twin.forward = functools.partial(form, m)
            forward = twin._call_impl
        return super().call_module(m, forward, args, kwargs)


def trace(net: Classifier, x: Tensor) -> fx.GraphModule:
    """The calls of a model that is at rest, for batches (·, …) of inputs as large as those x (n, …) in pixels."""
    model = unwrapped(net.model)
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), net.dtype)
    x = net.normalised(x[:1].detach().to(net.device)).to(own)
    if any(isinstance(m, torch.jit.ScriptModule) for m in model.modules()):
        raise NoRuleError("no rule bounds what torch.jit has scripted or traced: pass the module that it was made from")
    try:
        if _is_exported(model):
            raise TypeError("it is exported")
        traced = fx.GraphModule(model, _Tracer().trace(model))
    except NoRuleError:
        raise
    except Exception as error:
        traced = _exported(model, x, error)
    else:
        _refuse_changes(model, traced)
    _refuse_gradients(model, traced, x)
    return traced


def _is_exported(model: nn.Module) -> bool:
    """Whether a model is what torch.export has made of another: ATen's operations, which no rule knows by name."""
    graph = model.graph if isinstance(model, fx.GraphModule) else fx.Graph()
    return any(isinstance(node.target, torch._ops.OpOverload) for node in graph.nodes)


def _exported(model: nn.Module, x: Tensor, cause: Exception) -> fx.GraphModule:
    """By torch.export, which runs the code on tensors without values."""
    try:
        return export(model, x)
    except NoRuleError:
        raise
    except Exception as error:
        why = f"{first_line(cause)}; {first_line(error)}"
        raise NoRuleError(
            f"torch.fx and torch.export cannot trace {type(model).__name__} ({why}): "
            "avoid decisions on the values or the type of a tensor in forward, or give the module that makes them a "
            "rule (@fimviz.bounds.rule)"
        ) from error


def _refuse_gradients(model: nn.Module, traced: fx.GraphModule, x: Tensor) -> None:
    """Tracing looks into an autograd function of the model's own: what it does on the way back is in no graph."""
    with torch.enable_grad():
        lost = own_functions(called(model, _recorded(x))) - own_functions(Run(traced).run(_recorded(x)))
    if lost:
        raise NoRuleError(
            f"the model goes back through {next(iter(lost))}, an autograd function of its own, whose gradient no rule "
            "bounds: give the module that calls it a rule (@fimviz.bounds.rule)"
        )


def _recorded(x: Tensor) -> Tensor:
    return x.clone().requires_grad_().clone()  # which a first layer may work in


def own_functions(output: Any) -> Counter[str]:
    """Autograd functions written in Python that a model's logits have gone through."""
    found: Counter[str] = Counter()
    seen, nodes = set(), [_tensor_of(output).grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            found[type(node).__name__.removesuffix("Backward")] += 1
        seen.add(node)
        nodes += [source for source, _ in node.next_functions]
    return found


def first_line(error: Exception) -> str:
    """What an error says first."""
    first = next((" ".join(line.split()) for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return first if len(first) <= 160 else first[:159] + "…"


class Run(fx.Interpreter):
    """Runs a graph as the model runs its layers."""

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A layer, whose hooks may ask for gradients."""
        return called(self.fetch_attr(target), *args, **kwargs)


def _refuse_changes(model: nn.Module, traced: fx.GraphModule) -> None:
    """What works around the code of the model itself or of a module with a rule is in no graph, and no rule sees it."""
    if model._forward_hooks:
        raise NoRuleError(f"the model has a forward hook, which no graph shows: {_UNHOOKED}")
    called = {str(node.target) for node in traced.graph.nodes if node.op == "call_module"}
    leaves = [(f"{name}.{path}".rstrip("."), m) for name in called
              for path, m in traced.get_submodule(name).named_modules()]  # fmt: skip
    for name, m in [("the model", model), *leaves]:
        # Those of torch.nn.utils (weight_norm, pruning) set weights, which a rule reads after the call.
        if any(not type(hook).__module__.startswith("torch.nn.utils.") for hook in m._forward_pre_hooks.values()):
            raise NoRuleError(f"{name} has a forward pre-hook, which no rule bounds: {_UNHOOKED}")
        if "forward" in vars(m):
            raise NoRuleError(f"{name} has a forward of its own, not its class's, which no rule bounds: {_UNHOOKED}")


__all__ = ["Run", "own_functions", "trace"]
