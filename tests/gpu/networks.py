"""The networks that are timed, with torch alone: a bare machine has no torchvision.

Module names are torchvision's, so that its weights fit; tests/gpu/test_networks.py compares the two.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class _Block(nn.Module):
    """A residual block of convolutions (inputs, outputs, kernel, stride)."""

    def __init__(self, convolutions: list[tuple[int, int, int, int]], stride: int) -> None:
        super().__init__()
        self.count, self.relu = len(convolutions), nn.ReLU()
        for i, (a, b, kernel, step) in enumerate(convolutions, 1):
            setattr(self, f"conv{i}", _conv(a, b, kernel, step))
            setattr(self, f"bn{i}", nn.BatchNorm2d(b))
        first, last = convolutions[0][0], convolutions[-1][1]
        changes = stride > 1 or first != last
        self.downsample = nn.Sequential(_conv(first, last, 1, stride), nn.BatchNorm2d(last)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = self.relu(y) if i < self.count else y
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """ResNet-18 or -50 (He et al. 2016), with the stride of a bottleneck in its 3×3 convolution."""

    def __init__(self, depths: tuple[int, ...], bottleneck: bool, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()
        self.maxpool, inputs = nn.MaxPool2d(3, 2, 1), 64
        for stage, depth in enumerate(depths):
            width, blocks = 64 * 2**stage, []
            for b in range(depth):
                stride = 2 if stage and not b else 1
                if bottleneck:
                    steps = [(inputs, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)]
                else:
                    steps = [(inputs, width, 3, stride), (width, width, 3, 1)]
                blocks.append(_Block(steps, stride))
                inputs = steps[-1][1]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


class _Half(nn.Module):
    """Every other pixel, and zeros for the channels that are new: a shortcut without weights."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more // 2))


class CifarResNet(nn.Module):
    """ResNet-20 for images of 32×32 (He et al. 2016, §4.2)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()]
        inputs = 16
        for width in (16, 32, 64):
            for _ in range(3):
                block = _Block([(inputs, width, 3, width // inputs), (width, width, 3, 1)], 1)
                block.downsample = _Half(width - inputs) if width > inputs else None
                layers.append(block)
                inputs = width
        self.features, self.linear = nn.Sequential(*layers), nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.features(x).mean((2, 3)))


def _unit(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs, kernel, stride, groups), nn.BatchNorm2d(outputs), nn.ReLU6())


class _Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        inside, self.adds = inputs * expand, stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([_unit(inputs, inside, 1)] if expand > 1 else []),
            _unit(inside, inside, 3, stride, inside),
            _conv(inside, outputs, 1),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al. 2018)."""

    _STAGES = (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    )

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_unit(3, 32, 3, 2)]
        inputs = 32
        for expand, width, count, stride in self._STAGES:
            for i in range(count):
                layers.append(_Inverted(inputs, width, stride if not i else 1, expand))
                inputs = width
        self.features = nn.Sequential(*layers, _unit(inputs, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class _Encoder(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(dim, 1e-6), nn.LayerNorm(dim, 1e-6)
        self.self_attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        # The places that torchvision's dropouts take.
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Identity(), nn.Linear(4 * dim, dim), nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.self_attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class VisionTransformer(nn.Module):
    """ViT-B/16 (Dosovitskiy et al. 2021) at 224×224."""

    def __init__(self, classes: int, dim: int = 768, heads: int = 12, depth: int = 12) -> None:
        super().__init__()
        self.conv_proj = nn.Conv2d(3, dim, 16, 16)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.encoder = nn.Module()
        self.encoder.pos_embedding = nn.Parameter(0.02 * torch.randn(1, 197, dim))
        self.encoder.layers = nn.Sequential()
        for i in range(depth):
            self.encoder.layers.add_module(f"encoder_layer_{i}", _Encoder(dim, heads))
        self.encoder.ln = nn.LayerNorm(dim, 1e-6)
        self.heads = nn.Sequential()
        self.heads.add_module("head", nn.Linear(dim, classes))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv_proj(x).flatten(2).mT
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], 1) + self.encoder.pos_embedding
        return self.heads(self.encoder.ln(self.encoder.layers(tokens))[:, 0])


NETWORKS = {  # name: (what builds it for K classes, pixels a side)
    "ResNet-20": (CifarResNet, 32),
    "ResNet-18": (lambda classes: ResNet((2, 2, 2, 2), False, classes), 224),
    "ResNet-50": (lambda classes: ResNet((3, 4, 6, 3), True, classes), 224),
    "MobileNetV2": (MobileNetV2, 224),
    "ViT-B/16": (VisionTransformer, 224),
}


def network(name: str, classes: int) -> nn.Module:
    """One of `NETWORKS` with random weights, frozen, in evaluation mode, its logits some ±2 apart."""
    torch.manual_seed(0)
    build, pixels = NETWORKS[name]
    net = build(classes).eval().requires_grad_(False)
    *_, head = (m for m in net.modules() if isinstance(m, nn.Linear))
    spread = (net(torch.rand(2, 3, pixels, pixels)) - head.bias).std(1).mean()
    head.weight *= 2 / spread
    return net
