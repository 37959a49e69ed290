"""Keyword options that tell a typing error from a wish."""

from __future__ import annotations

import difflib
import functools
import inspect
import operator
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from fimviz._surroundings import ordinary

P = ParamSpec("P")
T = TypeVar("T")


def named_options(function: Callable[P, T]) -> Callable[P, T]:
    """A public door: an unknown keyword raises with the nearest valid name; work is done in ordinary surroundings."""
    parameters = inspect.signature(function).parameters
    valid = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> T:
        for name in options:
            if name not in valid:
                near = difflib.get_close_matches(name, valid, 1)
                hint = (
                    f"did you mean {near[0]}?" if near else f"valid names: {', '.join(v for v in valid if v != 'self')}"
                )
                raise TypeError(f"{function.__qualname__}() has no option {name!r}: {hint}")
        with ordinary():
            return function(*args, **options)

    return call


def whole(name: str, value: Any, least: int) -> int:
    """An option that counts: any integer type, not a bool."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name} is {value!r}, expected a whole number of at least {least}")
    if number < least:
        raise ValueError(f"{name} is {value!r}, expected at least {least}")
    return number


def flag(name: str, value: Any) -> bool:
    """An option that is on or off."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, expected True or False")
    return value


def real(name: str, value: Any) -> float:
    """An option that measures: any number, no string that looks like one."""
    if not isinstance(value, str | bytes | bool):
        with suppress(TypeError, ValueError, RuntimeError):
            return float(value)
    raise TypeError(f"{name} is {value!r}, expected a number")
