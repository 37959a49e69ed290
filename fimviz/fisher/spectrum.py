"""`Spectrum`: eigenvalues and eigenvectors of the input-space Fisher information of a batch, and what they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fimviz.classifier import Classifier
from fimviz.fisher.walk import Walk, reach, walk
from fimviz.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from fimviz.views.figure import Figure


@dataclass(frozen=True)
class Cost:
    """What a result took: passes for each input (n,), and wall-clock seconds for the batch."""

    forwards: Tensor
    vjps: Tensor
    jvps: Tensor
    seconds: float


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum(Result):
    """The k largest eigenvalues of F(x) = Σ_y p_y ∇log p_y ∇log p_yᵀ at each of n inputs, with eigenvectors.

    Moving an input by ε along the unit eigenvector v_i changes the prediction by KL ≈ ½ ε² λ_i nats; ε and v are
    in pixel units and L2 norms, λ in nats per squared pixel unit. No direction does more than the first.

    Attributes:
        eigenvalues: (n, k) float64, descending, at least 0.
        eigenvectors: (n, k, *input), unit L2 norm, or None. Along +v the predicted class becomes less probable, to
            first order (where that is undecided, the component of largest magnitude is positive). A direction lost
            in rounding (λ below the square of the noise) is zeros; equal eigenvalues leave their plane's axes
            arbitrary.
        error: (n, k) float64, how far an eigenvalue may be from the truth: iteration, sampling and rounding together.
            Rounding is estimated from a float64 pass and the machine epsilon, with constants that held on every
            real network tried.
        trace, trace_error: (n,) float64, the sum of all eigenvalues, not only of the k largest; NaN where the method
            says nothing about it.
        frobenius, frobenius_error: (n,) float64, the root of the sum of all squared eigenvalues.
        probabilities: (n, K) float64.
        images: (n, *input), as given, on the CPU; labels: (n,) or None.
        net: the classifier.
        method: "exact", "lanczos", "power" or "blackbox"; reason: why this one.
        guarantee: what `error` means. "exact": rounding is all. "interval": the truth lies within `error` above the
            value, up to rounding, and the value is a lower bound; that no larger eigenvalue was missed is certain
            but for a random start of probability 0. "lower": a lower bound, the interval is experience.
            "statistical": a confidence interval.
        cost: passes and seconds.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor | None
    error: Tensor
    trace: Tensor
    trace_error: Tensor
    frobenius: Tensor
    frobenius_error: Tensor
    probabilities: Tensor
    logits: Tensor
    images: Tensor
    labels: Tensor | None
    net: Classifier
    method: str
    reason: str
    guarantee: str
    cost: Cost
    _walks: dict[int, Walk] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.eigenvalues)

    def __repr__(self) -> str:
        low, middle, high = (float(q) for q in torch.quantile(self.spectral_norm, torch.tensor([0, 0.5, 1]).double()))
        return (
            f"Spectrum({len(self)} inputs, {self.eigenvalues.shape[1]} eigenvalues, {self.method}: "
            f"λ₁ from {low:.3g} to {high:.3g}, median {middle:.3g})"
        )

    @property
    def spectral_norm(self) -> Tensor:
        """λ₁ (n,), how fast the prediction can change here: max KL ≈ ½ ε² λ₁ over steps of length ε."""
        return self.eigenvalues[:, 0]

    @property
    def predictions(self) -> Tensor:
        """The most probable class (n,), or for several yes/no labels the most probable set (n, K) as booleans."""
        return self.net.likelihood.mode(self.logits)

    @property
    def confidence(self) -> Tensor:
        """The probability of the prediction (n,), float64."""
        return self.net.likelihood.confidence(self.logits)

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Smallest and largest value an input can have: the classifier's range, or the batch's where it has none."""
        if self.net.input_range is not None:
            return self.net.input_range
        low, high = (float(v) for v in self.images.aminmax())
        return (low, high) if low < high else (low - 0.5, low + 0.5)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row an input: sample, prediction, confidence, spectral_norm, trace, frobenius, error of λ₁."""
        import pandas as pd

        modes = self.predictions
        columns: dict[str, Any] = {
            "sample": np.arange(len(self)),
            "prediction": modes.numpy() if modes.ndim == 1 else [tuple(m.nonzero()[:, 0].tolist()) for m in modes],
            "confidence": self.confidence.numpy(),
            "spectral_norm": self.spectral_norm.numpy(),
            "trace": self.trace.numpy(),
            "frobenius": self.frobenius.numpy(),
            "error": self.error[:, 0].numpy(),
        }
        if self.labels is not None:
            columns["label"] = self.labels.numpy()
        return pd.DataFrame(columns)

    def take(self, samples: Sequence[int]) -> Spectrum:
        """The spectrum of some of the inputs, by their places in the batch."""
        at = torch.as_tensor(list(samples), dtype=torch.int64)
        per_input: dict[str, Any] = {
            f.name: value[at] for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        cost = Cost(self.cost.forwards[at], self.cost.vjps[at], self.cost.jvps[at], self.cost.seconds)
        return replace(self, **per_input, cost=cost, _walks={})

    def walk(self, k: int = 0, eps: Any = None) -> Walk:
        """What the model says along x + ε v_k, by forward passes.

        Args:
            k: which eigenvector, 0 for the leading one.
            eps: distances in L2 pixel units, (m,) for all inputs or (n, m), ascending; by default 33 from −`reach` to
                `reach`, and the flips among them.
        """
        if self.eigenvectors is None:
            raise ValueError("this spectrum has no eigenvectors to walk along: compute it with vectors=True")
        if not 0 <= k < self.eigenvalues.shape[1]:
            raise ValueError(f"k is {k}, expected an index from 0 to {self.eigenvalues.shape[1] - 1}")
        if eps is None:
            if k not in self._walks:
                grid = torch.linspace(-1, 1, 33, dtype=torch.float64) * self.reach[:, None]
                self._walks[k] = walk(self, k, grid, with_flips=True)
            return self._walks[k]
        eps = torch.as_tensor(eps, dtype=torch.float64)
        return walk(self, k, eps.expand(len(self), -1) if eps.ndim < 2 else eps)

    @cached_property
    def reach(self) -> Tensor:
        """A distance (n,) that shows where the prediction changes along ±v₁, in L2 pixel units.

        A value of the series 0.001, 0.002, 0.005 … 5 two to five times beyond the change, 1 where nothing changes
        up to 5; in units of the input range's width.
        """
        return reach(self)

    def plot(self) -> go.Figure:
        """The eigenvalues of every input on a log axis, as a plotly figure."""
        from fimviz.views.charts import spectrum_figure

        return spectrum_figure(self)

    def view(self, *, samples: int | Sequence[int] = 32, directions: int = 5, max_bytes: int = 20_000_000) -> Figure:
        """The perturbation view: image, worst direction, image + ε v, and what the model says.

        Args:
            samples: how many inputs, the most fragile first, or which.
            directions: how many eigenvectors of each.
            max_bytes: refuse a page larger than this.
        """
        from fimviz.views.perturbation import perturbation

        return perturbation(self, samples=samples, directions=directions, max_bytes=max_bytes)
