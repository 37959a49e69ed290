"""Linear bounds: what must hold for every network, and against exact answers."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from torch import nn

import fimviz as fv
from fimviz.bounds import NoRuleError
from fimviz.bounds.linear import numbers, recorded
from fimviz.bounds.linear.blocks import Block, near_by_near
from fimviz.bounds.linear.curves import CURVES, between, extent
from fimviz.bounds.linear.enclosed import Region, carried, enclose
from fimviz.bounds.linear.recorded import values


class Both(nn.Module):
    """Parts side by side, joined by a function."""

    def __init__(self, join, *parts):
        super().__init__()
        self.join, self.parts = join, nn.ModuleList(parts)

    def forward(self, x):
        return self.join(*(part(x) for part in self.parts))


def small(*layers, channels=2, size=6):
    """A network of some layers on (channels, size, size), with a head of three classes."""
    torch.manual_seed(len(layers))
    body = nn.Sequential(*layers).double().eval()
    for m in body.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_().mul_(0.1)
            m.running_var.uniform_(0.5, 2)
            m.weight.data.normal_()
    with torch.no_grad():
        count = body(torch.rand(1, channels, size, size).double()).numel()
    return nn.Sequential(body, nn.Flatten(), nn.Linear(count, 3)).double().eval()


def conv(i, o, k=3, **options):
    return nn.Conv2d(i, o, k, **options)


LAYERS = {
    "a strided convolution with groups": lambda: (conv(2, 4, stride=2, groups=2, padding=1), nn.ReLU()),
    "a dilated one": lambda: (conv(2, 3, dilation=2), nn.ReLU6(), conv(3, 2, 1)),
    "a transposed one": lambda: (nn.ConvTranspose2d(2, 3, 2, stride=2), nn.ReLU(), conv(3, 2)),
    "normalised": lambda: (conv(2, 4, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.LeakyReLU(0.2)),
    "largest of windows": lambda: (conv(2, 3), nn.ReLU(), nn.MaxPool2d(2)),
    "largest of windows that overlap": lambda: (conv(2, 3), nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.Tanh()),
    "averages": lambda: (conv(2, 3), nn.Sigmoid(), nn.AvgPool2d(2), nn.Softplus(), nn.AdaptiveAvgPool2d(1)),
    "smooth": lambda: (conv(2, 3), nn.GELU(), conv(3, 3, 1), nn.SiLU(), conv(3, 2, 1), nn.ELU()),
    "smooth by a formula": lambda: (conv(2, 3), nn.GELU("tanh"), conv(3, 3, 1), nn.Hardswish(), nn.Hardsigmoid()),
    "a residual sum": lambda: (
        conv(2, 4, padding=1),
        nn.ReLU(),
        Both(torch.add, nn.Sequential(conv(4, 4, padding=1), nn.ReLU()), nn.Identity()),
    ),
    "a difference": lambda: (Both(lambda a, b: 2.0 - a * 3 - b / 2, conv(2, 3), conv(2, 3)), nn.ReLU()),
    "concatenated": lambda: (Both(lambda a, b: torch.cat([a, b], 1), conv(2, 3), conv(2, 2)), nn.ReLU(), conv(5, 3)),
    "turned and cut": lambda: (conv(2, 4), Both(lambda a: a.chunk(2, 1)[1].permute(0, 2, 3, 1)[:, 1:], nn.ReLU())),
    "clamped and squared": lambda: (conv(2, 3), Both(lambda a: a.clamp(-0.2, 0.4).square() + a.abs(), nn.Identity())),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_step_and_row_is_enclosed(name):
    net = fv.Classifier(small(*LAYERS[name]()), mean=(0.4, 0.5), std=(0.2, 0.3))
    g = torch.Generator().manual_seed(1)
    x = torch.rand(3, 2, 6, 6, generator=g).double().round(decimals=1)  # some at the edges of the box
    x[0, 0, 0] = 0.0
    steps = recorded(net, x)
    for radius in (0.0, 0.02, 0.3):
        region = Region(x.flatten(1), torch.full((3,), radius).double(), (0.0, 1.0))
        found = enclose(steps, region)
        delta = torch.randn(200, 3, 72, generator=g).double()
        points = (region.x + radius * delta / delta.norm(dim=2, keepdim=True)).clamp(0, 1)
        seen_at = values(steps, points.flatten(0, 1))
        rows = torch.randn(4, 3, generator=g).double()
        assert torch.allclose(seen_at[-1], net.logits(points.view(-1, 2, 6, 6)), rtol=1e-10, atol=1e-12)
        for low, high, value in zip(found.low, found.high, seen_at, strict=True):
            seen = value.view(200, 3, -1)
            assert (low <= seen.amin(0)).all()
            assert (seen.amax(0) <= high).all()
        for i in range(3):
            seen = seen_at[-1].view(200, 3, -1)[:, i] @ rows.T
            for parallel in (False, True):
                got = carried(steps, len(steps) - 1, Block.of(rows, steps[-1].shape), i, found, parallel)
                assert (got.low(region.radius[i]) <= seen.amin(0)).all()
                if parallel:
                    assert (seen.amax(0) <= got.high(region.radius[i])).all()
                if radius == 0:
                    assert torch.allclose(got.low(region.radius[i]), seen[0], atol=1e-6)
        # What is known of a ball holds in a smaller one, and what it leaves open is all that there is to carry back.
        half = Region(region.x, region.radius / 2, region.box)
        inner = values(steps, (region.x + (points - region.x) / 2).flatten(0, 1))
        alone = enclose(steps, half)
        for again, twice in ((False, False), (True, False), (True, True)):
            less = enclose(steps, half, found.known, again, twice)
            for low, high, value in zip(less.low, less.high, inner, strict=True):
                assert (low <= value.view(200, 3, -1).amin(0)).all()
                assert (value.view(200, 3, -1).amax(0) <= high).all()
            if again and not twice:
                last = Block.of(rows, steps[-1].shape)
                got, plain = (carried(steps, len(steps) - 1, last, 0, e).low(half.radius[0]) for e in (less, alone))
                assert (got >= plain - 1e-6 - 0.01 * (seen[0] - plain).abs()).all()


WINDOWS = {
    "strides and edges": ((1, 11, 9), lambda: (conv(1, 2, (3, 2), stride=(2, 1), padding=(2, 0)), nn.ReLU(),
                                               conv(2, 3, 3, padding="same"), nn.ReLU(), conv(3, 2, 2, stride=2))),
    "gaps between strides": ((2, 12, 12), lambda: (conv(2, 4, 1, stride=3, groups=2), nn.ReLU6(), conv(4, 2, 1))),
    "an edge wider than the image": ((1, 3, 3), lambda: (conv(1, 2, 1, padding=4), nn.ReLU(), conv(2, 2, 3))),
    "pools that overlap": ((1, 10, 10), lambda: (conv(1, 2, 3, dilation=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
                                                 conv(2, 3, 2), nn.Tanh(), nn.AvgPool2d(2))),
    "a residual sum": ((1, 9, 9), lambda: (conv(1, 2), nn.ReLU(), Both(torch.add, nn.Identity(), nn.Sequential(
        conv(2, 2, padding=1), nn.ReLU(), conv(2, 2, padding=1))), nn.BatchNorm2d(2), nn.ReLU(), conv(2, 2))),
    "in time": ((2, 40), lambda: (nn.Conv1d(2, 3, 3, stride=2), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(3, 2, 3))),
    "in space": ((1, 5, 6, 7), lambda: (nn.Conv3d(1, 2, 2, padding=1), nn.ReLU(), nn.Conv3d(2, 2, (1, 3, 2)))),
}  # fmt: skip


@pytest.mark.parametrize("name", WINDOWS)
def test_rows_in_blocks_are_those_of_all_numbers(name):
    shape, layers = WINDOWS[name]
    torch.manual_seed(0)
    model = nn.Sequential(*layers(), nn.Flatten(), nn.LazyLinear(2)).double().eval()
    x = torch.rand(1, *shape).double()
    model(x)
    steps = recorded(fv.Classifier(model), x)
    found = enclose(steps, Region(x.flatten(1), torch.tensor([0.1]).double(), (0.0, 1.0)))
    cut = 0
    for source in range(1, len(steps) - 3):
        size = steps[source].shape.numel()
        for some in torch.arange(size)[near_by_near(torch.arange(size), steps[source].shape)].split(max(4, size // 9)):
            few, eye = Block.ones(some, steps[source].shape), torch.eye(size, dtype=torch.float64)[some]
            cut += not few.all
            assert torch.equal(few.complete(), eye)
            for parallel in (False, True):
                ours = carried(steps, source, few, 0, found, parallel)
                whole = carried(steps, source, Block.of(eye, steps[source].shape), 0, found, parallel)
                for a, b in zip(ours.parts(), whole.parts(), strict=True):
                    assert torch.allclose(a, b, atol=1e-6)
    assert cut > 20


@pytest.mark.parametrize("name", CURVES)
@given(st.floats(-9, 9), st.floats(0, 12))
@settings(max_examples=40, deadline=None)
def test_lines_enclose_the_curve(name, middle, width):
    args = {"clamp": (-0.5, 1.5), "clamp_min": (0.3,), "pow": (2,), "elu": (0.7, 1.2, 1.5)}.get(name, ())
    curve = CURVES[name](*args)
    low, high = torch.tensor([middle - width / 2]).double(), torch.tensor([middle + width / 2]).double()
    t = low + (high - low) * torch.linspace(0, 1, 4001).double()
    f = curve.run(t)
    for below, under, above, over in between(curve, low, high):
        assert (below * t + under <= f).all()
        assert (f <= above * t + over).all()
    least, most = extent(curve, low, high)
    assert least <= f.min()
    assert f.max() <= most
    assert most - least <= (f.max() - f.min()) * 1.2 + 0.02 * width**2 + 1e-6, "not loose either"


def exact_distance(weights, x, mode):
    """The L2 distance to where another class draws level, of a ReLU network with one hidden layer, by its patterns."""
    (w, b), (v, c) = weights
    best = np.inf
    for pattern in itertools.product((0.0, 1.0), repeat=len(w)):
        on = np.array(pattern)
        linear, constant = v @ (on[:, None] * w), v @ (on * b) + c
        sides = np.where(on > 0, 1.0, -1.0)
        for k in set(range(len(v))) - {mode}:
            a = np.vstack([sides[:, None] * w, (linear[k] - linear[mode])[None]])
            h = -np.append(sides * b, constant[k] - constant[mode]) - a @ x  # a δ ≥ h
            u, left = nnls(np.vstack([a.T, h[None]]), np.append(np.zeros(len(x)), 1.0))
            if left < 1e-10:
                continue  # no point of this pattern is one of class k
            r = np.vstack([a.T, h[None]]) @ u - np.append(np.zeros(len(x)), 1.0)
            best = min(best, float(np.linalg.norm(-r[:-1] / r[-1])))
    return best


def test_below_the_distance_that_all_patterns_of_a_network_give():
    ratios = []
    for seed in range(12):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 3)).double()
        x = torch.rand(2, 3).double()
        found = fv.certified_radius(fv.Classifier(model, input_range=None), x, method="linear", attack=False)
        for i in range(2):
            weights = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in (model[0], model[2])]
            exact = exact_distance(weights, x[i].numpy(), int(found.predictions[i]))
            assert found.radius[i] <= exact * (1 + 1e-9)
            ratios.append(float(found.radius[i]) / exact)
    assert np.median(ratios) > 0.8


def test_one_layer_is_exact():
    """A linear network's radius is its gap over the norm of the difference of two rows, class by class."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    x = torch.rand(5, 4).double()
    found = fv.certified_radius(fv.Classifier(model, input_range=None), x, method="linear", attack=False)
    z, y = model(x).detach(), found.predictions
    gaps = z.gather(1, y[:, None]) - z
    norms = (model.weight[y][:, None] - model.weight[None]).norm(dim=2).detach()
    other = torch.arange(3) != y[:, None]
    assert (found.by_class[other] <= (gaps / norms)[other] * (1 + 1e-12)).all()
    assert (found.linear_form > 0.9 * (gaps / norms).masked_fill(~other, torch.inf).amin(1)).all()
    assert found.by_class[~other].isinf().all()
    assert found.method == ["linear"] * 5


def test_the_box_of_the_pixels_lengthens_the_radius():
    """At x = 0 a half of all directions leaves the box: what then is to be overcome takes a longer way."""
    model = nn.Linear(8, 2, bias=False).double()
    model.weight.data = torch.tensor([[1.0] * 4 + [-1.0] * 4, [0.0] * 8]).double()
    x = torch.tensor([[0.3] * 4 + [0.02] * 4]).double()
    free, boxed = (
        float(fv.certified_radius(fv.Classifier(model, input_range=r), x, method="linear", attack=False).radius)
        for r in (None, (0.0, 1.0))
    )
    assert free == pytest.approx(1.12 / 8**0.5, rel=0.1)
    assert free <= 1.12 / 8**0.5
    assert boxed <= 1.12 / 8**0.5
    edge = torch.zeros(1, 8).double()
    edge[0, :4] = 0.3  # the first half can only be made darker until it is black: 0.3 each, and the other half brighter
    boxed = float(fv.certified_radius(fv.Classifier(model), edge, method="linear", attack=False).radius)
    assert boxed == pytest.approx(1.2 / 8**0.5, rel=0.1)
    model.weight.data[0, 4:] = 1.0  # now the other half would have to be darker than black
    boxed = float(fv.certified_radius(fv.Classifier(model), edge, method="linear", attack=False).radius)
    assert 0.9 * 0.6 < boxed <= 0.6, "four pixels by 0.3 each, and not 1.2/√8 = 0.42"


def test_rounding_breaks_no_claim():
    """In float32 x + 2²⁵ − 2²⁵ is 0 for every x below 2; in float64 the same happens at 2⁵⁴."""

    class Shifted(nn.Module):
        def __init__(self, by):
            super().__init__()
            self.by = by

        def forward(self, x):
            z = torch.relu(x + self.by) - self.by
            return torch.cat([z, torch.full_like(z, 0.5)], 1)

    x = torch.tensor([[1.4]])
    assert Shifted(2.0**25)(x)[0, 0] == 0
    r = fv.certified_radius(fv.Classifier(Shifted(2.0**25), input_range=(0, 2)), x, method="linear", attack=False)
    assert int(r.predictions) == 0
    assert 0.8 < float(r.radius) <= 0.9
    r = fv.certified_radius(fv.Classifier(Shifted(2.0**54), input_range=(0, 2)), x, method="linear", attack=False)
    assert float(r.radius) == 0, "nothing is proved of what double precision cannot tell"


def test_the_better_of_two_methods_for_each_input():
    images, _ = fv.zoo.digits()
    net = fv.zoo.load("digits-mlp")
    both, norms, linear = (
        fv.certified_radius(net, images[:4], method=m, attack=False) for m in ("auto", "norms", "linear")
    )
    assert torch.equal(both.radius, torch.maximum(norms.radius, linear.radius))
    assert (linear.radius > 2 * norms.radius).all()
    assert set(both.method) == {"linear"}
    assert norms.by_class.isnan().all()
    assert linear.logit_form.isnan().all()
    assert list(both.frame.columns[:3]) == ["sample", "radius", "method"]


def test_yes_no_labels_keep_each_of_their_answers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x = torch.rand(3, 4).double()
    net = fv.Classifier(model, likelihood="bernoulli", input_range=None)
    found = fv.certified_radius(net, x, method="linear", steps=20)
    assert found.holds.all()
    assert found.by_class.isfinite().all()
    assert (found.radius > 0).all()


def test_what_has_no_linear_bounds_says_so_and_keeps_the_older_certificate():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()
    found = fv.certified_radius(model, torch.rand(2, 4).double(), method="linear", attack=False)
    assert found.radius.isnan().all()
    assert "native_layer_norm" in found.reason
    with pytest.raises(NoRuleError, match="native_layer_norm"):
        recorded(fv.Classifier(model), torch.rand(2, 4).double())
    with pytest.raises(ValueError, match="method is 'crown', expected one of 'auto', 'norms', 'linear'"):
        fv.certified_radius(model, torch.rand(2, 4).double(), method="crown")


def test_a_hook_that_the_graph_does_not_see_is_found():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    model.register_forward_hook(lambda module, given, z: 2 * z.flip(1) + 1)
    found = fv.certified_radius(model, torch.rand(2, 4).double(), method="linear", attack=False)
    assert found.radius.isnan().all()
    assert "forward hook" in found.reason


_STATISTICS = (torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
REFUSED = {
    "quotients in whole numbers": (lambda x: torch.div(x, 0.1, rounding_mode="floor"), "div"),
    "whole numbers": (lambda x: (4 * x).to(torch.int64).double(), "int64"),
    "single precision": (lambda x: x.float().double(), "float32"),
    "edges of another number": (lambda x: nn.functional.pad(x, (1, 1), value=-5.0)[:, 1:5], "constant_pad_nd"),
    "powers of the input": (lambda x: 2.0**x, "pow"),
    "a product of two": (lambda x: x * x.flip(1), "mul"),
    "nothing": (lambda x: torch.cat([x[:, :0].relu(), x], 1), "without a number"),
    "a pool over the batch": (lambda x: nn.functional.max_pool3d(x.view(-1, 1, 1, 4), 1).view(-1, 4), "max_pool3d"),
    "gains of the input": (lambda x: nn.functional.batch_norm(x, *_STATISTICS, x[0]), "batch_norm"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_lines_do_not_enclose_is_refused(name):
    function, words = REFUSED[name]
    net = fv.Classifier(nn.Sequential(Both(function, nn.Identity()), nn.Linear(4, 2)).double())
    with pytest.raises(NoRuleError, match=words):
        recorded(net, torch.rand(1, 4).double())


@pytest.mark.parametrize("largest", [1e95, 1e160])
def test_pixels_whose_rounding_has_no_bound_are_refused(largest):
    found = fv.certified_radius(
        fv.Classifier(nn.Linear(4, 2).double(), input_range=(0, largest)), torch.rand(1, 4).double(), attack=False
    )
    assert "pixels as large as" in found.reasons["linear"]


@pytest.mark.parametrize("fused", [False, True])
def test_what_cancels_in_a_normalisation_is_counted(fused):
    norm, mean, shift = nn.BatchNorm2d(1, eps=0.0).double().eval(), 1e6 + 0.3, 1.3e6 + 0.39
    norm.weight.data[:], norm.bias.data[:], norm.running_mean[:] = 1.3, shift, mean
    one = nn.Conv2d(1, 1, 1, bias=False).double()
    one.weight.data[:] = 1.0
    model = nn.Sequential(one if fused else nn.Identity(), norm, nn.Flatten(), nn.Linear(1, 2).double()).eval()
    x = torch.full((1, 1, 1, 1), 0.3).double()
    steps = recorded(fv.Classifier(model), x)
    found = enclose(steps, Region(x.flatten(1), torch.zeros(1).double(), None))
    (place,) = (i for i, step in enumerate(steps) if step.name == "native_batch_norm")
    exact = Fraction(1.3) * (Fraction(0.3) - Fraction(mean)) + Fraction(shift)
    assert float(found.low[place]) <= exact <= float(found.high[place])
    assert found.high[place] - found.low[place] < 1e-6


def test_a_network_that_is_flat_around_the_input():
    """Where nothing falls, no margin is expected to end: the search must neither leave the box nor stop at once."""

    class Flat(nn.Module):
        def forward(self, x):
            return torch.stack([0.5 + 0 * x[:, 0], (x.sum(1) - 2).relu()], 1)

    x = torch.full((1, 4), 0.1).double()
    for box, least in (((0.0, 1.0), 0.95), (None, 0.95), ((0.0, 0.6), torch.inf)):
        found = fv.certified_radius(fv.Classifier(Flat(), input_range=box), x, method="linear", attack=False)
        assert least <= found.radius.item() <= (1.05 if least < torch.inf else least)


@pytest.mark.parametrize("name", ["padding", "stride", "dilation"])
def test_one_number_for_all_axes_of_a_convolution(name):
    x, found = torch.rand(1, 1, 7, 7, generator=torch.Generator().manual_seed(0)).double(), []
    for value in ((2,), 2):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(1, 4, 3, **{name: value}), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).double()
        model(x)
        radius = fv.certified_radius(model, x, method="linear", attack=False).radius
        found.append((radius.item(), fv.spectrum(model, x, k=1, method="lanczos").spectral_norm.item()))
    assert min(found[0]) > 0
    assert found[0] == pytest.approx(found[1])


def test_a_network_that_would_take_minutes_keeps_the_older_certificate(monkeypatch):
    images, _ = fv.zoo.digits()
    net = fv.zoo.load("digits-mlp")
    assert 0 < numbers(recorded(net, images[:1])) < 1e6
    monkeypatch.setattr("fimviz.bounds.linear.MANY", 10.0)
    found = fv.certified_radius(net, images[:2], attack=False)
    assert found.method == ["norms", "norms"]
    assert "method='linear'" in found.reasons["linear"]
    assert found.reason == ""


@pytest.mark.parametrize("name", ["digits-resnet", "digits-vgg-robust", "digits-mlp-robust"])
def test_no_attack_succeeds_within_a_linear_radius(name):
    images, _ = fv.zoo.digits()
    found = fv.certified_radius(fv.zoo.load(name), images[10:12], method="linear", steps=15, restarts=4)
    assert found.holds.all()
    assert (found.attack > found.radius).all()
    assert (found.attack < 100 * found.radius).all()
