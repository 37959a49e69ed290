"""Certified radii by norms and by linear bounds beside the smallest attack: python -m tests.benchmarks.certificates
[networks] [--images 12] [--points 100000] [--timed 3].

On one thread, in processor seconds of the first few images without attacks: the digits networks, and those of
../shared/data. Every radius is tried: by the attacks of `certified_radius` within it, and at random points of its
sphere (and of the input range), of which none may change the prediction. Prints a Markdown table, and how many tries
there were.
"""

from __future__ import annotations

import argparse
import time

import torch

import fimviz as fv
from tests.benchmarks.settings import realdata
from tests.benchmarks.timing import table

DIGITS = ["digits-mlp", "digits-vgg", "digits-resnet", "digits-densenet"]
REAL = ["mnist-lenet5", "mnist-lenet5-robust", "cifar10-cnn-robust", "cifar10-resnet4b-robust"]
NETWORKS = ["digits-lipschitz", *(name for digits in DIGITS for name in (digits, f"{digits}-robust")), *REAL]
HEADER = [
    "network", "by norms", "by linear bounds", "times", "attack", "attack ÷ radius", "seconds an image", "violations"
]  # fmt: skip


def known(name: str, count: int) -> tuple[fv.Classifier, torch.Tensor]:
    """A network and its first images."""
    if name in fv.zoo.names():
        return fv.zoo.load(name), fv.zoo.digits()[0][:count]
    data = realdata()
    return fv.Classifier(data.network(name)), data.images(data.NETWORKS[name][4], count)[0]


def violations(net: fv.Classifier, x: torch.Tensor, found: fv.CertifiedRadius, points: int) -> int:
    """How many of the points on the spheres, cut off at the edges of the input range, another class is predicted at."""
    g, count = torch.Generator().manual_seed(0), 0
    for image, radius, y in zip(x.double(), found.radius, found.predictions, strict=True):
        for some in torch.arange(points).split(500):
            delta = torch.randn(len(some), *image.shape, generator=g).double()
            delta *= radius / delta.flatten(1).norm(dim=1).view(-1, *[1] * image.ndim)
            count += int((net((image + delta).clamp(*net.input_range).float()).argmax(1) != y).sum())
    return count


def measured(name: str, count: int, points: int, timed: int) -> list[str]:
    net, x = known(name, count)
    norms = fv.certified_radius(net, x, method="norms", attack=False)
    start = time.process_time()
    alone = fv.certified_radius(net, x[:timed], method="linear", attack=False)
    seconds = (time.process_time() - start) / timed
    linear = fv.certified_radius(net, x, method="linear")
    assert torch.equal(alone.radius, linear.radius[:timed])
    medians = [float(r.median()) for r in (norms.radius, linear.radius, linear.attack)]
    wrong = violations(net, x, linear, points) + int((~linear.holds).sum())
    times, ratio = (linear.radius / norms.radius).median(), (linear.attack / linear.radius).median()
    return [
        name, *(f"{m:.3g}" for m in medians[:2]), f"{float(times):.3g}", f"{medians[2]:.3g}", f"{float(ratio):.3g}",
        f"{seconds:.2g}", str(wrong)
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--timed", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in given.networks:
        rows.append(measured(name, given.images, given.points, given.timed))
        print(rows[-1], flush=True)
    print(table(HEADER, rows))
    tried = len(rows) * given.images
    print(f"{tried} radii, {tried * given.points} points and the attacks on each: violations as in the last column.")


if __name__ == "__main__":
    main()
