"""What the training view prints and draws: see `fimviz.views.kit.shown`."""

from __future__ import annotations

from collections.abc import Iterator

from fimviz.views.kit.shown import Page, Row, cell, rows, table, words

_COLUMNS = {
    "accuracy": "accuracy",
    "confidence": "confidence",
    "loss": "loss",
    "train_loss": "training loss",
    "cckl": "CCKL",
    "mean_frobenius": "mean ‖F‖_F",
    "mean_spectral_norm": "mean λ₁",
    "median_spectral_norm": "median λ₁",
    "mean_trace": "mean trace",
    "seconds": "seconds",
}


def numbers(page: Page) -> Iterator[Row]:
    """The title, what is read at the chosen step, and the records of each run, which are its curves."""
    data, state = page.data, page.state
    yield from rows("title", "all", {"title": words(data["title"])})
    steps = sorted({s for run in data["runs"] for s in run["step"]})
    if steps:
        step = steps[-1] if state["step"] < 0 else max((s for s in steps if s <= state["step"]), default=steps[0])
        shown = ("accuracy", "confidence", "loss", "cckl", state["quantity"])
        for run in data["runs"]:
            at = sum(s <= step for s in run["step"]) - 1
            values = {_COLUMNS[name]: cell(None if at < 0 else run[name][at]) for name in shown}
            yield from rows(f"step {step}", run["name"], values)
    for run in data["runs"]:
        lines = [
            (step, [*(cell(run[name][i]) for name in _COLUMNS), words(run["note"][i] or "")])
            for i, step in enumerate(run["step"])
        ]
        caption = f"{run['name']}, {len(run['step'])} of {run['records']} records"
        yield from table(caption, (*_COLUMNS.values(), "note"), lines)
