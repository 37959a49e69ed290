"""Operator norms against the singular values of the dense matrix, on shapes that nobody chose."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as tf

from fimviz.bounds import certify
from fimviz.bounds.norms import Shape, conv_norm, matrix_norm

CONVS = {1: tf.conv1d, 2: tf.conv2d, 3: tf.conv3d}


def dense(function, shape):
    """The matrix of a linear function of tensors of a shape."""
    eye = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    return function(eye).flatten(1).T


@st.composite
def convolutions(draw):
    spatial = draw(st.integers(1, 3))
    most = 4 if spatial < 3 else 2
    groups = draw(st.integers(1, 2))

    def several(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(spatial))

    kernel, stride, dilation, padding = several(1, most), several(1, 3), several(1, 2), several(0, 2)
    size = tuple(
        draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), 8 if spatial < 3 else 5))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    )
    outputs, inputs = groups * draw(st.integers(1, 3)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    weight = torch.randn(outputs, inputs, *kernel, generator=generator, dtype=torch.float64)
    return weight, size, stride, dilation, padding, groups


@settings(max_examples=150, deadline=None)
@given(convolutions())
def test_convolution_bounds_its_dense_matrix(case):
    weight, size, stride, dilation, padding, groups = case
    function = CONVS[len(size)]
    matrix = dense(
        lambda e: function(e, weight, None, stride, padding, dilation, groups), (weight.shape[1] * groups, *size)
    )
    bound = conv_norm(weight, Shape(size, stride, dilation, padding, padding), groups)
    assert torch.linalg.matrix_norm(matrix, 2) <= bound


def test_zero_padding_counter_example():
    """k = [1, 0, −1] on two pixels has norm 1, and its symbol vanishes on the grid of two frequencies."""
    weight = torch.tensor([[[1.0, 0.0, -1.0]]], dtype=torch.float64)
    matrix = dense(lambda e: tf.conv1d(e, weight, padding=1), (1, 2))
    assert torch.linalg.matrix_norm(matrix, 2) == 1
    grid = torch.fft.fft(weight[0, 0], n=4)[::2]  # the two frequencies 0 and π
    assert grid.abs().max() < 1e-15
    assert 1 <= conv_norm(weight, Shape((2,), (1,), (1,), (1,), (1,))) < 2


def test_patches_are_exact():
    """A kernel as large as its stride is a matrix."""
    weight = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bound = conv_norm(weight, Shape((8, 8), (4, 4), (1, 1), (0, 0), (0, 0)))
    assert bound == pytest.approx(torch.linalg.matrix_norm(weight.flatten(1), 2).item(), rel=1e-8)


def test_circular_is_exact():
    weight = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = dense(lambda e: tf.conv1d(tf.pad(e, (1, 1), "circular"), weight), (2, 9))
    bound = conv_norm(weight, Shape((9,), (1,), (1,), (1,), (1,), True))
    assert bound == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item(), rel=1e-8)


@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (80, 90), (130, 100), (300, 200), (1100, 1030)])
def test_matrix_norm(shape):
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    exact = torch.linalg.matrix_norm(weight.double(), 2).item()
    assert exact <= matrix_norm(weight) <= 1.03 * exact


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), rank=st.integers(1, 3), scale=st.floats(1e-12, 1e12), dtype=st.sampled_from(
    [torch.float32, torch.float64, torch.complex64, torch.complex128]))  # fmt: skip
def test_certified_in_every_precision(seed, rank, scale, dtype):
    """Low rank and a gap or none: the guess may be wrong, the bound may not."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(2, 90, rank, generator=generator, dtype=torch.float64) for _ in range(2))
    stack = (scale * (a @ b.mT)).to(dtype)
    exact = torch.linalg.matrix_norm(stack.to(torch.complex128), 2).amax().item()
    assert exact <= certify.largest_singular_value([stack]) <= 1.05 * exact


def test_a_wrong_guess_is_found_out(monkeypatch):
    stack = torch.randn(3, 100, 120, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    monkeypatch.setattr(certify, "_guess", lambda gram: torch.full((len(gram),), 1e-3, dtype=torch.float64))
    assert torch.linalg.matrix_norm(stack, 2).amax() <= certify.largest_singular_value([stack])


@pytest.mark.parametrize("size", [1e-300, 1e-28, 1e-25, 1e28])
def test_entries_whose_squares_leave_the_range_of_numbers(size, monkeypatch):
    monkeypatch.setattr(certify, "_LARGE", 90)  # from here on products are made in float32
    monkeypatch.setattr(certify, "_BLOCK", 64)
    for rank in (80, 100):
        stack = torch.randn(1, rank, 200, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        stack[:, :4] = 0.0
        exact = float(torch.linalg.matrix_norm(stack, 2)) * size
        assert exact <= certify.largest_singular_value([stack * size]) <= 1.05 * exact


def test_writes_into_weights_are_seen():
    """Neither the address nor the version of a tensor tells of a write into its data."""
    layer = torch.nn.Linear(3, 3)
    before = matrix_norm(layer.weight)
    layer.weight.data *= 20
    assert matrix_norm(layer.weight) == pytest.approx(20 * before, rel=1e-5)


def test_infinite_weights_are_refused():
    with pytest.raises(OverflowError, match="infinite"):
        matrix_norm(torch.full((2, 2), torch.inf))


def test_margins_do_not_pile_up():
    """A large kernel is read in many stacks of frequencies; single precision must not be paid for once a stack."""
    weight = torch.randn(320, 320, 3, 3, generator=torch.Generator().manual_seed(3)) / 3
    symbol = torch.fft.fft2(weight.double(), s=(9, 9)).movedim((2, 3), (0, 1)).flatten(0, 1)[:41]
    exact = torch.linalg.eigvalsh(symbol @ symbol.mH).amax().sqrt().item()
    assert exact <= conv_norm(weight, Shape((8, 8), (1, 1), (1, 1), (1, 1), (1, 1))) <= 1.06 * exact
