"""One rule for numbers as text, in Python and in the pages: the same cases for both."""

import math
import random
from itertools import pairwise

import pytest

from fimviz.views.kit import numbers
from tests.views.test_views import in_node

NAN, INF = math.nan, math.inf
CASES = {
    "number": [
        ([0], "0"), ([None], "–"), ([NAN], "–"), ([INF], "∞"), ([-INF], "−∞"), ([1], "1"), ([0.5], "0.5"),
        ([1234.5], "1230"), ([99_999.9], "100000"), ([100_000], "1.00×10⁵"), ([0.001], "0.001"),
        ([0.00099999], "1.00×10⁻³"), ([-2.5e-7], "−2.50×10⁻⁷"), ([5e-324], "4.94×10⁻³²⁴"), ([1e300], "1.00×10³⁰⁰"),
        ([0.125, 2], "0.13"), ([-0.125, 2], "−0.13"), ([2.5, 1], "3"), ([3.14159, 5], "3.1416"), ([127], "127"),
    ],
    "rounded": [([3.28, 0.4], "3.3"), ([3.28, 0], "3.28"), ([0, 0.1], "0"), ([127, 30], "130"), ([1.5, 100], "2")],
    "measured": [([3.28, 0.4], "3.3 ± 0.4"), ([127.4, 0.1], "127"), ([0, 0.02], "0 ± 0.02"), ([-5, 1], "−5 ± 1")],
    "power_of_ten": [
        ([0.5], "3.16"), ([60.2], "1.58·10⁶⁰"), ([-7], "1.00·10⁻⁷"), ([5.9999], "1.00·10⁶"), ([INF], "∞"),
        ([-INF], "0"), ([NAN], "–"), ([None], "–"), ([6, 1], "1·10⁶"), ([4.3, 2], "20000"),
    ],
    "raised": [([-12], "⁻¹²"), ([0], "⁰")],
    "probability": [
        ([0.5], "0.500"), ([0.0625], "0.063"), ([0.0002], "2.0×10⁻⁴"), ([0], "0.000"), ([1, 2e-30], "1 − 2.0×10⁻³⁰"),
        ([1, 0], "1.000"), ([NAN], "–"), ([0.9996], "1 − 4.0×10⁻⁴"),
    ],
    "decade": [([-4], "10⁻⁴"), ([-3], "0.001"), ([0], "1"), ([4], "10000"), ([5], "10⁵")],
    "fixed": [
        ([0.125], "0.13"), ([-0.004], "0.00"), ([-0.5], "−0.50"), ([None], "–"), ([2.5, 0], "3"), ([-1], "−1.00"),
    ],
    "near_one": [([0.99971], "1 − 2.9×10⁻⁴"), ([0.5], "0.5"), ([1], "1"), ([None], "–"), ([-2], "−2")],
    "percent": [
        ([1.5], "150 %"), ([0.0123], "1.2 %"), ([0.469], "46.9 %"), ([0.469, 2], "47 %"),
        ([0.99999], "all but 1.0×10⁻³ %"), ([0.9996], "all but 0.04 %"), ([1], "100 %"), ([0], "0 %"),
        ([None], "– %"), ([NAN], "– %"), ([-0.5], "−50 %"),
    ],
}  # fmt: skip


def in_page(cases):
    """What the pages' functions give for [name, arguments] each."""
    code = "return data.cases.map(([name, args]) => numbers[name.replace(/_(.)/g, (_, c) => c.toUpperCase())](...args))"
    return in_node(code, cases=cases)


@pytest.mark.parametrize("name", CASES)
def test_in_python(name):
    for args, text in CASES[name]:
        assert getattr(numbers, name)(*args) == text, args


def test_in_the_page():
    asked = [(name, args, text) for name, cases in CASES.items() for args, text in cases]
    assert in_page([[name, args] for name, args, _ in asked]) == [text for *_, text in asked]


def test_both_agree_on_any_number():
    rng = random.Random(0)
    values = [rng.choice((-1, 1)) * rng.random() * 10.0 ** rng.randint(-12, 12) for _ in range(300)]
    values += [k / 64 for k in range(-70, 200)]  # halves of the last digit among them
    asked = [["number", [v, 1 + i % 4]] for i, v in enumerate(values)]
    asked += [[name, [v]] for v in values for name in ("power_of_ten", "fixed", "near_one", "percent") if abs(v) < 300]
    pairs = [[v, abs(w)] for v, w in pairwise(values) if w]
    asked += [[name, pair] for pair in pairs for name in ("rounded", "measured")]
    asked += [["probability", [abs(v)]] for v in values if abs(v) <= 1]
    assert [getattr(numbers, name)(*args) for name, args in asked] == in_page(asked)
