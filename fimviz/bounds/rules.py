"""Where rules are kept, and how one is added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

Rule = TypeVar("Rule", bound=Callable[..., Any])

_rules: dict[Any, Callable[..., Any]] = {}
_written: dict[type[nn.Module], Callable[..., Any]] = {}
_patient: set[Callable[..., Any]] = set()
_HARMLESS = {"__init__", "extra_repr", "reset_parameters", "__repr__", "_reset_parameters"}


def rule(*targets: type[nn.Module] | Callable[..., Any] | str) -> Callable[[Rule], Rule]:
    """Register how a guaranteed bound passes through a layer, a function or a tensor method.

    Args:
        targets: classes of modules, functions, "method" names of tensors or dotted "module.function" names of
            functions that are not to be imported. A module with a rule is not looked into.

    The rule is called as `rule(step, *args, **kwargs)` with the arguments of the call, in which a `Flow` stands for
    every tensor that depends on the input; `step` holds the module or function, its output and whether the bound is
    for one x. It returns the output's `Flow`, or a tuple of them: usually `x.times(norm, "why")`, where `norm` is a
    proven bound on the spectral norm of the Jacobian and never an estimate such as a power iteration's. It raises
    `NoBoundError` with a reason where there is none.

    Example, a layer that doubles its input:
        >>> import torch, fimviz.bounds as bounds
        >>> class Double(torch.nn.Module):
        ...     def forward(self, x):
        ...         return 2 * x
        >>> @bounds.rule(Double)
        ... def double(step, x):
        ...     return x.times(2.0, "twice its input")
        >>> net = torch.nn.Sequential(Double(), torch.nn.Linear(3, 2))
        >>> round(10 ** bounds.network_bound(net, (3,)).log10_features, 6)
        2.0
    """

    def register(function: Rule) -> Rule:
        for target in targets:
            _rules[target] = function
        return function

    return register


def patient(function: Rule) -> Rule:
    """Mark a rule that hands on `Flow.terms`; every other rule is called with flows that have been settled."""
    _patient.add(function)
    return function


def is_patient(function: Callable[..., Any]) -> bool:
    """Whether a rule hands on what waits to be filtered."""
    return function in _patient


def written(*modules: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Register how a module that torch.fx cannot look into is written with calls that have rules.

    The function is called as `function(module, *args, **kwargs)` in the place of the module's forward.
    """

    def register(function: Rule) -> Rule:
        for module in modules:
            _written[module] = function
        return function

    return register


def rule_of_module(module: nn.Module) -> Callable[..., Any] | None:
    """The rule of its class, or of a base class whose methods it does not replace."""
    return _of_class(module, _rules)


def written_form(module: nn.Module) -> Callable[..., Any] | None:
    """What `written` has registered, unless the module has a forward of its own."""
    return None if "forward" in vars(module) else _of_class(module, _written)


def _of_class(module: nn.Module, table: dict[Any, Callable[..., Any]]) -> Callable[..., Any] | None:
    own = type(module)
    if own in table:
        return table[own]
    changed: set[str] = set()
    for base in own.__mro__:
        if base in table:
            return None if any(callable(getattr(base, name, None)) for name in changed) else table[base]
        changed |= {name for name, value in vars(base).items() if callable(value)} - _HARMLESS
    return None


def rule_of_function(function: Any) -> Callable[..., Any] | None:
    """The rule of a function, a builtin or, by its name, a tensor method."""
    if function in _rules:
        return _rules[function]
    if isinstance(function, str):
        return None
    return _rules.get(f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}")
