"""The view of an `AdversarialDistance`: how far with a proof, and how far until an attack succeeds?"""

from __future__ import annotations

import html
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
import traitlets

from fimviz._quantile import median
from fimviz.views.distance.numbers import numbers
from fimviz.views.kit.figure import Figure
from fimviz.views.kit.host import Widget
from fimviz.views.kit.inputs import caution, finite, still_of_lost
from fimviz.views.kit.numbers import number, percent
from fimviz.views.kit.palette import PALETTE
from fimviz.views.kit.payload import Payload

if TYPE_CHECKING:
    from fimviz.distance import AdversarialDistance, ModelDistance

_HELP = (
    "A certified radius is a proof: no shorter change within the range of pixels makes the model miss, whatever its "
    "direction. "
    "An attack is a change that was seen to make it miss, so that the smallest such change, the adversarial distance, "
    "can only be shorter. It lies on the bar between both; how long the bar is says how little is known. Counted over "
    "the images at a budget ε, both sides enclose robust accuracy: at least the share that is certified stays right "
    "whatever the change, at most the share that no attack has changed."
)
_DECADES = 6  # below the longest attack, in which an axis shows radii
_ENDLESS = 1e99  # from which on a radius, of a network that never changes, is drawn as attacks that were not found
_GRID = 25  # budgets in the table
ORDERS = {"attacked": "smallest attack", "certified": "certified radius", "ratio": "their ratio", "sample": "sample"}


class DistanceView(Widget):
    """The live view of an adversarial distance."""

    _module = "distance/view.js"
    _numbers = staticmethod(numbers)
    model = traitlets.Unicode(help="Whose images are shown, by its name. Default: the first model.").tag(sync=True)
    epsilon = traitlets.Float(
        0.0,
        help="The budget ε at which robust accuracy is read, L2 in pixel units, within the axis. Default: between the "
        "medians of both sides.",
    ).tag(sync=True)
    order = traitlets.Enum(list(ORDERS), "attacked", help="By what the images are sorted. Default: the attack.").tag(
        sync=True
    )
    sample = traitlets.Int(0, help="Which image is told of, by its place. Default: the first one computed.").tag(
        sync=True
    )

    @traitlets.validate("model", "sample")
    def _shown(self, proposal: Any) -> Any:
        return self.fitting(proposal.trait.name, proposal.value)

    @traitlets.validate("epsilon")
    def _within(self, proposal: Any) -> float:
        return float(self.fitting("epsilon", proposal.value))


def view(result: AdversarialDistance, *, max_bytes: int) -> Figure:
    """The view of all models and images of a result."""
    models = [_of_model(result, name, PALETTE[i % len(PALETTE)]) for i, name in enumerate(result.models)]
    low, high, below, beyond = axis(result)
    inner = torch.linspace(low, high, _GRID, dtype=torch.float64)
    first = next(iter(result.models.values()))
    data = {
        "help": _HELP,
        "kept": "right" if first.labels is not None else "unchanged",
        "labelled": first.labels is not None,
        "orders": list(ORDERS.items()),
        "axis": [low, high],
        "below": below,
        "beyond": beyond,
        "grid": [0.0, *(10**inner).tolist()],
        "models": models,
        "caution": "; ".join(dict.fromkeys(filter(None, (caution(m.net) for m in result.models.values())))),
        "lost": [
            (place, f"{name}: {why}" if len(models) > 1 else why)
            for name, m in result.models.items()
            for place, why in sorted(m.failures.items())
        ],
        "notes": _notes(result),
    }
    places = sorted({place for m in models for place in m["places"]})
    return Figure(
        widget_class=DistanceView,
        state={
            "payload": Payload().pack(data),
            "model": models[0]["name"],
            "epsilon": min(10**high, max(10**low, _between(first))),
            "order": "attacked",
            "sample": places[0],
        },
        setup={
            "offered": {"model": tuple(result.models), "sample": places},
            "limits": {"epsilon": (10**low, 10**high)},
        },
        still=_still(result),
        summary=f"{len(result)} images, {len(models)} model{'s' * (len(models) > 1)}",
        max_bytes=max_bytes,
    )


def axis(result: AdversarialDistance) -> tuple[float, float, str, bool]:
    """log₁₀ of both ends of the axis, what stands for radii below it, if any, and whether lengths lie beyond."""
    sides = torch.cat([side[m.computed] for m in result.models.values() for side in (m.certified, m.attacked)])
    known = sides[(sides > 0) & (sides < _ENDLESS)]
    logs = known.log10()
    shown = logs[logs > float(logs.max()) - _DECADES] if len(known) else torch.tensor([-1.0, 0.0])
    low, high = float(shown.min()), float(shown.max())
    air = max(0.05, 0.03 * (high - low))
    below = "≈ 0" if len(known) and len(shown) < len(known) else "0" if (sides == 0).any() else ""
    return low - air, high + air, below, bool((sides > 10 ** (high + air)).any())


def _of_model(result: AdversarialDistance, name: str, color: str) -> dict[str, Any]:
    m = result.models[name]
    c, at = m.certificate, m.computed.tolist()
    told = m.net.likelihood, m.net.classes
    found = m.attacked.isfinite()

    def said(outcomes: Any, known: Any = None) -> list[str]:
        return [told[0].said(outcomes[i], told[1]) if known is None or known[i] else "–" for i in at]

    return {
        "name": name,
        "color": color,
        "title": title(m, name if len(result.models) > 1 else ""),
        "summary": _summary(m),
        "places": at,
        "correct": m.correct[at].tolist(),
        "certified": m.certified[at].tolist(),
        "attacked": [finite(e) for e in m.attacked[at].tolist()],
        "labels": said(c.predictions if m.labels is None else m.labels),
        "predictions": said(c.predictions),
        "attack_predictions": said(m.attack_predictions, found),
        "methods": [c.method[i] if m.correct[i] else "" for i in at],
        "reasons": [m.reasons[i] for i in at],
    }


def title(m: ModelDistance, name: str = "") -> str:
    """What is seen of one model, in a sentence."""
    count, low, high = (int(m.correct.sum()), *_medians(m))
    answer = "answer" if m.labels is None else "right answer"
    those = f"the one {answer}" if count == 1 else f"{count} {answer}s"
    if count > 1 and (m.certified > 0).any():
        those = f"half of {those}"
    verb, some = ("withstands", "it falls") if count == 1 else ("withstand", "half fall")
    proven = f"{those} {verb} every change below ε = {number(low)}" if low else f"nothing is proven of {those}"
    if 0 < low < 10.0**-_DECADES * high:
        proven = f"next to nothing is proven of {those}, below ε = {number(low)}"
    change = "one" if "change" in proven else "a change"
    none = "no attack was found" + " for half of them" * bool(m.attacked[m.correct].isfinite().any())
    found = f"{some} to {change} of {number(high)}" if math.isfinite(high) else none
    text = f"{proven}, and {found}" if count else "every label is missed without a change"
    return f"{name}: {text}" if name else text[0].upper() + text[1:]


def _medians(m: ModelDistance) -> tuple[float, float]:
    return median(m.certified[m.correct]), median(m.attacked[m.correct])


def _between(m: ModelDistance) -> float:
    low, high = _medians(m)
    if not math.isfinite(high):
        return low if math.isfinite(low) else 0.0
    return math.sqrt(max(low, high / 4) * high)


def _summary(m: ModelDistance) -> str:
    count = len(m.computed)
    told = f"{count} image{'s' * (count != 1)}"
    if m.labels is not None:
        told += f" · accuracy {percent(int(m.correct.sum()) / count)}"
    ratio = median(m.ratio[m.correct])
    methods = Counter(method for method, right in zip(m.certificate.method, m.correct.tolist(), strict=True) if right)
    ways = ", ".join(f"{way or 'none'} {many}" for way, many in sorted(methods.items()))
    return f"{told} · attack ÷ certificate, median {number(ratio)} · certified by: {ways or 'none'}"


def _notes(result: AdversarialDistance) -> list[str]:
    """Why radii are 0 or from the norms alone, and which attacks were not found."""
    notes = []
    for name, m in result.models.items():
        for why, many in Counter(filter(None, m.reasons)).items():
            where = f"{name}, " if len(result.models) > 1 else ""
            notes.append(f"{where}{many} image{'s' * (many > 1)}: {why}.")
    return notes


def _still(result: AdversarialDistance) -> str:
    rows = ""
    for name, m in result.models.items():
        low, high = _medians(m)
        rows += (
            f"<tr><td>{html.escape(name)}</td><td>{int(m.correct.sum())} of {len(m.computed)}</td>"
            f"<td>{number(low)}</td><td>{number(high)}</td></tr>"
        )
    first, m = next(iter(result.models.items()))
    shown = title(m, first if len(result.models) > 1 else "")
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in _notes(result))
    lost = "".join(still_of_lost(m.failures) for m in result.models.values())
    return (
        f"<p><strong>{html.escape(shown)}</strong><br>{html.escape(_summary(m))}</p>"
        f"<table><tr><th>model</th><th>right</th><th>median certified radius</th><th>median smallest attack</th></tr>"
        f"{rows}</table>{notes}{lost}"
    )
