"""What the model's answer says about its input: the bound of Cramér and Rao, read off a spectrum.

Appendix E of the paper states Var(X) F ≥ 1 for an estimate X of the input x from the output. With vectors and n
independent labels y ~ p(·|x) it reads: an estimate of vᵀx that is unbiased near x, v an eigenvector of F(x) of
eigenvalue λ, has a standard deviation of at least 1/√(n λ). F has rank K − 1 at most, so there are at most K − 1 such
directions; along all others F is 0 and no such estimate exists, whatever n. Even p itself, which is all that infinitely
many labels tell, is K − 1 numbers: near x it fixes the input along those directions and nothing across them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fimviz._options import named_options, whole
from fimviz.fisher.spectrum import Spectrum
from fimviz.model.failures import column, said
from fimviz.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from fimviz.result import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Reconstruction(Result):
    """The least uncertainty about each of n inputs that `draws` labels of the model leave; float64 on the CPU.

    Attributes:
        spectrum: of the inputs, with k eigenvectors each; those with λ > 0 that rounding has
            not lost are the visible directions.
        draws: how many independent labels y ~ p(·|x) are seen.
        std: (n, k) the least standard deviation 1/√(draws λ) of an unbiased estimate of vᵀx, in L2 pixel units;
            infinite where λ is 0.
        guess: (n, k) how wrong the middle of the input range can be for vᵀx, ½ ‖v‖₁ times the range's width: what is
            known of an image before any label is seen. Infinite without a range.
        visible: (n, *input) the part of the image's deviation from its own mean that lies along visible directions.
        share: (n,) squared length of that part ÷ that of the whole deviation; NaN for a flat image.
    """

    spectrum: Spectrum
    draws: int
    std: Tensor
    guess: Tensor
    visible: Tensor
    share: Tensor

    def __len__(self) -> int:
        return len(self.std)

    def __repr__(self) -> str:
        size, known = self.spectrum.images[0].numel(), self.known[self.spectrum.computed]
        return (
            f"Reconstruction({len(self)} inputs{said(self.spectrum.failures)} of {size} values, {self.draws} draws: "
            f"{int(known.min())} to {int(known.max())} of {self.std.shape[1]} directions known better than by a guess)"
        )

    @property
    def known(self) -> Tensor:
        """How many directions (n,) `draws` labels can tell better than a guess: std < guess."""
        return (self.std < self.guess).sum(1)

    @property
    def needed(self) -> Tensor:
        """From how many labels on (n, k) a direction can be told better than by a guess, 1/(λ guess²) at least."""
        return (self.draws * (self.std / self.guess) ** 2).nan_to_num(torch.inf).clamp_min(1).ceil()

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row an input.

        visible: directions with λ > 0; values: of the input; known: see there; std: the least standard deviation along
        v₁, guess: what it is without any label, needed: how many labels v₁ needs; share: of the image's squared
        deviation from its mean that is visible, chance: what it would be in a random subspace of as many directions;
        failure: why a row has no numbers.
        """
        import pandas as pd

        size = self.spectrum.images[0].numel()
        seen = self.std.isfinite().sum(1)
        columns: dict[str, Any] = {"sample": np.arange(len(self)), "visible": seen, "values": size, "known": self.known}
        columns |= {"std": self.std[:, 0], "guess": self.guess[:, 0], "needed": self.needed[:, 0]}
        columns |= {"share": self.share, "chance": seen.double() / size}
        columns["failure"] = column(self.spectrum.failures, len(self))
        return pd.DataFrame({k: v.numpy() if isinstance(v, Tensor) else v for k, v in columns.items()})

    def plot(self) -> go.Figure:
        """The least standard deviation along each direction ÷ the guess's, one line an input, as a plotly figure."""
        return self._plotted()

    @named_options
    def view(self, *, samples: int | None = None, max_bytes: int = 20_000_000) -> Figure:
        """An image, the part of it that the answer depends on, and how well any number of labels can tell it.

        Args:
            samples: how many inputs, the first ones; by default up to 32, fewer of large images.
            max_bytes: at which a page is refused.
        """
        return self._viewed(samples=None if samples is None else whole("samples", samples, 1), max_bytes=max_bytes)


@named_options
def reconstruction(spectrum: Spectrum, *, draws: int = 1) -> Reconstruction:
    """What can be told of an input from labels that the model draws at it, by the bound of Cramér and Rao.

    It is a statement about unbiased estimates near the input, by somebody who knows the model exactly: nothing better
    is possible, and whether it is reached is another question. F speaks of the neighbourhood, so that a standard
    deviation of the size of the image is an order of magnitude. Directions behind the spectrum's k, and those lost in
    rounding, count as unseen: give it all of its K − 1.

    Args:
        spectrum: a `Spectrum` with eigenvectors.
        draws: how many independent labels are seen.

    Returns:
        A `Reconstruction`.

    Raises:
        TypeError: no spectrum.
        ValueError: a spectrum without eigenvectors, draws below 1.

    Source: Cramér (1946), Rao (1945); the reading is that of "Towards Disentangling Non-Robust and Robust Components
    in Performance Metric", appendix E.

    Example, p = softmax(x) at p = (½, ½): λ₁ = ½ along (1, −1)/√2, so that 8 labels leave ½ in x₁ − x₂ over √2:
        >>> import torch, fimviz as fv
        >>> s = fv.spectrum(torch.nn.Identity(), torch.full((1, 2), 0.5))
        >>> r = fv.reconstruction(s, draws=8)
        >>> round(r.std.item(), 6), round(r.guess.item(), 6)
        (0.5, 0.707107)
    """
    if not isinstance(spectrum, Spectrum):
        raise TypeError(f"spectrum is a {type(spectrum).__name__}, expected a Spectrum: fv.spectrum(net, images)")
    if spectrum.eigenvectors is None:
        raise ValueError("this spectrum has no eigenvectors, expected some: compute it with vectors=True")
    draws = whole("draws", draws, 1)
    v = spectrum.eigenvectors.flatten(2).double()
    seen = (spectrum.eigenvalues > 0) & (v != 0).any(2)
    x = spectrum.images.flatten(1).double()
    apart = x - x.mean(1, keepdim=True)
    visible = (((v * seen[..., None]) @ apart[..., None]).mT @ v)[:, 0]
    whole_size = apart.square().sum(1)
    width = torch.inf
    if spectrum.net.input_range is not None:
        low, high = spectrum.net.input_range
        width = high - low
    lost = spectrum.eigenvalues.isnan()
    return Reconstruction(
        spectrum=spectrum,
        draws=draws,
        std=torch.where(seen, (draws * spectrum.eigenvalues).rsqrt(), torch.inf).masked_fill(lost, torch.nan),
        guess=torch.where(seen, 0.5 * width * v.abs().sum(2), torch.inf).masked_fill(lost, torch.nan),
        visible=visible.to(spectrum.images.dtype).view(spectrum.images.shape),
        share=visible.square().sum(1) / whole_size.where(whole_size > 0, torch.nan),
    )
