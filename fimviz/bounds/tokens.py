"""Rules for tokens: layer normalisation, softmax, products of tensors and attention."""

from __future__ import annotations

from fimviz.bounds.flow import Flow, NoBoundError, Step


def product(step: Step, x: Flow, y: Flow) -> Flow:
    """A product of two matrices that both depend on the input."""
    raise NoBoundError("a product of two tensors that both depend on the input has a bound only at a given x")
