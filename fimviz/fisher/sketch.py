"""The spectrum of a model that can only be queried, from its answers to x ± h v for random directions v.

For v uniform on the sphere of R^D the whitened slopes h = Rᵀ J v (`fimviz.model.likelihoods.Factor`) have
E[D h hᵀ] = A Aᵀ, A = Rᵀ J, the class-space matrix with F's non-zero eigenvalues. So (D/m) Σ h_i h_iᵀ is an unbiased
estimate of it, each h_i by a central difference of the logits. What makes it a measurement:

* The directions are orthonormal (a random m-frame), which leaves each uniform. Sampling variances shrink by
  (D − m)/(D − 1), and m = D directions give the matrix itself.
* The largest eigenvalue of an unbiased estimate is too large. Held-out probes, on directions fitted to the others, give
  a value that is too small by as much to second order in perturbation theory; the mean of both is used.
* z(x + hv) + z(x − hv) − 2z(x), which costs no query, shows what the difference quotient gets wrong: rounding where h
  is too small, kinks where it is too large. So do the slopes at 4h, which also show a service that rounds its inputs to
  eight bits: it answers x ± hv alike. The step is the one at which both are smallest against the slope, and what is
  left counts in the error. Networks of ReLUs want a step at which a pixel moves by some 1e-5 to 1e-4. Where x itself
  lies on a kink (a flat background before a max pool), no step helps: both sides are averaged, and the error says so.
* Real services refuse or clip pixels beyond their range, and most images touch it. There the difference is taken about
  a point c(v) that lies inside by what v would leave by: unbiased where the network is linear between x and c, and the
  slopes at 4h, four times as far inside, measure how far it is not.
* What answers do not show (probabilities rounded to 0, clipped scores, answers in steps) is in the error too.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

from fimviz.fisher.block import Block, eigenvectors, joined, logit_error
from fimviz.fisher.method import Asked, Method
from fimviz.model.blackbox import BlackBox
from fimviz.model.classifier import Classifier
from fimviz.model.engine.parts import in_parts
from fimviz.model.failures import ANSWERS, LOGITS, NonFiniteError

STEP = 4e-5  # first tried, in units of √D and the input range: √ε/8 in float32
_PILOTS = 4  # probes on which steps are compared
_STEPS = 8  # the most steps tried, each four times the last or a quarter
_GOOD = 0.03  # relative uncertainty of the slopes that is small beside sampling
_FOLDS = 10
_RESAMPLES = 200
_Z = 1.96  # of a 95 % interval
_WORK = 2**22  # bytes of input in a batch of forward passes


def sketch(
    net: BlackBox | Classifier,
    x: Tensor,
    k: int,
    vectors: bool,
    probes: int = 100,
    step: float | None = None,
    seed: int = 0,
) -> Block:
    """Estimate the k largest eigenvalues at every input of x (n, …) by queries alone, inside `at_rest()`.

    An input costs 2m + 1 queries for m = min(probes, D), and where `step` is None a few times 8 to choose it; 8 more
    with a step of one's own where the input touches its range, and where answers hide classes.

    Args:
        net: a `BlackBox`, or a `Classifier` used as one.
        x: inputs from `net.admit`.
        k: how many eigenvalues, at most min(rank, m).
        vectors: whether to estimate eigenvectors: the projections of the true ones on the span of the probes, so that
            their cosine with these is about √(m/D) for the leading one, and less for others.
        probes: directions a model is asked about.
        step: h, an L2 length in input units; by default chosen for every input.
        seed: of the directions, which depend on the input too and not on its place in a batch.

    Returns:
        A `Block` whose errors are half-widths of 95 % intervals: a bootstrap over the probes of the logarithm of each
        eigenvalue (normal interval), half of what the bias correction corrects, and the uncertainty of the differences.

    Raises:
        ValueError: for fewer than 3 probes (unless D is smaller) or k beyond their number.

    Example, p = softmax(x₁, x₂) at p = (½, ½), where λ₁ = ½ and both directions are asked:
        >>> import torch
        >>> box = BlackBox(lambda x: x + 1, precision="float64")
        >>> with box.at_rest():
        ...     block = sketch(box, box.admit([[0.5, 0.5]]), 1, True)
        >>> round(block.eigenvalues.item(), 6), [round(abs(v), 4) for v in block.eigenvectors.flatten().tolist()]
        (0.5, [0.7071, 0.7071])
    """
    m = min(probes, x[0].numel())
    if m < min(3, x[0].numel()):
        raise ValueError(f"probes is {probes}, expected at least 3")
    if step is not None and not 0 < step < math.inf:
        raise ValueError(f"step is {step}, expected a positive length, or None to choose it")
    if k > m:
        raise ValueError(f"k is {k} and {m} probes show no more than {m} eigenvalues: raise probes=")
    blocks = []
    for row, one in enumerate(x):
        try:
            blocks.append(_one(net, one, k, vectors, m, step, seed))
        except NonFiniteError as found:
            raise NonFiniteError(found.reason, [row]) from None
    return joined(blocks)


def frame(x: Tensor, dimension: int, count: int, seed: int, orthonormal: bool = True) -> tuple[Tensor, torch.Generator]:
    """`count` random unit columns (dimension, count), and the generator; the draw depends on the input x and the seed.

    So estimates of different inputs are independent, and one input's does not depend on the batch that it came in.
    """
    key = zlib.crc32(x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes(), seed & 0xFFFFFFFF)
    generator = torch.Generator().manual_seed(key)
    g = torch.randn(dimension, count, dtype=torch.float32 if dimension > 4096 else torch.float64, generator=generator)
    return (torch.linalg.qr(g)[0] if orthonormal else torch.nn.functional.normalize(g, dim=0)), generator


def means(gram: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    """Trace and Frobenius norm (…) of a symmetric B ⪰ 0 from probes.

    `gram` (…, m, m) holds g_iᵀ B g_j for m orthonormal random g in R^d, d = `dimension`. With T = mean g_iᵀBg_i,
    S = mean (g_iᵀBg_i)² and U = mean over pairs (g_iᵀBg_j)², d·T and d((d−1)U + S) are unbiased for tr B and ‖B‖²_F:
    for an orthonormal pair E U = (d‖B‖² − tr²)/(d(d−1)(d+2)), and E S = (2‖B‖² + tr²)/(d(d+2)). m = d is exact.
    """
    m, d = gram.shape[-1], dimension
    own = gram.diagonal(dim1=-2, dim2=-1)
    squares = own.square().sum(-1)
    crossed = gram.square().sum((-2, -1)) - squares
    return d * own.mean(-1), (d * ((d - 1) * crossed / max(1, m * (m - 1)) + squares / m)).clamp_min(0).sqrt()


def moments(gram: Tensor, dimension: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`means` with standard errors behind each: jackknifed, times the (d − m)/(d − 1) that orthogonality leaves."""
    m, d = gram.shape[-1], dimension
    trace, frobenius = means(gram, d)
    if m >= d:
        return trace, torch.zeros_like(trace), frobenius, torch.zeros_like(trace)
    others = [[j for j in range(m) if j != i] for i in range(m)]
    without = [means(gram[..., keep, :][..., keep], d) for keep in others]
    share = (m - 1) * (d - m) / (d - 1)
    errors = [
        (share * torch.stack(all_but_one, -1).var(-1, correction=0)).sqrt()
        for all_but_one in zip(*without, strict=True)
    ]
    return trace, errors[0], frobenius, errors[1]


def few_probes(gram: Tensor, dimension: int) -> tuple[Tensor, Tensor, Tensor]:
    """95 % limits (…) of tr B, the lower and the upper one, and of ‖B‖_F the upper one, from what `means` takes.

    The estimate is a sum of squares of normal numbers, weighted by B's eigenvalues: near enough a χ² of as many degrees
    of freedom as give it its variance 2(‖B‖²_F − tr²/d)/m (Satterthwaite 1946), whose quantiles are Wilson and
    Hilferty's (1931). ‖B‖_F is that of the products between probes or that of the probes' own spread, the larger one,
    from above; a B of rank one is the worst case. A jackknife of so few probes knows less: from four of them its 95 %
    intervals held 81 to 93 times in 100 for 15 spectra of many shapes, these at least 96 times but for one eigenvalue
    that stands out of a hundred or a thousand small ones (89 and 87 times).
    """
    m, d = gram.shape[-1], dimension
    trace, frobenius = means(gram, d)
    if m >= d:
        return trace, trace, frobenius
    squares = torch.ones_like(trace)  # ‖B‖²/tr²
    if m > 1:
        spread = (d * gram.diagonal(dim1=-2, dim2=-1)).var(-1)
        known = torch.maximum(frobenius**2, ((d + 2) * spread / 2 + trace**2) / d)
        squares = (1 + (8 / (m * (m - 1))) ** 0.5) * known / (trace**2).clamp_min(1e-300)
    squares = squares.clamp(1 / d, 1)
    ninth = 2 * (d * squares - 1) / (d + 2) * (d - m) / (m * (d - 1)) / 9  # of the variance relative to tr²
    low, high = (trace / (1 - ninth + sign * _Z * ninth.sqrt()).clamp_min(0.1) ** 3 for sign in (1, -1))
    return low, high, high * squares**0.25  # ‖B‖²_F ≤ ‖B‖₂ tr B ≤ ‖B‖_F tr B


def half_width(value: Tensor, standard_error: Tensor, count: int) -> Tensor:
    """Of a 95 % interval about a positive estimate from `count` probes, symmetric in its logarithm; the upper side."""
    # The normal quantile, corrected to that of Student's t to first order.
    t = _Z + 2.37 / max(1, count - 1)
    return value * torch.expm1(t * standard_error / value.clamp_min(1e-300))


class Differences:
    """Whitened slopes Rᵀ J v of one input x (…) along directions, by central differences of the logits.

    Nothing is asked outside of the input range: a difference is taken about the point c(v) next to x from which v
    leads inside on both sides, |c − x| being what v would leave by.
    """

    def __init__(self, net: BlackBox | Classifier, x: Tensor) -> None:
        self._net, self._x = net, x
        self._range = net.input_range or (-math.inf, math.inf)
        self.logits = self._ask(x[None])
        self.factor = net.likelihood.factor(self.logits)
        self.queries = 1
        self.shifted = False  # whether a difference was taken beside x
        # Where answers are rounded, the noise of a whitened difference; and scores that never moved.
        known = net.noise(self.logits) if isinstance(net, BlackBox) else torch.zeros_like(self.logits)
        self.noise = float(self.factor.from_logits(torch.diag_embed(known)).norm()) / math.sqrt(2)
        self.moving = torch.zeros_like(self.logits[0])  # of every logit, the largest mean square of its slopes

    def along(self, v: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """Slopes (r, m) along columns v (D, m), and half the second difference / h, NaN where c(v) is not x."""
        shape = (-1, *self._x.shape)
        size = max(1, min(256, _WORK // (self._x.element_size() * self._x.numel())))
        slopes, bends = [], []
        for some in v.T.split(max(1, getattr(self._net, "batch_size", size) // 2)):
            moved = (step * some).to(self._x).view(shape)
            centre = self._x.clamp(self._range[0] + moved.abs(), self._range[1] - moved.abs())
            ahead, behind = self._ask(torch.cat([centre + moved, centre - moved])).chunk(2)
            slopes.append((ahead - behind) / (2 * step))
            beside = (centre != self._x).flatten(1).any(1).cpu()
            bends.append(((ahead + behind - 2 * self.logits) / (2 * step)).masked_fill(beside[:, None], math.nan))
            self.shifted |= bool(beside.any())
        self.queries += 2 * v.shape[1]
        raw = torch.cat(slopes)
        self.moving = torch.maximum(self.moving, raw.square().mean(0))
        return tuple(self.factor.from_logits(t.T[None])[0] for t in (raw, torch.cat(bends)))  # type: ignore[return-value]

    def chosen(self, v: Tensor, first: float, longest: float) -> tuple[float, float, Tensor]:
        """The step, from `first` up or down by factors of four, of the least uncertainty; that; and its slopes.

        The uncertainty of a step is how far slopes are from those of four times the step, and what second differences
        show: rounding of inputs leaves these at zero and moves the slopes.
        """
        seen: dict[float, tuple[Tensor, Tensor]] = {}

        def at(step: float) -> tuple[Tensor, Tensor]:
            if step not in seen:
                seen[step] = self.along(v, step)
            return seen[step]

        def tried(step: float) -> tuple[float, float]:
            (slopes, bends), (wider, _) = at(step), at(4 * step)
            # A direction that changes nothing at all is one that the outputs' own resolution hides.
            hidden = not slopes.any(0).all() or not wider.any(0).all()
            return math.inf if hidden else max(_uncertainty(slopes, bends), _apart(slopes, wider)), step

        best, left = tried(first), _STEPS - 1
        # Doubt as large as the slope itself is rounding more often than kinks: answers in steps look alike until their
        # steps are short beside h, so that all longer ones are tried.
        if best[0] > 0.5:
            longer = [first * 4.0**i for i in range(1, left) if first * 4.0 ** (i + 1) <= longest]
            best = min([best, *(tried(step) for step in longer)], key=lambda one: (one[0], -one[1]))
        for factor in (0.25, 4.0) if best[1] == first else ():
            while best[0] > _GOOD and left and 4 * factor * best[1] <= longest:
                other, left = tried(factor * best[1]), left - 1
                if not other[0] < 0.8 * best[0]:
                    break
                best = other
            if best[1] != first:
                break
        uncertainty, step = best
        return step, uncertainty, at(step)[0]

    def farthest(self, v: Tensor, step: float) -> float:
        """The largest KL divergence, in nats, at a step along some directions."""
        moved = (step * v.T).to(self._x).view(-1, *self._x.shape)
        z = self._ask((self._x + moved).clamp(*self._range))
        self.queries += len(z)
        return float(self._net.likelihood.kl(self.logits.expand_as(z), z).max())

    def checked(self, v: Tensor, step: float, slopes: Tensor) -> float:
        """The uncertainty of slopes at a step that nobody chose."""
        return _apart(slopes, self.along(v, 4 * step)[0])

    @torch.no_grad()
    def _ask(self, x: Tensor) -> Tensor:
        asked = in_parts(range(len(x)), len(x), lambda places: self._net.logits(x[places]).cpu().double())
        z = torch.cat([some for _, some in asked])
        if not z.isfinite().all():
            raise NonFiniteError(ANSWERS if isinstance(self._net, BlackBox) else LOGITS, [0])
        return z


def _uncertainty(slopes: Tensor, bends: Tensor) -> float:
    known = ~bends.isnan().any(0)
    slopes, bends = slopes[:, known], bends[:, known]
    return float(bends.norm() / slopes.norm()) if slopes.any() else 0.0


def _apart(slopes: Tensor, others: Tensor) -> float:
    size = max(float(slopes.norm()), float(others.norm()))
    return float((slopes - others).norm()) / size if size else 0.0


def _one(net: BlackBox | Classifier, x: Tensor, k: int, vectors: bool, m: int, step: float | None, seed: int) -> Block:
    d = x.numel()
    v, generator = frame(x, d, m, seed)
    ask = Differences(net, x)
    pilots = v[:, :_PILOTS]
    low, high = net.input_range or (float(value) for value in x.aminmax())
    longest = math.inf if net.input_range is None else (high - low) / (2 * float(v.abs().max()))
    if step is None:
        first = min(STEP * math.sqrt(d) * ((high - low) or 1.0), longest / 4)
        step, uncertainty, slopes = ask.chosen(pilots, first, longest)
        rest = ask.along(v[:, _PILOTS:], step) if m > _PILOTS else (slopes[:, :0], slopes[:, :0])
        slopes, bends = torch.cat([slopes, rest[0]], 1), rest[1]
        uncertainty = max(uncertainty, _uncertainty(rest[0], bends))
    else:
        slopes, bends = ask.along(v, step)
        uncertainty = _uncertainty(slopes, bends)
        if ask.shifted:
            uncertainty = max(uncertainty, ask.checked(pilots, step, slopes[:, : pilots.shape[1]]))
    unseen, rough = _unseen(net, ask, pilots, longest), uncertainty > 0.5
    uncertainty = uncertainty if math.isfinite(uncertainty) else 2.0  # slopes of two steps are no farther apart
    h, left = slopes * math.sqrt(d / m), (d - m) / max(1, d - 1)

    u, sizes, _ = torch.linalg.svd(h, full_matrices=False)
    inside, outside = sizes[:k] ** 2, _held_out(h, k)
    mu, order = (inside - left * (inside - outside) / 2).clamp_min(0).sort(descending=True)
    u, spread = u[:, order], (math.sqrt(left) * _bootstrap(h, k, generator))[order]
    sampling = mu * torch.expm1(_Z * spread) + left * (inside - outside)[order].abs() / 2
    rounding = torch.finfo(torch.float32).eps * (1 + net.likelihood.size(ask.logits[0])) * math.sqrt(d) / step
    rounding = torch.maximum(rounding, torch.as_tensor(ask.noise * math.sqrt(d) / step))
    away = uncertainty * mu[0].sqrt() + rounding
    trace, trace_error, frobenius, frobenius_error = moments(slopes.T @ slopes, d)
    away_all = uncertainty * trace.sqrt() + rounding * math.sqrt(ask.factor.rank)
    systematic = 2 * trace.sqrt() * away_all + away_all**2

    # The projection of Aᵀu on the span of the directions.
    rows, own = (u.T @ h).to(v) @ v.T, u.T @ ask.factor.ascent[0]
    none = torch.zeros(1, 0, d, dtype=x.dtype)
    eye = torch.eye(k, dtype=torch.float64)[None]
    found = eigenvectors(rows[None].to(x), eye, mu[None], own[None], rounding[None]) if vectors else none
    scale = ask.factor.log_scale.exp()
    count = torch.zeros(1, dtype=torch.int64)
    return Block(
        logits=ask.logits,
        logit_error=logit_error(net.likelihood, ask.logits, torch.finfo(torch.float32).eps),
        eigenvalues=mu[None] * scale,
        error=(sampling + 2 * mu.sqrt() * away + away**2)[None] * scale + unseen,
        trace=trace * scale,
        trace_error=(half_width(trace, trace_error, m) + systematic) * scale + unseen,
        frobenius=frobenius * scale,
        frobenius_error=(half_width(frobenius, frobenius_error, m) + systematic) * scale + unseen,
        eigenvectors=found,
        forwards=count + ask.queries,
        vjps=count,
        jvps=count,
        history=mu.new_zeros(1, 0),
        rough=torch.tensor([rough or bool(unseen > mu[0] * scale)]),
    )


def _unseen(net: BlackBox | Classifier, ask: Differences, pilots: Tensor, longest: float) -> float:
    """What answers cannot show of λ₁, because they were rounded to 0, clipped, or did not move: by experience.

    A hidden class of probability p adds at most some p ‖∇ log p‖², taken with the largest gradient among the others.
    Where there are no two others, what answers hide and how far apart they are at a long step h bound it: with KL < u
    in random directions, λ₁ ≤ tr F is about 2 u D / h² at most.
    """
    d, digit = len(pilots), net.digit if isinstance(net, BlackBox) else 0.0
    share, hidden, clear = net.likelihood.resolved(ask.logits[0], digit)
    moves = ask.moving > 0
    hidden = hidden | (~moves & (ask.logits[0] != 0))  # a score that is 0 is often one by construction
    mass = float(share.clamp_min(digit / 2)[hidden].sum())
    seen = moves & ~hidden & clear
    if moves.any() and (mass < 1e-30 or seen.sum() > 1):
        return mass * d * float(ask.moving[seen].max()) if mass else 0.0
    h = longest / 4 if longest < math.inf else 1.0
    return 2 * (max(mass, digit) + ask.farthest(pilots, h)) * d / h**2


def _held_out(h: Tensor, k: int) -> Tensor:
    """Mean squares (k,) of probes h (r, m) along directions fitted to other probes, times m."""
    fold = torch.arange(h.shape[1]) % _FOLDS
    total = h.new_zeros(k)
    for i in range(min(_FOLDS, h.shape[1])):
        u = torch.linalg.svd(h[:, fold != i], full_matrices=False)[0][:, :k]
        total[: u.shape[1]] += (u.T @ h[:, fold == i]).square().sum(1)
    return total


def _bootstrap(h: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Standard deviation (k,) of the logarithms of the k largest eigenvalues of h hᵀ over resampled probes."""
    m = h.shape[1]
    small = h if h.shape[0] <= m else torch.linalg.qr(h)[1]  # the same Gram of probes in at most m dimensions
    logs = []
    for _ in range(_RESAMPLES):
        times = torch.bincount(torch.randint(m, (m,), generator=generator), minlength=m)
        values = torch.linalg.eigvalsh((small * times) @ small.T).flip(0)[:k]
        logs.append(values.clamp_min(1e-12 * float(values[0]) + 1e-300).log())
    return torch.stack(logs).std(0)


def _run(net: BlackBox | Classifier, x: Tensor, asked: Asked) -> Block:
    return sketch(net, x, asked.k, asked.vectors, asked.probes, asked.step, asked.seed)


SKETCH = Method(
    name="blackbox",
    run=_run,
    guarantee="statistical",
    needs="the point, and answers of the model around it",
    short="answers to queries only",
    cost=2,
    sees="answers",
)
