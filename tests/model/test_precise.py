"""A float32 graph at float64's values: what it computes, what autograd keeps of it, and what is left as it was."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import fimviz as fv
from fimviz.model.precise import Traits, _grouped, _windows, float64_values


def both(model, x):
    """Float64's values and gradient, and those of a float32 graph at float64's values."""
    wide = x.double().requires_grad_()
    expected = copy.deepcopy(model).double()(wide)
    x = x.clone().requires_grad_()
    with float64_values() as values:
        z = model(x)
        got = values.of(z.detach())
    assert z.dtype == torch.float32
    c = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    gradient = torch.autograd.grad((c * z).sum(), x)[0]
    return got, expected.detach(), gradient, torch.autograd.grad((c * expected).sum(), wide)[0]


class Fn(nn.Module):
    def __init__(self, f):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.f = nn.Linear(6, 8), nn.Linear(8, 3), f

    def forward(self, x):
        return self.last(self.f(self.first(x)))


def in_place(h):
    h = h * 3
    h[:, 1:3].mul_(-2)
    h.view(-1, 2, 4)[:, 0].neg_().add_(0.3)
    return h.add_(0.1)


def gathered(h):
    out = h.new_empty(len(h), 8)
    out.copy_(h * h.flip(1))
    return out.index_add(1, torch.tensor([0, 0, 3]), h[:, :3]).sort(1).values


def through_frequencies(h):
    waves = torch.fft.rfft(h)
    return torch.view_as_real(waves.conj() * 1j * waves[:, :1]).flatten(1)[:, :8]


def through_other_types(h):
    keep = (h > 0).float() + h.double().sin().float() + h.softmax(1, dtype=torch.float32)
    return keep.to(torch.float64).mul(h).to(h.dtype)


@pytest.mark.parametrize(
    "f", [torch.relu, torch.tanh, in_place, gathered, through_frequencies, lambda h: torch.linalg.qr(h @ h.T)[0] @ h,
          lambda h: h / h.norm(dim=1, keepdim=True), lambda h: torch.where(h > h.mean(), h, torch.tensor(0.25))],
)  # fmt: skip
def test_values_are_those_of_float64(f):
    got, expected, gradient, wide = both(Fn(f), torch.rand(4, 6, generator=torch.Generator().manual_seed(1)))
    assert_close(got, expected, rtol=1e-12, atol=1e-13)
    assert_close(gradient.double(), wide, rtol=1e-4, atol=1e-5)


def test_types_that_a_model_asks_for():
    model, x = Fn(through_other_types), torch.rand(4, 6)
    with float64_values() as values:
        z = model(x)
    assert z.dtype == torch.float32
    assert_close(z, model(x))
    h = copy.deepcopy(model.first).double()(x.double())
    expected = ((h > 0).double() + h.sin() + h.softmax(1)) * h
    assert_close(values.of(z), copy.deepcopy(model.last).double()(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [3, 40])
def test_layers(size):
    """Convolutions go through a few inputs at a time."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 5, padding=2, stride=2), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2, 1),
        nn.Conv2d(6, 6, 3, groups=3, dilation=2, padding=2), nn.GELU(), nn.ConvTranspose2d(6, 4, 2), nn.GroupNorm(2, 4),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LayerNorm(16), nn.Hardswish(), nn.Linear(16, 5),
    ).eval()  # fmt: skip
    got, expected, gradient, wide = both(model, torch.rand(size, 2, 40, 40))
    assert_close(got, expected, rtol=1e-12, atol=1e-12)
    assert (gradient - wide).norm() < 1e-5 * wide.norm()


def test_ties_and_signs_are_float64s():
    """A ReLU's input and a max pool's lead of 2⁻³⁰, which float32 takes for 0."""
    lead = 2.0**-30

    class Kinked(nn.Module):
        def forward(self, x):
            a = torch.relu((x[:, :2] + lead) - 1)
            b = torch.stack([x[:, 2], x[:, 3] + lead], 1)
            return torch.cat([a, torch.max_pool1d(b[:, None], 2)[:, 0]], 1)

    got, expected, gradient, wide = both(Kinked(), torch.ones(3, 4))
    assert torch.equal(got, expected)
    assert_close(gradient.double(), wide)
    assert gradient[0].tolist()[2] == 0
    assert gradient[0].count_nonzero() == 3


def test_nothing_stays_changed():
    model, x = Fn(in_place), torch.rand(4, 6)
    weights, image = copy.deepcopy(model.state_dict()), x.clone()
    plain = model(x)
    enabled = torch.backends.mkldnn.set_flags(None, _fp32_precision=None)
    with float64_values():
        model(x)
    with pytest.raises(RuntimeError), float64_values():
        model(x[:, 1:])
    assert torch.backends.mkldnn.set_flags(None, _fp32_precision=None) == enabled
    assert all(torch.equal(t, weights[name]) for name, t in model.state_dict().items())
    assert torch.equal(x, image)
    assert torch.equal(model(x), plain)


def test_other_threads_compute_as_ever():
    model, x, seen = Fn(torch.relu), torch.rand(4, 6), []
    expected = model(x)
    with float64_values():
        thread = threading.Thread(target=lambda: seen.append(model(x)))
        thread.start()
        thread.join()
    assert torch.equal(seen[0], expected)


def test_memory_is_given_back():
    """Twins of tensors that are gone go too: without gradients the peak does not grow with depth."""
    model = nn.Sequential(*(nn.Linear(50, 50) for _ in range(300)))
    with torch.no_grad(), float64_values() as values:
        model(torch.rand(2, 50))
    kept = sum(not pair[0].expired() for pair in values._twins.values())
    assert kept <= 2 * len(model) + 5  # weights and biases
    assert len(values._twins) < 2 * len(model) + 100


def pooled(x):
    return x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2))


class Recomputed(torch.autograd.Function):
    """Max pooling that finds its maxima again on the way back."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.max_pool2d(x, 2)

    @staticmethod
    def backward(ctx, g):
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            return torch.autograd.grad(torch.max_pool2d(x, 2), x, g, create_graph=True)[0]


POOLS = {
    "amax": lambda x: pooled(x).amax((3, 5)),
    "maximum": lambda x: torch.maximum(torch.maximum(x[..., ::2, ::2], x[..., 1::2, ::2]),
                                       torch.maximum(x[..., ::2, 1::2], x[..., 1::2, 1::2])),
    "norm": lambda x: torch.linalg.vector_norm(pooled(x) + 8, float("inf"), (3, 5)) - 8,
    "checkpoint": lambda x: checkpoint(lambda y: torch.max_pool2d(y, 2), x, use_reentrant=False),
    "function": Recomputed.apply,
    "in place": lambda x: torch.max_pool2d(x.unsqueeze_(2).squeeze_(2), 2),
    "max_pool2d": lambda x: torch.max_pool2d(x, 2),
}  # fmt: skip


class Pooled(nn.Module):
    """Near ties in every pool of a nearly flat image."""

    def __init__(self, pool):
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.head, self.pool = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(128, 12), pool

    def forward(self, x):
        return self.head(self.pool(self.conv(x)).flatten(1))


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("method", ["exact", "lanczos", "power"])
def test_maxima_that_are_found_again_on_the_way_back(pool, method):
    model = Pooled(POOLS[pool])
    wide = fv.Classifier(Pooled(POOLS["max_pool2d"]).double())
    generator = torch.Generator().manual_seed(0)
    steps = torch.stack([torch.randperm(64, generator=generator) for _ in range(12)])
    x = (0.3 + 2.0**-25 * steps).view(12, 1, 8, 8)  # no two pixels the same, and none far apart
    expected = fv.spectrum(wide, x.double(), method="exact", k=1).spectral_norm
    net = fv.Classifier(model)
    s = fv.spectrum(net, x, method=method, k=1, max_steps=2000)
    assert net.precise is (pool in ("in place", "max_pool2d"))
    assert ((s.spectral_norm - expected).abs() <= s.error[:, 0]).all()
    assert (s.error[:, 0] < 1e-3 * expected).all()


@pytest.mark.parametrize(
    "cap", [lambda z: 5 * torch.tanh(3 * (2 + z)), lambda z: 10 * torch.sigmoid(10 + z), nn.Hardtanh(-0.1, 0.1),
            lambda z: nn.functional.relu6(6 + z), lambda z: (z - z.mean(1, keepdim=True)) @ torch.eye(3).to(z)],
)  # fmt: skip
def test_saturated_outputs(cap):
    torch.manual_seed(0)
    small = Fn(torch.relu)

    class Capped(nn.Module):
        def __init__(self):
            super().__init__()
            self.small = small

        def forward(self, x):
            return cap(self.small(x))

    x = torch.rand(6, 6)
    s = fv.spectrum(Capped(), x)
    expected = fv.spectrum(copy.deepcopy(Capped()).double(), x.double()).eigenvalues
    assert ((s.eigenvalues - expected).abs() <= s.error).all()
    assert (s.error[:, 0] <= 1e-3 * expected[:, 0]).all()


class OnlyFloat32(nn.Module):
    """A network with an operation that knows no float64."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 4)

    def forward(self, x):
        if x.dtype == torch.float64:
            raise self.refusal
        return self.net(x)


@pytest.mark.parametrize("refusal", [RuntimeError("not implemented for Double"), AssertionError(), TypeError("float")])
def test_a_model_that_knows_no_float64_is_not_verified(refusal):
    net, x = fv.Classifier(OnlyFloat32()), torch.rand(3, 6)
    net.model.refusal = refusal
    s = fv.spectrum(net, x)
    assert not net.precise
    assert s.reason.endswith("which `error` knows from a neighbour of the input")
    assert s.guarantee == "unverified"
    assert torch.equal(s.eigenvalues, fv.spectrum(net, x, verify=False).eigenvalues)
    with pytest.raises(ValueError, match="verify=True needs a float64 pass"):
        fv.spectrum(net, x, verify=True)


@pytest.mark.parametrize(
    "name", ["cifar10-resnet20", "cifar10-resnet4b-robust", "mnist-lenet5-robust", "cifar10-cnn-robust"]
)
def test_real_networks(realdata, name):
    """Rows to some machine epsilons, where a plain forward pass is wrong by percents on some images."""
    model, (x, _) = realdata.network(name), realdata.images(realdata.NETWORKS[name][-1], 32)
    got, expected, gradient, wide = both(model.eval(), x)
    assert_close(got, expected, rtol=1e-12, atol=1e-12)
    off = (gradient - wide).flatten(1).norm(dim=1) / wide.flatten(1).norm(dim=1)
    assert off.max() < 16 * torch.finfo(torch.float32).eps


def test_passes_are_counted():
    """One VJP more than there are gradients measures rounding, with a forward pass where that one was float32's."""
    for activation in (nn.ReLU(), nn.Tanh()):
        smooth = isinstance(activation, nn.Tanh)
        for verify, forwards in ((None, 1 + smooth), (False, 2)):
            model = nn.Sequential(nn.Linear(6, 8), activation, nn.Linear(8, 4))
            s = fv.spectrum(model, torch.rand(2, 6), verify=verify)
            assert s.cost.vjps.tolist() == [4, 4]
            assert s.cost.forwards.tolist() == [forwards] * 2
            assert s.eigenvectors.dtype == torch.float32


def test_models_without_products_along_directions():
    """What "exact" can do and the iterations cannot is said by them."""

    class Powers(nn.Module):
        """Its second derivative is 0 · ∞ where a pool is all zeros."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8 * 49, 40)
            self.conv.bias.data -= 0.3

        def forward(self, x):
            return self.head(nn.functional.lp_pool2d(self.conv(x).relu(), 4.0, 4).flatten(1))

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return torch.from_numpy(2 * g.detach().numpy())  # which no tape sees

    x, image = torch.rand(2, 6), torch.rand(4, 1, 28, 28)
    for model, inputs, error in ((Fn(Once.apply), x, NotImplementedError), (Powers(), image, FloatingPointError)):
        assert fv.spectrum(model, inputs, method="exact").error.isfinite().all()
        with pytest.raises(error, match="method='exact'"):
            fv.spectrum(model, inputs, method="lanczos")


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(3, 4, 3, padding=2, dilation=2), (2, 3, 9)),
        (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 3, 7, 6)),
        (nn.Conv2d(3, 4, 1, bias=False), (2, 3, 5, 5)),
        (nn.Conv2d(4, 4, 3, groups=2), (2, 4, 5, 5)),
        (nn.Conv2d(4, 4, 3, groups=2).to(memory_format=torch.channels_last), (2, 4, 5, 5)),
        (nn.Conv3d(2, 3, 2, padding=1, stride=2), (1, 2, 4, 5, 6)),
        (nn.Conv2d(4, 8, (3, 2), padding=(2, 0), stride=(1, 2), dilation=(2, 1), groups=4), (2, 4, 6, 5)),
        (nn.Conv1d(3, 3, 5, groups=3, bias=False), (3, 3, 7)),
    ],
)
def test_convolutions_in_float64_are_those_of_torch(layer, shape):
    layer, x = layer.double(), torch.randn(*shape, dtype=torch.float64)
    rest = layer.stride, layer.padding, layer.dilation
    z = _grouped(_windows(x, layer.weight.shape[2:], *rest), layer.weight, layer.groups)
    bias = 0 if layer.bias is None else layer.bias.view(-1, *[1] * (x.ndim - 2))
    assert_close(z + bias, layer(x))


class Edged(nn.Module):
    """Beside the edge of its activation by less than float32 tells: 1e-9 below or above it."""

    def __init__(self, activation, edge, in_place):
        super().__init__()
        self.activation = getattr(nn, activation)(inplace=in_place)
        self.first, self.last = nn.Linear(2, 2, bias=False), nn.Linear(2, 3)
        self.first.weight = nn.Parameter(torch.tensor([[edge, 1e-9], [edge, -1e-9]]))
        self.last.weight = nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))

    def forward(self, x):
        return self.last(self.activation(self.first(x)))


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(("activation", "edge"), [("ReLU6", 6.0), ("Hardswish", 3.0), ("Hardswish", -3.0),
                                                  ("Hardsigmoid", -3.0)])  # fmt: skip
@pytest.mark.parametrize("method", ["exact", "power"])
def test_numbers_beside_an_edge_stay_on_their_side(activation, edge, in_place, method):
    torch.manual_seed(0)
    model, x = Edged(activation, edge, in_place), torch.ones(1, 2)
    net = fv.Classifier(model, input_range=None)
    s = fv.spectrum(net, x, method=method, k=1, max_steps=50)
    expected = fv.spectrum(copy.deepcopy(model).double(), x.double(), method="exact", k=1).spectral_norm
    assert net.precise
    assert_close(s.spectral_norm, expected, rtol=1e-5, atol=0)
    assert not torch.allclose(fv.spectrum(net, x, k=1, verify=False).spectral_norm, expected, rtol=1e-2)


@pytest.mark.parametrize(
    ("layer", "smooth"),
    [(nn.GELU(), True), (nn.LayerNorm(8), True), (nn.ReLU(), False), (nn.ReLU6(), False), (nn.Hardswish(), False)],
)
def test_networks_without_kinks_stay_in_float32(layer, smooth):
    torch.manual_seed(0)
    net, x = fv.Classifier(nn.Sequential(nn.Linear(6, 8), layer, nn.Linear(8, 4))), torch.rand(5, 6)
    s = fv.spectrum(net, x)
    assert net.smooth is smooth
    assert ("the network is smooth" in s.reason) is smooth
    assert s.guarantee == "exact"
    expected = fv.spectrum(copy.deepcopy(net.model).double(), x.double()).eigenvalues
    assert ((s.eigenvalues - expected).abs() <= s.error).all()
    assert_close(s.spectral_norm, expected[:, 0], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "bend", [nn.SELU(), nn.ELU(2.0), nn.ELU(2.0, inplace=True), nn.Softplus(threshold=1),
             lambda h: h * h.long(), lambda h: h * torch.empty(h.shape, dtype=torch.long).copy_(h),
             lambda h: h * torch.div(h.detach(), 0.1, rounding_mode="floor")],
)  # fmt: skip
def test_kinks_that_come_with_arguments(bend):
    x = torch.rand(2, 6)
    with Traits(x) as traits, torch.no_grad():
        Fn(bend)(x)
    assert not traits.smooth


def test_a_comparison_of_constants_is_no_kink():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.mask = nn.Linear(6, 8), nn.Buffer(torch.arange(8))

        def forward(self, x):
            shift = x.new_zeros(8)
            shift[5:] = 1.0
            return self.first(x).masked_fill((self.mask > 4) | (shift != 0), 0.0).tanh()

    net = fv.Classifier(Masked())
    net.admit(torch.rand(2, 6))
    assert net.smooth
