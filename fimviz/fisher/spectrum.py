"""`Spectrum`: eigenvalues and eigenvectors of the input-space Fisher information of a batch, and what they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fimviz._options import named_options, whole
from fimviz._quantile import quantiles
from fimviz.fisher.block import logit_error, padded
from fimviz.fisher.effort import FULL, Effort, effort
from fimviz.fisher.plane import Plane, plane
from fimviz.fisher.walk import Seen, Walk, both_sides, logits_at, one_sided, reach, unasked, walk
from fimviz.model.blackbox import BlackBox
from fimviz.model.classifier import Classifier
from fimviz.model.engine.progress import SOON, reporter
from fimviz.model.failures import among, column, others, said, spread
from fimviz.model.origin import ChangedError, ModelResult, Print

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from fimviz.result import Figure


@dataclass(frozen=True)
class Cost:
    """What a result took: passes for each input (n,), and wall-clock seconds for the batch."""

    forwards: Tensor
    vjps: Tensor
    jvps: Tensor
    seconds: float


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum(ModelResult):
    """The k largest eigenvalues of F(x) = Σ_y p_y ∇log p_y ∇log p_yᵀ at each of n inputs, with eigenvectors.

    Moving an input by ε along the unit eigenvector v_i changes the prediction by KL ≈ ½ ε² λ_i nats; ε and v are
    in pixel units and L2 norms, λ in nats per squared pixel unit. No direction does more than the first.

    Attributes:
        eigenvalues: (n, k) float64, descending, at least 0.
        eigenvectors: (n, k, *input), unit L2 norm, or None. Along +v the predicted class becomes less probable, to
            first order (where that is undecided, as for numbers, the component of largest magnitude is positive). A
            direction lost in rounding (λ below the square of the noise) is zeros; equal eigenvalues leave their plane's
            axes arbitrary.
        error: (n, k) float64, how far an eigenvalue may be from the truth: iteration, sampling and rounding together.
            Rounding is measured at every input, by products that are computed in two ways, and at a neighbour of the
            input where the forward pass may have rounded too; it is never taken for less than what real networks
            showed (`fimviz.fisher.block`). A network that lowers its own precision (autocast, half a trunk) moves so
            much at such a neighbour that its error is far too large, of an order with λ: sixteen times at least what
            float64 showed of seven networks (docs/checks.md).
        trace, trace_error: (n,) float64, the sum of all eigenvalues, not only of the k largest; NaN where the method
            says nothing about it. With "exact" the error is rounding; with "lanczos" and "blackbox" it is statistical,
            half a 95 % interval, because what the iteration has not found is sampled: it held at least 96 times in 100
            for spectra of many shapes, but 87 where one eigenvalue that was not found stands out of a thousand small
            ones.
        frobenius, frobenius_error: (n,) float64, the root of the sum of all squared eigenvalues, likewise.
        probabilities, logits: (n, K) float64, the former the means where the model gives numbers; logit_error: (n,) how
            far rounding may have moved a logit.
        images: (n, *input), as given, on the CPU; labels: (n,) or None.
        net: the classifier. `walk`, `plane`, `reach`, `one_sided` and what takes a spectrum ask it again, and refuse
            with a `RuntimeError` where it is no longer the one that it was, for the reason that `changed` gives. What
            was computed before stays.
        method: "exact", "lanczos", "power" or "blackbox"; reason: why this one.
        guarantee: what `error` means. "exact": rounding is all. "interval": the value is a lower bound, up to
            rounding, and the truth lies within `error`; that no larger eigenvalue was missed has been confirmed from a
            second random vector, which only a cluster of nearly equal eigenvalues can escape. "lower": a lower bound,
            the interval is experience. "statistical": a 95 % confidence interval. "unverified": passes in float32
            alone, whose rounding may have crossed a kink of the network; `error` holds what a neighbour of the input
            shows of that, which is likely and no proof. "void": nothing, as the
            gradient does not describe the model (`reason` says more).
        cost: passes and seconds.
        history: (n, s) the running value of λ₁ after each step of an iteration; NaN behind an input's last step.
        failures: place → why nothing could be computed there; its numbers are NaN, its prediction is −1.
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
    logit_error: Tensor
    images: Tensor
    labels: Tensor | None
    net: Classifier | BlackBox
    method: str
    reason: str
    guarantee: str
    cost: Cost
    history: Tensor
    failures: dict[int, str] = field(default_factory=dict)
    _origin: Print | None = None
    _walks: dict[int, Walk] = field(default_factory=dict)
    _parts: dict[tuple[int, ...], Spectrum] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.eigenvalues)

    def __repr__(self) -> str:
        low, middle, high = quantiles(self.spectral_norm, [0, 0.5, 1]).tolist()
        size = f"{len(self)} inputs{said(self.failures)}, {self.eigenvalues.shape[1]} eigenvalues"
        void = "; void, the gradient does not describe this model" if self.guarantee == "void" else ""
        return f"Spectrum({size}, {self.method}: λ₁ from {low:.3g} to {high:.3g}, median {middle:.3g}{void})"

    @property
    def spectral_norm(self) -> Tensor:
        """λ₁ (n,), how fast the prediction can change here: max KL ≈ ½ ε² λ₁ over steps of length ε."""
        return self.eigenvalues[:, 0]

    @property
    def predictions(self) -> Tensor:
        """The most probable class (n,), of yes/no labels the most probable set (n, K) as booleans, else the means."""
        likelihood = self.net.likelihood
        return likelihood.known(likelihood.predict(self.logits), self.logits.isnan().any(1))

    @property
    def confidence(self) -> Tensor:
        """The probability of the prediction (n,), float64; NaN where that is numbers."""
        return self.net.likelihood.confidence(self.logits)

    @property
    def doubt(self) -> Tensor:
        """1 − confidence (n,), float64, to all digits where the confidence is 1 to sixteen."""
        return self.net.likelihood.doubt(self.logits)

    @property
    def correct(self) -> Tensor | None:
        """Whether the prediction is the label (n,), false where there is none; None without labels, and of numbers."""
        if self.labels is None or not self.net.likelihood.decides:
            return None
        return self.net.likelihood.same(self.predictions, self.labels) & ~self.logits.isnan().any(1)

    @property
    def labelled(self) -> Tensor:
        """Which inputs (n,) have a label: all that were given one, and in a joined spectrum not the others."""
        if self.labels is None:
            return torch.zeros(len(self), dtype=torch.bool)
        return self.net.likelihood.labelled(self.labels)

    def labels_of(self, samples: Sequence[int]) -> Tensor | None:
        """The labels of some of the inputs, or None where one of them has none."""
        at = torch.tensor(list(samples), dtype=torch.int64)
        return self.labels[at] if self.labels is not None and bool(self.labelled[at].all()) else None

    @property
    def computed(self) -> Tensor:
        """The places (m,) of the inputs that could be computed: all but those of `failures`."""
        return others(self.failures, len(self))

    @property
    def fragile(self) -> list[int]:
        """The places of the inputs that could be computed, the most fragile first."""
        order = self.spectral_norm[self.computed].argsort(descending=True, stable=True)
        return self.computed[order].tolist()

    @property
    def sound(self) -> Spectrum:
        """The spectrum of the inputs that could be computed."""
        return self.take(self.computed.tolist()) if self.failures else self

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Smallest and largest value an input can have: the classifier's range, or the batch's where it has none."""
        if self.net.input_range is not None:
            return self.net.input_range
        low, high = (float(v) for v in self.images.aminmax())
        return (low, high) if low < high else (low - 0.5, low + 0.5)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row an input: sample, prediction, confidence, doubt, λ₁, trace, frobenius with errors, label, failure.

        `failure` says why the row of an input has no numbers; it is empty where all is well.
        """
        import pandas as pd

        columns: dict[str, Any] = {
            "sample": np.arange(len(self)),
            "prediction": self.net.likelihood.column(self.predictions, self.logits.isnan().any(1)),
            "confidence": self.confidence.numpy(),
            "doubt": self.doubt.numpy(),
            "spectral_norm": self.spectral_norm.numpy(),
            "trace": self.trace.numpy(),
            "trace_error": self.trace_error.numpy(),
            "frobenius": self.frobenius.numpy(),
            "frobenius_error": self.frobenius_error.numpy(),
            "error": self.error[:, 0].numpy(),
        }
        if self.labels is not None:
            columns["label"] = self.net.likelihood.column(self.labels, ~self.labelled)
        return pd.DataFrame({**columns, "failure": column(self.failures, len(self))})

    def take(self, samples: Sequence[int]) -> Spectrum:
        """The spectrum of some of the inputs, by their places in the batch; made once for the same places."""
        places = tuple(int(s) for s in samples)
        if not places or not all(0 <= place < len(self) for place in places):
            raise ValueError(f"samples are {list(places)}, expected at least one place from 0 to {len(self) - 1}")
        if places not in self._parts:
            self._parts[places] = self._part(torch.tensor(places))
        return self._parts[places]

    def _part(self, at: Tensor) -> Spectrum:
        per_input: dict[str, Any] = {
            f.name: value[at] for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        cost = Cost(self.cost.forwards[at], self.cost.vjps[at], self.cost.jvps[at], self.cost.seconds)
        failures = among(self.failures, at.tolist())
        walks = {k: walk.take(at) for k, walk in self._walks.items()}
        part = replace(self, **per_input, cost=cost, failures=failures, _walks=walks, _parts={})
        for name in {"reach", "one_sided"} & self.__dict__.keys():  # what was asked of the whole is not asked again
            part.__dict__[name] = self.__dict__[name][at]
        return part

    def joined(self, other: Spectrum) -> Spectrum:
        """The spectrum of both batches, one after the other, with the labels of each.

        Raises:
            ValueError: a spectrum of another model or method, of inputs of another shape, or of another k.

        Example:
            >>> import torch, fimviz as fv
            >>> net = fv.Classifier(torch.nn.Identity(), input_range=None)
            >>> known = fv.spectrum(net, torch.zeros(1, 2), labels=[1])
            >>> both = known.joined(fv.spectrum(net, torch.ones(2, 2)))
            >>> len(both), both.labelled.tolist(), both.labels_of([0])
            (3, [True, False, False], tensor([1]))
        """
        if not (other.net is self.net or (isinstance(self.net, Classifier) and self.net.same_as(other.net))):
            raise ValueError("the other spectrum is of another model, expected one of this model")
        kinds = [
            (s.method, tuple(s.images.shape[1:]), s.eigenvalues.shape[1], s.eigenvectors is None) for s in (self, other)
        ]
        if kinds[0] != kinds[1]:
            named = [
                f"method {method!r}, inputs {shape}, k = {k}, {'no ' if lacking else ''}eigenvectors"
                for method, shape, k, lacking in kinds
            ]
            raise ValueError(f"spectra of {named[0]} and of {named[1]} cannot be joined: compute both alike")

        def both(name: str) -> Tensor:
            parts = [getattr(s, name) for s in (self, other)]
            return torch.cat(padded(parts) if name == "history" else parts)

        names = [f.name for f in fields(self) if isinstance(getattr(self, f.name), Tensor) and f.name != "labels"]
        labels = None
        if self.labels is not None or other.labels is not None:
            classes = self.logits.shape[1]
            labels = torch.cat([
                self.net.likelihood.unlabelled(len(s), classes) if s.labels is None else s.labels for s in (self, other)
            ])  # fmt: skip
        passes = {n: torch.cat([getattr(s.cost, n) for s in (self, other)]) for n in ("forwards", "vjps", "jvps")}
        cost = Cost(**passes, seconds=self.cost.seconds + other.cost.seconds)
        failures = self.failures | {len(self) + place: why for place, why in other.failures.items()}
        values: dict[str, Any] = {name: both(name) for name in names}
        return replace(self, **values, labels=labels, cost=cost, failures=failures, _walks={}, _parts={})

    @named_options
    def walk(self, k: int = 0, eps: Any = None) -> Walk:
        """What the model says along x + ε v_k, by forward passes.

        Args:
            k: which eigenvector, 0 for the leading one.
            eps: distances in L2 pixel units, one, (m,) for all inputs, or (n, m) ascending; by default 33 from −`reach`
                to `reach`, and the flips among them; of large networks on large images 11 and those
                that `reach` has asked there, and more coarsely (`Walk`).
        """
        if self.eigenvectors is None:
            raise ValueError("this spectrum has no eigenvectors to walk along: compute it with vectors=True")
        if not 0 <= k < self.eigenvalues.shape[1]:
            raise ValueError(f"k is {k}, expected an index from 0 to {self.eigenvalues.shape[1] - 1}")
        if eps is None:
            if k not in self._walks and self.failures:
                self._walks[k] = spread(self.sound.walk(k=k), self.computed, len(self))
            if k not in self._walks:
                self.unchanged("walk()")
                hard = self._effort
                grid, seen = both_sides(hard.nodes[0], self.reach), None if k else self._looked[1]
                self._walks[k] = walk(self, k, grid, with_flips=True, left_open=hard.open, close=hard.close, seen=seen)
            return self._walks[k]
        eps = torch.atleast_1d(torch.as_tensor(eps, dtype=torch.float64).cpu())
        if eps.ndim == 1:
            eps = eps.sort().values.expand(len(self), -1)
        if eps.ndim != 2 or len(eps) != len(self) or not eps.shape[1] or not eps.isfinite().all():
            raise ValueError(f"eps has shape {tuple(eps.shape)}, expected finite distances (m,) or ({len(self)}, m)")
        self.unchanged("walk()")
        if self.failures:
            return spread(walk(self.sound, k, eps[self.computed]), self.computed, len(self))
        return walk(self, k, eps)

    def known(self, count: int) -> tuple[list[Walk], Tensor, Tensor, str]:
        """Default walks along `count` eigenvectors, `reach` and `one_sided`, and why they are not known, if so.

        What was computed before the model changed is kept; else there are walks of NaN, as far as ½ε²λ₁ is 1 nat.
        """
        try:
            left = [k for k in range(count) if k not in self._walks]
            if left:
                report = reporter(True, len(left), "direction", SOON)
                for done, k in enumerate(left, 1):
                    self.walk(k)
                    report(done)
            return [self.walk(k) for k in range(count)], self.reach, self.one_sided, ""
        except ChangedError as error:
            low, high = self.pixel_range
            far = (2 / self.spectral_norm.clamp_min(1e-300)).sqrt().clamp(1e-3 * (high - low), 5 * (high - low))
            grid = torch.cat([torch.linspace(-1, 1, 33, dtype=torch.float64), torch.tensor([-1.0, 1.0])])
            grid = grid.sort().values * far[:, None]
            nothing = torch.full((len(self), 2), torch.nan, dtype=torch.float64)
            return [unasked(self, k, grid) for k in range(count)], far, nothing, str(error)

    @named_options
    def plane(self, k: int = 0, across: Any = 1, *, points: int = 25, reach: Any = None) -> Plane:
        """What the model says on the plane of eigenvector k and another direction, by points² forward passes an input.

        Args:
            k: which eigenvector is the first axis.
            across: the second axis: the index of another eigenvector, or displacements (n, *input), an attack's for
                instance, of which the part orthogonal to the first axis counts.
            points: of the grid on each axis, an odd number of at least 3.
            reach: half the plane's width in L2 pixel units, a number or (n,); by default `reach`.

        Example, p = softmax(x): the input is a class boundary, and F there has one eigenvalue, ½ along (1, −1)/√2.
            >>> import torch, fimviz as fv
            >>> net = fv.Classifier(torch.nn.Identity().double(), input_range=None)
            >>> s = fv.spectrum(net, torch.zeros(1, 2).double())
            >>> p = s.plane(across=torch.ones(1, 2), points=3, reach=1.0)
            >>> [round(v, 6) for v in p.information[0].tolist()], p.kl[0, 1].tolist()
            ([0.5, 0.0], [0.0, 0.0, 0.0])
        """
        if self.eigenvectors is None:
            raise ValueError("this spectrum has no eigenvectors to span a plane: compute it with vectors=True")
        count = self.eigenvalues.shape[1]
        if not 0 <= k < count:
            raise ValueError(f"k is {k}, expected an index from 0 to {count - 1}")
        if isinstance(across, int):
            if not 0 <= across < count or across == k:
                raise ValueError(
                    f"across is {across}, expected another index from 0 to {count - 1} than k = {k}, or displacements"
                )
        else:
            across = torch.as_tensor(across).detach().cpu()
            finite = across[self.computed].isfinite().all() if across.shape == self.images.shape else False
            if not finite or not across.is_floating_point():
                raise ValueError(
                    f"across has shape {tuple(across.shape)}, expected an index or finite displacements "
                    f"{tuple(self.images.shape)}"
                )
        if not isinstance(across, int) and isinstance(self.net, BlackBox):
            raise ValueError("a BlackBox has no gradients to measure F along displacements: give an index as across")
        if whole("points", points, 3) % 2 == 0:
            raise ValueError(f"points is {points}, expected an odd number: the input stands in the middle")
        self.unchanged("plane()")
        wide = self.reach if reach is None else torch.as_tensor(reach, dtype=torch.float64).cpu().expand(len(self))
        if not (wide.isfinite() & (wide > 0))[self.computed].all():
            raise ValueError(f"reach is {reach}, expected positive distances")
        if self.failures:
            at = self.computed
            own = across if isinstance(across, int) else across[at]
            return spread(plane(self.sound, k, own, points, wide[at]), at, len(self))
        return plane(self, k, across, points, wide)

    @cached_property
    def one_sided(self) -> Tensor:
        """KL ÷ ½ε²λ₁ (n, 2) at ε = −10⁻⁶ and +10⁻⁶ along v₁, by float64 passes; 1 where the network is smooth.

        Large networks on large images are not asked where they are smooth.
        Where an input lies exactly on a kink (a max pool over a flat background, a ReLU at 0), F is that of one of the
        linear pieces that meet there, by torch's convention, and the two sides may curve differently: then a value
        differs from 1. NaN where λ₁ is too small for the difference to be seen, or float64 passes cannot be made.
        """
        self.unchanged("one_sided")
        return spread(one_sided(self.sound), self.computed, len(self)) if self.failures else one_sided(self)

    @cached_property
    def _float64_logits(self) -> Tensor:
        """Logits (n, K) of the inputs as of a float64 pass, which walks and planes take differences from."""
        known = logit_error(self.net.likelihood, self.logits, torch.finfo(torch.float64).eps)
        if bool((self.logit_error <= known).all()):
            return self.logits
        return logits_at(self, torch.arange(len(self)), (), torch.float64)

    @cached_property
    def _effort(self) -> Effort:
        return effort([self.net], [self.images]) if isinstance(self.net, Classifier) else FULL

    @cached_property
    def reach(self) -> Tensor:
        """A distance (n,) that shows where the prediction changes along ±v₁, in L2 pixel units.

        A value of the series 0.001, 0.002, 0.005 … 5 two to five times beyond the change, 1 where nothing changes
        up to 5; in units of the input range's width. Large networks on large images are asked at every third first.
        """
        self.unchanged("reach")
        return spread(self.sound.reach, self.computed, len(self)) if self.failures else self._looked[0]

    @cached_property
    def _looked(self) -> tuple[Tensor, Seen | None]:
        return reach(self, self._effort.coarse)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        if self.eigenvectors is not None:
            return super()._repr_mimebundle_(include, exclude)
        return {"text/plain": repr(self), "text/html": self.frame.to_html(index=False)}

    def plot(self) -> go.Figure:
        """The eigenvalues of every input on a log axis, as a plotly figure."""
        return self._plotted()

    @named_options
    def view(
        self, *, samples: int | Sequence[int] | None = None, directions: int = 5, max_bytes: int = 20_000_000
    ) -> Figure:
        """The perturbation view: image, worst direction, image + ε v, and what the model says.

        A spectrum is numbers, and its curves cost more than these: the first view of some samples, also by being shown,
        makes the forward passes for them, under a bar where that takes a while, and the spectrum keeps them.

        Args:
            samples: how many inputs, the most fragile first, or which; by default up to 32, fewer of large images.
            directions: how many eigenvectors of each.
            max_bytes: refuse a page larger than this.
        """
        return self._viewed(samples=samples, directions=directions, max_bytes=max_bytes)
