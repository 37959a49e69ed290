"""The true Fisher–Rao length of a straight piece of an input path, measured on the simplex by forward passes.

The Fisher length of an input path is the Fisher–Rao length of its image p(x(t)); so the sum of distances between
neighbouring predictions converges to it from below, grows with every point that is added, and is never less than the
distance of the ends. √(δᵀFδ) at a step's start does none of this: a step that begins where the network is saturated
would count as nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fimviz.margins import simplex

_TOLERANCE = 1e-3  # relative growth that counts as small
_FLOOR = 1e-6  # a growth that no longer matters
_LEVELS = 6


def between(z: Tensor, w: Tensor) -> Tensor:
    """Fisher–Rao distance (m,) of the predictions of two sets of logits (m, K)."""
    return simplex.distance(simplex.log_probs(z), simplex.log_probs(w))


def measure(
    logits_at: Callable[[Tensor, Tensor], Tensor], start: Tensor, middle: Tensor, end: Tensor, levels: int = _LEVELS
) -> tuple[Tensor, Tensor]:
    """Length of each of m straight pieces and what its last halving added, (m,) each.

    An interval is halved until that adds less than 0.1 % of its length twice in a row, at most `levels` times: once
    may be chance, as where a kink of the network lies beside the middle.

    Args:
        logits_at: gives logits (j, K) for pieces (j,) at shares (j,) of them.
        start: (m, K) logits at share 0.
        middle: at share ½.
        end: at share 1.
        levels: see above.
    """
    length, growth = (torch.zeros(len(start), dtype=torch.float64) for _ in range(2))
    piece, share, width = torch.arange(len(start)), torch.zeros(len(start)).double(), 1.0
    calm = torch.zeros(len(start), dtype=torch.bool)  # whether the halving before added little
    for level in range(levels + 1):
        halves = between(start, middle), between(middle, end)
        fine = halves[0] + halves[1]
        grown = fine - between(start, end)
        little = (grown <= _TOLERANCE * fine) | (grown <= _FLOOR)
        done = little & calm if level < levels else torch.ones_like(calm)
        length.index_add_(0, piece[done], fine[done])
        growth.index_add_(0, piece[done], grown[done])
        if done.all():
            break
        live = ~done
        piece, share, width = piece[live].repeat(2), share[live], width / 2
        calm = little[live].repeat(2)
        share = torch.cat([share, share + width])
        start, end = torch.cat([start[live], middle[live]]), torch.cat([middle[live], end[live]])
        middle = logits_at(piece, share + width / 2)
    return length, growth.clamp_min(0)
