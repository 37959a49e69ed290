"""Networks and images of the benchmark."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from tests.benchmarks.truth import dense_truth, frozen

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@dataclass
class Sizes:
    """Everything that makes the run longer or shorter."""

    cifar: int = 32  # images
    mnist: int = 32
    resnet18: int = 8
    resnet18_classes: int = 100
    resnet18_pixels: int = 64
    photographs: int = 4  # for the table
    goal_photographs: int = 20  # for the goal
    some_classes: int = 20  # VJPs that are timed where the whole would take minutes
    one_by_one: int = 2  # images for competitors that take them one at a time
    repeats: int = 5
    budget: float = 6.0  # seconds for one competitor in one table
    growth_budget: float = 2.0
    growth_classes: tuple[int, ...] = (3, 10, 30, 100, 300, 1000)
    growth_pixels: tuple[int, ...] = (16, 32, 64, 128)
    growth_images: tuple[int, ...] = (1, 4, 16, 64)
    memory: tuple[float, ...] = (5e8, 1e9, 2e9)
    memory_images: int = 24
    memory_pixels: int = 128


QUICK = Sizes(
    cifar=4, mnist=4, resnet18=1, photographs=1, goal_photographs=1, some_classes=10, one_by_one=1, repeats=1,
    resnet18_classes=20, resnet18_pixels=32,
    budget=1.0, growth_budget=0.5, growth_classes=(3, 20, 60), growth_pixels=(16, 32), growth_images=(1, 4),
    memory=(5e8,), memory_images=4, memory_pixels=64,
)  # fmt: skip


@dataclass
class Setting:
    name: str
    net: nn.Module  # evaluation mode, frozen
    x: Tensor
    classes: int
    truth: Tensor  # λ₁ (n,) in float64
    part: int | None = None  # VJPs to time instead of all


def realdata():
    """Real images and trained networks, which live beside the repository and not in it."""
    if not (DATA / "realdata.py").exists():
        sys.exit("the folder of real images and networks, ../shared/data, is absent: nothing to measure")
    spec = importlib.util.spec_from_file_location("realdata", DATA / "realdata.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def real(name: str, count: int) -> Setting:
    data = realdata()
    net = frozen(data.network(name))
    x, _ = data.images(data.NETWORKS[name][4], count)
    return Setting(f"K = 10, {name}, {count} test images", net, x, 10, dense_truth(net, x))


def random_resnet18(count: int, classes: int, pixels: int) -> Setting:
    torch.manual_seed(0)
    net = frozen(torchvision.models.resnet18(num_classes=classes))
    x = torch.rand(count, 3, pixels, pixels)
    name = f"K = {classes}, ResNet-18 with random weights, {count} noise images of {pixels}×{pixels}"
    return Setting(name, net, x, classes, dense_truth(net, x))


class Convnet(nn.Module):
    """A small convolutional network for any K and image size, with random weights and logits that spread by ±2."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(1024, classes)
        z = self(torch.rand(8, 3, 32, 32))
        self.head.weight.data *= 2 / z.std()
        self.head.bias.data *= 2 / z.std()
        frozen(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))
