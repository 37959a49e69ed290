"""The float64 oracle: plain autograd and dense algebra, independent of fimviz. Needs torch alone."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class FirstClasses(nn.Module):
    """A network with all but its first logits left out: passes cost what they cost in the whole network."""

    def __init__(self, net: nn.Module, count: int) -> None:
        super().__init__()
        self.net, self.count = net, count

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[:, : self.count]


def frozen(net: nn.Module) -> nn.Module:
    return net.eval().requires_grad_(False)


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
    """Products with J of one image in float64, by plain autograd: J v in forward mode, or by differentiating twice."""

    def __init__(self, net64: nn.Module, x: Tensor, forward: bool = False) -> None:
        self.net, self.x, self.forward = net64, x[None].double().clone().requires_grad_(), forward
        self.z = net64(self.x)
        self.w = torch.zeros_like(self.z, requires_grad=True)
        if not forward:
            (self.slope,) = torch.autograd.grad(self.z, self.x, self.w, create_graph=True)
        self.logits = self.z.detach()[0]

    def vjp(self, c: Tensor) -> Tensor:
        return torch.autograd.grad(self.z, self.x, c[None], retain_graph=True)[0].flatten()

    def jvp(self, v: Tensor) -> Tensor:
        if self.forward:
            with torch.no_grad():
                return torch.func.jvp(self.net, (self.x.detach(),), (v.view_as(self.x),))[1][0]
        return torch.autograd.grad(self.slope, self.w, v.view_as(self.x), retain_graph=True)[0][0]


def dense_spectrum(net: nn.Module, images: Tensor) -> Tensor:
    """All K−1 eigenvalues (n, K−1) in float64, descending, from all rows."""
    net64, values = copy.deepcopy(net).double(), []
    for x in images:
        passes = Exact64(net64, x)
        to_logits, _, scale, rank = whitening(passes.logits)
        rows = torch.stack([passes.vjp(to_logits(e)) for e in torch.eye(rank, dtype=torch.float64)])
        values.append(scale * torch.linalg.eigvalsh(rows @ rows.T).flip(0).clamp_min(0))
    return torch.stack(values)


def dense_truth(net: nn.Module, images: Tensor) -> Tensor:
    """λ₁ (n,) in float64 from all K−1 rows."""
    return dense_spectrum(net, images)[:, 0]


def lanczos_truth(
    net: nn.Module, images: Tensor, k: int, tolerance: float = 1e-12, forward: bool = False
) -> tuple[Tensor, Tensor, int]:
    """The k largest eigenvalues (n, k) in float64 by Lanczos in class space, for K too large to take all rows.

    Returns also the largest residual ‖Bu − θu‖/θ (k,), from the products with B themselves and not from the recurrence:
    some eigenvalue lies within it of each value. And the most steps that an image took.
    """
    net64, values, residuals, most = copy.deepcopy(net).double(), [], [], 0
    for x in images:
        passes = Exact64(net64, x, forward)
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
