"""A run's JSON as lines on the screen and as docs/gpu.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Record = dict[str, Any]

_HEAD = """\
# On a GPU

Made by `python -m tests.gpu --table results.json` of one run of `python -m tests.gpu`, which CONTRIBUTING.md tells how
to start. Checks compare with float64 on the CPU; figures are seconds, medians of up to five runs. The floor is one
forward pass and K−1 vector-Jacobian products toward the input in float32, the best of a loop and of batches of 8, 64
and 512, by `is_grads_batched` and by `torch.func.vmap` (with --quick of a loop and of 64 by `vmap`). Where K−1 passes
would take minutes, exact costs are continued in a straight line from two smaller numbers of classes. All without TF32,
but for the column that says so. Images are noise and weights random: neither moves a cost.
"""
_GOALS = """\
A goal that is marked **no** was missed by what stands beside it; one that was not reached in time is not listed. With
few classes the floor has few passes, and three things show beside them: how rounding is measured (a VJP, in float32
alone forward passes and VJPs at up to four neighbours), the forward pass in float64, whose operations Python hands to
the card one by one, and checks, fingerprints and images on their way, part of "dispatch and waiting" below. Lanczos
keeps what it works with on the processor, and waits for the card once a step.
"""


def line(record: Record) -> str:
    """One task on one line."""
    rest = {k: v for k, v in record.items() if k not in ("name", "part", "status", "seconds", "trace")}
    said = ", ".join(f"{k} {_number(v)}" for k, v in rest.items() if not isinstance(v, dict))
    return f"{record['status']}: {record['name']} ({record.get('seconds', 0):g} s) {said[:400]}"


def document(found: Record) -> str:
    """The whole page."""
    done = [t for t in found["tasks"] if t["status"] == "ok"]
    figures = [t for t in done if t["part"] == "figures"]
    parts = [_HEAD, _table(("", ""), found["machine"].items())]
    if any("floor" in t for t in figures):
        parts += ["## Goals", _GOALS, _table(("goal", "measured", "met"), _goals(figures))]
    checks = [t for t in found["tasks"] if t["part"] == "checks"]
    if checks:
        right = sum(t["status"] == "ok" for t in checks)
        rows = [(t["name"], t["status"], line(t).split(") ", 1)[1]) for t in checks]
        parts += ["## Checks", f"{right} of {len(checks)} right.", _table(("check", "", "measured"), rows)]
    settings = sorted((t for t in figures if "floor" in t), key=lambda t: (t["network"], t["K"], t["batch"]))
    if settings:
        parts += ["## Seconds", _table(_COSTS, map(_costs, settings))]
        parts += ["## Memory, and where the time goes", _SHARES_SAID, _table(_SHARES, _shares(settings))]
    for title, sign, said in _OTHERS:
        some = [t for t in figures if t["name"].startswith(sign)]
        if some:
            names = list(dict.fromkeys(k for t in some for k in t if k not in ("name", "part", "status", "seconds")))
            parts += [f"## {title}", said, _table(names, ([_number(t.get(n)) for n in names] for t in some))]
    missed = [t for t in found["tasks"] if t["status"] not in ("ok", "no time left") and t["part"] == "figures"]
    late = sum(t["status"] == "no time left" for t in found["tasks"])
    if missed or late:
        parts.append("## Not measured")
        if late:
            parts.append(f"{late} of {len(found['tasks'])} tasks were not reached in the time that there was.")
    if missed:
        rows = [(t["name"], t["status"], str(t.get("error", "")).split("\n")[0][:160]) for t in missed]
        parts.append(_table(("figure", "", "why"), rows))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


_COSTS = (
    *("network", "K", "batch", "forward", "forward, TF32", "floor", "floor by", "vmap(jacrev) + Gram", "exact"),
    *("÷ floor", "exact, verified", "lanczos", "÷ its passes", "lanczos, verified"),
)


def _costs(t: Record) -> list[str]:
    known = t | {"÷ floor": _ratio(t, "exact", "floor"), "÷ its passes": _ratio(t, "lanczos", "lanczos: its passes")}
    return [_number(known.get(name)) for name in _COSTS]


_SHARES_SAID = """\
Exact spectra of more than 16 classes with the first 17 of them. Shares of the time: kernels and transfers on the card,
the class-space eigenproblem on the processor; the rest is dispatch, and waiting for it.
"""
_SHARES = (*("network", "K", "batch", "method", "GB", "kernels", "transfers", "eigenproblem", "dispatch and waiting"),)


def _shares(settings: Iterable[Record]) -> Iterable[Sequence[str]]:
    for t in settings:
        for method in ("exact", "exact, verified", "lanczos", "lanczos, verified"):
            if time := t.get(f"{method}: time"):
                shares = ("–" if time.get(name) is None else f"{100 * time[name]:.1f} %" for name in _SHARES[5:])
                yield [t["network"], str(t["K"]), str(t["batch"]), method, _number(t[f"{method}: GB"]), *shares]


_OTHERS = (
    ("Against the machine's own processor", "processor", "`fv.spectrum` with k = 1, images a second."),
    ("What float64 costs", "float64", "Seconds."),
    (
        "The class-space eigenproblem",
        "class space",
        "Seconds of `torch.linalg.eigh` in float64: on the processor with the way from the card, and on the card.",
    ),
)


def _goals(figures: Sequence[Record]) -> list[Sequence[str]]:
    """Those of a card of the H100 class, of settings with a batch that fills it."""
    rows = []

    def goal(wanted: str, t: Record, above: str, below: str, limit: float) -> None:
        if (ratio := _ratio(t, above, below)) is not None:
            at = f"{t['network']}, K = {t['K']}, batch {t['batch']}"
            rows.append((f"{wanted} ({at})", f"{ratio:.2f}×", "yes" if ratio <= limit else "**no**"))

    for t in figures:
        if "floor" in t and t["batch"] > 1:
            goal("exact ≤ 1.1× its floor", t, "exact", "floor", 1.1)
            goal("verified ≤ 1.3× unverified, exact", t, "exact, verified", "exact", 1.3)
            goal("verified ≤ 1.3× unverified, Lanczos", t, "lanczos, verified", "lanczos", 1.3)
            if t["K"] == 1000:
                goal("Lanczos ≤ 1.2× its own passes", t, "lanczos", "lanczos: its passes", 1.2)
        times = _ratio(t, "device: images/s", "own processor: images/s")
        if times is not None and t["network"] == "ResNet-50":
            wanted = f"≥ 20× the processor's {t['cores']} cores (ResNet-50, K = {t['K']})"
            rows.append((wanted, f"{times:.1f}×", "yes" if times >= 20 else "**no**"))
    return rows


def _ratio(t: Record, above: str, below: str) -> float | None:
    a, b = t.get(above), t.get(below)
    return None if a is None or b is None else a / b


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in row) + " |" for row in lines
    )
