"""The eigenproblem of class space, on the processor or on the card, whichever is quicker.

CUDA's eigensolvers are slow for small matrices, and have been 30 to 130 times slower in some releases (pytorch#183806,
#175585), while a processor takes a third of a second for a thousand classes, once an input. So where it matters, both
are timed, once a process and size.
"""

from __future__ import annotations

import time
from functools import cache

import torch
from torch import Tensor

_SMALL = 128  # rows below which the processor's time does not show beside that many passes


def largest(gram: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All eigenvalues (n, r), descending, at least 0, and the first k eigenvectors (n, r, k) of gram (n, r, r).

    In float64 on the CPU, wherever gram is.
    """
    size = gram.shape[1]
    if gram.device.type != "cuda" or size < _SMALL or not _quicker_there(gram.device, 2 ** (size.bit_length() - 1)):
        gram = gram.cpu().double()
    mu, u = torch.linalg.eigh(gram)
    return mu.flip(-1).clamp_min(0).cpu(), u.flip(-1)[..., :k].cpu()


@cache
def _quicker_there(device: torch.device, size: int) -> bool:
    """Whether a card solves one problem of that size in less time than the processor, the way there included."""
    a = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gram = (a @ a.mT).to(device)

    def seconds(there: bool) -> float:
        start = time.perf_counter()
        for part in torch.linalg.eigh(gram if there else gram.cpu()):
            part.cpu()
        return time.perf_counter() - start

    seconds(True)  # wakes the card's library
    return min(seconds(True), seconds(True)) < min(seconds(False), seconds(False))
