"""What the perturbation view and its panel print and draw: see `fimviz.views.kit.shown`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fimviz.views.kit.numbers import number
from fimviz.views.kit.shown import Cell, Page, Row, cell, chance, rows, surely, table, with_error, words

_NAMED = 5  # numbers of one answer that are said in words
_SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def numbers(page: Page) -> Iterator[Row]:
    """The title, the panel of the chosen sample, and the table of all samples."""
    data = page.data
    sample = next((s for s in data["samples"] if s["index"] == page.state["index"]), data["samples"][0])
    first = sample["directions"][0]
    place = {"place": cell(sample["place"]), "of": cell(data["total"])}
    yield from rows("title", f"sample {sample['index']}", {"λ₁": with_error(first["value"], first["error"]), **place})
    yield from rows("sample", f"sample {sample['index']}", _said(data, sample))
    yield from panel(data, sample, page.state)
    lines = []
    for s in data["samples"]:
        λ = s["directions"][0]
        norms = with_error(s["trace"], s["traceError"]), with_error(s["frobenius"], s["frobeniusError"])
        said = _said(data, s).values()
        lines.append((s["index"], (*said, cell(λ["value"]), *norms, cell(λ["error"], number, 2))))
    head = (*_said(data, data["samples"][0]), "λ₁", "trace", "‖F‖", "error of λ₁")
    yield from table("all samples shown", head, lines)


def _said(data: Mapping[str, Any], sample: Mapping[str, Any]) -> dict[str, Cell]:
    labelled = data["samples"][0]["label"] is not None
    return {
        **({"label": words(outcome(data, sample["label"]))} if labelled else {}),
        "prediction": words(outcome(data, sample["prediction"])),
        "confidence": surely(sample["doubt"]),
    }


def panel(data: Mapping[str, Any], sample: Mapping[str, Any], state: Mapping[str, Any]) -> Iterator[Row]:
    """What is shown of a sample and a direction: the step, the spectrum, and the curves where they are known."""
    order = max(0, min(state["direction"], len(sample["directions"]) - 1))
    d, sign = sample["directions"][order], -1 if state["flipped"] else 1
    epsilon = max(-sample["reach"], min(sample["reach"], state["epsilon"]))
    called = f"v{_below(order + 1)}"
    eps, kl, raw = nodes(sample["reach"], d), _floats(d["kl"]), _floats(d.get("logp") or d["means"])
    now = curve_at(d, eps, sign * epsilon, data["exclusive"])
    means = "means" in d
    here = {
        "ε": cell(epsilon),
        "L∞": cell(abs(epsilon) * d["linf"]),
        "KL measured": cell(now.kl),
        "½ε²λ predicted": cell(now.quadratic),
        "says": words(outcome(data, now.outcome, d["shown"] if means else None)),
    }
    if data["exclusive"] and not means:
        log = now.said[d["shown"].index(now.outcome)]
        here["probability"] = chance(math.exp(log), -math.expm1(log))
    yield from rows("here", f"sample {sample['index']}, {called}", here)
    yield from rows("colours", called, {"end": cell(d["limit"])})
    lines: list[tuple[object, list[Cell]]] = [
        (f"λ{_below(k + 1)}", [cell(one["value"], number, 6), cell(one["error"], number, 2), *map(_flip, one["flips"])])
        for k, one in enumerate(sample["directions"])
    ]
    yield from table("the spectrum of this sample", ("eigenvalue", "error", "flip at −ε", "flip at +ε"), lines)
    names = [_name(data, c) for c in d["shown"]]
    head = names if means else [f"p({name})" for name in names]
    lines = []
    for i in range(len(eps))[::sign]:
        if i + 1 < len(eps) and eps[i] == eps[i + 1]:
            continue
        said = [cell(row[i]) if means else chance(math.exp(row[i]), -math.expm1(row[i])) for row in raw]
        lines.append((number(sign * eps[i]), [*said, cell(kl[i]), cell(0.5 * eps[i] ** 2 * d["value"])]))
    yield from table(f"along {called}", (*head, "KL (nats)", "½ε²λ"), lines)


class Curves(NamedTuple):
    """What the model says at a step: log-probabilities or means of the outputs shown, the outcome, and both KL."""

    said: np.ndarray
    outcome: Any
    quadratic: float
    kl: float


def nodes(reach: float, direction: Mapping[str, Any]) -> np.ndarray:
    """The distances at which a direction was asked: an even grid over ±reach and two more, or what is given."""
    count = len(direction["kl"]) - len(direction["at"])
    return np.sort([*((2 * np.arange(count) / (count - 1) - 1) * reach), *direction["at"]])


def curve_at(direction: Mapping[str, Any], eps: np.ndarray, epsilon: float, exclusive: bool) -> Curves:
    """Between the distances that were asked, by the rule of `curveAt` in panel.js."""
    kl, value, outcomes = _floats(direction["kl"]), direction["value"], direction["outcomes"]
    i = int(np.clip(np.searchsorted(eps, epsilon, "right") - 1, 0, len(eps) - 2))
    t = 0.0 if eps[i] == eps[i + 1] else float(np.clip((epsilon - eps[i]) / (eps[i + 1] - eps[i]), 0, 1))
    means = "means" in direction
    rows = _floats(direction["means"] if means else direction["logp"])
    said = rows[:, i] + t * (rows[:, i + 1] - rows[:, i])
    if exclusive and 0 < t < 1 and not means:
        said = said - np.log(np.exp(said).sum())
    quadratic = 0.5 * epsilon**2 * value
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(kl[i : i + 2] / (0.5 * eps[i : i + 2] ** 2 * value))
    a, b = (ratio[1], ratio[1]) if eps[i] == 0 else (ratio[0], ratio[0]) if eps[i + 1] == 0 else ratio
    smooth = math.isfinite(a) and math.isfinite(b)
    between = quadratic * math.exp(a + t * (b - a)) if smooth else kl[i] + t * (kl[i + 1] - kl[i])
    before, after = outcomes[i], outcomes[i + 1]

    def likely(o: Any) -> float:
        if isinstance(o, list):
            return -abs(epsilon - float(eps[i if o == before else i + 1]))
        return float(said[direction["shown"].index(o)])

    if means:
        met: Any = said.tolist()
    else:
        met = before if t == 0 else after if t == 1 or likely(after) > likely(before) else before
    return Curves(said, met, quadratic, float(between))


def outcome(data: Mapping[str, Any], said: Any, shown: list[int] | None = None) -> str:
    """What a model gives in words: a class, the labels that are on, or the numbers of the outputs `shown`."""
    classes = data["classes"]
    if data.get("numbers"):
        outputs = list(range(len(classes)) if shown is None else shown)[:_NAMED]
        names = [f"{_name(data, c)} " if len(classes) > 1 else "" for c in outputs]
        texts = [name + number(v) for name, v in zip(names, said, strict=False)]
        return ", ".join(texts) + (" …" if len(classes) > _NAMED else "")
    if isinstance(said, list):
        return " + ".join(_name(data, c) for c in said) or "no label"
    return _name(data, said)


def _name(data: Mapping[str, Any], c: int) -> str:
    return "others" if c < 0 else str(data["classes"][c])


def _flip(at: float | None) -> Cell:
    return words("none") if at is None else cell(at)


def _floats(values: Any) -> np.ndarray:
    """JSON's null is a number that does not exist."""
    return np.array(values, dtype=float)


def _below(n: int) -> str:
    return str(n).translate(_SUBSCRIPT)
