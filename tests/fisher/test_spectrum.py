"""The exact spectrum against closed forms and against float64, on networks that it was not tuned on."""

import copy
import functools
import itertools
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fimviz as fv

REAL = ["cifar10-resnet20", "cifar10-marabou", "cifar10-resnet4b-robust", "cifar10-cnn-robust", "mnist-lenet5",
        "mnist-lenet5-robust"]  # fmt: skip


def reference(model, images, temperature=1.0):
    """Eigenvalues (n, K−1), their trace and logits in float64, from the pairwise form of F and plain loops.

    F = Σ_{a<b} p_a p_b (J_a − J_b)ᵀ(J_a − J_b), with the largest p_a p_b factored out in log space.
    """
    model = copy.deepcopy(model).double().eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    values, logits = [], []
    for x in images.double():
        x = x[None].clone().requires_grad_()
        z = model(x)[0] / temperature
        jacobian = torch.stack([torch.autograd.grad(zk, x, retain_graph=True)[0].flatten() for zk in z])
        log_p = z.detach().log_softmax(0)
        pairs = list(itertools.combinations(range(len(z)), 2))
        log_w = torch.stack([log_p[a] + log_p[b] for a, b in pairs])
        rows = torch.stack([jacobian[a] - jacobian[b] for a, b in pairs]) * (0.5 * (log_w - log_w.max())).exp()[:, None]
        values.append(torch.linalg.svdvals(rows)[: len(z) - 1] ** 2 * log_w.max().exp())
        logits.append(z.detach())
    return torch.stack(values), torch.stack(logits)


def small_net(seed=0, classes=5, width=12, inputs=6):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, classes))


class TestClosedForms:
    def test_linear_softmax(self):
        """F = Wᵀ(diag p − p pᵀ)W, whatever the input."""
        torch.manual_seed(0)
        model = nn.Linear(7, 4).double()
        x = torch.rand(3, 7).double()
        s = fv.spectrum(model, x)
        for i in range(3):
            p = model(x[i]).softmax(0).detach()
            w = model.weight.detach()
            dense = w.T @ (torch.diag(p) - p[:, None] * p) @ w
            expected, vectors = torch.linalg.eigh(dense)
            assert torch.allclose(s.eigenvalues[i], expected.flip(0)[:3], rtol=1e-12)
            assert s.trace[i].item() == pytest.approx(dense.trace().item(), rel=1e-12)
            assert s.frobenius[i].item() == pytest.approx(dense.norm().item(), rel=1e-12)
            cosines = (s.eigenvectors[i] * vectors.T.flip(0)[:3]).sum(1).abs()
            assert torch.allclose(cosines, torch.ones(3).double(), atol=1e-10)

    def test_logistic_regression(self):
        """One logit: λ₁ = p(1 − p)‖w‖², and nothing else."""
        model = nn.Linear(5, 1).double()
        x = torch.rand(4, 5).double()
        s = fv.spectrum(fv.Classifier(model, likelihood="bernoulli"), x, k=3)
        p = torch.sigmoid(model(x)).detach()[:, 0]
        assert s.eigenvalues.shape == (4, 1)
        assert torch.allclose(s.spectral_norm, p * (1 - p) * model.weight.detach().norm() ** 2, rtol=1e-12)
        assert torch.allclose(s.probabilities[:, 1], p, rtol=1e-12)

    def test_several_labels(self):
        """K sigmoids: F = Wᵀ diag(p(1 − p)) W."""
        torch.manual_seed(1)
        model = nn.Linear(6, 3).double()
        x = torch.rand(2, 6).double()
        s = fv.spectrum(fv.Classifier(model, likelihood="bernoulli"), x)
        for i in range(2):
            p = model(x[i]).sigmoid().detach()
            dense = model.weight.detach().T @ torch.diag(p * (1 - p)) @ model.weight.detach()
            assert torch.allclose(s.eigenvalues[i], torch.linalg.eigvalsh(dense).flip(0)[:3], rtol=1e-11)

    def test_two_classes(self):
        """λ₁ = p₁p₂‖J₁ − J₂‖², along the gradient of the margin."""
        model = small_net(classes=2).double()
        x = torch.rand(3, 6).double()
        s = fv.spectrum(model, x)
        for i in range(3):
            xi = x[i : i + 1].clone().requires_grad_()
            z = model(xi)[0]
            (g,) = torch.autograd.grad(z[0] - z[1], xi)
            p = z.detach().softmax(0)
            assert s.spectral_norm[i].item() == pytest.approx((p.prod() * g.norm() ** 2).item(), rel=1e-12)
            assert (s.eigenvectors[i, 0] @ g[0] / g.norm()).abs().item() == pytest.approx(1, abs=1e-12)

    def test_normalisation_is_folded_in(self):
        """F_pixel = N F_net N with N = diag(1/std)."""
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
        mean, std = [0.1, 0.5, 0.2], [0.2, 0.5, 3.0]
        x = torch.rand(2, 3, 2, 2).double()
        s = fv.spectrum(fv.Classifier(model, mean=mean, std=std), x)
        n = (1 / torch.tensor(std).double()).repeat_interleave(4)
        for i in range(2):
            z = model(((x[i] - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))[None].double())[0]
            p, w = z.softmax(0).detach(), model[1].weight.detach() * n
            dense = w.T @ (torch.diag(p) - p[:, None] * p) @ w
            assert torch.allclose(s.eigenvalues[i], torch.linalg.eigvalsh(dense).flip(0)[:2], rtol=1e-6)

    def test_temperature_scales_lambda_and_moves_no_decision(self):
        model, x = small_net().double(), torch.rand(4, 6).double()
        warm = fv.spectrum(fv.Classifier(model, temperature=3.0), x)
        expected, _ = reference(model, x, temperature=3.0)
        assert torch.allclose(warm.eigenvalues, expected, rtol=1e-9)
        assert torch.equal(warm.predictions, fv.spectrum(model, x).predictions)

    def test_dense_matrix_in_input_space(self):
        """The whole D×D matrix, by torch.func, has the same spectrum; eigenvectors are its own."""
        model, x = small_net(seed=3).double(), torch.rand(1, 6).double()
        s = fv.spectrum(model, x)
        jacobian = torch.func.jacrev(lambda t: model(t).log_softmax(-1))(x[0])
        p = model(x[0]).softmax(0).detach()
        dense = (jacobian.T * p) @ jacobian
        assert torch.allclose(torch.linalg.eigvalsh(dense.detach()).flip(0)[:4], s.eigenvalues[0], rtol=1e-9)
        residual = dense.detach() @ s.eigenvectors[0].T - s.eigenvectors[0].T * s.eigenvalues[0]
        assert residual.abs().max() < 1e-12 * s.spectral_norm[0]

    def test_fewer_inputs_than_classes(self):
        s = fv.spectrum(nn.Linear(2, 6).double(), torch.rand(3, 2), k=9)
        assert s.eigenvalues.shape == (3, 2)


class TestProperties:
    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 10**6), classes=st.integers(2, 7), gain=st.floats(0.01, 30))
    def test_spectrum_is_consistent(self, seed, classes, gain):
        model = small_net(seed, classes).double()
        model[-1].weight.data *= gain
        s = fv.spectrum(model, torch.rand(3, 6, generator=torch.Generator().manual_seed(seed)))
        values = s.eigenvalues
        assert (values >= 0).all()
        assert (values.diff(dim=1) <= 0).all()
        assert torch.allclose(values.sum(1), s.trace, rtol=1e-10)
        assert torch.allclose(values.norm(dim=1), s.frobenius, rtol=1e-10)
        top = s.probabilities.topk(2, 1)
        jacobian = torch.stack([torch.func.jacrev(model)(x).detach() for x in s.images])
        rows = jacobian.gather(1, top.indices[..., None].expand(-1, -1, 6))
        pair = top.values.prod(1) * (rows[:, 0] - rows[:, 1]).square().sum(1)
        for low, high in itertools.pairwise([s.trace / (classes - 1), s.spectral_norm, s.frobenius, s.trace]):
            assert (low <= high * (1 + 1e-9)).all()
        for low in (pair, s.frobenius**2 / s.trace.clamp_min(1e-300)):
            assert (low <= s.spectral_norm * (1 + 1e-9)).all()
        if classes == 2:
            assert torch.allclose(pair, s.spectral_norm, rtol=1e-9)
        gram = s.eigenvectors @ s.eigenvectors.mT
        known = values > 1e-12 * values[:, :1]
        off = (gram - torch.eye(gram.shape[1]).double()).abs() * known[:, :, None] * known[:, None]
        assert off.max() < 1e-5

    @settings(max_examples=20, deadline=None)
    @given(seed=st.integers(0, 10**6), epsilon=st.floats(1e-4, 1e-3))
    def test_kl_is_half_epsilon_squared_lambda(self, seed, epsilon):
        s = fv.spectrum(small_net(seed).double(), torch.rand(3, 6, generator=torch.Generator().manual_seed(seed)))
        walk = s.walk(0, [epsilon])
        assert torch.allclose(walk.kl, walk.quadratic, rtol=30 * epsilon + 1e-6)

    @settings(max_examples=20, deadline=None)
    @given(seed=st.integers(0, 10**6))
    def test_no_direction_beats_the_first(self, seed):
        model = small_net(seed).double()
        x = torch.rand(1, 6, generator=torch.Generator().manual_seed(seed)).double()
        s = fv.spectrum(model, x)
        delta = torch.randn(200, 6, generator=torch.Generator().manual_seed(seed + 1)).double()
        jv = torch.func.jacrev(model)(x[0]).detach() @ delta.T
        p = s.probabilities[0]
        variance = (p[:, None] * jv**2).sum(0) - (p[:, None] * jv).sum(0) ** 2
        assert (variance <= s.spectral_norm[0] * delta.norm(dim=1) ** 2 * (1 + 1e-10)).all()

    @pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
    def test_positive_step_lowers_the_predicted_outcome(self, likelihood):
        """Along every eigenvector where the first order decides, and by nothing else where it does not."""
        net = fv.Classifier(small_net(seed=5).double(), likelihood=likelihood)
        s = fv.spectrum(net, torch.rand(8, 6, generator=torch.Generator().manual_seed(0)))
        for i in range(8):
            x = s.images[i : i + 1].clone().requires_grad_()
            outcome = s.predictions[i] if likelihood == "categorical" else s.predictions[i].double()
            z = net.model(x)[0]
            log_p = z.log_softmax(0)[outcome] if likelihood == "categorical" else nn.functional.logsigmoid(
                z * (2 * outcome - 1)).sum()  # fmt: skip
            slope = s.eigenvectors[i] @ torch.autograd.grad(log_p, x)[0][0]
            assert (slope < 0).all()
            assert (slope.abs() > 1e-6).all(), "decided everywhere, or this tests nothing"

    def test_undecided_sign_is_that_of_the_largest_component(self):
        """At p uniform over two of three logits, the direction of the third's split has no first-order effect."""
        model = nn.Linear(3, 4, bias=False).double()
        model.weight.data = torch.tensor([[0.0, 0, 9], [0, 0, 0], [-3, 1, 0], [3, -1, 0]]).double()
        v = fv.spectrum(model, torch.tensor([[0.0, 0.0, 1.0]])).eigenvectors[0]
        assert torch.allclose(v[1], torch.tensor([3.0, -1, 0]).double() / 10**0.5)


@pytest.mark.parametrize("scale", [1, 8])
@pytest.mark.parametrize("name", REAL)
def test_real_networks_against_float64(realdata, name, scale):
    right_to_rounding(realdata.network(name), realdata.images(realdata.NETWORKS[name][-1], 64)[0], scale)


@pytest.mark.parametrize("scale", [1, 8])
@pytest.mark.parametrize("name", fv.zoo.names())
def test_the_zoo_against_float64(name, scale):
    right_to_rounding(fv.zoo.load(name).model, fv.zoo.digits().images[:6], scale)


def right_to_rounding(net, images, scale):
    """λ₁, trace and norm to 1e-5 (logits × 8 too, λ down to 1e-103), every eigenvalue within its stated error."""
    s = fv.spectrum(fv.Classifier(net, temperature=1 / scale), images)
    expected, logits = reference(net, images, temperature=1 / scale)
    tolerance = 1e-5  # what the README says; 1.4e-6 was seen
    assert ((s.spectral_norm - expected[:, 0]).abs() / expected[:, 0]).max() < tolerance
    assert ((s.trace - expected.sum(1)).abs() / expected.sum(1)).max() < tolerance
    assert ((s.frobenius - expected.norm(dim=1)).abs() / expected.norm(dim=1)).max() < tolerance
    assert ((s.eigenvalues - expected).abs() <= s.error).all()
    assert (s.error[:, 0] < 1e-3 * s.spectral_norm).all(), "an error bar that says something"
    assert torch.equal(s.predictions, logits.argmax(1))


class Kinked(nn.Module):
    """A third of its inputs passes a ReLU whose argument at 1 is `lead`, which float32 rounds away."""

    def __init__(self, lead):
        super().__init__()
        self.lead, self.head = lead, nn.Linear(6, 8)

    def forward(self, x):
        return self.head(torch.cat([torch.relu((x[:, :2] + self.lead) - 1), x[:, 2:]], 1))


class Cancelling(nn.Module):
    """Two branches whose gradients cancel, and leave thousands of machine epsilons of rounding."""

    def __init__(self, gain):
        super().__init__()
        torch.manual_seed(0)
        self.gain, self.branch, self.head = gain, nn.Linear(20, 30), nn.Linear(30, 12)

    def forward(self, x):
        gain = (math.log(self.gain) * x[:, :1]).exp()  # 1 where the first number is 0
        a = self.branch(x)
        b = a + 1 / gain
        return gain * (self.head(b * b) - self.head(a * a))


@pytest.mark.parametrize(("method", "k"), [("exact", 3), ("lanczos", 3), ("power", 1)])
@pytest.mark.parametrize("gain", [10.0, 1e3, 1e4])
def test_rounding_that_is_larger_than_usual_is_measured(gain, method, k):
    model, x = Cancelling(gain), torch.rand(8, 20, generator=torch.Generator().manual_seed(1))
    x[:, 0] = torch.tensor([0.0, 0, 1, 1, 1, 1, 1, 1])  # by the first two a network is judged
    expected = reference(model, x)[0][:, :k]
    for verify in (False, None):  # where it is too large, all is done again in float64
        s = fv.spectrum(model, x, method=method, k=k, max_steps=1000, verify=verify)
        off = (s.eigenvalues - expected).abs()
        assert (off <= s.error).all()
        if gain == 1e4:
            large = (off[:, 0] > 1e-4 * expected[:, 0]).any()
            assert large != (verify is None), "too easy, or not sharpened"
            assert ("6 of 8 inputs again in float64" in s.reason) == (verify is None)


@pytest.mark.parametrize(("method", "k"), [("exact", 2), ("lanczos", 2), ("power", 1)])
@pytest.mark.parametrize("lead", [2.0**-30, -(2.0**-30)])
def test_rounding_moves_no_input_across_a_kink(lead, method, k):
    torch.manual_seed(0)
    model, x = Kinked(lead), torch.cat([torch.ones(3, 2), torch.rand(3, 4)], 1)
    x[1, :2] = 0.5  # far from the kink, in the same batch
    expected = reference(model, x)[0][:, :k]
    ask = functools.partial(fv.spectrum, model, x, method=method, k=k, max_steps=1000)
    s, plain = ask(), ask(verify=False)
    assert torch.allclose(s.eigenvalues, expected, rtol=1e-5)
    assert ((s.eigenvalues - expected).abs() <= s.error).all()
    off = ((plain.eigenvalues - expected).abs() / expected).amax(1)
    assert off[1] < 1e-5
    if lead > 0:  # at 0 itself a ReLU's derivative is 0, as it is below
        assert (off[[0, 2]] > 0.01).all()
        assert torch.allclose(s.eigenvalues[[0, 2]], expected[[0, 2]], rtol=1e-6)
    assert s.cost.forwards.tolist() == [1, 1, 1]
    assert (s.error[:, 0] < 1e-3 * s.spectral_norm).all()


@pytest.mark.parametrize("name", REAL)
def test_float64_networks_to_1e_10(realdata, name):
    net = realdata.network(name)
    images, _ = realdata.images(realdata.NETWORKS[name][-1], 8)
    s = fv.spectrum(copy.deepcopy(net).double(), images)
    expected, _ = reference(net, images)
    assert ((s.spectral_norm - expected[:, 0]).abs() / expected[:, 0]).max() < 1e-10
    assert ((s.eigenvalues - expected).abs() <= s.error).all()


def test_saturation_reaches_1e_79_where_naive_code_fails(realdata):
    net = realdata.network("cifar10-resnet20")
    images, _ = realdata.images("cifar10-test", 64)
    s = fv.spectrum(fv.Classifier(net, temperature=1 / 8), images)
    assert s.spectral_norm.min() < 1e-70
    assert (s.spectral_norm > 0).all()
    assert s.eigenvectors[s.spectral_norm.argmin(), 0].norm().item() == pytest.approx(1, abs=1e-5)


def test_unbounded_gap_underflows_to_zero_without_nan():
    model = nn.Linear(3, 3).double()
    model.weight.data = torch.eye(3).double() * 1e6
    s = fv.spectrum(model, torch.tensor([[1.0, 0.0, 0.5]]))
    assert torch.equal(s.eigenvalues, torch.zeros(1, 2).double())
    assert s.eigenvectors.isfinite().all()


PEAK = """
import re, torch, torchvision, fimviz as fv
def memory(kind):  # not the resource module's, whose peak begins with that of the process that started this one
    return 1024 * int(re.search(kind + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
torch.set_num_threads(1)
torch.manual_seed(0)
net = fv.Classifier(torchvision.models.resnet18(weights=None, num_classes=10))
x = torch.rand(16, 3, 64, 64)
net(x[:2])
before = memory("VmRSS")
s = fv.spectrum(net, x, max_memory={limit}, {options})
print(memory("VmHWM") - before, *s.spectral_norm.tolist())
"""


class TestCareAndChunks:
    @pytest.mark.parametrize("max_memory", [None, 2_000_000, 200_000])
    def test_chunks_change_nothing(self, max_memory):
        model, x = small_net(classes=9, inputs=50), torch.rand(40, 50)
        whole, parts = fv.spectrum(model, x), fv.spectrum(model, x, max_memory=max_memory)
        assert torch.allclose(whole.eigenvalues, parts.eigenvalues, rtol=1e-5)
        assert torch.allclose(whole.eigenvectors, parts.eigenvectors, atol=1e-4)

    def test_too_little_memory_is_said_before_any_work(self):
        with pytest.raises(MemoryError, match=r"at least \d.* kB are needed, .*and 100 B may be taken.*max_memory="):
            fv.spectrum(small_net(), torch.rand(4, 6), max_memory=100)
        net, x = small_net(inputs=2000), torch.rand(4, 2000)
        fv.Classifier(net).admit(x)
        for method, mends in (
            ("exact", "precision='float32'.* or method='lanczos'"),
            ("lanczos", "a smaller max_steps="),
        ):
            with pytest.raises(MemoryError, match=mends):
                fv.spectrum(net, x, method=method, k=1, max_memory=1000)
        with pytest.raises(MemoryError, match="vectors=False"):
            fv.spectrum(small_net(inputs=2000), torch.rand(3000, 2000), max_memory=20_000_000)

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_max_memory_is_what_is_taken(self):
        """In a process each: by how much does the peak of its memory grow? Heaps keep some 50 MB that nobody uses."""
        found = {}
        for megabytes, options in [(200, ""), (1000, ""), (450, "method='lanczos', k=2")]:
            script = PEAK.format(limit=megabytes * 1e6, options=options)
            run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
            grown, *found[megabytes] = map(float, run.stdout.split())
            assert grown < 1.2 * megabytes * 1e6 + 50e6
        assert found[200] == pytest.approx(found[1000], rel=1e-6)
        assert found[450] == pytest.approx(found[1000], rel=1e-5)

    def test_the_loop_equals_the_batched_passes(self):
        net = fv.Classifier(small_net().double())
        x = torch.rand(3, 6)
        batched = fv.spectrum(net, x)
        net.batched_vjp = False
        assert torch.allclose(batched.eigenvalues, fv.spectrum(net, x).eigenvalues, rtol=1e-12)

    def test_model_is_left_as_it_came(self):
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
        model[0].weight.requires_grad_(False)
        before = copy.deepcopy(model.state_dict())
        fv.spectrum(model, torch.rand(5, 4))
        assert all(m.training for m in model.modules())
        assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
        assert all(p.grad is None for p in model.parameters())
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())

    def test_interrupt_keeps_what_is_complete(self):
        def stop(done, total):
            if done >= 2:
                raise KeyboardInterrupt

        with pytest.warns(UserWarning, match=r"first \d+ of 40"):
            s = fv.spectrum(small_net(inputs=50, classes=9), torch.rand(40, 50), max_memory=200_000, progress=stop)
        assert 2 <= len(s) < 40
        assert len(s.frame) == len(s.images) == len(s)

    def test_progress_reports_every_input(self):
        seen = []
        fv.spectrum(small_net(inputs=50), torch.rand(9, 50), max_memory=80_000,
                    progress=lambda done, total: seen.append((done, total)))  # fmt: skip
        assert seen[-1] == (9, 9)
        assert len(seen) > 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"k": 0}, "k is 0"), ({"k": 2.5}, "k is 2.5"), ({"k": True}, "k is True"), ({"k": "2"}, "k is '2'"),
            ({"method": "exakt"}, "expected one of auto"), ({"method": "power", "k": 3}, "leading eigenvalue only"),
            ({"tolerance": 0.0}, "tolerance is 0.0"), ({"tolerance": "x"}, "tolerance is 'x', expected a number"),
            ({"max_memory": "1GB"}, "max_memory is '1GB', expected a number"), ({"max_memory": 0}, "max_memory is 0"),
            ({"max_steps": 0}, "max_steps is 0"), ({"seed": None}, "seed is None"), ({"vectrs": True}, "mean vectors"),
            ({"labels": [0, 1]}, r"expected class indices \(4,\)"), ({"labels": [0.5] * 4}, "expected class indices"),
            ({"labels": [0, 5, -3, 1]}, r"labels\[1\] is 5, expected class indices from 0 to 4"),
            ({"labels": torch.eye(5)[:4]}, r"labels.argmax\(1\)"), ({"labels": "cat"}, "labels is a str"),
            ({"labels": ["cat"] * 4}, r"labels\[0\] is 'cat', which is no class: expected one of"),
        ],
    )  # fmt: skip
    def test_wrong_options_are_named(self, options, message):
        with pytest.raises((ValueError, TypeError), match=message):
            fv.spectrum(small_net(), torch.rand(4, 6), **options)

    def test_counts_of_any_integer_type(self):
        s = fv.spectrum(small_net(), torch.rand(4, 6), k=np.int64(2), max_steps=torch.tensor(9), max_memory=1e9)
        assert s.eigenvalues.shape == (4, 2)

    @pytest.mark.parametrize("form", [list, np.array, torch.tensor, lambda v: torch.tensor(v).byte()])
    def test_class_labels(self, form):
        s = fv.spectrum(small_net(), torch.rand(4, 6), labels=form([0, 4, 1, 0]))
        assert (s.labels.dtype, s.labels.tolist()) == (torch.int64, [0, 4, 1, 0])

    @pytest.mark.parametrize("form", [np.array, lambda v: torch.tensor(v).bool(), lambda v: torch.tensor(v).float()])
    def test_labels_of_several_yes_or_no_questions(self, form):
        net, truth = fv.Classifier(small_net(classes=3), likelihood="bernoulli"), [[0, 1, 1], [0, 0, 0]]
        s = fv.spectrum(net, torch.rand(2, 6), labels=form(truth))
        assert (s.labels.dtype, s.labels.int().tolist()) == (torch.bool, truth)
        assert len(s.frame.label) == 2
        with pytest.raises(ValueError, match=r"shape \(2,\), expected \(2, 3\) of 0 and 1.*a yes/no label of its own"):
            fv.spectrum(net, torch.rand(2, 6), labels=[0, 2])
        with pytest.raises(ValueError, match="is 2, expected 0 and 1"):
            fv.spectrum(net, torch.rand(2, 6), labels=[[0, 1, 2], [0, 0, 0]])

    def test_one_logit_takes_class_labels(self):
        net = fv.Classifier(small_net(classes=1), likelihood="bernoulli")
        assert fv.spectrum(net, torch.rand(2, 6), labels=[False, True]).labels.tolist() == [0, 1]
        with pytest.raises(ValueError, match=r"labels\[0\] is 2, expected class indices from 0 to 1"):
            fv.spectrum(net, torch.rand(2, 6), labels=[2, 0])

    def test_infinite_gradients_are_refused(self):
        class Root(nn.Module):
            def forward(self, x):
                return torch.stack([x.sum(1).sqrt(), x[:, 0]], 1)

        with pytest.raises(FloatingPointError, match="gradient"):
            fv.spectrum(Root(), torch.zeros(2, 3))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_model(self, dtype):
        """Half-precision weights, float32 arithmetic: λ, and forward passes that agree with it."""
        model, x = small_net().to(dtype), torch.rand(3, 6)
        s, wide = fv.spectrum(model, x), fv.spectrum(copy.deepcopy(model).float(), x)
        expected, _ = reference(model, x)
        assert ((s.eigenvalues - expected).abs() <= s.error).all()
        assert torch.equal(s.eigenvalues, wide.eigenvalues)
        walk = s.walk(0, [0.01])
        assert torch.allclose(walk.kl, walk.quadratic, rtol=0.05)
        assert all(p.dtype == dtype for p in model.parameters())

    def test_half_precision_that_is_written_into_the_model(self):
        class Hard(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = small_net().bfloat16()

            def forward(self, x):
                return self.net(x.bfloat16())

        net, x = fv.Classifier(Hard()), torch.rand(3, 6)
        s = fv.spectrum(net, x)
        assert not net.has_float64
        assert torch.allclose(s.spectral_norm, fv.spectrum(net.model.net, x).spectral_norm, rtol=0.1)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_cuda_equals_the_cpu(self):
        model, x = small_net(), torch.rand(5, 6)
        here = fv.spectrum(model, x)
        there = fv.spectrum(copy.deepcopy(model).cuda(), x)
        assert torch.allclose(here.eigenvalues, there.eigenvalues, rtol=1e-4)
        assert there.eigenvectors.device.type == "cpu"


class TestResult:
    @pytest.fixture
    def spectrum(self):
        return fv.spectrum(
            fv.Classifier(small_net(), classes=list("abcde")), torch.rand(4, 6), labels=[0, 1, 2, 3], k=3
        )

    def test_shapes_and_types(self, spectrum):
        assert spectrum.eigenvalues.shape == spectrum.error.shape == (4, 3)
        assert spectrum.eigenvectors.shape == (4, 3, 6)
        assert spectrum.eigenvalues.dtype == spectrum.trace.dtype == spectrum.probabilities.dtype == torch.float64
        assert spectrum.trace.shape == spectrum.frobenius.shape == spectrum.spectral_norm.shape == (4,)
        assert spectrum.probabilities.shape == (4, 5)
        assert torch.equal(spectrum.cost.vjps, torch.full((4,), 5)), (
            "four gradients, and one product to measure rounding"
        )

    def test_frame_has_the_promised_columns(self, spectrum):
        frame = spectrum.frame
        expected = "sample prediction confidence doubt spectral_norm trace trace_error frobenius frobenius_error error"
        assert list(frame.columns) == [*expected.split(), "label", "failure"]
        assert np.array_equal(frame.spectral_norm, spectrum.spectral_norm)
        assert np.array_equal(frame.prediction, spectrum.probabilities.argmax(1))
        assert frame.confidence.to_numpy() == pytest.approx(spectrum.probabilities.amax(1).numpy())

    def test_repr_is_one_line_and_repeats(self, spectrum):
        assert repr(spectrum) == repr(fv.spectrum(spectrum.net, spectrum.images, k=3))
        assert re.fullmatch(
            r"Spectrum\(4 inputs, 3 eigenvalues, exact: λ₁ from \S+ to \S+, median \S+\)", repr(spectrum)
        )

    def test_it_is_frozen(self, spectrum):
        with pytest.raises(AttributeError):
            spectrum.trace = None

    def test_part_of_it(self, spectrum):
        part = spectrum.take([2, 0])
        assert torch.equal(part.eigenvalues, spectrum.eigenvalues[[2, 0]])
        assert torch.equal(part.images, spectrum.images[[2, 0]])
        assert len(part.frame) == 2


class TestWalk:
    @pytest.fixture
    def spectrum(self):
        return fv.spectrum(small_net(seed=8).double(), torch.rand(5, 6, generator=torch.Generator().manual_seed(2)))

    def test_it_is_the_models_own_word(self, spectrum):
        eps = torch.tensor([-0.5, 0.0, 2.0]).double()
        walk = spectrum.walk(1, eps)
        for i in range(5):
            for j, e in enumerate(eps):
                x = spectrum.images[i] + e * spectrum.eigenvectors[i, 1]
                p = spectrum.net.model(x).softmax(0)
                assert torch.allclose(walk.probabilities[i, j], p, rtol=1e-10)
                kl = (spectrum.probabilities[i] * (spectrum.probabilities[i].log() - p.log())).sum()
                assert walk.kl[i, j].item() == pytest.approx(kl.item(), rel=1e-7, abs=1e-13)
        assert torch.allclose(walk.quadratic, 0.5 * eps**2 * spectrum.eigenvalues[:, 1, None])

    def test_flips_are_where_the_prediction_changes(self, spectrum):
        walk = spectrum.walk(0)
        rows, sides = walk.flips.isfinite().nonzero(as_tuple=True)
        assert len(rows) > 0
        for i, side in zip(rows.tolist(), sides.tolist(), strict=True):
            flip = walk.flips[i, side]
            assert (flip < 0) == (side == 0)
            near = spectrum.walk(0, torch.stack([flip * 0.999, flip * 1.001]).sort().values)
            inner, outer = (0, 1) if side else (1, 0)
            assert near.probabilities[i, inner].argmax() == spectrum.predictions[i]
            assert near.probabilities[i, outer].argmax() == walk.becomes[i, side] != spectrum.predictions[i]
        assert torch.equal(walk.becomes[walk.flips.isinf()],
                           spectrum.predictions[:, None].expand(-1, 2)[walk.flips.isinf()])  # fmt: skip

    def test_default_distances_hold_the_flips(self, spectrum):
        walk = spectrum.walk(0)
        assert walk.epsilon.shape == (5, 35)
        assert (walk.epsilon.diff(dim=1) >= 0).all()
        for i, side in walk.flips.isfinite().nonzero().tolist():
            assert (walk.epsilon[i] == walk.flips[i, side]).any()

    def test_large_networks_are_asked_more_coarsely(self, spectrum, monkeypatch):
        coarse = spectrum.take(range(len(spectrum)))
        monkeypatch.setattr("fimviz.fisher.effort.affordable", lambda nets, inputs, work: 0)
        flips = coarse.walk(0).flips
        assert 11 + 2 < coarse.walk(0).epsilon.shape[1] <= 11 + 2 + 8  # with what `reach` has asked
        monkeypatch.undo()
        closely = spectrum.walk(0).flips
        both = flips.isfinite() & closely.isfinite()
        assert both.any()
        assert ((flips - closely)[both].abs() <= 2e-2 * coarse.reach[both.nonzero()[:, 0]] / 4).all()

    def test_reach_is_beyond_the_nearest_flip(self, spectrum):
        nearest = spectrum.walk(0).flips.abs().amin(1)
        near = nearest.isfinite()
        assert (spectrum.reach[near] > 1.5 * nearest[near]).all()
        assert (spectrum.reach[near] < 12 * nearest[near]).all()

    def test_wrong_direction_is_named(self, spectrum):
        with pytest.raises(ValueError, match="index from 0 to 3"):
            spectrum.walk(4)

    def test_several_labels_flip_as_a_set(self):
        torch.manual_seed(0)
        model = nn.Linear(6, 3).double()
        model.weight.data *= 20
        s = fv.spectrum(fv.Classifier(model, likelihood="bernoulli"), torch.rand(4, 6))
        walk = s.walk(0)
        assert walk.becomes.shape == (4, 2, 3)
        assert walk.becomes.dtype == torch.bool
        for i, side in walk.flips.isfinite().nonzero().tolist():
            assert (walk.becomes[i, side] != s.predictions[i]).any()


def test_threads_do_not_disturb_each_other():
    """A widget's callback runs beside the user's cell: one lock a model keeps both right."""
    import threading

    net, x = small_net(), torch.rand(6, 6)
    expected = fv.spectrum(net, x).eigenvalues
    found = []
    threads = [threading.Thread(target=lambda: found.append(fv.spectrum(net, x).eigenvalues)) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 4
    assert all(torch.allclose(f, expected, rtol=1e-6) for f in found)


class TestJoined:
    @pytest.mark.parametrize("likelihood", ["categorical", "bernoulli", "gaussian"])
    def test_is_the_spectrum_of_both_batches(self, likelihood):
        net, x = fv.Classifier(small_net(classes=3), likelihood=likelihood), torch.rand(5, 6)
        labels = {"categorical": [2, 0], "bernoulli": [[1, 0, 1], [0, 0, 0]], "gaussian": [[0.5, 1, 2], [3, 4, 5]]}
        whole = fv.spectrum(net, x, k=2, method="lanczos")
        first = fv.spectrum(net, x[:2], k=2, method="lanczos", labels=labels[likelihood])
        second = fv.spectrum(net, x[2:], k=2, method="lanczos")
        both = first.joined(second)
        torch.testing.assert_close(both.eigenvalues, whole.eigenvalues)
        torch.testing.assert_close(both.images, whole.images)
        assert (both.labelled.tolist(), both.labels_of([1, 2])) == ([True, True, False, False, False], None)
        torch.testing.assert_close(both.labels_of([0, 1]).double(), torch.tensor(labels[likelihood]).double())
        assert both.frame.label.isna().tolist() == [False, False, True, True, True]
        assert likelihood == "gaussian" or both.correct[2:].tolist() == [False] * 3
        assert len(both.walk().epsilon) == 5
        assert second.joined(first).labelled.tolist() == [False] * 3 + [True] * 2

    def test_what_is_not_alike_is_refused(self):
        net, x = fv.Classifier(small_net(classes=3)), torch.rand(2, 6)
        s = fv.spectrum(net, x, k=1)
        with pytest.raises(ValueError, match="of another model"):
            s.joined(fv.spectrum(fv.Classifier(small_net(classes=3)), x, k=1))
        with pytest.raises(ValueError, match=r"k = 1, eigenvectors and of .* k = 2, eigenvectors cannot be joined"):
            s.joined(fv.spectrum(net, x, k=2))
