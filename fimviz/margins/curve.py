"""`shielding_curve`: how shielding depends on the paths' damping and step, which a single table hides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import nn

from fimviz._options import flag, named_options
from fimviz._tell import tell
from fimviz.margins.shielding import Shielding, checked, shielding
from fimviz.margins.trace import positive, trace_margins
from fimviz.model.classifier import Classifier
from fimviz.model.data import unpacked
from fimviz.model.engine.memory import limit
from fimviz.model.engine.parts import Work
from fimviz.model.engine.progress import wanted
from fimviz.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from fimviz.result import Figure


@dataclass(frozen=True, eq=False, repr=False)
class ShieldingCurve(Result):
    """How shielding depends on damping and step: one `Shielding` a setting."""

    points: tuple[Shielding, ...]

    def __repr__(self) -> str:
        shares = [p.shielded.value for p in self.points if p.successful]
        found = f"{min(shares):.1%} to {max(shares):.1%} shielded" if shares else "no path changed the class"
        if shares and any(p.successful < p.attempted for p in self.points):
            low, high = min(p.possible[0] for p in self.points), max(p.possible[1] for p in self.points)
            found += f", of all paths {low:.1%} to {high:.1%}"
        return f"ShieldingCurve({len(self.points)} settings, {found})"

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a setting: damping, step, trust_region, shielded with its interval, flipped, mean length and L2.

        `shielded` is of the paths that changed the class; possible_low and possible_high are of all.
        `failure`: which images have no paths, and why.
        """
        import pandas as pd

        rows = []
        for p in self.points:
            weights = p.matrix.sum(1).double()
            size = max(1.0, float(weights.sum()))
            rows.append(
                {
                    "damping": p.settings.damping,
                    "step": p.settings.step,
                    "trust_region": p.settings.trust_region,
                    "shielded": p.shielded.value,
                    "shielded_low": p.shielded.low,
                    "shielded_high": p.shielded.high,
                    "possible_low": p.possible[0],
                    "possible_high": p.possible[1],
                    "flipped": p.successful / max(1, p.attempted),
                    "fr_margin": float((p.fr_margin.nan_to_num() * weights).sum()) / size,
                    "l2": float((p.l2.nan_to_num() * weights).sum()) / size,
                    "rank_correlation": p.rank_correlation.value,
                    "failure": "; ".join(f"image {i}: {why}" for i, why in p.traces.failures.items()),
                }
            )
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Share of shielded paths against damping, one line a step, as a plotly figure."""
        return self._plotted()

    def view(self, **options: Any) -> Figure:
        """The margin view of the first setting's paths, with this curve below; options as for `MarginTraces.view`."""
        return self.points[0].view(**{"curve": self, **options})

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self.frame.to_html(index=False)}


@named_options
def shielding_curve(
    net: Classifier | nn.Module,
    images: Any,
    labels: Any = None,
    *,
    dampings: Sequence[float] = (0.001, 0.01, 0.1, 1.0, 10.0),
    steps: Sequence[float] = (0.2,),
    trust_region: float | None = None,
    targets: Any = "all",
    method: str = "natural",
    max_steps: int = 300,
    resamples: int = 1000,
    level: float = 0.95,
    errors: str = "mark",
    keep_images: bool = True,
    seed: int = 0,
    max_memory: float | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> ShieldingCurve:
    """Trace with every damping and step, and say how many paths are shielded with each.

    Little damping lets a path follow the simplex, on which nothing stands between two classes; much damping makes it
    the plain gradient's. Paths are walked once each (`verify=False`), and none is made again with other settings than
    its own (`retry=False`): where some do not change the class, a share lies between possible_low and possible_high.

    Args:
        net: a `Classifier` of one of K classes, or a module from pixels in [0, 1] to logits.
        images: (m, …) floats, or a data set (see `Classifier`).
        labels: true classes (m,), or None; misclassified samples are left out.
        dampings: τ, relative to λ_max, or for "published" absolute.
        steps: η.
        trust_region: as in `trace_margins`, like the following.
        targets: see there.
        method: see there.
        max_steps: see there.
        resamples: bootstrap resamples of the samples.
        level: of the intervals.
        errors: as in `trace_margins`.
        keep_images: whether the paths of the first setting, which the view shows, keep their images; see there.
        seed: of everything random.
        max_memory: as in `trace_margins`.
        progress: True for a tqdm bar, or a function called with (settings done, settings in all) after every step,
            which may raise to stop.

    An interrupt returns the settings that are complete.

    Example:
        >>> import fimviz as fv
        >>> images, labels = fv.zoo.digits()
        >>> curve = shielding_curve(fv.zoo.load("digits-mlp"), images[:3], labels[:3], dampings=(0.01, 1.0))
        >>> curve.frame.damping.tolist()
        [0.01, 1.0]
    """
    dampings, steps = _all("dampings", dampings), _all("steps", steps)
    resamples, level, seed = checked(resamples, level, seed)
    keep_images = flag("keep_images", keep_images)
    max_memory = limit(max_memory)
    settings = [(step, damping) for step in steps for damping in dampings]
    work = Work(len(settings), wanted(progress), "setting")
    images, labels = unpacked(images, labels, net)  # once: a loader may give others the next time
    points: list[Shielding] = []
    with work:
        for step, damping in settings:
            traces = trace_margins(
                net,
                images,
                labels,
                targets=targets,
                step=step,
                damping=damping,
                trust_region=trust_region,
                max_steps=max_steps,
                method=method,
                verify=False,
                retry=False,
                errors=errors,
                keep_images=keep_images and not points,
                seed=seed,
                max_memory=max_memory,
                progress=lambda *_: work.reached(len(points)),
            )
            if "interrupted" in traces.status:  # half a setting would not compare
                raise KeyboardInterrupt
            points.append(shielding(traces, resamples=resamples, level=level, seed=seed))
            work.reached(len(points))
    if work.stopped:
        tell(f"{work.stopped}: the curve holds the first {len(points)} of {len(settings)} settings")
    return ShieldingCurve(tuple(points))


def _all(name: str, values: Any) -> list[float]:
    """Positive finite numbers, at least one."""
    given = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{name} is {values!r}, expected a list of numbers")
    numbers = [positive(f"each of {name}", value) for value in given]
    if not numbers:
        raise ValueError(f"{name} are empty, expected at least one number")
    return numbers
