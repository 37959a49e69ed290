"""`ModelComparison`: which number ranks models by how easily they are fooled?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fimviz._options import named_options
from fimviz._quantile import median
from fimviz.ranking.numbers import ModelNumbers
from fimviz.ranking.spearman import Rank, spearman
from fimviz.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from fimviz.result import Figure


@dataclass(frozen=True)
class Quantity:
    """A column of numbers, one a model: what it is called, what it promises, and how it is written.

    Attributes:
        title: in words; short: for a table's head.
        kind: "formula", "estimate", "context" or "measured".
        expected: 1 if larger is said to be more fragile, −1 if smaller is, 0 if nothing is claimed.
        log: whether it is a logarithm to the base 10 ("log10"), spans decades ("decades") or neither ("").
    """

    title: str
    short: str
    kind: str
    expected: int = 0
    log: str = ""


_ASTRAY = 0.1  # the share of pairs beyond which a number is not said to rank models
QUANTITIES = {
    "weights_only": Quantity("formula from the weights alone, L5", "log₁₀ L5", "formula", 1, "log10"),
    "at_images": Quantity("formula at the images, median L4", "log₁₀ L4", "formula", 1, "log10"),
    "certified_radius": Quantity("median certified L2 radius", "certified", "formula", -1, "decades"),
    "equally_sure_spectral_norm": Quantity("median λ₁ at matched confidence", "λ₁ matched", "estimate", 1, "decades"),
    "spectral_norm": Quantity("median λ₁", "λ₁ median", "estimate", 1, "decades"),
    "mean_spectral_norm": Quantity("mean λ₁", "λ₁ mean", "estimate", 1, "decades"),
    "trace": Quantity("median trace", "trace", "estimate", 1, "decades"),
    "matched_spectral_norm": Quantity("median λ₁ at fitted temperature", "λ₁ fitted", "estimate", 1, "decades"),
    "mean_matched_spectral_norm": Quantity("mean λ₁ at fitted temperature", "mean fitted", "estimate", 1, "decades"),
    "accuracy": Quantity("clean accuracy", "accuracy", "context"),
    "confidence": Quantity("mean confidence", "confidence", "context"),
    "temperature": Quantity("temperature in use", "T in use", "context"),
    "fitted_temperature": Quantity("temperature that fits the labels", "T fitted", "context"),
    "attack_success": Quantity("attacks that succeed", "success", "measured"),
    "smallest_attack": Quantity("median smallest successful attack, L2", "attack L2", "measured", 0, "decades"),
}
PREDICTORS = tuple(name for name, q in QUANTITIES.items() if q.kind != "measured")
_SPOKEN = {
    "weights_only": "The formula from the weights alone",
    "equally_sure_spectral_norm": "Median λ₁ at matched confidence",
    "mean_spectral_norm": "Mean λ₁",
}


@dataclass(frozen=True)
class Correlation:
    """How a number ranks models, against the reciprocal of their smallest attacks.

    Attributes:
        kind: "formula", "estimate" or "context".
        expected: 1 if larger is said to be more fragile, −1 if smaller is, 0 if nothing is claimed.
        models: how many have the number and a measured attack.
        spearman, low, high: ρ and its 95 % interval for other models like these; p_value: two-sided, against no
            relation. All from `fimviz.ranking.spearman`; NaN for fewer than three models or where all are equal.
        pairs, discordant: pairs of models, and those that the number puts in the wrong order; 0 without a claim.
        verdict: the same in words.
    """

    kind: str
    expected: int
    models: int
    spearman: float
    low: float
    high: float
    p_value: float
    pairs: int
    discordant: int
    verdict: str


@dataclass(frozen=True, eq=False, repr=False)
class ModelComparison(Result):
    """Formulas, estimates and attacks for several models, and how well each number ranks them.

    A model is called more fragile here the smaller the median of its smallest successful attacks is: the medians are
    over the images that it gets right. They come from one attack, so they are upper bounds, and from some images, so
    they have intervals of their own, which those of the rank correlations do not count.

    Attributes:
        models: name → `ModelNumbers`.
        budget: the L2 length within which an attack counts as a success in `frame`.
    """

    models: dict[str, ModelNumbers]
    budget: float

    def __len__(self) -> int:
        return len(self.models)

    def __repr__(self) -> str:
        images = len(next(iter(self.models.values())).right)
        return f"ModelComparison({len(self)} models on {images} images: {', '.join(self.models)})"

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a model.

        Columns: model; weights_only (log₁₀ L5), at_images (median log₁₀ L4), certified_radius (median, L2);
        equally_sure_spectral_norm (median λ₁ with the logits of every image rescaled to a confidence of 0.9:
        what compares across models that are not equally sure), spectral_norm and mean_spectral_norm (median and
        mean λ₁, nats per squared input unit), trace (median), matched_spectral_norm and
        mean_matched_spectral_norm (λ₁ at fitted_temperature); accuracy, confidence (mean), temperature,
        fitted_temperature; attack_success (share of the right images that an attack within the budget fools),
        smallest_attack (median L2 over the right images), attack_low and attack_high (between which 95 % of
        medians of other images would be); missing (why a value is NaN); failure (images that none of them
        counts).
        """
        import pandas as pd

        return pd.DataFrame({"model": name, **row} for name, row in self.rows.items())

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows of `frame` by the models' names."""
        return {name: self._row(m) for name, m in self.models.items()}

    def _row(self, m: ModelNumbers) -> dict[str, Any]:
        attacks = m.smallest_attack[m.right[: len(m.smallest_attack)]]
        row: dict[str, Any] = {
            "weights_only": math.nan if m.weights_only is None else m.weights_only,
            "at_images": _median(m.at_images),
            "certified_radius": _median(None if m.certified_radius is None else m.certified_radius[m.right]),
            "equally_sure_spectral_norm": _median(m.equally_sure),
            "spectral_norm": _median(m.spectral_norm),
            "mean_spectral_norm": _mean(m.spectral_norm),
            "trace": _median(m.trace),
            "matched_spectral_norm": _median(m.matched_spectral_norm),
            "mean_matched_spectral_norm": _mean(m.matched_spectral_norm),
            "accuracy": float(m.right.double().mean()),
            "confidence": float(m.confidence.mean()),
            "temperature": m.temperature,
            "fitted_temperature": math.nan if m.fitted_temperature is None else m.fitted_temperature,
            "attack_success": float((attacks <= self.budget).double().mean()) if len(attacks) else math.nan,
            "smallest_attack": _median(attacks),
        }
        row["attack_low"], row["attack_high"] = _median_interval(attacks)
        return row | {"missing": "; ".join(missing(m)), "failure": "; ".join(lacking(m))}

    @cached_property
    def ranks(self) -> dict[str, Correlation]:
        """For each number that comes before the attacks, how it ranks the models."""
        attacks = [row["smallest_attack"] for row in self.rows.values()]
        return {name: _correlation(name, [row[name] for row in self.rows.values()], attacks) for name in PREDICTORS}

    @property
    def correlations(self) -> pd.DataFrame:
        """How each number ranks the models, against 1/smallest_attack: one row a column of `frame`.

        Columns: column; then those of `Correlation`.
        """
        import pandas as pd

        return pd.DataFrame({"column": name, **asdict(c)} for name, c in self.ranks.items())

    @named_options
    def inversions(self, column: str = "weights_only") -> pd.DataFrame:
        """The pairs of models that a number puts in the wrong order, the worst first.

        Args:
            column: a column of `frame` that claims to rank (`correlations.expected` is not 0).

        Returns:
            Columns: said_fragile, said_robust (models); said (how many times more fragile the first is said to be, a
            ratio of bounds, λ₁ or radii); attack_ratio (how many times longer the first one's median attack is).
        """
        import pandas as pd

        claims = [name for name, q in QUANTITIES.items() if q.expected]
        if column not in claims:
            raise ValueError(f"column is {column!r}, expected one that claims to rank models: {', '.join(claims)}")
        q = QUANTITIES[column]
        known = [(name, row[column], row["smallest_attack"]) for name, row in self.rows.items()]
        rows = []
        for first, value, length in known:
            for second, other, shorter in known:
                if q.expected * value > q.expected * other and length > shorter:
                    said = 10 ** min(value - other, 300.0) if q.log == "log10" else _ratio(value, other) ** q.expected
                    rows.append((first, second, said, _ratio(length, shorter)))
        frame = pd.DataFrame(rows, columns=["said_fragile", "said_robust", "said", "attack_ratio"])
        return frame.sort_values("attack_ratio", ascending=False, ignore_index=True)

    @property
    def summary(self) -> str:
        """What the numbers say, in a few sentences."""
        if len(self) == 1:
            return _few(1)
        parts = []
        for column, name in _SPOKEN.items():
            r = self.ranks[column]
            if r.models < 2:
                parts.append(f"{name} is known for {r.models} of {len(self)} models.")
                continue
            rho = f" (ρ = {r.spearman:.2f}, 95 % {r.low:.2f} to {r.high:.2f})" if math.isfinite(r.spearman) else ""
            parts.append(f"{name} puts {r.discordant} of {r.pairs} pairs of models in the wrong order{rho}.")
        return " ".join([*parts, _few(len(self))]).strip().replace("-", "−")

    def take(self, names: Sequence[str]) -> ModelComparison:
        """The comparison of some of the models, by their names."""
        if unknown := [name for name in names if name not in self.models]:
            raise ValueError(f"there is no model {unknown[0]!r}, expected some of {', '.join(self.models)}")
        if len(set(names)) < 2:
            raise ValueError(f"names are {list(names)}, expected at least two to compare")
        return replace(self, models={name: self.models[name] for name in names})

    def plot(self) -> go.Figure:
        """Two numbers against the smallest attack, one point a model: the formula from the weights, and matched λ₁."""
        return self._plotted()

    @named_options
    def view(self, *, max_bytes: int = 20_000_000) -> Figure:
        """The ranking view: which number puts the models in the order of the attacks?

        Args:
            max_bytes: refuse a page larger than this.
        """
        return self._viewed(max_bytes=max_bytes)


def _correlation(name: str, values: Sequence[float], attacks: Sequence[float]) -> Correlation:
    known = [(v, 1 / a) for v, a in zip(values, attacks, strict=True) if not math.isnan(v) and a > 0]
    r = spearman([v for v, _ in known], [f for _, f in known])
    kind, expected = QUANTITIES[name].kind, QUANTITIES[name].expected
    pairs = [(a, b) for i, a in enumerate(known) for b in known[:i]] if expected else []
    wrong = sum(expected * (a[0] - b[0]) * (a[1] - b[1]) < 0 for a, b in pairs)
    verdict = _verdict(expected, r, wrong, len(pairs))
    return Correlation(kind, expected, r.n, r.rho, r.low, r.high, r.p_value, len(pairs), wrong, verdict)


def _verdict(expected: int, r: Rank, wrong: int, pairs: int) -> str:
    if math.isnan(r.rho):
        return f"known for {r.n} models, too few" if r.n < 3 else "the same for all models"
    shown = r.p_value <= 0.05 and (r.low > 0 or r.high < 0)
    if not expected:
        return f"{'rises' if r.rho > 0 else 'falls'} with fragility here" if shown else "claims nothing, shows nothing"
    if not shown:
        return "not shown to rank models"
    if r.rho * expected < 0:
        return "ranks them in reverse"
    share = f"{wrong} of {pairs} pairs here ({wrong / pairs:.0%})"
    if wrong > _ASTRAY * pairs:
        return f"leans the right way, but {share} are the wrong way round"
    return "ranks models like these" + (f", but for {share}" if wrong else "")


def _few(n: int) -> str:
    words = {2: "Two", 3: "Three", 4: "Four"}
    if n > 4:
        return ""
    if n == 1:
        return "One model has no rank among others."
    chance = f"1 time in {math.factorial(n) // 2}"
    if n == 2:
        return "Two models are always in order or in reverse, so that no correlation is given."
    return f"{words[n]} models cannot show a ranking: {chance} they stand in perfect order, or its reverse, by chance."


def missing(m: ModelNumbers) -> list[str]:
    """Which numbers a model does not have, and why."""
    by_reason: dict[str, list[str]] = {}
    for name, why in m.reasons.items():
        by_reason.setdefault(why, []).append(QUANTITIES[name].short)
    return [f"no {', '.join(names)}: {why}" for why, names in by_reason.items()]


def lacking(m: ModelNumbers) -> list[str]:
    """Which images none of a model's numbers counts, and why."""
    by_reason: dict[str, list[str]] = {}
    for place, why in m.failures.items():
        by_reason.setdefault(why, []).append(str(place))
    return [f"image {', '.join(places)}: {why}" for why, places in by_reason.items()]


def _mean(values: Tensor | None) -> float:
    return math.nan if values is None else float(values.mean())


def _median(values: Tensor | None) -> float:
    return math.nan if values is None else median(values)


def _median_interval(values: Tensor) -> tuple[float, float]:
    """The 95 % interval of a median by order statistics, for any distribution; the range of five values or fewer."""
    v = values.sort().values.tolist()
    n, below, tail = len(v), 0, 0.5 ** len(v)
    while n and tail + math.comb(n, below + 1) * 0.5**n <= 0.025:
        below += 1
        tail += math.comb(n, below) * 0.5**n
    return (v[below], v[n - 1 - below]) if n else (math.nan, math.nan)


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.inf
