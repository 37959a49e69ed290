"""The goal on the real SqueezeNet: 1000 classes, the three largest eigenvalues of 20 photographs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

import fimviz as fv
from tests.benchmarks.settings import Setting, Sizes, realdata
from tests.benchmarks.timing import clock, forward_seconds, table
from tests.benchmarks.truth import frozen, lanczos_truth


@dataclass
class Goal:
    setting: Setting  # the first photographs, for the competitors
    text: str
    worst: float  # relative difference to the reference, over images and eigenvalues
    inside: bool
    forwards: dict[str, float]  # of the calls, by their options


class Unit:
    """The forward passes of each batch that a call takes, timed when it reports the batch done."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        self.net, self.x = net, x
        self.done = self.batch = 0
        self.seconds = self.spent = 0.0

    def __call__(self, done: int, _: int) -> None:
        spent, unit = clock(lambda: forward_seconds(self.net, self.x[self.done : done]))
        self.batch = max(self.batch, done - self.done)
        self.seconds, self.spent, self.done = self.seconds + unit, self.spent + spent, done


def squeezenet(sizes: Sizes) -> Goal:
    data = realdata()
    net = frozen(data.network("imagenet-squeezenet"))
    x = data.imagenet_samples()[0][: sizes.goal_photographs]
    truth, residuals, steps = lanczos_truth(net, x, 3)
    wrapped = fv.Classifier(net)
    fv.spectrum(wrapped, x[:2], k=1)  # what is asked once of a model
    calls = {"`k=3`": {"k": 3}, "`k=3, verify=False`": {"k": 3, "verify": False}}
    costs, errors, forwards = [], [], {}
    for name, options in calls.items():
        unit = Unit(net, x)
        seconds, s = clock(lambda o=options, u=unit: fv.spectrum(wrapped, x, progress=u, **o))
        seconds -= unit.spent
        forwards[name] = seconds / unit.seconds
        passes = [f"{t.double().mean():.3g}" for t in (s.cost.forwards, s.cost.vjps, s.cost.jvps)]
        costs.append([name, s.method, f"{seconds:.1f}", str(unit.batch), f"{forwards[name]:.1f}", *passes])
        off = (s.eigenvalues - truth[:, : s.eigenvalues.shape[1]]).abs()
        relative = off / truth[:, : off.shape[1]]
        for i in range(off.shape[1]):
            errors.append(
                [name, f"λ{'₁₂₃'[i]}", f"{relative[:, i].max():.1e}", f"{(off / s.error)[:, i].max():.2g}",
                 f"{(s.error / s.eigenvalues)[:, i].max():.1e}", f"{int((off <= s.error)[:, i].sum())} of {len(x)}"]
            )  # fmt: skip
        if name == "`k=3`":
            worst, inside = relative.max().item(), bool((off <= s.error).all())
    text = (
        f"`fv.spectrum(net, photographs, …)` of {len(x)} photographs of 227×227, seconds divided by those of a forward "
        "pass in the batches that it takes itself; passes are means over the photographs. "
        f"Reference: Lanczos in float64, independent of fimviz's, at most {steps} steps; the "
        "residuals ‖Bu − θu‖/θ of its values are at most "
        + ", ".join(f"{r:.0e}" for r in residuals)
        + ".\n\n"
        + table(["options", "method", "seconds", "inputs at once", "forwards", "forward", "VJP", "JVP"], costs)
        + "\n\n"
        + table(["options", "", "worst error", "worst error/`error`", "largest `error`", "inside `error`"], errors)
    )
    few = x[: sizes.photographs]
    name = f"K = 1000, SqueezeNet, {len(few)} photographs of 227×227"
    return Goal(Setting(name, net, few, 1000, truth[: len(few), 0], sizes.some_classes), text, worst, inside, forwards)
