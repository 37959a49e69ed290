"""The view of a `LocalAccuracy`: up to what size of a change does ½ δᵀFδ tell its divergence?"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import traitlets

from fimviz.attacks.table import attack_of
from fimviz.divergence.localaccuracy import budget
from fimviz.views.kit.figure import Figure
from fimviz.views.kit.host import Widget
from fimviz.views.kit.inputs import caution, finite, lost, still_of_lost
from fimviz.views.kit.numbers import near_one, number, percent
from fimviz.views.kit.palette import PALETTE
from fimviz.views.kit.payload import Payload
from fimviz.views.localaccuracy.numbers import numbers

if TYPE_CHECKING:
    from fimviz.divergence.localaccuracy import LocalAccuracy

NAMES = {"linf": "L∞", "l2": "L2"}


class LocalAccuracyView(Widget):
    """The live view of local accuracy."""

    _module = "localaccuracy/view.js"
    _numbers = staticmethod(numbers)
    position = traitlets.Int(0, help="Which budget, by its place among them. Default: the last.").tag(sync=True)

    @traitlets.validate("position")
    def _shown(self, proposal: Any) -> int:
        return int(self.fitting("position", proposal.value))


def view(result: LocalAccuracy, *, max_bytes: int) -> Figure:
    """A panel a norm, a line a direction; a slider over the budgets tells the numbers."""
    frame = result.frame
    count = result.epsilons.shape[1]
    panels = []
    for a, norm in enumerate(result.norms):
        lines = []
        for direction, color in zip(result.directions, PALETTE, strict=False):
            rows = frame[(frame.norm == norm) & (frame.direction == direction)]
            numbers: dict[str, Any] = {
                name: [finite(v) for v in rows[name].tolist()] for name in ("median", "q25", "q75", "pooled", "kl")
            }
            numbers |= {name: rows[name].astype(int).tolist() for name in ("measured", "zero", "failed")}
            lines.append(
                {"name": called(direction), "color": color, "length": [finite(v) for v in rows.length], **numbers}
            )
        budgets = result.epsilons[a].tolist()
        panels.append({"norm": NAMES[norm], "budgets": budgets, "names": [budget(e) for e in budgets], "lines": lines})
    data = {
        "title": title(result),
        "count": len(result),
        "caution": caution(result.net),
        "lost": lost(result.failures),
        "panels": panels,
    }
    return Figure(
        widget_class=LocalAccuracyView,
        state={"payload": Payload().pack(data), "position": count - 1},
        setup={"offered": {"position": range(count)}},
        still=_still(result) + still_of_lost(result.failures),
        summary=f"local accuracy of {len(result)} inputs at {count} budgets",
        max_bytes=max_bytes,
    )


def _still(result: LocalAccuracy) -> str:
    parts = [f"<p><strong>{html.escape(title(result))}</strong></p>"]
    for norm in result.norms:
        table = result.table(norm=norm)
        head = "".join(f"<th>{html.escape(str(c))}</th>" for c in table.columns)
        rows = "".join(
            f"<tr><td>{html.escape(str(name))}</td>" + "".join(f"<td>{near_one(v)}</td>" for v in row) + "</tr>"
            for name, row in zip(table.index, table.to_numpy().tolist(), strict=True)
        )
        parts.append(
            f"<p>Median of |KL − ½ δᵀFδ| ÷ KL, budget in {NAMES[norm]}</p>"
            f"<table><tr><th>direction</th>{head}</tr>{rows}</table>"
        )
    return "".join(parts)


def called(direction: str) -> str:
    """A direction in the fewest words."""
    return "the worst direction" if direction == "worst" else attack_of(direction).short.split(",")[0]


def title(result: LocalAccuracy) -> str:
    """What is seen, in a sentence."""
    rows = result.frame[(result.frame.norm == result.norms[0]) & (result.frame.direction == result.directions[0])]
    first, last = (rows.iloc[k] for k in (0, -1))
    norm = NAMES[result.norms[0]]
    what = called(result.directions[0])
    if not int(rows.measured.sum()):
        return f"No change along {what} moves the prediction: KL is 0, or no number, at every image"
    near, far = (_off(end["median"]) for end in (first, last))
    if near.split()[-1] == far.split()[-1]:
        far = far.rsplit(maxsplit=1)[0]
    return (
        f"Along {what} ½ δᵀFδ is {near} at {budget(first.epsilon)} and {far} at {budget(last.epsilon)} "
        f"({norm}, median of {int(last.measured)} images)"
    )


def _off(error: float) -> str:
    # what is more than twice KL is error + 1 times KL, as ½ δᵀFδ is not negative
    return f"{number(1 + error)} times KL" if error > 10 else f"{percent(error)} off"
