"""Which networks work, and at which cost: python -m tests.compatibility [NAME …].

Every network runs in a process of its own, with a limit on its time, and what it gives is written down at once: a run
that was stopped goes on where it was (`--again` forgets the rows of the networks that are named, of all without a
name). At the end docs/compatibility.md is written from all that is known. `--sample` measures one network of each kind
and writes nothing.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.compatibility.measure import COLUMNS, cells
from tests.compatibility.networks import NETWORKS, SAMPLE

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "compatibility.md"
KINDS = ("torchvision", "timm", "transformers", "others")
LEGEND = """\
One input, random weights, running statistics of one batch of noise; images are smooth noise of the size in the table.
A cost, behind the dot, is in forward passes of the same input under `no_grad`, in a process of its own on one thread
that other programs shared: read it to within a third. What a new model's first use takes beside it, its probe, is not
in it.

* **exact**: `fv.spectrum(net, x, method="exact")`, ten classes. The number is how far λ₁ is from float64's, relative,
  by an iteration of SciPy's on products of plain autograd. It lies within the stated error, or the cell says **wrong**.
* **lanczos**: `method="lanczos", k=1`, a thousand classes, likewise.
* **bounds**: `local_bound` ("at x") and `network_bound` ("everywhere"), none below ‖∂z/∂x‖ of float64's autograd.
* **certificate**: the radius of `fv.certified_radius(net, x, attack=False)`. It needs a bound that holds everywhere.
* **paths**: how `fv.trace_margins` to the second class ended, in at most 30 steps.
* **view**: how large the spectrum's page is, and what making it takes: the curves along its eigenvectors.

A number is the sentence below the tables with which it is refused; **failed** is an error that is not one of fimviz's
own."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compatibility", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="networks, by default all")
    parser.add_argument("--sample", action="store_true", help="one of each kind, and no table")
    parser.add_argument("--again", action="store_true", help="measure what is known already")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds a network")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "compatibility.jsonl", help="what is known")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        for column, cell in cells(NETWORKS[given.one]):
            print(json.dumps([column, cell]), flush=True)
        return 0
    if unknown := [name for name in given.names if name not in NETWORKS]:
        parser.error(f"no network is called {unknown[0]!r}; there are {', '.join(NETWORKS)}")
    names = given.names or (SAMPLE if given.sample else NETWORKS)
    known = {} if given.sample else read(given.results)
    for name in names:
        if name in known and not given.again:
            continue
        known[name] = row = measured(name, given.limit)
        print(" | ".join([name, *(_words(row.get(column)) for column in ("unit", *COLUMNS))]), flush=True)
        if not given.sample:
            given.results.parent.mkdir(exist_ok=True)
            with given.results.open("a") as file:
                file.write(json.dumps([name, row]) + "\n")
    if not given.sample:
        TABLE.write_text(table(known), encoding="utf-8")
    bad = [name for name in names for cell in known[name].values() if cell["verdict"] in ("wrong", "failed")]
    return 1 if bad else 0


def read(results: Path) -> dict[str, Any]:
    """The last row of every network."""
    return dict(json.loads(line) for line in results.read_text().splitlines()) if results.exists() else {}


def measured(name: str, limit: float) -> dict[str, Any]:
    """The cells of one network, those that came within the limit."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "tests.compatibility", "--one", name]
    why = f"it took longer than {limit:.0f} s"
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, timeout=limit, capture_output=True, text=True)
        out, lost = done.stdout, (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        why = lost if done.returncode else why
    except subprocess.TimeoutExpired as error:
        out = error.stdout or ""
        out = out.decode() if isinstance(out, bytes) else out
    row = dict(json.loads(line) for line in out.splitlines() if line.startswith('["'))
    left = {"verdict": "failed" if "longer" not in why else "refused", "words": why, "forwards": None}
    return {**dict.fromkeys(COLUMNS, left), **row}


def table(known: dict[str, Any]) -> str:
    """docs/compatibility.md."""
    sentences: dict[str, int] = {}
    versions = [f"{p} {importlib.metadata.version(p)}" for p in ("torch", "torchvision", "timm", "transformers")]
    parts = ["# Which networks work, and at which cost", f"`python -m tests.compatibility`, "
             f"{datetime.date.today()}, {', '.join(versions)}. {summary(known)}", LEGEND]  # fmt: skip
    for kind in KINDS:
        names = [n for n, network in NETWORKS.items() if network.kind == kind and n in known]
        head = ["network", "input", "pass", *COLUMNS]
        rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for name in names:
            size = "×".join(map(str, NETWORKS[name].shape))
            unit = known[name].get("unit", {"words": ""})["words"]
            row = [name, size, unit, *(_cell(known[name][c], sentences) for c in COLUMNS)]
            rows.append("| " + " | ".join(row) + " |")
        parts += [f"## {kind}", "\n".join(rows)]
    parts += ["## Sentences", "\n".join(f"{number}. {text}" for text, number in sentences.items())]
    return "\n\n".join(parts) + "\n"


def summary(known: dict[str, Any]) -> str:
    verdicts = [cell["verdict"] for row in known.values() for cell in row.values()]
    works = [f"{sum(row[c]['verdict'] == 'works' for row in known.values())} {c}" for c in COLUMNS]
    bad = f"{verdicts.count('wrong')} cells are wrong and {verdicts.count('failed')} failed"
    return f"Of {len(known)} networks work: {', '.join(works)}; {bad}."


def _cell(cell: dict[str, Any], sentences: dict[str, int]) -> str:
    if cell["verdict"] == "works":
        return f"{cell['words']} · {cell['forwards']:.3g}"
    words = cell["words"].replace("|", "\\|")
    number = sentences.setdefault(words, len(sentences) + 1)
    return f"refused ({number})" if cell["verdict"] == "refused" else f"**{cell['verdict']}** ({number})"


def _words(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    return cell["words"] if cell["verdict"] == "works" else f"{cell['verdict'].upper()}: {cell['words']}"


if __name__ == "__main__":
    sys.exit(main())
