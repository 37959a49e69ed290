"""What must hold for margins on every real network: lengths and floors, half the step, the local law, scaled logits."""

import pytest
import torch
from torch import nn

import fimviz as fv
from fimviz.margins import length as lengths
from tests.margins.test_trace import check

# Each with how many images, and of what size where that is not the network's own.
REAL = {
    "cifar10-resnet20": 2,
    "cifar10-marabou": 8,
    "cifar10-resnet4b-robust": 4,
    "cifar10-cnn-robust": 6,
    "mnist-lenet5": 2,
    "imagenet-squeezenet": 2,
    "x-rays": 6,
}
ROBUST = "mnist-lenet5-robust"  # flat almost everywhere: signs get through, slopes only where they are smoothed


@pytest.fixture(scope="module")
def real(realdata):
    """Images and a network by name; the one for X-rays is trained here, as none comes with them."""
    known = {}

    def get(name, count=None):
        if name not in known:
            if name == "x-rays":
                known[name] = xray_network(*realdata.images("pneumonia-val"))
            else:
                known[name] = realdata.network(name)
        if name == "imagenet-squeezenet":  # small, as its size is free: a step takes some thirty passes
            images = realdata.imagenet_samples(resize=112, crop=96)[0]
        else:
            sets = {"m": "mnist-test", "x": "pneumonia-test", "c": "cifar10-test"}
            images = realdata.images(sets[name[0]], count or REAL.get(name, 1))[0]
        return known[name], images[: count or REAL.get(name, 1)]

    return get


def xray_network(images, labels):
    """Two convolutions and a linear layer, trained for a few seconds."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(784, 2)
        )
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(8):
            for rows in torch.randperm(len(images)).split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
                optimizer.step()
    return model.eval()


def test_the_x_ray_network_has_learned(real, realdata):
    images, labels = realdata.images("pneumonia-test")
    model, _ = real("x-rays")
    with torch.no_grad():
        assert (model(images).argmax(1) == labels).double().mean() > 0.8


@pytest.mark.parametrize("name", [*REAL, ROBUST])
def test_length_distance_floor_and_half_the_step(real, name):
    model, images = real(name)
    method = "pgd" if name == ROBUST else "natural"
    net, options = fv.Classifier(model), {"targets": "runner-up", "method": method, "keep_images": False}
    t = fv.trace_margins(net, images, **options)
    check(t)
    assert t.flipped.all()
    assert t.ends.min() >= 0
    assert t.ends.max() <= 1
    half = {"step": t.settings.step / 2, "trust_region": t.settings.trust_region / 2}
    finer = fv.trace_margins(net, images, **options, **half, max_steps=600, verify=False)
    assert ((finer.length - t.length).abs() <= t.length_error).all()
    assert (t.length_error < 0.3 * t.length).all(), "an error that says nothing holds always"


@pytest.mark.parametrize("name", [*REAL, ROBUST])
def test_local_law(real, name):
    """Fisher–Rao length ≈ √(δᵀFδ) as δ → 0, along mixtures of the leading eigenvectors, in float64."""
    model, images = real(name, 1)
    # Off the flat black and white areas, where pieces of the network meet and each has an F of its own.
    draw = torch.Generator().manual_seed(0)
    x = 0.9 * images.double() + 0.1 * torch.rand(images.shape, generator=draw).double()
    model = model.double()
    try:
        s = fv.spectrum(model, x, k=min(3, len(fv.Classifier(model)(x)[0]) - 1))
        weights = torch.randn(s.eigenvalues.shape[1], generator=draw).double()
        delta = (weights[:, None] * s.eigenvectors[0].flatten(1)).sum(0)
        natural = (s.eigenvalues[0] * weights.square()).sum().sqrt()
        found = []
        with torch.no_grad():
            for size in (1e-2, 1e-4, 1e-6):
                moved = x + size * delta.view_as(x)
                found.append(float(lengths.between(model(x), model(moved)) / (size * natural)))
    finally:
        model.float()
    assert found[-1] == pytest.approx(1, abs=1e-4)
    assert abs(found[-1] - 1) <= abs(found[0] - 1) + 1e-6


@pytest.mark.parametrize("name", REAL)
def test_scaling_logits_changes_lengths_but_not_the_classes_met(real, name):
    model, images = real(name)
    images = images[:2]
    plain, sharp = (
        fv.trace_margins(fv.Classifier(model, temperature=t), images, targets="runner-up", verify=False)
        for t in (1.0, 0.5)
    )
    assert torch.equal(plain.source, sharp.source)
    assert torch.equal(plain.hit, sharp.hit)
    assert ((sharp.length / plain.length - 1).abs() > 1e-5).all()
    for t in (plain, sharp):
        for path in t.paths:
            said = [u.net(path.images).argmax(1) for u in (plain, sharp)]
            assert torch.equal(*said), "the same class everywhere on the way"


def test_flat_networks_are_left_by_smoothed_slopes(real):
    """Almost every pixel sits below a threshold of this network, so that its own slopes say nothing there."""
    model, images = real(ROBUST, 5)
    t = fv.trace_margins(model, images, targets="runner-up", verify=False)
    check(t)
    assert t.ends.min() >= 0
    assert t.ends.max() <= 1
    assert t.flipped.sum() >= 4
    assert (t.smoothed > 0.5).sum() >= 3
    for path, share in zip(t.paths, t.smoothed.tolist(), strict=True):
        assert len(path.smoothed) == len(path.pace)
        assert sum(path.smoothed) == pytest.approx(share * len(path.pace))
        assert not any(path.smoothed[:3]), "three steps are made without"
