"""`adversarial_distance`: between which two lengths the smallest change lies that makes a model miss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fimviz._options import named_options
from fimviz._quantile import digits, median
from fimviz._tell import tell
from fimviz.attacks.descent import STEPS, TARGETS
from fimviz.bounds.certificate import CertifiedRadius, certified_radius
from fimviz.model.classifier import Classifier, as_classifier
from fimviz.model.data import unpacked
from fimviz.model.engine.memory import limit
from fimviz.model.engine.parts import Work
from fimviz.model.engine.progress import Stages, wanted
from fimviz.model.failures import column, of_model, others, said
from fimviz.model.labels import read_labels
from fimviz.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from fimviz.result import Figure


@dataclass(frozen=True, eq=False)
class ModelDistance:
    """Both sides of the distance for one model, at n inputs.

    Attributes:
        net: the model.
        certificate: its radii and attacks, of the class that it predicts.
        labels: (n,), or (n, K) yes/no: what is not to be missed; None for what it predicts.
    """

    net: Classifier
    certificate: CertifiedRadius
    labels: Tensor | None

    @cached_property
    def failures(self) -> dict[int, str]:
        """Place → why there are no numbers."""
        c = self.certificate
        left = dict.fromkeys(c.attack.isnan().nonzero()[:, 0].tolist(), "interrupted before it was attacked")
        return left | c.failures

    @property
    def computed(self) -> Tensor:
        """The places (m,) of the inputs that could be computed."""
        return others(self.failures, len(self.certificate))

    @cached_property
    def correct(self) -> Tensor:
        """(n,) whether the model gives the label without a change; false where nothing could be computed."""
        known = torch.isin(torch.arange(len(self.certificate)), self.computed)
        if self.labels is None:
            return known
        return known & self.net.likelihood.same(self.certificate.predictions, self.labels)

    @cached_property
    def certified(self) -> Tensor:
        """(n,) float64, below which no change makes the model miss: 0 where it does already, or nothing is proven."""
        return self._of(self.certificate.radius.nan_to_num(0.0))

    @cached_property
    def attacked(self) -> Tensor:
        """(n,) float64, the smallest change found that does: 0 where it misses already, ∞ where none was found."""
        return self._of(self.certificate.attack)

    @property
    def ratio(self) -> Tensor:
        """(n,) float64, attacked ÷ certified: ∞ where nothing is certified, NaN where it misses already."""
        return self.attacked / self.certified

    @property
    def attack_predictions(self) -> Tensor:
        """(n,), or (n, K): the answer at the attack, −1 where there is none; as it is where the label is missed."""
        c = self.certificate
        found = c.predictions.clone()
        found[self.correct] = c.attack_predictions[self.correct]
        return found

    def _of(self, values: Tensor) -> Tensor:
        out = torch.where(self.correct, values, 0.0)
        out[list(self.failures)] = torch.nan
        return out

    @property
    def reasons(self) -> list[str]:
        """(n,) why a radius is 0 or from the norms alone, and an attack 0 or ∞; empty where there is nothing to say."""
        c = self.certificate
        words = []
        for i, (right, attack, method) in enumerate(
            zip(self.correct.tolist(), self.attacked.tolist(), c.method, strict=True)
        ):
            if i in self.failures:
                words.append("")
                continue
            lacking = c.reason if not method else c.reasons.get("linear", "") if method == "norms" else ""
            unfound = "no attack succeeded" if attack == math.inf else ""
            words.append("; ".join(filter(None, (lacking, unfound))) if right else "missed without a change")
        return words


@dataclass(frozen=True, eq=False, repr=False)
class AdversarialDistance(Result):
    """For each model and input: no change below `certified` makes the model miss, one as long as `attacked` does.

    The smallest change that does, the adversarial distance, lies between. An attack is one that was seen to succeed; a
    radius is a proof. Lengths are L2, in pixel units.

    Attributes:
        models: name → `ModelDistance`.
    """

    models: dict[str, ModelDistance]

    def __len__(self) -> int:
        return len(next(iter(self.models.values())).certificate)

    def __repr__(self) -> str:
        parts = []
        for name, m in self.models.items():
            low, high = (digits(median(side[m.correct])) for side in (m.certified, m.attacked))
            parts.append(f"{name} {low} to {high} of {int(m.correct.sum())}{said(m.failures)}")
        return f"AdversarialDistance({len(self)} inputs, medians: {'; '.join(parts)})"

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a model and sample.

        Columns: model, sample, label (none: the model's own prediction is not to be missed), prediction, correct,
        certified, attacked, ratio (attacked ÷ certified: ∞ where nothing is certified, NaN where the label is missed),
        method (that certifies: "linear", "norms" or none), attack_prediction (at the attack), reason (for a 0 or an ∞),
        failure (why a row has no numbers).
        """
        import pandas as pd

        parts = []
        for name, m in self.models.items():
            c, likelihood, count = m.certificate, m.net.likelihood, len(self)
            own = {
                "model": name,
                "sample": range(count),
                "label": [None] * count if m.labels is None else likelihood.column(m.labels),
                "prediction": likelihood.column(c.predictions),
                "correct": m.correct.tolist(),
                "certified": m.certified.tolist(),
                "attacked": m.attacked.tolist(),
                "ratio": m.ratio.tolist(),
                "method": [method if right else "" for method, right in zip(c.method, m.correct, strict=True)],
                "attack_prediction": likelihood.column(m.attack_predictions),
                "reason": m.reasons,
                "failure": column(m.failures, count),
            }
            parts.append(pd.DataFrame(own))
        return pd.concat(parts, ignore_index=True)

    @named_options
    def accuracy(self, *, epsilon: Any = None) -> pd.DataFrame:
        """Robust accuracy at L2 budgets lies between two shares of the inputs (of those that could be computed).

        `certified` counts the inputs that are right and whose certified radius is longer than ε, `attacked` those that
        are right and that no attack of ε or less was seen to change. At ε = 0 both are the accuracy.

        Args:
            epsilon: budgets; by default 0 and every one at which a share of any model steps.

        Returns:
            Columns: model, epsilon, certified, attacked.
        """
        import pandas as pd

        sides = [side for m in self.models.values() for side in (m.certified, m.attacked)]
        steps = torch.cat([torch.zeros(1).double(), *(side[side.isfinite()] for side in sides)]).unique()
        try:
            at = steps if epsilon is None else torch.as_tensor(epsilon, dtype=torch.float64).cpu().flatten()
        except (TypeError, ValueError):
            raise TypeError(f"epsilon is {epsilon!r}, expected L2 lengths of 0 or more") from None
        if not (at >= 0).all():
            raise ValueError("epsilon holds negative numbers or NaN, expected L2 lengths of 0 or more")
        parts = []
        for name, m in self.models.items():
            right, count = m.correct[:, None], len(m.computed)
            certified = right & ((m.certified[:, None] > at) | (at == 0))
            attacked = right & (m.attacked[:, None] > at)
            shares = {
                side: (kept.sum(0).double() / count).tolist()
                for side, kept in (("certified", certified), ("attacked", attacked))
            }
            parts.append(pd.DataFrame({"model": name, "epsilon": at.tolist(), **shares}))
        return pd.concat(parts, ignore_index=True)

    def plot(self) -> go.Figure:
        """Robust accuracy against ε: a band a model, as a plotly figure."""
        return self._plotted()

    @named_options
    def view(self, *, max_bytes: int = 20_000_000) -> Figure:
        """The distance view: a bar an image from the certified radius to the smallest attack, and robust accuracy.

        Args:
            max_bytes: refuse a page larger than this.
        """
        return self._viewed(max_bytes=max_bytes)


@named_options
def adversarial_distance(
    models: Classifier | nn.Module | Mapping[str, Classifier | nn.Module],
    images: Any,
    labels: Any = None,
    *,
    method: str = "auto",
    steps: int = STEPS,
    restarts: int = TARGETS,
    seed: int = 0,
    max_memory: float | None = None,
    errors: str = "mark",
    progress: bool | Callable[[int, int], None] = False,
) -> AdversarialDistance:
    """From both sides, how small a change in L2 can be that makes a model miss: what is proven and what was found.

    Below the certified radius no change does (`certified_radius`); the smallest attack is one that does (the attack
    "descent" of `vulnerability`). What lies between is not known. Over many images this encloses robust accuracy.

    Args:
        models: a `Classifier`, or a module from pixels in [0, 1] to logits; or several by their names, for the same
            images.
        images: (n, …) floats, or a data set (see `Classifier`).
        labels: (n,) classes, for yes/no labels (n, K). An image whose label is missed as it is has a certified radius
            of 0 and an attack of 0, and counts as wrong. None: the distance is to another answer than the model's own,
            and every image counts as right.
        method: of the certificate: "norms", "linear" or "auto", see `certified_radius`. Linear bounds take seconds an
            image.
        steps: of every descent of the attack.
        restarts: how many descents of the attack.
        seed: of everything random.
        max_memory: bytes that attacks may take beside models and images, by default half of what is free.
        errors: what an image is to do whose logits or gradients are not finite: "mark", its row is NaN and says why,
            and no share or median counts it; or "raise".
        progress: True for a tqdm bar, or a function called with (percent of the time, 100).

    Where a network has no certificate its radius is 0, and `frame.reason` says why; where no attack was found its
    length is ∞. An interrupt returns the images that are complete.

    Example, two classes apart by a plane, the margin ¼ and the slope √2, where both sides meet:
        >>> import torch, fimviz as fv
        >>> d = fv.adversarial_distance(torch.nn.Identity(), torch.tensor([[0.625, 0.375]]), [0])
        >>> d.frame[["certified", "attacked", "ratio"]].round(4).values.tolist()
        [[0.1768, 0.1768, 1.0]]
        >>> d.accuracy(epsilon=[0.17, 0.18])[["certified", "attacked"]].values.tolist()
        [[1.0, 1.0], [0.0, 0.0]]
    """
    if isinstance(models, Mapping) and not models:
        raise ValueError("models is empty, expected at least one, name → model")
    if isinstance(models, (list, tuple)):
        raise ValueError(f"models is a {type(models).__name__}, expected a model, or several by name: name → model")
    given = models if isinstance(models, Mapping) else {"model": models}
    if len({str(name) for name in given}) < len(given):
        raise ValueError(f"models are called {', '.join(map(str, given))}, expected names that differ")
    progress, max_memory = wanted(progress), limit(max_memory)
    several = len(given) > 1
    nets, inputs, truths = dict[str, Classifier](), dict[str, Tensor](), dict[str, Tensor | None]()
    for name, net in given.items():
        with of_model(name, several):
            nets[str(name)] = as_classifier(net)
    images, labels = unpacked(images, labels, next(iter(nets.values())))
    for name, net in nets.items():
        with of_model(name, several):
            inputs[name] = net.admit(images, max_memory).detach()
            truths[name] = read_labels(labels, len(inputs[name]), net)
    bar, work = Stages(progress, [("model", 1.0) for _ in nets]), Work(len(nets), unit="model")
    done: dict[str, ModelDistance] = {}
    options: dict[str, Any] = {"method": method, "steps": steps, "restarts": restarts, "seed": seed}
    options |= {"max_memory": max_memory, "errors": errors}
    with work:
        for name, net in nets.items():
            with of_model(name, several):
                certificate = certified_radius(net, inputs[name], progress=bar.next(), **options)
            done[name] = ModelDistance(net, certificate, truths[name])
            work.reached(len(done))
            if done[name].failures != certificate.failures:
                raise KeyboardInterrupt  # of which certified_radius kept what was complete
        bar.end()
    if work.stopped:
        tell(f"{work.stopped}: the result holds what is complete of {len(done)} of {len(nets)} models")
    return AdversarialDistance(done)


__all__ = ["AdversarialDistance", "ModelDistance", "adversarial_distance"]
