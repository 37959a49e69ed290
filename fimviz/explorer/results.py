"""What `explore` finds: of a batch, of a model on it, and of some samples in full detail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from fimviz._failures import said
from fimviz._options import named_options
from fimviz._quantile import digits, median
from fimviz.attributions import Attributions
from fimviz.comparison import BoundComparison
from fimviz.fisher.plane import Plane
from fimviz.fisher.spectrum import Spectrum
from fimviz.fisher.walk import Walk
from fimviz.margins.traces import MarginTraces
from fimviz.ranking.spearman import Rank, spearman_of_many
from fimviz.result import Result
from fimviz.vulnerability import Vulnerability

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from fimviz.views.figure import Figure

_ENOUGH = 10  # samples for an interval
MAX_BYTES = 20_000_000  # of a page


@dataclass(frozen=True, eq=False)
class Detail:
    """Everything about some samples of one model.

    Attributes:
        places: their places in the batch, m of them.
        spectrum: theirs, with eigenvectors, in that order.
        reach: (m,) how far the walks and planes go, in L2 pixel units.
        one_sided: (m, 2), as that of the spectrum.
        walks: along each eigenvector.
        planes: of the first samples on the plane of two eigenvectors, or of the only one and the image itself; or None.
    """

    places: tuple[int, ...]
    spectrum: Spectrum
    reach: Tensor
    one_sided: Tensor
    walks: tuple[Walk, ...]
    planes: Plane | None


@dataclass(frozen=True, eq=False)
class Explored:
    """One model on the whole batch.

    Attributes:
        spectrum: λ₁ of all n inputs, without eigenvectors.
        detail: everything about some of them.
        radius: (n,) the certified L2 radius, or None, for the reason that `notes` gives.
        attacks: the smallest successful attacks of all inputs, where they were asked for.
        struck: (m, attacks, K) logits of what they made of the samples in detail.
        toward: some samples in detail with a smallest attack, and their planes of v₁ and that attack; or None.
        bounds, margins, attributions: of the samples in detail, where they were asked for.
        notes: why a part is missing, by its name.
    """

    spectrum: Spectrum
    detail: Detail
    radius: Tensor | None = None
    attacks: Vulnerability | None = None
    struck: Tensor | None = None
    toward: tuple[tuple[int, ...], Plane] | None = None
    bounds: BoundComparison | None = None
    margins: MarginTraces | None = None
    attributions: Attributions | None = None
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def margin(self) -> Tensor:
        """(n,) the gap of the logits between the prediction and the nearest other one."""
        s = self.spectrum
        modes = s.predictions
        return s.net.likelihood.margin(s.logits, modes.clamp_min(0) if modes.ndim == 1 else modes)

    @property
    def quantities(self) -> dict[str, Tensor]:
        """What λ₁ may be compared with, (n,) each."""
        found = {"confidence": self.spectrum.confidence, "margin": self.margin}
        found |= {} if self.radius is None else {"radius": self.radius}
        return found if self.attacks is None else {**found, "attack": self.attacks.best("l2")}


@dataclass(frozen=True, eq=False, repr=False)
class Explorer(Result):
    """One model or two on a batch of n inputs: all norms, and some samples in full detail.

    Attributes:
        models: by name, in the order given; the name of a single one is "".
        seed: of the resampling in `correlations`.
    """

    models: dict[str, Explored]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.first.spectrum)

    def __repr__(self) -> str:
        s = self.first.spectrum
        several = f"{len(self.models)} models, " if len(self.models) > 1 else ""
        size = f"{several}{len(self)} inputs{said(self.failures)}, {len(self.places)} in full detail"
        return f"Explorer({size}: median λ₁ {digits(median(s.spectral_norm))})"

    @property
    def failures(self) -> dict[int, str]:
        """Place → why nothing could be computed there, by one model at least; its row says so and is NaN."""
        found = [place_and_why for m in self.models.values() for place_and_why in m.spectrum.failures.items()]
        return dict(sorted(found))

    @property
    def first(self) -> Explored:
        """The model that was given first."""
        return next(iter(self.models.values()))

    @property
    def places(self) -> tuple[int, ...]:
        """The samples in full detail."""
        return self.first.detail.places

    def apart(self) -> Explorer:
        """The same on copies of the models, which nobody else trains or changes.

        Raises:
            ValueError: a model cannot be copied, or is no longer the one that this was computed on.
        """
        models = {}
        for name, m in self.models.items():
            net = m.spectrum.net.apart()
            if m.spectrum._origin and (now := net.fingerprint()) and not m.spectrum._origin.agrees(now):
                raise ValueError("the model's weights are no longer those that this result was computed with")
            deep = replace(m.detail.spectrum, net=net, _parts={})
            models[name] = replace(
                m, spectrum=replace(m.spectrum, net=net, _parts={}), detail=replace(m.detail, spectrum=deep)
            )
        return replace(self, models=models)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a sample and model: the columns of `Spectrum.frame`, the model, correct, margin, radius, attack.

        `failure` is last, as there.
        """
        import pandas as pd

        parts = []
        for name, m in self.models.items():
            part = m.spectrum.frame.copy()
            part["margin"] = m.margin.numpy()
            if m.spectrum.correct is not None:
                part["correct"] = m.spectrum.correct.numpy()
            for extra in ("radius", "attack"):
                if extra in m.quantities:
                    part[extra] = m.quantities[extra].numpy()
            if len(self.models) > 1:
                part.insert(1, "model", name)
            part["failure"] = part.pop("failure")
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def ranks(self) -> dict[str, dict[str, Rank]]:
        """For each model, how λ₁ ranks the samples against each of `quantities`, and against the other model's λ₁."""
        found: dict[str, dict[str, Rank]] = {}
        for name, m in self.models.items():
            norm = m.spectrum.spectral_norm.tolist()
            others = {key: v for key, v in m.quantities.items() if v.isfinite().any()}
            others |= {f"λ₁ of {o}": q.spectrum.spectral_norm for o, q in self.models.items() if o != name}
            found[name] = {key: _rank(norm, v.tolist(), self.seed) for key, v in others.items()}
        return found

    @property
    def correlations(self) -> pd.DataFrame:
        """Spearman's ρ of λ₁ with other numbers: columns model, against, rho, low, high, n.

        The interval is the bootstrap's over samples, NaN for fewer than ten. A large |ρ| with confidence is the rule:
        λ₁ falls to 0 as a prediction saturates.
        """
        import pandas as pd

        return pd.DataFrame(
            {"model": name, "against": key, "rho": r.rho, "low": r.low, "high": r.high, "n": r.n}
            for name, ranks in self.ranks.items()
            for key, r in ranks.items()
        )

    def plot(self) -> go.Figure:
        """λ₁ of every sample on a log axis against the confidence, as a plotly figure."""
        from fimviz.views.charts import explorer_figure

        return explorer_figure(self)

    @named_options
    def view(self, *, max_bytes: float = MAX_BYTES) -> Figure:
        """The explorer: norms, gallery and detail, linked.

        Args:
            max_bytes: how large a page may be: it holds as many of the samples in full detail as fit, and says so.
        """
        from fimviz.views.explorer import explorer

        return explorer(self, max_bytes=int(max_bytes))


def _rank(x: Sequence[float], y: Sequence[float], seed: int) -> Rank:
    """ρ over the pairs that are known, with an interval where there are enough to draw from."""
    known = [(a, b) for a, b in zip(x, y, strict=True) if a == a and b == b]
    r = spearman_of_many([a for a, _ in known], [b for _, b in known], seed=seed)
    return r if r.n >= _ENOUGH else replace(r, low=math.nan, high=math.nan)
