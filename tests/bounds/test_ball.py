"""λ₁ over a ball: what must hold at every point of it, and how close it is."""

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fimviz as fv
from fimviz.bounds.linear.enclosed import Region, enclose
from fimviz.bounds.linear.multipliers import Coupled, Part
from fimviz.bounds.linear.recorded import recorded
from fimviz.bounds.linear.slopes import Jacobian

from .test_linear import LAYERS, small
from .test_network import Graph


def at_points(net, x, radius, count, seed=0):
    """The largest λ₁ (n,) at random points of the balls around x (n, …), most of them near the sphere, in float64."""
    g = torch.Generator().manual_seed(seed)
    top = torch.zeros(len(x), dtype=torch.float64)
    wide = fv.Classifier(
        net.model.double(), mean=net.mean, std=net.std, temperature=net.temperature, input_range=net.input_range
    )
    for _ in range(count):
        step = torch.randn(x.shape, generator=g, dtype=torch.float64)
        far = radius * torch.rand(len(x), generator=g, dtype=torch.float64) ** 0.1 / step.flatten(1).norm(dim=1)
        at = (x.double() + step * far.view(-1, *[1] * (x.ndim - 1))).clamp(
            *(net.input_range or (-torch.inf, torch.inf))
        )
        top = torch.maximum(top, fv.spectrum(wide, at, k=1, vectors=False, verify=False).spectral_norm)
    return top


@pytest.mark.parametrize("name", ["mlp-robust", "vgg", "resnet-robust"])
def test_no_point_of_a_ball_is_more_fragile(name):
    net, x = fv.zoo.load(f"digits-{name}"), fv.zoo.digits().images[: 2 if "mlp" in name else 1]
    for radius in (0.003, 0.03):
        b = fv.ball_bound(net, x, radius, steps=2)
        assert b.reason == ""
        assert (b.at_point <= b.found).all()
        assert (b.found <= b.bound).all()
        assert (at_points(fv.zoo.load(f"digits-{name}"), x, radius, 12) <= b.bound).all()
        if radius == 0.003:
            assert (b.bound <= 1.2 * b.found).all()


@pytest.mark.parametrize("name", ["mlp", "vgg", "densenet-robust"])
def test_a_ball_without_extent_has_the_exact_value(name):
    net, x = fv.zoo.load(f"digits-{name}"), fv.zoo.digits().images[3:4]
    b = fv.ball_bound(net, x, 0.0, steps=0)
    assert torch.allclose(b.at_point, fv.spectrum(net, x, k=1).spectral_norm, rtol=1e-4)
    assert (b.at_point <= b.bound).all()
    assert (b.bound <= (1 + 1e-6) * b.at_point).all()


@pytest.mark.parametrize("name", LAYERS)
def test_the_jacobian_is_enclosed_whatever_the_layers(name):
    """‖C J‖ by autograd at points of a ball, for random rows C of every step that bends, and of the logits."""
    net = fv.Classifier(small(*LAYERS[name]()), input_range=None)
    x = torch.rand(1, 2, 6, 6, generator=torch.Generator().manual_seed(1)).double()
    g = torch.Generator().manual_seed(2)
    with net.at_rest():
        steps = recorded(net, x)
        for radius in (1e-3, 0.1, 1.0):
            with torch.no_grad():
                found = enclose(steps, Region(x.flatten(1), torch.tensor([radius]).double(), None))
                jacobian = Jacobian(steps, found, 0)
                rows = torch.randn(4, 3, generator=g, dtype=torch.float64)
                norm, lengths = jacobian.norm(rows), jacobian.lengths(rows)
            for _ in range(12):
                step = torch.randn(x.shape, generator=g, dtype=torch.float64)
                at = x + step * radius * torch.rand(1, generator=g).double() / step.norm()
                j = rows @ torch.autograd.functional.jacobian(lambda at: net.logits(at)[0], at).view(3, -1)
                assert torch.linalg.matrix_norm(j, 2) <= norm
                assert (j.norm(dim=1) <= lengths).all()


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.sampled_from([0.001, 0.02, 0.3]), temperature=st.sampled_from([2.0, 0.1]))
def test_random_graphs(seed, radius, temperature):
    x = torch.rand(2, 2, 4, 5, generator=torch.Generator().manual_seed(seed))
    net = fv.Classifier(Graph(seed).eval(), mean=[0.1, 0.2], std=[0.5, 0.25], temperature=temperature)
    b = fv.ball_bound(net, x, radius, steps=1)
    if not b.reason:
        assert (at_points(net, x, radius, 5, seed) <= b.bound).all()


def test_every_pattern_of_a_small_network():
    """On a grid of a disc, that meets all of its patterns: the bound is never below, and at most three times it."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    net, x = fv.Classifier(model, input_range=None), torch.tensor([[0.3, -0.2]]).double()
    axis = torch.linspace(-1, 1, 61).double()
    disc = torch.cartesian_prod(axis, axis)
    disc = disc[disc.norm(dim=1) <= 1]
    for radius in (0.05, 0.2, 0.5):
        top = fv.spectrum(net, x + radius * disc, k=1, vectors=False).spectral_norm.max()
        b = fv.ball_bound(net, x, radius)
        assert b.found <= b.bound
        assert top <= b.bound.item() <= 3 * top


def test_without_linear_bounds_that_of_the_weights():
    net, x = fv.zoo.load("digits-vit"), fv.zoo.digits().images[:2]
    b = fv.ball_bound(net, x, 0.1, steps=0)
    assert torch.allclose(b.bound, fv.compare_bounds(net, x, methods=["L5"]).methods["L5"].value)
    several = fv.Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), likelihood="bernoulli")
    b = fv.ball_bound(several, x, 0.1, steps=1)
    assert torch.allclose(b.bound, fv.compare_bounds(several, x, methods=["L5"]).methods["L5"].value)
    assert (b.found <= b.bound).all()


class Squares(nn.Module):
    def forward(self, x):
        return (x.flatten(1) * x.flatten(1).roll(1, 1))[:, :3]


def test_where_there_is_none_it_says_so():
    b = fv.ball_bound(Squares(), torch.rand(2, 1, 2, 2), 0.1, steps=1)
    assert b.bound.isnan().all()
    assert not b.found.isnan().any()
    assert "mul" in b.reason
    assert b.reason in repr(b)


def test_a_rung_of_the_ladder():
    net, x = fv.zoo.load("digits-mlp"), fv.zoo.digits().images[:2]
    radius = torch.tensor([0.01, 0.03])
    c = fv.compare_bounds(net, x, methods=["exact", "L2", "ball"], radius=radius)
    b = fv.ball_bound(net, x, radius, steps=0)
    assert torch.allclose(c.methods["ball"].value, b.bound)
    assert (c.methods["exact"].value <= c.methods["ball"].value).all()
    assert c.methods["ball"].guarantee == "upper"
    assert torch.equal(c.radius, radius.double())
    assert "within the radius, 0.01 to 0.03" in c.needs["ball"]
    shown = c.numbers()
    assert shown.text.str.contains("within the radius, 0.01 to 0.03").any()
    assert shown.text.str.contains("larger than at the point, to which its ratio is").any()
    assert (shown["item"] == "ball").any()
    assert "ball" not in fv.compare_bounds(net, x[:1], probes=10, max_steps=3).methods
    with pytest.raises(ValueError, match="a black box has none"):
        fv.compare_bounds(fv.BlackBox(lambda x: x.flatten(1)[:, :3]), x, radius=0.1)
    with pytest.raises(ValueError, match="'ball' is a bound within a radius, expected radius= with it"):
        fv.compare_bounds(net, x, methods=["ball"])


def test_radii_and_images_that_are_refused():
    net, x = fv.zoo.load("digits-mlp"), fv.zoo.digits().images[:3].clone()
    for radius in (-0.1, torch.inf, torch.nan, torch.tensor([0.1, 0.2]), "a", None, 1j, True):
        with pytest.raises(
            ValueError, match=r"radius is .*, expected a finite number of at least 0, or one for each of 3"
        ):
            fv.ball_bound(net, x, radius)
    x[1] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        fv.ball_bound(net, x, 0.1)


def test_a_radius_is_the_number_that_was_given():
    """0.7 in single precision is less, and λ₁ of p = σ(6x) falls from ½ on."""
    model = nn.Linear(1, 2, bias=False).double()
    model.weight.data.copy_(torch.tensor([[3.0], [-3.0]]))
    net = fv.Classifier(model, input_range=None)
    at = fv.spectrum(net, torch.tensor([[1 - 0.7]]).double(), k=1).spectral_norm
    for radius in (0.7, [0.7]):
        assert at <= fv.ball_bound(net, torch.ones(1, 1).double(), radius).bound <= at * (1 + 1e-6)


class Fragile(nn.Module):
    """A gradient that is infinite at an image of zeros."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(x.sqrt())


def test_an_image_that_cannot_be_looked_at_is_marked():
    x = torch.tensor([[0.5, 0.5, 0.5], [0.0, 0.5, 0.5]])
    b = fv.ball_bound(Fragile(), x, torch.tensor([0.01, 0.02]), steps=1)
    frame = b.frame
    assert list(frame.columns) == ["sample", "radius", "at_point", "found", "bound", "failure"]
    assert torch.allclose(b.radius, torch.tensor([0.01, 0.02]).double())
    assert frame.failure[0] == ""
    assert "not finite" in frame.failure[1]
    assert frame.found.isna().tolist() == [False, True]
    with pytest.raises(FloatingPointError, match="not finite"):
        fv.ball_bound(Fragile(), x[1:], 0.01)


def test_networks_of_photographs_keep_within_their_time(monkeypatch):
    import fimviz.bounds.linear.fragility as room

    monkeypatch.setattr(room, "MANY", 10.0)
    net, x = fv.zoo.load("digits-mlp"), fv.zoo.digits().images[:1]
    c = fv.compare_bounds(net, x, methods=["ball", "L5"], radius=0.01)
    assert torch.equal(c.methods["ball"].value, c.methods["L5"].value)
    assert fv.ball_bound(net, x, 0.01, steps=0).bound < c.methods["L5"].value


def test_the_model_is_left_as_it_came():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fv.ball_bound(model, torch.rand(1, 1, 8, 8), 0.1, steps=1)
    assert model.training
    assert all(v.dtype == torch.float32 and torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_a_real_network(realdata):
    net = fv.Classifier(realdata.network("cifar10-cnn-robust"))
    images, _ = realdata.images("cifar10-test", 1)
    b = fv.ball_bound(net, images, 0.005, steps=1)
    assert (at_points(net, images, 0.005, 5) <= b.bound).all()
    assert b.found <= b.bound <= 3 * b.found


def test_a_prediction_beyond_the_precision_of_its_probability():
    """1 − p rounds to 0 here, and λ₁ is e⁻¹²⁰ times something all the same."""
    model = nn.Linear(2, 2, bias=False).double()
    model.weight.data = torch.tensor([[60.0, 0.0], [-60.0, 0.0]]).double()
    net, x = fv.Classifier(model, input_range=None), torch.tensor([[1.0, 0.0]]).double()
    for radius in (0.0, 0.1, 1.0):
        b = fv.ball_bound(net, x, radius)
        p = 1 / (1 + torch.exp(torch.tensor(120.0 * (1 - radius), dtype=torch.float64)))
        exact = float(p * (1 - p) * 120**2)
        assert b.found.item() == pytest.approx(exact, rel=1e-3)
        assert exact <= b.bound.item() <= 1.001 * exact


class Bends(nn.Module):
    """Two layers with a function between them."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.function, self.last = nn.Linear(6, 8), function, nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.function(3 * self.first(x.flatten(1))))


def one_pixel_pools(t):
    return torch.relu(nn.functional.avg_pool2d(t[:, None, None], 1, divisor_override=-1).flatten(1))


@pytest.mark.parametrize(
    "function",
    [
        lambda t: torch.relu(torch.rsub(t, 1, alpha=-2)),
        lambda t: torch.relu(torch.rsub(t, 1, alpha=2)),
        nn.Softplus(beta=-5, threshold=2),
        one_pixel_pools,
        lambda t: 0.1 * torch.relu(t) + t - t.detach(),
        lambda t: t ** torch.full((8,), 2.0, dtype=t.dtype),
    ],
    ids=["a difference with a factor", "another", "a negative beta", "a negative divisor", "detached", "exponents"],
)
def test_operations_that_were_taken_for_others(function):
    net, x = Bends(function).double(), torch.rand(2, 6, generator=torch.Generator().manual_seed(0)).double()
    r = fv.certified_radius(net, x, steps=10, restarts=2)
    assert (r.holds | r.radius.isnan()).all()
    for radius in (0.0, 0.01, 0.5):
        b = fv.ball_bound(net, x, radius, steps=1)
        assert ((b.found <= b.bound) | b.bound.isnan()).all()


@pytest.mark.parametrize(
    "layers",
    [
        (nn.MaxPool2d(3, 2, 1),),
        (nn.ReLU(), nn.MaxPool2d(2, 1)),
        (nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        (nn.LeakyReLU(), nn.MaxPool2d(2), nn.ReLU()),
    ],
    ids=lambda layers: " ".join(type(m).__name__ for m in layers),
)
def test_ties_of_pools(layers):
    """Over images without contrast every number of a window is as large, and points around choose among them."""
    g, x = torch.Generator().manual_seed(0), torch.zeros(1, 1, 5, 5).double()
    for seed, radius in ((0, 0.0), (1, 1e-3), (2, 0.3)):
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), *layers, nn.Flatten())
        net = nn.Sequential(body, nn.Linear(body(x.float()).shape[1], 3)).double()
        b = fv.ball_bound(net, x, radius, steps=1)
        step = torch.randn(200, *x.shape[1:], generator=g).double().abs()  # within the box
        at = x + 0.999 * radius * step / step.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        top = fv.spectrum(net, at, k=1, vectors=False, verify=False).spectral_norm.max()
        assert max(top, b.found) <= b.bound


@pytest.mark.parametrize("side", [3, 5, 7])  # 1/25 and 1/49 are less in single precision
def test_windows_of_nearly_equal_numbers(side):
    first, last = nn.Linear(1, side**2), nn.Linear(1, 2, bias=False)
    model = nn.Sequential(first, nn.Unflatten(1, (1, side, side)), nn.MaxPool2d(side), nn.Flatten(), last).double()
    first.weight.data.fill_(1.0)
    first.bias.data = 1e-9 * torch.rand(side**2, generator=torch.Generator().manual_seed(0)).double()
    last.weight.data.copy_(torch.tensor([[3.0], [-3.0]]))
    b = fv.ball_bound(fv.Classifier(model, input_range=None), torch.tensor([[0.01]]).double(), 0.02)
    assert 9.0 <= b.bound <= 9.00001, "¼ · 6² where p = ½"


def test_a_gradient_that_is_wrong_at_one_image_of_several():
    class Partly(nn.Linear):
        def forward(self, x):
            bent = torch.relu(100 * (x - 0.5))
            return super().forward(x + bent - bent.detach())

    torch.manual_seed(0)
    net, x = fv.Classifier(Partly(2, 2).double()), torch.tensor([[0.1, 0.1], [0.9, 0.9]]).double()
    with pytest.warns(UserWarning, match="the gradient does not describe this model"):
        b = fv.ball_bound(net, x, 0.01)
    assert ((b.found <= b.bound) | b.bound.isnan()).all()
    b = fv.ball_bound(net, torch.full((1, 2), 0.3).double(), 0.6)  # right there, and wrong elsewhere in the ball
    assert b.at_point < 1 < b.found
    assert (b.found <= b.bound) | b.bound.isnan()


@pytest.mark.parametrize("scales", [(1e8,) * 38 + (1e-8,) * 41, (1e75, 1e75, 1e-160, 1e-170), (1e8,) * 36])
def test_weights_whose_products_leave_the_range_of_numbers(scales):
    """Rows of the layers behind a factor of 1e300 would be zeros."""
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in scales), nn.Linear(1, 2)).double()
    for layer, scale in zip(model, scales, strict=False):
        layer.weight.data.fill_(scale)
    model[-1].weight.data.copy_(torch.tensor([[-1.0], [0.0]]))
    size = torch.tensor(scales, dtype=torch.float64).log10().sum()
    model[-1].bias.data.copy_(torch.tensor([0.1 * 10 ** size.clamp_max(300), 0.0]))  # they are equal at x = 0.1
    net, x = fv.Classifier(model, input_range=None), torch.tensor([[0.05]]).double()
    assert not fv.certified_radius(net, x, method="linear", attack=False).radius > 0.05
    b = fv.ball_bound(net, x, 0.01)
    assert (b.at_point <= b.bound).all()


def test_a_network_that_cannot_change_its_answer():
    net = fv.Classifier(nn.Sequential(nn.ReLU(), nn.Linear(2, 2, bias=False)))
    net.model[1].weight.data.copy_(torch.tensor([[2.0, 2.0], [1.0, 1.0]]))
    r = fv.certified_radius(net, torch.full((1, 2), 0.5), method="linear", attack=False)
    assert r.radius.isinf().all() or r.radius < 0.75
    net.model[1].weight.data.zero_()
    net.model[1].bias = nn.Parameter(torch.tensor([1.0, 0.0]))
    assert fv.certified_radius(net, torch.full((1, 2), 0.5), method="linear", attack=False).radius.isinf().all()


def test_ties_over_a_background():
    net = fv.zoo.load("digits-vgg")
    b = fv.ball_bound(net, torch.zeros(1, 1, 8, 8), 0.001, steps=1)
    assert b.found <= b.bound <= 5 * b.found


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_what_hears_of_itself_through_others(seed):
    """‖y‖/‖u‖ of y = Rw + Mu and z = Nw + Au, for many w with |w_i| ≤ ‖z_i‖, two z to every second w."""
    g = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=g).double() * 10 ** torch.randn(shape[0], 1, generator=g).double()

    sizes, owners = (2, 3, 2), [torch.tensor(o) for o in ([0, 1, 0], [2, 0, 1, 0], [0, 1])]
    parts, count = [], 0
    for size, owner in zip(sizes, owners, strict=True):
        parts.append(Part(random(len(owner), count), random(len(owner), 4), torch.zeros(len(owner)).double(), owner))
        count += size
    R, M, none = random(3, count), random(3, 4), torch.zeros(3).double()
    coupled = Coupled(parts, count)
    norm, lengths = coupled.norm(R, M, none), coupled.lengths(R, M, none)
    for _ in range(200):
        J = torch.zeros(0, 4).double()  # of w by u
        for part, size in zip(parts, sizes, strict=True):
            signs = torch.randn(len(part.owner), generator=g).double()
            lengths_of = torch.zeros(size).double().index_add_(0, part.owner, signs.square()).sqrt()
            signs = signs / lengths_of[part.owner]  # δ_i, one row of length 1 for each w
            z = part.N @ J + part.A
            J = torch.cat([J, torch.zeros(size, 4).double().index_add_(0, part.owner, signs[:, None] * z)])
        y = R @ J + M
        assert torch.linalg.matrix_norm(y, 2) <= norm
        assert (y.norm(dim=1) <= lengths).all()


def test_one_open_slope_is_bounded_exactly():
    """y = w + 2u, z = 3u: at most 5."""
    one, none = torch.ones(1, 1).double(), torch.zeros(1).double()
    coupled = Coupled([Part(torch.zeros(1, 0).double(), 3 * one, none, torch.tensor([0]))], 1)
    assert 5 <= coupled.norm(one, 2 * one, none) <= 5.02
    assert 5 <= coupled.lengths(one, 2 * one, none).item() <= 5.02


@pytest.mark.parametrize(("approximate", "x"), [("tanh", -4.51), ("none", -6.516)])
def test_the_cancellation_of_gelu_is_counted(approximate, x):
    """W gelu(x) + c of one sign in float64 and of the other in exact arithmetic: of no answer to be certain."""
    x, W = torch.tensor([[x]], dtype=torch.float64), 1e9
    curve = nn.GELU(approximate)
    with mpmath.workdps(40):
        t, root = mpmath.mpf(x.item()), mpmath.sqrt(2 / mpmath.pi)
        inner = mpmath.tanh(root * (t + mpmath.mpf(0.044715) * t**3)) if approximate == "tanh" else -1
        exact = t / 2 * (1 + inner) if approximate == "tanh" else t / 2 * mpmath.erfc(-t / mpmath.sqrt(2))
        off = float(exact - mpmath.mpf(curve(x).item()))
    head = nn.Linear(1, 2).double()
    head.weight.data = torch.tensor([[W], [0.0]]).double()
    head.bias.data = torch.tensor([-W * (curve(x).item() + off / 2), 0.0], dtype=torch.float64)
    net = fv.Classifier(nn.Sequential(curve, head), input_range=None)
    assert fv.certified_radius(net, x, method="linear", attack=False).radius.item() == 0.0


def test_a_transposed_convolution_in_groups_with_its_normalisation():
    torch.manual_seed(0)
    layers = nn.ConvTranspose2d(4, 8, 2, 2, groups=2), nn.BatchNorm2d(8)
    layers[1].running_var.uniform_(0.5, 2)
    net = nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)).double().eval()
    b = fv.ball_bound(net, torch.rand(1, 4, 2, 2).double(), 0.0, steps=0)
    assert b.at_point <= b.bound <= b.at_point * (1 + 1e-6)


def test_a_search_that_comes_to_where_nothing_is_known():
    x = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    b = fv.ball_bound(Fragile(), x, 2.0, steps=2)
    assert (b.found >= b.at_point).all()


def test_many_classes_at_a_point():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 30)).double()
    b = fv.ball_bound(net, torch.rand(2, 1, 4, 4).double(), 0.0, steps=0)
    assert torch.allclose(b.bound, b.at_point, rtol=1e-6)
