"""Whole networks, among them graphs that nobody chose: exact ‖J_h(x)‖ ≤ the bound at x ≤ the bound everywhere."""

import copy
import math
import warnings

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import VisionTransformer

import fimviz as fv
import fimviz.bounds as bounds

REAL = ["cifar10-resnet20", "cifar10-marabou", "cifar10-resnet4b-robust", "cifar10-cnn-robust", "mnist-lenet5",
        "mnist-lenet5-robust"]  # fmt: skip


def exact(net, images, ends_linear=True):
    """log₁₀ ‖∂h/∂x‖ by float64 autograd and SVD, h being what the last linear layer reads, or else the logits."""
    model = copy.deepcopy(net.model).double().eval()
    seen = {}
    if ends_linear:
        head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
        head.register_forward_pre_hook(lambda _, args: seen.update(h=args[0]))
    norms = []
    for x in images.double().split(1):
        x = x.clone().requires_grad_()
        shape = (1, -1) + (1,) * (x.ndim - 2)
        z = model((x - net.mean.view(shape)) / net.std.view(shape))
        h = (seen["h"] if ends_linear else z / net.temperature).flatten()
        rows = torch.stack([torch.autograd.grad(one, x, retain_graph=True)[0].flatten() for one in h])
        norms.append(torch.linalg.matrix_norm(rows, 2))
    return torch.stack(norms).log10()


def check(net, images, ends_linear=True):
    net = fv.Classifier(net) if isinstance(net, nn.Module) else net
    norms = exact(net, images, ends_linear)
    here, there = bounds.local_bound(net, images), bounds.network_bound(net, images)
    assert (here.weight is not None) == ends_linear
    local = here.log10_features if ends_linear else here.log10_logits
    assert (norms <= local).all(), (norms, local)
    everywhere = there.log10_features if ends_linear else there.log10_logits
    if everywhere is None:
        assert there.reason
    else:
        assert norms.max() <= everywhere
        assert local.max() <= everywhere + 1e-6
    assert (exact(net, images, False) <= here.log10_logits).all()
    for steps in (there.steps, *here.steps):
        assert all(step.name and step.kind and step.formula and step.log10_bound < math.inf for step in steps)
    return here, there


@pytest.mark.parametrize("name", fv.zoo.names())
def test_the_zoo(name):
    net = fv.zoo.load(name)
    here, there = check(net, fv.zoo.digits().images[:4])
    assert here.reason == there.reason == ""
    assert torch.equal(there.weight, [m for m in net.model.modules() if isinstance(m, nn.Linear)][-1].weight.double())


@pytest.mark.parametrize("name", REAL)
def test_real_networks(realdata, name):
    images, _ = realdata.images(realdata.NETWORKS[name][-1], 2)
    check(realdata.network(name), images)


def test_real_squeezenet(realdata):
    """No linear layer at its end, so that the bound is on the logits; of a thousand rows the largest has to do."""
    images, _ = realdata.imagenet_samples()
    net = fv.Classifier(realdata.network("imagenet-squeezenet"))
    here = bounds.local_bound(net, images[:1])
    assert "does not end in a linear layer" in here.reason
    x = images[:1].clone().requires_grad_()
    slope = torch.autograd.grad(net.model(x).amax(), x)[0].norm().log10()
    assert slope <= here.log10_logits[0] <= bounds.network_bound(net, images).log10_logits + 1e-6


class Graph(nn.Module):
    """A random network of convolutions with residual, dense and parallel connections."""

    def __init__(self, seed, channels=2):
        super().__init__()
        torch.manual_seed(seed)
        self.plan, width = [], channels
        self.layers = nn.ModuleList()
        for _ in range(int(torch.randint(2, 7, ()))):
            kind = ("plain", "residual", "dense", "norm", "scaled", "two")[int(torch.randint(0, 6, ()))]
            out = width if kind in ("residual", "norm", "scaled", "two") else int(torch.randint(1, 4, ()))
            kernel = int(torch.randint(1, 4, ()))
            conv = nn.Conv2d(width, out, kernel, padding=kernel // 2, bias=bool(torch.randint(0, 2, ())))
            if kernel == 2:
                conv = nn.Conv2d(width, out, 3, padding=1, padding_mode="replicate")
            steps = [conv, nn.BatchNorm2d(out)] if torch.rand(()) < 0.5 else [nn.BatchNorm2d(width), nn.ReLU(), conv]
            steps.append((nn.ReLU(), nn.GELU(), nn.Tanh(), nn.Identity())[int(torch.randint(0, 4, ()))])
            self.layers.append(nn.Sequential(*steps) if kind != "norm" else nn.BatchNorm2d(width))
            self.plan.append(kind)
            width = width + out if kind == "dense" else out
        self.pool = (nn.AdaptiveAvgPool2d(1), nn.MaxPool2d(2), nn.AvgPool2d(3, 2, 1))[seed % 3]
        self.norm = nn.BatchNorm2d(width)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(width * (1, 4, 6)[seed % 3], 3)
        for m in self.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_var.uniform_(0.1, 2)
                m.running_mean.normal_()
                m.weight.data.normal_()

    def forward(self, x):
        for kind, layer in zip(self.plan, self.layers, strict=True):
            y = layer(x)
            if kind == "residual":
                x = y + x
            elif kind == "dense":
                x = torch.cat([x, y], 1)
            elif kind == "scaled":
                x = 0.3 * y - x / 2
            elif kind == "two":
                x = torch.relu(y) + layer[-1](x) + 1.5
            else:
                x = y
        return self.head(self.flatten(self.norm(self.pool(x))))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_random_graphs(seed):
    images = torch.rand(2, 2, 4, 5, generator=torch.Generator().manual_seed(seed))
    net = fv.Classifier(Graph(seed).eval(), mean=[0.1, 0.2], std=[0.5, 0.25], temperature=1.5)
    check(net, images)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), spread=st.floats(0, 0.5))
def test_random_transformers(seed, spread):
    torch.manual_seed(seed)
    model = VisionTransformer(16, 8, 2, 2, 12, 24, num_classes=4)
    for p in model.parameters():
        p.data += spread * torch.randn_like(p)
    check(model.eval(), torch.rand(1, 3, 16, 16))


def test_a_linear_network_is_exact():
    """W₂W₁/std, one layer: the bound is the norm."""
    layer = nn.Linear(3, 4).double()
    net = fv.Classifier(nn.Sequential(layer, nn.Linear(4, 2).double()), std=0.5, input_range=None)
    expected = 2 * torch.linalg.matrix_norm(layer.weight.detach(), 2).item()
    assert bounds.network_bound(net, (3,)).features == pytest.approx(expected, rel=1e-7)


def test_normalisation_goes_into_the_first_convolution():
    """The channel with the largest weights has the largest std: the product of the norms would be 100 times more."""
    conv = nn.Conv2d(2, 1, 1, bias=False)
    conv.weight.data = torch.tensor([10.0, 0.1]).view(1, 2, 1, 1)
    model = nn.Sequential(conv, nn.Flatten(), nn.Linear(4, 2))
    bound = bounds.network_bound(fv.Classifier(model, std=[10.0, 0.1]), (2, 2, 2))
    assert bound.features == pytest.approx(2**0.5, rel=1e-6)


def test_dense_connections_take_the_better_of_two():
    """cat(x, 1000x) read by [1, 0.001]: ‖W‖√(1 + 10⁶) is about 1000, Σ‖W⁽ˢ⁾‖a is 2, and exact."""

    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.loud, self.read = nn.Conv1d(1, 1, 1, bias=False), nn.Conv1d(2, 1, 1, bias=False)
            self.loud.weight.data.fill_(1000)
            self.read.weight.data = torch.tensor([[[1.0], [0.001]]])
            self.norm, self.head = nn.BatchNorm1d(2, eps=0.0), nn.Linear(3, 2)

        def forward(self, x):
            x = torch.relu(self.norm(torch.cat([x, self.loud(x)], 1)))
            return self.head(self.read(x).flatten(1))

    assert bounds.network_bound(Dense(), (1, 3)).features == pytest.approx(2, rel=1e-6)


def test_a_hundred_layers_do_not_overflow():
    layers = [nn.Linear(3, 3) for _ in range(100)]
    for layer in layers:
        layer.weight.data = 1e8 * torch.eye(3)
    bound = bounds.network_bound(nn.Sequential(*layers, nn.Linear(3, 2)), (3,))
    assert bound.log10_features == pytest.approx(800, rel=1e-6)
    assert bound.features == math.inf


def test_one_logit_becomes_two():
    net = fv.Classifier(nn.Linear(3, 1), likelihood="bernoulli", temperature=2.0)
    bound = bounds.local_bound(net, torch.rand(2, 3))
    assert torch.equal(bound.weight, torch.cat([torch.zeros(1, 3), net.model.weight.detach() / 2]).double())
    assert bound.bias.shape == (2,)
    assert torch.allclose(bound.features, torch.ones(2).double())


class InPlace(nn.Module):
    """Reads its input again after a ReLU has worked in it."""

    def __init__(self, view):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.relu, self.view = nn.ReLU(inplace=True), view

    def forward(self, x):
        x = self.first(x)
        kept = x.view(-1, 2, 2) if self.view else x
        x.mul_(3.0)
        return self.head(self.relu(self.second(x)) + kept.reshape(-1, 4))


def test_writes_in_place_are_followed():
    torch.manual_seed(0)
    check(InPlace(view=False), torch.rand(3, 4))
    with pytest.raises(bounds.NoRuleError, match="in place on memory"):
        bounds.network_bound(InPlace(view=True), (4,))


def test_the_model_is_left_as_it_came():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 2))
    model.train()
    model[0].requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    pointers = [p.data_ptr() for p in model.parameters()]
    images = torch.rand(2, 1, 4, 4)
    kept = images.clone()
    bounds.network_bound(model, images)
    bounds.local_bound(model, images)
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == [False] * 2 + [True] * 4
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(images, kept)


class Odd(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x).real


class Deciding(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Bilinear(3, 3, 2)

    def forward(self, x):
        return self.layer(x, x)


def test_what_has_no_rule_is_named():
    with pytest.raises(bounds.NoRuleError, match=r"no rule bounds fft_fft.*@fimviz.bounds.rule\(torch.fft.fft\)"):
        bounds.network_bound(nn.Sequential(Odd(), nn.Linear(3, 2)), (3,))
    with pytest.raises(NotImplementedError, match="cannot trace Sequential"):
        bounds.network_bound(nn.Sequential(Deciding(), nn.Linear(3, 2)), (3,))
    with pytest.raises(bounds.NoRuleError, match=r"no rule bounds Bilinear, called in layer.*\(torch.nn.Bilinear\)"):
        bounds.network_bound(Twice(), (3,))


def test_a_failed_trace_prints_nothing(capfd):
    with pytest.raises(bounds.NoRuleError, match=r"cannot trace Deciding \(.+; .+\): avoid decisions"):
        bounds.network_bound(Deciding(), (3,))
    assert capfd.readouterr() == ("", "")


class Followed(nn.Module):
    """What torch.fx can follow; the class below computes the same, and it cannot."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.gate, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)
        self.register_buffer("factor", torch.tensor([1.0, 2.0, -1.0, 0.5]))
        self.register_parameter("offset", nn.Parameter(torch.ones(4)))

    def features(self, x):
        x = self.relu(self.norm(self.conv(x)))
        return x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()

    def forward(self, x):
        x = self.features(x).flatten(2)[:, :, 1:].amax(-1)
        return self.head(x * self.factor + self.offset)


class Unfollowed(Followed):
    def forward(self, x):
        if x.shape[-1] < 3:
            x = torch.cat([x, x], -1)
        with torch.no_grad():
            names = {"factor": self.factor.to(x.dtype)}
        x = self.features(x).flatten(2)[:, :, 1:].amax(-1)
        return {"features": x, "logits": self.head(x * names["factor"] + self.offset)}


def test_what_torch_fx_cannot_follow_is_exported():
    torch.manual_seed(0)
    followed, unfollowed = Followed(), Unfollowed()
    unfollowed.load_state_dict(followed.state_dict())
    unfollowed.train()
    unfollowed.conv.weight.requires_grad_(False)
    before = {name: (id(t), t._version) for name, t in [*unfollowed.named_parameters(), *unfollowed.named_buffers()]}
    held = {name: set(vars(m)) for name, m in unfollowed.named_modules()}
    images = torch.rand(2, 2, 5, 5)
    a, b = (bounds.local_bound(net, images) for net in (followed, unfollowed))
    assert torch.allclose(a.log10_features, b.log10_features, rtol=1e-9)
    assert torch.allclose(a.log10_logits, b.log10_logits, rtol=1e-9)
    c = fv.compare_bounds(unfollowed, images, methods=["exact", "L3", "L4"])
    assert not c.reasons
    assert (c.methods["exact"].value <= c.methods["L3"].value).all()
    assert (c.methods["L3"].value <= c.methods["L4"].value).all()
    assert [step.name for step in b.steps[0]][:3] == ["conv", "norm", "relu"]
    assert "only at a given x" in bounds.network_bound(unfollowed, images).reason
    assert unfollowed.training
    assert not unfollowed.conv.weight.requires_grad
    assert unfollowed.head.weight.requires_grad
    assert {name: set(vars(m)) for name, m in unfollowed.named_modules()} == held
    after = [*unfollowed.named_parameters(), *unfollowed.named_buffers()]
    assert {name: (id(t), t._version) for name, t in after} == before


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_bounded_in_float64(half):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).to(half)
    check(model, torch.rand(1, 1, 4, 4))
    check(nn.Sequential(model[:3], Careful(), model[3]), torch.rand(1, 1, 4, 4))


class Careful(nn.Module):
    def forward(self, x):
        return x if len(x) else -x


def test_what_others_have_made_of_a_network():
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), torch.rand(2, 3)
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    for bound in (lambda m: bounds.network_bound(m, images), lambda m: bounds.local_bound(m, images[:1])):
        assert float(bound(exported).log10_features) == pytest.approx(float(bound(model).log10_features))
        with pytest.raises(bounds.NoRuleError, match=r"torch.jit.*pass the module that it was made from"):
            bound(torch.jit.script(model))


class Louder(torch.autograd.Function):
    """The identity, and ten times its gradient."""

    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    def backward(ctx, g):
        return 10 * g


class CallsLouder(nn.Module):
    def __init__(self, followed):
        super().__init__()
        self.followed, self.head = followed, nn.Linear(3, 2)

    def forward(self, x):
        x = Louder.apply(x)
        return self.head(x if self.followed or x.shape[-1] > 0 else -x)


@pytest.mark.parametrize("followed", [True, False])
def test_gradients_that_no_graph_shows_are_refused(followed):
    """λ₁ is of what autograd gives, which is ten times what the graph of the forward says."""
    for bound in (lambda m: bounds.network_bound(m, (3,)), lambda m: bounds.local_bound(m, torch.rand(1, 3))):
        with pytest.raises(bounds.NoRuleError, match="goes back through Louder"):
            bound(CallsLouder(followed))


def test_a_rule_for_the_module_of_an_own_gradient_holds():
    class Wrapped(CallsLouder):
        pass

    @bounds.rule(Wrapped)
    def wrapped(step, x):
        return x.times(10 * float(torch.linalg.matrix_norm(step.op.head.weight, 2)) * (1 + 1e-6), "ten times ‖W‖")

    check(nn.Sequential(Wrapped(True), nn.Linear(2, 2)), torch.rand(2, 3))


def test_a_subclass_that_computes_something_else_is_looked_into():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    layer = Doubled(3, 3)
    bound = bounds.network_bound(nn.Sequential(layer, nn.Linear(3, 2)), (3,))
    assert bound.features == pytest.approx(2 * torch.linalg.matrix_norm(layer.weight.detach(), 2).item(), rel=1e-5)


def test_a_hook_that_changes_the_output_is_found_out():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model[0].register_forward_hook(lambda m, args, out: 100 * out)
    with pytest.raises(bounds.NoRuleError, match="forward hook"):
        bounds.network_bound(model, (3,))


def _hooked(where):
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh()), nn.Linear(3, 2))
    layer = model[0]
    if where == "root hook":
        model.register_forward_hook(lambda m, args, out: 10 * out)
    elif where == "root pre-hook":
        model.register_forward_pre_hook(lambda m, args: (10 * args[0],))
    elif where == "leaf pre-hook":
        layer.register_forward_pre_hook(lambda m, args: (10 * args[0],))
    elif where == "leaf forward":
        layer.forward = lambda x: 10 * nn.Linear.forward(layer, x)
    else:
        model.forward = lambda x: 10 * nn.Sequential.forward(model, x)
    return model


@pytest.mark.parametrize("where", ["root hook", "root pre-hook", "leaf pre-hook", "leaf forward", "root forward"])
def test_what_works_around_the_code_of_a_module_is_refused(where):
    words = "hook" if "hook" in where else "forward of its own"
    with pytest.raises(bounds.NoRuleError, match=words):
        bounds.network_bound(_hooked(where), (3,))
    with pytest.raises(bounds.NoRuleError, match=words):
        bounds.local_bound(_hooked(where), torch.rand(2, 3))


def test_hooks_of_containers_are_traced():
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3)), nn.Linear(3, 2))
    before = bounds.network_bound(model, (3,)).features
    model[0].register_forward_hook(lambda m, args, out: 10 * out)
    assert bounds.network_bound(model, (3,)).features == pytest.approx(10 * before)
    check(model, torch.rand(2, 3))


def test_weights_that_a_pre_hook_of_torch_makes_are_read():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.utils.weight_norm(nn.Linear(3, 3))
    layer.weight_g.data *= 5
    bound = bounds.network_bound(nn.Sequential(layer, nn.Linear(3, 2)), (3,))
    norm = torch.linalg.matrix_norm(layer.weight_v * layer.weight_g / layer.weight_v.norm(dim=1, keepdim=True), 2)
    assert bound.features == pytest.approx(norm.item(), rel=1e-5)


class _Traced(nn.Module):
    """A module that is something else while it is traced."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x) if isinstance(x, torch.fx.Proxy) else self.layer(10 * x)


def test_a_graph_of_another_function_is_found_out():
    with pytest.raises(bounds.NoRuleError, match="other logits than its traced graph"):
        bounds.network_bound(_Traced(), (3,))
    with pytest.raises(bounds.NoRuleError, match="other logits than its traced graph"):
        bounds.local_bound(_Traced(), torch.rand(2, 3))


class _Fragile(nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize("error", [torch.linalg.LinAlgError, ValueError, IndexError, AttributeError])
def test_a_rule_that_fails_is_a_reason(error):
    @bounds.rule(_Fragile)
    def _(step, x):
        raise error("oops")

    c = fv.compare_bounds(nn.Sequential(_Fragile(), nn.Linear(3, 2)), torch.rand(2, 3), methods=["exact", "L4", "L5"])
    assert all(f"_Fragile cannot be called as the network does ({error.__name__}: oops)" in c.reasons[name]
               for name in ("L4", "L5"))  # fmt: skip
    assert not c.methods["exact"].value.isnan().any()


def build(name, **options):
    torch.manual_seed(0)
    return getattr(torchvision.models, name)(weights=None, num_classes=5, **options).eval()


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "convnext_tiny", "swin_t", "mobilenet_v3_small"])
def test_torchvision(name):
    """Where every family's exact Jacobian is affordable: a few directions instead of all of it."""
    net, x = fv.Classifier(build(name)), torch.rand(1, 3, 32, 32)
    here, there = bounds.local_bound(net, x), bounds.network_bound(net, x)
    assert here.reason == ""
    if name == "mobilenet_v3_small":  # squeeze and excitation
        assert there.log10_features is None
        assert "only at a given x" in there.reason
    else:
        assert here.log10_features[0] <= there.log10_features + 1e-6
    assert (exact(net, x, False) <= here.log10_logits).all()


def test_torchvision_vit_b_16_traces():
    """Two of its twelve layers, at 224²."""
    model = build("vit_b_16")
    model.encoder.layers = model.encoder.layers[:2]
    bound = bounds.network_bound(model, (3, 224, 224))
    assert bound.reason == ""
    assert bound.log10_features > 0


def test_torchvision_vgg16_traces():
    """With its dense layers made smaller: their size is a question of time alone."""
    model = build("vgg16")
    model.classifier[0], model.classifier[3] = nn.Linear(25088, 64), nn.Linear(64, 64)
    model.classifier[6] = nn.Linear(64, 5)
    assert bounds.network_bound(model, (3, 224, 224)).log10_features > 0
