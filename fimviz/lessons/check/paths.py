"""Checks of the fourth lesson: the ruler for answers, its floor, lengths of paths, and who stands in the way."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fimviz.lessons.check.given import Function, Mistake, answer_of, blame, near, number, right
from fimviz.margins import simplex
from fimviz.margins.traces import MarginTraces

_PAIRS = (((0.5, 0.5), (0.9, 0.1)), ((0.7, 0.2, 0.1), (0.1, 0.6, 0.3)))


def distance(function: Function) -> None:
    """Check a function of two vectors of probabilities against the Fisher–Rao distance 2 arccos Σ √(p q).

    Raises:
        Mistake: it gives other numbers; known slips are named.

    Example:
        >>> distance(lambda p, q: 2 * (p * q).sqrt().sum().arccos())
        ✓ distance is right; the farthest two answers can be apart is π.
    """
    for pair in _PAIRS:
        p, q = torch.tensor(pair, dtype=torch.float64)
        truth = float(simplex.distance(p.log(), q.log()))
        given = answer_of("distance", function, p, q)
        if near(given, truth):
            continue
        blame(
            given,
            {
                "The 2 is missing: the sphere has radius 2.": truth / 2,
                "The roots are missing: points on the sphere are √p, not p.": 2 * math.acos(min(1.0, float(p @ q))),
                "That is the chord, straight through the sphere: the distance runs along it.": 2
                * float((p.sqrt() - q.sqrt()).norm()),
                "That is the Euclidean distance of the probabilities: take their roots, and the angle.": float(
                    (p - q).norm()
                ),
                "That is the cosine: take the arccos of it, and double it.": float((p * q).sqrt().sum()),
                "That is an arcsin: the angle's cosine is what Σ √(p q) gives.": 2
                * math.asin(float((p * q).sqrt().sum())),
            },
        )
        raise Mistake(f"Your distance of {pair[0]} and {pair[1]} is {given:.4f}, expected {truth:.4f}.")
    right("distance is right; the farthest two answers can be apart is π.")


def floor(function: Function) -> None:
    """Check a function of p_y and p_k against 2 arcsin((√p_y − √p_k)/√2), the way until k draws level with y.

    Raises:
        Mistake: it gives other numbers; known slips are named.

    Example:
        >>> floor(lambda py, pk: 2 * math.asin((py**0.5 - pk**0.5) / 2**0.5))
        ✓ floor is right: 0 where two classes are level, π/2 where one is certain.
    """
    for py, pk in ((0.9, 0.05), (0.5, 0.2)):
        rest = 1 - py - pk
        p = torch.tensor([py, pk, rest], dtype=torch.float64).log()
        truth = float(simplex.boundary_distance(p, torch.tensor(0), torch.tensor(1)))
        given = answer_of("floor", function, torch.tensor(py).double(), torch.tensor(pk).double())
        if near(given, truth):
            continue
        root = math.sqrt(py) - math.sqrt(pk)
        blame(
            given,
            {
                "The 2 before the arcsin is missing: the sphere has radius 2.": truth / 2,
                "The roots are missing: √p_y − √p_k.": 2 * math.asin((py - pk) / math.sqrt(2)),
                "The √2 is missing: divide before the arcsin.": 2 * math.asin(root),
                "You divided by 2; it is by √2.": 2 * math.asin(root / 2),
                "The sign is the other way round: the more probable class comes first.": -truth,
            },
        )
        raise Mistake(f"Your floor for p_y = {py} and p_k = {pk} is {given:.4f}, expected {truth:.4f}.")
    right("floor is right: 0 where two classes are level, π/2 where one is certain.")


def path_length(function: Function) -> None:
    """Check a function of probabilities (steps, K) along a path: the sum of the Fisher–Rao distances of neighbours.

    Raises:
        Mistake: it gives other numbers; known slips are named.
    """
    p = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)
    pieces = simplex.distance(p[:-1].log(), p[1:].log())
    truth = float(pieces.sum())
    given = answer_of("path_length", function, p)
    if not near(given, truth):
        blame(
            given,
            {
                "That is the distance of the two ends: a path that turns back is longer.": float(
                    simplex.distance(p[0].log(), p[-1].log())
                ),
                "That is the mean of the pieces: a length is their sum.": float(pieces.mean()),
                "That is the longest piece: a length is the sum of all.": float(pieces.max()),
                "The last piece is missing.": float(pieces[:-1].sum()),
                "The first piece is missing.": float(pieces[1:].sum()),
            },
        )
        raise Mistake(f"Your path_length is {given:.4f} for a path of length {truth:.4f}.")
    right("path_length is right: it sees every turn.")


def shielding(share: Any, traces: MarginTraces) -> None:
    """Check the share of the paths that met another class than they aimed at, among those that changed the class.

    Where labels are known, paths from wrong answers are left out, as in `fimviz.margins.shielding.Shielding`.

    Raises:
        Mistake: another share; known slips are named.
    """
    given = number("share", share)
    flipped: Tensor = traces.flipped
    turned = flipped if traces.correct is None else flipped & traces.correct
    met = traces.hit != traces.target
    truth, everywhere = (float(met[paths].double().mean()) for paths in (turned, flipped))
    if abs(given - truth) > 1e-6:
        blame(
            given,
            {
                "That is in percent: a share goes from 0 to 1.": 100 * truth,
                "Those are the paths that met their own target: shielded are the others.": 1 - truth,
                "That is how many: divide by the number of paths.": float(met[turned].sum()),
                "Paths from a wrong answer are among yours: take those where correct is True.": everywhere,
            },
        )
        raise Mistake(f"Your share is {given:.3f}. A path is shielded where hit differs from target.")
    right(f"{truth:.0%} of {int(turned.sum())} paths met a class that they did not aim at.")
