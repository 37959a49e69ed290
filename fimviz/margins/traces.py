"""`MarginTraces`: paths from inputs to other classes, with their Fisher–Rao lengths."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fimviz._options import named_options, whole
from fimviz._quantile import digits, median
from fimviz.margins.state import PACES, Attempt
from fimviz.model.classifier import Classifier
from fimviz.model.failures import said
from fimviz.model.origin import ModelResult, Print

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import plotly.graph_objects as go

    from fimviz.margins.curve import ShieldingCurve
    from fimviz.margins.shielding import Shielding
    from fimviz.result import Figure


@dataclass(frozen=True, eq=False)
class Path:
    """One path, point by point: T steps join T + 1 points. Float64 on the CPU, except the images.

    Attributes:
        start, end: (*input) the images that the path begins and ends at, as they are.
        shares: (T, *input) float16, how far the image has moved after every step, in units of `units` (T,);
            None where images were not kept. `images` and `difference` read them.
        probabilities, logits: (T + 1, K).
        fr: (T + 1,) Fisher–Rao length so far, from 0.
        gap: (T + 1,) log p_source − log p_target, in nats.
        spectral_norm: (T + 1,) λ_max of F, in nats per squared pixel unit; NaN at the last point, from which no step
            was made, and where the method does not need it. With solver "cg" the largest Ritz value.
        natural: (T,) √(δᵀFδ) with F at the step's start; l2: (T,) ‖δ‖ in pixel units.
        pace: for each step, who set its length: "step", η, as predicted or as measured; "trust region"; "box", the
            pixels' edges; "line search", as a longer one widened the gap; "boundary", so that it ends just beyond the
            change of class.
        smoothed: for each step, whether its slope is a smoothed one, and with it `spectral_norm` and `natural`.
    """

    start: Tensor
    end: Tensor
    shares: Tensor | None
    units: Tensor
    probabilities: Tensor
    logits: Tensor
    fr: Tensor
    gap: Tensor
    spectral_norm: Tensor
    natural: Tensor
    l2: Tensor
    pace: tuple[str, ...]
    smoothed: tuple[bool, ...]

    @property
    def images(self) -> Tensor | None:
        """(T + 1, *input) at all points, in the start's dtype; None where they were not kept."""
        if self.shares is None:
            return None
        between = [(self.start.double() + self.difference(i)).to(self.start.dtype) for i in range(1, len(self.units))]
        return torch.stack([self.start, *between, self.end])

    def difference(self, point: int) -> Tensor:
        """(*input) float64, the image at a point less that at the start: on the way to three digits of each value.

        Raises:
            ValueError: the images were not kept.
        """
        if self.shares is None:
            raise ValueError("the path has no images, expected one of trace_margins(…, keep_images=True)")
        if point in (0, len(self.units)):
            return (self.end if point else self.start).double() - self.start.double()
        return self.shares[point - 1].double() * self.units[point - 1]


@dataclass(frozen=True)
class Settings:
    """How the paths were made: the options of `trace_margins`."""

    method: str
    step: float
    damping: float
    trust_region: float
    max_steps: int
    solver: str
    verify: bool
    retry: bool
    seed: int


@dataclass(frozen=True, eq=False, repr=False)
class MarginTraces(ModelResult):
    """Paths from m samples toward other classes: n of them, float64 on the CPU where not said otherwise.

    A path's length is the Fisher–Rao length of its image on the simplex, so that
    length ≥ distance ≥ bound wherever the class changed (up to `rounding`, which `length_error` includes). Any
    flipping path is an upper bound of margin(x, y), and the smallest `bound` over all classes a lower one.

    Attributes:
        sample: (n,) place in the batch; source: (n,) the class predicted there; target: (n,) the class aimed at.
        hit: (n,) the class at the end, −1 where the class has not changed.
        length: (n,) Fisher–Rao length, from below: more points would make it longer, by less than `length_error`.
        length_error: (n,) how far that may be off: the measurement of the path that was traced, its end beyond the
            boundary, rounding, and the steps' size (left out with verify=False): three times what halving the steps
            changed (Richardson's 2, and half as much again), how far apart on the simplex the two paths end, and what
            the path's bends add. Between the paths with all and with half the steps this always holds. It is an
            estimate and no bound for ever smaller ones, which a kink of the network may send another way.
        bound: (n,) closed-form distance to where the class hit overtakes the source, or for paths that hit nothing,
            the target.
        distance: (n,) Fisher–Rao distance of the two ends.
        l2: (n,) ‖x_end − x_start‖ in pixel units.
        steps: (n,); counted: (n,) step × steps, the published measure of length.
        status: "flipped"; "stalled": twenty steps in a row gained nothing, as where the slope is flat or leads past
            the pixels' edges; "budget": max_steps were made, a larger one or a larger trust region may do;
            "interrupted"; "failed": it came to where the gradient is not finite. reasons: (n,) why such a path failed,
            else empty.
        made_by: for each path (method, damping), what was asked for or what was tried when that had failed; `retried`
            says where.
        pace: (n, 5) share of steps whose length was set by the step option, the trust region, the box, the line
            search, the boundary.
        smoothed: (n,) share of steps whose slope is a smoothed one.
        paths: each as a `Path`.
        ends: (n, *input) the last images, in the passes' precision.
        images: (m, *input); labels: (m,) or None; probabilities: (m, K); net; settings; seconds.
        failures: place in the batch → why an image has no paths: its logits or gradients are not finite.
    """

    sample: Tensor
    source: Tensor
    target: Tensor
    hit: Tensor
    length: Tensor
    length_error: Tensor
    bound: Tensor
    distance: Tensor
    l2: Tensor
    steps: Tensor
    counted: Tensor
    status: tuple[str, ...]
    made_by: tuple[Attempt, ...]
    pace: Tensor
    smoothed: Tensor
    paths: tuple[Path, ...]
    ends: Tensor
    images: Tensor
    labels: Tensor | None
    probabilities: Tensor
    net: Classifier
    settings: Settings
    seconds: float
    failures: dict[int, str] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    _origin: Print | None = None

    def __len__(self) -> int:
        return len(self.sample)

    def __repr__(self) -> str:
        flipped = int(self.flipped.sum())
        middle = f", median length {digits(median(self.length.where(self.flipped, torch.inf)))}" if flipped else ""
        return (
            f"MarginTraces({len(self)} traces of {len(self.images)} inputs{said(self.failures)}, "
            f"{self.settings.method}: "
            f"{flipped} flipped{f', of which {others}' if (others := self.others()) else ''}{middle})"
        )

    def others(self) -> str:
        """How many paths were made with other settings than those asked for, in words; empty for none."""
        counts = Counter(made for made, again in zip(self.made_by, self.retried.tolist(), strict=True) if again)
        each = [f"{n} by {_words(made)}" for made, n in sorted(counts.items())]
        return f"{' and '.join(each)} at another attempt" if each else ""

    def apart(self) -> MarginTraces:
        """The same on a copy of the model, which nobody else trains or changes.

        Raises:
            ValueError: the model cannot be copied, or is no longer the one that this was computed on.
        """
        return replace(self, net=self._net_apart())

    @property
    def flipped(self) -> Tensor:
        """Whether the class changed (n,)."""
        return torch.tensor([status == "flipped" for status in self.status], dtype=torch.bool)

    @property
    def retried(self) -> Tensor:
        """Whether other settings than those asked for made the path (n,)."""
        asked = (self.settings.method, self.settings.damping)
        return torch.tensor([made != asked for made in self.made_by], dtype=torch.bool)

    @property
    def ratio(self) -> Tensor:
        """Length ÷ bound (n,), 1 for a geodesic of the simplex; NaN where the class has not changed."""
        usable = self.flipped & (self.bound > 0)
        return torch.where(usable, self.length / self.bound, torch.nan)

    @property
    def correct(self) -> Tensor | None:
        """Whether the sample was classified correctly (n,); None without labels."""
        return None if self.labels is None else self.labels[self.sample] == self.source

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a path; `hit` is −1 where nothing was hit, `pace` is who set most of its steps.

        `method` and `damping` made the path: not those asked for where it was `retried`.
        `failure` says why a path failed. Images that have none at all stand below, a row of NaN each.
        """
        import pandas as pd

        columns: dict[str, Any] = {
            "sample": self.sample.numpy(),
            "source": self.source.numpy(),
            "target": self.target.numpy(),
            "hit": self.hit.numpy(),
            "shielded": (self.flipped & (self.hit != self.target)).numpy(),
            "length": self.length.numpy(),
            "length_error": self.length_error.numpy(),
            "bound": self.bound.numpy(),
            "ratio": self.ratio.numpy(),
            "distance": self.distance.numpy(),
            "l2": self.l2.numpy(),
            "steps": self.steps.numpy(),
            "counted": self.counted.numpy(),
            "pace": [PACES[int(p)] for p in self.pace.argmax(1)],
            "smoothed": self.smoothed.numpy(),
            "status": list(self.status),
            "method": [made.method for made in self.made_by],
            "damping": [made.damping for made in self.made_by],
            "retried": self.retried.numpy(),
        }
        if self.labels is not None:
            columns["label"] = self.labels[self.sample].numpy()
        frame = pd.DataFrame({**columns, "failure": list(self.reasons)})
        if not self.failures:
            return frame
        lost = [{"sample": place, "status": "failed", "failure": why} for place, why in self.failures.items()]
        return pd.concat([frame, pd.DataFrame(lost)], ignore_index=True)

    @named_options
    def shielding(self, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Shielding:
        """Which classes are met on the way to others: see `fimviz.margins.shielding.Shielding`.

        Misclassified samples are left out where labels are known: the published algorithm ends on them at once.

        Args:
            resamples: bootstrap resamples of the samples.
            level: of the intervals.
            seed: of the resamples.
        """
        from fimviz.margins.shielding import shielding

        return shielding(self, resamples=resamples, level=level, seed=seed)

    @named_options
    def plot(self, *, trace: int | None = None) -> go.Figure:
        """The paths' lengths against their closed-form bounds, as a plotly figure.

        Args:
            trace: place of one path in this result: instead, its class probabilities against Fisher–Rao length.
        """
        if trace is not None and whole("trace", trace, 0) >= len(self):
            raise ValueError(f"trace is {trace}, expected a place among {len(self)} traces")
        return self._plotted(trace=trace)

    @named_options
    def view(
        self,
        *,
        samples: int | Sequence[int] | None = None,
        curve: ShieldingCurve | None = None,
        max_bytes: int = 20_000_000,
    ) -> Figure:
        """The margin view: who is met on the way, and any path, image by image, with the probabilities along it.

        Args:
            samples: how many to show, or which, by place in the batch; by default what fits a page of a megabyte, from
                every class in turn. The path matrix counts all paths, shown or not.
            curve: how shielding depends on damping, from `shielding_curve`, to be drawn below.
            max_bytes: at which a page is refused; 5 MB are warned of.
        """
        return self._viewed(samples=samples, curve=curve, max_bytes=max_bytes)


def _words(made: Attempt) -> str:
    """An attempt in words."""
    return made.method if made.method == "pgd" else f"{made.method}, damping {made.damping:g}"
