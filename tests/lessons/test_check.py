"""Each check takes what is right, and names what is wrong with the answers that students give."""

import math
from dataclasses import dataclass

import pytest
import torch

import fimviz as fv
from fimviz.lessons import check
from fimviz.lessons.check.given import jacobian


@dataclass
class Given:
    net: fv.Classifier
    digit: torch.Tensor
    J: torch.Tensor
    p: torch.Tensor


@pytest.fixture(scope="module")
def given():
    net, digit = fv.zoo.load("digits-mlp"), fv.zoo.digits().images[3:4]
    return Given(net, digit, *jacobian(net, digit))


@pytest.fixture(scope="module")
def fisher(given):
    return given.J.T @ (torch.diag(given.p) - torch.outer(given.p, given.p)) @ given.J


def says(capsys, words):
    assert words in capsys.readouterr().out


def test_fisher(given, fisher, capsys):
    check.fisher(fisher, given.net, given.digit)
    said = capsys.readouterr().out
    assert said.startswith("✓ F is right: symmetric, trace ")
    assert "9 of 64" not in said, "the prediction that comes next asks for it"
    J, p = given.J, given.p
    centred = torch.diag(p) - torch.outer(p, p)
    for wrong, words in [
        (..., "still a blank"),
        (3.0, "is a float, expected a torch tensor of shape (64, 64)"),
        (J @ J.T, "has shape (10, 10), expected (64, 64), pixels by pixels"),
        (fisher * torch.nan, "not finite"),
        (J.T @ torch.triu(centred) @ J, "not symmetric"),
        (J.T @ J, "probabilities are missing"),
        (J.T @ torch.diag(p) @ J, "diag(p) alone"),
        (J.T @ (torch.outer(p, p) - torch.diag(p)) @ J, "negative eigenvalue"),
        (fisher / 2, "0.5 times what it should be"),
        (fisher + torch.eye(64), "its trace is"),
    ]:
        with pytest.raises(check.Mistake) as raised:
            check.fisher(wrong, given.net, given.digit)
        assert words in str(raised.value)


def test_one_image_is_asked_for(given, fisher):
    two = given.digit.repeat(2, 1, 1, 1)
    v = fisher[0] / fisher[0].norm()
    for checked in (
        lambda: check.fisher(fisher, given.net, two),
        lambda: check.leading(1.0, v, given.net, two),
        lambda: check.certified(0.1, given.net, two),
        lambda: check.fgsm(two, given.net, two, 3, epsilon=0.1),
    ):
        with pytest.raises(check.Mistake, match=r"image has shape \(2, 1, 8, 8\), expected a batch of one"):
            checked()


def test_leading(given, fisher, capsys):
    values, vectors = torch.linalg.eigh(fisher)
    check.leading(values[-1], -vectors[:, -1], given.net, given.digit)
    says(capsys, "−v₁ would have been as right")
    for value, vector, words in [
        (..., vectors[:, -1], "still a blank"),
        (values[0], vectors[:, -1], "from the smallest to the largest"),
        (values.sum(), vectors[:, -1], "trace"),
        (2 * values[-1], vectors[:, -1], "is 2 times the largest eigenvalue"),
        (values[-1], ..., "still a blank"),
        (values[-1], vectors, "a row for a column"),
        (values[-1], 2 * vectors[:, -1], "has length 2"),
        (values[-1], vectors[-1], "columns of eigh's matrix"),
    ]:
        with pytest.raises(check.Mistake) as raised:
            check.leading(value, vector, given.net, given.digit)
        assert words in str(raised.value)


def test_step_for(given, capsys):
    found = fv.spectrum(given.net, given.digit, k=1)
    size = float(found.spectral_norm[0])
    check.step_for(math.sqrt(0.2 / size), found, 0.1)
    says(capsys, "in units of pixel values")
    for wrong, words in [
        (math.sqrt(0.1 / size), "left out the ½"),
        (0.2 / size, "take the root"),
        (math.sqrt(0.2) / size, "outside of the root"),
        (math.sqrt(size / 0.2), "Upside down"),
        (1.0, "nats, expected 0.1"),
        (math.inf, "expected a finite number"),
        ("1", "nats, expected 0.1"),
        (torch.ones(3), "expected a single number"),
        ([1, 2], "is a list, expected a number"),
    ]:
        with pytest.raises(check.Mistake) as raised:
            check.step_for(wrong, found, 0.1)
        assert words in str(raised.value)


def slips(checked, right, wrong, capsys):
    checked(right)
    says(capsys, "✓")
    for function, words in wrong:
        with pytest.raises(check.Mistake) as raised:
            checked(function)
        assert words in str(raised.value), function


def test_kl(capsys):
    wrong = [
        (lambda p, q: (p * (p.log2() - q.log2())).sum(), "bits"),
        (lambda p, q: (q * (q / p).log()).sum(), "exchanged"),
        (lambda p, q: (p * (q / p).log()).sum(), "other sign"),
        (lambda p, q: (p / q).log().sum(), "weigh"),
        (lambda p, q: (p * (p / q).log()).mean(), "their sum"),
        (lambda p, q: p.sum(), "expected"),
        (lambda p, q: p * (p / q).log(), "single number"),
        (lambda p, q: None, "end in a return"),
        (lambda p, q: p.lgo(), "stopped with AttributeError"),
        (lambda p, q: ..., "still a blank"),
        (0.3, "expected a function"),
    ]
    slips(check.kl, lambda p, q: (p * (p / q).log()).sum(), wrong, capsys)


def test_distance_floor_length_and_quotient(capsys):
    def cosine(p, q):
        return (p * q).sqrt().sum()

    wrong = [
        (lambda p, q: cosine(p, q).arccos(), "2 is missing"),
        (lambda p, q: 2 * (p * q).sum().arccos(), "roots are missing"),
        (lambda p, q: 2 * (p.sqrt() - q.sqrt()).norm(), "chord"),
        (lambda p, q: (p - q).norm(), "Euclidean"),
        (cosine, "cosine"),
        (lambda p, q: 2 * cosine(p, q).arcsin(), "arcsin"),
        (lambda p, q: p.sum(), "expected"),
    ]
    slips(check.distance, lambda p, q: 2 * cosine(p, q).arccos(), wrong, capsys)

    def root(py, pk):
        return py.sqrt() - pk.sqrt()

    wrong = [
        (lambda py, pk: torch.arcsin(root(py, pk) / 2**0.5), "2 before the arcsin"),
        (lambda py, pk: 2 * torch.arcsin((py - pk) / 2**0.5), "The roots"),
        (lambda py, pk: 2 * torch.arcsin(root(py, pk)), "√2 is missing"),
        (lambda py, pk: 2 * torch.arcsin(root(py, pk) / 2), "by √2"),
        (lambda py, pk: 2 * torch.arcsin(root(pk, py) / 2**0.5), "other way round"),
        (lambda py, pk: py, "expected"),
    ]
    slips(check.floor, lambda py, pk: 2 * torch.arcsin(root(py, pk) / 2**0.5), wrong, capsys)

    def pieces(p):
        return 2 * (p[:-1] * p[1:]).sqrt().sum(1).arccos()

    wrong = [
        (lambda p: 2 * cosine(p[0], p[-1]).arccos(), "turns back"),
        (lambda p: pieces(p).mean(), "their sum"),
        (lambda p: pieces(p).max(), "longest piece"),
        (lambda p: pieces(p)[:-1].sum(), "last piece"),
        (lambda p: pieces(p)[1:].sum(), "first piece"),
        (lambda p: pieces(p), "single number"),
        (lambda p: 7, "for a path of length"),
    ]
    slips(check.path_length, lambda p: pieces(p).sum(), wrong, capsys)
    wrong = [
        (lambda F, v: v @ F @ v, "grows with the length"),
        (lambda F, v: v @ F @ v / v.norm(), "divided by ‖v‖ once"),
        (lambda F, v: (F @ v).norm() / v.norm(), "larger elsewhere"),
        (lambda F, v: 7, "whose quotient is"),
    ]
    slips(check.rayleigh, lambda F, v: v @ F @ v / (v @ v), wrong, capsys)


def test_random_step(capsys):
    image = torch.zeros(1, 1, 8, 8)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    wrong = [
        (noise[0], "has shape"),
        (0 * noise, "0 everywhere"),
        (0.7 * noise / noise.abs().max(), "L∞"),
        (noise / noise.norm(), "multiply it by 0.7"),
        (0.49 * noise / noise.norm(), "the square of 0.7"),
        (3 * noise, "divide by its norm"),
        (torch.full_like(noise, 0.7 / 8), "the same at every pixel"),
        (0.7 * noise.abs() / noise.norm(), "never negative"),
    ]
    slips(lambda step: check.random_step(step, image, 0.7), 0.7 * noise / noise.norm(), wrong, capsys)


def test_fgsm(given, capsys):
    label, epsilon = 3, 0.1
    x = given.digit.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(-given.net(x)[0, label], x)
    step = epsilon * gradient.sign()
    mostly = step.clone()
    mostly[..., 3:5, 3:5] *= -1
    wrong = [
        (given.digit, "the image itself"),
        (given.digit + 2 * step, "the budget is 0.1"),
        (given.digit + step, "clamp it"),
        ((given.digit - step).clamp(0, 1), "go up the loss"),
        ((given.digit + epsilon * gradient / gradient.abs().max()).clamp(0, 1), "takes the sign of the gradient"),
        ((given.digit + mostly).clamp(0, 1), "% of the pixels that could move"),
    ]
    right = (given.digit + step).clamp(0, 1)
    slips(lambda moved: check.fgsm(moved, given.net, given.digit, label, epsilon), right, wrong, capsys)


def test_units(capsys):
    shape, epsilon = (3, 4, 4), 0.5
    wrong = [
        (epsilon * 48, "L1"),
        (epsilon**2 * 48, "squared"),
        (epsilon, "L∞"),
        (epsilon * 4, "one colour channel"),
        (1, "root of the sum of squares"),
    ]
    slips(lambda v: check.longest_change(v, epsilon, shape), epsilon * math.sqrt(48), wrong, capsys)
    wrong = [
        (0.03 / 0.225, "other way round"),
        (0.03, "as it was given"),
        (0.03 * 0.225 * 255, "levels of 255"),
        (0.03 * 0.225**2, "variance"),
        (1, "How much does x change"),
    ]
    slips(lambda v: check.in_pixels(v, 0.03, 0.225), 0.03 * 0.225, wrong, capsys)


def test_promises(given, capsys):
    layer = torch.nn.Linear(2, 2, bias=False).double()
    layer.weight.data = torch.tensor([[2.0, 1.0], [-1.0, 3.0]]).double()
    x = torch.tensor([0.5, 0.0]).double()
    p = layer(x).detach().softmax(0).prod()
    apart = (layer.weight[0] - layer.weight[1]).detach().norm()
    both = (layer.weight[0] + layer.weight[1]).detach().norm()
    wrong = [
        (apart**2 / 4, "is the bound"),
        (apart**2, "probabilities are missing"),
        (p * apart, "has to be squared"),
        (p * both**2, "w₁ + w₂"),
        (2 * p * apart**2, "is 2 times what fv.spectrum finds"),
    ]
    slips(lambda v: check.two_classes(v, layer, x), p * apart**2, wrong, capsys)

    W = [m.weight.detach().double() for m in given.net.model if isinstance(m, torch.nn.Linear)]
    norms = [torch.linalg.matrix_norm(w, 2) for w in W]
    wrong = [
        (W[0].norm() * W[1].norm(), "Frobenius"),
        (norms[0] * norms[1] * norms[2], "last layer is in it"),
        (norms[0] + norms[1], "so multiply"),
        (2 * norms[0] * norms[1], "is 2 times what it should be: one factor for each layer"),
    ]
    slips(lambda v: check.lipschitz(v, given.net, given.digit), norms[0] * norms[1], wrong, capsys)

    L = fv.bounds.network_bound(given.net, given.digit).features
    z = given.net.logits(given.digit)[0].detach().double()
    y = int(z.argmax())
    others = [k for k in range(10) if k != y]
    gaps, apart = z[y] - z[others], (W[2][y] - W[2][others]).norm(dim=1)
    radius = (gaps / apart).min() / L
    wrong = [
        ((gaps / apart).min(), "L is missing"),
        ((gaps / apart).max() / L, "take the smallest"),
        (gaps.min() / L, "rows w are missing"),
        (0, "its gap is 0"),
        (2 * radius, "no guarantee"),
        (radius / 3, "certifies more"),
    ]
    slips(lambda v: check.certified(v, given.net, given.digit), radius, wrong, capsys)
    check.certified(radius * L / (norms[0] * norms[1]), given.net, given.digit)
    assert radius == pytest.approx(
        float(fv.certified_radius(given.net, given.digit, attack=False).logit_form), rel=1e-3
    )


def test_shielding(given, capsys):
    traces = fv.trace_margins(given.net, given.digit, damping=1.0, verify=False)
    met = (traces.hit != traces.target).double()
    assert 0 < met.mean() < 1
    wrong = [
        (100 * met.mean(), "in percent"),
        (1 - met.mean(), "shielded are the others"),
        (met.sum(), "divide by the number"),
        (0.99, "where hit differs from target"),
    ]
    slips(lambda v: check.shielding(v, traces), met.mean(), wrong, capsys)
    images, labels = fv.zoo.digits()
    traces = fv.trace_margins(given.net, images[8:10], labels[8:10], damping=1.0, verify=False)
    met = (traces.hit != traces.target).double()
    right = met[traces.correct].mean()
    assert right == pytest.approx(traces.shielding(resamples=2).shielded.value)
    slips(lambda v: check.shielding(v, traces), right, [(met.mean(), "from a wrong answer are among yours")], capsys)
