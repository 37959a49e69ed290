import contextlib
import copy
import threading
import time
import warnings
from collections import UserList
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as tf
from torch.testing import assert_close

import fimviz as fv
from fimviz.model.at_rest import at_rest, lock_of
from fimviz.model.classifier import as_classifier


class Fn(nn.Module):
    """Any function of a batch as a model, with or without the weights that it uses."""

    def __init__(self, f, inner=None):
        super().__init__()
        self.f, self.inner = f, inner

    def forward(self, x):
        return self.f(x)


def linear(k=4, d=12):
    torch.manual_seed(k)
    return nn.Sequential(nn.Flatten(), nn.Linear(d, k))


def cnn():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 5)
    return nn.Sequential(*layers)


def call(f, x, **options):
    return fv.Classifier(f if isinstance(f, nn.Module) else Fn(f), **options)(x)


def log_softmax(z):
    return z.detach().log_softmax(1)


@pytest.fixture
def images():
    return torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(1))


MEAN, STD = [0.1, 0.5, 0.7], [0.2, 0.3, 0.4]


@pytest.mark.parametrize("form", [list, tuple, np.array, torch.tensor, lambda v: torch.tensor(v).view(3, 1, 1), max])
def test_normalisation_and_temperature_are_folded_in(images, form):
    model, x, y = linear(), images.clone().requires_grad_(), images.clone().requires_grad_()
    log_p = call(model, x, mean=form(MEAN), std=form(STD), temperature=2.5)
    mean, std = (torch.as_tensor(form(v)).float().view(1, -1, 1, 1) for v in (MEAN, STD))
    expected = (model((y - mean) / std) / 2.5).log_softmax(1)
    assert_close(log_p, expected)
    assert_close(torch.autograd.grad(log_p[:, 1].sum(), x), torch.autograd.grad(expected[:, 1].sum(), y))


WRAPS = [lambda z: (z, 1), lambda z: [z], lambda z: {"loss": None, "logits": z}, lambda z: SimpleNamespace(logits=z)]


@pytest.mark.parametrize("wrap", WRAPS)
def test_output_adapters(images, wrap):
    inner = linear()
    assert_close(call(Fn(lambda x: wrap(inner(x)), inner), images), log_softmax(inner(images)))


NAMES = [(None, ["0", "1"]), (["cat"], ["not cat", "cat"]), (["dog", "cat"], ["dog", "cat"])]


@pytest.mark.parametrize(("names", "expected"), NAMES)
def test_one_logit_is_a_binary_model(images, names, expected):
    model = linear(1)
    net = fv.Classifier(model, likelihood="bernoulli", classes=names, temperature=0.5)
    z = 2 * model(images).detach()
    assert_close(net(images), torch.cat([tf.logsigmoid(-z), tf.logsigmoid(z)], 1))
    assert (net.likelihood.name, net.classes) == ("categorical", expected)


def test_several_sigmoids(images):
    model = linear(3)
    net = fv.Classifier(model, likelihood="bernoulli", temperature=0.5)
    assert_close(net(images), tf.logsigmoid(2 * model(images).detach()))
    assert net.likelihood.name == "bernoulli"


def test_the_model_is_checked_once(images):
    model, calls = linear(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    net = as_classifier(model)
    with pytest.raises(ValueError, match="first call"):
        net.classes  # noqa: B018
    net(images)
    first = len(calls)
    net(images)
    assert len(calls) == first + 1
    net.classes.clear()
    assert net.classes == ["0", "1", "2", "3"]
    assert as_classifier(net) is net
    assert repr(net) == "Classifier(Sequential, 4 classes)"


@pytest.mark.parametrize("name", ["cifar10-resnet20", "mnist-lenet5"])
def test_real_networks(realdata, name):
    x, y = realdata.images(realdata.NETWORKS[name][4], 8)
    model = realdata.network(name)
    with torch.no_grad():
        expected = log_softmax(model(x))
    got = call(model, x, classes=realdata.NETWORKS[name][3])
    assert_close(got, expected)
    assert (got.argmax(1) == y).float().mean() > 0.8
    if name == "mnist-lenet5":
        assert_close(call(model.bfloat16(), x), expected, atol=0.5, rtol=0.1)


class Nosy(nn.Module):
    """Writes into everything that a forward pass can reach, and notes the state that it ran in."""

    def __init__(self, fail=0):
        super().__init__()
        self.net, self.norm, self.drop = linear(), nn.BatchNorm1d(12), nn.Dropout(0.5).eval()
        self.net[1].bias.requires_grad_(False)
        for p in self.parameters():
            p.grad = torch.ones_like(p)
        self.register_buffer("written", torch.zeros(2))
        self.register_buffer("nan", torch.tensor([torch.nan, 1.0]))
        self.register_buffer("replaced", torch.tensor(0))
        self.register_buffer("cache", None)
        self.net.register_forward_hook(lambda *_: None)
        self.net.register_full_backward_hook(lambda *_: None)
        self.fail, self.seen = fail, UserList()  # a list would be put back

    def forward(self, x):
        torch.manual_seed(0)
        self.written += 1
        self.nan.zero_()
        self.replaced, self.cache = self.replaced + 1, x.detach()
        statistics = self.norm.running_mean, self.norm.running_var
        tf.batch_norm(torch.cat([x, 2 * x]).flatten(1), *statistics, training=True, momentum=0.5)
        modes = [m.training for m in self.modules()] + [p.requires_grad for p in self.parameters()]
        modes += [
            torch.is_autocast_enabled("cpu"),
            torch.is_inference_mode_enabled(),
            bool({"tf32", "bf16"} & set(precision())),
        ]
        self.seen.append(not any(modes))
        if self.fail and len(self.seen) >= self.fail:
            raise KeyError("the model's own error")
        with torch.backends.cudnn.flags(enabled=False):
            return self.net(x)


def precision():
    b = torch.backends
    switches = b.cudnn.conv, b.cudnn.rnn, b.cuda.matmul, b.mkldnn.conv, b.mkldnn.rnn, b.mkldnn.matmul
    return b.cudnn.allow_tf32, *(s.fp32_precision for s in switches), torch.get_float32_matmul_precision()


def state(model):
    hooks = [(m._forward_hooks, m._forward_pre_hooks, m._backward_hooks) for m in model.modules()]
    switches = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), precision()
    return str((
        [m.training for m in model.modules()], [(n, p, p.requires_grad, p.grad) for n, p in model.named_parameters()],
        [(n, id(b), b) for m in model.modules() for n, b in m._buffers.items()], hooks, switches,
        torch.get_rng_state().tolist(),
    ))  # fmt: skip


CONTEXTS = {
    "plain": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.fixture(params=["highest", "medium"])
def matmul_precision(request):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("matmul_precision")
@pytest.mark.parametrize("fail", [0, 1, 4, 8])
@pytest.mark.parametrize("context", CONTEXTS)
def test_everything_is_restored(images, context, fail):
    model = Nosy(fail)
    net, kept = fv.Classifier(model), copy.deepcopy(dict(model.named_buffers()))
    torch.manual_seed(7)
    with CONTEXTS[context]():
        before = state(model)
        with pytest.raises(KeyError, match="own error") if fail else contextlib.nullcontext():
            for _ in range(4):
                net(images)
        assert state(model) == before
    assert model.seen
    assert all(model.seen)
    assert_close(dict(model.named_buffers()), kept, rtol=0, atol=0, equal_nan=True)
    assert lock_of(model).acquire(blocking=False)
    lock_of(model).release()


@pytest.mark.parametrize("context", CONTEXTS)
def test_results_ignore_the_callers_context(images, context):
    model = linear()
    with CONTEXTS[context]():
        x = images.double() * 1.0  # under inference_mode this makes an inference tensor
        got, admitted = call(model, x), fv.Classifier(model).admit(x)
    assert not admitted.is_inference()
    assert not got.requires_grad
    assert torch.equal(got, call(model, images))


def test_only_a_model_that_draws_rewinds_the_generator(images):
    net = fv.Classifier(linear())
    net(images)
    with net.at_rest():  # another thread may draw now
        inside = torch.rand(3)
    assert not torch.equal(inside, torch.rand(3))


def test_a_users_graph_survives_a_call(images):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 4)).eval()
    loss = model(images.clone().requires_grad_()).logsumexp(1).sum()
    call(model, images)
    loss.backward()
    assert model[2].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("mean", [0.0, 0.5])
def test_an_in_place_model_leaves_the_images(images, mean):
    kept, inner = images.clone(), linear()
    assert_close(call(Fn(lambda x: inner(x.mul_(2)), inner), images, mean=mean), log_softmax(inner(2 * (kept - mean))))
    assert torch.equal(images, kept)


def read_only(x):
    array = x.numpy().copy()
    array.flags.writeable = False
    return array


FORMS = {
    "float64": lambda x: x.double().numpy(),
    "read-only": read_only,
    "reversed": lambda x: np.ascontiguousarray(x.numpy()[::-1])[::-1],
    "nested list": lambda x: x.tolist(),
    "inference": torch.inference_mode()(torch.clone),
    "gradient": lambda x: x.clone().requires_grad_(),
    "permuted": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "view": lambda x: torch.cat([x, x])[:3],
    "strided": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "half": lambda x: x.half(),
    "list of tensors": list,
    "list of tensors with gradient": lambda x: [one.clone().requires_grad_() for one in x],
    "tuple of arrays": lambda x: tuple(one.numpy() for one in x),
    "arrays and tensors": lambda x: [x[0].numpy(), *x[1:]],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_images(images, form):
    inner = nn.Linear(12, 4)
    model = Fn(lambda x: inner(x.view(len(x), -1)), inner)  # a view of a strided batch raises
    got, tolerance = call(model, FORMS[form](images)), 1e-3 if form == "half" else 1e-6
    assert_close(got.detach(), log_softmax(model(images)), atol=tolerance, rtol=tolerance)
    assert got.requires_grad == ("gradient" in form)


def test_images_of_pil():
    """Floats pass as they are; 8 bits, whose range is known, become channels in [0, 1]."""
    pixels = torch.rand(2, 4, 5)
    model, one = linear(3, 20), [Image.fromarray(p.numpy()) for p in pixels]
    assert_close(call(model, one), call(model, pixels))
    assert_close(call(lambda x: x @ torch.eye(5)[:, :3], one[0]), call(lambda x: x @ torch.eye(5)[:, :3], pixels[0]))
    grey, colour = (
        Image.fromarray((p * 255).byte().numpy()).convert(m) for p, m in zip(pixels, ("L", "RGB"), strict=True)
    )
    for images, channels in ((grey, 1), ([colour] * 2, 3)):
        planes = torch.from_numpy(np.array(images)).view(-1, 4, 5, channels).permute(0, 3, 1, 2) / 255
        assert_close(call(linear(3, 20 * channels), images), call(linear(3, 20 * channels), planes))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_used_in_float32(images, dtype):
    model = cnn().to(dtype)
    x = torch.rand(3, 3, 8, 8)
    net = fv.Classifier(model)
    assert_close(net(x), call(copy.deepcopy(model).float(), x), rtol=0, atol=0)
    assert net.has_float64
    assert {t.dtype for t in model.state_dict().values() if t.is_floating_point()} == {dtype}
    inner = linear().to(dtype)
    for forward in (lambda v: inner(v.to(dtype)), lambda v: inner(v).to(dtype)):
        hard = fv.Classifier(Fn(forward, inner))
        assert_close(hard(images), call(inner, images), atol=0.05, rtol=0.05)
        assert not hard.has_float64


def test_probabilities_of_sigmoids_are_refused_and_logits_in_their_range_are_not(images):
    call(nn.Sequential(linear(3), nn.Sigmoid()), images)
    for outputs in (1, 3):
        ends = nn.Sequential(linear(outputs), nn.Sigmoid())
        with pytest.raises(ValueError, match=r"ends in a sigmoid .*expected logits: leave it out"):
            call(ends, images, likelihood="bernoulli", temperature=0.5)
        gate = nn.Sigmoid()
        call(
            Fn(lambda x, f=ends, g=gate: f[0](g(x)) - 5, nn.ModuleList([ends[0], gate])), images, likelihood="bernoulli"
        )
        call(Fn(lambda x, f=ends: 0.1 + 0.1 * f[0](x).tanh(), ends[0]), images, likelihood="bernoulli")


HEADS = nn.ModuleList([linear(1), linear(1)])
SQUASHED = [
    lambda x: tf.hardsigmoid(HEADS[0](x)),
    lambda x: torch.sigmoid(HEADS[0](x)).double().float(),
    lambda x: torch.stack([torch.sigmoid(h(x))[:, 0] for h in HEADS], 1),
    lambda x: torch.cat([h(x).sigmoid() for h in HEADS], 1).clamp(1e-6, 1 - 1e-6),
    lambda x: {"logits": torch.special.expit(torch.cat([h(x) for h in HEADS], 1)).view(len(x), 2, 1).squeeze(2)},
]


@pytest.mark.parametrize("forward", SQUASHED)
def test_a_sigmoid_called_as_a_function_is_refused_as_a_module_is(images, forward):
    with pytest.raises(ValueError, match=r"ends in a sigmoid .* expected logits"):
        call(Fn(forward, HEADS), images, likelihood="bernoulli")


def test_what_ends_in_probabilities_is_told_from_logits(images):
    three = linear(3)
    for f in (tf.softmax, tf.log_softmax):
        with pytest.raises(ValueError, match=r"ends in (Log)?Softmax, expected logits of yes/no labels"):
            call(Fn(lambda x, f=f: f(three(x), 1), three), images, likelihood="bernoulli")
    with pytest.raises(ValueError, match="ends in LogSigmoid"):
        call(Fn(lambda x: tf.logsigmoid(three(x)), three), images, likelihood="bernoulli")
    with pytest.warns(UserWarning, match="for yes/no labels leave the sigmoid out"):
        call(Fn(lambda x: three(x).sigmoid(), three), images)
    log_probabilities = Fn(lambda x: tf.log_softmax(three(x), 1), three)
    assert_close(call(log_probabilities, images), call(three, images))
    assert_close(fv.spectrum(log_probabilities, images).eigenvalues, fv.spectrum(three, images).eigenvalues)
    call(Fn(lambda x: three(x).sigmoid() * 3 - 1, three), images, likelihood="bernoulli")


def photographs(n=8, side=16, seed=0):
    """Smooth grey levels of eight bits in three channels, darker and lighter."""
    rough = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return (255 * tf.interpolate(rough, side, mode="bilinear")).round() / 255


def flat(x):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 4))


UNITS = [
    (lambda x: (x, {"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}), "cannot have: divide both by 255"),
    (lambda x: (x, {"mean": (103.5, 116.3, 123.7)}), "std is 1, which .* divide both by 255"),
    (lambda x: (x, {"std": 255}), r"mean is 0 and std is 255, which pixels in \[0, 1\] cannot have"),
    (lambda x: (x / 255, {}), "divided by 255 twice"),
    (lambda x: (x, {"input_range": (0, 255)}), r"divided by 255 already\? Then pass input_range=\(0, 1\)"),
    (lambda x: (255 * x, {"mean": 0.45, "std": 0.23, "input_range": (0, 255)}), "multiply both by 255"),
    (
        lambda x: (x, {"mean": 0.5, "std": (x.transpose(0, 1).flatten(1).std(1) ** 2).tolist()}),
        "was the variance given",
    ),
]


@pytest.mark.parametrize(("given", "said"), UNITS)
def test_mistakes_of_units_are_named_once(given, said):
    x, options = given(photographs())
    net = fv.Classifier(flat(x), **options)
    with pytest.warns(UserWarning, match=said):
        net(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(x)


@pytest.mark.parametrize(
    "given",
    [
        lambda x: (x, {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}),
        lambda x: (x, {"mean": 0.5, "std": 0.5}),
        lambda x: (2 * x - 1, {"input_range": (-1, 1)}),
        lambda x: (255 * x, {"mean": (123.7, 116.3, 103.5), "std": 58.0, "input_range": (0, 255)}),
        lambda x: (255 * x, {"input_range": (0, 255), "std": 255.0}),
        lambda x: (0 * x, {"mean": 0.45, "std": 0.2}),
        lambda x: ((5 * x).round() / 255, {"mean": 0.45, "std": 0.2}),  # a photograph at night
        lambda x: (x.round() / 255, {}),  # noise of one grey level
        lambda x: (x.round(), {"mean": 0.5, "std": 0.25}),  # black and white
        lambda x: (4095 * x / 65535, {"mean": 0.02, "std": 0.015}),  # twelve bits in sixteen
        lambda x: (x / 200, {"mean": 0.5}),
        lambda x: (torch.rand(4, 8) / 255, {}),  # features, no picture
        lambda x: (fv.zoo.digits().images, {"mean": 0.1307, "std": 0.3081}),
        lambda x: (x, {"mean": 300.0, "std": 70.0, "input_range": None}),
    ],
)
def test_no_false_alarm_about_units(given):
    x, options = given(photographs())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fv.Classifier(flat(x), **options)(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_of_the_model(images, dtype):
    model, wide = linear(), torch.float64 if dtype == torch.float64 else torch.float32
    expected = log_softmax(model(images)).to(wide)
    net = fv.Classifier(model.to(dtype))
    assert_close(net(images), expected, atol=0.02, rtol=0.02)
    assert net.dtype == net.admit(images).dtype == wide
    assert net.batched_vjp


def test_shapes_and_layouts():
    x, model = torch.rand(2, 3, 8, 8), cnn().to(memory_format=torch.channels_last)
    assert_close(call(model, x.to(memory_format=torch.channels_last)), call(cnn(), x))
    tied, vectors = linear(12), 100 * torch.randn(5, 12)
    model = nn.Sequential(tied, nn.Tanh(), tied)
    assert_close(call(model, vectors, input_range=None), log_softmax(model(vectors)))
    assert all(p.requires_grad for p in model.parameters())
    for shape in [(1, 7), (2, 5, 3), (1, 2, 3, 4, 5)]:
        net = fv.Classifier(Fn(lambda x: x.flatten(1)[:, :3]))
        assert net(torch.rand(shape)).shape == (shape[0], 3)
        assert (net.device.type, net.dtype) == ("cpu", torch.float32)


class NoRule(torch.autograd.Function):
    """The identity, with a backward pass that several cotangents at once cannot take, or get wrong."""

    @staticmethod
    def forward(ctx, x, silent):
        ctx.silent = silent
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        if ctx.silent:
            return (3 * g if torch._C._functorch.is_batchedtensor(g) else g), None
        return torch.from_numpy(g.numpy()), None


@pytest.mark.parametrize("silent", [False, True])
def test_a_backward_pass_without_vmap_rule(images, silent):
    inner = linear()
    net = fv.Classifier(Fn(lambda x: inner(NoRule.apply(x, silent)), inner))
    assert_close(net(images), call(inner, images))
    assert not net.batched_vjp


def test_compiled_models():
    plain, x = cnn().eval(), torch.rand(3, 3, 8, 8)
    model = torch.compile(plain, backend="aot_eager")
    model(x)
    net = fv.Classifier(model)
    assert_close(net(x), call(plain, x))
    assert net.batched_vjp
    with net.at_rest():  # compiled code has no second derivative
        v = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(net.logits(v)[:, 0].sum(), v, create_graph=True)
        assert torch.autograd.grad(g.square().sum(), v)[0].any()
    assert torch._dynamo.eval_frame._stance.stance == "default"


STRAY = torch.ones(12, requires_grad=True)
SIGNS = torch.tensor([1.0, -1.0, 0.0])
COUPLED, DETACHED = "inputs of a batch influence each other", "differentiably: look for detach"
made_in_inference_mode = torch.inference_mode()(linear)
REFUSED = [
    (lambda x: call(lambda v: tf.dropout(v.flatten(1), 0.5, training=True), x), "random in evaluation mode"),
    (lambda x: call(lambda v: v.flatten(1) + 1e-3 * torch.randn(1), x), "random in evaluation mode"),
    (lambda x: call(lambda v: tf.batch_norm(v, None, None, training=True).flatten(1), x), COUPLED),
    (lambda x: call(lambda v: tf.batch_norm(v.flatten(1), None, None, training=True), x), COUPLED),
    (lambda x: call(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten()), x), COUPLED),
    (lambda x: call(lambda v: v.mean((2, 3)) + 1e-3 * v.mean() * SIGNS, x), COUPLED),
    (lambda x: call(lambda v: v.flatten(1) + 1e-3 * v.flatten(1).cumsum(0), x), COUPLED),
    (lambda x: call(lambda v: v.flatten(1) - 3 * v.mean(0).detach().flatten(), x), COUPLED),
    (lambda x: call(lambda v: v.flatten(1) + v.detach().flatten(1).cumsum(0), x), COUPLED),
    (lambda x: call(lambda v: v.flatten(1).softmax(1), x, temperature=3), "returns probabilities"),
    (lambda x: call(nn.Sequential(linear(40), nn.Softmax(1)).bfloat16(), x), "returns probabilities"),
    (lambda x: call(lambda v: v.flatten(1) / 0, x), "NaN or infinite logits"),
    (lambda x: call(lambda v: v.detach().flatten(1), x), DETACHED),
    (lambda x: call(torch.no_grad()(lambda v: v.flatten(1)), x), DETACHED),
    (lambda x: call(torch.inference_mode()(lambda v: v.flatten(1)), x), DETACHED),
    (lambda x: call(lambda v: v.flatten(1).round().long(), x), DETACHED),
    (lambda x: call(lambda v: v.detach().flatten(1) * STRAY, x), DETACHED),
    (lambda x: call(nn.Identity(), x), r"shape \(2, 3, 2, 2\) for 2 inputs of shape \(3, 2, 2\), expected .*\(2, K\)"),
    (lambda x: call(nn.Flatten(0), x), r"returned shape \(24,\)"),
    (lambda x: call(linear(1), x), "likelihood='bernoulli'"),
    (lambda x: call(lambda v: "cat", x), "returned str, expected logits"),
    (lambda x: call(lambda v: (), x), "returned tuple, expected logits"),
    (lambda x: call(lambda v: {"out": v}, x), "returned dict, expected logits"),
    (lambda x: call(linear(), (255 * x).byte()), "uint8.*expected floats.*images / 255"),
    (lambda x: call(linear(), x.long()), "int64, expected floating-point pixels: pass images / 255 for values 0…255"),
    (lambda x: call(linear(), x + 0j), r"complex64, expected floating-point pixels: pass images.abs\(\)"),
    (lambda x: call(linear(), {"pictures": x}), r"images is a dict, expected .*images\['pixel_values'\]"),
    (lambda x: call(linear(), "cat.png"), "images is a str, expected .*decode_image"),
    (lambda x: call(linear(), Path("cat.png")), "images is a .*Path, expected .*decode_image"),
    (lambda x: call(linear(), ["cat.png"]), "images is a list of str, .*if these are files, make the model with"),
    (lambda x: call(linear(), None), r"images is a NoneType, expected a tensor or array \(n, …\)$"),
    (lambda x: call(linear(), 0.5), "images is a float, expected a tensor"),
    (lambda x: call(linear(), object()), "images is a object, expected a tensor"),
    (lambda x: call(linear(), [None, None]), "images is a list of NoneType, expected a tensor"),
    (lambda x: call(linear(), []), "empty|images have shape"),
    (
        lambda x: call(linear(), (x, torch.rand(3))),
        r"tuple of different shapes, \(3, 3, 2, 2\) and \(3,\).*first part",
    ),
    (lambda x: call(linear(), [x[0].numpy(), x[1, :2].numpy(), x[2]]), r"list of different shapes.*crop or resize"),
    (lambda x: call(linear(), [[0.1, 0.2], [0.3]]), "images is a list whose parts have different shapes"),
    (lambda x: call(linear(), 255 * x), r"to 24\d.*in \[0, 1\]: divide them by the largest.*images / 255"),
    (lambda x: call(cnn(), torch.rand(2, 8, 8, 3)), r"put them first: images.permute\(0, 3, 1, 2\)"),
    (lambda x: call(cnn(), torch.rand(2, 8, 8, 3), mean=MEAN), r"8 channels.*images.permute\(0, 3, 1, 2\)"),
    (lambda x: call(cnn(), torch.rand(8, 8, 3)), r"images.permute\(2, 0, 1\)\[None\]"),
    (lambda x: call(linear(), x[0, 0, 0, 0]), "expected a batch"),
    (lambda x: call(linear(), x[0, 0, 0]), r"shape \(2,\), expected a batch.*images\[None\]"),
    (lambda x: call(linear(), x[:0]), r"batch is empty.*\(0, 3, 2, 2\)"),
    (lambda x: call(linear(), x[..., :0]), "batch is empty"),
    (lambda x: call(linear(), torch.where(x == x.max(), torch.nan, x)), "images contain NaN or infinite"),
    (lambda x: call(linear(), torch.where(x == x.max(), -torch.inf, x)), "images contain NaN or infinite"),
    (lambda x: call(linear(), 4 * x - 2), r"run from -.* to .*, expected values in \[0, 1\].*mean= and std="),
    (lambda x: call(linear(), 1.01 * x / x.max()), "to 1.01, expected values in"),
    (lambda x: call(linear(), 1.002 * x / x.max()), r"to 1.002, expected .*pass images.clamp"),
    (lambda x: call(linear(), x + 2e-3 * x.max() / x, input_range=(0, x.max())), "images run from"),
    (lambda x: call(linear(), x.to("meta")), r"images are on meta and the model is on cpu.*images.to\('cpu'\)"),
    (lambda x: call(linear().to("meta"), x), "model is on the device meta"),
    (lambda x: call(nn.Sequential(linear(), linear(4, 4).to("meta")), x), "spread over .'cpu', 'meta'., expected one"),
    (lambda x: call(made_in_inference_mode(), x), "made inside torch.inference_mode"),
    (lambda x: call(linear(), ["cat"]), "str"),
    (lambda x: call(cnn(), x[0]), r"shape \(3, 2, 2\): one image\? .*images\[None\]"),
    (lambda x: call(cnn(), x[0, :2]), r"2 inputs of shape \(2, 2\).*images\[None\]"),
    (lambda x: call(lambda v: v.view(2, 6), x[0]), r"images\[None\]"),
    (
        lambda x: call(lambda v: v, x[0], mean=MEAN),
        r"mean has 3 values and images have 2 channels \(shape \(3, 2, 2\)\)",
    ),
    (lambda x: call(linear(), x, classes=[]), "0 names and the model has 4 outputs"),
    (lambda x: call(linear(), x, classes=["a", "b", "c"]), "3 names and the model has 4 outputs"),
    (lambda x: call(linear(), x, classes="cat"), "string 'cat', expected a sequence of names"),
    (lambda x: call(linear(), x, mean=[0.5, float("nan"), 0.5]), "mean is .*expected finite"),
    (lambda x: call(linear(), x, mean=torch.zeros(3, 2)), r"shape \(3, 2\), expected a number or one value a channel"),
    (lambda x: call(linear(), x, std=[0.1, 0.0, 1.0]), "std is .*expected positive"),
    (lambda x: call(linear(), x, temperature=0), "temperature is 0, expected a positive finite number"),
    (lambda x: call(linear(), x, temperature=float("inf")), "temperature is inf"),
    (lambda x: call(linear(), x, temperature="1"), "temperature is '1', expected a number"),
    (
        lambda x: call(linear(), x, likelihood="probit"),
        "'probit', expected one of categorical, bernoulli, gau",
    ),
    (lambda x: call(linear(), x, input_range=(1, 0)), "smallest, largest"),
    (lambda x: call(linear(), x, temperatur=1), "no option 'temperatur': did you mean temperature"),
    (lambda x: call(linear(), x, labels=["a"]), "valid names: model, mean"),
    (lambda x: fv.Classifier(linear), "expected a torch.nn.Module.*got the function linear"),
]


@pytest.mark.parametrize(("attempt", "message"), REFUSED)
def test_refusals_give_the_reason(images, attempt, message):
    with pytest.raises((ValueError, TypeError, RuntimeError), match=f"(?s){message}"):
        attempt(images)


def test_a_refused_model_is_refused_again(images):
    net = fv.Classifier(Fn(lambda x: x.flatten(1).softmax(1)))
    for _ in range(2):
        with pytest.raises(ValueError, match="probabilities"):
            net(images)


def test_the_edge_of_the_range_is_inside(images):
    call(linear(), images.round() * (1 + 1e-7))
    call(linear(), 4 * images - 2, input_range=(-2, 2))


@pytest.mark.parametrize(
    ("beyond", "wide", "told"),
    [(1e-5, (0, 1), r"to 1.00001, by"), (1e-4, (0, 1), "to 1.0001, by"), (-1e-5, (0, 1), "from -1e-05 to"),
     (1e-3, (-2, 2), "to 2.001, by"), (0.01, (0, 255), "to 255.01, by")],
)  # fmt: skip
def test_what_leaves_the_range_by_rounding_is_clipped_with_a_note(beyond, wide, told):
    x = torch.linspace(*wide, 12, dtype=torch.float64).float().view(1, 3, 2, 2)
    x[0, 0, 0, 0] = wide[beyond > 0] + beyond
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    for door in (fv.Classifier, lambda m, **o: fv.BlackBox(m, as_torch=True, **o)):
        with pytest.warns(UserWarning, match=told) as note:
            admitted = door(model, input_range=wide).admit(x)
        assert admitted.min() >= wide[0]
        assert admitted.max() <= wide[1]
        assert note[0].filename == __file__
        assert torch.equal(admitted, x.clamp(*wide))
    net = fv.Classifier(model, input_range=wide)
    with pytest.warns(UserWarning, match="clipped"):
        log_p = net(x.requires_grad_())
    assert torch.autograd.grad(log_p[0, 0], x)[0].all()


def run_at_once(*jobs):
    failures = []

    def guarded(job):
        try:
            job()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(job,), daemon=True) for job in jobs]
    for step in (threading.Thread.start, lambda thread: thread.join(20)):
        for thread in threads:
            step(thread)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures


def test_two_wrappers_of_one_model_take_turns(images):
    inner, inside = linear(), []
    expected = call(inner, images)

    def forward(x):
        inside.append(1)
        time.sleep(0.005)
        assert len(inside) == 1
        inside.pop()
        return inner(x)

    model = Fn(forward, inner)

    def job():
        for _ in range(3):
            assert torch.equal(call(model, images), expected)

    run_at_once(job, job)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_two_models_at_once_leave_the_switches():
    before, inside, left = precision(), threading.Barrier(2, timeout=10), threading.Event()

    def first():
        with fv.Classifier(linear()).at_rest():
            inside.wait()
        left.set()

    def second():
        with fv.Classifier(linear()).at_rest():
            inside.wait()
            assert left.wait(10)
            assert set(precision()[1:7]) == {"ieee"}

    run_at_once(first, second)
    assert precision() == before


def test_recurrent_layers_on_cuda_run_without_cudnn_which_other_models_keep():
    """cuDNN goes back through them in training mode only; its switch is looked at, so that no GPU is needed."""
    rnn = nn.Sequential(nn.Identity(), nn.LSTM(2, 2))
    scripted = nn.Sequential(torch.jit.script(nn.GRU(2, 2)))
    seen = []
    for model, device in ((rnn, "cuda"), (scripted, "cuda"), (linear(), "cuda"), (rnn, "cpu")):
        with at_rest(model, torch.device(device), keep_rng=False):
            seen.append(torch.backends.cudnn.enabled)
            with at_rest(nn.GRU(2, 2), torch.device("cuda"), keep_rng=False):
                assert not torch.backends.cudnn.enabled
            assert torch.backends.cudnn.enabled == seen[-1]
    assert seen == [False, False, True, True]
    assert torch.backends.cudnn.enabled


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_recurrent_layers_on_cuda():
    rnn = nn.LSTM(4, 8, batch_first=True)
    model = Fn(lambda x: rnn(x)[0][:, -1, :3], rnn)
    x = torch.rand(2, 5, 4)
    expected = fv.spectrum(model, x).spectral_norm
    rnn.cuda()
    assert_close(fv.spectrum(model, x).spectral_norm, expected, rtol=1e-4, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda(images):
    model, seed = Nosy().cuda(), torch.cuda.get_rng_state()
    net = fv.Classifier(model)
    assert_close(net(images).cpu(), call(Nosy(), images))
    assert_close(net(images.cuda()), net(images))
    assert all(model.seen)
    assert torch.equal(torch.cuda.get_rng_state(), seed)
    with pytest.raises(ValueError, match="images are on cuda:0 and the model is on cpu"):
        call(linear(), images.cuda())
