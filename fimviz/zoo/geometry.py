"""Images of any kind and size to a batch in [0, 1]: resizing and cropping as a network's own library does it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fimviz.model.data import unpacked
from fimviz.model.images import check_values
from fimviz.model.pictures import as_seen, is_picture, opened


@dataclass(frozen=True)
class Geometry:
    """Resizing and cropping as the weights were made for: images of any kind and size to a batch in [0, 1].

    Attributes:
        size: height and width of what comes out. A tensor or array of exactly this size is left as it is: what was
            prepared stays. None where they follow the image's own.
        steps: what is done to one image, RGB or grey, a PIL image or a tensor (channels, height, width) of uint8 or of
            floats in [0, 1]: gives one of these.
        channels: 3, or 1 for a network of grey pictures.
    """

    size: tuple[int, int] | None
    steps: Callable[[Any], Any]
    channels: int = 3

    def __call__(self, images: Any) -> Tensor:
        """A batch (n, channels, height, width) of float32 in [0, 1] of paths, PIL images, arrays, tensors, or many.

        Arrays are (height, width), (height, width, 3) or (n, height, width, 3), tensors (3, height, width) or
        (n, 3, height, width), uint8 or floats in [0, 1]. Of a data set or a folder all are taken.
        Pictures are turned upright by their EXIF tag; of an animation the first frame is taken.
        """
        batch = [self._one(image, f"images[{i}]") for i, image in enumerate(_each(unpacked(images)[0]))]
        if not batch:
            raise ValueError("images is empty, expected at least one")
        if len(shapes := {tuple(image.shape[1:]) for image in batch}) > 1:
            some = " and ".join(f"{h} × {w}" for h, w in sorted(shapes)[:3])
            raise ValueError(f"images are of {some} pixels once prepared, expected one size: crop or resize them first")
        return torch.stack(batch)

    def _one(self, image: Any, name: str) -> Tensor:
        from torchvision.transforms import functional as tf

        if isinstance(image, str | os.PathLike):
            name = str(image)
            image = opened(Path(image).expanduser(), name)
        if is_picture(image):
            mode = "RGB" if self.channels == 3 else "L"
            image = as_seen(image, mode, getattr(image, "filename", "") or name)
            if image.mode == "F":  # more than eight bits, in [0, 1]
                image = np.asarray(image)
        if isinstance(image, np.ndarray):
            image = _planes(image, name)
        if isinstance(image, Tensor):
            if image.ndim != 3 or image.shape[0] not in (1, self.channels):
                raise ValueError(f"{name} has shape {tuple(image.shape)}, expected ({self.channels}, height, width)")
            image = image.detach().expand(self.channels, -1, -1)
            if image.dtype != torch.uint8:
                if not image.is_floating_point():
                    wide = " For sixteen bits pass it divided by 65535" if image.dtype == torch.uint16 else ""
                    raise TypeError(f"{name} is {image.dtype}, expected uint8 or floats in [0, 1].{wide}")
                image = check_values(image, (0.0, 1.0), f"the pixels of {name}")
            if image.shape[1:] == self.size:
                return tf.convert_image_dtype(image, torch.float32)
        elif not is_picture(image):
            raise TypeError(f"{name} is a {type(image).__name__}, expected a path, PIL image, array or tensor")
        image = self.steps(image)
        if not isinstance(image, Tensor):
            image = tf.pil_to_tensor(image)
        return tf.convert_image_dtype(image, torch.float32).clamp(0, 1)  # bicubic overshoots in floats


def middle(resize: int, crop: int, interpolation: Any, antialias: Any = True) -> Geometry:
    """The shorter side brought to a length, and a square cut from the middle."""
    from torchvision import transforms

    steps = [transforms.Resize(resize, interpolation, antialias=antialias), transforms.CenterCrop(crop)]
    return Geometry((crop, crop), transforms.Compose(steps))


def _planes(array: np.ndarray, name: str) -> Tensor:
    planes = array[..., None] if array.ndim == 2 else array
    if planes.ndim != 3 or planes.shape[2] not in (1, 3):
        mend = ""
        if planes.ndim == 3 and planes.shape[0] in (1, 3):
            mend = ": where the channels come first, pass torch.from_numpy(array)"
        elif planes.ndim == 3 and planes.shape[2] == 4:
            mend = ": leave the transparency out, array[..., :3]"
        raise ValueError(f"{name} has shape {array.shape}, expected (height, width) or (height, width, 3){mend}")
    return torch.from_numpy(np.array(planes)).permute(2, 0, 1)


def _each(images: Any) -> Iterable[Any]:
    if isinstance(images, Tensor):
        return images if images.ndim == 4 else [images]
    if isinstance(images, np.ndarray):
        return images if images.ndim == 4 else [images]
    if isinstance(images, str | os.PathLike) or is_picture(images):
        return [images]
    if isinstance(images, Iterable):
        return images
    raise TypeError(f"images is a {type(images).__name__}, expected paths, PIL images, arrays, tensors or a Dataset")
