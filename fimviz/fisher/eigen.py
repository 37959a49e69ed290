"""The eigenproblem of class space, on the processor or on the card, whichever is quicker.

On an H200 the card took a thirtieth of the processor's time for 256 matrices of 24 rows, a fifth for one of 999, and
twice its time for 32 of 99; some releases have been 30 to 130 times slower (pytorch#183806, #175585). So where it
matters, both are timed, once a process and size.
"""

from __future__ import annotations

import time
from functools import cache

import torch
from torch import Tensor

_SMALL = 2**17  # numbers in all matrices below which the processor's time does not show beside the passes


def largest(gram: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All eigenvalues (n, r), descending, at least 0, and the first k eigenvectors (n, r, k) of gram (n, r, r).

    In float64 on the CPU, wherever gram is.
    """
    if gram.device.type != "cuda" or gram.numel() < _SMALL or not _quicker_there(gram.device, *map(_power, gram.shape)):
        gram = gram.cpu().double()
    mu, u = torch.linalg.eigh(gram)
    return mu.flip(-1).clamp_min(0).cpu(), u.flip(-1)[..., :k].cpu()


def _power(count: int) -> int:
    """The power of two below a number, for which times are remembered."""
    return 2 ** (count.bit_length() - 1)


@cache
def _quicker_there(device: torch.device, count: int, size: int, _: int) -> bool:
    """Whether a card solves as many problems of that size in less time than the processor, the way there included."""
    a = torch.randn(count, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gram = (a @ a.mT).to(device)

    def seconds(there: bool) -> float:
        start = time.perf_counter()
        for part in torch.linalg.eigh(gram if there else gram.cpu()):
            part.cpu()
        return time.perf_counter() - start

    seconds(True)  # wakes the card's library
    return min(seconds(True), seconds(True)) < min(seconds(False), seconds(False))
