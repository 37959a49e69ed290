"""The explorer: numbers against those of its parts, planes against forward passes, the page without a browser."""

import base64
import dataclasses
import importlib
import io
import json
import re
import threading
import zlib
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
import traitlets
from PIL import Image
from scipy.special import softmax
from scipy.stats import spearmanr

import fimviz as fv
from fimviz.explorer import parts
from fimviz.explorer.detail import examine
from fimviz.explorer.parts import extended
from fimviz.fisher.matched import matched_spectral_norm
from fimviz.fisher.plane import plane
from fimviz.fisher.walk import both_sides, evenly, logits_at, reach, walk
from fimviz.model.engine.parts import answers_to
from fimviz.views.explorer.explored import choices
from fimviz.views.explorer.view import Exploring
from fimviz.views.kit import module as modules
from tests.views.test_views import in_node, unpacked


def model(shape=(1, 8, 8), classes=4, seed=0, gain=6.0):
    torch.manual_seed(seed)
    first, last = torch.nn.Linear(int(np.prod(shape)), 24), torch.nn.Linear(24, classes)
    last.weight.data *= gain
    return torch.nn.Sequential(torch.nn.Flatten(), first, torch.nn.Tanh(), last)


class Viewed(torch.nn.Module):
    """What takes the usual layout alone."""

    def forward(self, x):
        return x.view(len(x), -1)


def batch(shape=(1, 8, 8), n=12, classes=4):
    torch.manual_seed(1)
    return torch.rand(n, *shape), [i % classes for i in range(n)]


@pytest.fixture(scope="module")
def found():
    images, labels = batch()
    return fv.explore(model(), images, labels, k=3, detail=6, include=["plane", "radius", "bounds", "margins"])


# ---- the plane ----


def test_plane_is_what_forward_passes_say():
    images, _ = batch(n=3)
    net = fv.Classifier(model().double())
    s = fv.spectrum(net, images.double(), k=3)
    p = s.plane(0, 2, points=7, reach=[0.5, 1.0, 2.0])
    for i, a, b in [(0, 0, 3), (1, 6, 1), (2, 3, 3), (2, 5, 6)]:
        step = p.distances[i, a] * s.eigenvectors[i, 0] + p.distances[i, b] * s.eigenvectors[i, 2]
        z = net.model(s.images[i : i + 1] + step)[0]
        assert torch.allclose(p.logits[i, a, b], z, atol=1e-10)
        kl = (s.probabilities[i] * (s.probabilities[i].log() - z.log_softmax(0))).sum()
        assert p.kl[i, a, b].item() == pytest.approx(kl.item(), abs=1e-10)
        assert p.outcomes[i, a, b] == z.argmax()
    assert torch.equal(p.distances[:, 3], torch.zeros(3).double())
    assert torch.equal(p.information, s.eigenvalues[:, [0, 2]])


def test_ellipse_is_that_of_the_fisher_information():
    """½ δᵀFδ with the dense F = Jᵀ(diag p − ppᵀ)J, for a second axis that is no eigenvector."""
    net = model().double()
    images = batch(n=2)[0].double()
    s = fv.spectrum(net, images, k=3)
    toward = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    p = s.plane(1, toward, points=3, reach=0.1)
    for i in range(2):
        jac = torch.func.jacrev(lambda x: net(x[None])[0])(images[i]).flatten(1)
        fisher = jac.T @ (s.probabilities[i].diag() - s.probabilities[i].outer(s.probabilities[i])) @ jac
        u, w = p.axes[i].flatten(1)
        inside = torch.stack([u, w]) @ fisher @ torch.stack([u, w]).T
        assert torch.allclose(inside, p.information[i].diag(), atol=1e-10)
        assert torch.allclose(torch.stack([u, w]) @ torch.stack([u, w]).T, torch.eye(2).double(), atol=1e-12)
        assert abs(toward[i].flatten() @ w) > 1, "it leads toward what was given"


def test_a_displacement_along_the_eigenvector_leaves_no_plane():
    images, _ = batch(n=1)
    s = fv.spectrum(model().double(), images.double(), k=1)
    p = s.plane(0, 3 * s.eigenvectors[:, 0], points=3, reach=0.1)
    assert not p.axes[0, 1].any()
    assert p.information[0, 1] == 0
    assert torch.allclose(p.kl[0, :, 0], p.kl[0, :, 2], rtol=1e-9)


def test_planes_are_refused_with_a_sentence():
    images, _ = batch(n=2)
    s = fv.spectrum(model(), images, k=2)
    for options, words in [
        ({"k": 2}, "k is 2, expected an index from 0 to 1"),
        ({"across": 0}, "another index"),
        ({"points": 4}, "odd number"),
        ({"reach": 0.0}, "positive distances"),
        ({"across": torch.zeros(2, 3)}, "expected an index or finite displacements"),
    ]:
        with pytest.raises(ValueError, match=words):
            s.plane(**options)
    with pytest.raises(ValueError, match="vectors=True"):
        fv.spectrum(model(), images, vectors=False).plane()
    box = fv.BlackBox(lambda x: softmax(x.reshape(len(x), -1)[:, :4], 1), outputs="probabilities")
    with pytest.raises(ValueError, match="no gradients"):
        fv.spectrum(box, images, k=2, probes=20).plane(across=torch.rand(2, 1, 8, 8))


# ---- the numbers ----


def test_numbers_are_those_of_the_parts(found):
    images, labels = batch()
    s = fv.spectrum(model(), images, labels=labels, k=3)
    frame = found.frame
    np.testing.assert_allclose(frame.spectral_norm, s.spectral_norm, rtol=1e-5)
    np.testing.assert_allclose(frame.confidence, s.confidence, rtol=1e-6)
    two = s.logits.topk(2).values
    np.testing.assert_allclose(frame.margin, two[:, 0] - two[:, 1], rtol=1e-5, atol=1e-6)
    assert frame.correct.tolist() == (s.predictions == s.labels).tolist()
    radius = fv.certified_radius(model(), images, method="norms", attack=False).radius
    np.testing.assert_allclose(frame.radius, radius, rtol=1e-6)
    matched = matched_spectral_norm(fv.Classifier(model()), images)
    # In float32, as the network is smooth, and to within what that is said to leave open.
    off = (torch.tensor(frame.matched_spectral_norm.to_numpy()) - matched).abs()
    assert (off <= found.first.matched_error).all()
    assert (found.first.matched_error <= 1e-3 * matched).all()
    assert frame.columns[-2:].tolist() == ["matched_spectral_norm", "failure"]
    deep = found.first.detail
    assert list(deep.places) == sorted(deep.places, key=matched.argsort(descending=True).tolist().index)
    np.testing.assert_allclose(deep.spectrum.eigenvalues, s.eigenvalues[list(deep.places)], rtol=1e-4)
    exact = found.first.bounds.methods["exact"].value
    np.testing.assert_allclose(exact, s.spectral_norm[list(deep.places)], rtol=1e-4)
    assert set(found.first.margins.sample.tolist()) <= set(deep.places)
    assert (found.first.margins.source == s.predictions[found.first.margins.sample]).all()
    assert repr(found).startswith("Explorer(12 inputs, 6 in full detail")


def test_ranks_are_spearmans(found):
    table = found.correlations.set_index("against")
    for norm, prefix in [("matched_spectral_norm", ""), ("spectral_norm", "raw_")]:
        for column in ("confidence", "margin", "radius"):
            expected = spearmanr(found.frame[norm], found.frame[column]).statistic
            rho, low, high = (table[f"{prefix}{name}"][column] for name in ("rho", "low", "high"))
            assert rho == pytest.approx(expected, abs=1e-12)
            assert low <= rho <= high


def test_matched_error_holds_in_float64():
    images, _ = batch(n=6)
    exact = matched_spectral_norm(fv.Classifier(model().double()), images.double())
    m = fv.explore(model(), images, include=[]).first
    assert ((m.matched - exact).abs() <= m.matched_error).all()
    assert (m.matched_error < 1e-3 * exact).all()  # one image is all but a tie


def test_a_tie_has_no_matched_norm_and_comes_first():
    """Of p = softmax(x): at equal logits no temperature makes the answer surer, and λ₁ at x has its limit, ∞."""
    net = fv.Classifier(torch.nn.Identity(), input_range=None)
    m = fv.explore(net, torch.tensor([[0.0, 1e-3], [0.0, 0.0], [0.0, 9.0]])).first
    assert m.matched.isnan().tolist() == [False, True, False]
    assert m.matched[0] > 1e3 * m.spectrum.spectral_norm[1]
    assert m.lead[1] == torch.inf
    assert m.fragile == [1, 0, 2]
    tied = fv.explore(net, torch.zeros(2, 2))
    figure = tied.view()
    assert figure.state["norm"] == "raw"
    assert "is not known over 2 inputs" in tied.plot().layout.title.text
    assert tied.correlations.rho.isna().all()


def test_a_method_of_one_eigenvalue_shows_one_direction():
    images, labels = batch(n=3)
    assert (
        fv.explore(model(), images, labels, method="power", include=[]).first.detail.spectrum.eigenvalues.shape[1] == 1
    )
    with pytest.raises(ValueError, match=r"k is 2 and method is 'power', which finds 1 only: pass k=1"):
        fv.explore(model(), images, labels, method="power", k=2)


def test_few_samples_get_no_interval():
    images, labels = batch(n=5)
    table = fv.explore(model(), images, labels, include=[]).correlations
    assert table.rho.notna().all()
    assert table.low.isna().all()


def test_fragile_samples_come_first_and_the_rest_is_not_forgotten():
    images, labels = batch(n=40)
    e = fv.explore(model(), images, labels, detail=8, include=[])
    order = matched_spectral_norm(fv.Classifier(model()), images).argsort(descending=True).tolist()
    assert order != e.first.spectrum.fragile
    assert set(order[:6]) <= set(e.places)
    assert order[-1] in e.places
    assert len(e.places) == 8
    assert e.first.radius is None
    assert fv.explore(model(), images, labels, detail=[3, 7, 3], include=["plane"]).places == tuple(
        sorted([3, 7], key=order.index)
    )


def test_two_models_share_samples_and_scales():
    images, labels = batch()
    e = fv.explore({"plain": model(), "calm": model(gain=1.0)}, images, labels, detail=4)
    plain, calm = e.models.values()
    assert plain.detail.places == calm.detail.places
    assert torch.equal(plain.detail.reach, calm.detail.reach)
    assert torch.equal(plain.detail.walks[0].epsilon[:, [0, -1]], calm.detail.walks[0].epsilon[:, [0, -1]])
    both = e.frame
    assert both.groupby("model").size().tolist() == [12, 12]
    table = e.correlations.set_index(["model", "against"])
    expected = spearmanr(plain.matched, calm.matched).statistic
    assert table.rho["plain", "λ₁ of calm"] == pytest.approx(expected)
    data, _ = unpacked(e.view())
    assert [m["name"] for m in data["models"]] == ["plain", "calm"]


def test_bad_requests_get_a_sentence():
    images, labels = batch(n=4)
    for options, error, words in [
        ({"detail": [9]}, ValueError, "expected places in the batch from 0 to 3"),
        ({"detail": 0}, ValueError, "at least 1"),
        ({"include": ["planes"]}, ValueError, "expected a list of some of plane, radius, bounds, attacks"),
        ({"include": "plane"}, ValueError, "expected a list"),
        ({"method": "guess"}, ValueError, "method is 'guess'"),
        ({"k": 0}, ValueError, "k is 0"),
        ({"detial": 3}, TypeError, "did you mean detail"),
    ]:
        with pytest.raises(error, match=words):
            fv.explore(model(), images, labels, **options)
    with pytest.raises(ValueError, match="expected one or two, each under a name"):
        fv.explore({"a": model(), "b": model(), "c": model()}, images)
    with pytest.raises(ValueError, match="two models of the same classes"):
        fv.explore({"a": model(), "b": model(classes=5)}, images)


def test_an_interrupt_keeps_what_is_complete():
    images, labels = batch(n=300)
    calls = []

    def stop_at(limit):
        def progress(done, total):
            calls.append((done, total))
            if done >= limit:
                raise KeyboardInterrupt

        return progress

    with pytest.warns(UserWarning, match="interrupted"):
        e = fv.explore(model(), images, labels, progress=stop_at(1), detail=4)
    assert 0 < len(e) < 300
    assert e.places == ()
    assert "<table" in e.view().html()
    with pytest.warns(UserWarning, match="holds what was complete"):
        e = fv.explore(model(), images[:10], labels[:10], progress=stop_at(60), detail=4)
    assert len(e) == 10
    assert e.first.matched.isfinite().all()
    steps = [done for done, _ in calls]
    assert max(steps) <= max(total for _, total in calls)


def test_progress_ends_at_all():
    images, labels = batch()
    seen = []
    fv.explore(model(), images, labels, detail=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


@pytest.fixture(scope="module")
def attacked():
    images, labels = batch(n=6)
    return fv.explore(model(), images, labels, detail=3, include=["plane", "radius", "attacks", "attributions"])


def test_attacks_and_attributions_are_those_of_their_functions(attacked):
    images, labels = batch(n=6)
    found = attacked.first
    v = fv.vulnerability(model(), images, labels, norm="l2", halvings=5)
    np.testing.assert_allclose(attacked.frame.attack, v.best("l2"), rtol=0.04)
    assert "attack" in set(attacked.correlations.against)
    at = list(found.detail.places)
    a = fv.attributions(model(), images[at])
    torch.testing.assert_close(found.attributions.maps, a.maps, rtol=1e-3, atol=1e-5)
    data, _ = unpacked(attacked.view())
    (m,) = data["models"]
    assert [row["index"] for row in m["attacks"]] == list(range(6))
    for row in m["attacks"]:
        for j, one in enumerate(row["tried"]):
            assert one["epsilon"] == pytest.approx(float(found.attacks.epsilon[row["index"], j]), nan_ok=True)
            assert ("image" in one) == (row["index"] in at and one["epsilon"] > 0)
    assert m["nested"]["attributions"][0]["places"] == at


def test_radii_and_attacks_are_both_sides_of_the_distance(attacked):
    images, _ = batch(n=6)
    found, m = attacked.distance.frame, attacked.first
    certificate = fv.certified_radius(model(), images, attack=False)
    right = found.correct.to_numpy()
    assert 0 < right.sum() < 6
    np.testing.assert_allclose(found.certified, certificate.radius.where(torch.tensor(right), 0), rtol=1e-6)
    assert set(found[right].method) == {"linear"}, "a small network: planned to take no time"
    assert found[right].attacked.tolist() == attacked.frame.attack[right].tolist()
    assert (found[right].ratio > 1).all()
    assert (found[right].attack_prediction != found[right].label).all()
    np.testing.assert_array_equal(attacked.frame.ratio, found.ratio)
    data, _ = unpacked(attacked.view())
    (entry,) = data["nested"]["distance"]
    assert entry["places"] == list(range(6))
    assert data["models"][0]["proofs"] == m.certificate.method
    assert {"radius", "attack", "ratio"} < set(choices(data)["criteria"])


def test_radii_that_would_take_long_are_from_the_norms_and_say_so(attacked, monkeypatch):
    def method(**options):
        certificate = extended(attacked.first, "radius", (), 0, **options).certificate
        return set(certificate.method), certificate.reasons["linear"]

    assert method()[0] == {"norms"}
    monkeypatch.setattr("fimviz.explorer.parts._LINEAR", 5.9 * 2e6)
    assert method(lines=True) == (
        {"norms"},
        "from the norms: linear bounds of 6 images take long, fv.adversarial_distance has them",
    )
    monkeypatch.setattr("fimviz.explorer.parts.MANY", 0)
    assert method(lines=True)[1].endswith("fv.adversarial_distance(…, method='linear') has them")


def test_interrupted_attacks_are_left_out(monkeypatch):
    real = parts.attacks_of
    monkeypatch.setattr(parts, "attacks_of", lambda s, places, *more: real(s, range(1), *more))
    images, labels = batch(n=3)
    with pytest.warns(UserWarning, match="holds what was complete"):
        e = fv.explore(model(), images, labels, include=["radius", "attacks"])
    assert e.first.radius is not None
    assert e.first.attacks is None
    assert e.distance is None


def test_the_plane_toward_an_attack_contains_it(attacked):
    places, planes = attacked.first.toward
    found = attacked.first.attacks
    assert places
    for i, place in enumerate(places):
        best = int(found.epsilon[place].where(found.epsilon[place] > 0, torch.inf).argmin())
        d = (found.moved[place, best] - found.spectrum.images[place]).double().flatten()
        u, w = planes.axes[i].double().flatten(1)
        rest = d - (d @ u) * u - (d @ w) * w
        assert rest.norm() < 1e-5 * d.norm() + 1e-7
        assert d.norm() <= planes.distances[i, -1]
        assert d @ w >= 0
    (m,) = unpacked(attacked.view())[0]["models"]
    assert [p["index"] for p in m["toward"]] == list(places)
    assert all(p["across"] for p in m["toward"])


# ---- the page ----


def test_payload_holds_the_numbers(found):
    data, blob = unpacked(found.view())
    (m,) = data["models"]
    s = found.first.spectrum
    assert data["rank"] == len(data["classes"]) - 1

    def column(name):
        start, size = m["numbers"][name]
        return np.frombuffer(blob[start : start + size])

    np.testing.assert_array_equal(column("raw"), s.spectral_norm)
    np.testing.assert_array_equal(column("matched"), found.first.matched)
    np.testing.assert_array_equal(column("doubt"), s.doubt)
    np.testing.assert_array_equal(column("margin"), found.first.margin)
    start, size = data["thumbs"]["at"]
    thumbs = np.frombuffer(blob[start : start + size], np.uint8).reshape(12, 8, 8)
    np.testing.assert_array_equal(thumbs, np.round(255 * s.images[:, 0].numpy()))
    assert [d["index"] for d in m["details"]] == list(found.places)
    for d in m["details"]:
        offset, length = d["image"]
        np.testing.assert_array_equal(
            np.frombuffer(blob[offset : offset + length], np.uint8), thumbs[d["index"]].ravel()
        )
    planes = found.first.detail.planes
    for i, p in enumerate(m["planes"]):
        offset, length = p["logp"]
        levels = np.frombuffer(blob[offset : offset + length], np.int16).reshape(len(p["shown"]), 21, 21) / 1000
        best = np.array(p["shown"])[levels.argmax(0)]
        clear = planes.logits[i].softmax(-1).topk(2).values.diff(dim=-1).abs()[..., 0] > 0.01
        assert (best == planes.outcomes[i].numpy())[clear.numpy()].all()
        offset, length = p["kl"]
        kl = np.frombuffer(blob[offset : offset + length], np.float32).reshape(21, 21)
        np.testing.assert_allclose(kl, planes.kl[i], rtol=1e-6, atol=1e-7)


def test_embedded_views_call_samples_by_their_place(found):
    (m,) = unpacked(found.view())[0]["models"]
    bounds, margins = m["nested"]["bounds"][0], m["nested"]["margins"][0]
    assert set(bounds["places"]) == set(found.places)
    inner = unpacked(dataclasses.replace(found.view(), state=bounds["state"]))[0]
    assert [s["index"] for s in inner["samples"]] == bounds["places"]
    assert set(margins["places"]) <= set(found.places)
    inner = unpacked(dataclasses.replace(found.view(), state=margins["state"]))[0]
    assert [[t["id"], t["sample"]] for t in inner["traces"]] == margins["owners"]


def test_html_is_deterministic_and_safe():
    names = ["</script><script>alert(1)</script>", "<!--", "'\"&", "a" * 40]
    images, labels = batch()
    net = fv.Classifier(model(), classes=names)
    html = fv.explore({"<b>": net, "x": net}, images, labels, detail=3).view().html()
    assert html == fv.explore({"<b>": net, "x": net}, images, labels, detail=3).view().html()
    assert html.count("<script") == html.count("</script>") == 2
    assert "<!--" not in html
    assert not re.search(r"https?://", html)
    assert 'from "./' not in html
    still = html[html.index("fimviz-still") : html.index("application/json")]
    assert "<b>" not in still
    assert set(fv.explore(net, images)._repr_mimebundle_()) == {"text/html", "text/plain"}


def test_two_hundred_cifar_images_stay_under_three_megabytes():
    torch.manual_seed(0)
    images = torch.rand(200, 3, 32, 32)  # noise deflates worse than any photograph
    e = fv.explore(model((3, 32, 32), 10), images, [i % 10 for i in range(200)])
    assert e.places
    assert len(e.view().html().encode()) < 3_000_000


def test_what_is_all_in_detail_takes_one_spectrum(monkeypatch):
    images, labels = batch(n=3)
    net = fv.Classifier(model())
    alone, known = fv.spectrum(net, images, k=1), fv.spectrum(net, images, k=3)
    monkeypatch.setattr(
        importlib.import_module("fimviz.explorer.detail"), "found_with", lambda *given, **options: 1 / 0
    )
    e = fv.explore(net, images, labels, include=[])
    s, deep = e.first.spectrum, e.first.detail.spectrum
    assert s.eigenvectors is None
    assert torch.allclose(s.eigenvalues, alone.eigenvalues, rtol=1e-9)
    assert torch.allclose(deep.eigenvalues, known.eigenvalues[list(e.places)], rtol=1e-9)


def test_large_images_are_all_in_detail_and_asked_more_coarsely(monkeypatch):
    choice = importlib.import_module("fimviz.fisher.effort")
    explore = importlib.import_module("fimviz.explorer.explore")
    for room in (choice, explore):
        monkeypatch.setattr(room, "affordable", lambda nets, inputs, work: 0)
    images, labels = batch(n=10)
    e = fv.explore(model(), images, labels)
    detail = e.first.detail
    assert len(e.places) == len(detail.planes.kl) == 8
    # What `reach` has asked stands among the 11 distances and two flips along the first.
    assert [w.epsilon.shape[1] for w in detail.walks][1:] == [9, 9]
    assert 13 < detail.walks[0].epsilon.shape[1] <= 13 + 8
    assert detail.planes.distances.shape[1] == 5
    assert e.first.radius is None
    assert len(fv.explore(model(), images[:2]).places) == 2


def test_what_walks_say_on_the_axes_of_a_plane_is_not_asked_again(monkeypatch):
    images, _ = batch(n=3)
    s = fv.spectrum(model().double(), images.double(), k=2)
    reach = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    alone = plane(s, 0, 1, 7, reach)
    walks = [walk(s, order, evenly(nodes, reach), with_flips=True) for order, nodes in enumerate((13, 7))]
    asked = []
    module, ask = importlib.import_module("fimviz.fisher.plane"), logits_at
    monkeypatch.setattr(module, "logits_at", lambda s, rows, *rest: asked.append(len(rows)) or ask(s, rows, *rest))
    told = plane(s, 0, 1, 7, reach, walks=walks)
    assert asked == [3 * (7 - 1) ** 2]
    for name in ("logits", "kl", "outcomes"):
        torch.testing.assert_close(getattr(told, name), getattr(alone, name), rtol=1e-9, atol=1e-12)
    assert not told.kl[:, 3, 3].any()
    assert not told.kl_error[:, 3, 3].any()
    first_two = plane(s.take([0, 1]), 0, 1, 7, reach[:2], walks=walks)
    torch.testing.assert_close(first_two.kl, alone.kl[:2], rtol=1e-9, atol=1e-12)


def test_a_coarse_look_reaches_as_far_where_a_prediction_changes_once(monkeypatch):
    images, _ = batch()
    s = fv.spectrum(model().double(), images.double(), k=1)
    asked = []
    monkeypatch.setattr(
        importlib.import_module("fimviz.fisher.walk"),
        "answers_to",
        lambda net, count, *rest: asked.append(count) or answers_to(net, count, *rest),
    )
    coarse, seen = reach(s, coarse=True)
    count = sum(asked)
    assert (seen.epsilon != 0).sum() == count
    assert len(set(coarse.tolist())) > 2
    assert torch.equal(coarse, reach(s)[0])
    assert count <= 10 * len(s)
    assert sum(asked) - count == 24 * len(s)
    never = torch.nn.Linear(2, 2)
    never.bias.data[0] = 99.0
    assert reach(fv.spectrum(never, torch.rand(1, 2), k=1), coarse=True)[0].tolist() == [1.0]


def test_what_reach_has_asked_joins_a_walk_and_is_not_asked_again(monkeypatch):
    images, _ = batch(n=5)
    s = fv.spectrum(model().double(), images.double(), k=1)
    far, seen = reach(s, coarse=True)
    shares = (0.25, 0.5, 1.0)
    alone = walk(s, 0, both_sides(shares, far), with_flips=True)
    asked = []
    monkeypatch.setattr(
        importlib.import_module("fimviz.fisher.walk"),
        "answers_to",
        lambda net, count, *rest: asked.append(count) or answers_to(net, count, *rest),
    )
    told = walk(s, 0, both_sides(shares, far), with_flips=True, seen=seen)
    assert asked[0] < 2 * len(shares) * len(s)
    assert (told.epsilon.diff(dim=1) >= 0).all()
    inside = (seen.epsilon != 0) & (seen.epsilon.abs() < far[:, None])
    assert inside.any()
    for i in range(len(s)):
        for distance in [*alone.epsilon[i], *seen.epsilon[i][inside[i]]]:
            gap, at = (told.epsilon[i] - distance).abs().min(0)
            assert gap <= 1e-3 * far[i]
            z = logits_at(s, torch.tensor([i]), [(s.eigenvectors[:, 0], told.epsilon[i, at][None])])[0]
            torch.testing.assert_close(told.logits[i, at], z, rtol=1e-9, atol=1e-9)


@pytest.fixture
def of_huge_networks(monkeypatch):
    """Every network is one whose passes take long."""
    choice = importlib.import_module("fimviz.fisher.effort")
    for room in (choice, importlib.import_module("fimviz.explorer.explore")):
        monkeypatch.setattr(room, "affordable", lambda nets, inputs, work: 0)
    monkeypatch.setattr(choice, "_DEAR", 0)


def test_huge_networks_get_one_direction_and_what_is_left_out_is_said(of_huge_networks, monkeypatch):
    images, labels = batch(n=3, classes=40)
    wide = []
    module, ask = importlib.import_module("fimviz.fisher.walk"), logits_at
    monkeypatch.setattr(
        module, "logits_at", lambda s, rows, moves, precision=None: wide.append(precision) or ask(s, rows, moves)
    )
    e = fv.explore(model(classes=40), images, labels)
    m = e.first
    assert len(e.places) == 3
    assert [w.epsilon.shape[1] >= 9 for w in m.detail.walks] == [True]
    assert m.detail.planes is None
    assert m.spectrum.trace.isnan().all()
    assert set(m.notes) == {"direction", "plane"}
    assert m.notes == unpacked(e.view())[0]["models"][0]["notes"]
    assert torch.float64 not in wide  # a smooth network is 1 on either side, and no divergence is worth a pass
    assert (m.detail.one_sided == 1).all()
    more = fv.explore(model(classes=40), images, labels, k=2, include=["plane"]).first
    assert set(more.notes) == {"direction"}
    assert "No trace" in more.notes["direction"]
    assert len(more.detail.walks) == 2
    assert len(more.detail.planes.kl) == 3


def test_a_network_of_which_every_logit_is_a_tie_takes_no_pass_in_float64(of_huge_networks, monkeypatch):
    tied = model()
    torch.nn.init.zeros_(tied[-1].weight)
    torch.nn.init.zeros_(tied[-1].bias)
    module, ask = importlib.import_module("fimviz.fisher.walk"), logits_at
    wide = []
    monkeypatch.setattr(
        module, "logits_at", lambda s, rows, moves, precision=None: wide.append(precision) or ask(s, rows, moves)
    )
    m = fv.explore(tied, batch(n=2)[0]).first
    walked = m.detail.walks[0]
    assert m.spectrum.reason.endswith("passes in float32, with their rounding measured")
    assert not walked.kl.any()
    assert 0 < walked.kl_error.max() < 1e-6
    assert torch.float64 not in wide


@pytest.mark.parametrize("flat", [torch.nn.Flatten(), Viewed()])
def test_channels_lie_last_where_the_network_takes_them_so(flat, monkeypatch):
    choice = importlib.import_module("fimviz.fisher.effort")
    monkeypatch.setattr(choice, "affordable", lambda nets, inputs, work: 0)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), flat, torch.nn.Linear(144, 3))
    s = fv.spectrum(net, torch.rand(2, 3, 8, 8), k=1)
    lie = []
    net.register_forward_pre_hook(lambda _, x: lie.append(x[0].is_contiguous(memory_format=torch.channels_last)))
    said = walk(s, 0, both_sides((1.0,), s.reach))
    assert s.net.channels_last is isinstance(flat, torch.nn.Flatten)
    assert lie[-1] is s.net.channels_last
    plain = s.images + said.epsilon[:, 2].view(-1, 1, 1, 1).to(s.images) * s.eigenvectors[:, 0]
    torch.testing.assert_close(said.logits[:, 2].float(), net(plain).detach(), rtol=1e-4, atol=1e-4)


def test_large_images_travel_small_but_for_the_detail():
    images, _ = batch((3, 224, 224), n=6)
    e = fv.explore(model((3, 224, 224), 10), images, detail=1, k=1, include=[])
    data, arrays = unpacked(e.view())
    assert max(data["thumbs"]["shape"][:2]) <= 64
    assert data["thumbs"]["at"][1] == 6 * np.prod(data["thumbs"]["shape"])
    at, length = data["models"][0]["details"][0]["image"]
    assert [at, length, 3, 0] in data["pictures"]
    shown = np.asarray(Image.open(io.BytesIO(arrays[at : at + length])).convert("RGB"))
    assert np.array_equal(shown, (255 * images[e.places[0]].double()).round().byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    "case", ["two classes", "eleven classes", "a thousand classes", "series", "labels", "no labels", "NaN"]
)
def test_every_kind_of_model_has_a_page(case):
    images, labels = batch(n=5)
    if case == "series":
        images = torch.rand(5, 30)
    count = {"two classes": 2, "eleven classes": 11, "a thousand classes": 1000}.get(case, 4)
    net = fv.Classifier(model(images.shape[1:], count), likelihood="bernoulli" if case == "labels" else "categorical")
    labels = None if case in ("no labels", "labels") else [i % count for i in range(5)]
    e = fv.explore(net, images, labels, include=["plane"])
    if case == "NaN":
        e.first.detail.spectrum.eigenvectors[:, 0, 0, 2, 3] = torch.nan
    data, _ = unpacked(e.view())
    assert len(data["models"][0]["planes"]) == 5
    assert (data["models"][0]["planes"][0]["across"] is not None) == (case == "two classes")
    assert all(len(p["shown"]) <= 12 for p in data["models"][0]["planes"])
    assert e.plot().data


def test_examining_another_sample_equals_having_asked_for_it(found):
    other = next(i for i in range(12) if i not in found.places)
    images, labels = batch()
    asked = fv.explore(model(), images, labels, k=3, detail=[other], include=["plane"]).first.detail
    later = examine(found, [other], 3, planes=1)[""]
    torch.testing.assert_close(later.walks[0].kl, asked.walks[0].kl, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(later.planes.kl, asked.planes.kl, rtol=1e-4, atol=1e-6)


# ---- the modules' pure functions, in node ----


def in_modules(code, **data):
    folder = (modules.VIEWS / "explorer").as_uri()
    load = "".join(
        f"const {name} = await import('{folder}/{name}.js');"
        for name in ("strip", "plane", "overview", "filters", "view")
    )
    return in_node(load + code, **data)


def test_swarm_overlaps_nowhere_and_stays_in_its_lane():
    xs = np.random.default_rng(0).normal(200, 60, 150).tolist()
    heights = in_modules("return strip.swarm(data.xs, 3, 60)", xs=xs)
    places = np.stack([xs, heights], 1)
    far = np.linalg.norm(places[:, None] - places[None], axis=2) + 100 * np.eye(150)
    assert far.min() >= 6.6 - 1e-6
    assert np.abs(heights).max() <= 60
    assert in_modules("return strip.swarm([5, 5, 5], 3, 20)") == pytest.approx([0, -6.6, 6.6])


def test_kl_between_the_nodes_of_a_plane_follows_what_f_predicts():
    a, b = np.meshgrid(np.linspace(-2, 2, 9), np.linspace(-2, 2, 9), indexing="ij")
    kl = 0.5 * (6 * a**2 + b**2) * (1 + 0.1 * a - 0.2 * b)
    known = {"kl": kl.ravel().tolist(), "points": 9, "reach": 2, "information": [6, 1]}
    places = [[1.3, -0.2], [0, 0], [-2, 2], [0.77, 1.9]]
    found = in_modules("return data.places.map(p => plane.klAt(data.known, ...p))", known=known, places=places)
    wanted = [0.5 * (6 * x**2 + y**2) * (1 + 0.1 * x - 0.2 * y) for x, y in places]
    assert found == pytest.approx(wanted, rel=1e-9)


def test_few_nodes_of_a_plane_are_joined_by_cubics():
    a, b = np.meshgrid(np.linspace(-2, 2, 5), np.linspace(-2, 2, 5), indexing="ij")
    t = np.linspace(-2, 2, 21)
    logp = [-9 + 0.5 * a - 0.25 * a * b, np.zeros_like(a)]
    known = {"logp": [part.ravel().tolist() for part in logp], "shown": [0, 1], "points": 5, "reach": 2}
    known |= {"kl": (0.5 * (6 * a**2 + b**2) * np.exp(0.1 * a)).ravel().tolist(), "information": [6, 1]}
    code = """
      const fine = plane.finer(data);
      const flat = plane.finer({ ...data, information: [6, 0] });
      const far = plane.finer({ ...data, kl: data.far, information: [6000, 900] });
      const all = [fine.logp[0], fine.kl, far.kl].map((grid) => [...grid]);
      return [fine.points, ...all, flat.kl.every((v) => v >= 0), plane.finer(fine) === fine];
    """
    known["far"] = (0.1 * (a**2 + b**2) * np.exp(0.1 * a)).ravel().tolist()  # of what F says nothing at these nodes
    points, first, kl, far, whole, same = in_modules(code, **known)
    x, y = np.meshgrid(t, t, indexing="ij")
    assert points == 21
    assert first == pytest.approx((-9 + 0.5 * x - 0.25 * x * y).ravel(), rel=1e-9)
    assert kl == pytest.approx((0.5 * (6 * x**2 + y**2) * np.exp(0.1 * x)).ravel(), rel=1e-5, abs=1e-9)
    assert far == pytest.approx((0.1 * (x**2 + y**2) * np.exp(0.1 * x)).ravel(), rel=1e-5, abs=1e-9)
    assert whole
    assert same


def test_contour_of_a_paraboloid_is_its_ellipse():
    t = np.linspace(-1, 1, 21)
    grid = 0.5 * (4 * t[:, None] ** 2 + 1 * t[None] ** 2)
    lines = np.array(in_modules("return plane.contour(data.grid, 21, 0.3)", grid=grid.ravel().tolist()))
    x, y = (lines.reshape(-1, 2) / 10 - 1).T
    assert np.allclose(0.5 * (4 * x**2 + y**2), 0.3, atol=0.02)
    assert len(lines) > 20


def test_plane_reads_between_its_nodes():
    rng = np.random.default_rng(0)
    grid = rng.normal(size=(5, 5))
    said = in_modules(
        "return [[0, 0], [4, 4], [2, 3], [1.5, 2.25]].map(([u, v]) => plane.between(data.grid, 5, u, v))",
        grid=grid.ravel().tolist(),
    )
    middle = 0.75 * grid[1:3, 2].mean() + 0.25 * grid[1:3, 3].mean()
    assert said == pytest.approx([grid[0, 0], grid[4, 4], grid[2, 3], middle])


def test_filters_and_orders_of_the_gallery():
    code = (
        "const t = {norm: [1, 9, 3, 4, 2, 8, 7, 6], margin: [8, 7, 1, 2, 6, 5, 4, 3], doubt: [0, 0, 0, 0, 0, 0, 0, 0],"
        "correct: [true, false, true, true, true, true, false, true], group: [0, 1, 0, 1, 2, 2, 0, 1]};"
        "const pass = (show) => filters.passing(show, t);"
        "return [pass('all').length, pass('misclassified'), pass('fragile'), pass('uncertain'), pass('class:2'),"
        "filters.ordered(pass('class:0'), 'norm', t), filters.ordered(pass('all'), 'index', t)[0]]"
    )
    assert in_modules(code) == [8, [1, 6], [1, 5], [2, 3], [4, 5], [6, 2, 0], 0]


def test_articles():
    said = in_modules("return data.names.map(view.article)", names=["8", "9", "airplane", "ship", "18", "80", "1"])
    assert said == ["an", "a", "an", "a", "an", "an", "a"]


def test_axis_and_its_inverse_agree():
    out = in_modules(
        "const axis = strip.normAxis(data.logs, [10, 700], true);"
        "const back = data.logs.map(v => strip.fromAxis(axis, axis.at(v)));"
        "return [back, strip.fromAxis(axis, axis.at(-Infinity)) === -Infinity]",
        logs=[-3.0, -1.0, 0.5, 2.0],
    )
    assert out[0] == pytest.approx([-3.0, -1.0, 0.5, 2.0])
    assert out[1]


def test_axis_is_broken_only_where_nothing_is():
    even = "return strip.normAxis(data.logs, [0, 700], false).zones.length"
    assert in_modules(even, logs=[v / 2 for v in range(-22, 8)]) == 1
    assert in_modules(even, logs=[-80.0, -79.0, -1.0, 0.0, 2.0]) == 2
    assert in_modules(even, logs=[]) == 1
    assert in_modules("return [-0.9961, 0.62, -1].map(overview.rho)") == ["−0.9961", "0.62", "−1"]


def test_every_trait_that_the_module_reads_exists():
    names = set()
    own = (f"explorer/{name}.js" for name in ("view", "summary", "overview", "detail", "planepanel"))
    for path in (*own, "perturbation/panel.js", "kit/live.js"):
        source = (modules.VIEWS / path).read_text()
        names |= set(re.findall(r'(?:model|state|this)\.(?:get|set)\("(\w+)"', source))
    names |= set(re.findall(r'"change:(\w+)"', (modules.VIEWS / "explorer/view.js").read_text()))
    assert names - {"trace", "sample"} <= set(Exploring.class_trait_names(sync=True))
    assert names >= {"index", "tab", "color", "against", "sort", "show", "selected", "epsilon"}
    assert all(Exploring.class_traits(sync=True)[name].help for name in names - {"trace", "sample"})


def test_scopes_of_modules_do_not_meet():
    source = modules.module_source("explorer/view.js")
    assert source.count("export default") == 1
    assert not re.search(r'^import .* from "\.', source, re.M)
    assert len(json.dumps(source)) < 270_000


# ---- the live widget ----


@pytest.fixture
def widget():
    images, labels = batch(n=8)
    e = fv.explore(model(), images, labels, k=2, detail=2, include=[])
    w = e.widget()
    w.comm = MagicMock()
    w.heard = []
    w.send = lambda content, buffers=None: w.heard.append(content)
    yield w
    w.close()


def answers(widget, kind):
    assert widget.wait(60)
    return [m for m in widget.heard if m["kind"] == kind]


def packed(text):
    raw = zlib.decompress(base64.b64decode(text))
    end = 4 + int.from_bytes(raw[:4], "little")
    return json.loads(raw[4:end]), raw[end:]


def test_traits_are_observed_and_checked(widget):
    heard = []
    widget.observe(lambda change: heard.append((change.name, change.new)), names=["index", "epsilon", "selected"])
    other = (widget.index + 1) % 8
    widget.set_state({"index": other, "epsilon": 0.5, "selected": [1, 2], "show": "class:2", "norm": "raw"})
    assert set(heard[:2]) == {("index", other), ("epsilon", 0.5)}
    assert widget.norm == "raw"
    assert widget.selected == [1, 2]
    for name, value in [
        ("index", 8),
        ("selected", [99]),
        ("norm", "fitted"),
        ("show", "class:9"),
        ("show", "some"),
        ("tab", "picture"),
        ("temperature", 0.0),
        ("directions", 0),
    ]:
        before = getattr(widget, name)
        with pytest.raises(traitlets.TraitError):
            setattr(widget, name, value)
        assert getattr(widget, name) == before
    assert repr(widget) == "Exploring(8 inputs)"


def test_a_sample_is_computed_when_asked(widget):
    other = next(i for i in range(8) if i not in widget.source.places)
    widget.directions = 3
    widget._handle_custom_msg({"kind": "compute", "what": "plane", "index": other}, [])
    (answer,) = answers(widget, "computed")
    data, _ = packed(answer["payload"])
    (m,) = data["models"]
    images, _ = batch(n=8)
    s = fv.spectrum(model(), images[[other]], k=3)
    np.testing.assert_allclose([d["value"] for d in m["details"][0]["directions"]], s.eigenvalues[0], rtol=1e-4)
    assert m["details"][0]["index"] == m["planes"][0]["index"] == other
    assert [w["doing"] for w in answers(widget, "working")] == [f"plane of sample {other}"]
    assert len(answers(widget, "done")) == 1


@pytest.mark.parametrize("photographs", [False, True])
def test_attacks_on_a_sample_are_tried_when_asked(widget, photographs, monkeypatch):
    if photographs:
        monkeypatch.setattr("fimviz.views.kit.inputs._SMALL", 4)
    widget._handle_custom_msg({"kind": "compute", "what": "attacks", "index": 5}, [])
    (answer,) = answers(widget, "computed")
    (m,) = packed(answer["payload"])[0]["models"]
    assert m["attacks"][0]["index"] == 5
    images, labels = batch(n=8)
    v = fv.vulnerability(model(), images[[5]], labels[5:6], norm="l2", halvings=5)
    assert [t["epsilon"] for t in m["attacks"][0]["tried"]] == pytest.approx(v.epsilon[0].tolist(), rel=1e-3)
    assert [p["index"] for p in m["toward"]] == [5] * int((v.epsilon[0] > 0).any())
    assert ("image" in m["attacks"][0]) == photographs, "of photographs what is added travels, and what it is added to"
    pictures = ["change" if photographs else "image"] * int((v.success[0] & (v.epsilon[0] > 0)).sum())
    assert [part for t in m["attacks"][0]["tried"] for part in ("image", "change") if part in t] == pictures


def test_the_distance_of_all_samples_is_computed_when_asked(widget):
    details = widget.source.first.detail.places
    widget._handle_custom_msg({"kind": "compute", "what": "distance", "index": 5}, [])
    assert len(answers(widget, "done")) == 1
    data, _ = packed(widget.payload)
    assert data["nested"]["distance"][0]["places"] == list(range(8))
    assert [d["index"] for d in data["models"][0]["details"]] == list(details) == list(widget.extent)
    before = widget.source.distance.frame
    widget.against = "ratio"
    widget.temperature = 2.0
    assert widget.wait(60)
    assert widget.source.distance.frame.equals(before), "the answers are the same at every temperature"


@pytest.mark.parametrize("what", ["bounds", "margins", "attributions"])
def test_whole_views_of_a_sample_are_computed_when_asked(widget, what):
    widget._handle_custom_msg({"kind": "compute", "what": what, "index": 5}, [])
    (answer,) = answers(widget, "computed")
    (m,) = packed(answer["payload"])[0]["models"]
    entry = m["nested"][what]
    assert entry["places"] == [5]
    inner, _ = packed(entry["state"]["payload"])
    if what == "attributions":
        assert len(inner["samples"]) == 1
    else:
        assert {s["index"] for s in inner["samples"]} == {5}


def test_another_temperature_is_computed_from_the_model(widget):
    images, labels = batch(n=8)
    before = widget.source.first.matched
    for temperature in (2.0, 0.5):
        widget.temperature = temperature
        assert answers(widget, "failed") == []
        net = fv.Classifier(model(), temperature=temperature)
        expected = fv.spectrum(net, images)
        np.testing.assert_allclose(widget.source.first.spectrum.spectral_norm, expected.spectral_norm, rtol=1e-4)
        equal = matched_spectral_norm(net, images)
        torch.testing.assert_close(widget.source.first.matched, equal, rtol=1e-5, atol=0)
        assert torch.equal(widget.source.first.matched, before)
        data, _ = packed(widget.payload)
        assert data["models"][0]["temperature"] == temperature
        assert data["models"][0]["correct"] == (expected.predictions == torch.tensor(labels)).tolist()
    assert widget.source.first.spectrum.net.model is not None
    widget._handle_custom_msg({"kind": "compute", "what": "direction", "index": 1}, [])
    (answer,) = answers(widget, "computed")
    value = packed(answer["payload"])[0]["models"][0]["details"][0]["directions"][0]["value"]
    assert value == pytest.approx(float(expected.spectral_norm[1]), rel=1e-4)


def held(widget):
    """Events: the view's next work has begun, and it may go on."""
    begun, go_on, own = threading.Event(), threading.Event(), widget._ticker

    def ticker(*given):
        tick = own(*given)

        def within(done, total):
            begun.set()
            assert go_on.wait(60)
            tick(done, total)

        return within

    widget._ticker = ticker
    return begun, go_on


def test_a_request_brings_what_it_needs(widget):
    content = {"kind": "compute", "what": "direction", "index": 5, "directions": 3, "key": "page's"}
    widget._handle_custom_msg(content, [])  # before the page's new value of the trait has come
    (answer,) = answers(widget, "computed")
    assert widget.directions == 2
    assert len(packed(answer["payload"])[0]["models"][0]["details"][0]["directions"]) == 3
    widget._handle_custom_msg({**content, "directions": 0}, [])
    assert [(m["key"], "directions is 0" in m["message"]) for m in answers(widget, "failed")] == [("page's", True)]


def test_labels_outlive_new_images(widget):
    before = packed(widget.payload)[0]["labels"]
    raw, _ = png((8, 8))
    widget._handle_custom_msg({"kind": "images", "names": ["a"]}, [raw])
    assert widget.wait(60)
    data = packed(widget.payload)[0]
    assert data["labels"] == [*before, None]
    assert data["models"][0]["correct"][-1] is None
    s = widget.source.first.spectrum
    assert s.labelled.tolist() == [True] * len(before) + [False]
    assert s.frame.label.isna().iloc[-1]
    assert widget.source.frame.correct.isna().sum() == 1
    widget.temperature = 2.0
    assert widget.wait(60)
    assert packed(widget.payload)[0]["labels"] == [*before, None]
    for index in (0, len(before)):  # with a label, and without
        widget._handle_custom_msg({"kind": "compute", "what": "direction", "index": index}, [])
        answer = answers(widget, "computed")[-1]
        detail = packed(answer["payload"])[0]["models"][0]["details"][0]
        assert (detail["label"], detail["correct"] is None) == ((before[0], False) if index == 0 else (None, True))


def test_a_sample_does_not_stop_the_batch(widget):
    begun, go_on = held(widget)
    widget.temperature = 2.0
    assert begun.wait(60)
    raw, _ = png((8, 8))
    widget._handle_custom_msg({"kind": "images", "names": ["a"]}, [raw])
    widget._handle_custom_msg({"kind": "compute", "what": "direction", "index": 1}, [])
    widget._handle_custom_msg({"kind": "compute", "what": "direction", "index": 5}, [])
    widget._handle_custom_msg({"kind": "images", "names": ["b"]}, [raw])
    go_on.set()
    assert [m["index"] for m in answers(widget, "computed")] == [5]
    assert answers(widget, "stopped") == answers(widget, "failed") == []
    assert len(widget.source) == 10
    assert widget.source.first.spectrum.net.temperature == 2.0
    value = packed(answers(widget, "computed")[0]["payload"])[0]["models"][0]["details"][0]["directions"][0]["value"]
    assert value == pytest.approx(float(widget.source.first.spectrum.spectral_norm[5]), rel=1e-4)


def test_the_temperature_is_what_is_shown_after_a_stop_or_a_failure(widget, monkeypatch):
    before = widget.payload
    begun, go_on = held(widget)
    widget.temperature = 2.0
    assert begun.wait(60)
    widget._handle_custom_msg({"kind": "stop"}, [])
    assert widget.temperature == 1.0
    go_on.set()
    assert len(answers(widget, "stopped")) == 1
    assert (widget.temperature, widget.payload) == (1.0, before)
    monkeypatch.setattr(widget, "_warmer", lambda *given: 1 / 0)
    widget.temperature = 4.0
    assert len(answers(widget, "failed")) == 1
    assert (widget.temperature, widget.payload) == (1.0, before)
    monkeypatch.undo()
    widget.temperature = 0.5
    assert widget.wait(60)
    assert (widget.temperature, widget.source.first.spectrum.net.temperature) == (0.5, 0.5)


def test_epsilon_and_direction_are_the_samples(widget):
    place = widget.index
    reach, count = widget.extent[place]
    widget.epsilon = 1e9
    assert (widget.epsilon, count) == (reach, 2)
    with pytest.raises(traitlets.TraitError, match=f"direction is 17, expected one of sample {place} from 0 to 1"):
        widget.direction = 17
    other = next(i for i in range(8) if i not in widget.source.places)
    widget.index, widget.direction = other, 2  # of which nothing is shown yet
    widget._handle_custom_msg({"kind": "compute", "what": "direction", "index": other, "directions": 1}, [])
    assert widget.wait(60)
    assert widget.direction == 0
    assert abs(widget.epsilon) <= widget.extent[other][0]


def test_what_is_not_offered_is_refused(widget):
    for name, wrong in [("against", "radius"), ("against", "soup"), ("show", "differing")]:
        with pytest.raises(traitlets.TraitError, match=f"{name} is '{wrong}', expected one of"):
            setattr(widget, name, wrong)
    images, _ = batch(n=8)
    bare = fv.explore(model(), images, detail=1, include=["radius"]).widget()
    for name, wrong in [("color", "correct"), ("show", "misclassified")]:
        with pytest.raises(traitlets.TraitError, match=f"{name} is '{wrong}', expected one of"):
            setattr(bare, name, wrong)
    bare.against = "radius"
    bare.close()


def png(size, mode="L", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *([3] if mode == "RGB" else [])), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue(), pixels


def test_dropped_images_join_the_batch(widget):
    raw, pixels = png((8, 8))
    widget._handle_custom_msg({"kind": "images", "names": ["mine.png"]}, [memoryview(raw)])
    assert answers(widget, "failed") == []
    assert (len(widget.source), widget.index) == (9, 8)
    s = widget.source.first.spectrum
    torch.testing.assert_close(s.images[8, 0], torch.tensor(pixels / 255, dtype=torch.float32))
    alone = fv.spectrum(model(), s.images[8:])
    np.testing.assert_allclose(s.spectral_norm[8], alone.spectral_norm[0], rtol=1e-5)
    equal = matched_spectral_norm(fv.Classifier(model()), s.images[8:])
    torch.testing.assert_close(widget.source.first.matched[8:], equal, rtol=1e-6, atol=0)
    data, _ = packed(widget.payload)
    assert data["labels"][-1] is None
    assert data["models"][0]["correct"][-1] is None
    widget._handle_custom_msg({"kind": "compute", "what": "direction", "index": 8}, [])
    assert len(answers(widget, "computed")) == 1


def test_the_networks_own_geometry_prepares_dropped_images(widget):
    raw, _ = png((40, 30), "RGB")
    seen = []

    def prepare(pictures):
        seen.extend(p.size for p in pictures)
        return torch.full((len(pictures), 1, 8, 8), 0.25)

    widget.source.first.spectrum.net.prepare = prepare
    widget._handle_custom_msg({"kind": "images", "names": ["a", "b"]}, [raw, raw])
    assert answers(widget, "failed") == []
    assert seen == [(40, 30)] * 2
    assert len(widget.source) == 10


@pytest.mark.parametrize(
    ("names", "files", "words"),
    [
        (["a.png"], lambda: [png((40, 30))[0]], "a.png has 40 × 30 pixels and the network takes 8 × 8"),
        (["a.txt"], lambda: [b"no picture"], "a.txt is no picture"),
        (["a.png"], lambda: [png((8, 8))[0][:60]], "a.png is no picture"),
        ([], list, "expected one name a file"),
        (["x"] * 65, lambda: [png((8, 8))[0]] * 65, "at most 64"),
        (["big"], lambda: [bytes(20_000_001)], "20 MB"),
    ],
)
def test_what_is_no_picture_is_refused_in_the_view(widget, names, files, words):
    widget._handle_custom_msg({"kind": "images", "names": names}, files())
    (failed,) = answers(widget, "failed")
    assert words in failed["message"]
    assert len(widget.source) == 8


def test_requests_that_make_no_sense_are_answered(widget):
    for content, words in [
        ({"kind": "dance"}, "unknown request 'dance'"),
        ({"kind": "compute", "what": "soup", "index": 0}, "what is 'soup'"),
        ({"kind": "compute", "what": "plane", "index": 8}, "expected a sample from 0 to 7"),
        ({"kind": "compute", "what": "plane", "index": "x"}, "index is 'x'"),
    ]:
        widget.heard.clear()
        widget._handle_custom_msg(content, [])
        (failed,) = answers(widget, "failed")
        assert words in failed["message"]


def test_the_latest_request_wins_and_stop_stops(widget, monkeypatch):
    started, go = threading.Event(), threading.Event()
    import fimviz.explorer.detail

    real_examine = fimviz.explorer.detail.examine

    def slow(found, places, k, *, planes, progress):
        started.set()
        assert go.wait(30)
        progress(0, 1)
        return real_examine(found, places, k, planes=planes, progress=progress)

    monkeypatch.setattr(fimviz.explorer.detail, "examine", slow)
    widget._handle_custom_msg({"kind": "compute", "what": "direction", "index": 1}, [])
    assert started.wait(30)
    widget._handle_custom_msg({"kind": "compute", "what": "direction", "index": 2}, [])
    go.set()
    assert [a["index"] for a in answers(widget, "computed")] == [2]
    assert len(answers(widget, "stopped")) == 1
    started.clear()
    go.clear()
    widget._handle_custom_msg({"kind": "compute", "what": "direction", "index": 3}, [])
    assert started.wait(30)
    widget._handle_custom_msg({"kind": "stop"}, [])
    go.set()
    assert len(answers(widget, "stopped")) == 2
    assert len(answers(widget, "computed")) == 1
