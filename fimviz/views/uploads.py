"""Pictures that a reader drops on a live view, as a batch for the network."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fimviz.model.pictures import as_seen, opened

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_FILES, _BYTES, _PIXELS = 64, 20_000_000, 40_000_000


def read_images(
    names: Sequence[str], raw: Sequence[bytes], net: Any, shape: Sequence[int], pixel_range: tuple[float, float]
) -> Tensor:
    """Files as a batch (n, *shape) in the input range: by the network's own geometry, else of just that size.

    Raises:
        ValueError: nothing or too much was given, a file is no picture, or it has another size than the network's.
    """
    if not raw or len(raw) != len(names):
        raise ValueError(f"{len(names)} names and {len(raw)} files came, expected one name a file and at least one")
    if len(raw) > _FILES:
        raise ValueError(f"{len(raw)} files came, expected at most {_FILES} at a time")
    pictures = [_opened(name, data) for name, data in zip(names, raw, strict=True)]
    if (prepare := getattr(net, "prepare", None)) is not None:
        return torch.as_tensor(prepare(pictures))
    square = tuple(shape) if len(shape) == 3 else (1, *shape) if len(shape) == 2 else ()
    if not square or square[0] not in (1, 3):
        raise ValueError(f"inputs of shape {tuple(shape)} are no pictures of 1 or 3 channels: pass them to fv.explore")
    low, high = pixel_range
    batch = []
    for name, picture in zip(names, pictures, strict=True):
        seen = as_seen(picture, "L" if square[0] == 1 else "RGB", name)
        if seen.size != (square[2], square[1]):
            raise ValueError(
                f"{name} has {seen.width} × {seen.height} pixels and the network takes {square[2]} × "
                f"{square[1]}: resize it first, or make the network with fv.from_torchvision, from_timm or "
                "from_transformers, which know how"
            )
        plane = torch.tensor(np.asarray(seen, dtype=np.float32) / (1 if seen.mode == "F" else 255))
        batch.append((plane[None] if plane.ndim == 2 else plane.permute(2, 0, 1)).expand(square))
    return (low + (high - low) * torch.stack(batch)).reshape(len(batch), *shape)


def _opened(name: str, data: bytes) -> Image.Image:
    if len(data) > _BYTES:
        raise ValueError(f"{name} has {len(data) / 1e6:.0f} MB, expected at most {_BYTES // 10**6} MB")
    with suppress(OSError, SyntaxError), Image.open(io.BytesIO(data), formats=_FORMATS) as head:
        if head.width * head.height > _PIXELS:
            raise ValueError(
                f"{name} has {head.width} × {head.height} pixels, expected at most {_PIXELS // 10**6} million"
            )
    return opened(io.BytesIO(data), name, _FORMATS)
