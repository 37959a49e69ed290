"""`fv.playground` without a browser: what it takes and refuses, what its page weighs, and what it leaves alone."""

import re

import pytest
import torch
import traitlets
from torch import nn

import fimviz as fv
from tests.playground.test_engine import lenet
from tests.views.test_views import unpacked


@pytest.fixture(scope="module")
def pair():
    return {"standard": fv.zoo.load("digits-resnet"), "robust": fv.zoo.load("digits-resnet-robust")}


def test_a_page_of_two_networks_of_the_zoo(pair, tmp_path):
    figure = fv.playground(pair)
    assert repr(figure) == "Figure(20 samples × 1×8×8, 2 networks)"
    page = figure.save(tmp_path / "page.html")
    assert page.stat().st_size < 2_000_000
    assert not re.search("https?://", page.read_text(encoding="utf-8"))
    assert set(figure._repr_mimebundle_()) == {"text/plain", "text/html"}
    assert figure.html() == fv.playground(pair).html()


@pytest.mark.parametrize("name", [name for name in fv.zoo.names() if "robust" not in name])
def test_a_page_of_each_family_is_small(name):
    assert len(fv.playground(fv.zoo.load(name)).html()) < 1_000_000


def test_samples_with_labels_and_norms(pair):
    images, labels = fv.zoo.digits()
    figure = fv.playground(pair, images[5:9], labels[5:9])
    data, _ = unpacked(figure)
    assert data["labels"] == labels[5:9].tolist()
    for one, net in zip(data["networks"], pair.values(), strict=True):
        truth = fv.spectrum(net, images[5:9]).spectral_norm
        torch.testing.assert_close(torch.tensor(one["norms"], dtype=torch.float64), truth)
    numbers = figure.numbers()
    dots = numbers.query("name == 'λ₁ of robust'")
    assert dots.value.tolist() == data["networks"][1]["norms"]
    for name, net in pair.items():
        said = numbers.query(f"part == 'sample 2' and item == '{name}'").set_index("name")
        assert said.text["says"] == str(int(net(images[7:8]).argmax()))
        assert said.value["p of 3"] == pytest.approx(float(net(images[7:8])[0, 3].exp()), abs=1e-6)
        near = min(abs(f) for f in fv.spectrum(net, images[7:8], k=1).walk(0).flips[0].tolist())
        assert min(said.value.get(f"{way} ε", float("inf")) for way in ("+v₁", "−v₁")) == pytest.approx(near, rel=0.02)
    loader = torch.utils.data.DataLoader(list(zip(images[:3], labels[:3], strict=True)), batch_size=2)
    assert unpacked(fv.playground(pair, loader))[0]["labels"] == labels[:3].tolist()


def test_a_network_of_another_size_starts_from_a_blank_sheet():
    figure = fv.playground(lenet())
    data, _ = unpacked(figure)
    assert (data["shape"], data["images"], figure.state["sample"]) == ([28, 28, 1], None, -1)
    colour = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
    assert unpacked(fv.playground(colour))[0]["shape"] == [16, 16, 3]


def test_weights_in_half_precision_are_carried_as_they_are():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).half()
    said = fv.playground(net, fv.zoo.digits()[0][:2]).numbers().query("part == 'sample 1' and name == 'λ₁'")
    assert said.value.item() == pytest.approx(float(fv.spectrum(net, fv.zoo.digits()[0][1:2]).spectral_norm), rel=1e-6)
    assert {p.dtype for p in net.parameters()} == {torch.float16}


def test_the_model_stays_as_it_came():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fv.playground(net, torch.rand(2, 1, 8, 8))
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4000), nn.Linear(4000, 3))


def three():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


REFUSED = {
    "weights": (lambda: fv.playground(wide()), ValueError, r"272,003 weights, expected .* with max_weights=272003, or"),
    "pixels": (lambda: fv.playground(nn.Flatten(), torch.rand(1, 1, 32, 32)), ValueError, r"\(1, 1, 32, 32\), ex"),
    "series": (lambda: fv.playground(nn.Flatten(), torch.rand(2, 9)), ValueError, r"\(2, 9\), expected \(n, 1 or 3"),
    "three": (lambda: fv.playground(dict.fromkeys("abc", nn.Flatten())), ValueError, "holds 3 networks, expected one"),
    "numbers": (
        lambda: fv.playground(fv.Classifier(nn.Flatten(), likelihood=fv.Gaussian(sigma=1.0)), torch.rand(1, 1, 2, 2)),
        ValueError,
        "expected one of K classes",
    ),
    "classes": (
        lambda: fv.playground({"a": nn.Flatten(), "b": three()}, torch.rand(1, 1, 2, 2)),
        ValueError,
        "expected the same for both",
    ),
    "list": (lambda: fv.playground([nn.Flatten()] * 2), TypeError, r"nets is a list, .* dictionary of one or two"),
    "shapes": (
        lambda: fv.playground({"a": nn.Flatten(), "b": three()}, torch.rand(1, 1, 3, 3)),
        ValueError,
        "b stops at an image of 1×3×3 numbers, expected one that takes it: ",
    ),
    "labels": (lambda: fv.playground(nn.Flatten(), labels=[1]), ValueError, "labels came without images"),
    "nothing": (lambda: fv.playground(nn.Sequential(nn.Flatten(), nn.Linear(10, 3))), ValueError, "takes neither 8×8"),
    "typo": (lambda: fv.playground(nn.Flatten(), image=1), TypeError, "did you mean images"),
    "no model": (lambda: fv.playground(3), TypeError, r"expected a torch\.nn\.Module"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_and_why(case):
    call, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        call()


def test_more_weights_where_they_are_asked_for():
    assert fv.playground(wide(), max_weights=300_000).state["sample"] == 0


def test_the_live_widget_takes_the_samples_that_there_are(pair):
    widget = fv.playground(pair["standard"]).widget()
    widget.sample = 3
    for wrong in (20, -2):
        with pytest.raises(traitlets.TraitError, match="sample is"):
            widget.sample = wrong
    widget.close()
