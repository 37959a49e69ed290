"""Test and measure everything on a card: python -m tests.gpu [--quick] [--device cuda|cpu] [--pack] [--out DIR].

Needs torch, NumPy, pandas, SciPy, scikit-learn, safetensors and hypothesis, no Jupyter, and no network. Eight minutes
with --quick, fourteen without. After every task results.json and results.md in DIR are whole, whatever becomes of the
next; --resume goes on behind the last one. `--table results.json` makes docs/gpu.md of a run.

    python -m tests.gpu --pack                      # where ../shared/data is: real networks to take along
    python -m tests.gpu --quick --out "$OUT"        # on the card
    python -m tests.gpu --table results.json        # docs/gpu.md
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tests.gpu import pack, report
from tests.gpu.checks import CHECKS
from tests.gpu.figures import figures
from tests.gpu.machine import machine
from tests.gpu.runner import Place, run

DOC = Path(__file__).resolve().parents[2] / "docs" / "gpu.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer settings: 8 minutes on a card, under 3 on a CPU")
    parser.add_argument("--device", default="cuda", help="cuda (the default), cuda:1, …, or cpu")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder of results.json and .md")
    parser.add_argument("--minutes", type=float, help="in all; 8 with --quick, else 14")
    parser.add_argument("--only", choices=("checks", "figures"), help="one part alone")
    parser.add_argument("--resume", action="store_true", help="go on with DIR/results.json")
    parser.add_argument("--pack", action="store_true", help="fill the folder of real images and networks, and end")
    parser.add_argument("--table", type=Path, metavar="FILE.json", help="make docs/gpu.md of a run, and end")
    given = parser.parse_args()
    if given.pack:
        print(pack.fill())
        return 0
    if given.table:
        DOC.write_text(report.document(json.loads(given.table.read_text())))
        print(DOC)
        return 0
    if given.device != "cpu" and not torch.cuda.is_available():
        sys.exit(f"there is no {given.device} here, expected a card that torch can use, or --device cpu")
    minutes = given.minutes or (8 if given.quick else 14)
    place = Place(given.device, given.quick)
    tasks = [t for t in (*CHECKS, *figures(place)) if given.only in (None, t.part)]
    return measure(tasks, place, given.out, time.time() + 60 * minutes, given.resume)


def measure(tasks: list[Any], place: Place, out: Path, until: float, resume: bool) -> int:
    """Run the tasks and store what they give; how many went wrong."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.json"
    found = {"machine": machine(place), "tasks": []}
    if resume and file.exists():
        found["tasks"] = [t for t in json.loads(file.read_text())["tasks"] if t["status"] != "no time left"]
    known = {t["name"] for t in found["tasks"]}
    tasks = [task for task in tasks if task.name not in known]
    print("\n".join(f"{name}: {value}" for name, value in found["machine"].items()), flush=True)
    start = time.time()

    def note(record: dict[str, Any]) -> None:
        found["tasks"].append(record)
        found["machine"]["seconds"] = round(time.time() - start, 1)
        _write(file, json.dumps(found, indent=1, allow_nan=True))
        _write(out / "results.md", report.document(found))
        print(f"[{time.time() - start:4.0f} s] {report.line(record)}", flush=True)

    run(tasks, place, until, note)
    wrong = [t for t in found["tasks"] if t["status"] in ("failed", "hung", "crashed")]
    late = [t for t in found["tasks"] if t["status"] == "no time left"]
    print(f"{len(found['tasks']) - len(wrong) - len(late)} of {len(found['tasks'])} right, {len(wrong)} wrong, "
          f"{len(late)} not reached: {file}")  # fmt: skip
    return 1 if wrong or any(t["part"] == "checks" for t in late) else 0  # figures are in order of importance


def _write(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, file)


if __name__ == "__main__":
    sys.exit(main())
