"""EfficientNet-Lite0 (Liu 2020), written so that `torch.fx` can trace it, for weights that were trained in TensorFlow.

It is EfficientNet-B0 (Tan & Le 2019, arXiv:1905.11946) without squeeze-and-excitation and with ReLU6 for swish.
"""

from __future__ import annotations

from torch import Tensor, nn

# A row a stage: blocks, kernel, stride of the first block, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLite0(nn.Sequential):
    """Images (n, 3, side, side) to logits (n, 1000); the side is a multiple of 32, 224 in training."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [*_conv_bn(3, 32, 3, stride=2), nn.ReLU6()]
        channels = 32
        for blocks, kernel, stride, expansion, outputs in _STAGES:
            for i in range(blocks):
                layers.append(InvertedResidual(channels, outputs, kernel, 1 if i else stride, expansion))
                channels = outputs
        layers += [*_conv_bn(channels, 1280, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(*layers, nn.Linear(1280, 1000))


class InvertedResidual(nn.Module):
    """Wide inside and narrow outside, one filter a channel (Sandler et al. 2018); a shortcut where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.residual = nn.Sequential(
            *([*_conv_bn(inputs, wide, 1), nn.ReLU6()] if expansion > 1 else []),
            *_conv_bn(wide, wide, kernel, stride=stride, groups=wide),
            nn.ReLU6(),
            *_conv_bn(wide, outputs, 1),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        return x + self.residual(x) if self.shortcut else self.residual(x)


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Padded as TensorFlow's "SAME": of an odd number of zeros, the odd one is right and below."""
    spare = kernel - stride
    pads: list[nn.Module] = []
    if spare % 2:
        pads, spare = [nn.ZeroPad2d((spare // 2, spare - spare // 2) * 2)], 0
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=spare // 2, groups=groups, bias=False)
    return [*pads, conv, nn.BatchNorm2d(outputs, eps=1e-3)]
