"""What plotly figures of several views draw alike."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fimviz._quantile import quantiles


def quartile_box(axis: str, values: Tensor) -> dict[str, Any]:
    """A plotly box at the quartiles of the library's rule (plotly has another), with all its points."""
    low, *quartiles, high = ([v] for v in quantiles(values, [0, 0.25, 0.5, 0.75, 1]).tolist())
    ends = {"lowerfence": low, "upperfence": high}
    return dict(zip(("q1", "median", "q3"), quartiles, strict=True)) | ends | {axis: [values.tolist()]}
