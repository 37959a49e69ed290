"""What `explore` finds: of a batch, of a model on it, and of some samples in full detail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fimviz._options import named_options
from fimviz._quantile import digits, median
from fimviz.attributions import Attributions
from fimviz.bounds.certificate import CertifiedRadius
from fimviz.comparison import BoundComparison
from fimviz.distance import AdversarialDistance, ModelDistance
from fimviz.fisher.plane import Plane
from fimviz.fisher.spectrum import Spectrum
from fimviz.fisher.walk import Walk
from fimviz.margins.traces import MarginTraces
from fimviz.model.classifier import Classifier
from fimviz.model.failures import said
from fimviz.ranking.spearman import Rank, spearman_of_many
from fimviz.result import Result
from fimviz.vulnerability import Vulnerability

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from fimviz.result import Figure

CONFIDENCE = 0.9  # at which λ₁ is compared
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
        matched, matched_error: (n,) λ₁ with every sample's logits rescaled to a confidence of 0.9, and how far it may
            be from the truth; NaN where no temperature gives that confidence, as at a tie, or the sample failed.
        certificate: the certified L2 radii of all inputs, where they were asked for.
        attacks: the smallest successful attacks of all inputs, where they were asked for.
        struck: (n, attacks, K) logits of what they made of the inputs.
        toward: some samples in detail with a smallest attack, and their planes of v₁ and that attack; or None.
        bounds, margins, attributions: of the samples in detail, where they were asked for.
        notes: why a part is missing, by its name.
    """

    spectrum: Spectrum
    detail: Detail
    matched: Tensor
    matched_error: Tensor
    certificate: CertifiedRadius | None = None
    attacks: Vulnerability | None = None
    struck: Tensor | None = None
    toward: tuple[tuple[int, ...], Plane] | None = None
    bounds: BoundComparison | None = None
    margins: MarginTraces | None = None
    attributions: Attributions | None = None
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def lead(self) -> Tensor:
        """(n,) what the samples are ordered by: λ₁ at matched confidence, λ₁ as it is where there is none.

        It goes to ∞ as two classes become equally likely, and is ∞ for such a tie, unless nothing moves the answer.
        """
        norm = self.spectrum.spectral_norm
        own = torch.where(self.tied, torch.inf, norm)
        return torch.where(self.matched.isnan(), own if self.matched.isfinite().any() else norm, self.matched)

    @property
    def tied(self) -> Tensor:
        """(n,) which samples lie on a boundary: the two likeliest classes are equally likely, and λ₁ is not 0."""
        return (self.margin == 0) & (self.spectrum.spectral_norm > 0)

    @property
    def fragile(self) -> list[int]:
        """The places of the samples that could be computed, the most fragile first."""
        at = self.spectrum.computed
        return at[self.lead[at].argsort(descending=True, stable=True)].tolist()

    @property
    def margin(self) -> Tensor:
        """(n,) the gap of the logits between the prediction and the nearest other one."""
        s = self.spectrum
        return s.net.likelihood.margin(s.logits, s.predictions)

    @property
    def radius(self) -> Tensor | None:
        """(n,) the certified L2 radius, or None: it was not asked for, or `notes` says why there is none."""
        return None if self.certificate is None or self.certificate.reason else self.certificate.radius

    @cached_property
    def distance(self) -> ModelDistance | None:
        """Between which lengths the smallest change lies that makes the model miss; None where a side is missing."""
        c, s = self.certificate, self.spectrum
        if c is None or self.attacks is None or self.struck is None:
            return None
        assert isinstance(s.net, Classifier)
        length, which = self.attacks.epsilon.min(1)
        found = length.isfinite()
        said = s.net.likelihood.predict(self.struck[torch.arange(len(s)), which])
        becomes = c.attack_predictions.clone()
        becomes[found] = said[found]
        own = replace(c, attack=length, attack_predictions=becomes)
        return ModelDistance(s.net, own, s.labels_of(range(len(s))))

    @property
    def quantities(self) -> dict[str, Tensor]:
        """What λ₁ may be compared with, (n,) each."""
        found = {"confidence": self.spectrum.confidence, "margin": self.margin}
        found |= {} if self.radius is None else {"radius": self.radius}
        found |= {} if self.attacks is None else {"attack": self.attacks.best("l2")}
        return found if self.distance is None else {**found, "ratio": self.distance.ratio}


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
        m = self.first
        several = f"{len(self.models)} models, " if len(self.models) > 1 else ""
        size = f"{several}{len(self)} inputs{said(self.failures)}, {len(self.places)} in full detail"
        matched, raw = (digits(median(v)) for v in (m.matched, m.spectrum.spectral_norm))
        return f"Explorer({size}: median λ₁ {matched} at confidence {CONFIDENCE}, {raw} as it is)"

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
    def distance(self) -> AdversarialDistance | None:
        """The radii and attacks of all models as both sides of one distance; None where one has not both."""
        found = {name or "model": m.distance for name, m in self.models.items()}
        both = {name: d for name, d in found.items() if d is not None}
        return AdversarialDistance(both) if len(both) == len(found) else None

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
            net = m.spectrum._net_apart()
            deep = replace(m.detail.spectrum, net=net, _parts={})
            models[name] = replace(
                m, spectrum=replace(m.spectrum, net=net, _parts={}), detail=replace(m.detail, spectrum=deep)
            )
        return replace(self, models=models)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a sample and model: the columns of `Spectrum.frame`, model, correct, margin, radius, attack, ratio.

        `spectral_norm` is λ₁ as it is, `matched_spectral_norm` λ₁ at matched confidence, see `Explored.matched`;
        `failure` is last, as there.
        """
        import pandas as pd

        parts = []
        for name, m in self.models.items():
            part = m.spectrum.frame.copy()
            part["margin"] = m.margin.numpy()
            if m.spectrum.correct is not None:
                part["correct"] = m.spectrum.correct.numpy()
                if not m.spectrum.labelled.all():
                    part["correct"] = part["correct"].where(m.spectrum.labelled.numpy())
            for extra in ("radius", "attack", "ratio"):
                if extra in m.quantities:
                    part[extra] = m.quantities[extra].numpy()
            if len(self.models) > 1:
                part.insert(1, "model", name)
            part["matched_spectral_norm"] = m.matched.numpy()
            part["failure"] = part.pop("failure")
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def ranks(self) -> dict[str, dict[str, Rank]]:
        """For each model, how λ₁ at matched confidence ranks the samples against `quantities` and the other model's."""
        return self._ranked({name: m.matched for name, m in self.models.items()})

    @cached_property
    def raw_ranks(self) -> dict[str, dict[str, Rank]]:
        """The `ranks` of λ₁ as it is."""
        return self._ranked({name: m.spectrum.spectral_norm for name, m in self.models.items()})

    def _ranked(self, norms: dict[str, Tensor]) -> dict[str, dict[str, Rank]]:
        found: dict[str, dict[str, Rank]] = {}
        for name, m in self.models.items():
            others = {key: v for key, v in m.quantities.items() if v.isfinite().any()}
            others |= {f"λ₁ of {other}": norm for other, norm in norms.items() if other != name}
            found[name] = {key: _rank(norms[name].tolist(), v.tolist(), self.seed) for key, v in others.items()}
        return found

    @property
    def correlations(self) -> pd.DataFrame:
        """Spearman's ρ of λ₁ at matched confidence with other numbers, and of λ₁ as it is beside it.

        Columns: model, against, rho, low, high, n (of λ₁ at matched confidence), raw_rho, raw_low, raw_high (of λ₁ as
        it is). The interval is the bootstrap's over samples, NaN for fewer than ten. That of λ₁ as it is with
        confidence is near −1 as a rule: it falls to 0 as a prediction saturates.
        """
        import pandas as pd

        return pd.DataFrame(
            {"model": name, "against": key, "rho": r.rho, "low": r.low, "high": r.high, "n": r.n}
            | {"raw_rho": raw.rho, "raw_low": raw.low, "raw_high": raw.high}
            for name, ranks in self.ranks.items()
            for key, r in ranks.items()
            for raw in [self.raw_ranks[name][key]]
        )

    def plot(self) -> go.Figure:
        """λ₁ at matched confidence of every sample on a log axis against the confidence, as a plotly figure."""
        return self._plotted()

    @named_options
    def view(self, *, max_bytes: float = MAX_BYTES) -> Figure:
        """The explorer: norms, gallery and detail, linked.

        Args:
            max_bytes: how large a page may be: it holds as many of the samples in full detail as fit, and says so.
        """
        return self._viewed(max_bytes=int(max_bytes))


def _rank(x: Sequence[float], y: Sequence[float], seed: int) -> Rank:
    """ρ over the pairs that are known, with an interval where there are enough to draw from."""
    known = [(a, b) for a, b in zip(x, y, strict=True) if a == a and b == b]
    return spearman_of_many([a for a, _ in known], [b for _, b in known], seed=seed)
