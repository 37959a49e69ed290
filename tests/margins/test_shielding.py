"""The shielding table against plain counting."""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fimviz as fv
from fimviz.margins.curve import shielding_curve
from fimviz.margins.shielding import Interval
from fimviz.margins.trace import trace_margins


@pytest.fixture(scope="module")
def traces():
    images, labels = fv.zoo.digits()
    labels = labels[:8].clone()
    labels[2] = (labels[2] + 1) % 10  # counts as misclassified
    return trace_margins(fv.zoo.load("digits-mlp"), images[:8], labels, damping=1.0, verify=False)


def test_counted_by_hand(traces):
    s = traces.shielding(resamples=200)
    f = traces.frame
    f = f[(f.label == f.source) & (f.status == "flipped")]
    assert s.left_out == 9
    assert s.attempted == 63
    assert s.successful == len(f) == int(s.matrix.sum())
    assert torch.equal(s.paths.sum(1), s.matrix)
    assert s.shielded.value == pytest.approx(f.shielded.mean())
    assert s.shielded.value > 0
    for c in range(10):
        assert s.shielding[c].item() == pytest.approx(((f.hit == c) & (f.target != c)).mean())
        through = f[(f.source != c) & (f.target != c)]
        assert s.eligible[c].item() == pytest.approx((through.hit == c).mean())
        mine = f[f.source == c]
        for k in range(10):
            assert s.matrix[c, k] == (mine.hit == k).sum()
        if len(mine):
            assert s.fr_margin[c].item() == pytest.approx(mine.length.mean())
            assert s.l2[c].item() == pytest.approx(mine.l2.mean())
        else:
            assert s.fr_margin[c].isnan()
            assert s.rank[c] == 0
    ranked = s.frame[s.frame["rank"] > 0].sort_values("rank")
    assert ranked.fr_margin.is_monotonic_decreasing
    nearest = f.groupby("sample")[["length", "l2"]].min()
    assert s.rank_correlation.value == pytest.approx(nearest.rank().corr().iloc[0, 1])


def test_intervals_hold_their_values_and_repeat(traces):
    one, two = (traces.shielding(resamples=300, seed=1) for _ in range(2))
    assert one.shielded == two.shielded
    for value in (one.shielded, one.rank_correlation):
        assert value.low <= value.value <= value.high
    low, high = one.intervals["shielding"]
    assert (low <= one.shielding).all()
    assert (one.shielding <= high).all()
    assert {"class", "shielding", "fr_margin", "l2", "rank"} <= set(one.frame.columns)
    assert "shielded" in repr(one)


def test_nothing_flipped(traces):
    images, labels = fv.zoo.digits()
    s = trace_margins(fv.zoo.load("digits-mlp"), images[:2], labels[:2], max_steps=1, verify=False).shielding()
    assert s.successful == 0
    assert s.shielding.isnan().all()
    assert math.isnan(s.shielded.value)
    assert isinstance(s.rank_correlation, Interval)
    assert repr(s).startswith("Shielding(0 of 18 paths, none changed the class,")


def test_unfinished_paths_leave_a_share_open():
    """Whatever the paths that met no class would have met, the share of all lies between possible_low and _high."""
    images, labels = fv.zoo.digits()
    net, options = fv.zoo.load("digits-mlp"), {"damping": 1.0, "verify": False, "keep_images": False}
    full = trace_margins(net, images[:4], labels[:4], **options).shielding(resamples=20)
    part = trace_margins(net, images[:4], labels[:4], **options, max_steps=8, retry=False).shielding(resamples=20)
    s, n, u = int((part.matrix.sum() * part.shielded.value).round()), part.attempted, part.attempted - part.successful
    assert 0 < u < n
    assert part.possible == pytest.approx((s / n, (s + u) / n))
    assert part.possible[0] <= full.shielded.value <= part.possible[1]
    low, high = part.possible_shielding
    assert (low <= full.shielding + 1e-12).all()
    assert (full.shielding <= high + 1e-12).all()
    assert int(part.unfinished.sum()) == u
    assert full.possible == pytest.approx((full.shielded.value, full.shielded.value))
    assert not full.unfinished.any()
    assert f"of all {part.possible[0]:.1%} to {part.possible[1]:.1%}" in repr(part)
    assert "of all" not in repr(full)
    assert {"possible_low", "possible_high", "unfinished"} <= set(part.frame.columns)
    assert "of all" in part.plot().layout.title.text
    curve = shielding_curve(net, images[:4], labels[:4], dampings=(1.0, 10.0), max_steps=8, resamples=20)
    assert (curve.frame.possible_low[0], curve.frame.possible_high[0]) == pytest.approx(part.possible)
    assert "of all paths" in repr(curve)
    assert "of all" in curve.plot().layout.title.text


def test_one_sample_alone_has_no_interval(traces):
    images, labels = fv.zoo.digits()
    s = trace_margins(fv.zoo.load("digits-mlp"), images[:1], labels[:1], targets="runner-up", verify=False).shielding()
    assert s.successful == 1
    assert math.isnan(s.shielded.low)
    assert math.isnan(s.rank_correlation.low)
    assert all(bound.isnan().all() for pair in s.intervals.values() for bound in pair)
    several = traces.shielding(resamples=50)
    f = traces.frame
    f = f[(f.label == f.source) & (f.status == "flipped")]
    samples = f.groupby("source")["sample"].nunique()
    assert {1, 2} & set(samples), "some class has one sample alone"
    for name in ("fr_margin", "l2"):
        for c in range(10):
            assert several.intervals[name][0][c].isnan() == (samples.get(c, 0) < 2)


def test_more_damping_shields_more():
    images, labels = fv.zoo.digits()
    curve = shielding_curve(fv.zoo.load("digits-resnet"), images[:2], labels[:2], dampings=(0.01, 1.0), resamples=50)
    shielded = curve.frame.shielded
    assert shielded[0] < shielded[1]
    assert list(curve.frame.damping) == [0.01, 1.0]
    assert "2 settings" in repr(curve)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dampings": 0.1}, "dampings is 0.1, expected a list of numbers"),
        ({"steps": 1}, "steps is 1, expected a list of numbers"),
        ({"dampings": (0.1, -1.0)}, "each of dampings is -1.0, expected a positive finite number"),
        ({"dampings": (0.1, "x")}, "each of dampings is 'x', expected a number"),
        ({"dampings": (0.1, None)}, "each of dampings is None, expected a positive"),
        ({"dampings": ()}, "dampings are empty"),
        ({"level": 2}, "level is 2, expected a number between 0 and 1"),
        ({"resamples": 0}, "resamples is 0, expected at least 1"),
    ],
)
def test_a_curve_is_refused_before_any_work(options, message, monkeypatch):
    monkeypatch.setattr("fimviz.margins.curve.trace_margins", lambda *_, **__: pytest.fail("traced"))
    with pytest.raises((TypeError, ValueError), match=message):
        shielding_curve(nn.Linear(4, 3), torch.rand(2, 4), **options)


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that is made."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.most = max(self.most, out.nbytes if isinstance(out, torch.Tensor) else 0)
        return out


def test_a_thousand_classes_take_no_cube_of_numbers_to_show():
    torch.manual_seed(0)
    traces = trace_margins(nn.Linear(4, 1000), torch.rand(1, 4), targets="runner-up", verify=False)
    with Largest() as made:
        traces.view()
    assert made.most < 8 * 1000**2 + 1
