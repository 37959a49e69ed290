"""Local accuracy against closed forms and dense float64 forms."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

import fimviz as fv
from fimviz.divergence.localaccuracy import budget
from tests.interrupt import interrupted_at


@pytest.fixture(scope="module")
def digits():
    images, labels = fv.zoo.digits()
    net = fv.zoo.load("digits-resnet")
    return net, images[:10], labels[:10]


def test_closed_form_along_the_worst_direction():
    # p = softmax(x) at (½, ½): KL = log cosh(ε/√2) along v₁ = (1, −1)/√2, λ₁ = ½; ε sign(v₁) is √2 times as long
    e = [0.01, 0.3, 1.0]
    r = fv.local_accuracy(nn.Identity(), torch.full((1, 2), 0.5), [0], epsilons=e, directions="worst")
    for a, length in ((0, math.sqrt(2)), (1, 1.0)):
        for c, epsilon in enumerate(e):
            kl = math.log(math.cosh(epsilon * length / math.sqrt(2)))
            quadratic = (epsilon * length) ** 2 / 4
            assert r.kl[a, 0, c, 0].item() == pytest.approx(kl, rel=1e-6)
            assert r.quadratic[a, 0, c, 0].item() == pytest.approx(quadratic, rel=1e-6)
            assert r.length[a, 0, c, 0].item() == pytest.approx(epsilon * length, rel=1e-6)
            assert r.error[a, 0, c, 0].item() == pytest.approx(abs(kl - quadratic) / kl, rel=2e-3)


def test_changes_are_those_of_the_attacks(digits):
    net, x, y = digits
    epsilon = 0.1
    r = fv.local_accuracy(net, x, y, epsilons=[epsilon], directions=["fgsm", "pgd", "random"], steps=5, seed=3)
    model = net.model.double()
    try:
        for a, norm in enumerate(r.norms):
            moved = [
                fv.attacks.fgsm(net, x, y, epsilon, norm=norm),
                fv.attacks.pgd(net, x, y, epsilon, norm=norm, steps=5),
                fv.attacks.random(net, x, y, epsilon, norm=norm, seed=3),
            ]
            for b, images in enumerate(moved):
                delta = images.double() - x.double()
                z, u = torch.func.jvp(model, (x.double(),), (delta,))
                p = z.softmax(1)
                variance = (p * (u - (p * u).sum(1, keepdim=True)) ** 2).sum(1)
                there = model(images.double())
                kl = (p * (z.log_softmax(1) - there.log_softmax(1))).sum(1)
                # float32 attacks may take another way than those of the network in float64
                close = torch.isclose(r.length[a, b, 0], delta.flatten(1).norm(dim=1), rtol=1e-4)
                assert close.sum() >= 8
                torch.testing.assert_close(r.kl[a, b, 0][close], kl[close].detach(), rtol=1e-2, atol=1e-12)
                torch.testing.assert_close(r.quadratic[a, b, 0][close], variance[close].detach() / 2, rtol=1e-2, atol=0)
    finally:
        net.model.float()


@pytest.mark.parametrize("name", ["mnist-lenet5", "cifar10-resnet4b-robust"])
def test_the_worst_direction_of_real_networks(realdata, name):
    x, y = realdata.images(realdata.NETWORKS[name][4], 6)
    net = realdata.network(name)
    spectrum = fv.spectrum(net, x, k=1)
    r = fv.local_accuracy(net, x, y, epsilons=[1e-4, 1e-2, 0.1], norms="l2", directions=["worst", "random"])
    half = 0.5 * torch.tensor([1e-4, 1e-2, 0.1]).double()[:, None] ** 2 * spectrum.spectral_norm
    torch.testing.assert_close(r.quadratic[0, 0], half, rtol=1e-4, atol=0)
    assert (r.quadratic[0, 1] <= half * (1 + 1e-4)).all()
    assert (r.length[0] <= r.epsilons[0][:, None] * (1 + 1e-6)).all()
    # tiny changes: KL is the quadratic form, or on a kink what it is beside it
    beside = spectrum.one_sided.amax(1)
    torch.testing.assert_close(r.error[0, 0, 0], (1 - 1 / beside).abs(), rtol=0, atol=1e-2)
    walk = spectrum.walk(0, torch.tensor([-1e-2, 1e-2]))
    torch.testing.assert_close(r.kl[0, 0, 1], walk.kl.amax(1), rtol=2e-2, atol=1e-9)


def test_zero_kl_is_counted():
    class Threshold(nn.Module):
        """Logits that know nothing of small changes of one input."""

        def forward(self, x):
            return torch.cat([torch.relu(x - 0.5), torch.zeros_like(x)], 1)

    r = fv.local_accuracy(Threshold(), torch.tensor([[0.1], [0.9], [0.2]]), [0, 0, 0], epsilons=[0.01])
    frame = r.frame
    assert set(frame.zero) == {2}
    assert set(frame.measured) == {1}
    assert set(frame.failed) == {0}
    assert r.error[..., 0].isnan().all()
    assert frame["median"].notna().all()
    assert "left out" not in r.view().still


class TestResult:
    @pytest.fixture
    def result(self, digits):
        return fv.local_accuracy(*digits, epsilons={"linf": [1 / 255, 4 / 255], "l2": [0.1, 0.5]}, steps=3)

    def test_frame_and_table(self, result):
        frame = result.frame
        assert list(frame.columns) == [
            "norm", "direction", "epsilon", "median", "q25", "q75", "pooled", "kl", "length",
            "measured", "zero", "failed", "failure",
        ]  # fmt: skip
        assert len(frame) == 2 * 4 * 2
        row = frame[(frame.norm == "l2") & (frame.direction == "pgd") & (frame.epsilon == 0.5)].iloc[0]
        errors = result.error[1, 2, 1]
        assert row["median"] == pytest.approx(float(np.median(errors)))
        assert row.q25 == pytest.approx(float(np.quantile(errors, 0.25)))
        difference = (result.kl - result.quadratic)[1, 2, 1].abs().sum() / result.kl[1, 2, 1].sum()
        assert row.pooled == pytest.approx(float(difference))
        table = result.table()
        assert list(table.columns) == ["1/255", "4/255"]
        assert list(table.index) == list(result.directions)
        assert result.table(norm="l2").loc["pgd", "0.5"] == row["median"]
        with pytest.raises(ValueError, match="expected one that was measured"):
            result.table(norm="l1")
        with pytest.raises(ValueError, match="expected one of median"):
            result.table(column="mode")
        assert [budget(e) for e in (8 / 255, 0.01, 1e-300)] == ["8/255", "0.01", "1e-300"]
        assert repr(result).startswith("LocalAccuracy(10 inputs, worst and fgsm")

    def test_plot_and_view(self, result):
        figure = result.plot()
        assert sum(t.mode == "lines+markers" for t in figure.data) == 8
        assert figure.layout.title.text.startswith("Along the worst direction ½ δᵀFδ is ")
        html = result.view().html()
        assert "1/255" in html
        assert len(html) < 100_000
        widget = result.widget()
        assert widget.position == 1
        widget.close()

    def test_far_off_is_said_in_multiples(self, result):
        from fimviz.views.localaccuracy.view import title

        far = dataclasses.replace(result, quadratic=20 * result.kl)
        assert " is 20 times KL at 1/255 and 20 times at 4/255 (" in title(far)

    def test_interrupt(self, digits, monkeypatch):
        from fimviz.divergence import local

        monkeypatch.setattr(local, "_CHUNK", 4)

        monkeypatch.setattr(local, "points", interrupted_at(3, local.points))
        with pytest.warns(UserWarning, match="first 8 of 10"):
            r = fv.local_accuracy(*digits, epsilons=[0.1], directions="fgsm")
        assert len(r) == r.kl.shape[-1] == 8
        monkeypatch.undo()
        whole = fv.local_accuracy(*digits, epsilons=[0.1], directions="fgsm")
        torch.testing.assert_close(r.kl, whole.kl[..., :8], rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"epsilons": []}, ValueError, "ascending"),
        ({"epsilons": [0.2, 0.1]}, ValueError, "ascending"),
        ({"epsilons": [0.0]}, ValueError, "positive"),
        ({"epsilons": 0.1}, TypeError, "list of budgets"),
        ({"epsilons": {"linf": [0.1]}}, ValueError, "budgets for linf and l2"),
        ({"epsilons": {"linf": [0.1], "l2": [0.1, 0.2]}}, ValueError, "equally many"),
        ({"norms": "l1"}, ValueError, "expected some of linf, l2"),
        ({"directions": ["cw"]}, ValueError, "expected some of worst"),
        ({"steps": 0}, ValueError, "at least 1"),
        ({"epsilon": [0.1]}, TypeError, "did you mean epsilons"),
    ],
)
def test_refusals(digits, options, error, words):
    with pytest.raises(error, match=words):
        fv.local_accuracy(*digits, **options)
