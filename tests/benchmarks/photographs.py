"""What networks that people have cost at their own size: python -m tests.benchmarks.photographs [NETWORK …].

One photograph of 224×224, one thread, and everything in forward passes of that photograph in the same process: the
shortest of several runs that take turns, over the shortest forward pass, in seconds of the processor that were this
process's, as other programs only ever lengthen them.
`--classes`, `--values` and `--repeats` choose K, k and the number of runs, `--costs` leaves out what is slow: the
float64 oracle and torch alone. Prints Markdown tables. Weights are random but for photo-lite0's.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import fimviz as fv
from fimviz.fisher.passes import tangent
from fimviz.model.probe import probe
from tests.benchmarks.floor import floor_batched, floor_loop, floor_vmap, jacrev_gram
from tests.benchmarks.timing import table
from tests.benchmarks.truth import FirstClasses, dense_spectrum, frozen, lanczos_truth

_ITERATIONS = 20  # of the power iteration that a user would write
NETWORKS = (
    *("photo-lite0", "resnet18", "mobilenet_v3_small", "mobilenet_v2", "efficientnet_b0", "convnext_tiny"),
    *("deit_tiny", "swin_t", "vit_b_16"),
)
HEADER = ["network", "K", "k", "forward", "default", "`verify=False`", "ratio", "floor", "passes", "first use"]
HEADER += ["λ₁ off", "stated", "off unverified", "stated"]


def network(name: str, classes: int) -> fv.Classifier:
    """A classifier with random weights, but for the zoo's, of which the first classes are taken."""
    torch.manual_seed(0)
    if name == "photo-lite0":
        whole = fv.zoo.load(name)
        model = whole.model if classes >= 1000 else FirstClasses(whole.model, classes)
        return fv.Classifier(model, mean=whole.mean, std=whole.std)
    if name == "deit_tiny":
        import timm

        model = timm.create_model("deit_tiny_patch16_224", num_classes=classes)
    else:
        model = getattr(torchvision.models, name)(weights=None, num_classes=classes)
    return fv.Classifier(frozen(model), mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


def photograph() -> Tensor:
    """scikit-learn's flower, (1, 3, 224, 224)."""
    from sklearn.datasets import load_sample_image

    x = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1)[None, :, :420, :420] / 255
    return nn.functional.interpolate(x, size=224, mode="bilinear", antialias=True).clamp(0, 1)


class Pixels(nn.Module):
    """Pixels to logits, in the precision of the pixels: what an oracle and users differentiate."""

    def __init__(self, net: fv.Classifier) -> None:
        super().__init__()
        self.model = net.model
        self.register_buffer("mean", net.mean.view(1, -1, 1, 1).float())
        self.register_buffer("std", net.std.view(1, -1, 1, 1).float())

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, K)."""
        return self.model((x - self.mean) / self.std)


def clock(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the processor that a run takes, and what it returns."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def fastest(runs: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, float], dict[str, Any]]:
    """The shortest seconds of each of some runs that take turns, and what they returned; infinite where it fails."""
    seconds: dict[str, float] = dict.fromkeys(runs, torch.inf)
    results: dict[str, Any] = {}
    for _ in range(repeats):
        for name, run in runs.items():
            try:
                spent, results[name] = clock(run)
            except (RuntimeError, NotImplementedError) as error:  # torch has no rule for one of its operations
                results[name] = error
            else:
                seconds[name] = min(seconds[name], spent)
    return seconds, results


def own_passes(model: nn.Module, x: Tensor, vjps: int, jvps: int, forward: bool) -> None:
    """One forward pass and as many products with J, in forward mode or by differentiating twice, and nothing else."""
    x = x.clone().requires_grad_()
    z = model(x)
    w = torch.zeros_like(z, requires_grad=True)
    if not forward and jvps:
        (slope,) = torch.autograd.grad(z, x, w, create_graph=True)
    for _ in range(vjps):
        (v,) = torch.autograd.grad(z, x, torch.ones_like(z), retain_graph=True)
    for _ in range(jvps):
        if forward:
            with torch.no_grad():
                tangent(model, x.detach(), v)
        else:
            torch.autograd.grad(slope, w, v, retain_graph=True)


def power_iteration(model: nn.Module, x: Tensor) -> Tensor:
    """What a user would write for many classes: λ₁ (1,) by products with F, differentiating twice."""
    x = x.clone().requires_grad_()
    z = model(x)
    w = torch.zeros_like(z, requires_grad=True)
    (slope,) = torch.autograd.grad(z, x, w, create_graph=True)
    p, v = z.detach().softmax(1), torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for _ in range(_ITERATIONS):
        v = v / v.norm()
        (u,) = torch.autograd.grad(slope, w, v, retain_graph=True)
        (v,) = torch.autograd.grad(z, x, p * (u - (p * u).sum()), retain_graph=True)
    return v.norm()[None]


def jacobian_gram(model: nn.Module, x: Tensor) -> Tensor:
    """What a user would write for few classes with `torch.autograd.functional.jacobian`: λ₁ (1,)."""
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x)[0], x).flatten(1)
    p = model(x)[0].softmax(0)[:, None]
    rows = p.sqrt() * (jacobian - (p * jacobian).sum(0))
    return torch.linalg.eigvalsh((rows @ rows.mT).double())[-1:]


def oracle(net: fv.Classifier, model: nn.Module, x: Tensor, k: int) -> Tensor:
    """The k largest eigenvalues (k,) in float64, by the benchmark's own passes."""
    with net.at_rest():
        few = len(net.classes) <= 100
        found = dense_spectrum(model, x) if few else lanczos_truth(model, x, k, 1e-8, forward=True)[0]
    return found[0, :k]


def measure(name: str, classes: int, values: int, repeats: int, costs: bool) -> tuple[list[str], list[str]]:
    """The rows of a network in both tables."""
    x, net = photograph(), network(name, classes)
    model = Pixels(net).eval()
    fresh = network(name, classes)
    first = clock(lambda: probe(fresh, x))[0]
    net(x)

    def spectrum(**options: Any) -> fv.Spectrum:
        return fv.spectrum(net, x, k=values, **options)

    found = spectrum()
    spectrum(verify=False)
    vjps, jvps = int(found.cost.vjps), int(found.cost.jvps)
    with torch.no_grad():
        model(x)
    runs: dict[str, Callable[[], Any]] = {
        "forward": torch.no_grad()(lambda: model(x)),
        "default": spectrum,
        "unverified": lambda: spectrum(verify=False),
    }
    if found.method == "exact":
        floors = {"loop": lambda: floor_loop(model, x), "batched": lambda: floor_batched(model, x)}
        floors["vmap"] = lambda: floor_vmap(model, x)
        users = {"`vmap(jacrev)`": lambda: jacrev_gram(model, x), "`jacobian`": lambda: jacobian_gram(model, x)}
    else:
        floors = {way: lambda way=way: own_passes(model, x, vjps, jvps, way) for way in (True, False)}
        users = {f"power iteration, {_ITERATIONS} products": lambda: power_iteration(model, x)}
    seconds, results = fastest(runs, repeats)
    unit = min(seconds["forward"], fastest({"forward": runs["forward"]}, repeats)[0]["forward"])
    with net.at_rest():
        least = min(fastest(floors, 2)[0].values())
        theirs, answers = fastest({} if costs else users, 2)
    truth = torch.full((values,), torch.nan) if costs else oracle(net, model, x, values)

    def off(s: fv.Spectrum) -> list[str]:
        return [
            f"{float(part):.0e}"
            for part in ((s.eigenvalues[0, 0] - truth[0]).abs() / truth[0], s.error[0, 0] / truth[0])
        ]

    def cost(spent: float) -> str:
        return f"{spent / unit:.1f}"

    ours = [cost(seconds[way]) for way in ("default", "unverified")]
    ratio = f"{seconds['default'] / seconds['unverified']:.2f}"
    passes = f"{int(found.cost.forwards)} + {vjps} + {jvps}"
    setting = [name, str(classes), str(values)]
    row = [*setting, f"{1000 * unit:.0f} ms", *ours, ratio, cost(least), passes, cost(first)]
    row += off(results["default"]) + off(results["unverified"])
    instead = [*setting, ours[0], off(results["default"])[0]]
    others = []
    for way, spent in theirs.items():
        failed = isinstance(answers[way], Exception)
        far = "does not run" if failed else f"{float((answers[way][0] - truth[0]).abs() / truth[0]):.0e}"
        others += [f"{way}: {'–' if failed else cost(spent)}", far]
    return row, [*instead, "; ".join(f"{a} ({b})" for a, b in zip(others[::2], others[1::2], strict=True))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.photographs")
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--values", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--costs", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    rows, users = [], []
    for name in given.networks:
        for classes in given.classes:
            for values in given.values:
                row, user = measure(name, classes, values, given.repeats, given.costs)
                rows.append(row)
                users.append(user)
                print(*row, "|", *user[3:], file=sys.stderr, flush=True)
    print(
        table(HEADER, rows), table(["network", "K", "k", "fimviz", "λ₁ off", "torch alone (λ₁ off)"], users), sep="\n\n"
    )


if __name__ == "__main__":
    main()
