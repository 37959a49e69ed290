"""Networks and images of the benchmark, and their leading eigenvalues in float64."""

from __future__ import annotations

import copy
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

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


class FirstClasses(nn.Module):
    """A network with all but its first logits left out: passes cost what they cost in the whole network."""

    def __init__(self, net: nn.Module, count: int) -> None:
        super().__init__()
        self.net, self.count = net, count

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[:, : self.count]


def realdata():
    """Real images and trained networks, which live beside the repository and not in it."""
    if not (DATA / "realdata.py").exists():
        sys.exit("the folder of real images and networks, ../shared/data, is absent: nothing to measure")
    spec = importlib.util.spec_from_file_location("realdata", DATA / "realdata.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def frozen(net: nn.Module) -> nn.Module:
    return net.eval().requires_grad_(False)


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


def whitening(z: Tensor):
    """S(p) = p₂ R Rᵀ for logits z (K,), in the differences to the winning class; R as a function and its transpose.

    Over the other classes S is diag(p) − p pᵀ with Σp = 1 − p_w; for s = √(p/p₂) it is p₂ D(I − γssᵀ)²D with
    D = diag(s), γ = p₂/(1 + √p_w). Nothing is formed by subtracting from 1.
    """
    winner = int(z.argmax())
    others = torch.arange(len(z)) != winner
    log_p = z.log_softmax(0)
    s = (0.5 * (log_p[others] - log_p[others].max())).exp()
    second = log_p[others].max().exp()
    gamma = second / (1 + log_p[winner].exp().sqrt())

    def to_logits(y: Tensor) -> Tensor:
        t = s * (y - gamma * s * (s @ y))
        out = torch.zeros_like(z)
        out[others], out[winner] = t, -t.sum()
        return out

    def from_logits(t: Tensor) -> Tensor:
        t = s * (t[others] - t[winner])
        return t - gamma * s * (s @ t)

    return to_logits, from_logits, second, len(s)


class Exact64:
    """Products with J of one image in float64, by plain autograd."""

    def __init__(self, net64: nn.Module, x: Tensor) -> None:
        self.x = x[None].double().clone().requires_grad_()
        self.z = net64(self.x)
        self.w = torch.zeros_like(self.z, requires_grad=True)
        (self.slope,) = torch.autograd.grad(self.z, self.x, self.w, create_graph=True)
        self.logits = self.z.detach()[0]

    def vjp(self, c: Tensor) -> Tensor:
        return torch.autograd.grad(self.z, self.x, c[None], retain_graph=True)[0].flatten()

    def jvp(self, v: Tensor) -> Tensor:
        return torch.autograd.grad(self.slope, self.w, v.view_as(self.x), retain_graph=True)[0][0]


def dense_truth(net: nn.Module, images: Tensor) -> Tensor:
    """λ₁ (n,) in float64 from all K−1 rows."""
    net64, values = copy.deepcopy(net).double(), []
    for x in images:
        passes = Exact64(net64, x)
        to_logits, _, scale, rank = whitening(passes.logits)
        rows = torch.stack([passes.vjp(to_logits(e)) for e in torch.eye(rank, dtype=torch.float64)])
        values.append(scale * torch.linalg.eigvalsh(rows @ rows.T)[-1])
    return torch.stack(values)


def lanczos_truth(net: nn.Module, images: Tensor, k: int, tolerance: float = 1e-12) -> tuple[Tensor, Tensor, int]:
    """The k largest eigenvalues (n, k) in float64 by Lanczos in class space, for K too large to take all rows.

    Returns also the largest residual ‖Bu − θu‖/θ (k,), from the products with B themselves and not from the recurrence:
    some eigenvalue lies within it of each value. And the most steps that an image took.
    """
    net64, values, residuals, most = copy.deepcopy(net).double(), [], [], 0
    for x in images:
        passes = Exact64(net64, x)
        to_logits, from_logits, scale, rank = whitening(passes.logits)

        def apply(q: Tensor, passes=passes, to_logits=to_logits, from_logits=from_logits) -> Tensor:
            return from_logits(passes.jvp(passes.vjp(to_logits(q))))

        start = torch.randn(rank, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        basis, products = [start / start.norm()], []
        while True:
            products.append(apply(basis[-1]))
            q, w = torch.stack(basis, 1), torch.stack(products, 1)
            t = q.T @ w
            theta, s = torch.linalg.eigh((t + t.T) / 2)
            theta, s = theta.flip(0)[:k], s.flip(1)[:, :k]
            residual = (w @ s - (q @ s) * theta).norm(dim=0) / theta
            if len(basis) >= min(rank, 100) or (len(basis) > k and residual.max() < tolerance):
                break
            new = products[-1]
            for _ in range(2):
                new = new - q @ (q.T @ new)
            basis.append(new / new.norm())
        values.append(scale * theta)
        residuals.append(residual)
        most = max(most, len(basis))
    return torch.stack(values), torch.stack(residuals).amax(0), most


def rayleigh(net: nn.Module, images: Tensor, directions: Tensor) -> Tensor:
    """vᵀFv (n,) in float64 for directions v (n, …) of any length."""
    net64, values = copy.deepcopy(net).double(), []
    for x, v in zip(images, directions, strict=True):
        passes = Exact64(net64, x)
        _, from_logits, scale, _ = whitening(passes.logits)
        v = v.double().flatten()
        values.append(scale * from_logits(passes.jvp(v / v.norm())).square().sum())
    return torch.stack(values)
