"""How inputs and curves of a result travel to a page, whatever the view."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fimviz.model.classifier import Classifier
from fimviz.views.kit.contrast import colours
from fimviz.views.kit.payload import Payload, compressed

_SMALL = 128  # pixels a side, up to which an image travels as it is
_STORED = "Photographs are stored with an error of 2 to 6 of 255 levels (root mean square), to save room."
ROOM = 660_000  # bytes of photographs and maps that make a page of a megabyte
# The quality of photographs and the steps of maps in their root mean squares (0: as fine as a byte is), the best first.
_GRADES = ((None, 0.0), (None, 0.25), (95, 0.5), (90, 1.0), (90, 1.25), (85, 1.5), (85, 2.0))


class Inputs:
    """How inputs of one shape travel to the page: bytes for images of 1 or 3 channels, else float32 series.

    Photographs, images of more than 128 pixels a side, travel as pictures, exactly unless `share_out` says otherwise.
    """

    def __init__(self, shape: Sequence[int], low: float, high: float) -> None:
        self.low, self.high = low, high
        self.payload = Payload()
        square = tuple(shape) if len(shape) == 3 else (1, *shape) if len(shape) == 2 else ()
        self.kind = "image" if square and square[0] in (1, 3) and min(square[1:]) > 1 else "series"
        self.shape = [*square[1:], square[0]] if self.kind == "image" else [int(np.prod(shape))]
        self.photographs = self.kind == "image" and max(self.shape[:2]) > _SMALL
        self._quality: int | None = None
        self._step = 0.0  # of what signed maps are rounded to, in their root mean squares

    @property
    def header(self) -> dict[str, Any]:
        """What the page needs to know to read them."""
        stored = "" if self._quality is None else _STORED
        return {"kind": self.kind, "shape": self.shape, "range": [self.low, self.high], "stored": stored}

    @property
    def weight(self) -> float:
        """Bytes of a page that a value takes, of many inputs with their maps."""
        return 0.25 if self.photographs else 4 / 3

    def share_out(self, images: Tensor, maps: Tensor | None = None, *, times: int = 1, room: int = ROOM) -> None:
        """Make room for photographs (n, …) and signed maps (m, …): as exactly as a page of a megabyte allows.

        A few of each are weighed for all. `times` is how many maps travel like each of those given, `room` what the
        rest of the page leaves them, in bytes.
        """
        if not self.photographs:
            return
        some, signed = (() if t is None else t[_spread(len(t))] for t in (images, maps))
        for self._quality, self._step in _GRADES:
            weights = [
                number / max(1, len(few)) * sum(len(compressed(plate, quality)) for plate in plates)
                for number, few, plates, quality in (
                    (len(images), some, map(self.pixels, some), self._quality),
                    (0 if maps is None else times * len(maps), signed, map(self._plate, signed), None),
                )
            ]
            if sum(weights) <= room:
                break

    def _plate(self, v: Tensor) -> np.ndarray:
        return self._levels(v, self.scale_of(v)).view(np.uint8) ^ 128

    def pixels(self, x: Tensor) -> np.ndarray:
        """An input as bytes (height, width, channels)."""
        unit = (x.double() - self.low) / (self.high - self.low)
        planes = unit.reshape(self.shape[2], *self.shape[:2]).permute(1, 2, 0)
        return (255 * planes).round().clamp(0, 255).to(torch.uint8).numpy()

    def encode(self, x: Tensor) -> list[int]:
        """Put an input into the payload; return what stands for it."""
        if self.kind == "series":
            return self.payload.add(x.float().numpy())
        pixels = self.pixels(x)
        return self.payload.picture(pixels, self._quality) if self.photographs else self.payload.add(pixels)

    def encode_signed(self, v: Tensor, scale: float | None = None) -> dict[str, Any]:
        """A signed map: signed bytes in units of scale ÷ 127, with −128 for NaN, or float32 values.

        Returns what stands for it (`map`), its `scale`, by default the largest magnitude or more, `limit`, where
        colours end, and `beyond`, the share of values that lie further out.
        """
        scale = self.scale_of(v) if scale is None else scale
        known: dict[str, Any] = {"scale": scale, **colours(v)}
        if self.kind == "series":
            return {**known, "map": self.payload.add(v.float().numpy())}
        signed = self._levels(v, scale)
        if self.photographs:
            return {**known, "map": self.payload.picture(signed.view(np.uint8) ^ 128, signed=True)}
        return {**known, "map": self.payload.add(signed)}

    def scale_of(self, v: Tensor, step: float = 0.0) -> float:
        """What ±127 stand for in a signed map: its largest magnitude, or more where it is made coarser.

        By `share_out`, or by a least `step` of what it is rounded to, in its root mean squares.
        """
        size = v.double().nan_to_num(0.0).abs()
        return max(float(size.amax()), 127 * max(self._step, step) * float(size.square().mean().sqrt()))

    def _levels(self, v: Tensor, scale: float) -> np.ndarray:
        levels = (v.double() * (127 / (scale or 1.0))).round()
        planes = torch.where(v.isnan(), -128, levels).reshape(self.shape[2], *self.shape[:2]).permute(1, 2, 0)
        return np.ascontiguousarray(planes.to(torch.int8).numpy())


def _spread(count: int) -> list[int]:
    """Up to four of so many places."""
    return sorted({count * part // 4 for part in range(4)}) if count else []


def inputs_of(net: Classifier, images: Tensor) -> Inputs:
    """Of images in the classifier's range, or in their own where it has none."""
    low, high = net.input_range or (float(v) for v in images.aminmax())
    return Inputs(images.shape[1:], low, high if high > low else low + 1)


def picture(inputs: Inputs, row: list[Tensor]) -> str:
    """Images side by side as the address of a PNG, of photographs of a JPEG, for readers without scripts."""
    factor = max(1, 192 // inputs.shape[0])
    plates = [inputs.pixels(x).repeat(factor, 0).repeat(factor, 1) for x in row]
    gap = np.full((plates[0].shape[0], 16, plates[0].shape[2]), 255, np.uint8)
    strip = np.concatenate([part for plate in plates for part in (gap, plate)][1:], 1)
    buffer = io.BytesIO()
    kind, options = ("jpeg", {"quality": 85}) if inputs.photographs else ("png", {"optimize": True})
    Image.fromarray(strip[..., 0] if inputs.shape[2] == 1 else strip).save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def caution(net: Any) -> str:
    """What a page says of a model whose gradient says nothing of it; empty for all others."""
    return getattr(net, "undescribed", "")


def lost(failures: Mapping[int, str]) -> list[tuple[int, str]]:
    """What a page says of inputs that could not be computed: their places with the reasons."""
    return sorted(failures.items())


def still_of_lost(failures: Mapping[int, str]) -> str:
    """The same without scripts."""
    if not failures:
        return ""
    reasons = "; ".join(f"sample {place}: {html.escape(why)}" for place, why in lost(failures)[:10])
    return f"<p>Not computed: {reasons}{' …' if len(failures) > 10 else ''}.</p>"


def finite(value: Any) -> float | None:
    """A number as JSON has it: None for NaN and for an infinite one."""
    return number if math.isfinite(number := float(value)) else None


def short(values: Tensor, digits: int) -> list[float | None]:
    """Float64 numbers with as many digits as a drawn curve can show; None for NaN."""
    return [None if v != v else float(f"{v:.{digits}g}") for v in values.clamp(-1e4, 1e300).tolist()]
