"""Spearman's ρ of a handful: against scipy's formula by hand, against counting, and the interval's coverage."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fimviz.ranking.spearman import spearman


@settings(deadline=None, max_examples=40)  # the first of a size simulates
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=5))
def test_rho_and_p_value_count_orders(pairs):
    x, y = zip(*pairs, strict=True)
    r = spearman(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(r.rho)
        assert math.isnan(r.p_value)
        return

    def ranks(v):
        return [np.mean([i for i, w in enumerate(sorted(v)) if w == value]) for value in v]

    def rho(a, b):
        return np.corrcoef(ranks(a), ranks(b))[0, 1]

    assert r.rho == pytest.approx(rho(x, y))
    orders = [rho(x, order) for order in itertools.permutations(y)]
    assert r.p_value == pytest.approx(np.mean(np.abs(orders) >= abs(r.rho) - 1e-9))
    assert -1 <= r.low <= r.rho <= r.high <= 1
    mirrored = spearman(x, [-v for v in y])
    assert (mirrored.rho, mirrored.low, mirrored.high) == pytest.approx((-r.rho, -r.high, -r.low), abs=0.03)


def test_four_in_perfect_order_prove_nothing_and_ten_do():
    four, ten = (spearman(range(n), range(n)) for n in (4, 10))
    assert four.rho == ten.rho == 1
    assert four.low < 0 < ten.low
    assert four.p_value == pytest.approx(1 / 12)
    assert ten.p_value < 1e-3
    assert four.high == 1


def test_infinite_values_have_ranks():
    assert spearman([1, 2, 3, 300.0], [1, 2, 3, math.inf]).rho == 1


def test_more_pairs_narrow_the_interval():
    widths = [(r := spearman(range(n), [i ^ 1 for i in range(n)])).high - r.low for n in (4, 6, 10, 16)]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(("n", "population"), [(4, 0.0), (6, 0.8), (10, 0.5), (14, 0.9)])
def test_the_interval_covers(n, population):
    rng = np.random.default_rng(1)
    r = 2 * math.sin(math.pi * population / 6)
    x = rng.standard_normal((200, n))
    y = np.exp(r * x + math.sqrt(1 - r * r) * rng.standard_normal((200, n)))  # ranks know no scale
    found = [spearman(a, b) for a, b in zip(x, y, strict=True)]
    assert np.mean([s.low <= population <= s.high for s in found]) > 0.91
