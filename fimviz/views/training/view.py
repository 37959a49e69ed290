"""The training view of a `TrainingHistory`: what did training do to accuracy and to sensitivity?"""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

import traitlets

from fimviz.training.measure import MEASURED
from fimviz.views.kit.figure import Figure
from fimviz.views.kit.host import Widget
from fimviz.views.kit.numbers import number
from fimviz.views.kit.payload import Payload
from fimviz.views.training.numbers import numbers

if TYPE_CHECKING:
    from fimviz.training.history import TrainingHistory

_HELP = (
    "All numbers are of a fixed probe set, which the model is not trained on. F is the Fisher information of the "
    "model's answer with respect to the image: moving an image by ε along the worst direction changes the answer by "
    "KL ≈ ½ ε² λ₁ nats. CCKL is the mean KL divergence between the answers to two images of different classes, and "
    "says how well the model tells them apart. F falls when a model becomes sure of its answers, also where it is "
    "not robust: so the mean confidence is drawn beside the accuracy."
)
QUANTITIES = ("mean_frobenius", "mean_spectral_norm", "median_spectral_norm", "mean_trace")
_MOST = 400  # records of a run that a chart can hold


class Training(Widget):
    """The live training view; its payload grows with the run."""

    _module = "training/view.js"
    _numbers = staticmethod(numbers)
    step = traitlets.Int(
        -1,
        help="At which step the numbers are read, −1 at the newest record; between two records it becomes the earlier. "
        "Default: −1.",
    ).tag(sync=True)
    quantity = traitlets.Enum(
        QUANTITIES, "mean_frobenius", help="Which number of the Fisher information. Default: mean_frobenius."
    ).tag(sync=True)

    steps: tuple[int, ...] = ()  # that the page has records of

    @traitlets.validate("step")
    def _recorded(self, proposal: Any) -> int:
        if proposal.value < 0 or not self.steps:
            return -1
        return max((s for s in self.steps if s <= proposal.value), default=self.steps[0])


def view(result: TrainingHistory, *, max_bytes: int) -> Figure:
    """The view of all runs of a history."""
    runs = [_run(name, records) for name, records in result.runs.items()]
    data = {
        "title": title(result),
        "summary": _summary(result),
        "help": _HELP,
        "runs": runs,
    }
    return Figure(
        widget_class=Training,
        state={"payload": Payload().pack(data), "step": -1, "quantity": "mean_frobenius"},
        setup={"steps": tuple(sorted({s for run in runs for s in run["step"]}))},
        still=_still(result),
        summary=f"{len(result.runs)} training runs, {len(result)} records",
        max_bytes=max_bytes,
    )


def _run(name: str, records: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """A run as columns; of a long one every so many records, the first and the newest among them."""
    stride = -(-len(records) // _MOST) or 1
    shown = records[::stride]
    if records and shown[-1] is not records[-1]:
        shown = (*shown, records[-1])
    columns = {key: [r.get(key) for r in shown] for key in ("step", *MEASURED, "seconds", "note")}
    return {"name": name, "records": len(records), **columns}


def title(result: TrainingHistory) -> str:
    """What is seen, in a sentence."""
    last = {name: r for name, r in result.last.items() if r["mean_frobenius"]}
    if not len(result):
        return f"Waiting for the first record of {', '.join(result.runs)}"
    if len(result.runs) == 1:
        ((name, records),) = result.runs.items()
        first, now = records[0], records[-1]
        if now["note"]:
            return f"At step {now['step']}: {now['note']}"
        if len(records) == 1 or not (first["mean_frobenius"] and now["mean_frobenius"]):
            return f"{name} at step {now['step']}: accuracy {number(now['accuracy'])}"
        change = now["mean_frobenius"] / first["mean_frobenius"]
        grown = f"grows {_times(change)}" if change >= 1 else f"falls {_times(1 / change)}"
        return (
            f"From step {first['step']} to {now['step']} accuracy goes from {number(first['accuracy'])} to "
            f"{number(now['accuracy'])}, and mean ‖F‖_F {grown}"
        )
    if len(last) < 2:
        return f"{len(last)} of {len(result.runs)} runs have a Fisher information to compare"
    low, high = (f(last, key=lambda name: last[name]["mean_frobenius"]) for f in (min, max))
    factor = last[high]["mean_frobenius"] / last[low]["mean_frobenius"]
    return (
        f"Mean ‖F‖_F of {high} is {number(factor)} times that of {low} in the end, at accuracies of "
        f"{number(last[high]['accuracy'])} and {number(last[low]['accuracy'])}"
    )


def _times(factor: float) -> str:
    return f"{number(factor, 2)}-fold" if factor < 1e5 else f"by {number(math.log10(factor), 2)} decades"


def _summary(result: TrainingHistory) -> str:
    runs, sizes = len(result.runs), sorted(set(result.samples.values()))
    seconds = sum(r["seconds"] for records in result.runs.values() for r in records)
    images = " or ".join(map(str, sizes))
    return (
        f"{runs} {'run' if runs == 1 else 'runs'}, {len(result)} {'record' if len(result) == 1 else 'records'} on "
        f"{images} images, {number(seconds, 2)} s of measuring."
    )


def _still(result: TrainingHistory) -> str:
    """What is seen without scripts: up to ten records of each run."""
    shown = ("accuracy", "confidence", "loss", "cckl", "mean_frobenius", "median_spectral_norm")
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in ("run", "step", *shown))
    rows = []
    for name, records in result.runs.items():
        stride = -(-len(records) // 9) or 1
        for record in dict.fromkeys([*range(0, len(records), stride), len(records) - 1] if records else []):
            r = records[record]
            cells = "".join(f"<td>{number(r[c], 4)}</td>" for c in shown)
            rows.append(f"<tr><td>{html.escape(name)}</td><td>{r['step']}</td>{cells}</tr>")
    return (
        f"<p><strong>{html.escape(title(result))}</strong><br>{html.escape(_summary(result))}</p>"
        f"<table><tr>{head}</tr>{''.join(rows)}</table>"
    )
