"""What a page computes of a network: a list of operations on numbered slots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


class NoRuleError(ValueError):
    """A network that the page cannot carry; the message names the layer."""


@dataclass
class Program:
    """What the page computes: values in numbered slots, the input in slot 0.

    Attributes:
        sizes: how many numbers each slot holds.
        ops: what fills the slots, in order: each a dictionary of its `kind`, the slots that it reads (`from`), the one
            that it fills (`to`) and what it needs besides, tensors among it.
        constants: slots that hold always the same.
        logits: the slot of the logits.
    """

    sizes: list[int]
    ops: list[dict[str, Any]] = field(default_factory=list)
    constants: dict[int, Tensor] = field(default_factory=dict)
    logits: int = 0

    def slot(self, size: int) -> int:
        """A new one."""
        self.sizes.append(size)
        return len(self.sizes) - 1

    def constant(self, value: Tensor) -> int:
        """A slot that holds a value."""
        at = self.slot(value.numel())
        self.constants[at] = value.detach().reshape(-1)
        return at

    def call(self, kind: str, sources: list[int], size: int, **how: Any) -> int:
        """Append an operation; return the slot that it fills."""
        to = self.slot(size)
        self.ops.append({"kind": kind, "from": sources, "to": to, **how})
        return to

    def same_as(self, other: Program) -> bool:
        """Whether two recordings do the same."""
        mine, theirs = (tree_leaves([p.sizes, p.ops, p.constants, p.logits]) for p in (self, other))
        return len(mine) == len(theirs) and all(
            torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else type(a) is type(b) and a == b
            for a, b in zip(mine, theirs, strict=True)
        )
