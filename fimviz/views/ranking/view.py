"""The ranking view of a `ModelComparison`: which number puts the models in the order of the attacks?"""

from __future__ import annotations

import html
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import traitlets

from fimviz.ranking.comparison import QUANTITIES, lacking, missing
from fimviz.views.kit.figure import Figure
from fimviz.views.kit.host import Widget
from fimviz.views.kit.numbers import fixed, number
from fimviz.views.kit.payload import Payload
from fimviz.views.ranking.numbers import numbers

if TYPE_CHECKING:
    from fimviz.ranking.comparison import ModelComparison

_HELP = (
    "Spearman's ρ compares two orders of the models: that of a number, and that of how short the attacks are that fool "
    "them. 1 is the same order, 0 none, −1 the reverse. The 95 % interval says what ρ may be for other models like "
    "these: a few models leave it wide. Fragility is measured by gradient descent on each image, and is the median L2 "
    "length of the smallest change that makes the model miss the label, over the images that it gets right; it can "
    "only be too long. The scale of the logits moves λ₁ and no decision boundary, so models are compared by λ₁ at "
    "matched confidence, every image's logits rescaled to a confidence of 0.9; λ₁ as it is says how fast the answers "
    "change in use, and at the fitted temperature how fast they would if the model were calibrated."
)


class Ranking(Widget):
    """The live ranking view."""

    _module = "ranking/view.js"
    _numbers = staticmethod(numbers)
    column = traitlets.Enum(
        [name for name, q in QUANTITIES.items() if q.kind != "measured"],
        "weights_only",
        help="Which number, by its column in the frame. Default: the formula from the weights alone.",
    ).tag(sync=True)


def view(result: ModelComparison, *, max_bytes: int) -> Figure:
    """The view of all models of a comparison."""
    columns = [
        {"name": name, "title": q.title, "short": q.short, "kind": q.kind, "expected": q.expected, "log": q.log}
        | ({k: _plain(v) for k, v in asdict(result.ranks[name]).items()} if name in result.ranks else {})
        for name, q in QUANTITIES.items()
    ]
    models = [
        {"name": name} | {c: _plain(v) for c, v in row.items() if c not in ("missing", "failure")}
        for name, row in result.rows.items()
    ]
    data = {
        "title": title(result),
        "summary": result.summary,
        "help": _HELP,
        "columns": columns,
        "models": models,
        "notes": _notes(result),
    }
    return Figure(
        widget_class=Ranking,
        state={"payload": Payload().pack(data), "column": "weights_only"},
        still=_still(result),
        summary=f"{len(result)} models, {len(columns)} numbers each",
        max_bytes=max_bytes,
    )


def title(result: ModelComparison) -> str:
    """What is seen, in a sentence."""
    if len(result) == 1:
        return f"The numbers of one model, {next(iter(result.models))}: there is no other to compare it with"
    claims = {name: r for name, r in result.ranks.items() if r.pairs}
    formula = claims.pop("weights_only", None)
    if not claims:
        return "No number but accuracy and confidence is known for two of these models"
    every = {"weights_only": formula, **claims} if formula else claims
    if len(result) < 3:
        right = sum(not r.discordant for r in every.values())
        return (
            f"Two models are a single pair: {right} of {len(every)} numbers put{'s' * (right == 1)} it in the order of "
            "the attacks, which names no winner"
        )
    wrong = {name: r.discordant / r.pairs for name, r in every.items()}
    best = [name for name in every if wrong[name] == min(wrong.values())]
    first = every[best[0]]
    same = all(every[name].pairs == first.pairs for name in best)
    said = f": {first.pairs - first.discordant} of {first.pairs} pairs of models are right" if same else ""
    if len(best) == 1:
        text = f"Of {len(every)} numbers, {QUANTITIES[best[0]].title} comes closest to the order of the attacks{said}"
    else:
        text = f"{_listed(best)} come equally close to the order of the attacks{said}"
    if formula and "weights_only" not in best:
        text += f"; by the formula from the weights alone, {formula.pairs - formula.discordant} of {formula.pairs}"
    return text[0].upper() + text[1:]


def _listed(names: list[str], most: int = 3) -> str:
    """Titles of numbers as part of a sentence."""
    titles = [QUANTITIES[name].title for name in names]
    if len(titles) > most:
        titles = [*titles[: most - 1], f"{len(titles) - most + 1} more numbers"]
    return f"{', '.join(titles[:-1])} and {titles[-1]}"


def _notes(result: ModelComparison) -> list[str]:
    """What has no value and why, and what does not compare."""
    notes = [f"{name} has {line}" for name, m in result.models.items() for line in missing(m)]
    for name, m in result.models.items():
        notes += [f"The numbers of {name} leave out {line}" for line in lacking(m)]
    shapes = {m.input_shape for m in result.models.values()}
    if len(shapes) > 1:
        sizes = ", ".join("×".join(map(str, s)) for s in sorted(shapes))
        notes.append(
            f"The models see images of different sizes ({sizes}): λ₁, radii and attacks are each in the units of the "
            "own size and do not compare across them."
        )
    first = next(iter(result.models.values()))
    notes.append(
        f"λ₁, accuracy, confidence and temperature are of {len(first.right)} images, attacks of the first "
        f"{len(first.smallest_attack)}. success: share of these, of the right ones, that an attack within an L2 "
        f"length of {number(result.budget)} fools. T in use: what the logits are divided by; T fitted: under which the "
        "labels are likeliest."
    )
    return notes


def _plain(value: Any) -> Any:
    """As JSON has it: no NaN; infinity by its name."""
    if isinstance(value, str):
        return value
    number = float(value)
    if math.isnan(number):
        return None
    return ("inf" if number > 0 else "-inf") if math.isinf(number) else int(number) if number.is_integer() else number


def _still(result: ModelComparison) -> str:
    shown = (
        "weights_only",
        "equally_sure_spectral_norm",
        "mean_spectral_norm",
        "accuracy",
        "confidence",
        "smallest_attack",
    )
    head = "".join(f"<th>{html.escape(QUANTITIES[c].short)}</th>" for c in shown)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td>" + "".join(f"<td>{number(row[c])}</td>" for c in shown) + "</tr>"
        for name, row in result.rows.items()
    )
    ranks = "".join(
        f"<tr><td>{html.escape(QUANTITIES[name].title)}</td><td>{fixed(r.spearman)}</td>"
        f"<td>{fixed(r.low)} to {fixed(r.high)}</td><td>{html.escape(r.verdict)}</td></tr>"
        for name, r in result.ranks.items()
        if not math.isnan(r.spearman)
    )
    return (
        f"<p><strong>{html.escape(title(result))}</strong><br>{html.escape(result.summary)}</p>"
        f"<table><tr><th>model</th>{head}</tr>{rows}</table>"
        + (f"<table><tr><th>number</th><th>ρ</th><th>95 %</th><th>in words</th></tr>{ranks}</table>" if ranks else "")
    )
