"""How strongly a signed map is drawn, by the rule of signed.js and of every figure that draws one."""

from __future__ import annotations

from torch import Tensor

from fimviz._quantile import quantiles

SHARE = 0.995


def contrast(v: Tensor) -> float:
    """The magnitude at which the colours of a map end: the 99.5th percentile, above which all look alike.

    One extreme pixel among 150,000 would leave all others in the neutral middle. Of a map that is 0 nearly everywhere
    it is the largest magnitude.

    Example:
        >>> import torch
        >>> contrast(torch.tensor([0.0, -1.0] * 500 + [80.0])), contrast(torch.tensor([0.0] * 999 + [80.0]))
        (1.0, 80.0)
    """
    size = v.double().nan_to_num(0.0).abs().flatten()
    return float(quantiles(size, [SHARE])[0]) or float(size.amax())


def colours(v: Tensor) -> dict[str, float]:
    """Where the colours of a map end, `limit`, and the share of its values `beyond`."""
    limit = contrast(v)
    return {"limit": limit, "beyond": float((v.double().nan_to_num(0.0).abs() > limit).double().mean())}
