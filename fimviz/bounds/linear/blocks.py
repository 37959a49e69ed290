"""Rows of a step that are 0 outside of a block of its numbers: what is carried back stays near where it began.

A number of an early layer depends on a few pixels, and a row carried back from it is 0 everywhere else. So that rows of
neighbours are taken together (in the order of Morton's curve), and of every step on their way only the block is kept
that a convolution or a pool makes of the one behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

aten = torch.ops.aten
Spans = tuple[tuple[int, int], ...]  # from … up to …, along every axis of a step (1, channels, …) but these two


def whole(shape: torch.Size) -> Spans:
    """All numbers of a step of this shape."""
    return tuple((0, size) for size in shape[2:])


def _both(a: Spans, b: Spans) -> Spans:
    return tuple((min(p, q), max(m, n)) for (p, m), (q, n) in zip(a, b, strict=True))


def _coordinates(place: Tensor, shape: torch.Size) -> list[Tensor]:
    """Where numbers (p,) of a step lie along each of its last axes."""
    found = []
    for size in reversed(shape[2:]):
        found.append(place % size)
        place = place // size
    return found[::-1]


def near_by_near(place: Tensor, shape: torch.Size) -> Tensor:
    """An order in which numbers (p,) of a step have their neighbours near by."""
    key, axes = torch.zeros_like(place), _coordinates(place, shape)
    for bit in range(max(shape[2:], default=1).bit_length()):
        for i, axis in enumerate(axes):
            key |= ((axis >> bit) & 1) << (bit * len(axes) + i)
    return key.argsort(stable=True)


def around(place: Tensor, shape: torch.Size) -> Spans:
    """The least block that has numbers (p,) of a step in it."""
    return tuple((int(axis.min()), int(axis.max()) + 1) for axis in _coordinates(place, shape))


@dataclass(frozen=True, eq=False)
class Block:
    """Rows (p, numbers of the block) of a step; its other numbers are 0."""

    rows: Tensor
    shape: torch.Size
    spans: Spans

    @classmethod
    def of(cls, rows: Tensor, shape: torch.Size) -> Block:
        """Rows (p, numbers) of all of a step."""
        return cls(rows, shape, whole(shape))

    @classmethod
    def ones(cls, place: Tensor, shape: torch.Size) -> Block:
        """Rows that are 1 at one of the places (p,) each."""
        each = torch.ones(len(place), 1, dtype=torch.float64)
        return cls.spread(each, place[:, None], shape)

    @classmethod
    def spread(cls, rows: Tensor, place: Tensor, shape: torch.Size) -> Block:
        """Rows (p, m) of numbers at places (p, m), or (m,) where all rows have the same, which may repeat."""
        spans = around(place.reshape(-1), shape)
        place = cls(rows, shape, spans).at(place)
        empty = rows.new_zeros(len(rows), *shape[:2], *(end - first for first, end in spans)).flatten(1)
        added = empty.index_add_(1, place, rows) if place.ndim == 1 else empty.scatter_add_(1, place, rows)
        return cls(added, shape, spans)

    @cached_property
    def all(self) -> bool:
        """Whether the block is all of the step."""
        return self.spans == whole(self.shape)

    @cached_property
    def places(self) -> Tensor:
        """The numbers of the step that the block is made of, in its order."""
        grid = torch.arange(self.shape.numel()).view(self.shape)
        for axis, (first, end) in enumerate(self.spans, 2):
            grid = grid.narrow(axis, first, end - first)
        return grid.reshape(-1)

    def at(self, place: Tensor) -> Tensor:
        """Where numbers of the step are in the block that has them."""
        inverse = torch.zeros(self.shape.numel(), dtype=torch.int64)
        inverse[self.places] = torch.arange(len(self.places))
        return inverse[place]

    def of_step(self, numbers: Tensor) -> Tensor:
        """Of numbers (…, of the step), those of the block."""
        return numbers if self.all else numbers[..., self.places]

    def shaped(self) -> Tensor:
        """(p, …), the rows in the shape of the block."""
        return self.rows.view(len(self.rows), *self.shape[:2], *(end - first for first, end in self.spans))

    def scaled(self, factor: Tensor) -> Block:
        """Times a factor of each of the step's numbers."""
        return Block(self.rows * self.of_step(factor), self.shape, self.spans)

    def times(self, numbers: Tensor) -> Tensor:
        """(p,): the rows' products with numbers of the step."""
        return self.rows @ self.of_step(numbers)

    def within(self, spans: Spans) -> Block:
        """The same rows, with 0 in what is more of a larger block."""
        if spans == self.spans:
            return self
        rows = self.rows.new_zeros(len(self.rows), *self.shape[:2], *(end - first for first, end in spans))
        part = rows
        for axis, ((first, end), (start, _)) in enumerate(zip(self.spans, spans, strict=True), 3):
            part = part.narrow(axis, first - start, end - first)
        part.copy_(self.shaped())
        return Block(rows.flatten(1), self.shape, spans)

    def complete(self) -> Tensor:
        """(p, numbers): the rows of all of the step."""
        return self.within(whole(self.shape)).rows

    def __add__(self, other: Block) -> Block:
        spans = _both(self.spans, other.spans)
        return Block(self.within(spans).rows + other.within(spans).rows, self.shape, spans)


@dataclass(frozen=True, eq=False)
class Convolution:
    """What a convolution of fixed weights (out, in, …) makes of a block of its output, along each axis."""

    weight: Tensor
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int

    def back(self, c: Block, shape: torch.Size) -> Block:
        """Rows of the convolution as rows of what it reads, of that shape."""
        axes = list(
            zip(c.spans, self.stride, self.padding, self.dilation, self.weight.shape[2:], shape[2:], strict=True)
        )
        seen = [(a * s - p, (b - 1) * s - p + d * (k - 1) + 1) for (a, b), s, p, d, k, _ in axes]
        read = tuple((max(a, 0), min(b, n)) for (a, b), n in zip(seen, shape[2:], strict=True))
        if any(a >= b for a, b in read):  # edges alone
            return Block.of(c.rows.new_zeros(len(c.rows), shape.numel()), shape)
        extent = [len(c.rows) * shape[0], shape[1], *(b - a for a, b in seen)]
        given, zeros = c.rows.new_zeros(1).expand(extent), [0] * len(axes)
        part = aten.convolution_backward.default(
            c.shaped().flatten(0, 1), given, self.weight, None, self.stride, zeros, self.dilation, False, zeros,
            self.groups, [True, False, False],
        )[0]  # fmt: skip
        for axis, ((first, _), (a, b)) in enumerate(zip(seen, read, strict=True), 2):
            part = part.narrow(axis, a - first, b - a)
        return Block(part.reshape(len(c.rows), -1), shape, read)


__all__ = ["Block", "Convolution", "near_by_near"]
