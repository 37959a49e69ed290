"""The networks of the table: those of libraries, by their names there, and those that no library has."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.compatibility import odd
from tests.compatibility.network import Network


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
    *odd.NETWORKS,
]
NETWORKS = {network.name: network for network in _ALL}
SAMPLE = (
    "squeezenet1_1",
    "timm/tf_mobilenetv3_small_minimal_100",
    "transformers/ConvNextV2",
    "recurrent (LSTM)",
    "quantised",
)
