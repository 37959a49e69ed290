"""How much memory a spectrum of photographs takes at its peak, beside `max_memory`: python -m tests.benchmarks.memory.

Every row is a process of its own, because a peak cannot be taken back: the growth over what the process held with the
model and the images loaded, and one small spectrum made. Weights are random. Prints a Markdown table.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torchvision

import fimviz as fv
from fimviz.fisher import methods
from tests.benchmarks.timing import table

_STEPS = 4  # of the batches, whose peak is that of a part
_BATCH = [("resnet18", 32, room) for room in (3e8, 1e9)] + [("mobilenet_v3_small", 32, room) for room in (1.5e8, 6e8)]
_ONE = [(name, 1, None) for name in ("resnet18", "resnet50", "efficientnet_b0", "convnext_tiny", "vit_b_16")]
ROWS = [*_BATCH, *_ONE]
HEADER = ["network", "images", "`max_memory`", "asked for at least", "images at a time", "growth at its peak", "share"]


def grown(name: str, classes: int, options: dict[str, Any], count: int, pixels: int) -> dict[str, Any]:
    """What this process takes. Without max_memory: the least that one image is said to need."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = fv.Classifier(getattr(torchvision.models, name)(weights=None, num_classes=classes))
    small = pixels if "vit" in name else 64
    x = torch.rand(count, 3, pixels, pixels)
    fv.spectrum(net, x[:2, :, :small, :small].contiguous(), **options | {"max_memory": None})
    try:
        fv.spectrum(net, x, **options | {"max_memory": 1})
    except MemoryError as error:
        least = re.search(r"at least ([\d.]+) (.B)", str(error))
    assert least is not None
    needed = float(least[1]) * 1000 ** ["B", "kB", "MB", "GB"].index(least[2].strip())
    together: list[int] = []
    planned = methods.plan

    def noted(*args: Any) -> tuple[int, int]:
        together.append(planned(*args)[0])
        return planned(*args)

    methods.plan = noted
    room = options.get("max_memory") or 1.01 * needed
    before = _held("VmRSS")
    fv.spectrum(net, x, **options | {"max_memory": room})
    return {"room": room, "least": needed, "together": together[0], "grown": _held("VmHWM") - before}


def _held(what: str) -> int:
    """Bytes that this process holds (VmRSS) or held at most (VmHWM); getrusage's peak begins with the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(what)))


def measured(name: str, classes: int, options: dict[str, Any], count: int, pixels: int) -> dict[str, Any]:
    """The same from another process, in a new one."""
    asked = json.dumps([name, classes, options, count, pixels])
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--one", asked]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory", description=__doc__)
    parser.add_argument("networks", nargs="*", help="by default all")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--classes", type=int, default=1000)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(grown(*json.loads(given.one))))
        return
    rows = []
    for name, count, room in ROWS:
        if given.networks and name not in given.networks:
            continue
        options = {"k": 1, "max_memory": room, "max_steps": 100 if room is None else _STEPS}
        found = measured(name, given.classes, options, count, 224)
        sizes = [f"{found[key] / 1e6:.0f} MB" for key in ("room", "least", "grown")]
        share = f"{found['grown'] / found['room']:.2f}"
        rows.append([name, str(count), *sizes[:2], str(found["together"]), sizes[2], share])
        print(*rows[-1], file=sys.stderr, flush=True)
    print(table(HEADER, rows))


if __name__ == "__main__":
    main()
