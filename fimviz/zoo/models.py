"""Small networks for 8×8 images, one a family: MLP, VGG, ResNet, DenseNet and vision transformer; 1-Lipschitz ones.

Each maps pixels in [0, 1] of shape (n, 1, 8, 8) to logits (n, 10), has about 40 000 parameters at most, and is
written so that `torch.fx` can trace it: no control flow on tensors, one module instance for every operation.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from fimviz.zoo.lipschitz import Lipschitz


class MLP(nn.Sequential):
    """Three fully connected layers; it does not know which pixels are neighbours."""

    def __init__(self, width: int = 128) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(64, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 10),
        )


class VGG(nn.Sequential):
    """Two stacks of 3×3 convolutions with max pooling (Simonyan & Zisserman 2015), with batch normalisation.

    With `nn.Identity` as its activation it is linear but for the pooling, and with `nn.AvgPool2d` altogether.
    """

    def __init__(
        self, width: int = 24, activation: type[nn.Module] = nn.ReLU, pool: Callable[[int], nn.Module] = nn.MaxPool2d
    ) -> None:
        super().__init__(
            *_conv_bn_relu(1, width, activation=activation),
            *_conv_bn_relu(width, width, activation=activation),
            pool(2),
            *_conv_bn_relu(width, 2 * width, activation=activation),
            *_conv_bn_relu(2 * width, 2 * width, activation=activation),
            pool(2),
            nn.Flatten(),
            nn.Linear(2 * width * 2 * 2, 10),
        )


class ResNet(nn.Sequential):
    """Basic residual blocks and global average pooling (He et al. 2016)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__(
            *_conv_bn_relu(1, width),
            BasicBlock(width, width),
            BasicBlock(width, 2 * width, stride=2),
            BasicBlock(2 * width, 2 * width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * width, 10),
        )


class BasicBlock(nn.Module):
    """relu(two convolutions + shortcut); the shortcut is the identity where the shapes agree, else a projection."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_conv_bn_relu(inputs, outputs, stride),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        return self.relu(self.residual(x) + self.shortcut(x))


class DenseNet(nn.Sequential):
    """Layers that see the outputs of all layers before them in their block (Huang et al. 2017)."""

    def __init__(self, stem: int = 16, growth: int = 12, layers: int = 4) -> None:
        first = stem + layers * growth
        second = first // 2 + layers * growth
        super().__init__(
            nn.Conv2d(1, stem, 3, padding=1, bias=False),
            *(DenseLayer(stem + i * growth, growth) for i in range(layers)),
            *_bn_relu_conv(first, first // 2, kernel=1),
            nn.AvgPool2d(2),
            *(DenseLayer(first // 2 + i * growth, growth) for i in range(layers)),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(second, 10),
        )


class DenseLayer(nn.Module):
    """Appends `growth` new channels to its input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.new = nn.Sequential(*_bn_relu_conv(inputs, growth, kernel=3))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, inputs + growth, h, w)."""
        return torch.cat([x, self.new(x)], 1)


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021): 16 patches of 2×2 pixels and a class token."""

    def __init__(self, dim: int = 40, heads: int = 4, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, dim, 2, stride=2)
        self.flatten = nn.Flatten(2)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        # As large as the patches, or so few images would not teach the network where a patch is.
        self.position = nn.Parameter(torch.empty(1, 17, dim).normal_(std=0.5))
        self.blocks = nn.Sequential(*(TransformerBlock(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, 8, 8) to (n, 10)."""
        patches = self.flatten(self.patches(x)).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], 1) + self.position
        return self.head(self.norm(self.blocks(tokens)[:, 0]))


class TransformerBlock(nn.Module):
    """Attention between tokens, then an MLP on each; layer normalisation before both, a shortcut around both."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(dim), Attention(dim, heads))
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, dim) to the same shape."""
        x = x + self.attention(x)
        return x + self.mlp(x)


class Attention(nn.Module):
    """softmax(q kᵀ / √d) v in several heads of size d, spelled out (Vaswani et al. 2017)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.softmax = nn.Softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, dim) to the same shape."""
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        weights = self.softmax(self.scale * (q @ k.transpose(-2, -1)))
        return self.out((weights @ v).transpose(1, 2).flatten(-2))


def _conv_bn_relu(inputs: int, outputs: int, stride: int = 1, activation: type[nn.Module] = nn.ReLU) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), activation()]


def _bn_relu_conv(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return [nn.BatchNorm2d(inputs), nn.ReLU(), conv]


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "digits-mlp": MLP,
    "digits-vgg": VGG,
    "digits-resnet": ResNet,
    "digits-densenet": DenseNet,
    "digits-vit": ViT,
}
_BUILDS: dict[str, Callable[[], nn.Module]] = {
    **{name + suffix: build for name, build in ARCHITECTURES.items() for suffix in ("", "-robust")},
    "digits-lipschitz": Lipschitz,
}


def names() -> list[str]:
    """The networks for the images of `digits`; "photo-lite0" is not among them, since it takes others.

    Example:
        >>> import fimviz as fv
        >>> fv.zoo.names()[:2]
        ['digits-mlp', 'digits-mlp-robust']
    """
    return list(_BUILDS)


def architecture(name: str) -> Callable[[], nn.Module]:
    """What builds the network `name`, untrained; an unknown name raises with the nearest valid one."""
    if name not in _BUILDS:
        (nearest,) = get_close_matches(str(name), names(), n=1, cutoff=0)
        raise ValueError(
            f"there is no network {name!r}: did you mean {nearest!r}? fv.zoo.names() lists those for digits, and "
            "'photo-lite0' is the one for photographs"
        )
    return _BUILDS[name]
