"""What all pairs cost: python -m tests.benchmarks.divergence [--images 500] [--threads 2].

The goal is all pairs of 500 MNIST images on the LeNet-5 of ../shared/data in less than a minute on two cores, with G1
equal to the dense float64 form to 1e-6. One line a network: pairs, seconds for the divergences and for the standard
errors, and the largest relative difference of G1 over a few dense forms.
"""

from __future__ import annotations

import argparse
import time

import torch

import fimviz as fv
from tests.benchmarks.settings import realdata
from tests.benchmarks.timing import table

_DENSE = 3  # samples whose pairs are checked


def worst_difference(result: fv.CrossCategoryKL, model: torch.nn.Module) -> float:
    """The largest relative difference of G1 to ½ ΔᵀFΔ with dense F in float64, for all pairs of the first samples."""
    model, x = model.double(), result.images.double()
    worst = 0.0
    for i in range(_DENSE):
        jacobian = torch.func.jacrev(lambda v: model(v[None])[0])(x[i]).detach().flatten(1)
        p = model(x[i : i + 1])[0].log_softmax(0).exp().detach()
        one, other = torch.triu_indices(len(p), len(p), 1)  # diag(p) − ppᵀ would lose the digits of a sure prediction
        rows = (p[one] * p[other]).sqrt()[:, None] * (jacobian[one] - jacobian[other])
        fisher = rows.T @ rows
        own = result.i == i
        deltas = (x[result.j[own]] - x[i]).flatten(1)
        dense = 0.5 * ((deltas @ fisher) * deltas).sum(1)
        worst = max(worst, float(((result.g1[own] - dense) / dense).abs().max()))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.divergence")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--networks", nargs="+", default=["mnist-lenet5", "mnist-lenet5-robust"])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = realdata()
    rows = []
    for name in given.networks:
        x, y = data.images(data.NETWORKS[name][4], given.images)
        begin = time.perf_counter()
        result = fv.cckl(data.network(name), x, y)
        passes = time.perf_counter() - begin
        error = result.cckl_error
        both = time.perf_counter() - begin
        worst = worst_difference(result, data.network(name))
        cckl = f"{result.cckl:.4g} ± {error:.2g}"
        rows.append([name, str(len(result)), cckl, f"{passes:.1f} s", f"{both - passes:.1f} s", f"{worst:.1e}"])
    print(table(["network", "pairs", "CCKL", "divergences", "standard errors", "G1 against dense"], rows))


if __name__ == "__main__":
    main()
