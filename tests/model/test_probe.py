"""Large images: a network is asked what it is made of at fewer pixels, and is refused for what it was refused for."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as tf

import fimviz as fv

X = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))


class Large(nn.Module):
    """A network of large images with something in it that is done to them, which takes one size or all."""

    def __init__(self, change=lambda x: x, inner=lambda x: x, *, fixed=False, act=nn.functional.gelu):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 6, 8, 8), nn.Linear(6 * 256 if fixed else 6, 4)
        self.change, self.inner, self.fixed, self.act = change, inner, fixed, act

    def forward(self, x):
        x = self.act(self.inner(self.first(self.change(x))))
        return self.last(x.flatten(1) if self.fixed else x.mean((2, 3)))


SIZES = pytest.mark.parametrize("fixed", [False, True])


@SIZES
@pytest.mark.parametrize(
    ("inner", "said"),
    [
        (lambda x: tf.dropout(x, 0.5, training=True), "random in evaluation mode"),
        (lambda x: x + 1e-2 * torch.randn(1), "random in evaluation mode"),
        (lambda x: tf.batch_norm(x, None, None, training=True), "influence each other"),
        (lambda x: x + 1e-6 * x.flip(0), "influence each other"),
        (lambda x: x + 1e-6 * x.cumsum(0), "influence each other"),
        (lambda x: x + 1e-6 * x.flip(0).cumsum(0), "influence each other"),
        (lambda x: x + x.detach().cumsum(0), "influence each other"),
        (lambda x: x - x.detach().mean(0), "influence each other"),
        (lambda x: x.detach(), "do not depend on the images differentiably"),
        (lambda x: x / 0, "NaN or infinite logits"),
    ],
)
def test_what_is_refused(inner, said, fixed):
    with pytest.raises(ValueError, match=said):
        fv.Classifier(Large(inner=inner, fixed=fixed)).admit(X)


def when_large(inner):
    return lambda x: inner(x) if x.shape[-1] > 8 else x


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        (lambda x: tf.dropout(x, 0.5, training=True), "random in evaluation mode"),
        (lambda x: x - x.mean(0, keepdim=True), "influence each other"),
        (lambda x: x.detach(), "do not depend on the images differentiably"),
    ],
)
def test_what_is_done_to_large_images_alone_is_refused(inner, said):
    with pytest.raises(ValueError, match=said):
        fv.Classifier(Large(inner=when_large(inner))).admit(X)


def test_what_is_done_to_large_images_alone_is_told_and_understood():
    with pytest.warns(UserWarning, match="the gradient does not describe this model"):
        fv.Classifier(Large(inner=when_large(lambda x: (x * 8).round() / 8 + 1e-6 * x))).admit(X)
    net = fv.Classifier(Large(inner=when_large(torch.relu)))
    net.admit(X)
    assert not net.smooth


def hidden(x):
    """Half of what comes through has no gradient, as a hook of the user's has taken it away."""
    y = x * 1
    y.register_hook(lambda g: torch.cat([g[:, :3], 0 * g[:, 3:]], 1))
    return y


MASKED = {
    "rounded": {"change": lambda x: (x * 31).round() / 31},
    "detached in part": {"change": lambda x: torch.cat([x[..., :60].detach(), x[..., 60:]], -1)},
    "a threshold": {"change": lambda x: (x > 0.4).float() + 1e-6 * x},
    "hooked": {"inner": hidden},
}


@SIZES
@pytest.mark.parametrize("act", [nn.functional.gelu, nn.functional.relu])
@pytest.mark.parametrize("name", MASKED)
def test_masked_gradients_are_told(name, act, fixed):
    with pytest.warns(UserWarning, match="the gradient does not describe this model"):
        fv.Classifier(Large(**MASKED[name], act=act, fixed=fixed)).admit(X)


def test_networks_of_one_size_and_of_all_are_understood():
    class NoRule(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return torch.from_numpy(g.numpy())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fixed in (False, True):
            for act in (nn.functional.gelu, nn.functional.relu):
                net = fv.Classifier(Large(act=act, fixed=fixed))
                net.admit(X)
                kind = (net.smooth, net.precise, net.alone, net.batched_vjp, net.has_float64)
                assert kind == (act is nn.functional.gelu, act is nn.functional.relu, True, True, True)
            hard = fv.Classifier(Large(inner=lambda x: x.float().mul(torch.ones(1)), fixed=fixed))
            hard.admit(X)
            assert not hard.has_float64
            other = fv.Classifier(Large(inner=NoRule.apply, fixed=fixed))
            other.admit(X)
            assert not other.batched_vjp


@pytest.mark.parametrize(("act", "fixed", "most"), [("gelu", False, 4), ("relu", False, 5), ("gelu", True, 12)])
def test_how_many_pixels_are_asked(act, fixed, most):
    """In inputs of full size that go forward; it was 18 and more."""
    model, seen = Large(act=getattr(nn.functional, act), fixed=fixed), []
    model.register_forward_pre_hook(lambda m, args: seen.append(args[0].numel()))
    fv.Classifier(model).admit(X)
    assert sum(seen) <= most * X.numel()


def test_what_is_asked_stays_within_the_budget():
    net = fv.Classifier(Large(act=nn.functional.relu))
    with pytest.raises(
        MemoryError, match=r"at least .* are needed, for asking the model at its first use .* max_memory= or"
    ):
        net.admit(X, 1000)
    with pytest.raises(MemoryError, match="for asking the model"):
        fv.spectrum(Large(), X, max_memory=1000)
    assert net.admit(X, 1e8).shape == X.shape
    net.admit(X, 1000)  # it has been asked
