"""The page of a `Playground`: networks as programs, and images to start from."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import traitlets
from torch import Tensor

from fimviz.model.classifier import as_classifier
from fimviz.views.kit.figure import Figure
from fimviz.views.kit.host import Widget
from fimviz.views.kit.inputs import Inputs, picture
from fimviz.views.kit.numbers import number
from fimviz.views.kit.payload import Payload
from fimviz.views.playground.numbers import numbers

if TYPE_CHECKING:
    from fimviz.playground import Playground as Given
    from fimviz.playground.program import Program

MAX_BYTES = 20_000_000
_STILL = 6  # samples in the picture without scripts


class Playground(Widget):
    """The live playground."""

    sample = traitlets.Int(
        -1, help="Which of the images the drawing starts from, by its place; −1: from nothing. Default: the first."
    ).tag(sync=True)
    samples: int | None = None

    _module = "playground/view.js"
    _numbers = staticmethod(numbers)

    @traitlets.validate("sample")
    def _known(self, proposal: Any) -> int:
        if self.samples is not None and not -1 <= proposal.value < self.samples:
            raise traitlets.TraitError(
                f"sample is {proposal.value}, expected a place among {self.samples} images, or -1 for none"
            )
        return int(proposal.value)


def view(given: Given) -> Figure:
    """The page of some networks and images."""
    payload = Payload()
    net = as_classifier(next(iter(given.nets.values())))
    low, high = net.input_range or _range(given.images)
    count, (channels, height, width) = len(given.images), given.images.shape[1:]
    data = {
        "shape": [height, width, channels],
        "range": [low, high],
        "classes": net.classes,
        "networks": [
            {"name": name, "program": packed(payload, program), "norms": given.norms[name].tolist()}
            for name, program in given.programs.items()
        ],
        "images": _array(payload, given.images.reshape(-1)) if count else None,
        "labels": None if given.labels is None else given.labels.tolist(),
    }
    many = "1 network" if len(given.nets) == 1 else f"{len(given.nets)} networks"
    return Figure(
        widget_class=Playground,
        state={"payload": payload.pack(data), "sample": 0 if count else -1},
        still=_still(given, low, high),
        setup={"samples": count},
        summary=f"{count} samples × {channels}×{height}×{width}, {many}",
        max_bytes=MAX_BYTES,
    )


def packed(payload: Payload, program: Program) -> dict[str, Any]:
    """A program as JSON, with its arrays in the payload."""
    return {
        "sizes": program.sizes,
        "ops": [
            {name: _array(payload, value) if isinstance(value, Tensor) else value for name, value in op.items()}
            for op in program.ops
        ],
        "constants": [[slot, _array(payload, value)] for slot, value in program.constants.items()],
        "logits": program.logits,
    }


def _array(payload: Payload, values: Tensor) -> list[Any]:
    """[offset, length, type] of values, which no type rounds."""
    whole = values.cpu()
    if not whole.is_floating_point():
        return [*payload.add(whole.to(torch.int32).numpy()), "i4"]
    exact = bool((whole.float() == whole).all())
    kind = np.float32 if exact else np.float64
    return [*payload.add(whole.numpy().astype(kind)), "f4" if exact else "f8"]


def _range(images: Tensor) -> tuple[float, float]:
    """From the smallest to the largest value, or from 0 to 1 where there are none."""
    if not images.numel():
        return 0.0, 1.0
    low, high = (float(v) for v in images.aminmax())
    return low, high if high > low else low + 1


def _still(given: Given, low: float, high: float) -> str:
    """What is seen without scripts: some of the images, and what the networks say of them."""
    if not len(given.images):
        return "<p>A page in which one draws for a network, which needs scripts.</p>"
    inputs = Inputs(given.images.shape[1:], low, high)
    shown = list(given.images[:_STILL])
    heads = "".join(f"<th>λ₁{html.escape(f' of {name}' if name else '')}</th>" for name in given.nets)
    rows = "".join(
        f"<tr><td>{i}</td>{''.join(f'<td>{number(float(n[i]))}</td>' for n in given.norms.values())}</tr>"
        for i in range(len(shown))
    )
    return (
        f'<img alt="the first {len(shown)} samples" src="{picture(inputs, shown)}">'
        f"<table><tr><th>sample</th>{heads}</tr>{rows}</table>"
    )
