"""`numbers()`: what a view shows, read from its payload; tests/browser/test_numbers.py compares it with the page."""

import dataclasses

import numpy as np
import pytest
import torch

import fimviz as fv
from fimviz.views.kit.payload import Payload, unpacked
from tests.views.test_views import model


@pytest.fixture(scope="module")
def spectrum():
    torch.manual_seed(1)
    return fv.spectrum(model(), torch.rand(6, 1, 8, 8), labels=[0, 1, 2, 3, 0, 1], k=3)


def with_data(figure, change):
    """The figure with another JSON value in its payload."""
    data, arrays = unpacked(figure.state["payload"])
    change(data)
    packed = Payload()
    packed.add(np.frombuffer(arrays, np.uint8))
    return dataclasses.replace(figure, state={**figure.state, "payload": packed.pack(data)})


def test_numbers_are_read_from_the_payload(spectrum):
    figure = spectrum.view()
    shown = figure.numbers()
    assert list(shown.columns) == ["part", "item", "name", "value", "text"]
    assert shown.equals(spectrum.numbers())
    place = spectrum.fragile[0]
    title = shown[shown.part == "title"].set_index("name")
    assert title["item"].unique().tolist() == [f"sample {place}"]
    assert title.value["λ₁"] == float(spectrum.spectral_norm[place])

    def measured_as_predicted(data):
        for sample in data["samples"]:
            for d in sample["directions"]:
                eps = np.linspace(-sample["reach"], sample["reach"], len(d["kl"]) - 2)
                d["kl"] = (0.5 * np.sort([*eps, *d["at"]]) ** 2 * d["value"]).tolist()

    other = with_data(figure, measured_as_predicted).numbers()
    here, before = (t[t.part == "here"].set_index("name").value for t in (other, shown))
    assert here["KL measured"] == pytest.approx(here["½ε²λ predicted"])
    assert here["½ε²λ predicted"] == before["½ε²λ predicted"]
    assert here["KL measured"] != pytest.approx(before["KL measured"], rel=1e-3)


def test_a_step_says_what_walking_there_says(spectrum):
    widget = spectrum.widget(samples=6)
    for place in range(6):
        epsilon = float(spectrum.known(3)[1][place]) / 4  # a node of the even grid
        for flipped in (False, True):
            widget.set_state({"index": place, "direction": 1, "epsilon": epsilon, "flipped": flipped})
            here = widget.numbers().query("part == 'here'").set_index("name").value
            walk = spectrum.walk(1, [-epsilon if flipped else epsilon])
            assert here["KL measured"] == pytest.approx(float(walk.kl[place, 0]), rel=1e-3)
            assert here["½ε²λ predicted"] == pytest.approx(float(walk.quadratic[place, 0]))


def test_options_are_those_of_the_view(spectrum):
    table = spectrum.numbers(samples=[2, 5], directions=1).query("part == 'Table: all samples shown'")
    assert set(table["item"]) == {"2", "5"}
    with pytest.raises(ValueError, match="places in the batch"):
        spectrum.numbers(samples=[7])
