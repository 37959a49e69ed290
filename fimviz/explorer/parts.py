"""What else can be known of a model on a batch: bounds, attacks, margins, attributions, the certified radius."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from fimviz.attributions import attributions
from fimviz.bounds.certificate import CertifiedRadius, certified_radius
from fimviz.bounds.formulas import RUNGS
from fimviz.bounds.linear import MANY, planned
from fimviz.comparison import compare_bounds, left_out
from fimviz.explorer.detail import struck, toward_attacks
from fimviz.explorer.results import Explored
from fimviz.fisher.effort import effort
from fimviz.fisher.spectrum import Spectrum
from fimviz.margins.trace import trace_margins
from fimviz.margins.traces import MarginTraces
from fimviz.model.classifier import Classifier
from fimviz.model.engine.progress import Progress
from fimviz.vulnerability import Vulnerability, vulnerability

PARTS = ("plane", "radius", "bounds", "attacks", "margins", "attributions")
ATTACK_PASSES = 550  # of an input, roughly
_HALVINGS = 5  # of a bracket: ε of an attack is 3 % too large at most
_LINEAR = 5e7  # numbers that linear bounds of all inputs may compute several times: some seconds
_LEAST = 2e6  # that those of one input take as long as, however small the network


def extended(
    m: Explored,
    part: str,
    places: Sequence[int],
    seed: int,
    max_memory: float | None = None,
    progress: Progress = False,
    *,
    lines: bool = False,
) -> Explored:
    """The model with one part more, or with the reason why it has none; `places` are those that the part is about.

    `lines` is whether the radius may take some seconds, for linear bounds.
    """
    s, at = m.spectrum, list(places)
    assert isinstance(s.net, Classifier)
    room: dict[str, Any] = {"max_memory": max_memory}
    if part == "radius":
        certificate = _certified(s, lines, progress, room)
        notes = {**m.notes, part: certificate.reason} if certificate.reason else m.notes
        return replace(m, certificate=certificate, notes=notes)
    if part == "bounds":
        names = ["exact", *RUNGS]
        left = left_out(s.net, s.images[at].to(s.net.device), names)
        some = [*(["lanczos"] if left else []), *(name for name in names if name not in left)]
        bounds = compare_bounds(s.net, s.images[at], methods=some, progress=progress, **room)
        return replace(m, bounds=replace(bounds, reasons={**left, **bounds.reasons}))
    if part == "attributions":
        known = m.detail.spectrum if m.detail.places == tuple(at) else None
        options: dict[str, Any] = {"spectrum": known, "seed": seed, "progress": progress}
        return replace(m, attributions=attributions(s.net, s.images[at], **options, **room))
    if part == "attacks":
        count = 0 if m.detail.planes is None else len(m.detail.planes.kl)
        points = effort([s.net], [s.images]).points
        attacks, planes = ATTACK_PASSES * len(s), points**2 * count

        def tried(done: int, total: int) -> None:
            if callable(progress):
                progress(int(1000 * done / total * attacks / (attacks + planes)), 1000)

        found = attacks_of(s, range(len(s)), seed, max_memory, tried)
        if len(found) < len(s):
            raise KeyboardInterrupt
        return replace(
            m, attacks=found, struck=struck(found), toward=toward_attacks(m.detail, found, at[:count], points)
        )
    return replace(m, margins=margins_of(s, at, seed, max_memory, progress))


def _certified(s: Spectrum, lines: bool, progress: Progress, room: dict[str, Any]) -> CertifiedRadius:
    """The radii of a batch: from linear bounds too where these are wanted and take some seconds for all of it."""
    assert isinstance(s.net, Classifier)
    each = planned(s.net, s.images) if lines else 0.0
    count = len(s) * max(_LEAST, each) if each else 0.0
    method = "auto" if lines and count <= _LINEAR else "norms"
    found = certified_radius(s.net, s.images, method=method, attack=False, progress=progress, **room)
    if method == "auto":
        return found
    asked = "" if each <= MANY else "(…, method='linear')"
    why = f"from the norms: linear bounds of {len(s)} images take long, fv.adversarial_distance{asked} has them"
    return replace(found, reasons={**found.reasons, "linear": why})


def attacks_of(
    s: Spectrum, places: Sequence[int], seed: int, max_memory: float | None = None, progress: Progress = False
) -> Vulnerability:
    """The smallest change of some samples by which each attack makes the model miss, in L2."""
    assert isinstance(s.net, Classifier)
    at = list(places)
    labels = s.labels_of(at)
    options: dict[str, Any] = {"norm": "l2", "halvings": _HALVINGS, "seed": seed, "max_memory": max_memory}
    return vulnerability(s.net, s.images[at], labels, progress=progress, **options)


def margins_of(
    s: Spectrum, places: Sequence[int], seed: int, max_memory: float | None = None, progress: Progress = False
) -> MarginTraces:
    """Paths from some samples to every other class, or to the nearest where there are many; all samples beside them."""
    assert isinstance(s.net, Classifier)
    at = list(places)
    targets = "all" if len(s.net.classes) <= 24 else "runner-up"
    labels = s.labels_of(at)
    options: dict[str, Any] = {"targets": targets, "seed": seed, "verify": False, "max_memory": max_memory}
    traces = trace_margins(s.net, s.images[at], labels, progress=progress, **options)
    own = torch.tensor(at)[traces.sample]
    return replace(
        traces, sample=own, images=s.images, labels=None if labels is None else s.labels, probabilities=s.probabilities
    )
