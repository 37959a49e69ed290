"""Inputs of a batch that cannot be computed: found by the passes, marked in the result, named in an error.

A pass that meets NaN or an infinity raises `NonFiniteError` with the rows that did; whoever holds the batch goes on
without them and puts the results of the others back in their places (`spread`), NaN where there is none, with the
reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
LOGITS = "the logits are not finite (NaN or infinite)"
GRADIENT = "the gradient of the logits toward the image is not finite (NaN or infinite)"
ALONG = "the derivative of the logits along a direction is not finite (NaN or infinite): method='exact' needs none"
ANSWERS = "predict returned NaN or infinite scores"


class NonFiniteError(FloatingPointError):
    """Passes at some inputs of a batch gave NaN or infinities: `reason`, and the `rows` of the batch where."""

    def __init__(self, reason: str, rows: Sequence[int]) -> None:
        super().__init__(f"{reason} for input {', '.join(map(str, rows[:5]))}{' …' if len(rows) > 5 else ''}")
        self.reason, self.rows = reason, list(rows)


@contextmanager
def of_model(name: object, several: bool = True) -> Iterator[None]:
    """Errors within say which of several models they are of."""
    try:
        yield
    except Exception as error:
        if several:
            error.add_note(f"This is of the model {name!r}.")
        raise


def check_finite(values: Tensor, reason: str) -> None:
    """Refuse NaN and infinities in values (n, …), with the rows that have some."""
    if not values.isfinite().all():
        raise NonFiniteError(reason, (~values.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist())


def known(errors: Any) -> str:
    """The option `errors`."""
    if errors not in ("mark", "raise"):
        raise ValueError(f"errors is {errors!r}, expected 'mark' (a row of NaN with the reason) or 'raise'")
    return str(errors)


def settle(failures: Mapping[int, str], count: int, errors: str) -> None:
    """Raise where the caller wants it, or where nothing of a batch of `count` inputs is left."""
    if not failures:
        return
    place, reason = min(failures.items())
    if len(failures) == count > 1:
        raise FloatingPointError(f"none of {count} images can be computed; image {place}: {reason}")
    if errors == "raise" or count == 1:
        mend = "" if count == 1 else ": drop it, or leave errors='mark', which computes the others"
        raise FloatingPointError(f"image {place} of {count}: {reason}{mend}")


def others(failures: Mapping[int, str], count: int) -> Tensor:
    """The places (m,) of a batch of `count` inputs that can be computed."""
    return torch.tensor([place for place in range(count) if place not in failures], dtype=torch.int64)


def among(failures: Mapping[int, str], places: Iterable[int]) -> dict[int, str]:
    """The failures of a part of a batch, by their places in the part."""
    return {i: failures[place] for i, place in enumerate(places) if place in failures}


def spread(part: T, places: Tensor, count: int) -> T:
    """Values of the inputs at `places` among `count`: NaN, −1 or False elsewhere.

    A tensor (m, …), or a dataclass whose tensors are all that.
    """
    if isinstance(part, Tensor):
        filler = torch.nan if part.is_floating_point() else False if part.dtype == torch.bool else -1
        out = part.new_full((count, *part.shape[1:]), filler)
        out[places] = part
        return out  # type: ignore[return-value]
    changes = {f.name: spread(v, places, count) for f in fields(part) if isinstance(v := getattr(part, f.name), Tensor)}  # type: ignore[arg-type]
    return replace(part, **changes)  # type: ignore[type-var]


def column(failures: Mapping[int, str], count: int) -> list[str]:
    """The column `failure` of a frame: why an input could not be computed, empty where it could."""
    return [failures.get(place, "") for place in range(count)]


def said(failures: Mapping[int, str]) -> str:
    """Of a result in one line, behind how many inputs it has: how many of them it lacks; empty if none."""
    return f", {len(failures)} of them not computed" if failures else ""
