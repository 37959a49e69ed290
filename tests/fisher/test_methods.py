"""Lanczos and power iteration against the exact spectrum in float64, and the choice between the methods."""

import copy
import functools
import re

import pytest
import torch
import torch.utils.checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fimviz as fv
from fimviz.fisher.passes import Linearisation
from tests.benchmarks.truth import lanczos_truth


def dense(classes, seed=0, inputs=12, width=24):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, classes))


def pixels(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def truth(net, x, **options):
    """The exact spectrum by float64 passes."""
    net = fv.model.classifier.as_classifier(net)
    wide = fv.Classifier(copy.deepcopy(net.model).double(), temperature=net.temperature, likelihood=net._wanted)
    return fv.spectrum(wide, x, method="exact", **options)


def assert_holds(got, exact, slack=1e-12):
    """A lower bound up to rounding, whose error reaches the truth; vectors that are eigenvectors."""
    k = got.eigenvalues.shape[1]
    expected = exact.eigenvalues[:, :k]
    rounding = 1e-5 if got.images.dtype == torch.float32 else slack
    assert (got.eigenvalues <= expected + rounding * exact.spectral_norm[:, None]).all()
    assert (expected <= (got.eigenvalues + got.error) * (1 + slack)).all()
    if got.eigenvectors is None:
        return
    v = got.eigenvectors.flatten(2).double()
    known = v.norm(dim=2) > 0
    assert torch.allclose(v.norm(dim=2)[known], torch.ones(()).double(), atol=1e-6)
    gram = v @ v.mT - torch.diag_embed(known.double())
    assert gram.abs().max() < (1e-4 if got.images.dtype == torch.float32 else 1e-8)


def operator(spectrum):
    """F (n, D, D) of a spectrum that holds all eigenvectors."""
    v = spectrum.eigenvectors.flatten(2).double()
    return v.mT @ (spectrum.eigenvalues[..., None] * v)


class Sequences(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.memory, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.memory(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.layer(self.embed(x)).mean(1))


class Pictures(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Unflatten(1, (1, 6)), nn.Conv2d(1, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Flatten(), nn.Linear(30, classes))  # fmt: skip


class Linear(nn.Module):
    """Logits J x + b with a given J."""

    def __init__(self, jacobian):
        super().__init__()
        self.jacobian = nn.Parameter(jacobian)

    def forward(self, x):
        return x @ self.jacobian.T


def with_values(values, classes):
    """A model and an input at which F has the given eigenvalues: uniform p, J = √(λK) in random directions."""
    d = len(values)
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(classes, classes - 1, dtype=torch.float64, generator=generator))[0]
    left = torch.linalg.qr(left - left.mean(0))[0][:, :d]  # orthogonal to the constant, in which S is 1/K
    right = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))[0]
    return Linear(left * (classes * torch.as_tensor(values).double()).sqrt() @ right), torch.zeros(1, d).double()


class TestLanczos:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("classes", [3, 10, 40, 200])
    def test_dense_networks(self, classes, dtype):
        model, x = dense(classes).to(dtype), pixels(4, 12)
        k = min(3, classes - 1)
        exact = truth(model, x)
        accuracy, tolerance = (1e-9, 1e-10) if dtype == torch.float64 else (1e-5, None)
        s = fv.spectrum(model, x, method="lanczos", k=k, tolerance=tolerance)
        assert_holds(s, exact)
        assert torch.allclose(s.eigenvalues, exact.eigenvalues[:, :k], rtol=accuracy, atol=1e-14)
        assert (s.error[:, 0] < 1e-3 * s.spectral_norm).all(), "an error bar that says something"
        assert ((s.trace - exact.trace).abs() <= s.trace_error + exact.trace_error).all()
        assert ((s.frobenius - exact.frobenius).abs() <= s.frobenius_error * 1.01 + 1e-12).all()
        smooth = "; the network is smooth: passes in float32, with their rounding measured"
        why = "asked for" + smooth * (dtype == torch.float32)
        assert (s.guarantee, s.method, s.reason) == ("interval", "lanczos", why)
        f = operator(exact)
        residual = s.eigenvectors.double() @ f - s.eigenvalues[..., None] * s.eigenvectors.double()
        assert (residual.norm(dim=2) < 3e-3 * s.spectral_norm[:, None]).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("build", [Sequences, Attention, Pictures])
    def test_architectures(self, build, dtype):
        torch.manual_seed(1)
        model, x = build(50).to(dtype), pixels(3, 6, 4)
        s = fv.spectrum(model, x, method="lanczos", k=4)
        exact = truth(model, x)
        assert_holds(s, exact)
        accuracy = 1e-9 if dtype == torch.float64 else 1e-4
        assert torch.allclose(s.eigenvalues, exact.eigenvalues[:, :4], rtol=accuracy)
        assert s.eigenvectors.shape == (3, 4, 6, 4)

    def test_several_labels(self):
        net = fv.Classifier(dense(40), likelihood="bernoulli")
        x = pixels(3, 12)
        assert_holds(fv.spectrum(net, x, method="lanczos", k=3), truth(net, x))

    @pytest.mark.parametrize("scale", [8, 64])
    def test_saturated(self, scale):
        net, x = fv.Classifier(dense(60), temperature=1 / scale), pixels(4, 12)
        s, exact = fv.spectrum(net, x, method="lanczos", k=2), truth(net, x)
        assert_holds(s, exact, slack=1e-4)
        assert torch.allclose(s.eigenvalues, exact.eigenvalues[:, :2], rtol=1e-4)

    @pytest.mark.parametrize("method", ["lanczos", "power"])
    def test_two_classes_have_one_eigenvalue(self, method):
        model, x = dense(2).double(), pixels(3, 12)
        s, exact = fv.spectrum(model, x, method=method, k=1), truth(model, x)
        assert torch.allclose(s.eigenvalues, exact.eigenvalues, rtol=1e-9)
        assert torch.allclose(s.eigenvectors, exact.eigenvectors, atol=1e-5)

    def test_fewer_inputs_than_classes(self):
        model, x = dense(30, inputs=4).double(), pixels(3, 4)
        s = fv.spectrum(model, x, method="lanczos", k=9)
        assert s.eigenvalues.shape == (3, 4)
        assert torch.allclose(s.eigenvalues, truth(model, x).eigenvalues, rtol=1e-9)

    @pytest.mark.parametrize("distance", [0, 1e-9, 1e-6, 1e-4, 1e-2])
    @pytest.mark.parametrize("k", [1, 3])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_repeated_and_clustered_eigenvalues(self, distance, k, dtype):
        """From one start, a Krylov space sees one direction of each equal or nearly equal group."""
        values = torch.cat([1 - distance * torch.arange(3), torch.tensor([0.5, 0.5]), 0.2 * 0.8 ** torch.arange(25)])
        model, x = with_values(values, 64)
        s = fv.spectrum(model.to(dtype), x, method="lanczos", k=k)
        assert torch.allclose(truth(model, x).eigenvalues[0], values.double(), rtol=1e-5), "as constructed"
        assert_holds(s, truth(model, x))

    def test_all_eigenvalues_equal(self):
        """The Krylov space ends after its first step."""
        for dtype in (torch.float32, torch.float64):
            s = fv.spectrum(nn.Identity().to(dtype), torch.zeros(1, 50, dtype=dtype), method="lanczos", k=5)
            assert torch.allclose(s.eigenvalues, torch.full((1, 5), 1 / 50).double(), rtol=1e-6)

    def test_a_jacobian_of_low_rank(self):
        model, x = with_values([2.0, 1.0, 0.0, 0.0, 0.0], 40)
        s = fv.spectrum(model, x, method="lanczos", k=4)
        assert torch.allclose(s.eigenvalues, torch.tensor([[2.0, 1, 0, 0]]).double(), atol=1e-12)
        zero = fv.spectrum(
            Linear(torch.cat([torch.ones(40, 3), torch.ones(40, 1)], 1)), torch.zeros(1, 4), method="lanczos"
        )
        assert zero.spectral_norm < 1e-12

    @pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
    @pytest.mark.parametrize("seed", range(4))
    def test_stopped_early_it_says_how_far_it_came(self, steps, seed):
        model, x = dense(80, seed=seed).double(), pixels(3, 12, seed=seed)
        s = fv.spectrum(model, x, method="lanczos", k=2, max_steps=steps, seed=seed)
        exact = truth(model, x)
        k = s.eigenvalues.shape[1]
        assert (s.eigenvalues <= exact.eigenvalues[:, :k] * (1 + 1e-9)).all()
        assert (exact.eigenvalues[:, :k] <= s.eigenvalues + s.error).all()
        assert (s.cost.jvps <= steps).all()

    def test_seed_and_tolerance(self):
        model, x = dense(100), pixels(3, 12)
        ask = functools.partial(fv.spectrum, model, x, method="lanczos", k=2)
        assert torch.equal(ask().eigenvalues, ask().eigenvalues)
        assert torch.equal(ask(seed=3).trace, ask(seed=3).trace)
        assert not torch.equal(ask().trace, ask(seed=3).trace)
        assert torch.allclose(ask().eigenvalues, ask(seed=3).eigenvalues, rtol=1e-6)
        assert (ask(tolerance=1e-2).cost.vjps < ask(tolerance=1e-8).cost.vjps).all()
        assert ask(vectors=False).eigenvectors is None

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2.0**-16), (torch.float64, 1e-6)])
    def test_stops_where_rounding_says_no_more(self, dtype, tolerance):
        model, x = dense(100).to(dtype), pixels(3, 12)
        ask = functools.partial(fv.spectrum, model, x, method="lanczos", k=2)
        assert torch.equal(ask().eigenvalues, ask(tolerance=tolerance).eigenvalues)
        assert_holds(ask(), truth(model, x))

    def test_the_callers_random_stream_stays(self):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        model, x = dense(40), pixels(2, 12)
        torch.manual_seed(5)
        fv.spectrum(model, x, method="lanczos")
        fv.spectrum(model, x, method="power")
        assert torch.equal(torch.rand(3), expected)

    @settings(max_examples=40, deadline=None)
    @given(
        seed=st.integers(0, 10**6), classes=st.integers(3, 60), k=st.integers(1, 4), gain=st.floats(0.05, 20),
        double=st.booleans(),
    )  # fmt: skip
    def test_the_interval_holds(self, seed, classes, k, gain, double):
        model = dense(classes, seed)
        model[-1].weight.data *= gain
        model, x = model.double() if double else model, pixels(2, 12, seed=seed)
        exact = truth(model, x)
        s = fv.spectrum(model, x, method="lanczos", k=k, seed=seed)
        assert_holds(s, exact)

    def test_the_trace_is_a_sample(self):
        far = []
        for seed in range(40):
            model, x = dense(30, seed, inputs=40), pixels(2, 40, seed=seed)
            s, exact = fv.spectrum(model, x, method="lanczos", seed=seed), truth(model, x)
            far.append((s.trace - exact.trace).abs() / s.trace_error)
        assert (torch.cat(far) < 1).double().mean() > 0.95
        assert torch.cat(far).max() > 0.1, "an error that says something"


class TestPower:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("build", [dense, Sequences, Attention, Pictures])
    def test_the_leading_eigenvalue(self, build, dtype):
        torch.manual_seed(2)
        model, x = build(20).to(dtype), pixels(3, 12) if build is dense else pixels(3, 6, 4)
        s, exact = fv.spectrum(model, x, method="power", tolerance=1e-5, max_steps=3000), truth(model, x)
        assert_holds(s, exact)
        assert torch.allclose(s.spectral_norm, exact.spectral_norm, rtol=1e-5)
        assert s.trace.isnan().all()
        assert s.frobenius.isnan().all()
        assert s.guarantee == "lower"
        assert (s.eigenvectors * exact.eigenvectors[:, :1]).flatten(2).sum(2).min() > 0.99, "the same sign, too"

    @pytest.mark.parametrize("steps", [1, 2, 5])
    def test_stopped_early_it_is_a_lower_bound(self, steps):
        model, x = dense(20).double(), pixels(5, 12)
        s, exact = fv.spectrum(model, x, method="power", max_steps=steps), truth(model, x)
        assert (s.spectral_norm <= exact.spectral_norm * (1 + 1e-12)).all()
        assert (s.error[:, 0] > 1e-4 * s.spectral_norm).all()
        assert (s.cost.jvps == steps).all()

    def test_several_labels_and_saturation(self):
        for net in (fv.Classifier(dense(40), likelihood="bernoulli"), fv.Classifier(dense(10), temperature=1 / 8)):
            s, exact = fv.spectrum(net, pixels(3, 12), method="power", max_steps=2000), truth(net, pixels(3, 12))
            assert torch.allclose(s.spectral_norm, exact.spectral_norm, rtol=1e-4)


class Once(torch.autograd.Function):
    """tanh, whose backward pass cannot be differentiated again."""

    @staticmethod
    def forward(x):
        return x.tanh()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * (1 - ctx.saved_tensors[0] ** 2)

    @staticmethod
    def jvp(ctx, t):
        return t * (1 - ctx.saved_tensors[0] ** 2)


class InNumPy(Once):
    """The same with a backward pass that no tape sees, and a forward mode."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return torch.from_numpy(g.detach().numpy() * (1 - ctx.saved_tensors[0] ** 2).numpy())


class Contradiction(InNumPy):
    """The same with a forward mode that contradicts its backward pass."""

    @staticmethod
    def jvp(ctx, t):
        return 2 * t


class Backward(torch.autograd.Function):
    """tanh without forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.tanh())
        return x.tanh()

    @staticmethod
    def backward(ctx, g):
        return g * (1 - ctx.saved_tensors[0] ** 2)


class PastTorch(Backward):
    """tanh whose first two derivatives compute in NumPy, which no tape sees."""

    @staticmethod
    def backward(ctx, g):
        return Scaled.apply(g, 1 - ctx.saved_tensors[0] ** 2)


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, g, factor):
        ctx.save_for_backward(factor)
        return torch.from_numpy(g.detach().numpy() * factor.detach().numpy())

    @staticmethod
    def backward(ctx, g):
        return torch.from_numpy(g.detach().numpy() * ctx.saved_tensors[0].detach().numpy()), None


class Custom(nn.Module):
    def __init__(self, f, classes=30):
        super().__init__()
        self.net, self.f = dense(classes), f

    def forward(self, x):
        return self.net[2](self.f(self.net[0](x)))


@pytest.mark.parametrize("method", ["lanczos", "power"])
@pytest.mark.parametrize(
    ("function", "taped", "twice"),
    [(Once, True, None), (Backward, True, None), (PastTorch, False, True), (InNumPy, False, False)],
)
def test_models_with_functions_of_their_own(method, function, taped, twice):
    net, plain, x = fv.Classifier(Custom(function.apply)), Custom(torch.tanh), pixels(3, 12)
    s = fv.spectrum(net, x, method=method)
    assert net.repeatable is taped
    assert net.double_backward is twice
    assert torch.allclose(s.spectral_norm, truth(plain, x).spectral_norm, rtol=1e-5)


def test_a_forward_mode_that_contradicts_the_backward_pass_is_refused():
    net, x = fv.Classifier(Custom(Contradiction.apply)), pixels(3, 12)
    with pytest.raises(RuntimeError, match=r"contradicts its backward pass.*method='exact'"):
        fv.spectrum(net, x, method="lanczos")
    exact = fv.spectrum(net, x, method="exact")
    assert torch.allclose(exact.spectral_norm, truth(Custom(torch.tanh), x).spectral_norm, rtol=1e-5)


class Beside(nn.Module):
    """A function beside a skip connection, so that a part of every product goes around it."""

    def __init__(self, f):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.f = nn.Linear(12, 40), nn.Linear(40, 40), nn.Linear(40, 60), f

    def forward(self, x):
        h = self.a(x)
        return self.c(h + 3 * self.f(self.b(h)))


@pytest.mark.parametrize("method", ["lanczos", "power"])
def test_what_no_tape_sees_is_not_taped(method):
    net, x = fv.Classifier(Beside(PastTorch.apply)), pixels(3, 12)
    s = fv.spectrum(net, x, method=method)
    assert net.double_backward
    assert not net.repeatable
    assert torch.allclose(s.spectral_norm, truth(Beside(torch.tanh), x).spectral_norm, rtol=1e-4)


class HiddenKink(nn.Module):
    """Independent labels; one depends on the pixels only through a ReLU that is dead in float32 and not in float64."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(6, 60)
        with torch.no_grad():
            self.linear.weight[7] = 0

    def forward(self, x):
        gain = torch.zeros(60, dtype=x.dtype, device=x.device).index_fill(0, torch.tensor(7), 30.0)
        return self.linear(x) + (x[:, 0] + x[:, 1] - x[:, 2]).relu()[:, None] * gain


def test_a_kink_that_only_another_label_sees():
    a, b = next(
        (a, b)
        for a, b in torch.rand(1000, 2, generator=torch.Generator().manual_seed(0))
        if a.double() + b.double() > (a + b).double()
    )
    x = torch.rand(1, 6)
    x[0, :3] = torch.stack([a, b, a + b])
    net = fv.Classifier(HiddenKink(), likelihood="bernoulli", input_range=None)
    s = fv.spectrum(net, x, method="lanczos")
    exact = fv.spectrum(net, x, method="exact")
    assert exact.spectral_norm > 100
    assert_holds(s, exact)


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = dense(50)

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.net, x, use_reentrant=False)


class InnerGradient(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = dense(50)

    def forward(self, x):
        return self.net(x) + torch.func.grad(lambda t: t.sin().sum())(x).sum(1, keepdim=True) * torch.arange(50)


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = dense(50)
        self.register_buffer("mix", (torch.rand(12, 12) > 0.7).float().to_sparse())

    def forward(self, x):
        return self.net(torch.sparse.mm(self.mix.to(x.dtype), x.T).T)


@pytest.mark.parametrize("method", ["exact", "lanczos", "power"])
@pytest.mark.parametrize("model", [Checkpointed, InnerGradient, Sparse])
def test_unusual_models(model, method):
    torch.manual_seed(0)
    net, x = fv.Classifier(model()), pixels(3, 12)
    s = fv.spectrum(net, x, k=1, method=method)
    theirs = torch.stack([torch.autograd.functional.jacobian(lambda t: net.model(t[None])[0], one) for one in x])
    p = s.probabilities
    info = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    fisher = theirs.double().mT @ info @ theirs.double()
    assert torch.allclose(s.spectral_norm, torch.linalg.eigvalsh(fisher)[:, -1], rtol=1e-4)


class TestChoice:
    @pytest.mark.parametrize(
        ("classes", "k", "method", "reason"),
        [
            (10, 1, "exact", "the 9 gradients of so few classes"), (25, 1, "exact", "24 gradients"),
            (26, 1, "lanczos", "1 of 25 eigenvalues take fewer passes than 25 gradients"),
            (100, None, "exact", "all of 99 eigenvalues are wanted: give a smaller k"),
            (100, 50, "exact", "50 of 99 eigenvalues are wanted"), (100, 5, "lanczos", "5 of 99"),
            (37, 3, "exact", "3 of 36 eigenvalues are wanted"), (38, 3, "lanczos", "3 of 37"),
        ],
    )  # fmt: skip
    def test_auto(self, classes, k, method, reason):
        s = fv.spectrum(dense(classes), pixels(2, 12), k=k)
        assert s.method == method
        assert re.search(reason, s.reason)

    @pytest.mark.parametrize("method", ["exact", "lanczos", "power"])
    def test_memory_that_runs_out_halves_the_batch(self, method, monkeypatch):
        model, x, tried = dense(50), pixels(7, 12), []
        whole, pull = fv.spectrum(model, x, k=1, method=method), Linearisation.vjp

        def vjp(self, cotangents):
            tried.append(len(cotangents))
            if len(cotangents) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return pull(self, cotangents)

        monkeypatch.setattr(Linearisation, "vjp", vjp)
        s = fv.spectrum(model, x, k=1, method=method)
        assert torch.allclose(s.eigenvalues, whole.eigenvalues, rtol=1e-5)
        assert {7, 4, 2} <= set(tried)
        assert torch.equal(s.images, x)

    def test_memory_that_does_not_suffice_for_one_input(self, monkeypatch):
        def vjp(self, cotangents):
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(Linearisation, "vjp", vjp)
        with pytest.raises(torch.OutOfMemoryError):
            fv.spectrum(dense(50), pixels(7, 12))

    def test_defaults(self):
        model, x = dense(45), pixels(2, 12)
        assert fv.spectrum(model, x, method="lanczos").eigenvalues.shape == (2, 1)
        assert fv.spectrum(model, x, method="exact").eigenvalues.shape == (2, 12)
        assert fv.spectrum(model, x, method="power").eigenvalues.shape == (2, 1)
        assert repr(fv.spectrum(model, x, k=2)).startswith("Spectrum(2 inputs, 2 eigenvalues, lanczos: ")

    def test_in_chunks(self):
        model, x = dense(40).double(), pixels(30, 12)
        whole, parts = (fv.spectrum(model, x, k=2, max_memory=m) for m in (None, 500_000))
        assert torch.allclose(whole.eigenvalues, parts.eigenvalues, rtol=1e-6)
        assert not torch.equal(whole.trace, parts.trace), "one chunk both times: this tests nothing"


@pytest.mark.parametrize(
    "name", ["cifar10-resnet20", "cifar10-marabou", "cifar10-resnet4b-robust", "cifar10-cnn-robust", "mnist-lenet5"]
)
def test_every_real_network(realdata, name):
    net, (images, _) = realdata.network(name), realdata.images(realdata.NETWORKS[name][-1], 24)
    s = fv.spectrum(net, images[16:], method="lanczos", k=2)
    assert_holds(s, truth(net, images[16:]))


def test_digits_whose_kinks_float32_crosses(realdata):
    """Two of 4,000 on which values from float32's directions are wrong in the fifth and the sixth digit."""
    net, (images, _) = realdata.network("mnist-lenet5-robust"), realdata.images("mnist-test")
    x = images[[3297, 5960]]
    assert_holds(fv.spectrum(net, x, method="lanczos", k=1), truth(net, x))


def test_photographs(realdata):
    """1000 classes, against float64 Lanczos of the benchmarks' own; the twenty of them are in tests/benchmarks."""
    net, x = realdata.network("imagenet-squeezenet"), realdata.imagenet_samples()[0][:2]
    s = fv.spectrum(net, x, k=3)
    values, _, _ = lanczos_truth(net.eval().requires_grad_(False), x, 3, tolerance=1e-8)
    assert s.method == "lanczos"
    assert (s.eigenvalues - values).abs().div(values).max() < 1e-4
    assert ((s.eigenvalues - values).abs() <= s.error).all()
    assert s.error.div(s.eigenvalues).max() < 1e-4


@pytest.mark.parametrize("method", ["lanczos", "power"])
@pytest.mark.parametrize("name", ["cifar10-resnet20", "mnist-lenet5-robust"])
def test_real_networks(realdata, name, method):
    net, (images, _) = realdata.network(name), realdata.images(realdata.NETWORKS[name][-1], 16)
    s = fv.spectrum(net, images, method=method, k=3 if method == "lanczos" else 1, max_steps=1000)
    exact = truth(net, images)
    assert_holds(s, exact)
    assert torch.allclose(s.eigenvalues, exact.eigenvalues[:, : s.eigenvalues.shape[1]], rtol=1e-3)
