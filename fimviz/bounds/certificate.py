"""`certified_radius`: how far, in L2, an input can be moved in any way without another prediction, with a proof."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fimviz._options import named_options, whole
from fimviz._surroundings import looked_at_in_ordinary
from fimviz._tell import tell
from fimviz.attacks.descent import STEPS, TARGETS, known_inputs, smallest
from fimviz.attacks.problem import Problem
from fimviz.attacks.within import smallest_margin
from fimviz.bounds.ladder import Ladder, log10
from fimviz.bounds.linear import by_lines
from fimviz.fisher.contrasts import precise_logits
from fimviz.fisher.passes import unsound
from fimviz.model.classifier import Classifier, as_classifier
from fimviz.model.engine.memory import limit
from fimviz.model.engine.parts import Work, answers
from fimviz.model.engine.progress import Stages, Tick, wanted
from fimviz.model.failures import column, known, others, said, settle, spread

if TYPE_CHECKING:
    import pandas as pd

_METHODS = ("auto", "norms", "linear")
_LINEAR = 1000.0  # forward passes that linear bounds of one input take as long as, roughly
_BOUND = 100.0  # forward passes that a bound from the weights takes as long as, roughly
_SPARE = 1e-8  # relative, for the double precision of the formulas themselves


@looked_at_in_ordinary
@dataclass(frozen=True, eq=False, repr=False)
class CertifiedRadius:
    """Below these L2 radii no perturbation whatever changes the predicted class (or set of labels), at n inputs.

    Attributes:
        radius: (n,) the largest of the three forms, in pixel units; NaN where there is none, for the `reason`.
        logit_form: (n,) from the norms, min over other classes k of (z_y − z_k)/(‖w_y − w_k‖ L_h).
        fisher_rao_form: (n,) from the norms, 2 arcsin((√p₁ − √p₂)/√2)/√L5, a length on the simplex over the most that
            a pixel unit can be worth.
        by_class: (n, K) from linear bounds, within which no change makes class k overtake the prediction (or label k
            change); infinite for the predicted class, NaN where there are no linear bounds.
        reason: why there is no certificate; empty if there is.
        reasons: why a method gave none, by its name.
        attack: (n,) the L2 length of the smallest change found that does change the prediction, inside the input
            range; infinite where none was found, NaN where none was looked for.
        margin_inside: (n,) the smallest margin of the logits that an attack within the radius reached: above 0, or the
            certificate is wrong. NaN where none was tried.
        predictions: (n,) classes, or (n, K) booleans for yes/no labels; −1 in `failures`.
        attack_predictions: the same at the smallest change found; −1 or False where there is none.
        failures: place → why nothing could be computed there; its numbers are NaN.
    """

    radius: Tensor
    logit_form: Tensor
    fisher_rao_form: Tensor
    by_class: Tensor
    reason: str
    reasons: dict[str, str]
    attack: Tensor
    margin_inside: Tensor
    predictions: Tensor
    attack_predictions: Tensor
    failures: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.radius)

    def __repr__(self) -> str:
        size = f"{len(self)} inputs{said(self.failures)}"
        if self.reason:
            return f"CertifiedRadius({size}: none, {self.reason})"
        low, high = self.radius[others(self.failures, len(self))].aminmax()
        return f"CertifiedRadius({size}: from {low:.3g} to {high:.3g})"

    @property
    def linear_form(self) -> Tensor:
        """(n,) the smallest of `by_class`: outside the input range as well, it promises nothing."""
        return self.by_class.amin(1)

    @property
    def method(self) -> list[str]:
        """(n,) where the radius is from: "linear" or "norms"; empty where there is none."""
        norms = torch.maximum(self.logit_form, self.fisher_rao_form)
        better = ((self.linear_form > norms) | norms.isnan()).tolist()
        known = (~self.radius.isnan()).tolist()
        return ["" if not k else "linear" if b else "norms" for k, b in zip(known, better, strict=True)]

    @property
    def holds(self) -> Tensor:
        """(n,) whether no attack within the radius has changed the prediction; true where none was tried."""
        return ~((self.margin_inside <= 0) & (self.radius > 0) | (self.attack < self.radius))

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a sample.

        Columns: sample, radius, method, logit_form, fisher_rao_form, linear_form, attack, margin_inside, holds and
        failure.
        """
        import pandas as pd

        columns = ("logit_form", "fisher_rao_form", "linear_form", "attack", "margin_inside", "holds")
        first = {"sample": range(len(self)), "radius": self.radius.tolist(), "method": self.method}
        values = {c: getattr(self, c).tolist() for c in columns}
        return pd.DataFrame({**first, **values, "failure": column(self.failures, len(self))})


@named_options
def certified_radius(
    net: Classifier | nn.Module,
    images: Any,
    *,
    method: str = "auto",
    attack: bool = True,
    steps: int = STEPS,
    restarts: int = TARGETS,
    seed: int = 0,
    max_memory: float | None = None,
    errors: str = "mark",
    progress: bool | Callable[[int, int], None] = False,
) -> CertifiedRadius:
    """Certified L2 radii at each input, with the attack that fails inside and the smallest that succeeds outside.

    From the norms of the layers, L_h and L5 hold at every x, and so does the certificate, for perturbations inside the
    input range or not. Products of norms are large, so that these radii are small. Linear bounds enclose what every
    layer can be over the ball around one input, and give radii that are twice (a perceptron) to hundreds of times (a
    residual network) as large, for perturbations that stay in the input range; they take seconds an input. Where
    neither is to be had (attention, products of what depends on the input), there is no certificate: `reason` says why.
    It is one for the network in exact arithmetic, at images as it reads them (in its own precision); all that this
    computation rounds is taken off.

    Args:
        net: a `Classifier`, or a module from pixels in [0, 1] to logits.
        images: (n, …) floats, or a data set (see `Classifier`).
        method: "norms", "linear" or "auto": both, and the better of the two for each input, but no linear bounds of
            networks that they would take minutes an input for, which `reasons` then tells.
        attack: whether to attack too, which takes some 3 · `steps` · `restarts` forward and backward passes.
        steps: of every descent.
        restarts: how many descents look for the smallest change, as the attack "descent" of `fimviz.vulnerability`
            does: toward other classes, and back from an input of another class. Within the radius twice as many: on
            the margin, toward other classes in turn, from random points.
        seed: of the random points.
        max_memory: bytes that attacks may take beside model and images, by default half of what is free.
        errors: what an image is to do whose logits, or for an attack gradients, are not finite: "mark", its row is NaN
            and says why, or "raise".
        progress: True for a tqdm bar, or a function called with (percent of the time, 100).

    An interrupt returns all radii, and the attacks of the inputs that are complete.

    Source: the logit form is that of Tsuzuku et al. (2018), class by class; the Fisher–Rao form is ours: the closed
    form is the Fisher–Rao distance from p to where another class draws level, and KL's metric can be stretched by at
    most √L5 a pixel unit. Linear bounds are those of Zhang et al. (2018): see `fimviz.bounds.linear`.

    Example, two classes apart by a plane at a distance of ½, which the radius reaches:
        >>> import torch, fimviz as fv
        >>> model = torch.nn.Linear(2, 2, bias=False).double()
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        >>> net = fv.Classifier(model, input_range=(-1, 1))
        >>> r = fv.certified_radius(net, torch.tensor([[0.5, 0.0]]))
        >>> round(r.radius.item(), 6), round(r.attack.item(), 6), r.holds.item()
        (0.5, 0.5, True)
    """
    net = as_classifier(net)
    if method not in _METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(map(repr, _METHODS))}")
    steps, restarts, seed = whole("steps", steps, 1), whole("restarts", restarts, 1), whole("seed", seed, 0)
    errors, progress, max_memory = known(errors), wanted(progress), limit(max_memory)
    x = net.admit(images, max_memory).detach()
    count = len(x)
    attacks = 3.0 * count * (3 * restarts + 1) * steps if attack else 0.0
    linear = _LINEAR * count if method != "norms" else 0.0
    bar = Stages(progress, [("check", 3.0 * count), ("bound", _BOUND), ("linear", linear), ("attacks", attacks)])
    failures = unsound(net, x, slopes=attack, max_memory=max_memory, progress=bar.next())
    settle(failures, count, errors)
    places = others(failures, count)
    x = x[places.to(x.device)] if failures else x
    bar.next()
    net.likelihood.an_outcome("a certificate is of one that stays")
    z, error = precise_logits(net, x, max_memory)
    mode = net.likelihood.predict(z)
    none, reasons = torch.full((len(x),), torch.nan, dtype=torch.float64), {}
    logit_form, fisher_form, by_class = none, none.clone(), none[:, None].expand(z.shape).clone()
    if method != "linear":
        logit_form, fisher_form, reasons["norms"] = _radii(net, x, z, error, mode, max_memory)
    tick = bar.next()
    if method != "norms":
        by_class, reasons["linear"] = by_lines(net, x, z, mode, method == "auto", tick)
    radius = torch.fmax(torch.fmax(logit_form, fisher_form), by_class.amin(1))
    reason = "; ".join(dict.fromkeys(reasons.values())) if all(reasons.values()) else ""
    lengths, margins = torch.full((2, len(x)), torch.nan, dtype=torch.float64)
    fooled = torch.zeros_like(mode) if mode.dtype == torch.bool else torch.full_like(mode, -1)
    if attack:
        wide = x.to(torch.float64 if net.has_float64 else x.dtype)
        task = Problem(net, wide.to(net.device), mode.to(net.device), "l2", max_memory)
        work = Work(len(x))

        def attacked(part: Problem, at: Tensor, tick: Tick) -> tuple[Tensor, Tensor, Tensor]:
            length, moved = smallest(part, inputs, targets=restarts, steps=steps, seed=seed, progress=tick)
            found = length.isfinite().cpu()
            fooled[at[found]] = net.likelihood.predict(answers(net, moved, max_memory=max_memory))[found]
            if reason:
                return at, length, torch.full_like(length, torch.nan)
            options = {"steps": steps, "restarts": 2 * restarts, "seed": seed}
            return at, length, smallest_margin(part, radius[at].to(part.x), **options)[0]

        with net.at_rest(), work:
            inputs = known_inputs(net, wide, seed, max_memory)
            for at, length, margin in task.in_parts(attacked, bar.next()):
                lengths[at], margins[at] = length.cpu().double(), margin.cpu().double()
                work.reached(work.done + len(at))
        if work.stopped:
            tell(f"{work.stopped}: the result holds attacks of the first {work.done} of {len(x)} inputs")
    found = CertifiedRadius(radius, logit_form, fisher_form, by_class, reason, reasons, lengths, margins, mode, fooled)
    if not attack or not work.stopped:
        bar.end()
    return replace(spread(found, places, count), failures=failures) if failures else found


def _radii(
    net: Classifier, x: Tensor, z: Tensor, error: Tensor, mode: Tensor, max_memory: float | None
) -> tuple[Tensor, Tensor, str]:
    """The logit form, the Fisher–Rao form, and why there are none."""
    ladder = Ladder(net, x, max_memory=max_memory)
    value, reason = ladder.log_lipschitz()
    if value is None:
        none = torch.full((len(x),), torch.nan, dtype=torch.float64)
        return none, none.clone(), f"no bound holds at every x: {reason}"
    head = ladder.head
    likelihood = net.likelihood
    gaps, distance = likelihood.gaps(z, mode), likelihood.angles(z, mode)
    norms = head.pairs[mode] if likelihood.invariant else head.pairs.expand_as(z)
    norms = torch.where(gaps.isinf(), 1.0, norms)
    gaps = (gaps - 2 * error[:, None]).clamp_min(0)
    logit_form = (gaps.log10() - norms.clamp_min(1e-300).log10()).amin(1) - value
    # p moves by rounding as the logits do: an angle by at most half as much as they do.
    angle = (distance.amin(1) - 2 * error).clamp_min(0)
    fisher_form = angle.log10() - (likelihood.log_limit / math.log(100) + log10(head.spread) + value)
    return 10 ** (logit_form - _SPARE), 10 ** (fisher_form - _SPARE), ""


__all__ = ["CertifiedRadius", "certified_radius"]
