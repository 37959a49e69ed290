"""Pictures as PIL has them, from files or memory: upright, and in one of the modes that a network can be given."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fimviz._tell import tell

if TYPE_CHECKING:
    from PIL import Image

_STEPS = {"La": "LA", "RGBa": "RGBA", "LAB": "RGB"}
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")


def is_picture(image: Any) -> bool:
    """Whether this is an image of PIL, which need not be imported for that."""
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(image).__mro__)


def opened(source: Path | IO[bytes], name: str, formats: tuple[str, ...] | None = None) -> Image.Image:
    """A picture read whole from a file, which is named where that fails; of an animation the first frame."""
    from PIL import Image

    if isinstance(source, Path):
        if not source.exists():
            raise FileNotFoundError(f"there is no image {name!r}")
        if not source.is_file():
            raise IsADirectoryError(f"{name!r} is no file, expected one picture: pass a list of the files in a folder")
    try:
        if isinstance(source, Path):
            source = BytesIO(source.read_bytes())  # PIL 13 garbles turned TIFFs that it maps into memory
        with Image.open(source, formats=formats) as image:
            image.load()
            image.filename = name
            return image
    except PermissionError:
        raise PermissionError(f"the image {name!r} may not be read: change its mode") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} is no picture that can be read: {error}") from None


def as_seen(image: Image.Image, mode: str, name: str = "the image") -> Image.Image:
    """A picture upright by its EXIF tag, as "L" or "RGB"; or as "F" in [0, 1], where eight bits would not hold it.

    What a mode means is PIL's word: palettes, CMYK, YCbCr, HSV, LAB are colours, "I;16" is sixteen bits of grey.
    Colours stand as they are beneath what is transparent, as PIL's `convert` and so torchvision's transforms have it,
    with a warning.

    Raises:
        ValueError: "I", or "F" beyond [0, 1]: numbers whose range nobody knows; or a picture that cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{getattr(image, 'filename', '') or name} cannot be read: {error}") from None
    if (plain := _STEPS.get(image.mode)) is not None:  # PIL converts these by way of another mode only
        image = image.convert(plain)
    if image.mode in _EIGHT_BIT:
        if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            tell(
                f"{name} is transparent in places, and networks see the colours beneath: lay it on a background first, "
                "Image.alpha_composite(background, image)"
            )
        return image.convert(mode)
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((values.astype(np.float64) / 65535).astype(np.float32))
    low, high = values.min(), values.max()
    if image.mode == "F" and low >= 0 and high <= 1:
        return image
    raise ValueError(
        f"{name} is of PIL's mode {image.mode} with values from {low:.4g} to {high:.4g}, whose range is not known: "
        "divide them by the largest value that they can have, Image.fromarray((np.asarray(image) / largest)"
        ".astype('float32'))"
    )
