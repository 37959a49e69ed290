"""How fast y can change with u, where y = Rw + Mu, z = Nw + Au, and all that is known of w is that |w_i| ≤ ‖z_i‖.

With any prices d_i > 0, w, z, N, A and R in units of 1/√d_i, and G and H the rows of R and N and those of M and A,

    ‖y‖² ≤ ‖y‖² + ‖z‖² − ‖w‖² = ‖Gw + Hu‖² − ‖w‖² ≤ uᵀHᵀ(1 − GGᵀ)⁻¹Hu,

which is at most ‖Xu‖² + ‖ρu‖²/μ where 1 − GGᵀ ≥ LLᵀ + μ and H = LX + ρ. So ‖y‖ is at most ‖u‖ times the norm of X,
and of ρ, what a triangular solution rounds, its size is enough. This is the S-procedure (Boyd et al. 1994, *Linear
matrix inequalities in system and control theory*, §2.6.3; for slopes of networks everywhere Fazlyab et al. 2019,
*Efficient and accurate estimation of Lipschitz constants for deep neural networks*). No w hears of itself, so that
there always are prices with GGᵀ < 1. They begin where rows are as long as columns (Osborne 1960, *On pre-conditioning
of matrices*) and follow the gradient of the bound, z_i² − w_i² for the worst u: there y and z are p = (1 − GGᵀ)⁻¹Hu,
and w = Gᵀp.

Rounding. A Cholesky factorisation that runs to completion is one of a matrix that is off by γ‖L‖_F² (Higham 2002, thm
10.3), a triangular solution is off by γ‖L‖_F‖X‖_F (thm 8.5), a product by γ times the Frobenius norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fimviz.bounds.certify import largest_singular_value

_UNIT = torch.finfo(torch.float64).eps
_SPARE = 1e-6  # μ
_ABOVE = 1.001  # how far above its guess the last norm is tried first
_ROUNDS = 12  # of balancing, at most
_SWEEPS = 30  # in each
_WIDE = 80.0  # the largest |log d|
_TURNS = (3, 12)  # steps down the gradient, of which there are as many between these …
_WORK = 6e10  # … as fit in so many operations
_RATE, _KEPT, _KEPT_SQUARES = 0.4, 0.7, 0.9  # of a step in log d, of the last gradients, and of their squares
_SIDES, _POWERS = 6, (6, 2)  # directions u that are looked at; power iterations for them, at first and from then on
_ROUGH = 0.2  # of the largest ‖y‖², how much less a direction may have to count


@dataclass(frozen=True)
class Part:
    """Some of the z, and as many w after them as they have owners.

    Attributes:
        N: (z, w before) of all w before.
        A: (z, u)
        off: (z,) how long that which A leaves out of each row is at most.
        owner: (z,) which of this part's w each z is of.
    """

    N: Tensor
    A: Tensor
    off: Tensor
    owner: Tensor

    @cached_property
    def whose(self) -> Tensor:
        """(z,): the same among all w."""
        return self.owner + self.N.shape[1]


@dataclass(frozen=True)
class _Factored:
    """In units of the prices: A of z that hear no w, G and H of all others and of y, the factor L, what A is off."""

    alone: Tensor
    G: Tensor
    H: Tensor
    L: Tensor
    off: float

    def norm(self, off: float) -> float:
        """That of X with what is alone, above its rounding; rows of M are off by `off`."""
        X = torch.linalg.solve_triangular(self.L, self.H, upper=False)
        terms = 4 * _UNIT * (len(self.L) + 64)
        rest = terms * float(self.L.norm() * X.norm()) + off + self.off
        top = largest_singular_value([torch.cat([self.alone, X])[None]], _ABOVE)
        return (top + self.off + rest / _SPARE**0.5) * (1 + 1e-9)

    def worst(self, u: Tensor) -> Tensor:
        """All z, first those that are alone, and y, for columns u, where w is the worst that it can be."""
        return torch.cat([self.alone @ u, torch.cholesky_solve(self.H @ u, self.L)])


@dataclass(eq=False)
class Coupled:
    """All z, in an order in which each hears only of the w of parts before its own; `count` is how many w there are."""

    parts: Sequence[Part]
    count: int

    def __post_init__(self) -> None:
        self._prices = torch.ones(self.count, dtype=torch.float64)

    def norm(self, R: Tensor, M: Tensor, off: Tensor) -> float:
        """An upper bound of ‖y‖/‖u‖, for rows M that are off by `off` (K,); inf where there are no prices for one."""
        lost = float(off.norm()) * (1 + 1e-9)
        if not self.count:
            return (largest_singular_value([M[None]]) + lost) * (1 + 1e-9)
        self._prices = self._falling(self._balanced(R, M), R, M)
        f = self._factored(self._prices, R, M)
        return float("inf") if f is None else f.norm(lost)

    def lengths(self, R: Tensor, M: Tensor, off: Tensor) -> Tensor:
        """(K,): the same of every y_k by itself, with the prices of the last norm.

        With h = Gw + Hu of the z alone, y = rw + mu is (m + tH)u + (r + tG)w − th for every t, which for t = (r + tG)Gᵀ
        has (r + tG)(w − Gᵀh) behind (m + tH)u. Of this the inequality above, without y, says that it is at most κ‖u‖
        times the square root of ‖r + tG‖² − ‖t‖², κ what it says of ‖X‖.
        """
        if not self.count:
            return (M.norm(dim=1) + off) * (1 + 1e-9)
        if (f := self._factored(self._prices, R[:0], M[:0])) is None:
            return torch.full_like(off, torch.inf)
        R, reach = R / self._prices.sqrt(), f.norm(0.0)
        t = R.new_zeros(len(R), len(f.G))
        for _ in range(3):
            through = R + t @ f.G
            rest = through @ f.G.T - t
            t = t + torch.cholesky_solve(rest.T, f.L).T
        through = R + t @ f.G
        rest = through @ f.G.T - t
        large = (R.norm(dim=1) + t.norm(dim=1) * float(f.G.norm())) * max(float(f.G.norm()), 1.0) + t.norm(dim=1)
        rounding = 4 * _UNIT * (self.count + len(f.G) + 64)
        wrong = rest.norm(dim=1) + rounding * large  # of t, which w and h are to be multiplied with
        far = through.square().sum(1) - (t.norm(dim=1) - wrong).clamp_min(0).square() + rounding * large.square()
        out = (M + t @ f.H).norm(dim=1) + far.clamp_min(0).sqrt() * reach + off
        # ‖h‖ ≤ 3κ‖u‖/√μ, as ‖w‖ ≤ 2κ‖u‖/√μ.
        more = t.norm(dim=1) * (f.off + rounding * float(f.H.norm())) + 3 * wrong * reach / _SPARE**0.5
        return (out + more) * (1 + 1e-9)

    def _factored(self, prices: Tensor, R: Tensor, M: Tensor) -> _Factored | None:
        root = prices.sqrt()
        others = self.parts[1:]
        sizes = [*(len(p.N) for p in others), len(R)]
        widths = [*(p.N.shape[1] for p in others), self.count]
        G = torch.zeros(sum(sizes), self.count, dtype=torch.float64)
        S, end = G.new_zeros(len(G), len(G)), 0  # below the diagonal
        for i, (size, width) in enumerate(zip(sizes, widths, strict=True)):
            rows = R if i == len(others) else root[others[i].whose][:, None] * others[i].N
            begin, end = end, end + size
            torch.div(rows, root[:width], out=G[begin:end, :width])
            S[begin:end, :end] = -G[begin:end, :width] @ G[:end, :width].T
        rounding = 4 * _UNIT * (self.count + len(G) + 64) * (len(G) + float(G.square().sum()))
        S.diagonal().add_(1 - _SPARE - rounding)
        L, info = torch.linalg.cholesky_ex(S)
        if info:
            return None
        alone, *heard = (root[p.whose][:, None] * p.A for p in self.parts)
        square = sum(float((prices[p.whose] * p.off.square()).sum()) for p in self.parts)
        H = torch.cat([*heard, M])
        return _Factored(alone, G, H, L, square**0.5 * (1 + 1e-9) + 8 * _UNIT * float(H.norm() + alone.norm()))

    def _balanced(self, R: Tensor, M: Tensor) -> Tensor:
        """Prices to begin with: those of the best of a few guesses of ‖y‖."""
        squares = [
            (_gathered(p.N.square(), p.owner), _gathered(p.A.square().sum(1) + p.off.square(), p.owner))
            for p in self.parts
        ]
        heard, middle = R.square().sum(0), max(float(torch.linalg.matrix_norm(M, 2)), 1e-100)
        log = torch.cat([torch.full_like(a, -2.0 * i) for i, (_, a) in enumerate(squares)])
        best, top, guess, u = log.exp(), float("inf"), middle, None
        for _ in range(_ROUNDS):
            for _ in range(_SWEEPS):
                d = log.exp()
                rows = torch.cat([N @ (1 / d[: N.shape[1]]) + a / guess for N, a in squares]) * d
                columns, at = heard / guess, 0
                for N, a in squares:
                    columns[: N.shape[1]] += N.T @ d[at : at + len(a)]
                    at += len(a)
                log = log + (columns / d).clamp_min(1e-30).log() / 2 - rows.clamp_min(1e-30).log() / 2
                log = log.clamp(-_WIDE, _WIDE)
            if (f := self._factored(log.exp(), R[:0], M[:0])) is None:
                guess *= 4.0
                continue
            heard_of = R / log.div(2).exp()
            through = torch.linalg.solve_triangular(f.L, f.G @ heard_of.T, upper=False)
            far = float(torch.linalg.matrix_norm(torch.cat([heard_of.T, through]), 2))
            reach, u, _ = self._towards(f, u)
            # The price of ‖w‖² at which (middle + far · reach)² is proved.
            if (value := (middle + far * reach) ** 2) < 0.99 * top:
                best, top = log.exp() * max(far * (far + middle / max(reach, 1e-300)), 1e-200), value
            else:
                break
            guess = value**0.5
        return best

    def _towards(self, f: _Factored, u: Tensor | None) -> tuple[float, Tensor, Tensor]:
        """About ‖y‖, by power iterations; the directions u; and how ‖y‖² changes with log d, as a share of it."""
        powers, width = _POWERS[u is not None], f.H.shape[1]
        if u is None:
            u = torch.randn(width, min(width, _SIDES), generator=torch.Generator().manual_seed(0)).double()
        for i in range(powers + 1):
            u = torch.linalg.qr(u).Q
            z = f.worst(u)
            changed = f.alone.T @ z[: len(f.alone)] + f.H.T @ z[len(f.alone) :]
            if i < powers:
                u = changed
        values, sides = torch.linalg.eigh((u.T @ changed + changed.T @ u) / 2)
        top = max(float(values[-1]), 1e-300)
        share = ((values - top) / (_ROUGH * top)).softmax(0)
        w = f.G.T @ z[len(f.alone) :]
        whose = torch.cat([p.whose for p in self.parts])
        gradient = -((w @ sides).square() @ share)
        gradient.index_add_(0, whose, (z[: len(whose)] @ sides).square() @ share)
        return top**0.5, u, gradient / top

    def _falling(self, prices: Tensor, R: Tensor, M: Tensor) -> Tensor:
        """The best prices on the way down (Kingma & Ba 2015, *Adam*)."""
        size = sum(len(p.N) for p in self.parts[1:]) + len(R)
        turns = max(_TURNS[0], min(_TURNS[1], int(_WORK / (size**2 * (size + self.count)))))
        log, best, top, u = prices.log(), prices, float("inf"), None
        moved, square, rate = torch.zeros_like(log), torch.zeros_like(log), _RATE
        for k in range(1, turns + 1):
            if (f := self._factored(log.exp(), R, M)) is None:
                log = log + 1.0 if top == float("inf") else best.log() + (log - best.log()) / 3
                rate *= 0.7
                continue
            value, u, gradient = self._towards(f, u)
            if value < top:
                best, top = log.exp(), value
            moved = _KEPT * moved + (1 - _KEPT) * gradient
            square = _KEPT_SQUARES * square + (1 - _KEPT_SQUARES) * gradient.square()
            step = moved / (1 - _KEPT**k) / ((square / (1 - _KEPT_SQUARES**k)).sqrt() + 1e-12)
            log = log - rate * step
        return best


def _gathered(numbers: Tensor, owner: Tensor) -> Tensor:
    """Sums of what is of the same w."""
    return numbers.new_zeros(int(owner.amax()) + 1, *numbers.shape[1:]).index_add_(0, owner, numbers)


__all__ = ["Coupled", "Part"]
