"""A result asks its model again only while that is the one it was computed on."""

import copy
import dataclasses
import pickle
import re

import pytest
import torch
from torch import nn

import fimviz as fv
from fimviz.model.origin import Print, weights_of
from tests.views.test_views import unpacked

CHANGES = {
    "in place": lambda m, net, x: [p.data.mul_(0.3) for p in m.parameters()],
    "another checkpoint": lambda m, net, x: m.load_state_dict({k: v + 0.01 for k, v in m.state_dict().items()}),
    "one weight": lambda m, net, x: m[3].bias.data[1].add_(1e-3),
    "two rows swapped": lambda m, net, x: m[3].weight.data.copy_(m[3].weight.data[[1, 0, 2]]),
    "data replaced": lambda m, net, x: setattr(m[3].weight, "data", m[3].weight.data * 1.01),
    "another layer": lambda m, net, x: m.__setitem__(3, nn.Linear(20, 3)),
    "statistics": lambda m, net, x: m[1].running_mean.add_(0.1),
    "a hook": lambda m, net, x: m[2].register_forward_hook(lambda module, given, out: out * 0),
    "temperature": lambda m, net, x: setattr(net, "temperature", 2.0),
}


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3)).eval()
    return model, fv.Classifier(model), torch.rand(4, 30)


@pytest.mark.parametrize("how", CHANGES)
def test_a_result_of_other_weights_refuses_to_ask_the_model(how):
    model, net, x = network()
    s, pairs = fv.spectrum(net, x), fv.cckl(net, x, [0, 1, 2, 0])
    assert s.changed == pairs.changed == ""
    with torch.no_grad():
        CHANGES[how](model, net, x)
    assert s.changed
    assert pairs.changed
    for ask in (
        s.walk,
        lambda: s.walk(eps=0.1),
        s.plane,
        lambda: s.reach,
        lambda: s.one_sided,
        lambda: pairs.path(0, 1),
        lambda: fv.vulnerability(net, x, spectrum=s, attacks=["fgsm"]),
        lambda: fv.attributions(net, x, spectrum=s, methods=["Saliency"]),
        s.take([1]).walk,
    ):
        with pytest.raises(RuntimeError, match="has to ask the model, and the model"):
            ask()
    assert fv.spectrum(net, x).changed == ""


UNTOUCHED = {
    "eval": lambda m: m.eval(),
    "train": lambda m: m.train(),
    "frozen": lambda m: m.requires_grad_(False),
    "float64": lambda m: m.double(),
    "gradients": lambda m: m(torch.rand(2, 30)).sum().backward(),
    "moved": lambda m: m.to("cpu"),
    "the same checkpoint again": lambda m: m.load_state_dict(copy.deepcopy(m.state_dict())),
}


@pytest.mark.parametrize("how", UNTOUCHED)
def test_what_does_not_change_a_network_changes_no_result(how):
    model, net, x = network()
    s = fv.spectrum(net, x)
    UNTOUCHED[how](model)
    assert s.changed == ""
    middle = s.walk().epsilon == 0
    assert middle.any(1).all()
    assert s.walk().kl[middle].abs().max() < 1e-9


def test_what_was_computed_is_kept_and_shown():
    model, net, x = network()
    s, other = fv.spectrum(net, x), fv.spectrum(net, x)
    walk, page = s.walk(), s.view(directions=1).html()
    with torch.no_grad():
        model[3].weight.mul_(2)
    assert s.walk() is walk
    assert s.view(directions=1).html() == page
    drawn = other.view()
    data, _ = unpacked(drawn)
    assert "weights are no longer those" in data["changed"]
    assert [d["kl"].count(None) for d in data["samples"][0]["directions"]] == [34, 34]
    assert data["samples"][0]["directions"][0]["value"] == float(s.spectral_norm.max())
    assert len(other.frame) == 4
    assert repr(other) == repr(s)


def test_all_views_are_drawn_of_a_model_that_has_changed():
    model, net, x = network()
    y = net(x).argmax(1)
    results = [
        fv.spectrum(net, x),
        fv.cckl(net, x, [0, 1, 2, 0]),
        fv.vulnerability(net, x, y, attacks=["fgsm"]),
        fv.explore(net, x, y, include=["plane", "attacks", "margins"]),
        fv.trace_margins(net, x),
        fv.reconstruction(fv.spectrum(net, x)),
        fv.attributions(net, x, methods=["Saliency"]),
        fv.local_accuracy(net, x, y),
    ]
    with torch.no_grad():
        model[0].weight.mul_(1.5)
    for result in results:
        assert len(result.view().html()) > 1000
        assert len(result.frame)
    assert results[2].predictors["matched_spectral_norm"].isfinite().all(), "computed in the call"


def test_pixels_are_the_results_own():
    _, net, x = network()
    given = x.clone()
    s = fv.spectrum(net, given)
    traces, pairs = fv.trace_margins(net, given), fv.cckl(net, given, [0, 1, 2, 0])
    given.mul_(0.5)
    for result in (s, traces, pairs):
        assert torch.equal(result.images, x)
        assert result.changed == ""
    s.images.mul_(0.5)
    with pytest.raises(RuntimeError, match=re.escape("the images that this result holds have been changed in place")):
        s.walk()


def test_a_part_a_copy_and_a_pickle_are_of_the_same_weights():
    model, net, x = network()
    s = fv.spectrum(net, x)
    part = s.take([2, 0])
    twin = dataclasses.replace(s, net=fv.Classifier(copy.deepcopy(model)), _parts={}, _walks={})
    stored = pickle.loads(pickle.dumps(s))
    with torch.no_grad():
        model[0].weight.mul_(1.1)
    assert part.changed
    assert s.changed
    assert twin.changed == stored.changed == ""


def test_what_was_asked_of_a_batch_is_known_of_its_parts():
    model, net, x = network()
    s = fv.spectrum(net, x, k=2)
    walk, reach, one_sided = s.walk(), s.reach, s.one_sided
    part = s.take([2, 0])
    with torch.no_grad():
        model[0].weight.mul_(1.1)  # so that it cannot be asked again
    for name in ("epsilon", "kl", "flips", "becomes", "outcomes"):
        assert torch.equal(getattr(part.walk(), name), getattr(walk, name)[[2, 0]])
    assert torch.equal(part.reach, reach[[2, 0]])
    assert torch.equal(part.one_sided, one_sided[[2, 0]])
    with pytest.raises(RuntimeError, match="has to ask the model"):
        part.walk(1)


def test_caches_that_are_not_saved_with_the_model_are_no_weights():
    model, net, x = network()
    model.register_buffer("table", torch.zeros(3), persistent=False)
    s = fv.spectrum(net, x)
    model.table = torch.ones(50)
    assert s.changed == ""


def test_a_spectrum_of_another_wrapping_is_not_taken():
    model, net, x = network()
    warm = fv.Classifier(model, temperature=2.0)
    for door in (fv.vulnerability, fv.attributions):
        with pytest.raises(ValueError, match="spectrum is of another model"):
            door(warm, x, spectrum=fv.spectrum(net, x))


def test_fingerprints_see_every_number_and_not_how_it_is_stored():
    torch.manual_seed(1)
    state = {"a": torch.randn(3, 2000), "b": torch.randn(7), "c": torch.tensor([3, 1, 2])}
    whole = Print.of(state.items())
    for name, t in state.items():
        for place in torch.randperm(t.numel())[:50].tolist():
            changed = t.clone()
            changed.view(-1)[place] += 1 if name == "c" else 1e-3
            assert not whole.agrees(Print.of({**state, name: changed}.items()))
    stored = {"a": state["a"].t().contiguous().t(), "b": state["b"].double(), "c": state["c"].clone()}
    assert whole.agrees(Print.of(stored.items()))
    assert not whole.agrees(Print.of({**state, "d": torch.zeros(1)}.items()))
    conv = nn.Conv2d(3, 8, 3)
    before = Print.of(weights_of(conv))
    assert before.agrees(Print.of(weights_of(conv.to(memory_format=torch.channels_last))))


def test_weights_that_are_no_numbers_are_those_of_before():
    state = {"a": torch.tensor([float("nan"), 1.0]), "b": torch.tensor([float("inf"), 1.0])}
    assert Print.of(state.items()).agrees(Print.of(copy.deepcopy(state).items()))
