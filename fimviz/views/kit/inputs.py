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
from fimviz.views.kit.payload import Payload


class Inputs:
    """How inputs of one shape travel to the page: bytes for images of 1 or 3 channels, else float32 series."""

    def __init__(self, shape: Sequence[int], low: float, high: float) -> None:
        self.low, self.high = low, high
        self.payload = Payload()
        square = tuple(shape) if len(shape) == 3 else (1, *shape) if len(shape) == 2 else ()
        self.kind = "image" if square and square[0] in (1, 3) and min(square[1:]) > 1 else "series"
        self.shape = [*square[1:], square[0]] if self.kind == "image" else [int(np.prod(shape))]

    @property
    def header(self) -> dict[str, Any]:
        """What the page needs to know to read them."""
        return {"kind": self.kind, "shape": self.shape, "range": [self.low, self.high]}

    def pixels(self, x: Tensor) -> np.ndarray:
        """An input as bytes (height, width, channels)."""
        unit = (x.double() - self.low) / (self.high - self.low)
        planes = unit.reshape(self.shape[2], *self.shape[:2]).permute(1, 2, 0)
        return (255 * planes).round().clamp(0, 255).to(torch.uint8).numpy()

    def encode(self, x: Tensor) -> list[int]:
        """Put an input into the payload; return what stands for it."""
        if self.kind == "series":
            return self.payload.add(x.float().numpy())
        return self.payload.add(self.pixels(x))

    def encode_signed(self, v: Tensor) -> tuple[float, list[int]]:
        """The largest magnitude, and the map in units of it: signed bytes with −128 for NaN, or float32."""
        scale = float(v.nan_to_num(0.0).abs().amax())
        if self.kind == "series":
            return scale, self.payload.add(v.float().numpy())
        levels = (v.double() * (127 / (scale or 1.0))).round()
        planes = torch.where(v.isnan(), -128, levels).reshape(self.shape[2], *self.shape[:2]).permute(1, 2, 0)
        return scale, self.payload.add(planes.to(torch.int8).numpy())


def inputs_of(net: Classifier, images: Tensor) -> Inputs:
    """Of images in the classifier's range, or in their own where it has none."""
    low, high = net.input_range or (float(v) for v in images.aminmax())
    return Inputs(images.shape[1:], low, high if high > low else low + 1)


def picture(inputs: Inputs, row: list[Tensor]) -> str:
    """Images side by side as the address of a PNG, for readers without scripts."""
    factor = max(1, 192 // inputs.shape[0])
    plates = [inputs.pixels(x).repeat(factor, 0).repeat(factor, 1) for x in row]
    gap = np.full((plates[0].shape[0], 16, plates[0].shape[2]), 255, np.uint8)
    strip = np.concatenate([part for plate in plates for part in (gap, plate)][1:], 1)
    buffer = io.BytesIO()
    Image.fromarray(strip[..., 0] if inputs.shape[2] == 1 else strip).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


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
