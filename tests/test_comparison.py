"""`compare_bounds`: the columns, and the order of the values."""

import numpy as np
import pytest
import torch

import fimviz as fv
import fimviz.comparison as module
from fimviz.comparison import ways


@pytest.fixture(scope="module")
def comparison():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 20), torch.nn.Tanh(), torch.nn.Linear(20, 6))
    model[1].weight.data *= 3
    return fv.compare_bounds(fv.Classifier(model, classes=list("abcdef")), torch.rand(5, 1, 8, 8))


def test_frame_has_the_promised_columns(comparison):
    frame = comparison.frame
    assert {"sample", "method", "value", "low", "high", "guarantee", "forwards", "vjps", "jvps", "seconds"} <= set(
        frame
    )
    assert len(frame) == 5 * 15
    assert set(frame.method) == {"exact", "lanczos", "power", "blackbox", "published-whitebox", "published-blackbox",
                                 "hutchinson-trace", "L1", "L2", "L3", "L4", "L5", "L6", "lower-pair",
                                 "lower-trace"}  # fmt: skip
    assert list(comparison.needs) == list(comparison.methods)
    assert comparison.reasons == {}
    assert [step.kind for step in comparison.layers] == ["reshape or slice", "linear", "Tanh", "linear"]
    assert len(comparison.local_layers) == 5
    assert set(frame.guarantee) <= {"exact", "interval", "lower", "upper", "statistical"}
    assert (frame.low <= frame.value * (1 + 1e-12)).all()
    assert (frame.value <= frame.high * (1 + 1e-12)).all()


def test_guarantees_hold(comparison):
    exact = comparison.methods["exact"].value
    for name, column in comparison.methods.items():
        if column.guarantee in ("exact", "interval"):
            assert (column.low <= exact * (1 + 1e-6)).all(), name
            assert (exact <= column.high * (1 + 1e-6)).all(), name
        if column.guarantee == "upper":
            assert (exact <= column.high).all(), name
        if column.guarantee == "lower":
            assert (column.low <= exact * (1 + 1e-3)).all(), name
    trace = comparison.methods["hutchinson-trace"]
    assert (trace.low < exact).all(), "an interval of λ₁, not of the trace"
    assert (trace.high > exact).all()
    assert ((trace.low <= trace.value) & (trace.value <= trace.high)).all()


def test_costs_and_histories(comparison):
    lanczos = comparison.methods["lanczos"]
    assert (lanczos.jvps > 0).all()
    kept = lanczos.history[0][lanczos.history[0].isfinite()]
    assert (kept.diff() >= -1e-9).all(), "a Ritz value never falls"
    assert (comparison.methods["published-whitebox"].history.diff(dim=1) >= 0).all()
    assert (comparison.methods["blackbox"].vjps == 0).all()


def test_a_black_box_is_asked_only():
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 3)
    box = fv.BlackBox(lambda batch: model(torch.tensor(batch)).detach().numpy())
    asked = fv.compare_bounds(box, torch.rand(2, 6))
    assert set(asked.methods) == {"blackbox", "published-blackbox"}
    exact = fv.spectrum(model, torch.rand(2, 6), k=1).spectral_norm
    assert np.isfinite(asked.frame.value).all()
    assert len(exact) == 2
    with pytest.raises(ValueError, match="for this model"):
        fv.compare_bounds(box, torch.rand(2, 6), methods=["exact"])


def test_unknown_methods_are_named(comparison):
    with pytest.raises(ValueError, match="expected some of exact, lanczos"):
        fv.compare_bounds(torch.nn.Linear(6, 3), torch.rand(2, 6), methods=["exakt"])
    with pytest.raises(TypeError, match="did you mean methods"):
        fv.compare_bounds(torch.nn.Linear(6, 3), torch.rand(2, 6), method=["exact"])


def test_what_takes_minutes_is_left_out_unless_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(module, "_DEAR", 0)
    net, x = torch.nn.Linear(4, 3), torch.rand(2, 4)
    c = fv.compare_bounds(net, x, probes=3)
    left = ["exact", "L1", "L2", "lower-pair", "lower-trace"]
    assert set(left) == set(c.reasons) == set(ways()) - set(c.methods) - {"ball"}
    rows = c.frame[c.frame.method.isin(left)]
    assert len(rows) == 2 * len(left)
    assert rows.failure.str.startswith("left out, as it takes 2 gradients").all()
    assert rows.value.isna().all()
    assert "left out, as it takes 2 gradients" in c.view().html()
    assert list(fv.compare_bounds(net, x, methods=["exact"]).methods) == ["exact"]
