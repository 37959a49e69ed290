"""`LocalAccuracy`: how well ½ δᵀFδ tells the divergence of changes of growing size."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fimviz._options import named_options
from fimviz._quantile import median, quantiles
from fimviz.model.classifier import Classifier
from fimviz.model.failures import said
from fimviz.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from fimviz.result import Figure


@dataclass(frozen=True, eq=False, repr=False)
class LocalAccuracy(Result):
    """KL and its quadratic form for changes of n inputs, by norm, direction and budget; float64 on the CPU.

    Attributes:
        kl: (norms, directions, epsilons, n) KL(f(x) ‖ f(x + δ)) in nats.
        quadratic: the same shape, ½ δᵀF(x)δ for the same δ.
        length: the same shape, ‖δ‖ in L2, pixel units.
        norms, directions: names along the first two axes; epsilons: (norms, epsilons) budgets in pixel units.
        logits: (n, K); labels: (n,); net; steps, seed: as given; seconds.
        failures: place → why nothing could be computed there; its numbers are NaN.
    """

    kl: Tensor
    quadratic: Tensor
    length: Tensor
    norms: tuple[str, ...]
    directions: tuple[str, ...]
    epsilons: Tensor
    logits: Tensor
    labels: Tensor
    net: Classifier
    steps: int
    seed: int
    seconds: float
    failures: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.logits)

    def __repr__(self) -> str:
        size = f"{len(self)} inputs{said(self.failures)}, {' and '.join(self.directions)}"
        return f"LocalAccuracy({size} in {' and '.join(self.norms)}, {self.epsilons.shape[1]} budgets)"

    @property
    def error(self) -> Tensor:
        """|KL − ½ δᵀFδ| / KL (norms, directions, epsilons, n); NaN where KL is 0 or no number."""
        return torch.where(self.kl > 0, (self.kl - self.quadratic).abs() / self.kl, torch.nan)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a norm, direction and budget.

        median, q25, q75: of the relative error over the inputs; pooled: Σ|KL − ½ δᵀFδ| ÷ Σ KL, in which no tiny KL
        counts for much; kl: median KL; length: median ‖δ‖₂; measured: inputs that these are of; zero: inputs whose KL
        is 0 in float64, which have no relative error; failed: inputs for which the model gave no number; failure: for
        which of them nothing could be computed, and why.
        """
        import pandas as pd

        why = "; ".join(f"image {place}: {reason}" for place, reason in self.failures.items())
        rows = []
        for a, norm in enumerate(self.norms):
            for b, direction in enumerate(self.directions):
                for c, epsilon in enumerate(self.epsilons[a].tolist()):
                    kl, quadratic, error = (t[a, b, c] for t in (self.kl, self.quadratic, self.error))
                    known = ~error.isnan()
                    low, middle, high = quantiles(error, [0.25, 0.5, 0.75]).tolist()
                    row: dict[str, Any] = {"norm": norm, "direction": direction, "epsilon": epsilon}
                    row |= {"median": middle, "q25": low, "q75": high}
                    row["pooled"] = float((kl - quadratic)[known].abs().sum() / kl[known].sum())
                    row["kl"] = median(kl)
                    row["length"] = median(self.length[a, b, c])
                    row |= {"measured": int(known.sum()), "zero": int((kl == 0).sum())}
                    row["failed"] = int((kl.isnan() | quadratic.isnan()).sum())
                    rows.append(row | {"failure": why})
        return pd.DataFrame(rows)

    @named_options
    def table(self, *, norm: str | None = None, column: str = "median") -> pd.DataFrame:
        """One row a direction, one column a budget, as in the paper.

        Args:
            norm: "linf" or "l2"; by default the first.
            column: of `frame`, for instance "median" or "pooled".
        """
        norm = self.norms[0] if norm is None else norm
        if norm not in self.norms:
            raise ValueError(f"norm is {norm!r}, expected one that was measured: {', '.join(self.norms)}")
        values = ("median", "q25", "q75", "pooled", "kl", "length", "measured", "zero", "failed")
        if column not in values:
            raise ValueError(f"column is {column!r}, expected one of {', '.join(values)}")
        own = self.frame[self.frame.norm == norm]
        table = own.pivot_table(column, "direction", "epsilon", dropna=False, sort=False).loc[list(self.directions)]
        table.columns = [budget(float(e)) for e in table.columns]
        return table

    def plot(self) -> go.Figure:
        """The relative error against the budget, medians with quartiles, one panel a norm, as a plotly figure."""
        return self._plotted()

    @named_options
    def view(self, *, max_bytes: int = 20_000_000) -> Figure:
        """The same as a page: a line a direction, and at any budget the numbers.

        Args:
            max_bytes: at which a page is refused.
        """
        return self._viewed(max_bytes=max_bytes)


def budget(epsilon: float) -> str:
    """A budget as people write it: in 255ths where it is a whole number of them."""
    parts = 255 * epsilon
    return f"{round(parts)}/255" if abs(parts - round(parts)) < 1e-6 and 0 < round(parts) < 256 else f"{epsilon:.4g}"
