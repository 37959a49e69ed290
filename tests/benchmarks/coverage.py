"""Does every stated error hold? python -m tests.benchmarks.coverage [--images N].

λ₁ … λ₃ by every method and precision, against the same network in float64 by all gradients: on four CIFAR-10 networks
of ../shared/data and on torchvision's resnet18, convnext_tiny and swin_t with random weights, ten classes, at 64².
Prints a Markdown table: how many errors hold, the worst deviation and the median one, in units of the stated error.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import fimviz as fv
from tests.benchmarks.settings import realdata

CIFAR = ("cifar10-resnet20", "cifar10-marabou", "cifar10-resnet4b-robust", "cifar10-cnn-robust")
TORCHVISION = ("resnet18", "convnext_tiny", "swin_t")


class Autocast(nn.Module):
    """A network that lowers its own precision."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits in float32."""
        with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.float32):
            return self.model(x).to(x.dtype)


WAYS: dict[str, tuple[Callable[[nn.Module], nn.Module], dict[str, Any]]] = {
    "exact": (lambda m: m, {"method": "exact"}),
    "exact, unverified": (lambda m: m, {"method": "exact", "verify": False}),
    "lanczos": (lambda m: m, {"method": "lanczos", "k": 3}),
    "lanczos, unverified": (lambda m: m, {"method": "lanczos", "k": 3, "verify": False}),
    "autocast": (Autocast, {"method": "exact", "verify": False}),
    "bfloat16": (lambda m: copy.deepcopy(m).bfloat16(), {"method": "exact"}),
    "bfloat16, unverified": (lambda m: copy.deepcopy(m).bfloat16(), {"method": "exact", "verify": False}),
}


def networks(images: int) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Name, network, images."""
    data = realdata()
    for name in CIFAR:
        yield name, data.network(name), data.images(data.NETWORKS[name][-1], images)[0]
    for name in TORCHVISION:
        torch.manual_seed(0)
        yield (
            name,
            getattr(torchvision.models, name)(weights=None, num_classes=10).eval(),
            torch.rand(images, 3, 64, 64),
        )


def rows(images: int) -> Iterator[dict[str, Any]]:
    """One row a network and way."""
    for name, model, x in networks(images):
        wide = fv.spectrum(copy.deepcopy(model).double(), x.double(), k=3, method="exact").eigenvalues
        for way, (change, options) in WAYS.items():
            changed = change(model)
            truth = wide
            if "bfloat16" in way:  # of its own weights
                truth = fv.spectrum(copy.deepcopy(changed).double(), x.double(), k=3, method="exact").eigenvalues
            found = fv.spectrum(changed, x, **options)
            away = (found.eigenvalues[:, :3] - truth).abs()
            share = away / found.error[:, :3].clamp_min(1e-300)
            yield {
                "network": name,
                "way": way,
                "guarantee": found.guarantee,
                "inside": f"{int((share <= 1).sum())} of {share.numel()}",
                "worst": f"{share.max():.2g}",
                "median": f"{share.median():.2g}",
                "stated error of λ₁": f"{(found.error[:, 0] / truth[:, 0]).median():.1g}",
            }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.coverage")
    parser.add_argument("--images", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    for row in rows(given.images):
        print("| " + " | ".join(str(v) for v in row.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
