"""Which networks work, and at which cost: python -m tests.compatibility [NAME …].

Every network runs in a process of its own, with a limit on its time, and what it gives is written down at once: a run
that was stopped goes on where it was, and one with a larger limit at what a smaller one has cut off. `--again` forgets
the rows of the networks that are named, of all without a name. At the end docs/compatibility.md is written from all
that is known. `--sample` measures one network of each kind and writes nothing.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import math
import multiprocessing
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tests.compatibility.measure import COLUMNS, cells
from tests.compatibility.networks import NETWORKS, SAMPLE

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "compatibility.md"
_SMALL = 2e-3  # seconds of a forward pass, below which all that counts is what every call costs
_PATIENCE = 8.0  # times the limit, that a network may take where other programs share the processor
KINDS = ("torchvision", "timm", "transformers", "others")
LEGEND = """\
One input, random weights, running statistics of one batch of noise; images are smooth noise of the size in the table.
A cost, behind the dot, is in forward passes of the same input under `no_grad` (in seconds where such a pass takes less
than 2 ms), by the time of the one thread that computes: other programs shared the processor. What a new model's first
use takes beside it, its probe, is not in it. A network that is not listed has not been measured yet.

* **exact**: `fv.spectrum(net, x, method="exact")`, ten classes. The number is how far λ₁ is from that of
  plain autograd in float64, relative. It lies within the stated error, or the cell says **wrong**;
  "void" is fimviz's word where it doubts that the gradient describes the network at all.
* **lanczos**: `method="lanczos", k=1`, a thousand classes, likewise.
* **bounds**: `local_bound` ("at x") and `network_bound` ("everywhere"), none below ‖∂z/∂x‖ of float64's autograd.
* **certificate**: the radius of `fv.certified_radius(net, x, method="norms", attack=False)`, which needs a bound that
  holds everywhere.
* **paths**: how `fv.trace_margins` to the second class ended, in at most 30 steps.
* **view**: how large the spectrum's page is, and what making it takes: the curves along its eigenvectors.

A number is the sentence below the tables with which it is refused; **failed** is an error that is not one of fimviz's
own."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compatibility", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="networks, by default all")
    parser.add_argument("--sample", action="store_true", help="one of each kind, and no table")
    parser.add_argument("--again", action="store_true", help="measure what is known already")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds of its processor that a network may take")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "compatibility.jsonl", help="what is known")
    given = parser.parse_args()
    import timm  # noqa: F401
    import torchvision  # noqa: F401
    import transformers  # noqa: F401

    if unknown := [name for name in given.names if name not in NETWORKS]:
        parser.error(f"no network is called {unknown[0]!r}; there are {', '.join(NETWORKS)}")
    names = given.names or (SAMPLE if given.sample else NETWORKS)
    known = {} if given.sample else read(given.results)
    for name in names:
        if name in known and not given.again and known[name]["limit"] >= given.limit:
            continue
        known[name] = row = measured(name, given.limit)
        print(" | ".join([name, *(_words(row.get(column)) for column in ("unit", *COLUMNS))]), flush=True)
        if not given.sample:
            given.results.parent.mkdir(exist_ok=True)
            with given.results.open("a") as file:
                file.write(json.dumps([name, row]) + "\n")
    if not given.sample:
        TABLE.write_text(table(known), encoding="utf-8")
    bad = [name for name in names for cell in _cells(known[name]) if cell["verdict"] in ("wrong", "failed")]
    return 1 if bad else 0


def read(results: Path) -> dict[str, Any]:
    """The last row of every network."""
    return dict(json.loads(line) for line in results.read_text().splitlines()) if results.exists() else {}


def measured(name: str, limit: float) -> dict[str, Any]:
    """The cells of one network, those that came within the limit; in a copy of this process, which has all loaded."""
    here, there = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_send, args=(name, there, limit))
    process.start()
    there.close()
    row, end = {}, time.monotonic() + _PATIENCE * limit
    why = late = f"it took longer than {limit:.0f} s"
    while here.poll(max(0.0, end - time.monotonic())):
        try:
            column, row[column] = here.recv()
        except EOFError:
            process.join()
            why = late if process.exitcode == -signal.SIGXCPU else f"its process ended with {process.exitcode}"
            break
    process.kill()
    process.join()
    left = {"verdict": "refused" if why == late else "failed", "words": why, "forwards": None}
    whole = set(COLUMNS) <= set(row)
    return {**dict.fromkeys(COLUMNS, left), **row, "limit": math.inf if whole else limit}


def _send(name: str, pipe: Any, limit: float) -> None:
    torch.set_num_threads(1)
    seconds = math.ceil(time.process_time() + limit)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    try:
        for pair in cells(NETWORKS[name]):
            pipe.send(pair)
    except Exception as error:  # before anything is asked of fimviz
        print(f"{name} cannot be made: {type(error).__name__}: {error}", flush=True)
        raise
    finally:
        pipe.close()


def table(known: dict[str, Any]) -> str:
    """docs/compatibility.md."""
    sentences: dict[str, int] = {}
    versions = [f"{p} {importlib.metadata.version(p)}" for p in ("torch", "torchvision", "timm", "transformers")]
    parts = ["# Which networks work, and at which cost", f"`python -m tests.compatibility`, "
             f"{datetime.date.today()}, {', '.join(versions)}. {summary(known)}", LEGEND]  # fmt: skip
    for kind in KINDS:
        names = [n for n, network in NETWORKS.items() if network.kind == kind and n in known]
        if not names:
            continue
        head = ["network", "input", "pass", *COLUMNS]
        rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for name in names:
            size = "×".join(map(str, NETWORKS[name].shape))
            unit = known[name].get("unit", {"words": ""})["words"]
            row = [name, size, unit, *(_cell(known[name][c], sentences, known[name]) for c in COLUMNS)]
            rows.append("| " + " | ".join(row) + " |")
        parts += [f"## {kind}", "\n".join(rows)]
    parts += ["## Sentences", "\n".join(f"{number}. {text}" for text, number in sentences.items())]
    return "\n\n".join(parts) + "\n"


def summary(known: dict[str, Any]) -> str:
    verdicts = [cell["verdict"] for row in known.values() for cell in _cells(row)]
    works = [f"{sum(row[c]['verdict'] == 'works' for row in known.values())} {c}" for c in COLUMNS]
    bad = f"{verdicts.count('wrong')} cells are wrong and {verdicts.count('failed')} failed"
    return f"Of {len(known)} networks work: {', '.join(works)}; {bad}."


def _cell(cell: dict[str, Any], sentences: dict[str, int], row: dict[str, Any]) -> str:
    if cell["verdict"] == "works":
        small = row["unit"]["seconds"] < _SMALL
        return f"{cell['words']} · " + (f"{max(cell['seconds'], 0.01):.1g} s" if small else f"{cell['forwards']:.3g}")
    words = cell["words"].replace("|", "\\|")
    number = sentences.setdefault(words, len(sentences) + 1)
    return f"refused ({number})" if cell["verdict"] == "refused" else f"**{cell['verdict']}** ({number})"


def _cells(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [row[column] for column in COLUMNS]


def _words(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    return cell["words"] if cell["verdict"] == "works" else f"{cell['verdict'].upper()}: {cell['words']}"


if __name__ == "__main__":
    sys.exit(main())
