"""A recorded linear map gives what the map gives, or says that it cannot be repeated."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.autograd.functional import jvp

import fimviz as fv
from fimviz.fisher import block, passes
from fimviz.fisher.passes import Linearisation, tangent
from fimviz.fisher.tape import RepeatError, repeatable
from fimviz.model.engine.plan import plan

A = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def written_into_blank(v):
    out = torch.zeros(7)
    out[1:6] = A @ v
    out[2:4].add_(v[:2])
    return out


def split_and_joined(v):
    a, b = v.chunk(2)
    unused = torch.sin(a)  # noqa: F841
    return torch.cat([b, 2 * a, v.flip(0)])


def read_before_written(v):
    out = torch.zeros(4)
    before = out.clone()
    out.copy_(v)
    return out + before + A[:4, 0] * 0


@pytest.mark.parametrize("linear", [lambda v: A @ v, written_into_blank, split_and_joined, read_before_written])
def test_linear_maps(linear):
    v, w = torch.randn(2, 4)
    first, again = repeatable(linear, v)
    assert torch.equal(first, linear(v))
    for _ in range(2):
        assert torch.equal(again(w), linear(w))
        assert torch.equal(again(v), first)


def test_only_what_depends_on_the_argument_is_repeated(monkeypatch):
    heavy = torch.rand(4, 4)
    v = torch.rand(4)
    _, again = repeatable(lambda v: (heavy @ heavy @ heavy) @ v, v)
    seen = []

    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Seen():
        again(v)
    assert seen == [torch.ops.aten.mv.default]


@pytest.mark.parametrize(
    "branching",
    [
        lambda v: v if v.sum() > 0 else 2 * v,
        lambda v: v * v.abs().max().item(),
        lambda v: v[v.nonzero()[:, 0]],
        lambda v: torch.from_numpy(2 * v.numpy()),
        lambda v: A[:4, 0],
    ],
    ids=["if", "item", "nonzero", "NumPy", "constant"],
)
def test_what_cannot_be_repeated_is_said(branching):
    with pytest.raises(RepeatError):
        repeatable(branching, torch.rand(4))


def test_writing_into_what_was_there_before_is_not_repeated():
    kept = torch.zeros(4)
    with pytest.raises(RepeatError):
        repeatable(lambda v: kept.add_(v).clone(), torch.rand(4))


def test_forward_mode_of_a_network():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(64, 3),
    ).requires_grad_(False)  # fmt: skip
    x, v, w = (torch.rand(2, 1, 8, 8) for _ in range(3))
    with torch.no_grad():
        _, again = repeatable(lambda v: tangent(net, x, v), v)
    assert torch.allclose(again(w), jvp(net, x, w)[1], atol=1e-6)


CONVOLUTIONS = {
    "strided": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "one row more than strides reach": nn.Conv2d(4, 6, (2, 3), stride=3, padding=(0, 1)),
    "dilated": nn.Conv2d(4, 4, 3, padding=2, dilation=2),
    "depthwise": nn.Conv2d(4, 8, 3, padding=1, groups=4),
    "grouped": nn.Conv2d(4, 6, 3, stride=2, groups=2),
    "transposed": nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2),
    "in one dimension": nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 5, 5, stride=2, groups=1)),
    "in three": nn.Conv3d(2, 3, (1, 3, 2), stride=(1, 2, 1), padding=(0, 1, 0)),
}  # fmt: skip
LAYERS = {
    **CONVOLUTIONS,
    **{f.__name__: f() for f in (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU, nn.ELU, nn.Mish)},
    **{f.__name__: f() for f in (nn.LeakyReLU, nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Softsign)},
    "GELU by tanh": nn.GELU(approximate="tanh"),
    "BatchNorm": nn.BatchNorm2d(4),
    "BatchNorm without weights": nn.BatchNorm2d(4, affine=False),
    "LayerNorm": nn.LayerNorm(8),
    "softmax": nn.Softmax(1),
    "pooled": nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(3, stride=1)),
}


def images(name):
    return (2, 2, 2, 9, 8) if name == "in three" else (2, 4, 9, 8)


class Ending(nn.Module):
    """A layer whose input lies on both sides of its kinks, and a linear head."""

    def __init__(self, layer, size):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(size, 5)

    def forward(self, x):
        return self.head(self.layer(4 * x - 2).flatten(1))


@pytest.mark.parametrize("name", LAYERS)
def test_the_derivative_of_a_backward_pass_is_that_of_the_network(name):
    torch.manual_seed(0)
    layer = copy.deepcopy(LAYERS[name]).double()
    if name.startswith("BatchNorm"):
        layer.running_mean.normal_(), layer.running_var.uniform_(0.5, 2)
    layer.eval()
    x = torch.rand(images(name), dtype=torch.float64)
    model = Ending(layer, layer(x)[0].numel()).double().eval()
    net = fv.Classifier(model)
    net.admit(x)
    with net.at_rest():
        passes = Linearisation(net, x, along=True)
        for _ in range(3):  # the one that is recorded, and its repetitions
            v = torch.randn_like(x)
            assert torch.allclose(passes.jvp(v.flatten(1)), torch.func.jvp(model, (x,), (v,))[1], atol=1e-12)
    assert net.repeatable


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_go_back_as_convolutions(name):
    seen = []

    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.rand(images(name), requires_grad=True)
    z = copy.deepcopy(CONVOLUTIONS[name]).requires_grad_(False)(x)
    g, again = repeatable(lambda c: torch.autograd.grad(z, x, c, retain_graph=True)[0], torch.ones_like(z))
    with Seen():
        assert torch.allclose(again(torch.ones_like(z)), g, atol=1e-6)
    assert torch.ops.aten.convolution.default in seen
    assert torch.ops.aten.convolution_backward.default not in seen


def test_graphs_that_did_not_fit_are_given_back_without_the_garbage_collector(monkeypatch):
    alive = []

    class Watched(Linearisation):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            alive.append(weakref.ref(self))

    def scarce(linear, v):
        if len(v) > 1:
            raise torch.OutOfMemoryError("feigned")
        return repeatable(linear, v)

    monkeypatch.setattr(block, "Linearisation", Watched)
    monkeypatch.setattr(passes, "repeatable", scarce)
    net = fv.Classifier(nn.Sequential(nn.Linear(12, 40), nn.GELU(), nn.Linear(40, 50)))
    x = torch.rand(2, 12)
    net.admit(x)
    gc.disable()
    try:
        fv.spectrum(net, x, k=1, method="lanczos", verify=False)
    finally:
        gc.enable()
    assert len(alive) >= 3
    assert not any(one() for one in alive)


def test_batches_leave_room_for_graphs_until_a_tape_is_known_to_be_there():
    net, x = fv.Classifier(nn.Sequential(nn.Linear(6, 4000), nn.Tanh(), nn.Linear(4000, 3))), torch.rand(50, 6)
    counts = []
    net(x)
    with net.at_rest():
        for net.repeatable in (True, None, False):
            counts.append(plan(net, x, 1, True, 2, True, False, 4e6)[0])
    assert 50 > counts[0] > counts[1] >= counts[2] >= 1
