"""A network whose Lipschitz constant is known because it was built in, and how it is trained.

Orthogonal matrices keep lengths and absolute values keep slopes at ±1, so that the features move exactly as far as the
image does, whatever the image (Anil et al. 2019, *Sorting out Lipschitz function approximation*). Products of norms,
which lose a factor with every layer of other networks, lose nothing here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SCALE = 4.0  # of the logits, whose rows are orthonormal but for this: larger is more accurate, and less certain


class Abs(nn.Module):
    """|x|, whose slope is 1 or −1."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return x.abs()


class Lipschitz(nn.Sequential):
    """Three orthogonal layers with absolute values, and ten orthogonal rows: logits move 4 times as far as pixels."""

    def __init__(self) -> None:
        hidden = [layer for _ in range(3) for layer in (nn.Linear(64, 64), Abs())]
        super().__init__(nn.Flatten(), *hidden, nn.Linear(64, 10))


class _Times(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return SCALE * z


def constrained() -> nn.Sequential:
    """A new network in the form that is trained: its matrices stay orthogonal whatever a step does to them."""
    net = Lipschitz()
    for layer in _linear(net):
        nn.utils.parametrizations.orthogonal(layer, orthogonal_map="cayley")
    return nn.Sequential(*net, _Times())


@torch.no_grad()
def plain(net: nn.Module) -> nn.Sequential:
    """What `constrained` gave, when it is trained, with weights like those of any other network."""
    assert isinstance(net, nn.Sequential)
    for layer in _linear(net):
        nn.utils.parametrize.remove_parametrizations(layer, "weight")
    last = net[-2]
    assert isinstance(last, nn.Linear)
    last.weight = nn.Parameter((SCALE * last.weight).contiguous())
    last.bias.mul_(SCALE)
    return net[:-1]


def _linear(net: nn.Sequential) -> list[nn.Module]:
    return [layer for layer in net if isinstance(layer, nn.Linear)]
