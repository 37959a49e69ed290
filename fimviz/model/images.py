"""Images in whatever form they come, as a batch: what is checked before any work starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fimviz._tell import tell
from fimviz.model.pictures import as_seen, is_picture

_PICTURE = 64  # values that an input has at least to be taken for a picture
_ROUNDING, _OVERSHOOT = 1e-6, 1e-3  # shares of the input range: not worth a word, and more than rounding does


def read(images: Any) -> Tensor:
    """A floating-point batch (n, …) of at least one input, or an error that says how to make one."""
    name = "images" if hasattr(images, "__truediv__") else "np.asarray(images)"
    images = _tensor_from(images)
    if images.is_nested:
        raise TypeError("images are a nested tensor, expected a batch of one shape: images.to_padded_tensor(0.0)")
    if images.layout != torch.strided:
        raise TypeError(f"images are sparse ({images.layout}), expected a dense tensor: pass images.to_dense()")
    if images.dtype == torch.uint8:
        raise TypeError(
            f"images are uint8 (0…255), expected floats: pass {name} / 255, or give the data set that they come from "
            "the transform torchvision.transforms.v2.ToDtype(torch.float32, scale=True)"
        )
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


def check_values(images: Tensor, input_range: tuple[float, float] | None, name: str = "images") -> Tensor:
    """The images, clipped where they leave the range by rounding; NaN, infinities and values beyond are refused."""
    low, high = (float(v) for v in images.detach().aminmax())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{name} contain NaN or infinite values, expected finite ones: mend or drop these images")
    if input_range is None:
        return images
    a, b = input_range
    beyond = max(a - low, high - b) / (b - a)
    if beyond <= _ROUNDING:
        return images
    spans = f"{name} run from {_told(low, a)} to {_told(high, b)}"
    if beyond > _OVERSHOOT:
        whole = (a, b) == (0, 1) and low >= 0 and 3 < high <= 255
        raise ValueError(
            f"{spans}, expected values in [{a:g}, {b:g}]"
            + (
                ": divide them by the largest value that they can have, images / 255 for 8-bit images"
                if whole
                else ". If they are normalised already, pass the raw pixels and give mean= and std= to "
                "Classifier; if resizing overshoots, pass images.clamp(...); for inputs that are not pixels give "
                "input_range="
            )
        )
    tell(f"{spans}, by rounding it seems: they are clipped to [{a:g}, {b:g}]")
    # Along the images, where a gradient is wanted, nothing is clipped.
    return images + (images.detach().clamp(a, b) - images.detach()) if images.requires_grad else images.clamp(a, b)


def _told(value: float, limit: float) -> str:
    """A value with the digits that tell it from a limit."""
    apart = abs(value - limit) / max(abs(limit), 1e-300)
    digits = 4 if not 0 < apart < 1 else max(4, 2 - math.floor(math.log10(apart)))
    return f"{value:.{digits}g}"


def likely_units(x: Tensor, input_range: tuple[float, float] | None, mean: Tensor, std: Tensor) -> str:
    """What is likely wrong with the units of a normalisation, or of pixels in the range; empty where nothing is."""
    if input_range is None:
        return ""
    a, b = input_range
    where = f"pixels in [{a:g}, {b:g}]"
    # No numbers in an interval have a mean outside of it, or a deviation of more than half its width.
    if mean.min() < a - 1e-6 * (b - a) or mean.max() > b + 1e-6 * (b - a) or std.max() > b - a:
        mend = ": divide both by 255" if (a, b) == (0, 1) and max(mean.max(), std.max()) > 2 else ""
        return f"mean is {_listed(mean)} and std is {_listed(std)}, which {where} cannot have{mend}"
    if b - a > 50 and a == 0 and mean.max() <= 1 and 0.01 < std.max() < 1:
        return f"mean is {_listed(mean)} and std is {_listed(std)}, small for {where}: multiply both by {b:g}"
    if x[0].numel() < _PICTURE:
        return ""
    share = (x.detach() - a) / (b - a) * 255
    if 0 < share.max() <= 1.001 and ((share > 0.01) & (share < 0.9)).sum() >= 0.2 * (share > 0).sum():
        return (
            f"images run from {float(x.min()):.3g} to {float(x.max()):.3g}, less than a grey level of {where}: were "
            "they divided by 255 " + ("twice?" if (a, b) == (0, 1) else f"already? Then pass input_range=({a:g}, 1)")
        )
    if x.shape[0] > 3 and std.min() > 0.01 and std.max() < 0.15 * (b - a):
        own = x.detach().cpu().double().transpose(0, 1).flatten(1).std(1)
        if len(std) in (1, len(own)) and ((own**2 / std - 1).abs() < 0.15).all():
            return f"std is {_listed(std)} and these images have {_listed(own)}, its root: was the variance given?"
    return ""


def _listed(values: Tensor) -> str:
    return ", ".join(f"{v:.4g}" for v in values[:3].tolist()) + (", …" if len(values) > 3 else "")


def likely_mistake(x: Tensor) -> str:
    """What is likely wrong with the shape of images that a model does not take."""
    if x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        return " If the channels come last, put them first: images.permute(0, 3, 1, 2)"
    if x.ndim == 3 and x.shape[2] in (1, 3) and x.shape[0] not in (1, 3):
        return " For a single image with its channels last: images.permute(2, 0, 1)[None]"
    return " For a single image add the batch dimension: images[None]" if x.ndim < 4 else ""


def _each(images: Any) -> list[Any]:
    return list(images) if isinstance(images, list | tuple) else [images]


def _planes(picture: Any) -> Tensor:
    """A grey or coloured picture as (1 or 3, height, width) in [0, 1]."""
    values = torch.from_numpy(np.array(picture)).float() / 255
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


def _tensor_from(images: Any) -> Tensor:
    """The batch in whatever form it came: a tensor, an array, a list of either, an image of PIL or a list of these."""
    kind, mend = type(images).__name__, ""
    if isinstance(images, Tensor):
        return images
    if (pictures := _each(images)) and all(is_picture(one) and one.mode in ("L", "RGB") for one in pictures):
        images = [_planes(as_seen(one, one.mode)) for one in pictures]
    if isinstance(images, list | tuple) and any(isinstance(one, Tensor | np.ndarray) for one in images):
        parts = [_tensor_from(one) for one in images]
        if len({part.shape for part in parts}) == 1:
            return torch.stack(parts)
        shapes = " and ".join(sorted({str(tuple(part.shape)) for part in parts})[:3])
        mend = "take its first part" if len(parts) == 2 else "crop or resize them"
        raise ValueError(f"images is a {kind} of different shapes, {shapes}, expected a batch of one shape: {mend}")
    if isinstance(images, list | tuple) and images and all(isinstance(one, str | PathLike) for one in images):
        kind = f"{kind} of {type(images[0]).__name__}"
        mend = (
            "if these are files, make the model with fv.from_torchvision, from_timm or from_transformers, which read "
            "and resize them"
        )
    elif isinstance(images, str | PathLike):
        mend = "read the file, torchvision.io.decode_image(path)[None] / 255"
    elif isinstance(images, Mapping):
        mend = "take the images out of it, for instance images['pixel_values']"
    elif modes := {one.mode for one in _each(images) if is_picture(one)} - {"L", "RGB", "F"}:
        raise TypeError(
            f"images are of PIL's mode {', '.join(sorted(modes))}, expected floats: for colours pass "
            "torchvision.transforms.functional.to_tensor(image.convert('RGB'))[None]"
        )
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
