"""What no exact method can do without, and what a user would write: with torch alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

AT_ONCE = 10  # cotangents in a batched pass of the floor, and rows at once of vmap(jacrev) where K is large


def floor_loop(net: nn.Module, x: Tensor) -> None:
    """One forward pass and K−1 backward passes toward the input, one after the other, and nothing else."""
    x = x.clone().requires_grad_()
    z = net(x)
    for c in range(z.shape[1] - 1):
        cotangent = torch.zeros_like(z)
        cotangent[:, c] = 1
        torch.autograd.grad(z, x, cotangent, retain_graph=True)


def floor_batched(net: nn.Module, x: Tensor, at_once: int = AT_ONCE) -> None:
    """The same with `is_grads_batched`, some at once: convolutions still go back one by one."""
    x = x.clone().requires_grad_()
    z = net(x)
    for cotangents in _axes(z).split(at_once):
        torch.autograd.grad(z, x, cotangents, retain_graph=True, is_grads_batched=True)


def floor_vmap(net: nn.Module, x: Tensor, at_once: int = AT_ONCE) -> None:
    """The same with `torch.func.vmap`, some at once, under which convolutions go back together."""
    x = x.clone().requires_grad_()
    z = net(x)
    back = vmap(lambda cotangent: torch.autograd.grad(z, x, cotangent, retain_graph=True)[0])
    for cotangents in _axes(z).split(at_once):
        back(cotangents)


def _axes(z: Tensor) -> Tensor:
    return torch.eye(z.shape[1], device=z.device)[: z.shape[1] - 1, None].expand(-1, len(z), -1)


def jacrev_gram(net: nn.Module, x: Tensor, at_once: int | None = None) -> Tensor:
    """The honest baseline, what a user would write with torch.func: λ₁ (n,)."""

    def logits(one: Tensor) -> tuple[Tensor, Tensor]:
        z = net(one[None])[0]
        return z, z

    jacobian, z = vmap(jacrev(logits, has_aux=True, chunk_size=at_once))(x)
    jacobian, p = jacobian.flatten(2), z.softmax(1)[..., None]
    rows = p.sqrt() * (jacobian - (p * jacobian).sum(1, keepdim=True))
    return torch.linalg.eigvalsh((rows @ rows.mT).double())[:, -1]
