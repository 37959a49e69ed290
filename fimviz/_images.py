"""Images and labels in whatever form they come, as a batch: what is checked before any work starts."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from fimviz.blackbox import BlackBox
    from fimviz.classifier import Classifier


def read(images: Any) -> Tensor:
    """A floating-point batch (n, …) of at least one input, or an error that says how to make one."""
    name = "images" if hasattr(images, "__truediv__") else "np.asarray(images)"
    images = _tensor_from(images)
    if images.dtype == torch.uint8:
        raise TypeError(f"images are uint8 (0…255), expected floats: pass {name} / 255")
    if not images.is_floating_point():
        mend = (
            "images.abs(), for instance" if images.is_complex() else "images / 255 for values 0…255, else images * 1.0"
        )
        raise TypeError(f"images are {images.dtype}, expected floating-point pixels: pass {mend}")
    if images.ndim < 2:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected a batch (n, …): add images[None]")
    if images.numel() == 0:
        raise ValueError(f"the batch is empty, expected at least one image: images have shape {tuple(images.shape)}")
    return images


def check_values(images: Tensor, input_range: tuple[float, float] | None) -> None:
    """Refuse NaN, infinities and values outside the range."""
    low, high = (float(v) for v in images.detach().aminmax())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("images contain NaN or infinite values, expected finite ones: mend or drop these images")
    if input_range is not None:
        a, b = input_range
        if low < a - 1e-6 * (b - a) or high > b + 1e-6 * (b - a):
            whole = (a, b) == (0, 1) and low >= 0 and 3 < high <= 255
            raise ValueError(
                f"images run from {low:.4g} to {high:.4g}, expected values in [{a:g}, {b:g}]"
                + (
                    ": divide them by the largest value that they can have, images / 255 for 8-bit images"
                    if whole
                    else ". If they are normalised already, pass the raw pixels and give mean= and std= to "
                    "Classifier; for inputs that are not pixels give input_range="
                )
            )


def likely_mistake(x: Tensor) -> str:
    """What is likely wrong with the shape of images that a model does not take."""
    if x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        return " If the channels come last, put them first: images.permute(0, 3, 1, 2)"
    if x.ndim == 3 and x.shape[2] in (1, 3) and x.shape[0] not in (1, 3):
        return " For a single image with its channels last: images.permute(2, 0, 1)[None]"
    return " For a single image add the batch dimension: images[None]" if x.ndim < 4 else ""


def _tensor_from(images: Any) -> Tensor:
    """The batch in whatever form it came: a tensor, an array, a list of either, an image of PIL or a list of these."""
    kind, mend = type(images).__name__, ""
    if isinstance(images, Tensor):
        return images
    if isinstance(images, list | tuple) and any(isinstance(one, Tensor | np.ndarray) for one in images):
        parts = [_tensor_from(one) for one in images]
        if len({part.shape for part in parts}) == 1:
            return torch.stack(parts)
        shapes = " and ".join(sorted({str(tuple(part.shape)) for part in parts})[:3])
        mend = "take its first part" if len(parts) == 2 else "crop or resize them"
        raise ValueError(f"images is a {kind} of different shapes, {shapes}, expected a batch of one shape: {mend}")
    if isinstance(images, DataLoader):
        mend = "take one batch, images, labels = next(iter(loader))"
    elif isinstance(images, Dataset):
        mend = "stack some items, torch.stack([dataset[i][0] for i in range(32)])"
    elif isinstance(images, str | PathLike):
        mend = "read the file, torchvision.io.decode_image(path)[None] / 255"
    elif isinstance(images, Mapping):
        mend = "take the images out of it, for instance images['pixel_values']"
    elif isinstance(images, list | tuple) or hasattr(images, "__array__") or hasattr(images, "__array_interface__"):
        try:
            array = np.array(images)
        except (ValueError, TypeError):
            raise TypeError(
                f"images is a {kind} whose parts have different shapes or no numbers, expected a tensor or array (n, …)"
            ) from None
        if array.dtype.kind in "biufc":
            return torch.as_tensor(array)
        kind = f"{kind} of {type(array.flat[0]).__name__}" if array.size else kind
    raise TypeError(f"images is a {kind}, expected a tensor or array (n, …)" + (mend and ": ") + mend)


def read_labels(labels: Any, count: int, net: Classifier | BlackBox) -> Tensor | None:
    """Class indices (n,), or where every class is a yes/no label of its own, booleans (n, K)."""
    if labels is None:
        return None
    given = labels.detach().cpu() if isinstance(labels, Tensor) else np.asarray(labels)
    if not isinstance(given, Tensor) and given.dtype.kind not in "biuf":
        raise TypeError(
            f"labels hold {given.ravel().tolist()[:1]}, expected numbers: "
            "for names, [net.classes.index(name) for name in labels]"
        )
    given = torch.as_tensor(given)
    classes = len(net.classes)
    what = f"labels are {given.dtype} of shape {tuple(given.shape)}, expected"
    if net.likelihood.name == "bernoulli":
        if given.shape != (count, classes):
            raise ValueError(
                f"{what} ({count}, {classes}) of 0 and 1: with likelihood='bernoulli' every class is a yes/no label "
                "of its own, and several may be right"
            )
        if not ((given == 0) | (given == 1)).all():
            raise ValueError(f"labels run from {given.min()} to {given.max()}, expected 0 and 1 only")
        return given.bool()
    if given.shape != (count,) or given.is_floating_point():
        mend = ": for one-hot labels pass labels.argmax(1)" if given.shape == (count, classes) else ""
        raise ValueError(f"{what} class indices ({count},){mend}")
    given = given.long()
    beyond = torch.maximum(-given, given - (classes - 1))
    if beyond[at := int(beyond.argmax())] > 0:
        raise ValueError(f"labels[{at}] is {given[at]}, expected class indices from 0 to {classes - 1}")
    return given
