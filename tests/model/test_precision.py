"""`Classifier(precision=…)`: one choice for every spectrum, whoever asks for it."""

import pytest
import torch

import fimviz as fv

UNVERIFIED = "not verified: passes in float32"


@pytest.fixture(scope="module")
def digits():
    images, labels = fv.zoo.digits()
    return images[:2], labels[:2]


def networks():
    zoo = fv.zoo.load("digits-mlp")
    return [fv.Classifier(zoo.model, mean=zoo.mean, std=zoo.std, precision=p) for p in ("verified", "float32")]


def test_what_a_spectrum_says(digits):
    verified, plain = networks()
    assert fv.spectrum(verified, digits[0]).guarantee == "exact"
    s = fv.spectrum(plain, digits[0])
    assert s.guarantee == "unverified"
    assert UNVERIFIED in s.reason
    assert torch.allclose(s.spectral_norm, fv.spectrum(verified, digits[0]).spectral_norm, rtol=1e-3)
    assert fv.spectrum(plain, digits[0], verify=True).guarantee == "exact"
    assert fv.spectrum(verified, digits[0], verify=False).guarantee == "unverified"
    assert fv.spectrum(plain.at_temperature(2.0), digits[0]).guarantee == "unverified"
    wide = fv.Classifier(fv.zoo.load("digits-mlp").model.double(), precision="float32")
    assert fv.spectrum(wide, digits[0]).guarantee == "exact"


SPECTRA = {
    "explore": lambda net, x, y: fv.explore(net, x, y).first.spectrum.guarantee,
    "vulnerability": lambda net, x, y: fv.vulnerability(net, x, y, steps=2, halvings=1).spectrum.guarantee,
    "compare_bounds": lambda net, x, y: fv.compare_bounds(net, x, methods=["lanczos"]).frame.guarantee[0],
}


@pytest.mark.parametrize("door", SPECTRA)
def test_spectra_that_other_doors_make_follow(door, digits):
    verified, plain = (SPECTRA[door](net, *digits) for net in networks())
    assert plain == "unverified" != verified


DIVERGENCES = {
    "certified_radius": lambda net, x, y: fv.certified_radius(net, x).frame.radius,
    "compare_bounds": lambda net, x, y: fv.compare_bounds(net, x, methods=["exact", "L1"]).frame.value,
    "cckl": lambda net, x, y: torch.tensor(fv.cckl(net, x, y).cckl),
}


@pytest.mark.parametrize("door", DIVERGENCES)
def test_what_always_needs_float64_is_the_same(door, digits):
    verified, plain = (torch.as_tensor(DIVERGENCES[door](net, *digits)) for net in networks())
    assert torch.equal(verified, plain)


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="precision is 'double', expected one of verified, float32"):
        fv.Classifier(torch.nn.Identity(), precision="double")
