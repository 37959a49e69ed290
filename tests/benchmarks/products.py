"""Products J v: fimviz's tape against `torch.func.linearize`, as `python -m tests.benchmarks.products`.

Both linearise a network at a batch once and then give products with J; the tape is made of the derivative of a backward
pass, torch's of forward mode. Six networks, one thread, one run: seconds in forward passes of the same batch, of the
set-up with its first product and of each product after it, and the ratio for 12 products, as many as Lanczos takes.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

import fimviz as fv
from fimviz.fisher.passes import Linearisation
from tests.benchmarks.settings import realdata
from tests.benchmarks.timing import clock, forward_seconds, table
from tests.benchmarks.truth import frozen

TITLE = "Products J v: the tape against `torch.func.linearize`"
PRODUCTS, REPEATS = 12, 5


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    digits, _ = fv.zoo.digits()
    data = realdata()
    zoo = ("digits-resnet", "digits-vit", "digits-densenet")
    found = {name: (fv.zoo.load(name).model, digits[:32]) for name in zoo}
    real = ("mnist-lenet5", "cifar10-resnet20")
    found |= {name: (data.network(name), data.images(data.NETWORKS[name][4], 32)[0]) for name in real}
    torch.manual_seed(0)
    mobile = torchvision.models.mobilenet_v3_small(num_classes=100)
    return {**found, "mobilenet_v3_small, 64 pixels": (mobile, torch.rand(8, 3, 64, 64))}


def taped(net: fv.Classifier, x: Tensor) -> Callable[[Tensor], Tensor]:
    lin = Linearisation(net, x, along=True)
    return lambda v: lin.jvp(v.flatten(1))


def linearized(net: fv.Classifier, x: Tensor) -> Callable[[Tensor], Tensor]:
    return torch.func.linearize(net.logits, x)[1]


def measured(make: Callable[..., Callable[[Tensor], Tensor]], net: fv.Classifier, x: Tensor, v: Tensor) -> list[float]:
    """Seconds of set-up with the first product, and of one product after it."""

    def start() -> Callable[[Tensor], Tensor]:
        product = make(net, x)
        product(v)
        return product

    first, product = clock(start)
    with torch.no_grad():
        return [first, clock(lambda: [product(v) for _ in range(PRODUCTS - 1)])[0] / (PRODUCTS - 1)]


def report() -> str:
    rows = []
    for name, (model, x) in networks().items():
        net = fv.Classifier(frozen(model))
        v = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        x = net.admit(x)
        ways = {"tape": taped, "linearize": linearized}
        with net.at_rest():
            a, b = (make(net, x)(v).detach() for make in ways.values())
            apart = float((a - b).norm() / a.norm())
            seconds: dict[str, list[list[float]]] = {way: [] for way in ways}
            for _ in range(REPEATS):
                for way, make in ways.items():
                    seconds[way].append(measured(make, net, x, v))
            unit = forward_seconds(net.model, x, 5)
        cost = {way: [statistics.median(part) / unit for part in zip(*seconds[way], strict=True)] for way in ways}
        whole = {way: first + (PRODUCTS - 1) * each for way, (first, each) in cost.items()}
        numbers = [f"{c:.1f}" for way in ways for c in cost[way]]
        rows.append([name, *numbers, f"{whole['linearize'] / whole['tape']:.2f}", f"{apart:.0e}"])
        print(*rows[-1], file=sys.stderr, flush=True)
    header = ["network", "tape: first", "each", "linearize: first", "each", "linearize ÷ tape", "apart"]
    return table(header, rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(report())
