"""What a result was computed on, so that it is told from what stands in its place later.

One module takes checkpoint after checkpoint, and a training loop goes on after a result was made; whoever asks the
model again for that result would mix two networks without a word. Weights are compared by projections of their parts on
a fixed random direction, which a copy in another precision, on another device or in another mode leaves as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fimviz.result import Result

if TYPE_CHECKING:
    from fimviz.model.blackbox import BlackBox
    from fimviz.model.classifier import Classifier

_BLOCKS = 1024, 64  # numbers that are projected together: of large tensors, and of what is left over
_SAME = 3e-6  # relative to a block's norm: ten times what products in float32 differ by between devices
_AGREED = 1e-3  # of log-probabilities: answers of one network in two precisions differ by less


class ChangedError(RuntimeError):
    """A result would have to ask a model, or about images, that are no longer those that it was computed on."""


@dataclass(frozen=True, eq=False)
class Print:
    """Fingerprint of some tensors: their names and shapes, and (m, 2) a projection and the norm of each block."""

    names: tuple[tuple[str, torch.Size], ...]
    blocks: Tensor

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, Tensor]]) -> Print:
        """The fingerprint of named tensors of one device."""
        names, flat = [], []
        for name, t in tensors:
            names.append((name, t.shape))
            flat.append(_numbers(t.detach()).reshape(-1).float())
        wide, narrow = _BLOCKS
        parts = [f[: len(f) // wide * wide].view(-1, wide) for f in flat if len(f) >= wide]
        left = [f[len(f) // wide * wide :] for f in flat]
        if left:
            rest = torch.cat(left)
            parts.append(nn.functional.pad(rest, (0, -len(rest) % narrow)).view(-1, narrow))
        seen = [torch.stack([p @ _direction(p.shape[1], p.device), torch.linalg.vector_norm(p, dim=1)]) for p in parts]
        return cls(tuple(names), torch.cat(seen, 1).T.cpu() if seen else torch.zeros(0, 2))

    def agrees(self, other: Print) -> bool:
        """Whether the tensors hold the same numbers, to float32's rounding."""
        if self.names != other.names:
            return False
        a, b = self.blocks, other.blocks
        near = (a - b).abs() <= _SAME * torch.maximum(a[:, 1:], b[:, 1:])
        return bool((near | (a.isnan() & b.isnan()) | (a == b)).all())


class ModelResult(Result):
    """A result that remembers its model and its images, to ask for more later: it does so of the same ones only.

    A subclass is a dataclass with a field `_origin: Print | None = None`, which `dataclasses.replace` hands on.
    """

    net: Classifier | BlackBox
    images: Tensor
    probabilities: Tensor
    _origin: Print | None

    def __post_init__(self) -> None:
        # Made at the end of a computation; a part of a result hands on what the whole was computed on.
        if self._origin is None:
            object.__setattr__(self, "_origin", self.net.fingerprint())
        object.__setattr__(self, "_pixels", Print.of([("images", self.images)]))

    @property
    def changed(self) -> str:
        """Why model or images are no longer those that this was computed on; empty while they are.

        Weights and buffers that are saved with a model are compared, and its answer to one of the images, which hooks,
        attributes and `mean`, `std` and `temperature` of the classifier move too. Copies in another precision or on
        another device, modes and frozen weights are no change. A `BlackBox` cannot be looked into.
        """
        if not self._pixels.agrees(Print.of([("images", self.images)])):  # type: ignore[attr-defined]
            return "the images that this result holds have been changed in place since it was computed"
        now = self.net.fingerprint()
        if self._origin is None or now is None:
            return ""
        if not self._origin.agrees(now):
            return (
                "the model's weights are no longer those that this result was computed with: load these again, or "
                "compute the result anew"
            )
        known = self._said()
        row = next((i for i, said in enumerate(known) if not said.isnan().any()), None)
        if row is None:
            return ""
        least = self.net.likelihood.least
        said = self.net(self.images[row : row + 1]).detach().cpu().double()[0].clamp_min(least)
        then = known[row].clamp_min(least)
        if not (said - then).abs().amax() <= _AGREED * (1 + then.abs().amax()):
            return (
                f"the model answers image {row} of this result otherwise than when it was computed, though its weights "
                "are the same: look for hooks, attributes and other settings, or compute the result anew"
            )
        return ""

    def unchanged(self, doing: str) -> None:
        """Refuse to ask another model, or about other images, than the result is of."""
        if why := self.changed:
            raise ChangedError(f"{doing} has to ask the model, and {why}")

    def _net_apart(self) -> Any:
        """The model on a copy, which nobody else trains or changes.

        Raises:
            ValueError: it cannot be copied, or is no longer the one that this was computed on.
        """
        net = self.net.apart()
        if self._origin and (now := net.fingerprint()) and not self._origin.agrees(now):
            raise ValueError("the model's weights are no longer those that this result was computed with")
        return net

    def _said(self) -> Tensor:
        return self.net.likelihood.output_of(self.probabilities)


def weights_of(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Parameters and buffers that are saved with a model, by name; caches that are not saved come and go."""
    for path, module in model.named_modules():
        passing = getattr(module, "_non_persistent_buffers_set", ())
        for store in (module._parameters, module._buffers):
            for name, t in store.items():
                if t is not None and name not in passing:
                    yield f"{path}.{name}", t


def _numbers(t: Tensor) -> Tensor:
    """A tensor's values as a strided tensor of real numbers."""
    if t.layout != torch.strided:
        t = t.to_dense()
    if t.is_quantized:
        t = t.dequantize()
    return torch.view_as_real(t.resolve_conj()) if t.is_complex() else t


@cache
def _direction(width: int, device: torch.device) -> Tensor:
    drawn = torch.rand(width, generator=torch.Generator().manual_seed(width), device="cpu") - 0.5
    return (drawn + drawn.sign()).to(device)  # away from 0: no number is left out
