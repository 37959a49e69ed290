"""One rule for medians and quantiles: NumPy's, with ∞ for what never happened, in every word, table and picture."""

import numpy as np
import pytest
import torch

import fimviz as fv
from fimviz._quantile import digits, median, quantiles
from fimviz.views.kit import module as modules
from tests.views.test_views import in_node

NEVER = torch.inf


def test_it_is_numpys_linear_rule():
    generator = torch.Generator().manual_seed(0)
    at = torch.rand(9, generator=generator, dtype=torch.float64)
    for n in (1, 2, 3, 10, 101):
        values = torch.randn(n, 4, generator=generator, dtype=torch.float64)
        np.testing.assert_allclose(quantiles(values, at), np.quantile(values, at, axis=0), rtol=0, atol=1e-15)


def test_what_never_happened_is_larger_than_any_number():
    assert quantiles(torch.tensor([1.0, NEVER]), [0, 0.25, 0.5, 1]).tolist() == [1, NEVER, NEVER, NEVER]
    assert median(torch.tensor([3.0, 1.0, NEVER])) == 3
    assert median(torch.tensor([-NEVER, 1.0])) == -NEVER
    assert digits(NEVER) == "∞"
    assert digits(0.12345) == "0.123"


def test_what_is_not_known_has_no_place_in_an_order():
    table = torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan], [4.0, torch.nan]])
    assert quantiles(table, [0.5])[0, 0] == 2.5
    assert quantiles(table, [0.5])[0, 1].isnan()
    assert np.isnan(median(torch.tensor([])))
    assert quantiles(torch.zeros(0, 3), [0.5, 0.9]).shape == (2, 3)


@pytest.fixture(scope="module")
def weak():
    """An even number of right answers, of which some fall to no attack within a small budget."""
    images, labels = fv.zoo.digits()
    net = fv.zoo.load("digits-mlp")
    v = fv.vulnerability(net, images[:24], labels[:24], attacks=("spectral", "random"), halvings=3, max_epsilon=0.7)
    assert (
        0 < int(v.epsilon[v.right, 0].isinf().sum()) < int(v.right.sum()) / 2 < int(v.epsilon[v.right, 1].isinf().sum())
    )
    return v


def test_an_attack_that_fails_looks_no_stronger_for_it(weak):
    spectral, random = (np.median(weak.epsilon[weak.right, j].numpy()) for j in (0, 1))
    n = int(weak.right.sum())
    assert repr(weak).endswith(f"median ε of {n}: spectral l2 {spectral:.3g}, random l2 ∞)")
    assert np.isinf(random)
    frame = weak.frame
    assert (np.isinf(frame.epsilon) == ~frame.success).all()
    assert (np.isinf(frame.length) == ~frame.success).all()
    assert torch.equal(weak.best("l2"), weak.epsilon.amin(1))


def test_one_median_in_words_table_and_payload(weak):
    figure = weak.view()
    middle = median(weak.best("l2")[weak.right])
    assert f"{middle:.2g} in L2 fools the model on half of the {int(weak.right.sum())}" in figure.still
    assert f"<td>best</td><td>L2</td><td>{middle:.3g}</td>" in figure.still
    assert "<td>random</td><td>L2</td><td>∞</td>" in figure.still
    assert figure.state["budget"] == middle


def test_the_views_have_the_same_rule():
    generator = torch.Generator().manual_seed(1)
    at = [0, 0.1, 0.25, 0.5, 0.75, 1]
    for never in (0, 3):
        values = torch.rand(12, generator=generator, dtype=torch.float64)
        values[:never] = NEVER
        given = [v if np.isfinite(v) else None for v in values.tolist()]
        code = (
            "const values = data.given.map((v) => v ?? Infinity);"
            "return quantiles.quantiles(values, data.at).map((v) => v === Infinity ? null : v)"
        )
        found = [NEVER if v is None else v for v in in_node(code, given=given, at=at)]
        assert found == pytest.approx(quantiles(values, at).tolist(), abs=1e-15)


def test_quartiles_of_a_strip_are_drawn_where_the_label_says():
    values = [0.001, 0.01, 0.1, 10.0]
    drawn = in_node(
        "const strip = await import(data.strip);"
        "const axis = { at: (log) => 100 * log, left: -1000, right: 1000 };"
        "const marks = strip.quantileMarks(data.values, axis, 0, 9);"
        """const behind = strip.quantileMarks(data.values, axis, 0, 9, 500).match(/direct" x="([^"]+)"/)[1];"""
        """return [...marks.matchAll(/x1="([^"]+)"|>(median[^<]+)</g)].map((m) => m[1] ?? m[2]).concat(behind)""",
        strip=f"{modules.VIEWS.as_uri()}/explorer/strip.js",
        values=values,
    )
    low, middle, high = (f"{100 * np.log10(q):.1f}" for q in np.quantile(values, (0.25, 0.5, 0.75)))
    assert drawn == [low, middle, f"median {np.median(values):g}", high, "500.0"], "the last behind a model's name"


def test_a_box_has_the_same_quartiles():
    images, _ = fv.zoo.digits()
    result = fv.compare_bounds(fv.zoo.load("digits-mlp"), images[:6], methods=["exact", "L1"])
    box = next(b for b in result.plot().data if b.name == "L1")
    logs = np.log10(result.frame.query("method == 'L1'").value.to_numpy() / result.reference.numpy())
    assert [box.q1[0], box.median[0], box.q3[0]] == pytest.approx(np.quantile(logs, (0.25, 0.5, 0.75)))
