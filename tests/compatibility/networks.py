"""The networks of the table: what they are called, how they are made, and what they are given."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tests.compatibility import odd


@dataclass(frozen=True)
class Network:
    """One row.

    Attributes:
        name, kind: in the table.
        build: the number of classes → a plain module with random weights.
        shape: of one input.
        handed: what is done to the module before it is handed over; `plain` stays what float64's truth is taken of.
        options: of `fv.Classifier`.
        classes: of the exact spectrum, and of that by Lanczos; None for as many as it has.
        tokens: whether it takes ids of tokens in place of floats.
    """

    name: str
    kind: str
    build: Callable[[int], nn.Module]
    shape: tuple[int, ...]
    handed: Callable[[nn.Module], nn.Module] = lambda model: model
    options: dict[str, Any] = field(default_factory=dict)
    classes: tuple[int, int] | None = (10, 1000)
    tokens: bool = False

    def plain(self, classes: int) -> nn.Module:
        """The module, its running statistics those of a batch of noise, without which deep networks say nothing."""
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = self.build(classes)
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
        for m in norms:  # an idle channel is to lie beside the kink of the ReLU behind it, not on it
            if m.bias is not None:
                nn.init.normal_(m.bias, std=0.1)
        if norms:
            momenta = [m.momentum for m in norms]
            for m in norms:
                m.momentum = 1.0
            with torch.no_grad():
                model.train()(self.inputs(16, seed=2))
            for m, momentum in zip(norms, momenta, strict=True):
                m.momentum = momentum
        return model.eval()

    def inputs(self, count: int = 1, seed: int = 1) -> Tensor:
        """Inputs (count, …): smooth noise from 0 to 1, as images are."""
        generator = torch.Generator().manual_seed(seed)
        if self.tokens:
            return torch.randint(50, (count, *self.shape), generator=generator)
        x = torch.rand(count, *self.shape, generator=generator)
        if x.ndim == 4:
            x = 0.3 * x + 0.7 * nn.functional.interpolate(
                torch.rand(count, x.shape[1], 4, 4, generator=generator), x.shape[2:], mode="bilinear")  # fmt: skip
        return x


def _torchvision(name: str, size: int = 32, **options: Any) -> Network:
    def build(classes: int) -> nn.Module:
        import torchvision

        return getattr(torchvision.models, name)(weights=None, num_classes=classes, **options)

    return Network(name, "torchvision", build, (3, size, size))


def _timm(name: str, size: int = 32, **options: Any) -> Network:
    def build(classes: int) -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=classes, **options)

    return Network(f"timm/{name}", "timm", build, (3, size, size))


def _transformers(kind: str, size: int = 32, **options: Any) -> Network:
    def build(classes: int) -> nn.Module:
        import transformers

        config = getattr(transformers, f"{kind}Config")(num_labels=classes, **options)
        return getattr(transformers, f"{kind}ForImageClassification")(config)

    return Network(f"transformers/{kind}", "transformers", build, (3, size, size))


_TORCHVISION = [
    "vgg11", "resnet18", "resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2",
    "squeezenet1_0", "squeezenet1_1", "densenet121", "densenet169", "mobilenet_v2", "mobilenet_v3_small",
    "mobilenet_v3_large", "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3", "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0", "efficientnet_b0", "efficientnet_b1",
    "efficientnet_b2", "efficientnet_b3", "efficientnet_v2_s", "regnet_x_400mf", "regnet_x_800mf", "regnet_x_1_6gf",
    "regnet_y_400mf", "regnet_y_800mf", "regnet_y_1_6gf", "convnext_tiny", "convnext_small", "swin_t", "swin_v2_t",
]  # fmt: skip
_TIMM = [
    "tf_efficientnet_lite0", "efficientnet_b0", "mobilenetv3_small_100", "mobilenetv4_conv_small", "ghostnet_100",
    "resnetv2_50", "resnet26d", "seresnext26d_32x4d", "ecaresnet26t", "skresnet18", "convnextv2_atto", "regnety_002",
    "hardcorenas_a", "repvgg_a0", "lcnet_050", "tinynet_e", "tf_mobilenetv3_small_minimal_100",
]  # fmt: skip
_SMALL = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 192}

_ALL = [
    *map(_torchvision, _TORCHVISION),
    _torchvision("alexnet", 64),
    _torchvision("googlenet", aux_logits=False, init_weights=False),
    _torchvision("inception_v3", 96, aux_logits=False, init_weights=False),
    _torchvision("vit_b_16", image_size=32),
    _torchvision("vit_b_32", image_size=32),
    *map(_timm, _TIMM),
    *(_timm(name, 64, img_size=64) for name in ("vit_tiny_patch16_224", "deit_tiny_patch16_224", "mixer_s32_224")),
    _timm("swin_tiny_patch4_window7_224", 56, img_size=56),
    _timm("xcit_nano_12_p16_224", 64),
    _timm("poolformer_s12"),
    *(_transformers(name, 64, image_size=64, patch_size=16, **_SMALL) for name in ("ViT", "DeiT")),
    _transformers("Beit", 64, image_size=64, patch_size=16, use_relative_position_bias=True, **_SMALL),
    _transformers("Swin", image_size=32, patch_size=2, window_size=4, embed_dim=24, depths=[1, 1], num_heads=[2, 4]),
    _transformers("ConvNext", depths=[1, 1, 2, 1], hidden_sizes=[24, 48, 96, 192]),
    _transformers("ConvNextV2", depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 64, 128]),
    _transformers("ResNet", depths=[1, 1, 1, 1], embedding_size=32, hidden_sizes=[64, 128, 256, 512]),
    _transformers("RegNet", depths=[1, 1, 2, 1]),
    _transformers("MobileNetV2", image_size=32),
    _transformers("EfficientNet", image_size=32, width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=640),
    *(Network(kind="others", **vars(one)) for one in odd.NETWORKS),
]
NETWORKS = {network.name: network for network in _ALL}
SAMPLE = (
    "squeezenet1_1",
    "timm/tf_mobilenetv3_small_minimal_100",
    "transformers/ConvNextV2",
    "recurrent (LSTM)",
    "quantised",
)
