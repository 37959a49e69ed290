"""Likelihoods of numbers against closed forms, and a toy one that every door takes or refuses by its own words."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fimviz as fv
from fimviz.model.likelihoods import LIKELIHOODS
from fimviz.model.likelihoods.independent import Numbers, symbols_of
from fimviz.model.likelihoods.protocol import Symbols
from tests.views.test_views import unpacked

SIGMA = 0.25


@dataclass(frozen=True)
class Exponential(Numbers):
    """K waiting times with rates e^z: S = I, KL = Σ e^u − 1 − u with u = w − z."""

    name: ClassVar[str] = "exponential"
    words: ClassVar[str] = "waiting times"
    symbols: ClassVar[Symbols] = symbols_of("1", "1", "exponential", "to rates", "each output tells 1")
    log_limit = 0.0

    def mean(self, z: Tensor) -> Tensor:
        return (-z).exp()

    def kl(self, z: Tensor, w: Tensor) -> Tensor:
        return ((w - z).exp() - 1 - (w - z)).sum(-1)

    def log_prob(self, z: Tensor, outcome: Tensor) -> Tensor:
        return (z - z.exp() * outcome).sum(-1)

    def log_weights(self, z: Tensor) -> Tensor:
        return torch.zeros_like(z)


KINDS = {"gaussian": fv.Gaussian(sigma=SIGMA), "poisson": "poisson", "toy": "exponential"}


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(LIKELIHOODS, "exponential", Exponential())


def linear(kind="gaussian", outputs=3, pixels=16, seed=0):
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, outputs)).double()
    generator = torch.Generator().manual_seed(seed)
    model[1].weight.data = torch.randn(outputs, pixels, generator=generator, dtype=torch.float64) / 4
    names = ["height", "width", "age"] if outputs == 3 else None
    return fv.Classifier(model, likelihood=KINDS[kind], classes=names), model[1].weight.data


def images(n=4, side=4):
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def information(kind, W: Tensor, z: Tensor) -> Tensor:
    weights = {"gaussian": torch.full_like(z, SIGMA**-2), "poisson": z.exp(), "toy": torch.ones_like(z)}[kind]
    return W.T @ (weights[..., None] * W)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outputs", [1, 3])
class TestSpectrum:
    @pytest.mark.parametrize("method", ["exact", "lanczos", "power"])
    def test_is_that_of_the_closed_form(self, kind, outputs, method):
        net, W = linear(kind, outputs)
        s = fv.spectrum(net, images(), k=1, method=method, tolerance=1e-9)
        expected = torch.linalg.eigvalsh(information(kind, W, s.logits)).flip(-1)
        torch.testing.assert_close(s.spectral_norm, expected[:, 0], rtol=1e-6, atol=0)
        assert (s.spectral_norm - expected[:, 0]).abs().le(s.error[:, 0] + 1e-12).all()
        if method == "exact":
            every = fv.spectrum(net, images())
            assert every.eigenvalues.shape[1] == outputs
            torch.testing.assert_close(every.eigenvalues, expected[:, :outputs])
            torch.testing.assert_close(every.trace, expected.sum(1))

    def test_walks_follow_kl(self, kind, outputs):
        net, W = linear(kind, outputs)
        s = fv.spectrum(net, images(), k=1)
        walk = s.walk(eps=[-0.3, 1e-6, 0.2])
        u = (s.eigenvectors[:, 0].flatten(1) @ W.T)[:, None] * walk.epsilon[..., None]
        rate = s.logits.exp()[:, None]
        excess = torch.where(u.abs() < 1e-4, u**2 / 2 + u**3 / 6, torch.expm1(u) - u)
        kl = {"gaussian": u**2 / 2 / SIGMA**2, "poisson": rate * excess, "toy": excess}[kind].sum(-1)
        torch.testing.assert_close(walk.kl, kl, rtol=1e-6, atol=1e-20 if kind != "toy" else 1e-15)
        assert walk.flips.isinf().all()
        torch.testing.assert_close(walk.probabilities, walk.outcomes)

    def test_bounds_hold(self, kind, outputs):
        net, W = linear(kind, outputs)
        c = fv.compare_bounds(net, images())
        value = {name: m.value for name, m in c.methods.items()}
        for name, m in c.methods.items():
            if m.guarantee == "upper":
                assert (m.value.isnan() | (m.value >= value["exact"])).all(), name
            if m.guarantee == "lower":
                assert (m.value <= value["exact"] * (1 + 1e-9)).all(), name
        assert (value["L5"].isnan().all() and "largest information" in c.reasons["L5"]) == (kind == "poisson")
        if kind == "gaussian":
            norm = torch.linalg.matrix_norm(W, 2).item()
            assert value["exact"].tolist() == pytest.approx([norm**2 / SIGMA**2] * 4)
            assert value["L5"].tolist() == pytest.approx([norm**2 / SIGMA**2] * 4, rel=1e-6)
            assert value["L2"].tolist() == pytest.approx([norm**2 / SIGMA**2] * 4, rel=1e-6)
        assert c.confidence.isnan().all()


def test_answers_alone_give_the_spectrum():
    net, W = linear()
    box = fv.BlackBox(net.model, as_torch=True, likelihood=KINDS["gaussian"], precision="float64")
    s = fv.spectrum(box, images(2))
    assert s.spectral_norm.tolist() == pytest.approx(
        [float(torch.linalg.matrix_norm(W, 2) ** 2) / SIGMA**2] * 2, rel=0.01
    )
    assert s.guarantee == "statistical"
    with pytest.raises(ValueError, match="outputs is 'probabilities' and the model gives real numbers"):
        fv.BlackBox(net.model, likelihood=KINDS["gaussian"], outputs="probabilities")


@pytest.mark.parametrize("kind", KINDS)
def test_changes_of_any_direction_are_measured(kind):
    net, _ = linear(kind)
    x = images()
    r = fv.local_accuracy(net, x, net(x) + 0.5, epsilons=[0.01, 0.02])
    assert (r.kl > 0).all()
    if kind == "gaussian":  # a linear model is its own linearisation, and KL is quadratic
        assert r.error.max() < 1e-6
    else:
        assert r.error.max() < 0.1
    worst = r.kl[r.norms.index("l2"), r.directions.index("worst")]
    assert (worst >= r.kl[r.norms.index("l2"), r.directions.index("fgsm")] * (1 - 0.02)).all()
    assert "fv-" in r.view().html()


def test_attacks_of_one_strength_ascend_the_error():
    net, _ = linear(outputs=1)
    x = images()
    truth = net(x) + 1.0
    for attack in (fv.attacks.fgsm, fv.attacks.pgd, fv.attacks.spectral, fv.attacks.random):
        moved = attack(net, x, truth, 0.02, norm="linf")
        assert ((net(moved) - truth).abs() > (net(x) - truth).abs()).all()
    best = (net(fv.attacks.fgsm(net, x, truth, 0.02, norm="linf")) - truth).abs()
    assert ((net(fv.attacks.random(net, x, truth, 0.02, norm="linf")) - truth).abs() <= best + 1e-12).all()


class TestLabels:
    def test_are_numbers_in_the_frame_and_right_or_wrong_is_not_asked(self):
        net, _ = linear()
        s = fv.spectrum(net, images(2), labels=[[1, 2.5, 3], [4, 5, 6]])
        assert s.correct is None
        assert s.frame.label.tolist() == [(1.0, 2.5, 3.0), (4.0, 5.0, 6.0)]
        assert s.frame.prediction[0] == pytest.approx(tuple(s.logits[0].tolist()))
        assert s.frame.confidence.isna().all()
        one = fv.spectrum(linear(outputs=1)[0], images(2), labels=np.array([0.5, 2]))
        assert one.frame.label.tolist() == [0.5, 2]
        assert one.frame.prediction.dtype == float

    @pytest.mark.parametrize(
        ("kind", "labels", "words"),
        [
            ("gaussian", [1.0, 2.0], r"shape \(2,\), expected \(2, 3\): the model gives real numbers"),
            ("gaussian", [[1.0, 2.0, math.nan]] * 2, r"labels\[2\] is missing"),
            ("gaussian", [["a", "b", "c"]] * 2, "expected numbers: the model gives real numbers"),
            ("poisson", [[1, 2, 3], [1, -2, 3]], r"labels\[1\] holds -2.0, expected counts, from 0 on"),
            ("gaussian", [[1.0], [1.0, 2.0]], "pass one row of numbers an image"),
        ],
    )
    def test_others_are_refused(self, kind, labels, words):
        with pytest.raises((ValueError, TypeError), match=words):
            fv.spectrum(linear(kind)[0], images(2), labels=labels)


CLASSES_ONLY = {
    "an attack needs one to miss": lambda net, x: fv.compare_models({"a": net, "b": net}, x, torch.zeros(len(x), 3)),
    "CCKL compares images of different classes": lambda net, x: fv.FisherMonitor(net, x, torch.zeros(len(x), 3)),
    "a margin needs one predicted class": lambda net, x: fv.trace_margins(net, x),
    "a sample has one category here": lambda net, x: fv.cckl(net, x, torch.zeros(len(x), 3)),
    "an attribution explains one": lambda net, x: fv.attributions(net, x),
}
OUTCOMES_ONLY = {
    "a certificate is of one that stays": fv.certified_radius,
    "an attack succeeds where the label is missed": fv.vulnerability,
    "the explorer compares samples at one confidence": fv.explore,
    "pass the numbers that": lambda net, x: fv.attacks.fgsm(net, x, None, 0.1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", CLASSES_ONLY | OUTCOMES_ONLY)
def test_what_takes_classes_says_so(kind, door):
    net, _ = linear(kind)
    words = {"gaussian": "real numbers", "poisson": "counts", "toy": "waiting times"}[kind]
    wanted = "one of K classes" if door in CLASSES_ONLY else "classes or yes/no labels"
    with pytest.raises(ValueError, match=f"^the model gives {words}, expected {wanted}: {door}"):
        (CLASSES_ONLY | OUTCOMES_ONLY)[door](net, images(2))


@pytest.mark.parametrize("kind", KINDS)
def test_views_show_numbers(kind):
    net, _ = linear(kind)
    s = fv.spectrum(net, images(), k=2, labels=net(images()))
    data, _ = unpacked(s.view())
    assert data["numbers"] is True
    assert data["samples"][0]["doubt"] is None
    direction = data["samples"][0]["directions"][0]
    assert len(direction["means"]) == 3
    assert "logp" not in direction
    assert direction["flips"] == [None, None]
    assert "height" in s.view().html()
    bounds = fv.compare_bounds(net, images(2), methods=["exact", "L2", "L5"])
    page, _ = unpacked(bounds.view())
    assert page["samples"][0]["prediction"].startswith("height")
    assert page["samples"][0]["confidence"] is None
    says = {m["name"]: m["formula"] for m in page["methods"]}
    assert says["L2"] == {"gaussian": "1/σ²", "poisson": "max rate", "toy": "1"}[kind] + " · ‖J‖²"
    assert page["head"]["name"] == {"gaussian": "noise"}.get(kind, "exponential")
    assert "height" in fv.reconstruction(s).view().html()
    assert repr(net) == "Classifier(Sequential, 3 outputs)"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fv.Gaussian(sigma=0), "sigma is 0, expected a positive finite number"),
        (
            lambda: fv.spectrum(
                fv.Classifier(nn.Linear(2, 1), likelihood="gaussian"), torch.rand(2, 2), labels=[0.0, -torch.inf]
            ),
            "holds -inf, expected finite numbers",
        ),
        (lambda: fv.Gaussian(sigma="1"), "sigma is '1', expected a number"),
        (lambda: fv.Classifier(nn.Identity(), likelihood="poisson", temperature=2), "temperature is 2, and counts"),
        (lambda: fv.Classifier(nn.Softplus(), likelihood="poisson")(torch.rand(2, 2)), "Softplus and returns rates"),
    ],
)
def test_what_has_no_meaning_is_refused(make, words):
    with pytest.raises((ValueError, TypeError), match=words):
        make()


def test_a_size_of_noise_is_a_number_of_its_own():
    sigma = torch.tensor(2.0)
    assert fv.Gaussian(sigma) == fv.Gaussian(2.0)
    assert type(fv.Gaussian(sigma).sigma) is float


def test_a_regression_may_end_in_a_sigmoid():
    net = fv.Classifier(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()), likelihood="gaussian")
    assert fv.spectrum(net, torch.rand(2, 2)).spectral_norm.isfinite().all()


OUTCOMES = r"(outcomes?|predictions|labels|modes?|truth)(\[[^\]]*\])?"
ASKED = re.compile(
    r"likelihood\.name\b|(isinstance|type)\([^)]*likelihood|likelihoods\.(?!protocol\b)\w+ import"
    rf"|{OUTCOMES}\.(ndim|dim\(\))|len\({OUTCOMES}\.shape\)"
)


def test_nobody_else_asks_which_likelihood_it_is():
    """What depends on the distribution stands in its file: no other room asks for it, or for its labels' shape."""
    root = Path(fv.__file__).parent
    rooms = [path for path in root.rglob("*.py") if "likelihoods" not in path.parts]
    found = [f"{path.relative_to(root)}: {m[0]}" for path in rooms for m in ASKED.finditer(path.read_text())]
    assert len(rooms) > 100
    assert not found
