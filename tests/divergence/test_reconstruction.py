"""The bound of Cramér and Rao: closed forms, and an estimator that reaches it."""

import math

import pytest
import torch
from torch import nn

import fimviz as fv


def linear(weight, **options):
    model = nn.Linear(weight.shape[1], weight.shape[0], bias=False).double()
    model.weight.data.copy_(weight)
    return fv.Classifier(model, **options)


def test_closed_form_of_two_classes():
    # F = p₁p₂ w wᵀ for the difference w of the rows: one visible direction, std 1/(√(n p₁p₂) ‖w‖)
    net = linear(torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]]))
    x = torch.tensor([[0.1, 0.2, 0.9]])
    r = fv.reconstruction(fv.spectrum(net, x), draws=7)
    p = torch.tensor(1.1).sigmoid().item()
    assert r.std.item() == pytest.approx(1 / (math.sqrt(7 * p * (1 - p)) * 5), rel=1e-6)
    assert r.guess.item() == pytest.approx(0.5 * (0.6 + 0.8), rel=1e-6)
    assert r.needed.item() == math.ceil(1 / (p * (1 - p) * 25 * 0.7**2))
    v = torch.tensor([0.6, 0.8, 0.0]).double()
    apart = x[0].double() - 0.4
    torch.testing.assert_close(r.visible[0].double(), (v @ apart) * v, rtol=1e-5, atol=1e-7)
    assert r.share.item() == pytest.approx(float((v @ apart) ** 2 / (apart @ apart)), rel=1e-5)


def test_maximum_likelihood_comes_near_the_bound():
    # The maximum likelihood estimate of x along v₁ from n labels, over 4000 repetitions: for a linear model of two
    # classes it is the logit of the label's frequency divided by the slope.
    net = linear(torch.tensor([[1.0], [-1.0]]), input_range=None)
    n = 400
    r = fv.reconstruction(fv.spectrum(net, torch.tensor([[0.2]])), draws=n)
    g = torch.Generator().manual_seed(0)
    p = torch.tensor(0.4).sigmoid()
    frequency = torch.bernoulli(p.expand(4000, n), generator=g).double().mean(1)
    estimates = torch.logit(frequency) / 2
    assert 0.95 < float(estimates.std()) / r.std.item() < 1.1
    assert r.guess.isinf().all()
    assert r.known.item() == 1


def test_nothing_across_the_visible_directions_moves_the_answer():
    images, _ = fv.zoo.digits()
    net = fv.zoo.load("digits-resnet-robust")
    s = fv.spectrum(net, images[:5])
    r = fv.reconstruction(s)
    assert (r.std[:, 1:] >= r.std[:, :-1]).all()
    again = fv.reconstruction(s, draws=100)
    torch.testing.assert_close(again.std, r.std / 10)
    assert torch.equal(again.needed, r.needed)
    v = s.eigenvectors.flatten(2).double()
    for i in range(5):
        # what is left of the image has no slope to first order: J applied to it vanishes
        apart = (images[i].double() - images[i].double().mean() - r.visible[i].double()).flatten()
        assert float((v[i] @ apart).abs().max()) < 1e-5
        model = net.model.double()
        try:
            here = images[i : i + 1].double()
            z, along = torch.func.jvp(model, (here,), (apart.view_as(here),))
            _, whole = torch.func.jvp(model, (here,), ((here - here.mean()),))
        finally:
            net.model.float()
        p = z.softmax(1)
        spread = [float((p * (u - (p * u).sum()) ** 2).sum().detach()) for u in (along, whole)]
        assert spread[0] < 1e-6 * spread[1]


def test_frame_and_displays():
    images, labels = fv.zoo.digits()
    r = fv.reconstruction(fv.spectrum(fv.zoo.load("digits-mlp"), images[:6], labels=labels[:6]), draws=10)
    frame = r.frame
    assert list(frame.columns) == [
        "sample", "visible", "values", "known", "std", "guess", "needed", "share", "chance", "failure",
    ]  # fmt: skip
    assert (frame.share <= 1 + 1e-6).all()
    assert (frame.chance == frame.visible / 64).all()
    assert (frame.known == (r.std < r.guess).sum(1).numpy()).all()
    assert repr(r).startswith("Reconstruction(6 inputs of 64 values, 10 draws: ")
    assert len(r.plot().data) == 7
    assert "At best" in r.plot().layout.title.text
    figure = r.view(samples=4)
    assert "<img" in figure.still
    widget = figure.widget()
    assert widget.draws == 10
    widget.close()


def test_several_yes_no_labels_and_flat_images():
    net = fv.Classifier(nn.Linear(5, 3), likelihood="bernoulli", classes=["<b>", "b", "c"])
    r = fv.reconstruction(fv.spectrum(net, torch.full((2, 5), 0.5)))
    assert r.share.isnan().all()
    html = r.view().html()
    assert "<b>" not in html.replace("<b>1/", "").split("<script")[0]


@pytest.mark.parametrize(
    ("make", "options", "error", "words"),
    [
        (lambda s: s.frame, {}, TypeError, "expected a Spectrum"),
        (lambda s: s, {"draws": 0}, ValueError, "at least 1"),
        (lambda s: s, {"draw": 1}, TypeError, "did you mean draws"),
        (lambda s: fv.spectrum(s.net, s.images, vectors=False), {}, ValueError, "vectors=True"),
    ],
)
def test_refusals(make, options, error, words):
    s = fv.spectrum(nn.Linear(3, 2), torch.rand(2, 3))
    with pytest.raises(error, match=words):
        fv.reconstruction(make(s), **options)
