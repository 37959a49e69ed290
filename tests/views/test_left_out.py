"""What a page leaves out it says, with options that exist; and a page too large is known before the work."""

import re
import sys

import pytest
import torch

import fimviz as fv
from fimviz.views.explorer.explored import batch_data
from tests.explorer.test_explorer import batch, model
from tests.views.test_views import unpacked


def said(figure):
    return unpacked(figure)[0]["left"]


@pytest.fixture(scope="module")
def photographs():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 132**2, 3))
    return fv.Classifier(net), torch.rand(8, 3, 132, 132)  # just large enough


def test_large_images_are_left_out_in_words(photographs):
    net, images = photographs
    s = fv.spectrum(net, images)
    shown = len(unpacked(s.view(directions=1))[0]["samples"])
    others = ", ".join(map(str, sorted(s.fragile[3:])))
    assert said(s.view(directions=1, samples=3)) == (
        f"3 of 8 samples are here, the most fragile; not {others}: .view(samples=8) shows all. "
        "1 of 2 directions are here: .view(directions=2) shows all."
    )
    assert said(s.view(samples=8)) == ""
    assert shown == 8
    traces = fv.trace_margins(net, images, targets="runner-up", verify=False, damping=1.0, max_steps=8)
    assert len(unpacked(traces.view())[0]["samples"]) == 8
    assert said(traces.view(samples=2)).startswith("2 of 8 samples are here")
    a = fv.attributions(net, images[:2], methods=("Saliency",), spectrum=s.take([0, 1]))
    assert said(a.view(samples=1)) == "1 of 2 samples are here, the first; not 1: .view(samples=2) shows all."
    assert said(fv.reconstruction(s).view(samples=1)).startswith("1 of 8 samples are here, the first")


def test_a_view_that_is_too_large_names_its_own_options(photographs):
    net, images = photographs
    s = fv.spectrum(net, images)
    views = [
        (s.view, "samples= or directions="),
        (fv.reconstruction(s).view, "samples="),
        (fv.cckl(net, images[:4], [0, 1, 2, 0]).view, "pairs="),
    ]
    for view, options in views:
        with pytest.raises(ValueError, match=f"show fewer {options}, or allow more with") as refused:
            view(max_bytes=1000).html()
        wanted = float(re.search(r"max_bytes=(\d+e6)", str(refused.value))[1])
        assert view(max_bytes=wanted).html()


def test_the_explorer_shows_what_fits_and_says_so(photographs):
    net, images = photographs
    found = fv.explore(net, images, detail=6, k=2, include=[])
    whole = len(found.view().state["payload"])
    others = ", ".join(str(i) for i in range(8) if i not in found.places)
    here = f"6 of 8 samples are here, in full detail; not {others}"
    assert said(found.view()) == f"{here}: fv.explore(…, detail=8) shows all."
    figure = found.view(max_bytes=0.6 * whole)
    assert len(figure.state["payload"]) <= 0.6 * whole
    count = len(unpacked(figure)[0]["models"][0]["details"])
    assert 0 < count < 6
    assert re.fullmatch(rf"{count} of the 6 samples .* fit this page: \.view\(max_bytes=\d+e6\) .*", said(figure))
    assert set(figure.setup["extent"]) == set(found.places[:count])
    assert figure.html()


def test_a_page_too_large_is_told_before_the_work(photographs, monkeypatch):
    net, images = photographs
    room = sys.modules["fimviz.explorer.explore"]
    monkeypatch.setattr(room, "MAX_BYTES", 1_000_000)
    monkeypatch.setattr(room, "spectrum_with_matched", lambda *given, **options: 1 / 0)
    words = r"give fewer with detail= or k=, or show all with \.view\(max_bytes="
    with pytest.warns(UserWarning, match=words), pytest.raises(ZeroDivisionError):
        fv.explore(net, images, detail=8, include=[])


def test_parts_of_all_samples_in_detail_are_shown():
    images, labels = batch((3, 64, 64), n=8)
    parts = ["margins", "attributions", "bounds"]
    found = fv.explore(model((3, 64, 64)), images, labels, detail=8, include=parts)
    data, _ = batch_data(found)
    for part in parts:
        assert sorted(data["models"][0]["nested"][part][0]["places"]) == list(range(8))
