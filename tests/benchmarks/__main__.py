"""Cost and error of fimviz and of others on the same networks and images: python -m tests.benchmarks.

One process and one thread; all competitors of a table take turns, and each is timed between two measurements of the
forward pass that is its unit. Writes docs/benchmarks.md. Sizes are in tests/benchmarks/settings.py.

Beside fimviz's own requirements it takes ../shared/data, and where their rows are wanted
`pip install foolbox==3.3.4 curvlinops-for-pytorch==3.0.1`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import time
import warnings
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from tests.benchmarks import growth, products
from tests.benchmarks.goal import Goal, squeezenet
from tests.benchmarks.peers import competitors
from tests.benchmarks.settings import QUICK, Setting, Sizes, random_resnet18, real
from tests.benchmarks.timing import PEER_HEADER, Peer, accuracy, peer_rows, race, table

LEGEND = """\
A unit is one forward pass of the same batch under `no_grad`, measured before and after every run; the competitors of
a table take turns. The column is the median over the runs, then the smallest and the largest. Errors are those of λ₁
relative to float64, the worst and the median over the images; "inside `error`" counts the images whose true λ₁ lies
within what fimviz states. "verified" is what fimviz does by default where it can: a forward pass in float64, so that
rounding moves no input across a kink of the network, and a measurement of the rounding of the passes back. Without it
the rounding of both is measured at neighbours of the input, one to four passes forward and back more. The floor is the
passes, in float32, and nothing else. Where K is too large to run everything, the costs
with one VJP and with the number that the note says are continued in a straight line; "the exact cost" is the cheaper of
fimviz's and the floor. fimviz's `Classifier` was made before: probing a new model is not counted."""


# What another command has made of the file, and this one leaves there (tests/benchmarks/photographs.py).
APART = "## Networks at their own size"


class Report:
    """Parts as they come, with the goals in front at the end."""

    def __init__(self, head: str) -> None:
        self.head, self.parts, self.goals = head, [], []

    def add(self, title: str, text: str) -> None:
        self.parts.append(f"## {title}\n\n{text}")
        print(f"\n## {title}\n\n{text}", flush=True)

    def goal(self, wanted: str, measured: str, met: bool) -> None:
        self.goals.append([wanted, measured, "yes" if met else "**no**"])

    def text(self) -> str:
        goals = "## Goals\n\n" + table(["goal", "measured", "met"], self.goals)
        return "\n\n".join([self.head, goals, *self.parts]) + "\n"


def head(command: str) -> str:
    cpu = next((line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")), "unknown")
    versions = []
    for package in ("torch", "torchvision", "numpy", "scipy", "foolbox", "curvlinops-for-pytorch"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    return (
        f"# Benchmarks\n\nMade by `{command}` in one run on one thread of a CPU that calls itself "
        f"{cpu}; {', '.join(versions)}.\n\n{LEGEND}"
    )


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def measure(setting: Setting, sizes: Sizes, report: Report) -> dict[str, Peer]:
    peers = race(setting.net, setting.x, competitors(setting, sizes.one_by_one), sizes.repeats, sizes.budget)
    report.add(setting.name, table(PEER_HEADER, peer_rows(peers, setting.truth)))
    return {peer.name: peer for peer in peers}


def floor(peers: dict[str, Peer]) -> float:
    return min(peer.median for name, peer in peers.items() if name.startswith("floor"))


def judge_small(name: str, peers: dict[str, Peer], report: Report, against_floor: bool) -> None:
    baseline = peers["vmap(jacrev) + Gram"].median
    for exact in ("fimviz exact", "fimviz exact, verified"):
        cost = peers[exact].median
        if against_floor:
            text = f"{cost:.4g} of {floor(peers):.4g} forwards, {cost / floor(peers):.3f}×"
            report.goal(f"{name}: {exact[7:]} within 1.05× of the floor", text, cost <= 1.05 * floor(peers))
        text = f"{cost:.4g} against {baseline:.4g} forwards, {cost / baseline:.2f}×"
        report.goal(f"{name}: {exact[7:]} no slower than `vmap(jacrev)` + Gram", text, cost <= baseline)


def judge_large(goal: Goal, peers: dict[str, Peer], setting: Setting, report: Report) -> None:
    exact = min(peers["fimviz exact"].median, floor(peers))  # nothing exact is cheaper than the floor
    for tolerance, wanted in ((1e-6, 40), (1e-3, 60)):
        for extra in ("", ", verified"):
            peer = peers[f"fimviz lanczos {tolerance:g}{extra}"]
            _, inside = accuracy(peer, setting.truth)
            within = inside == f"{len(setting.x)} of {len(setting.x)}"
            text = f"1/{exact / peer.median:.1f} ({peer.median:.4g} of {exact:.5g} forwards), inside {inside}"
            name = f"K = 1000: λ₁ to {tolerance:g}{extra}, inside `error`, at 1/{wanted} of the exact cost or less"
            report.goal(name, text, within and exact / peer.median >= wanted)
    inside = "all inside `error`" if goal.inside else "**not** all inside `error`"
    text = f"{goal.worst:.1e}, {inside}"
    report.goal("K = 1000, k=3: within 1e-4 of float64 and inside `error`", text, goal.inside and goal.worst <= 1e-4)
    for name in list(goal.forwards)[:2]:
        cost = goal.forwards[name]
        text = f"1/{exact / cost:.1f} ({cost:.4g} of {exact:.5g} forwards)"
        report.goal(f"K = 1000, {name} on all photographs, at 1/40 of the exact cost or less", text, exact / cost >= 40)


def run(sizes: Sizes, command: str, out: Path | None) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    report = Report(head(command))
    apart = "".join(out.read_text().partition(APART)[1:]) if out is not None and out.exists() else ""

    def lap(what: str) -> None:
        print(f"[{time.perf_counter() - begin:.0f} s: {what}]", flush=True)
        if out is not None:
            out.write_text(f"{report.text()}\n{apart}" if apart else report.text())

    for name, net, count in (
        ("ResNet-20", "cifar10-resnet20", sizes.cifar),
        ("LeNet-5", "mnist-lenet5", sizes.mnist),
    ):
        peers = measure(real(net, count), sizes, report)
        judge_small(f"K = 10, {name}", peers, report, against_floor=True)
        lap(name)
    resnet18 = random_resnet18(sizes.resnet18, sizes.resnet18_classes, sizes.resnet18_pixels)
    peers = measure(resnet18, sizes, report)
    judge_small(f"K = {sizes.resnet18_classes}, ResNet-18", peers, report, against_floor=False)
    lap("ResNet-18")
    goal = squeezenet(sizes)
    report.add("K = 1000, three eigenvalues of all photographs", goal.text)
    lap("photographs")
    peers = measure(goal.setting, sizes, report)
    judge_large(goal, peers, goal.setting, report)
    lap("SqueezeNet")
    text, crossovers = growth.classes(sizes)
    lines = [f"crossover K ≈ {'not seen' if math.isnan(v) else f'{v:.0f}'} ({name})" for name, v in crossovers.items()]
    text = "A small convolutional network with random weights, 8 images of 32×32; forwards.\n\n" + text
    report.add("Growth with K", text + "\n\n" + "\n".join(f"* {line}" for line in lines))
    lap("K")
    report.add(
        "Growth with D and with the batch",
        "The same network, K = 10; forwards of that batch.\n\n" + growth.pixels_and_batch(sizes),
    )
    lap("D and batch")
    text, worst = growth.memory(sizes)
    about = f"{sizes.memory_images} images of {sizes.memory_pixels}×{sizes.memory_pixels}, ResNet-18, K = 10, `k=2`"
    report.add("Peak memory", f"{about}, each in a process of its own.\n\n{text}")
    report.goal("Peak memory within `max_memory`", f"{worst:.2f} of it at most", worst <= 1)
    lap("memory")
    report.add(products.TITLE, products.report())
    lap("products J v")
    print("\n" + table(["goal", "measured", "met"], report.goals), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Cost and error, side by side.")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; the numbers say nothing")
    parser.add_argument("--out", type=Path, help="default docs/benchmarks.md, and with --quick nowhere")
    given = parser.parse_args()
    out = given.out or (None if given.quick else Path("docs/benchmarks.md"))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    command = "python -m tests.benchmarks" + " --quick" * given.quick
    with threadpool_limits(1):
        run(QUICK if given.quick else Sizes(), command, out)


if __name__ == "__main__":
    main()
