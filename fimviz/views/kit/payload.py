"""What a view shows, as one string that both hosts can carry."""

from __future__ import annotations

import base64
import io
import json
import zlib
from typing import Any

import numpy as np
from PIL import Image, features


def deflated(content: bytes) -> str:
    """Bytes as a string that a page can carry: deflated, in base64."""
    return base64.b64encode(zlib.compress(content, 9)).decode()


def compressed(plate: np.ndarray, quality: int | None = None) -> bytes:
    """Bytes (height, width, channels) as the file of a picture, with losses where a quality is given."""
    file = io.BytesIO()
    drawn = Image.fromarray(plate[..., 0] if plate.shape[2] == 1 else plate)
    if features.check("webp"):
        drawn.save(file, "WEBP", lossless=quality is None, quality=quality or 80, method=3)
    else:
        drawn.save(file, "PNG", optimize=True)
    return file.getvalue()


def unpacked(packed: str) -> tuple[dict[str, Any], bytes]:
    """The JSON value and the bytes of the arrays of what a `Payload` packed, as `unpack` of pixels.js gives them."""
    whole = zlib.decompress(base64.b64decode(packed))
    start = 4 + int.from_bytes(whole[:4], "little")
    return json.loads(whole[4:start]), whole[start:]


class Payload:
    """A JSON value and arrays as one string that both hosts can carry: deflated, in base64.

    Layout before deflation: the JSON text's length (4 bytes, little-endian), the text, the arrays' bytes.
    """

    def __init__(self) -> None:
        self._arrays = bytearray()
        self._pictures: list[list[int]] = []

    def add(self, array: np.ndarray) -> list[int]:
        """Append an array; return the [offset, length] that stands for it in the JSON value."""
        raw = np.ascontiguousarray(array).tobytes()
        self._arrays += raw
        return [len(self._arrays) - len(raw), len(raw)]

    def picture(self, plate: np.ndarray, quality: int | None = None, signed: bool = False) -> list[int]:
        """Append bytes (height, width, channels) as a compressed picture, with losses where a quality is given.

        What stands for it is as of an array: the page unpacks it as it unpacks the payload. `signed` bytes are given
        with 128 for 0, by which they compress better.
        """
        at = self.add(np.frombuffer(compressed(plate, quality), np.uint8))
        self._pictures.append([*at, plate.shape[2], int(signed)])
        return at

    def pack(self, data: dict[str, Any]) -> str:
        """The string; NaN and infinities are refused, JSON has none."""
        data = {**data, "pictures": self._pictures} if self._pictures else data
        text = json.dumps(data, separators=(",", ":"), allow_nan=False).encode()
        whole = len(text).to_bytes(4, "little") + text + bytes(self._arrays)
        return deflated(whole)
