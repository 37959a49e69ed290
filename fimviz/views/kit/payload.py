"""What a view shows, as one string that both hosts can carry."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import numpy as np


def deflated(content: bytes) -> str:
    """Bytes as a string that a page can carry: deflated, in base64."""
    return base64.b64encode(zlib.compress(content, 9)).decode()


class Payload:
    """A JSON value and arrays as one string that both hosts can carry: deflated, in base64.

    Layout before deflation: the JSON text's length (4 bytes, little-endian), the text, the arrays' bytes.
    """

    def __init__(self) -> None:
        self._arrays = bytearray()

    def add(self, array: np.ndarray) -> list[int]:
        """Append an array; return the [offset, length] that stands for it in the JSON value."""
        raw = np.ascontiguousarray(array).tobytes()
        self._arrays += raw
        return [len(self._arrays) - len(raw), len(raw)]

    def pack(self, data: dict[str, Any]) -> str:
        """The string; NaN and infinities are refused, JSON has none."""
        text = json.dumps(data, separators=(",", ":"), allow_nan=False).encode()
        whole = len(text).to_bytes(4, "little") + text + bytes(self._arrays)
        return deflated(whole)
