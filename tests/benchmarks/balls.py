"""λ₁ over balls, as bounded and as found: python -m tests.benchmarks.balls [networks] [--images 6] [--points 100]
[--certified 0.05] [--shares 0.1 0.3 1].

On one thread, in processor seconds for the bound: the digits networks, and those of ../shared/data, at radii from a
tenth of their median certified radius on, which is looked for where it is not given. λ₁ at random points of every ball
is compared with the bound in float64, and no point may be above. Prints a Markdown table, and how many points there
were.
"""

from __future__ import annotations

import argparse
import time

import torch

import fimviz as fv
from tests.benchmarks.certificates import NETWORKS, known
from tests.benchmarks.timing import table

HEADER = [
    "network", "radius", "of the certified", "largest found ÷ λ₁", "bound ÷ found", "most", "weights ÷ found",
    "seconds an image", "violations",
]  # fmt: skip


def above(net: fv.Classifier, x: torch.Tensor, found: fv.BallBound, points: int) -> int:
    """At how many points of the balls, most of them near the sphere, λ₁ is above the bound."""
    g, count = torch.Generator().manual_seed(0), 0
    for image, radius, bound in zip(x.double(), found.radius, found.bound, strict=True):
        step = torch.randn(points, *image.shape, generator=g).double()
        far = radius * torch.rand(points, generator=g).double() ** 0.1 / step.flatten(1).norm(dim=1)
        at = (image + step * far.view(-1, *[1] * image.ndim)).clamp(*net.input_range)
        count += int((fv.spectrum(net, at, k=1, vectors=False).spectral_norm > bound).sum())
    return count


def measured(name: str, count: int, points: int, certified: float | None, shares: list[float]) -> list[list[str]]:
    net, x = known(name, count)
    if certified is None:
        certified = float(fv.certified_radius(net, x, method="linear", attack=False).radius.median())
    weights = fv.compare_bounds(net, x, methods=["L5"]).methods["L5"].value
    rows = []
    for share in shares:
        radius = share * certified
        start = time.process_time()
        bound = fv.compare_bounds(net, x, methods=["ball"], radius=radius).methods["ball"].value
        seconds = (time.process_time() - start) / count
        b = fv.ball_bound(net, x, radius)
        assert torch.equal(b.bound, bound)
        wide, x64 = fv.Classifier(net.model.double(), mean=net.mean, std=net.std), x.double()
        wrong = above(wide, x64, b, points) + int((b.found > b.bound).sum())
        net.model.float()
        ratios = b.bound / b.found
        rows.append([
            name, f"{radius:.2g}", f"{share:g}", f"{float((b.found / b.at_point).median()):.3g}",
            f"{float(ratios.median()):.3g}", f"{float(ratios.max()):.3g}", f"{float((weights / b.found).median()):.1g}",
            f"{seconds:.2g}", str(wrong),
        ])  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--certified", type=float, help="the median certified radius")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.3, 1.0], help="of it, the radii")
    given = parser.parse_args()
    torch.set_num_threads(1)
    options = (given.images, given.points, given.certified, given.shares)
    rows = [row for name in given.networks for row in measured(name, *options)]
    print(table(HEADER, rows))
    print(
        f"{len(rows) * given.images} balls, {len(rows) * given.images * given.points} points, and the search in each."
    )


if __name__ == "__main__":
    main()
