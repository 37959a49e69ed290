"""What margin traces cost, and the CIFAR-10 table: python -m tests.benchmarks.margins [--solvers] [--retries] [--table]
[--verify].

On the ResNet-20 of ../shared/data, one thread, in its processor time, which other programs disturb least. First the
cost of one natural-gradient direction: by all gradients and Woodbury's identity, by the class-space iteration, and by
textbook conjugate gradients on pixels with matrix-free products Fv = Jᵀ S J v, all with the same damping, each beside
the error of the direction that it reached against one in float64. Then traces of the first images toward all nine
other classes, and the share that flips inside the box.

`--retries` traces the first images of robust networks (the zoo's architectures trained by TRADES here, and those of
../shared/data) as by default and with `retry=False`: what becomes of the traces, and seconds.

`--table` traces with τ = 0.01 and τ = 1, η = 0.2, r = 0.1, and writes the table by class to docs/cifar10-shielding.csv,
one row a class and damping, beside the numbers of the published one (800 images, another pretrained ResNet, settings
not stated). `--verify` also runs every trace with half the step, as `trace_margins` does by default.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

import fimviz as fv
from fimviz.fisher.passes import Linearisation
from fimviz.margins.direction import Direction, Slope, bounded
from fimviz.margins.shielding import Shielding
from fimviz.margins.trace import trace_margins
from fimviz.zoo.models import architecture
from fimviz.zoo.recipes import fit
from tests.benchmarks import robust
from tests.benchmarks.settings import realdata
from tests.benchmarks.timing import table

# Of each class: shielding %, mean Fisher–Rao margin, mean L2 and rank, as printed.
PUBLISHED = {
    "airplane": (58.2, 3.21, 0.98, 1),
    "automobile": (40.5, 2.76, 0.84, 3),
    "bird": (12.1, 1.05, 0.32, 9),
    "cat": (9.8, 0.98, 0.28, 10),
    "deer": (18.4, 1.48, 0.52, 7),
    "dog": (14.2, 1.12, 0.35, 8),
    "frog": (21.0, 1.78, 0.60, 6),
    "horse": (27.5, 2.05, 0.70, 5),
    "ship": (62.7, 3.45, 1.12, 2),
    "truck": (51.7, 2.98, 0.95, 4),
}
_DAMPING = 0.01


def textbook(
    net: fv.Classifier, x: Tensor, toward: Tensor, shift: Tensor, residual: float, functional: bool = False
) -> tuple[Tensor, int]:
    """Solve (F + λI)v = g by conjugate gradients on pixels (Hestenes & Stiefel 1952); v (m, D) and the iterations.

    F and λ are both divided by the factor's e^s, as the class-space solvers do. Products come from one graph that is
    kept, or with `functional` from torch.func.jvp and torch.func.vjp, as a user would write them.
    """
    passes = Linearisation(net, x)
    factor = net.likelihood.factor(passes.logits.double())

    def product(v: Tensor) -> Tensor:
        tangent = torch.func.jvp(net.logits, (x,), (v.view_as(x),))[1] if functional else passes.jvp(v)
        cotangent = factor.to_logits(factor.from_logits(tangent.double()[..., None]))
        if functional:
            image = torch.func.vjp(net.logits, x)[1](cotangent[..., 0].to(x))[0].flatten(1)
        else:
            image = passes.vjp(cotangent)[:, 0]
        return image + shift[:, None].to(v) * v

    g = passes.vjp(toward[..., None])[:, 0]
    v, rest, way = torch.zeros_like(g), g.clone(), g.clone()
    size = rest.square().sum(1)
    start, iterations = size.clone(), 0
    while iterations < 200 and bool((size > residual**2 * start).any()):
        image = product(way)
        live = (size > residual**2 * start).to(g)
        length = (live * size / (way * image).sum(1).clamp_min(1e-300))[:, None]
        v, rest = v + length * way, rest - length * image
        new = rest.square().sum(1)
        way = rest + (new / size)[:, None] * way
        size, iterations = new, iterations + 1
    return v, iterations


def directions(net: fv.Classifier, exact: fv.Classifier, x: Tensor, repeats: int = 3) -> str:
    """The table of what one direction costs, in milliseconds an image and in forward passes, and how wrong it is.

    `exact` is the same network in float64.
    """
    x = net.admit(x)
    places = torch.arange(len(x))
    with net.at_rest(), exact.at_rest(), torch.no_grad():
        z = exact.logits(x.double())
    factor = net.likelihood.factor(z)
    first, second = z.topk(2).indices.T
    toward = torch.nn.functional.one_hot(first, 10).double() - torch.nn.functional.one_hot(second, 10)

    def solve(solver: str, which: fv.Classifier = net) -> Direction:
        slope = Slope(Linearisation(which, x.to(which.dtype)), places, factor, solver)
        return bounded(slope, toward, x.to(which.dtype), None, _DAMPING, True, "natural")

    def forward() -> Tensor:
        with torch.no_grad():
            return net.logits(x)

    with net.at_rest(), exact.at_rest():
        best = solve("gram", exact)
        shift = _DAMPING * best.largest / factor.log_scale.exp()
        truth = best.v / best.v.norm(dim=1, keepdim=True)
        runs: dict[str, Callable[[], tuple[Tensor, int | None]]] = {
            "gram": lambda: (solve("gram").v, None),
            "cg in class space": lambda: (solve("cg").v, None),
        }
        for residual in (1e-3, 1e-5, 1e-6, 1e-7):
            for words, functional in (("one graph kept", False), ("torch.func", True)):
                runs[f"cg on pixels to {residual:g}, {words}"] = partial(
                    textbook, net, x, toward, shift, residual, functional
                )
        runs["cg on pixels to 1e-8, one graph kept, float64"] = partial(
            textbook, exact, x.double(), toward, shift, 1e-8
        )
        seconds = {name: [] for name in ("forward", *runs)}
        found = {}
        for _ in range(repeats):
            for name, run in (("forward", forward), *runs.items()):
                begin = time.process_time()
                found[name] = run()
                seconds[name].append(time.process_time() - begin)
    cost = {name: statistics.median(s) for name, s in seconds.items()}
    rows = []
    for name in runs:
        v, iterations = found[name]
        error = (v.double() / v.double().norm(dim=1, keepdim=True) - truth).norm(dim=1)
        rows.append(
            [
                name,
                "–" if iterations is None else str(iterations),
                f"{1e3 * cost[name] / len(x):.3g}",
                f"{cost[name] / cost['forward']:.3g}",
                f"{cost[name] / cost['gram']:.2f}",
                f"{error.median():.1e}",
                f"{error.max():.1e}",
            ]
        )
    head = ["solver", "iterations", "ms an image", "forwards", "÷ gram", "median error of the direction", "largest"]
    return table(head, rows)


def by_class(s: Shielding, images: int) -> pd.DataFrame:
    """The per-class table of one run, beside the published one."""
    published = pd.DataFrame(
        [(name, shield / 100, fr, l2, rank) for name, (shield, fr, l2, rank) in PUBLISHED.items()],
        columns=["class", "published_shielding", "published_fr_margin", "published_l2", "published_rank"],
    )
    settings = s.settings
    frame = s.frame.merge(published, on="class")
    return frame.assign(
        method=settings.method,
        damping=settings.damping,
        step=settings.step,
        trust_region=settings.trust_region,
        images=images,
        all_shielded=s.shielded.value,
        rank_correlation=s.rank_correlation.value,
        rank_correlation_low=s.rank_correlation.low,
        rank_correlation_high=s.rank_correlation.high,
    )


def retries(images: int) -> Iterator[dict[str, object]]:
    """What becomes of paths on robust networks, as they are asked for and with what is tried when they fail."""
    data = realdata()
    digits = fv.zoo.digits()
    networks: dict[str, tuple[fv.Classifier, Tensor]] = {}
    for name in ("cifar10-cnn-robust", "cifar10-resnet4b-robust", "mnist-lenet5-robust"):
        networks[name] = fv.Classifier(data.network(name)), data.images(data.NETWORKS[name][-1], images)[0]
    source, epsilon, epochs = robust.SETS["mnist"]
    x, y = data.images(source, 5 * robust.HELD_BACK)
    trained = robust.fit(x[robust.HELD_BACK :], y[robust.HELD_BACK :], "trades", epsilon, epochs)
    networks["mnist-cnn-trades"] = fv.Classifier(trained), x
    for name in ("mlp", "vgg"):
        trained = fit(architecture(f"digits-{name}"), "trades")
        networks[f"digits-{name}, TRADES"] = fv.Classifier(trained), digits.images
    for name, (net, x) in networks.items():
        for retry in (False, True):
            start = time.process_time()
            t = trace_margins(net, x[:images], retry=retry, verify=False, keep_images=False)
            made = Counter(t.made_by[i] for i in t.flipped.nonzero()[:, 0].tolist())
            yield {
                "network": name,
                "retry": retry,
                "traces": len(t),
                "hit": f"{t.flipped.double().mean():.1%}",
                "status": ", ".join(f"{n} {status}" for status, n in Counter(t.status).most_common()),
                "made by": ", ".join(f"{n} {method} τ = {damping:g}" for (method, damping), n in made.most_common()),
                "seconds": f"{time.process_time() - start:.0f}",
            }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.margins")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--table", action="store_true", help="write docs/cifar10-shielding.csv")
    parser.add_argument("--verify", action="store_true", help="also run every trace with half the step")
    parser.add_argument("--solvers", action="store_true", help="compare the solvers only")
    parser.add_argument("--retries", action="store_true", help="paths on robust networks only, with and without retry")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.retries:
        for row in retries(given.images):
            print("| " + " | ".join(str(v) for v in row.values()) + " |", flush=True)
        return
    data = realdata()
    images, labels = data.images("cifar10-test", given.images)
    net = fv.Classifier(data.network("cifar10-resnet20"), classes=data.CIFAR10)
    exact = fv.Classifier(data.network("cifar10-resnet20").double(), classes=data.CIFAR10)
    begun = trace_margins(net, images[:32], targets="runner-up", verify=False)
    halfway = torch.stack([path.images[len(path.images) // 2] for path in begun.paths])
    for where, x in (("At the images", images[:32]), ("Half-way to the runner-up", halfway)):
        print(f"{where}:\n\n{directions(net, exact, x)}\n", flush=True)
    if given.solvers:
        return
    tables = []
    for damping in (0.01, 1.0) if given.table else (0.01,):
        t = trace_margins(net, images, labels, damping=damping, verify=given.verify, keep_images=False)
        inside = bool((t.ends >= 0).all() and (t.ends <= 1).all())
        print(
            f"{t!r}: {t.seconds:.0f} s, {t.flipped.double().mean():.2%} flipped, inside the box: {inside}, "
            f"{t.steps.double().mean():.1f} steps, L2 {t.l2.mean():.3f}, length ÷ bound median "
            f"{float(t.ratio.nanmedian()):.4f}, trust region set {float(t.pace[:, 1].mean()):.0%} of the steps",
            flush=True,
        )
        s = t.shielding()
        print(f"{s!r}, rank correlation {s.rank_correlation}\n{s.frame.round(3).to_string(index=False)}\n", flush=True)
        tables.append(by_class(s, given.images))
    if given.table:
        out = Path("docs/cifar10-shielding.csv")
        pd.concat(tables).round(6).to_csv(out, index=False)
        print(f"wrote {out}")


if __name__ == "__main__":
    main()
