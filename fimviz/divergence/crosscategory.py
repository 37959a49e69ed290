"""`CrossCategoryKL`: divergences between samples of different categories, and their second-order part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fimviz._options import named_options, whole
from fimviz._quantile import quantiles
from fimviz.divergence.pairs import standard_errors
from fimviz.divergence.path import Path, paths
from fimviz.divergence.theorem import Theorem, checked_alpha, theorem
from fimviz.model.classifier import Classifier
from fimviz.model.engine.progress import SOON, reporter
from fimviz.model.origin import ModelResult, Print

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from fimviz.result import Figure


class Mean(NamedTuple):
    """A mean over pairs and its standard error."""

    value: float
    error: float


_TOGETHER = 16  # lines that are asked for at a time


@dataclass(frozen=True, eq=False, repr=False)
class CrossCategoryKL(ModelResult):
    """KL, G1 and G2 of m ordered pairs of samples; float64 on the CPU where not said otherwise, divergences in nats.

    Both directions of a pair are here, ordered by i, then by j.

    Attributes:
        i, j: (m,) places of the two samples in the batch.
        kl: (m,) KL(f(x_i) ‖ f(x_j)).
        g1: (m,) ½ (x_j − x_i)ᵀ F(x_i) (x_j − x_i), at least 0; g1_error: (m,) how far rounding may have moved it.
        limit: (m,) ½ λ₁(F(x_i)) ‖x_j − x_i‖², the right side of the paper's equation 16: g1 is never above it.
        l2: (m,) ‖x_j − x_i‖ in pixel units.
        logits: (n, K); spectral_norm: (n,) λ₁ of F; both NaN for samples in no pair.
        images: (n, *input), as given; labels: (n,) int64.
        failures: place → why nothing could be computed there; lost: (2, l) the pairs (i, j) that these are in, and that
            are none of the m.
        net: the classifier; drawn: whether the pairs are a sample of all; alpha, seed, resamples: as given; seconds.
    """

    i: Tensor
    j: Tensor
    kl: Tensor
    g1: Tensor
    g1_error: Tensor
    limit: Tensor
    l2: Tensor
    logits: Tensor
    spectral_norm: Tensor
    images: Tensor
    labels: Tensor
    net: Classifier
    drawn: bool
    alpha: float
    seed: int
    resamples: int
    seconds: float
    failures: dict[int, str] = field(default_factory=dict)
    lost: Tensor = field(default_factory=lambda: torch.zeros(2, 0, dtype=torch.int64))
    _origin: Print | None = None
    _lines: dict[tuple[int, int], Path] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.i)

    def __repr__(self) -> str:
        return (
            f"CrossCategoryKL({len(self)} pairs of {len(self.i.unique())} samples{self.without}: CCKL {self.cckl:.4g} "
            f"± {self.cckl_error:.2g} nats, {self.means['g1'].value:.3g} of them second-order)"
        )

    def _said(self) -> Tensor:
        return self.net.likelihood.output(self.logits)

    @property
    def without(self) -> str:
        """How many pairs could not be computed, in words; empty if none."""
        if not self.failures:
            return ""
        return f", without {self.lost.shape[1]} pairs of {len(self.failures)} that could not be computed"

    @property
    def g2(self) -> Tensor:
        """(m,) KL − G1: everything of third and higher order; negative where the quadratic form promises too much."""
        return self.kl - self.g1

    @property
    def ratio(self) -> Tensor:
        """(m,) G2/KL, at most 1; NaN where KL is 0."""
        return torch.where(self.kl > 0, self.g2 / self.kl, torch.nan)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a pair: i, j, class_i, class_j (their labels), kl, g1, g2, ratio (G2/KL), limit, l2, g1_error.

        `failure` is last: pairs with a sample that could not be computed stand below the others, as NaN, and it says
        why.
        """
        import pandas as pd

        columns = {"i": self.i, "j": self.j, "class_i": self.labels[self.i], "class_j": self.labels[self.j]}
        columns |= {name: getattr(self, name) for name in ("kl", "g1", "g2", "ratio", "limit", "l2", "g1_error")}
        frame = pd.DataFrame({name: values.numpy() for name, values in columns.items()} | {"failure": ""})
        if not self.failures:
            return frame
        rows = []
        for i, j in self.lost.T.tolist():
            at = i if i in self.failures else j
            ends = {"i": i, "j": j, "class_i": int(self.labels[i]), "class_j": int(self.labels[j])}
            rows.append(ends | {"failure": f"sample {at}: {self.failures[at]}"})
        return pd.concat([frame, pd.DataFrame(rows)], ignore_index=True)

    @property
    def cckl(self) -> float:
        """The mean KL over the pairs."""
        return float(self.kl.mean())

    @property
    def cckl_error(self) -> float:
        """Its standard error, by bootstrap over the samples, which pairs share."""
        return self.means["kl"].error

    @cached_property
    def means(self) -> dict[str, Mean]:
        """Means of "kl", "g1" and "g2" over the pairs with their standard errors, by bootstrap over the samples.

        The mean of G2/KL is none of them: for tiny KL the ratio has no bound below. Its median is in `summary`.
        """
        columns = torch.stack([self.kl, self.g1, self.g2], 1)
        used, place = torch.cat([self.i, self.j]).unique(return_inverse=True)
        i, j = place.chunk(2)
        errors = standard_errors(columns, i, j, len(used), self.resamples, self.seed)
        pairs = zip(columns.mean(0).tolist(), errors.tolist(), strict=True)
        return {name: Mean(*both) for name, both in zip(("kl", "g1", "g2"), pairs, strict=True)}

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row a quantity (kl, g1, g2, ratio): mean with its standard error (none for the ratio), and quartiles."""
        import pandas as pd

        rows = {}
        for name in ("kl", "g1", "g2", "ratio"):
            mean = self.means.get(name, Mean(float("nan"), float("nan")))
            low, middle, high = quantiles(getattr(self, name), [0.25, 0.5, 0.75]).tolist()
            rows[name] = {"mean": mean.value, "error": mean.error, "median": middle, "q25": low, "q75": high}
        return pd.DataFrame(rows).T

    @cached_property
    def by_class(self) -> dict[str, pd.DataFrame]:
        """K×K tables by label of i (row) and of j (column), NaN where there are no pairs.

        "pairs" counts them; "kl", "g1", "g2" and "limit" are means; "ratio" is mean G2 ÷ mean KL.
        """
        import pandas as pd

        names = self.net.classes
        cell = self.labels[self.i] * len(names) + self.labels[self.j]

        def table(values: Tensor) -> Tensor:
            return torch.zeros(len(names) ** 2, dtype=torch.float64).index_add(0, cell, values).view(len(names), -1)

        count = table(torch.ones_like(self.kl))
        known = count.where(count > 0, torch.nan)
        tables = {name: table(getattr(self, name)) / known for name in ("kl", "g1", "g2", "limit")}
        tables = {"pairs": count, **tables, "ratio": tables["g2"] / tables["kl"].where(tables["kl"] > 0, torch.nan)}
        return {name: pd.DataFrame(values.numpy(), index=names, columns=names) for name, values in tables.items()}

    @property
    def theorem_bound(self) -> float:
        """The right side of Theorem 3.1 for the α given, which CCKL never falls below; vacuous where not positive."""
        return self.theorem().bound

    @named_options
    def theorem(self, *, alpha: float | None = None) -> Theorem:
        """Both sides of Theorem 3.1, term by term, for labels smoothed with α.

        Args:
            alpha: how much of a label stays on its class, from 0 to 1; by default that of the result.
        """
        level = self.alpha if alpha is None else checked_alpha(alpha)
        share = self.i.bincount(minlength=len(self.labels)).double()
        used = share > 0
        log_p = self.net.likelihood.output(self.logits[used])
        return theorem(self.cckl, log_p, self.labels[used], share[used], level)

    @named_options
    def path(self, i: int, j: int, *, steps: int = 40) -> Path:
        """KL and its quadratic part on the straight line from x_i to x_j, by forward passes.

        Args:
            i: place of the first sample in the batch.
            j: of the second, of another label.
            steps: into how many equal pieces the line is cut.
        """
        steps, place = whole("steps", steps, 1), self.place(i, j)
        self.unchanged("path()")
        return paths(self, torch.tensor([place]), steps)[0]

    def known(self, places: Sequence[int], steps: int) -> tuple[list[Path], str]:
        """The lines of some pairs as a view draws them, and why they are known at their ends only, if so.

        Each is asked for once; what was asked for before the model changed is kept.
        """
        left, why = [p for p in places if (p, steps) not in self._lines], ""
        if left and not (why := self.changed):
            report = reporter(True, len(left), "line", SOON)
            for start in range(0, len(left), _TOGETHER):
                some = left[start : start + _TOGETHER]
                lines = paths(self, torch.tensor(some), steps, self.net.dtype)
                self._lines.update(zip(((p, steps) for p in some), lines, strict=True))
                report(start + len(some))
        ends = paths(self, torch.tensor(left), steps, self.net.dtype, ask=False) if why else []
        known = {**dict(zip(((p, steps) for p in left), ends, strict=False)), **self._lines}
        return [known[p, steps] for p in places], why

    def place(self, i: int, j: int) -> int:
        """Where the pair (i, j) stands in this result."""
        at = ((self.i == whole("i", i, 0)) & (self.j == whole("j", j, 0))).nonzero()
        if not len(at):
            raise ValueError(
                f"({i}, {j}) is no pair of this result, expected samples of different labels that it holds"
            )
        return int(at[0, 0])

    @named_options
    def plot(self, *, against: Mapping[str, CrossCategoryKL] | None = None, name: str = "this model") -> go.Figure:
        """The distributions of KL, G2 and G2/KL, with medians, as a plotly figure.

        Args:
            against: results of other models by name, drawn in the same axes.
            name: of this model beside them.
        """
        return self._plotted(against=self._beside(name, against))

    @named_options
    def view(
        self,
        *,
        against: Mapping[str, CrossCategoryKL] | None = None,
        name: str = "this model",
        pairs: int | Sequence[tuple[int, int]] | None = None,
        max_bytes: int = 20_000_000,
    ) -> Figure:
        """The divergence view: the three distributions, the map of class pairs, and pairs on their straight lines.

        Args:
            against: results of other models by name, whose distributions stand beside this one's.
            name: of this model beside them.
            pairs: how many pairs carry their line, or which (i, j); by default of each class pair those with the
                smallest, the median and the largest KL, as far as they fit a page of a megabyte.
            max_bytes: at which a page is refused; 5 MB are warned of.
        """
        return self._viewed(against=self._beside(name, against), pairs=pairs, max_bytes=max_bytes)

    def _beside(self, name: str, against: Any) -> dict[str, CrossCategoryKL]:
        """This result and others by name, this one first."""
        others = {} if against is None else against
        if not isinstance(others, Mapping) or not all(isinstance(r, CrossCategoryKL) for r in others.values()):
            given = f"a {type(others).__name__}"
            if isinstance(others, Mapping):
                given = f"{{{', '.join(f'{key!r}: a {type(r).__name__}' for key, r in others.items())}}}"
            raise TypeError(f"against is {given}, expected results of fv.cckl by name: {{'robust': result}}")
        if name in others:
            raise ValueError(f"two models are called {name!r}: give name= for this one, or another name in against=")
        return {name: self, **others}
