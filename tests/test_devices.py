"""Every public door on a device that is not the CPU: one without float64, as Metal, and one with all precisions.

They are stand-ins (`tests.standin`): numbers are the CPU's, manners an accelerator's.
"""

import copy
import math
from contextlib import contextmanager

import pytest
import torch
from torch import nn

import fimviz as fv
from tests.standin import standin

METAL = "mps", torch.float64, torch.complex128


@contextmanager
def metal():
    with standin(*METAL) as there:
        yield there


@contextmanager
def default():
    """A device with all precisions, which is the default one too."""
    with standin("xpu") as there, there:
        yield there


DEVICES = [metal, default]


class Attentive(nn.Module):
    """Tokens, layer normalisation, attention and a recurrent layer's worth of odd shapes, in a few numbers."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 5)
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        tokens = self.embed(x.flatten(1).unflatten(1, (-1, 4)))
        q, k, v = self.qkv(self.norm(tokens)).chunk(3, -1)
        return self.head((tokens + nn.functional.scaled_dot_product_attention(q, k, v)).mean(1))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def model(build):
    torch.manual_seed(0)
    net = build().eval()
    with torch.no_grad():
        list(net.modules())[-1].weight.mul_(4) if build is convolutional else net.head.weight.mul_(4)
    return net


X = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 3])


def paths(net, x, **options):
    return fv.trace_margins(net, x, targets="runner-up", max_steps=3, **options)


DOORS = {
    "spectrum, exact": lambda net: fv.spectrum(net, X, k=2),
    "spectrum, lanczos": lambda net: fv.spectrum(net, X, k=1, method="lanczos"),
    "spectrum, power": lambda net: fv.spectrum(net, X, method="power", max_steps=40),
    "spectrum, blackbox": lambda net: fv.spectrum(net, X[:2], method="blackbox", probes=8),
    "compare_bounds": lambda net: fv.compare_bounds(net, X[:2], probes=8),
    "certified_radius": lambda net: fv.certified_radius(net, X[:2], method="norms", steps=4),
    "trace_margins": lambda net: paths(net, X[:2]),
    "trace_margins, cg": lambda net: paths(net, X[:1], solver="cg"),
    "trace_margins, straight": lambda net: paths(net, X[:1], method="straight"),
    "cckl": lambda net: fv.cckl(net, X, Y),
    "local_accuracy": lambda net: fv.local_accuracy(net, X[:1], Y[:1], epsilons=[0.3]),
    "vulnerability": lambda net: fv.vulnerability(net, X[:2], Y[:2]),
    "attributions": lambda net: fv.attributions(net, X[:2], Y[:2], methods=["Saliency", "IntegratedGradients"]),
    "compare_models": lambda net: fv.compare_models({"a": net, "b": copy.deepcopy(net)}, X[:2], Y[:2]),
    "explore": lambda net: fv.explore(net, X[:3], Y[:3]),
    "reconstruction": lambda net: fv.reconstruction(fv.spectrum(net, X)),
}


def numbers(frame):
    """A frame's columns of measured numbers."""
    ours = [c for c in frame.columns if frame[c].dtype.kind == "f" and "error" not in c and c != "seconds"]
    return frame[ours]


@pytest.fixture(scope="module")
def expected():
    known = {}

    def of(door, build):
        if (door, build) not in known:
            known[door, build] = numbers(DOORS[door](model(build)).frame)
        return known[door, build]

    return of


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("door", "build"),
    [*((door, convolutional) for door in DOORS), *((door, Attentive) for door in list(DOORS)[:5])],
)
def test_doors_on_a_device(door, device, build, expected):
    here = expected(door, build)
    with device() as there:
        found = DOORS[door](model(build).to(there))
        frame = numbers(found.frame)
        assert len(repr(found)) > 10
    assert list(frame.columns) == list(here.columns)
    both = here.map(math.isfinite) & frame.map(math.isfinite)
    assert both.to_numpy().any()
    apart = ((frame - here).abs() / here.abs().clip(lower=1e-6))[both].fillna(0)
    if door == "compare_bounds":  # without float64 some bounds hold everywhere, and not at the inputs alone
        apart = apart.where(frame < here, 0)
    if door == "compare_models":
        apart["at_images"] = apart["at_images"].where(frame["at_images"] < here["at_images"], 0)
    assert (apart < 0.02).to_numpy().all(), apart.max()


def test_linear_bounds_are_those_of_the_processor_where_a_device_knows_float64():
    here = fv.certified_radius(model(convolutional), X[:2], method="linear", attack=False)
    for device, linear in ((default, True), (metal, False)):
        with device() as there:
            found = fv.certified_radius(model(convolutional).to(there), X[:2], method="linear", attack=False)
        if linear:
            assert torch.allclose(found.by_class, here.by_class, rtol=1e-6)
        else:
            assert "float64" in found.reason


@pytest.mark.parametrize("device", DEVICES)
def test_what_results_compute_later_and_what_views_ask(device):
    with device() as there:
        net = model(convolutional).to(there)
        s = fv.spectrum(net, X.to(there), k=2, labels=Y.to(there))
        assert s.eigenvectors.device.type == s.images.device.type == s.labels.device.type == "cpu"
        assert s.walk(0, [0.1]).kl.isfinite().all()
        assert s.plane(points=3).kl.isfinite().all()
        assert s.one_sided.shape == (4, 2)
        assert len(s.view().html()) > 1000
        record = fv.FisherMonitor(net, X, Y).record(0)
        assert math.isfinite(record["mean_spectral_norm"])
        assert fv.Classifier(net)(X).device.type == there.type
        for attack in (fv.attacks.fgsm, fv.attacks.pgd, fv.attacks.random):
            assert attack(net, X.to(there), Y.to(there), 0.1).device.type == there.type
        path = fv.cckl(net, X, Y).path(0, 1)
        assert path.kl.isfinite().all()


def test_a_device_without_float64_is_told_of():
    with standin(*METAL) as there:
        s = fv.spectrum(model(convolutional).to(there), X)
        assert "not verified" in s.reason
        with pytest.raises(ValueError, match="float64"):
            fv.spectrum(model(convolutional).to(there), X, verify=True)
    assert ((s.spectral_norm - fv.spectrum(model(convolutional), X).spectral_norm).abs() <= s.error[:, 0]).all()


def test_the_stand_in_has_an_accelerators_manners():
    with standin(*METAL) as there:
        t = torch.rand(2, 3).to(there)
        assert t[:1].T.device.type == nn.Linear(3, 2).to(there)(t).device.type == "mps"
        assert torch.zeros(2, device=there).device.type == torch.zeros_like(t).device.type == "mps"
        assert t.cpu().device.type == torch.zeros_like(t, device="cpu").device.type == "cpu"
        for wrong in (
            lambda: t.double(),
            lambda: t.to("cpu", torch.float64),
            lambda: torch.zeros(2, dtype=torch.float64, device=there),
            lambda: torch.rand(2, dtype=torch.float64).to(there),
            lambda: t + torch.ones(3),
            lambda: t.numpy(),
        ):
            with pytest.raises((TypeError, RuntimeError)):
                wrong()
        assert t[torch.tensor([1])].device.type == "mps"
        assert (t + 1.0 * torch.tensor(2.0)).device.type == "mps"
        (g,) = torch.autograd.grad((t.requires_grad_() ** 2).sum(), t)
        assert g.device.type == "mps"


def test_a_model_makes_its_tensors_where_the_user_says():
    class Ramp(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = convolutional()

        def forward(self, x):
            return self.net(x) * torch.linspace(1, 2, 5)  # on whatever device is the default one

    torch.manual_seed(0)
    twin = Ramp().eval()
    with default() as there:
        net = copy.deepcopy(twin).to(there)
        s = fv.spectrum(net, X, k=1)
        assert torch.get_default_device() == there
    assert torch.equal(s.spectral_norm, fv.spectrum(twin, X, k=1).spectral_norm)


def test_elsewhere_too_only_the_forward_pass_runs_in_float64():
    with default() as there:
        net = fv.Classifier(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).to(there))
        net.admit(torch.rand(2, 1, 8, 8))
        assert net.precise


def test_distances_may_lie_where_the_model_does():
    with standin("xpu") as there:
        s = fv.spectrum(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).to(there), torch.rand(2, 1, 2, 2), k=2)
        far = torch.tensor([0.1, 0.2]).to(there)
        assert s.walk(0, far).epsilon.device.type == s.plane(points=3, reach=far).kl.device.type == "cpu"
