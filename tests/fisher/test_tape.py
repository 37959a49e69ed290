"""A recorded linear map gives what the map gives, or says that it cannot be repeated."""

from __future__ import annotations

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
