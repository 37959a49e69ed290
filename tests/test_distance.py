"""Both sides of the adversarial distance: closed forms, bands by hand, and what becomes of what has no number."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

import fimviz as fv
from fimviz.distance import AdversarialDistance, ModelDistance

FEW = {"steps": 10, "restarts": 2}


def planes(n=8):
    """A linear network of three classes and images in the middle of their range, with |margin| ÷ ‖w_a − w_b‖."""
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3).double(), 0.4 + 0.2 * torch.rand(n, 4).double()
    z, w = model(x).detach(), model.weight.detach()
    y = z.argmax(1)
    gaps = (z.gather(1, y[:, None]) - z) / (w[y][:, None] - w).norm(dim=2)
    return model, x, y, gaps.nan_to_num(torch.inf).amin(1)


@pytest.fixture(scope="module")
def digits():
    images, labels = fv.zoo.digits()
    nets = {name: fv.zoo.load(f"digits-{name}") for name in ("mlp", "vit")}
    return fv.adversarial_distance(nets, images[4:10], labels[4:10], **FEW)  # the last is missed


def by_hand(certified, attacked, correct):
    """A result with these numbers, of a network that is never asked."""
    model, x, _, _ = planes(len(certified))
    certificate = fv.certified_radius(model, x, method="norms", steps=1, restarts=1)
    labels = torch.where(torch.tensor(correct), certificate.predictions, (certificate.predictions + 1) % 3)
    exact = {"dtype": torch.float64}
    own = replace(certificate, radius=torch.tensor(certified, **exact), attack=torch.tensor(attacked, **exact))
    return AdversarialDistance({"hand": ModelDistance(fv.Classifier(model), own, labels)})


def test_between_planes_both_sides_are_the_distance():
    model, x, y, truth = planes()
    m = fv.adversarial_distance(fv.Classifier(model, input_range=None), x, y, **FEW).models["model"]
    assert torch.allclose(m.certified, truth, rtol=1e-6)
    assert torch.allclose(m.attacked, truth, rtol=1e-4)
    assert (m.certified <= m.attacked).all()


def test_on_networks_no_attack_is_shorter_than_what_is_certified(digits):
    frame = digits.frame
    assert (frame.certified <= frame.attacked).all()
    assert (frame[frame.correct].ratio > 1).all()
    wrong = frame[~frame.correct]
    assert len(wrong)
    assert (wrong[["certified", "attacked"]] == 0).all(axis=None)
    assert (wrong.reason == "missed without a change").all()
    assert (wrong.attack_prediction == wrong.prediction).all()
    hit = frame[frame.correct]
    assert (hit.attack_prediction != hit.label).all()
    unlined = frame[(frame.model == "vit") & frame.correct]
    assert set(unlined.method) == {"norms"}
    assert unlined.reason.str.contains("no linear bounds").all()


def test_the_band_encloses_and_falls(digits):
    band = digits.accuracy()
    right = digits.frame.groupby("model").correct.mean()
    for name, own in band.groupby("model"):
        assert own.epsilon.is_monotonic_increasing
        assert own.certified.is_monotonic_decreasing
        assert own.attacked.is_monotonic_decreasing
        assert (own.certified <= own.attacked).all()
        assert own.iloc[0][["epsilon", "certified", "attacked"]].tolist() == [0, right[name], right[name]]
        assert own.iloc[-1].certified == 0


def test_the_band_is_two_step_functions():
    d = by_hand([0.1, 0.3, math.nan, 0.2], [0.2, math.inf, 0.4, 0.5], [True, True, True, False])
    band = d.accuracy(epsilon=[0, 0.05, 0.1, 0.2, 0.3, 0.4, 9])
    assert band.certified.tolist() == [0.75, 0.5, 0.25, 0.25, 0, 0, 0]
    assert band.attacked.tolist() == [0.75, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]
    assert d.accuracy().epsilon.tolist() == [0, 0.1, 0.2, 0.3, 0.4]
    assert d.frame.ratio.round(9).tolist()[:3] == [2, math.inf, math.inf]
    assert math.isnan(d.frame.ratio[3])
    assert d.frame.reason.tolist()[1:] == ["no attack succeeded", "", "missed without a change"]
    with pytest.raises(ValueError, match="negative numbers or NaN, expected L2 lengths"):
        d.accuracy(epsilon=[-1.0])
    with pytest.raises(TypeError, match=r"epsilon is .0\.1., expected L2 lengths"):
        d.accuracy(epsilon="0.1")


def test_without_labels_a_model_is_held_to_its_own_answer():
    model, x, y, _ = planes()
    own, told = (fv.adversarial_distance(model, x, labels, **FEW) for labels in (None, y))
    assert own.frame.correct.all()
    assert own.frame.label.isna().all()
    assert own.frame.certified.equals(told.frame.certified)
    assert own.frame.attacked.equals(told.frame.attacked)
    assert "half of 8 answers withstand" in own.view().still.lower()


def test_a_network_without_a_certificate_says_why():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Softmax(1), nn.Linear(3, 3))
    d = fv.adversarial_distance({"<b>": net, "plain": planes()[0].float()}, torch.rand(3, 4), method="linear", **FEW)
    own = d.frame[d.frame.model == "<b>"]
    assert (own.certified == 0).all()
    assert own.method.eq("").all()
    assert own.reason.str.len().gt(10).all()
    assert (own.attacked > 0).all()
    assert d.frame[d.frame.model == "plain"].reason.eq("").all()
    page = d.view().html()
    assert "&lt;b&gt;: nothing is proven of 3 answers, and no attack was found<" in d.view().still
    assert "<b>" not in d.view().still
    assert own.reason.iloc[0] in d.view().still
    assert page
    d.plot()


def test_what_fails_is_counted_nowhere():
    model, x, y, _ = planes(4)
    x[2] = 0

    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x) / (x.amax(1, keepdim=True) != 0)

    broken, alone = (fv.adversarial_distance(Breaks(), x[at], y[at], **FEW) for at in ([0, 1, 2, 3], [0, 1, 3]))
    assert broken.frame[["certified", "attacked"]].isna().all(axis=1).tolist() == [False, False, True, False]
    assert "not finite" in broken.frame.failure[2]
    assert broken.accuracy(epsilon=[0.0]).equals(alone.accuracy(epsilon=[0.0]))
    assert "1 of them not computed" in repr(broken)
    assert "Not computed: sample 2" in broken.view().still


@pytest.mark.parametrize("inside", [False, True])
def test_an_interrupt_keeps_what_is_complete(inside, monkeypatch):
    model, x, y, _ = planes(6)
    count = []

    def interrupted(*given, **options):
        count.append(len(count))
        whole = fv.certified_radius(*given, **options)
        if len(count) == 1:
            return whole
        if not inside:
            raise KeyboardInterrupt
        return replace(whole, attack=torch.where(torch.arange(6) < 4, whole.attack, torch.nan))

    monkeypatch.setattr("fimviz.distance.certified_radius", interrupted)
    with pytest.warns(UserWarning, match="interrupted: the result holds what is complete of . of 3 models"):
        d = fv.adversarial_distance(dict.fromkeys("abc", model), x, y, method="norms", steps=2, restarts=1)
    assert list(d.models) == (["a", "b"] if inside else ["a"])
    assert d.frame.failure.ne("").sum() == (2 if inside else 0)
    assert d.view().html()


@pytest.mark.parametrize("found", [fv.adversarial_distance, fv.compare_models, fv.explore])
@pytest.mark.parametrize("wrong", [nn.Linear(3, 3), "a name"])
def test_errors_say_of_which_model_they_are(found, wrong):
    model, x, y, _ = planes(6)
    with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
        found({"good": model, "<b>": wrong}, x, y)
    assert "This is of the model '<b>'." in caught.value.__notes__


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"models": {}}, "models is empty, expected at least one"),
        ({"models": [nn.Identity()]}, "models is a list, expected a model, or several by name"),
        ({"models": {1: nn.Identity(), "1": nn.Identity()}}, "models are called 1, 1, expected names that differ"),
        ({"labels": [0]}, "expected"),
        ({"method": "soup"}, "method is 'soup', expected one of"),
        ({"steps": 0}, "steps is 0"),
        ({"norm": "l2"}, "norm"),
    ],
)
def test_mistakes_are_told_in_a_sentence(given, sentence):
    model, x, y, _ = planes(2)
    with pytest.raises((TypeError, ValueError), match=sentence):
        fv.adversarial_distance(**({"models": model, "images": x, "labels": y} | given))


def test_yes_or_no_labels():
    torch.manual_seed(0)
    model, x = nn.Linear(6, 4).double(), torch.rand(3, 6).double()
    net = fv.Classifier(model, likelihood="bernoulli", input_range=None)
    truth = (model(x).detach().abs() / model.weight.detach().norm(dim=1)).amin(1)
    d = fv.adversarial_distance(net, x, (model(x) > 0).long())
    assert torch.allclose(d.models["model"].attacked, truth, rtol=1e-4)
    assert (d.models["model"].certified <= truth).all()
    assert isinstance(d.frame, pd.DataFrame)
    assert d.view().html()
