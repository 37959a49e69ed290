"""Ways to find something: methods, estimators, bounds, attacks. Each is an object that its file makes, and a row."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

# Passes toward the input in units of a forward pass: measured on ResNet-20 and SqueezeNet, ± 25 %.
VJP_COST, JVP_COST = 1.4, 1.3


@dataclass(frozen=True, kw_only=True)
class Way:
    """What doors, views and messages say of a way to find something; a subclass adds how it is run.

    Attributes:
        name: by which it is asked for and listed.
        guarantee: what its value or interval means, in a word: see `Spectrum.guarantee`.
        needs: what has to be known for it, as a part of a sentence; short: the same in the few words beside a row.
        formula: what it computes; empty for a procedure.
        cost: forward passes that a step of its history takes; 0 where it has none.
        sees: what of the model it looks at: its "answers" alone, its "slopes" at the input, or its "weights".
    """

    name: str
    guarantee: str
    needs: str
    short: str
    formula: str = ""
    cost: float = 0.0
    sees: str = "slopes"

    @property
    def answers(self) -> bool:
        """Whether a model that can only be queried is enough."""
        return self.sees == "answers"


W = TypeVar("W", bound=Way)


def table(*ways: W) -> dict[str, W]:
    """Ways by their names, in this order."""
    return {way.name: way for way in ways}


def named(option: str, name: Any, ways: Mapping[str, W], valid: Iterable[str]) -> W | None:
    """The way of that name, None for a valid word that is none; else an error that names those that are valid."""
    valid = list(valid)
    if name not in valid:
        near = difflib.get_close_matches(str(name), valid, 1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise ValueError(f"{option} is {name!r}, expected one of {', '.join(valid)}{hint}")
    return ways.get(name)
