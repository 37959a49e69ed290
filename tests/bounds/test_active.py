"""Bounds over the units that react: the dense Jacobian is never above, and what is off takes no part."""

import math

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as tf

import fimviz as fv
import fimviz.bounds as bounds
from fimviz.bounds import active
from fimviz.bounds.active import conv_blocks, conv_rows, norm, numbered, patches

from .test_layers import Call, drawn, randomised
from .test_network import REAL, check

CONVS = {1: tf.conv1d, 2: tf.conv2d, 3: tf.conv3d}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), spatial=st.integers(1, 3), mode=st.sampled_from(["constant", "circular", "reflect",
       "replicate"]))  # fmt: skip
def test_rows_are_those_of_the_dense_matrix(seed, spatial, mode):
    draw = np.random.default_rng(seed)
    kernel, stride, dilation = (tuple(int(n) for n in draw.integers(1, m, spatial)) for m in (4, 3, 3))
    size = tuple(int(n) for n in draw.integers(5, 8 if spatial < 3 else 6, spatial))
    groups = int(draw.integers(1, 3))
    pad = tuple(int(draw.integers(0, 3)) for _ in range(spatial))
    weight = drawn(2 * groups, int(draw.integers(1, 3)), *kernel, seed=seed)
    channels = weight.shape[1] * groups
    around = [n for p in reversed(pad) for n in (p, p)]

    def function(x):
        return CONVS[spatial](tf.pad(x, around, mode), weight, None, stride, 0, dilation, groups)

    inputs = math.prod(size) * channels
    matrix = function(torch.eye(inputs, dtype=torch.float64).view(-1, channels, *size)).flatten(1).T

    def read():
        return patches(numbered((channels, *size), pad, pad, mode), kernel, stride, dilation)

    numbers = draw.permutation(len(matrix))[: len(matrix) // 2 + 1]
    factors = draw.standard_normal(len(numbers))
    rows = conv_rows(weight, read, groups, inputs)(numbers, factors)
    assert np.allclose(rows.toarray(), factors[:, None] * matrix.numpy()[numbers])
    assert np.linalg.norm(matrix.numpy(), 2) <= norm(conv_rows(weight, read, groups, inputs)(
        np.arange(len(matrix)), np.ones(len(matrix))))  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), spatial=st.integers(1, 3))
def test_blocks_are_what_a_convolution_without_overlaps_falls_into(seed, spatial):
    draw = np.random.default_rng(seed)
    kernel = tuple(int(n) for n in draw.integers(1, 4, spatial))
    stride = tuple(k + int(draw.integers(0, 2)) for k in kernel)
    size = tuple(int(n) for n in draw.integers(5, 8 if spatial < 3 else 6, spatial))
    groups, pad = int(draw.integers(1, 3)), tuple(int(draw.integers(0, k // 2 + 1)) for k in kernel)
    weight = drawn(2 * groups, int(draw.integers(1, 3)), *kernel, seed=seed)
    channels = weight.shape[1] * groups
    inputs = math.prod(size) * channels
    eye = torch.eye(inputs, dtype=torch.float64).view(-1, channels, *size)
    matrix = CONVS[spatial](eye, weight, None, stride, pad, 1, groups).flatten(1).T.numpy()
    slopes, on = draw.random(len(matrix)), draw.random(inputs) < 0.6

    def read():
        return patches(numbered((channels, *size), pad, pad), kernel, stride, (1,) * spatial)

    blocks = torch.cat(list(conv_blocks(weight, read, groups)(slopes, on)))
    assert len(blocks) == groups * len(matrix) // len(weight)
    whole = slopes[:, None] * matrix * on
    assert torch.linalg.matrix_norm(blocks, 2).amax().item() == pytest.approx(np.linalg.norm(whole, 2), rel=1e-9)


@pytest.mark.parametrize("layer", [nn.Conv2d(256, 1024, 1), nn.Conv2d(256, 256, 3, padding=1, groups=256)])
def test_places_and_groups_apart_are_bounded_by_their_units(layer, monkeypatch):
    """Of wide layers, whose matrices as a whole would be too large."""
    monkeypatch.setattr(active, "_WORK", 4e8)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 256, 1), nn.ReLU(), layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(layer.out_channels, 2))  # fmt: skip
    steps = bounds.local_bound(net, torch.rand(1, 1, 4, 4)).steps[0]
    assert "units that react" in steps[3].formula


def sparse(draw, shape, density):
    return scipy.sparse.csr_array(draw.random(shape) * (draw.random(shape) < density))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), density=st.floats(0.01, 0.5), scale=st.floats(1e-12, 1e12))
def test_a_sparse_norm_is_above_and_close(seed, density, scale):
    draw = np.random.default_rng(seed)
    matrix = sparse(draw, tuple(draw.integers(1, 60, 2)), density) * scale
    exact = np.linalg.norm(matrix.toarray(), 2)
    assert exact <= norm(matrix) <= 1.02 * exact + 1e-300


def test_a_wrong_guess_is_found_out(monkeypatch):
    matrix = sparse(np.random.default_rng(0), (80, 90), 0.1)
    monkeypatch.setattr(active, "_guess", lambda *_: 1e-3)
    assert np.linalg.norm(matrix.toarray(), 2) <= norm(matrix)


def test_what_costs_too_much_keeps_the_norm_of_all_units(monkeypatch):
    monkeypatch.setattr(active, "_WORK", 10)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    here, there = check(net, torch.rand(2, 1, 8, 8))
    assert (here.log10_features <= there.log10_features).all()


def test_off_units_take_no_part():
    """Of two units one is off, whose weights are a hundred times as large: rows before the ReLU, columns behind it."""
    first, second = nn.Linear(2, 2), nn.Linear(2, 2, bias=False)
    first.weight.data, first.bias.data = torch.tensor([[1.0, 0.0], [0.0, 100.0]]), torch.tensor([1.0, -1000.0])
    second.weight.data = torch.tensor([[3.0, 100.0], [4.0, 100.0]])
    net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(2, 2))
    bound = bounds.local_bound(net, torch.full((1, 2), 0.5))
    assert bound.features.item() == pytest.approx(5, rel=1e-6)
    assert bounds.network_bound(net, (2,)).features > 1e4
    names = [step.kind for step in bound.steps[0]]
    assert names == ["linear", "ReLU", "linear", "ReLU", "linear"]
    assert "units that react" in bound.steps[0][1].formula
    assert bound.steps[0][1].log10_bound == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("pre", [0.0, 1e-9, -1e-9])
def test_a_unit_within_rounding_of_its_kink_counts(pre):
    """Of a slope that rounding decides, the bound holds for both sides."""
    first = nn.Linear(2, 2)
    first.weight.data, first.bias.data = torch.tensor([[1.0, 0.0], [0.0, 50.0]]), torch.tensor([1.0, pre - 25.0])
    bound = bounds.local_bound(nn.Sequential(first, nn.ReLU(), nn.Linear(2, 2)), torch.full((1, 2), 0.5))
    assert bound.features.item() == pytest.approx(50, rel=1e-6)


def test_windows_that_tie_may_choose_either():
    """A flat background: which of four equal pixels a pool copies is rounding's choice, and each has its own slope."""
    first = nn.Conv2d(1, 1, 1)
    net = nn.Sequential(first, nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    first.weight.data.fill_(2.0)
    first.bias.data.fill_(1.0)
    check(net, torch.full((1, 1, 4, 4), 0.25))


class Net(nn.Module):
    """Convolutions, pools, sums, concatenations and piecewise linear functions in random order."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        act = [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.1), nn.Hardtanh(-0.5, 1.0), nn.Hardswish(), nn.ELU(), nn.PReLU(),
               nn.GELU(), nn.ReLU(inplace=True), Call(lambda x: x.clamp(min=0.1)), Call(torch.relu)]  # fmt: skip
        pools = [nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2, 1),
                 nn.Identity(), nn.Dropout(), nn.AdaptiveAvgPool2d(3)]  # fmt: skip
        pick = lambda many: many[int(torch.randint(0, len(many), ()))]  # noqa: E731
        self.stem, self.a, self.pool = (
            nn.Conv2d(2, 4, 3, padding=1, padding_mode=pick(["zeros", "reflect"])),
            pick(act),
            pick(pools),
        )
        self.norm, self.left, self.b = randomised(nn.BatchNorm2d(4), seed), nn.Conv2d(4, 4, 3, padding=1), pick(act)
        right = [nn.Identity(), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, 1, 1, groups=4)]
        self.right = right[seed % 4]
        self.c, self.last, self.last_pool = pick(act), nn.Conv2d(8, 3, 2), pick(pools[:2] + pools[4:])
        self.order, self.flat = seed % 3, nn.Flatten()
        with torch.no_grad():
            width = self.trunk(torch.zeros(1, 2, 9, 8)).shape[1]
        self.dense, self.head = nn.Linear(width, 6), nn.Linear(6, 3)

    def trunk(self, x):
        x = self.stem(x)
        x = self.pool(self.a(x)) if self.order else self.a(self.pool(x))
        y = self.b(self.norm(x)) if self.order == 2 else self.norm(self.left(x))
        x = self.c(self.left(y) + self.right(x))
        return self.flat(self.last_pool(self.last(torch.cat([x, 0.5 * y], 1))))

    def forward(self, x):
        return self.head(tf.relu(self.dense(self.trunk(x))))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), half=st.booleans())
def test_random_networks(seed, half):
    x = torch.rand(2, 2, 9, 8, generator=torch.Generator().manual_seed(seed))
    x = (2 * x).round() / 2 if half else x  # flat areas and ties
    check(Net(seed).eval(), x)


LEAST = {"digits-mlp": 1.3, "digits-vgg": 10, "digits-resnet": 100, "digits-densenet": 50}
LEAST |= {f"{name}-robust": gain for name, gain in LEAST.items()}


@pytest.mark.parametrize("name", LEAST)
def test_how_much_tighter(name):
    """Of λ, whose bound grows with the square."""
    net, x = fv.zoo.load(name), fv.zoo.digits().images[:2]
    gain = 2 * (bounds.network_bound(net, x).log10_features - bounds.local_bound(net, x).log10_features)
    assert (10**gain >= LEAST[name]).all()


@pytest.mark.parametrize("name", REAL[1:])
def test_how_much_tighter_on_real_networks(realdata, name):
    x, _ = realdata.images(realdata.NETWORKS[name][-1], 1)
    net = fv.Classifier(realdata.network(name))
    gain = 2 * (bounds.network_bound(net, x).log10_features - bounds.local_bound(net, x).log10_features)
    assert (10**gain >= 4).all()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), smooth=st.booleans(), normed=st.booleans())
def test_too_large_layers_leave_out_channels_that_are_off_throughout(seed, smooth, normed):
    torch.manual_seed(seed)  # also of x
    layers = [nn.Conv2d(2, 4, 3, padding=1), *([nn.BatchNorm2d(4)] if normed else []), nn.ReLU(),
              nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"), nn.SiLU() if smooth else nn.ReLU(), nn.Flatten(),
              nn.Linear(75, 3)]  # fmt: skip
    model = randomised(nn.Sequential(*layers), seed).double().eval()
    model[0].bias.data[seed % 4] -= 1e3  # as a channel is that never reacts, whose weights nothing has made small
    layers[-4].weight.data[:, seed % 4] *= 30
    x = torch.rand(1, 2, 5, 5, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(active, "_ENTRIES", 0)
        check(fv.Classifier(model), x)
        large = bounds.local_bound(model, x).features
        patch.setattr(active.Read, "_by_channel", lambda *_: np.inf)
        without = bounds.local_bound(model, x).features
        assert without >= large
        assert normed or large == 0 or without > 3 * large
    assert bounds.local_bound(model, x).features <= large * (1 + 1e-9)
