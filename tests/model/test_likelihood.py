"""The likelihoods against decimal arithmetic with 400 digits, which no cancellation and no underflow can reach."""

from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fimviz.model.likelihoods import LIKELIHOODS

CATEGORICAL, BERNOULLI = LIKELIHOODS["categorical"], LIKELIHOODS["bernoulli"]
OUTCOMES = {"categorical": CATEGORICAL, "bernoulli": BERNOULLI}
TIED = [
    [0.0, 0.0],
    [3.0, 3.0, -2.0],
    [0.0] * 5,
    [700.0, 700.0, 0.0],
    [-1.0, 0.0, 1.0],
    [0.0, 1600.0],
    [5.0, -1600.0, 5.0],
]


def logits():
    scale = st.sampled_from([0.1, 3.0, 24.0, 350.0])  # the last: winners that lead by up to 700
    vector = st.lists(st.floats(-1, 1), min_size=2, max_size=6)
    return st.one_of(st.sampled_from(TIED), st.builds(lambda v, s: [s * x for x in v], vector, scale))


def rows(*values: list[float]) -> list[Tensor]:
    return [torch.tensor([v], dtype=torch.float64) for v in values]


def exact_softmax(z: list[float]) -> list[Decimal]:
    e = [Decimal(v).exp() for v in z]
    return [v / sum(e) for v in e]


def exact_kl(z: list[float], w: list[float]) -> Decimal:
    p, u = exact_softmax(z), [Decimal(b) - Decimal(a) for a, b in zip(z, w, strict=True)]
    centre = sum(a * b for a, b in zip(p, u, strict=True))
    return sum(a * (b - centre).exp() for a, b in zip(p, u, strict=True)).ln()


def binary(z: list[float]) -> list[list[float]]:
    return [[0.0, v] for v in z]


def exact_information(likelihood, z: list[float], scale: float) -> Tensor:
    """S e^−s."""
    factor = Decimal(-scale).exp()
    if likelihood is BERNOULLI:
        (diagonal,) = rows([float(p * q * factor) for p, q in map(exact_softmax, binary(z))])
        return torch.diag(diagonal[0])
    p = exact_softmax(z)
    entries = [
        [float(factor * (a * sum(p[:i] + p[i + 1 :]) if i == j else -a * b)) for j, b in enumerate(p)]
        for i, a in enumerate(p)
    ]
    return torch.tensor(entries, dtype=torch.float64)


def dense(likelihood, z):
    """The factor of S and R (n, K, r) as a matrix."""
    factor = likelihood.factor(z)
    return factor, factor.to_logits(torch.eye(factor.rank, dtype=z.dtype).expand(len(z), -1, -1))


@pytest.fixture(autouse=True, scope="module")
def digits():
    with localcontext() as context:
        context.prec = 400
        yield


@pytest.mark.parametrize("likelihood", OUTCOMES.values(), ids=OUTCOMES)
@settings(deadline=None, max_examples=40)
@given(z=logits())
def test_the_factors_give_the_information(likelihood, z):
    (row,) = rows(z)
    factor, root = dense(likelihood, row)
    assert root.shape == (1, len(z), likelihood.rank(len(z))) == (1, len(z), factor.rank)
    expected = exact_information(likelihood, z, factor.log_scale.item())
    torch.testing.assert_close(root[0] @ root[0].T, expected, rtol=1e-11, atol=1e-13)
    transposed = factor.from_logits(torch.eye(len(z), dtype=row.dtype)[None])
    torch.testing.assert_close(transposed, root.mT, rtol=1e-11, atol=1e-15)
    assert 0.2 < expected.abs().max() < 2 * len(z)  # the scale is taken out, so that nothing underflows


@pytest.mark.parametrize("likelihood", OUTCOMES.values(), ids=OUTCOMES)
@settings(deadline=None, max_examples=40)
@given(
    z=logits(), u=st.lists(st.floats(-1, 1), min_size=6, max_size=6), size=st.sampled_from([1e-9, 1e-4, 1.0, 80.0, 1e3])
)
def test_kl(likelihood, z, u, size):
    w = [a + size * b for a, b in zip(z, u, strict=False)]
    pairs = [(z, w)] if likelihood is CATEGORICAL else zip(binary(z), binary(w), strict=True)
    expected = float(sum(exact_kl(a, b) for a, b in pairs))
    # What is lost is rounding of the logits, which moves them by some 1e-16 of their size, and the smallest floats.
    moved = 2e-16 * max(1.0, *map(abs, z), *map(abs, w))
    lost = 4 * moved**2 * max(likelihood.doubt(row).item() for row in rows(z, w))
    assert likelihood.kl(*rows(z, w)).item() == pytest.approx(expected, rel=1e-9, abs=lost + 1e-290)
    assert likelihood.kl(*rows(z, w)).item() >= 0
    assert likelihood.kl(*rows(z, z)).item() == 0


SHIFTED = [  # (z, w): a common shift, a class that comes from nowhere, both
    ([0.0, -60.0], [5.0, -55.0 + 2.0**-20]),
    ([0.0, -35.5, *[-34.5] * 6], [1024.0 + 2.0**-20, 988.5, *[989.5 + 2.0**-20] * 6]),
    ([0.0, -100.0, -750.0], [0.0, -100.0, -50.0]),
    ([0.0, -100.0, -735.0], [-3.0, -103.0, -48.0]),
    ([0.0, -1600.0], [0.0, 1600.0]),
    ([1600.0, 0.0, 0.0], [0.0, 0.0, 1600.0]),
]


@pytest.mark.parametrize(("z", "w"), SHIFTED)
def test_kl_of_saturated_pairs(z, w):
    assert CATEGORICAL.kl(*rows(z, w)).item() == pytest.approx(float(exact_kl(z, w)), rel=1e-9)


@pytest.mark.parametrize("likelihood", OUTCOMES.values(), ids=OUTCOMES)
@pytest.mark.parametrize("gap", [0.0, 8.0, 100.0, 600.0])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_small_divergences_are_half_the_information(likelihood, gap, classes):
    torch.manual_seed(classes)
    z = torch.randn(4, classes, dtype=torch.float64)
    z[:, 0] += gap
    w = z + 1e-9 * torch.randn_like(z)
    factor = likelihood.factor(z)
    half = 0.5 * factor.log_scale.exp() * factor.from_logits((w - z)[..., None]).square().sum((1, 2))
    torch.testing.assert_close(likelihood.kl(z, w), half, rtol=1e-7, atol=1e-300)
    assert half.min() > 0


@pytest.mark.parametrize("likelihood", OUTCOMES.values(), ids=OUTCOMES)
def test_a_thousand_classes(likelihood):
    z, w = torch.randn(2, 3, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    factor, root = dense(likelihood, z)
    root = root * (0.5 * factor.log_scale)[:, None, None].exp()
    if likelihood is CATEGORICAL:
        p = z.softmax(1)
        expected, kl = (
            torch.diag_embed(p) - p[:, :, None] * p[:, None],
            (p * (z.log_softmax(1) - w.log_softmax(1))).sum(1),
        )
    else:
        p, q = z.sigmoid(), w.sigmoid()
        expected, kl = torch.diag_embed(p * (1 - p)), (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1)
    torch.testing.assert_close(root @ root.mT, expected, rtol=1e-11, atol=1e-15)
    torch.testing.assert_close(likelihood.kl(z, w), kl, rtol=1e-11, atol=0)


@pytest.mark.parametrize("likelihood", OUTCOMES.values(), ids=OUTCOMES)
@settings(deadline=None, max_examples=40)
@given(z=logits())
def test_outcomes(likelihood, z):
    (row,) = rows(z)
    if likelihood is CATEGORICAL:
        p = exact_softmax(z)
        confidence, mode, slope = max(p), z.index(max(z)), [-v for v in p]
        slope[mode] = sum(p[:mode] + p[mode + 1 :])
        log_p, margin = p, sorted(z)[-1] - sorted(z)[-2]
    else:
        pairs = list(map(exact_softmax, binary(z)))
        confidence, mode, log_p = Decimal(1), [v > 0 for v in z], [p for _, p in pairs]
        for pair in pairs:
            confidence *= max(pair)
        slope, margin = [min(pair) * (1 if on else -1) for pair, on in zip(pairs, mode, strict=True)], min(map(abs, z))
    assert likelihood.predict(row)[0].tolist() == mode
    assert likelihood.margin(row, likelihood.predict(row)).item() == pytest.approx(margin)
    assert likelihood.confidence(row).item() == pytest.approx(float(confidence), rel=1e-12)
    assert likelihood.output(row)[0].tolist() == pytest.approx([float(v.ln()) for v in log_p], rel=1e-12)
    factor = likelihood.factor(row)
    ascent = factor.to_logits(factor.ascent[..., None])[0, :, 0]
    expected = torch.tensor([float(v / max(map(abs, slope))) for v in slope], dtype=torch.float64)
    torch.testing.assert_close(ascent / ascent.abs().max(), expected, rtol=1e-11, atol=1e-300)


@pytest.mark.parametrize("likelihood", OUTCOMES.values(), ids=OUTCOMES)
def test_ascent_is_the_gradient_of_the_log_probability_of_the_mode(likelihood):
    z = torch.tensor([[0.3, -1.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0], [-1.0, 4.0, 4.0, -2.0]]).double().requires_grad_()
    log_p, mode = likelihood.output(z), likelihood.predict(z)
    if likelihood is CATEGORICAL:
        of_mode = log_p.gather(1, mode[:, None])
    else:
        of_mode = torch.where(mode, log_p, torch.log1p(-log_p.exp()))
    (gradient,) = torch.autograd.grad(of_mode.sum(), z)
    factor = likelihood.factor(z.detach())
    ascent = factor.to_logits(factor.ascent[..., None])[..., 0]
    torch.testing.assert_close(torch.nn.functional.normalize(ascent), torch.nn.functional.normalize(gradient))


@settings(deadline=None, max_examples=40)
@given(z=st.floats(-400, 400), w=st.floats(-400, 400))
def test_one_sigmoid_is_a_softmax_over_two(z, w):
    one, two = rows([z], [w]), rows([0.0, z], [0.0, w])
    assert BERNOULLI.kl(*one).item() == CATEGORICAL.kl(*two).item()
    assert BERNOULLI.confidence(one[0]).item() == pytest.approx(CATEGORICAL.confidence(two[0]).item(), rel=1e-14)
    assert BERNOULLI.predict(one[0]).item() == CATEGORICAL.predict(two[0]).item()
    assert BERNOULLI.output(one[0]).item() == pytest.approx(CATEGORICAL.output(two[0])[0, 1].item(), rel=1e-14)
    information = []
    for likelihood, (row, _) in ((BERNOULLI, one), (CATEGORICAL, two)):
        factor, root = dense(likelihood, row)
        assert factor.rank == 1
        assert factor.ascent.abs().item() == 1
        information.append(factor.log_scale.item() + 2 * root[0, -1].abs().log().item())
    assert information[0] == pytest.approx(information[1], rel=1e-12, abs=1e-12)
