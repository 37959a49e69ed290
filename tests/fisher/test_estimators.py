"""Hutchinson's estimator and the published ones: unbiased where they should be, and biased as published."""

import numpy as np
import pytest
import torch
from torch import nn

import fimviz as fv
from fimviz.fisher.estimators import hutchinson, published_blackbox, published_whitebox
from fimviz.model.blackbox import BlackBox


def small_net(seed=0, classes=5, width=12, inputs=6):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, classes))


def rank_one(classes, inputs):
    """Logits a_y (w·x): F = Var_p(a) w wᵀ, whatever the number of classes."""
    torch.manual_seed(0)
    model = nn.Linear(inputs, classes, bias=False).double()
    model.weight.data = torch.randn(classes, 1).double() * torch.randn(1, inputs).double() / inputs
    return model


def at(estimator, model, images, **options):
    net = fv.Classifier(model) if isinstance(model, nn.Module) else model
    x = net.admit(images)
    with net.at_rest():
        return estimator(net, x, **options)


class TestHutchinson:
    def test_as_many_probes_as_dimensions_are_exact(self):
        model, x = small_net().double(), torch.rand(3, 6)
        trace, frobenius = at(hutchinson, model, x)
        truth = fv.spectrum(model, x)
        assert torch.allclose(trace.value, truth.trace, rtol=1e-12)
        assert torch.allclose(frobenius.value, truth.frobenius, rtol=1e-12)
        assert trace.vjps.tolist() == [5] * 3, "and one that measures rounding"
        assert trace.jvps.tolist() == [0] * 3
        assert trace.forwards.tolist() == [1] * 3
        assert (trace.high - trace.low < 1e-9 * trace.value).all()
        assert ((trace.low <= truth.trace) & (truth.trace <= trace.high)).all()

    def test_unbiased_with_honest_intervals(self):
        """300 inputs, independent draws, 8 VJPs of a rank of 39."""
        model, x = small_net(classes=40, inputs=60, width=60).double(), torch.rand(300, 60)
        truth = fv.spectrum(model, x)
        for estimate, true in zip(at(hutchinson, model, x, probes=8), (truth.trace, truth.frobenius), strict=True):
            assert (estimate.value / true).mean().item() == pytest.approx(1, abs=0.03)
            hold = ((estimate.low <= true) & (true <= estimate.high)).double().mean()
            assert hold > 0.9
            assert (estimate.low < estimate.value).all()
            assert (estimate.value < estimate.high).all()
            assert estimate.guarantee == "statistical"
        assert estimate.vjps.tolist() == [9] * 300

    def test_history_is_the_estimate_after_each_probe(self):
        model, x = small_net(classes=30, inputs=40, width=40).double(), torch.rand(5, 40)
        trace, frobenius = at(hutchinson, model, x, probes=10)
        assert trace.history.shape == frobenius.history.shape == (5, 10)
        assert torch.equal(trace.history[:, -1], trace.value)
        assert torch.equal(frobenius.history[:, -1], frobenius.value)
        assert frobenius.history[:, 0].isnan().all()
        assert frobenius.history[:, 1:].isfinite().all()

    def test_several_labels(self):
        model, x = small_net(classes=6), torch.rand(4, 6)
        net = fv.Classifier(model.double(), likelihood="bernoulli")
        assert torch.allclose(at(hutchinson, net, x)[0].value, fv.spectrum(net, x).trace, rtol=1e-10)

    def test_saturated_predictions(self):
        model, x = small_net().double(), torch.rand(4, 6)
        model[-1].weight.data *= 6000
        truth = fv.spectrum(model, x)
        assert truth.trace.min() < 1e-30
        assert torch.allclose(at(hutchinson, model, x)[0].value, truth.trace, rtol=1e-9)

    def test_chunks_of_cotangents_change_nothing(self):
        model, x = small_net().double(), torch.rand(3, 6)
        one, all_ = (at(hutchinson, model, x, cotangents=c)[0].value for c in (1, 16))
        assert torch.allclose(one, all_, rtol=1e-12)

    def test_too_few_probes(self):
        with pytest.raises(ValueError, match="at least 3"):
            at(hutchinson, small_net(), torch.rand(1, 6), probes=2)

    def test_real_networks(self, realdata):
        model = realdata.network("cifar10-cnn-robust")
        images, _ = realdata.images("cifar10-test", 32)
        truth = fv.spectrum(model, images)
        for probes, share in ((5, 0.8), (9, 1.0)):
            trace, frobenius = at(hutchinson, model, images, probes=probes)
            for estimate, true in ((trace, truth.trace), (frobenius, truth.frobenius)):
                assert ((estimate.low <= true) & (true <= estimate.high)).double().mean() >= share


class TestPublishedWhitebox:
    @pytest.mark.parametrize(
        ("classes", "expected", "margin"),
        [(4, 0.928, 0.02), (10, 0.582, 0.03), (100, 0.075, 6e-3), (1000, 0.0076, 6e-4)],
    )
    def test_its_bias_grows_with_the_classes(self, classes, expected, margin):
        """Of rank one, m = 100: 0.93, 0.58, 0.075 and 0.008 of λ₁, whatever the network."""
        model, x = rank_one(classes, 8), torch.rand(200, 8)
        estimate = at(published_whitebox, model, x)
        truth = fv.spectrum(model, x, k=1, method="lanczos").spectral_norm
        assert (estimate.value / truth).mean().item() == pytest.approx(expected, abs=margin)
        assert (estimate.value <= truth * (1 + 1e-9)).all()
        assert estimate.vjps.tolist() == [min(100, classes - 1) + 1] * 200

    def test_it_is_the_published_formula_in_distribution(self):
        """Against K×D rows √p_y ∇log p_y and normal u in R^K, as the public code has it."""
        model, x = small_net(classes=6).double(), torch.rand(1, 6).double()
        p = model(x)[0].softmax(0).detach()
        a = p.sqrt()[:, None] * torch.func.jacrev(lambda t: model(t).log_softmax(-1))(x[0]).detach()
        u = torch.randn(4000, 100, 6, generator=torch.Generator().manual_seed(0)).double()
        u = torch.nn.functional.normalize(u, dim=2)
        literal = (u @ a).square().sum(2).amax(1)
        ours = torch.cat([at(published_whitebox, model, x, seed=s).value for s in range(400)])
        assert ours.mean().item() == pytest.approx(literal.mean().item(), rel=0.03)
        assert ours.std().item() == pytest.approx(literal.std().item(), rel=0.25)

    def test_never_above_the_truth_on_real_networks(self, realdata):
        for name in ("cifar10-resnet20", "mnist-lenet5-robust"):
            images, _ = realdata.images(realdata.NETWORKS[name][-1], 12)
            net = fv.Classifier(realdata.network(name))
            x = net.admit(images).double()
            with net.at_rest():
                estimate = published_whitebox(net, x)
            truth = fv.spectrum(net, images).spectral_norm
            assert (estimate.low <= truth).all()
            assert estimate.guarantee == "lower"
            assert estimate.high.isinf().all()
            assert (estimate.value / truth).mean() < 0.8
            assert (estimate.history.diff(dim=1) >= 0).all()
            assert estimate.history.shape == (12, 100)

    def test_several_labels(self):
        net = fv.Classifier(small_net(classes=6).double(), likelihood="bernoulli")
        x = torch.rand(20, 6)
        ratio = at(published_whitebox, net, x).value / fv.spectrum(net, x).spectral_norm
        assert ((ratio > 0.3) & (ratio <= 1 + 1e-9)).all()


class TestPublishedBlackbox:
    def test_it_sees_eight_parts_in_the_number_of_pixels(self):
        model, x = rank_one(3, 3072), torch.rand(100, 3072)
        box = BlackBox(lambda a: model(torch.from_numpy(a)).detach().numpy(), precision="float64")
        estimate = at(published_blackbox, box, x)
        truth = fv.spectrum(model, x, k=1).spectral_norm
        assert (estimate.value / truth).mean().item() * 3072 == pytest.approx(7.8, abs=0.6)
        assert estimate.forwards.tolist() == [201] * 100
        assert box.queries == 2 + 100 * 201

    def test_it_is_the_published_formula(self):
        """max Σ p (∂ log p/∂v)², in the differences of log p themselves."""
        model, x = small_net(inputs=20).double(), torch.rand(1, 20).double()
        from fimviz.fisher.sketch import frame

        v = frame(x[0], 20, 100, 0, orthonormal=False)[0].T
        with torch.no_grad():
            slope = (model(x + 1e-3 * v).log_softmax(1) - model(x - 1e-3 * v).log_softmax(1)) / 2e-3
            literal = (model(x).softmax(1) * slope**2).sum(1).amax()
        assert at(published_blackbox, model, x).value.item() == pytest.approx(literal.item(), rel=1e-5)

    def test_far_below_the_truth_on_a_real_network(self, realdata):
        images, _ = realdata.images("cifar10-test", 4)
        net = fv.Classifier(realdata.network("cifar10-resnet20"))
        ratio = at(published_blackbox, net, images).value / fv.spectrum(net, images, k=1).spectral_norm
        assert np.median(ratio) * 3072 == pytest.approx(8, abs=4)
