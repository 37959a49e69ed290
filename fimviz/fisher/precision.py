"""In which precision the passes of a spectrum run: in the cheapest that gives the digits that are promised.

A network with kinks needs float64's forward pass, or rounding takes it to another linear piece
(`fimviz.fisher.block`); where its backward passes compare or subtract what was rounded, all passes run in float64. A
smooth one has λ₁ to 1e-6 in float32. That is measured at each input, and where it falls short there, the input is
taken again in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from fimviz.fisher.block import Block, Ground, padded
from fimviz.fisher.method import Asked, Method
from fimviz.model.blackbox import BlackBox
from fimviz.model.classifier import Classifier


@dataclass(frozen=True)
class Precision:
    """How passes run.

    Attributes:
        passes: what the inputs are given in.
        precise: whether the forward pass has float64's values (`fimviz.model.precise`).
        verified: whether rounding crosses no kink.
        sharpens: whether inputs at which float32 falls short are taken again in float64.
    """

    passes: torch.dtype
    precise: bool
    verified: bool
    sharpens: bool = False

    @classmethod
    def of(cls, net: Classifier | BlackBox, dtype: torch.dtype, verify: bool) -> Precision:
        """The precision for inputs of a dtype, verified or not."""
        if not verify or dtype == torch.float64:
            return cls(dtype, False, dtype == torch.float64)
        if net.smooth:
            return cls(dtype, False, True, True)
        return cls(dtype, True, True) if net.precise else cls(torch.float64, False, True)

    def run(self, net: Classifier | BlackBox, x: Tensor, way: Method, asked: Asked) -> tuple[Block, int]:
        """What a method makes of inputs on their device, and how many of them were taken again in float64.

        One that asks for answers alone gets the inputs as they are.
        """
        if way.answers:
            return way.run(net, x, asked), 0
        block = _found(net, x.to(self.passes), way, asked)
        if not self.sharpens or asked.enough == math.inf:
            return block, 0
        fine = block.error[:, 0] <= asked.enough * block.eigenvalues[:, 0]
        if block.beside is not None and block.beside_error is not None:
            fine &= block.beside_error <= asked.enough * block.beside
        short = (~fine).nonzero()[:, 0]
        at_once = (len(x) + 1) // 2  # as their numbers are twice as long
        for start in range(0, len(short), at_once):
            rows = short[start : start + at_once]
            block = _with(block, rows, _found(net, x[rows.to(x.device)].double(), way, asked))
        return block, len(short)


def _found(net: Any, x: Tensor, way: Method, asked: Asked) -> Block:
    """What a method makes of inputs in the precision of x; λ₁ under another likelihood too, from the same passes."""
    ground = Ground(net, x, asked.precise, along=way.along)
    block = way.run(ground, asked)
    if asked.beside is None:
        return block
    alone = replace(asked, k=1, vectors=False, totals=False, beside=None)
    other = way.run(ground.under(asked.beside.likelihood), alone)
    return replace(block, beside=other.eigenvalues[:, 0], beside_error=asked.beside.error(other))


def _with(block: Block, rows: Tensor, again: Block) -> Block:
    """A block whose rows (m,) are those of another, but for the passes, which are both's."""
    joined = {}
    for field in fields(Block):
        old, new = getattr(block, field.name), getattr(again, field.name)
        if old is None:
            continue
        if field.name == "history":
            old, new = padded([old, new])
        if field.name in ("forwards", "vjps", "jvps"):
            new = old[rows] + new
        joined[field.name] = old.clone()
        joined[field.name][rows] = new.to(old.dtype)
    return Block(**joined)
