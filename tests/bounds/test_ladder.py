"""The rungs against the exact λ₁ on networks that nobody chose for them, and certificates against attacks."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fimviz as fv
from fimviz.bounds.formulas import RUNGS
from fimviz.bounds.ladder import Ladder

from .test_network import REAL, Graph

UPPER, LOWER = ([name for name, way in RUNGS.items() if way.guarantee == kind] for kind in ("upper", "lower"))
FROM_ROWS = [name for name, way in RUNGS.items() if "rows" in way.shares]


def check(net, images, **options):
    """Lower bounds ≤ λ₁ ≤ every rung, the order of the rungs, and the exact value as `spectrum` has it."""
    net = fv.Classifier(net) if isinstance(net, nn.Module) else net
    c = fv.compare_bounds(net, images, methods=["exact", *RUNGS], **options)
    m, exact = c.methods, c.methods["exact"]
    truth = fv.spectrum(net, images, k=1, method="exact", vectors=False)
    assert torch.allclose(exact.value, truth.spectral_norm, rtol=1e-5, atol=0)
    for name in RUNGS:
        has = ~m[name].value.isnan()
        assert has.all() != (name in c.reasons)
        sure = m[name].log10[has]
        if name in UPPER:
            assert (exact.log10[has] <= sure).all(), name
            assert (truth.spectral_norm[has] <= m[name].high[has]).all(), name
            assert m[name].guarantee == "upper"
        else:
            assert (sure <= exact.log10[has]).all(), name
            assert (m[name].low[has] <= truth.spectral_norm[has]).all(), name
            assert m[name].guarantee == "lower"
        assert (m[name].low <= exact.value).all()
        assert (exact.value <= m[name].high).all()
    order = [m[name].log10 for name in UPPER[1:]]
    for better, worse in itertools.pairwise(order):
        assert not (better > worse + 1e-5).any()
    return c


def at(net, temperature):
    return fv.Classifier(net.model, mean=net.mean, std=net.std, temperature=temperature)


@pytest.mark.parametrize("name", fv.zoo.names())
@pytest.mark.parametrize("temperature", [1.0, 1 / 8])
def test_the_zoo(name, temperature):
    c = check(at(fv.zoo.load(name), temperature), fv.zoo.digits().images[:4])
    assert c.reasons == {}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("temperature", [1.0, 1 / 8])
def test_real_networks(realdata, name, temperature):
    images, _ = realdata.images(realdata.NETWORKS[name][-1], 2 if temperature == 1 else 1)
    check(fv.Classifier(realdata.network(name), temperature=temperature), images)


class Few(nn.Module):
    """A few of a network's logits."""

    def __init__(self, net, classes):
        super().__init__()
        self.net, self.classes = net, classes

    def forward(self, x):
        return self.net(x)[:, self.classes]


@pytest.mark.parametrize("temperature", [1.0, 1 / 8])
def test_real_squeezenet(realdata, temperature):
    """Twelve of its thousand classes, so that λ₁ is quick; no linear layer at the end."""
    images, labels = realdata.imagenet_samples()
    net = Few(realdata.network("imagenet-squeezenet"), labels[:12].tolist())
    c = check(fv.Classifier(net, temperature=temperature), images[:2, :, 40:140, 40:140])
    assert "does not end in a linear layer" in c.reason
    assert c.layers


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), temperature=st.sampled_from([2.0, 0.5, 0.02]))
def test_random_graphs(seed, temperature):
    images = torch.rand(2, 2, 4, 5, generator=torch.Generator().manual_seed(seed))
    net = fv.Classifier(Graph(seed).eval(), mean=[0.1, 0.2], std=[0.5, 0.25], temperature=temperature)
    check(net, images)
    r = fv.certified_radius(net, images, method="norms", steps=5, restarts=2)
    assert r.holds.all()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_random_graphs_with_yes_or_no_labels(seed):
    images = torch.rand(2, 2, 4, 5, generator=torch.Generator().manual_seed(seed))
    net = fv.Classifier(Graph(seed).eval(), likelihood="bernoulli")
    check(net, images)
    assert fv.certified_radius(net, images, steps=5, restarts=2).holds.all()


class TestClosedForms:
    def test_two_classes_of_equal_probability(self):
        """p = (½, ½): λ₁ = ¼‖w₁ − w₂‖², and every rung but the one that knows ‖W‖ alone says so."""
        torch.manual_seed(0)
        model = nn.Linear(5, 2).double()
        model.bias.data.zero_()
        c = check(fv.Classifier(model), torch.zeros(1, 5))
        expected = 0.25 * (model.weight[0] - model.weight[1]).norm().item() ** 2
        for name in ("L1", "L2", "L3", "L4", "L5", *LOWER):
            assert c.methods[name].value.item() == pytest.approx(expected, rel=1e-6), name
        norm = torch.linalg.matrix_norm(model.weight.detach(), 2).item()
        assert c.methods["L6"].value.item() == pytest.approx(norm**2 / 2, rel=1e-6)

    def test_a_saturated_prediction_keeps_its_digits(self):
        """c(p) = p₁(1 − p₁) = e^{−400} to all digits, where 1 − p₁ rounds to 0."""
        model = nn.Linear(1, 2).double()
        model.weight.data, model.bias.data = torch.tensor([[1.0], [-1.0]]).double(), torch.tensor([400.0, 0.0]).double()
        c = check(fv.Classifier(model), torch.zeros(1, 1))
        for name in ("L1", "L2", "L3", "L4", *LOWER):
            assert c.methods[name].value.item() == pytest.approx(4 * math.exp(-400), rel=1e-6), name
        assert c.methods["L5"].value.item() == pytest.approx(1, rel=1e-6)

    def test_below_the_range_of_floating_point(self):
        model = nn.Linear(1, 2).double()
        model.weight.data = torch.tensor([[1.0], [-1.0]]).double()
        model.bias.data = torch.tensor([4000.0, 0.0]).double()
        c = check(fv.Classifier(model), torch.zeros(1, 1))
        for name in ("exact", "L1", "L2", "L3", "L4", *LOWER):
            assert c.methods[name].log10.item() == pytest.approx(math.log10(4) - 4000 / math.log(10), rel=1e-8), name

    def test_beyond_the_range_of_floating_point(self):
        layers = [nn.Linear(2, 2, bias=False) for _ in range(40)]
        for layer in layers:
            layer.weight.data = 1e5 * torch.eye(2)
        quiet = nn.Linear(2, 2, bias=False)
        quiet.weight.data = 1e-30 * torch.eye(2)
        net = nn.Sequential(*layers[:5], *[quiet] * 7, *layers[5:], nn.Linear(2, 2))
        net[-1].weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        # 10^200 · 10^−210: the network itself stays in range, and so does the bound
        c = fv.compare_bounds(net.double(), torch.zeros(1, 2).double(), methods=["L5"])
        assert c.methods["L5"].log10.item() == pytest.approx(math.log10(0.5) - 20, abs=1e-4)
        loud = nn.Sequential(*layers[:40], nn.Linear(2, 2)).double()
        loud[-1].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        c = fv.compare_bounds(loud, torch.zeros(1, 2).double(), methods=["L5", "L6"])
        assert c.methods["L5"].value.item() == math.inf
        assert c.methods["L5"].log10.item() == pytest.approx(math.log10(0.5) + 400, abs=1e-4)
        assert c.frame.log10.iloc[1] == pytest.approx(math.log10(0.5) + 400, abs=1e-4)

    def test_one_logit(self):
        """p(1 − p)‖w‖²."""
        model = nn.Linear(4, 1).double()
        c = check(fv.Classifier(model, likelihood="bernoulli"), torch.rand(3, 4))
        for name in ("L1", "L2", "L3", "L4", *LOWER):
            assert torch.allclose(c.methods[name].value, c.methods["exact"].value, rtol=1e-6), name

    def test_yes_or_no_labels(self):
        """F = Wᵀ diag(s) W: L2 = max s ‖W‖², the lower bound max s_k‖w_k‖²."""
        torch.manual_seed(0)
        model = nn.Linear(6, 3).double()
        x = torch.rand(2, 6).double()
        c = check(fv.Classifier(model, likelihood="bernoulli"), x)
        p = model(x).sigmoid().detach()
        s, w = p * (1 - p), model.weight.detach()
        norm = torch.linalg.matrix_norm(w, 2)
        for name in ("L2", "L3", "L4"):
            assert torch.allclose(c.methods[name].value, s.amax(1) * norm**2, rtol=1e-6), name
        assert c.methods["L5"].value[0].item() == pytest.approx(norm.item() ** 2 / 4, rel=1e-6)
        assert c.methods["L6"].value[0].item() == pytest.approx(w.norm().item() ** 2 / 4, rel=1e-6)
        assert torch.allclose(c.methods["lower-pair"].value, (s * w.norm(dim=1) ** 2).amax(1), rtol=1e-6)

    def test_the_radius_of_a_plane(self):
        """Three classes in the plane: the distance to the nearest of the two lines."""
        model = nn.Linear(2, 3, bias=False).double()
        model.weight.data.copy_(torch.tensor([[3.0, 0.0], [-1.0, 0.0], [0.0, 3.0]]))
        x = torch.tensor([[1.0, 0.2], [0.5, -2.0]]).double()
        r = fv.certified_radius(fv.Classifier(model, input_range=None), x)
        z = model(x).detach()
        lines = torch.stack([(z[:, 0] - z[:, 1]) / 4, (z[:, 0] - z[:, 2]) / 18**0.5], 1)
        assert torch.allclose(r.radius, lines.amin(1), rtol=1e-6)
        assert torch.allclose(r.attack, lines.amin(1), rtol=1e-3)
        assert (r.fisher_rao_form <= r.logit_form).all()


def test_a_last_layer_of_zeros():
    """As torchvision's transformers start: λ₁ = 0, every rung says so, and no perturbation changes anything."""
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    model[2].weight.data.zero_()
    model[2].bias.data = torch.tensor([0.0, 1.0, 0.5])
    c = fv.compare_bounds(model, torch.rand(2, 4), methods=["exact", *RUNGS])
    for name, column in c.methods.items():
        assert (column.value == 0).all(), name
    r = fv.certified_radius(model, torch.rand(2, 4), steps=3)
    assert (r.radius > 1e100).all()
    assert r.holds.all()


class Attended(nn.Module):
    """A product of two functions of the input: no bound holds at every x."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.a(x) * self.b(x))


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x if x.sum() > -1e9 else -x)


def test_a_bound_at_the_inputs_only():
    c = check(Attended(), torch.rand(3, 4))
    assert set(c.reasons) == {"L5", "L6"}
    assert "only at a given x" in c.reasons["L5"]
    assert c.layers is None
    assert c.reason == c.reasons["L5"]
    assert len(c.local_layers) == 3
    assert c.methods["L5"].high.isinf().all()
    r = fv.certified_radius(Attended(), torch.rand(3, 4), steps=5)
    assert r.radius.isnan().all()
    assert "no bound holds at every x" in r.reason
    assert r.attack.isfinite().any()
    assert r.holds.all()
    assert "none" in repr(r)


def test_what_cannot_be_traced_has_its_gradients_still():
    c = check(Untraceable(), torch.rand(3, 4))
    assert set(c.reasons) == {"L4", "L5", "L6"}
    assert "cannot trace" in c.reasons["L4"]
    assert c.layers is None
    assert c.local_layers is None


def test_too_many_features_are_said_so():
    net = fv.zoo.load("digits-mlp")
    c = fv.compare_bounds(net, fv.zoo.digits().images[:2], methods=["L3"], feature_vjps=100)
    assert c.methods["L3"].value.isnan().all()
    assert "128 features" in c.reasons["L3"]
    assert "feature_vjps=100" in c.reasons["L3"]


def test_a_rung_alone_is_the_rung_among_others():
    net, images = fv.zoo.load("digits-resnet"), fv.zoo.digits().images[:2]
    together = fv.compare_bounds(net, images, methods=RUNGS).methods
    for name in RUNGS:
        alone = fv.compare_bounds(net, images, methods=[name]).methods[name]
        assert torch.allclose(alone.log10, together[name].log10, rtol=1e-9), name
        assert torch.equal(alone.vjps, together[name].vjps), name


def test_gradients_are_taken_once(monkeypatch):
    taken = []
    monkeypatch.setattr("fimviz.bounds.ladder.contrasts", lambda *a: taken.append(1) or contrasts(*a))
    from fimviz.fisher.contrasts import contrasts

    fv.compare_bounds(fv.zoo.load("digits-mlp"), fv.zoo.digits().images[:2], methods=["exact", *FROM_ROWS])
    assert taken == [1]


def test_rounding_moves_no_digit_across_a_kink(realdata):
    """On MNIST's flat background float32 takes another linear piece for one digit in nine of the robust LeNet-5."""
    images, _ = realdata.images("mnist-test", 24)
    net = fv.Classifier(realdata.network("mnist-lenet5-robust"))
    truth = fv.spectrum(realdata.network("mnist-lenet5-robust").double(), images.double(), k=1, vectors=False)
    m = fv.compare_bounds(net, images, methods=["exact", "L1", "L2", *LOWER]).methods
    assert torch.allclose(m["exact"].value, truth.spectral_norm, rtol=1e-4)
    for name in ("L1", "L2"):
        assert (truth.spectral_norm <= m[name].value).all()
    for name in LOWER:
        assert (m[name].value <= truth.spectral_norm).all()


def test_without_float64_the_margins_are_wider():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

        def forward(self, x):
            return self.layers(x.float())

    net = fv.Classifier(Fixed())
    x = torch.rand(3, 6)
    c = fv.compare_bounds(net, x, methods=["exact", *RUNGS])
    truth = fv.spectrum(Fixed().layers.double(), x.double(), k=1).spectral_norm
    for name in RUNGS:
        value = c.methods[name].value
        assert name in c.reasons or ((value <= truth) if name in LOWER else (value >= truth)).all(), name


@pytest.mark.parametrize("name", ["digits-mlp", "digits-mlp-robust", "digits-vgg", "digits-resnet-robust"])
def test_no_attack_succeeds_inside_a_certified_radius(name):
    """Many restarts; and outside, the smallest attack is no shorter than the radius."""
    net, (images, _) = fv.zoo.load(name), fv.zoo.digits()
    r = fv.certified_radius(net, images[:6], method="norms", steps=10, restarts=10)
    assert r.holds.all()
    assert (r.margin_inside > 0).all()
    assert (r.radius > 0).all()
    assert (r.attack > r.radius).all()
    assert r.attack.isfinite().all()
    assert set(r.frame) >= {"sample", "radius", "logit_form", "fisher_rao_form", "attack", "margin_inside", "holds"}
    assert repr(r).startswith("CertifiedRadius(6 inputs: from ")


def test_the_smallest_attack_on_yes_or_no_labels_has_a_closed_form():
    torch.manual_seed(0)
    model, x = nn.Linear(6, 4).double(), torch.randn(8, 6).double()
    r = fv.certified_radius(fv.Classifier(model, likelihood="bernoulli", input_range=None), x)
    truth = (model(x).detach().abs() / model.weight.detach().norm(dim=1)).amin(1)
    assert torch.allclose(r.attack, truth, rtol=1e-4)
    assert (r.attack >= truth * (1 - 1e-9)).all()
    assert r.holds.all()


def test_the_model_is_left_as_it_came():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.rand(3, 4)
    ladder = Ladder(net := fv.Classifier(model), net.admit(x))
    for name in RUNGS:
        ladder.rung(RUNGS[name])
    fv.certified_radius(net, x, steps=2)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
