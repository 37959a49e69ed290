"""Linear bounds of a network over a ball of inputs, and the radii up to which they prove a prediction.

Data flow: `recorded` turns a network into steps, of which those of `affine` are exact, and `curves` and `lines` enclose
those that bend; `enclosed` carries rows back to the input, in `blocks`, and `radius` looks for the largest ball. For λ₁
over a ball, `slopes` says which slopes are open, `multipliers` what they can do together, and `fragility` what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from fimviz._tell import tell
from fimviz.bounds.flow import NoBoundError, NoRuleError
from fimviz.bounds.linear.fragility import by_slopes
from fimviz.bounds.linear.radius import MANY, numbers, proved
from fimviz.bounds.linear.recorded import recorded
from fimviz.model.classifier import Classifier
from fimviz.model.engine.parts import Work


def by_lines(net: Classifier, x: Tensor, z: Tensor, outcome: Tensor, affordable: bool,
             tick: Callable[[int, int], None]) -> tuple[Tensor, str]:  # fmt: skip
    """The radii (n, K) up to which linear bounds prove an outcome against each class, and why there are none.

    Args:
        net: the classifier.
        x: (n, …) inputs.
        z: (n, K) their logits in float64.
        outcome: (n, …) what is to stay.
        affordable: whether to leave it where it would take minutes an input.
        tick: told after every input.
    """
    none = torch.full(z.shape, torch.nan, dtype=torch.float64)
    if net.dtype != torch.float64 and not net.has_float64:
        return none, "linear bounds need a network that can run in float64"
    with net.at_rest(), torch.no_grad():
        try:
            steps = recorded(net, x)
        except (NoRuleError, NoBoundError) as error:
            return none, f"{error}"
        if affordable and (count := numbers(steps)) > MANY:
            return none, (
                f"linear bounds would compute up to {count:.1g} numbers several times for each input: "
                "method='linear' does"
            )
        flat, found, work = x.detach().cpu().double().flatten(1), torch.zeros_like(none), Work(len(x))
        gaps = torch.func.vmap(torch.func.jacrev(lambda row, given: net.likelihood.gaps(row[None], given[None])[0]))
        slopes, asked = gaps(z, outcome), net.likelihood.gaps(z, outcome).isfinite()  # gaps are linear in the logits
        with work:
            for i in range(len(x)):
                found[i, asked[i]] = proved(steps, flat[i : i + 1], slopes[i][asked[i]], net.input_range)
                found[i, ~asked[i]] = torch.inf
                work.reached(i + 1)
                tick(i + 1, len(x))
    if work.stopped:
        found[work.done :] = torch.nan
        tell(f"{work.stopped}: linear bounds of the first {work.done} of {len(x)} inputs")
    return found, ""


def planned(net: Classifier, x: Tensor) -> float:
    """How many numbers `by_lines` computes several times for each input (n, …) at most; 0 where there are no bounds."""
    if net.dtype != torch.float64 and not net.has_float64:
        return 0.0
    with net.at_rest(), torch.no_grad(), suppress(NoRuleError, NoBoundError):
        return numbers(recorded(net, x[:1]))
    return 0.0


__all__ = ["MANY", "by_lines", "by_slopes", "numbers", "planned", "recorded"]
