"""One image of a batch without finite logits or gradients: every door marks it and computes the rest."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import fimviz as fv
from fimviz.views.ranking.view import _notes


class PerImage(nn.Module):
    """Standardises every image by its own contrast: 0/0 at a flat one, or with `epsilon` an infinite slope."""

    def __init__(self, epsilon=0.0, classes=3, side=8):
        super().__init__()
        self.last, self.epsilon = nn.Linear(side * side, classes), epsilon

    def forward(self, x):
        x = x.flatten(1)
        centred = x - x.mean(1, keepdim=True)
        return self.last(3 * centred / (centred.square().sum(1, keepdim=True).sqrt() + self.epsilon))


LOST = {0.0: "the logits are not finite", 1e-3: "the gradient of the logits toward the image is not finite"}


@pytest.fixture(params=LOST)
def case(request):
    """A network, six images of which one is flat, labels, the places of the others, and the reason."""
    torch.manual_seed(0)
    net, x = PerImage(request.param).eval(), torch.rand(6, 1, 8, 8)
    x[3] = 0.25
    return net, x, torch.arange(6) % 3, [0, 1, 2, 4, 5], LOST[request.param]


class TestSpectrum:
    @pytest.mark.parametrize("method", ["exact", "lanczos", "power"])
    def test_the_others_are_what_they_are_alone(self, case, method):
        net, x, _, rest, reason = case
        s, alone = (fv.spectrum(net, part, method=method, k=1) for part in (x, x[rest]))
        assert list(s.failures) == [3]
        assert s.failures[3].startswith(reason)
        assert torch.equal(s.eigenvalues[rest], alone.eigenvalues)
        assert torch.equal(s.eigenvectors[rest], alone.eigenvectors)
        assert s.spectral_norm[3].isnan()
        assert s.error[3].isnan().all()
        row = s.frame.iloc[3]
        assert np.isnan(row.spectral_norm)
        assert row.failure == s.failures[3]
        assert (s.frame.failure.drop(3) == "").all()
        assert s.frame.columns[-1] == "failure"
        assert "6 inputs, 1 of them not computed" in repr(s)

    def test_what_follows_from_it(self, case):
        net, x, labels, rest, _ = case
        s, alone = (fv.spectrum(net, x[at], labels=labels[at]) for at in (list(range(6)), rest))
        assert s.reach[3].isnan()
        assert torch.equal(s.reach[rest], alone.reach)
        assert torch.equal(s.walk().kl[rest], alone.walk().kl)
        assert s.walk(eps=[0.1]).kl[3].isnan().all()
        assert torch.equal(s.plane(points=3).logits[rest], alone.plane(points=3).logits)
        assert s.one_sided[3].isnan().all()
        assert s.fragile == [rest[i] for i in alone.fragile]
        part = s.take([5, 3])
        assert list(part.failures) == [1]
        assert not bool(s.correct[3]) or s.logits[3].isfinite().all()

    def test_wherever_it_stands(self, case):
        """Also among the first two, by which a model is judged, and in a batch of several chunks."""
        net, x, _, rest, _ = case
        expected = fv.spectrum(net, x[rest]).spectral_norm
        for order in ([3, *rest], [3, 3, 3, *rest], [rest[0], 3, *rest[1:], 3]):
            s = fv.spectrum(net, x[order], max_memory=6e4)
            assert set(s.failures) == {i for i, place in enumerate(order) if place == 3}
            assert s.spectral_norm[s.computed].numpy() == pytest.approx(expected.numpy(), rel=1e-9)

    def test_named_on_request(self, case):
        net, x, _, rest, reason = case
        with pytest.raises(FloatingPointError, match=f"image 3 of 6: {reason}"):
            fv.spectrum(net, x, errors="raise")
        assert not fv.spectrum(net, x[rest], errors="raise").failures
        with pytest.raises(ValueError, match="errors is 'drop'"):
            fv.spectrum(net, x, errors="drop")

    def test_all_of_a_batch(self, case):
        net, x, *_ = case
        with pytest.raises((FloatingPointError, ValueError), match=r"none of 2|NaN or infinite"):
            fv.spectrum(net, x[[3, 3]])
        fv.Classifier(net)(x)
        with pytest.raises((FloatingPointError, ValueError), match=r"image 0 of 1|NaN or infinite"):
            fv.spectrum(net, x[3:4])

    def test_answers_of_a_service(self, case):
        net, x, _, rest, _ = case
        asked = []

        def service(batch):
            asked.append(len(batch))
            z = net(torch.from_numpy(batch)).detach().numpy()
            return np.where(batch.reshape(len(batch), -1).std(1, keepdims=True) == 0, np.nan, z)

        s = fv.spectrum(fv.BlackBox(service), x, probes=8, k=1)
        assert s.failures == {3: "predict returned NaN or infinite scores"}
        assert s.spectral_norm[rest].isfinite().all()
        with pytest.raises(FloatingPointError, match="image 3 of 6: predict returned NaN"):
            fv.spectrum(fv.BlackBox(service), x, probes=8, errors="raise")

    def test_pages(self, case):
        net, x, labels, _, reason = case
        s = fv.spectrum(net, x, labels=labels)
        page = s.view().html()
        assert f"Not computed: sample 3: {reason}" in page
        assert "sample 3" not in str(s.plot().data)
        with pytest.raises(ValueError, match="sample 3 was not computed"):
            s.view(samples=[1, 3])


class TestExplore:
    def test_the_rest_is_explored(self, case):
        net, x, labels, rest, reason = case
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = fv.explore(net, x, labels)
        assert sorted(found.places) == rest
        assert found.frame.failure[3].startswith(reason)
        assert np.isnan(found.frame.spectral_norm[3])
        assert found.frame.columns[-1] == "failure"
        assert "median λ₁ nan" not in repr(found)
        assert f"Not computed: sample 3: {reason}" in found.view().html()
        with pytest.raises(FloatingPointError, match="image 3 of 6"):
            fv.explore(net, x, labels, errors="raise")

    def test_two_models_of_which_one_fails(self, case):
        net, x, labels, rest, _ = case
        plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
        found = fv.explore({"plain": plain, "standardised": net}, x, labels)
        assert sorted(found.places) == rest
        assert list(found.failures) == [3]
        assert found.frame[found.frame.model == "plain"].spectral_norm.notna().all()
        found.view().html()

    def test_a_live_view_does_not_open_it(self, case):
        import traitlets

        net, x, labels, *_ = case
        with pytest.raises(traitlets.TraitError, match="could not be computed"):
            fv.explore(net, x, labels).widget().index = 3


class TestDoors:
    """What every door gives for the others is what it gives for them alone."""

    def test_compare_bounds(self, case):
        net, x, _, rest, reason = case
        found, alone = (fv.compare_bounds(net, part, probes=8) for part in (x, x[rest]))
        frame, own = (r.frame.drop(columns="seconds") for r in (found, alone))
        assert (frame[frame["sample"] == 3].failure.str.startswith(reason)).all()
        assert frame[frame["sample"] == 3].value.isna().all()
        left = frame[frame["sample"] != 3].reset_index(drop=True)
        own["sample"] = [rest[i] for i in own["sample"]]
        assert left.equals(own)
        assert f"Not computed: sample 3: {reason}" in found.view().html()
        assert "1 of them not computed" in repr(found)
        found.plot()
        with pytest.raises(FloatingPointError, match="image 3 of 6"):
            fv.compare_bounds(net, x, errors="raise")

    def test_cckl(self, case):
        net, x, labels, rest, reason = case
        found, alone = (fv.cckl(net, x[at], labels[at]) for at in (list(range(6)), rest))
        assert found.cckl == pytest.approx(alone.cckl, rel=1e-12)
        assert found.means["g1"] == pytest.approx(alone.means["g1"], rel=1e-9)
        assert found.lost.shape == (2, 8)
        assert found.theorem_bound == pytest.approx(alone.theorem_bound, rel=1e-9)
        lost = found.frame[found.frame.failure != ""]
        assert len(lost) == 8
        assert lost.kl.isna().all()
        assert lost.failure.str.contains(reason, regex=False).all()
        assert ((lost.i == 3) | (lost.j == 3)).all()
        assert "without 8 pairs of 1 that could not be computed" in repr(found)
        assert "Not computed: sample 3" in found.view().html()
        found.plot()
        with pytest.raises(FloatingPointError, match="image 3 of 6"):
            fv.cckl(net, x, labels, errors="raise")
        with pytest.raises(FloatingPointError, match="no pair of images of different categories"):
            fv.cckl(net, x[[0, 3]], labels[[1, 2]])

    def test_local_accuracy(self, case):
        net, x, labels, rest, reason = case
        options = {"epsilons": [0.01, 0.02], "directions": ["worst", "fgsm", "random"]}
        found, alone = (fv.local_accuracy(net, x[at], labels[at], **options) for at in (list(range(6)), rest))
        assert torch.equal(found.kl[:, :2][..., rest], alone.kl[:, :2])
        assert found.kl[..., 3].isnan().all()
        assert (found.frame.failed == 1).all()
        assert (found.frame.measured == 5).all()
        assert found.frame.failure.str.contains(f"image 3: {reason}", regex=False).all()
        assert (found.frame["median"] == alone.frame["median"])[found.frame.direction != "random"].all()
        assert "Not computed: sample 3" in found.view().html()

    def test_certified_radius(self, case):
        net, x, _, rest, reason = case
        smooth = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))

        class Both(nn.Module):
            def __init__(self):
                super().__init__()
                self.smooth, self.net = smooth, net

            def forward(self, x):
                return self.smooth(x) + 0 * self.net(x)

        found, alone = (fv.certified_radius(Both().eval(), part) for part in (x, x[rest]))
        assert torch.equal(found.attack[rest], alone.attack)
        assert found.attack[3].isnan()
        assert found.frame.failure[3].startswith(reason)
        assert list(found.frame.failure[rest]) == [""] * 5
        assert found.predictions[3] == -1
        assert "nan" not in repr(found)

    def test_attributions(self, case):
        net, x, _, rest, reason = case
        found, alone = (fv.attributions(net, part, methods=["Saliency"]) for part in (x, x[rest]))
        assert torch.equal(found.maps[rest], alone.maps)
        assert found.maps[3].isnan().all()
        assert found.verdict == alone.verdict
        assert found.frame.failure[3].startswith(reason)
        assert "Not computed: sample 3" in found.view().html()
        found.plot()

    def test_reconstruction(self, case):
        net, x, _, rest, reason = case
        found, alone = (fv.reconstruction(fv.spectrum(net, part)) for part in (x, x[rest]))
        assert torch.equal(found.std[rest], alone.std)
        assert found.std[3].isnan().all()
        assert found.frame.failure[3].startswith(reason)
        assert "1 of them not computed" in repr(found)
        assert "Not computed: sample 3" in found.view().html()
        found.plot()

    def test_vulnerability(self, case):
        net, x, labels, rest, reason = case
        options = {"halvings": 2, "steps": 4, "attacks": ["spectral", "fgsm", "pgd"]}
        labels = net(x).nan_to_num().argmax(1)
        found, alone = (fv.vulnerability(net, x[at], labels[at], **options) for at in (list(range(6)), rest))
        assert torch.equal(found.epsilon[rest], alone.epsilon)
        assert torch.equal(found.moved[rest], alone.moved)
        assert found.epsilon[3].isnan().all()
        assert torch.equal(found.moved[3], x[3].expand(3, -1, -1, -1))
        assert found.accuracy == alone.accuracy == 1
        assert found.curves().equals(alone.curves())
        assert found.correlations.equals(alone.correlations)
        own = found.frame[found.frame["sample"] == 3]
        assert own.epsilon.isna().all()
        assert not own.success.any()
        assert own.failure.str.startswith(reason).all()
        assert "1 of them not computed, 0 missed already; median ε of 5" in repr(found)
        assert "Not computed: sample 3" in found.view().html()
        found.plot()
        assert torch.equal(
            fv.vulnerability(net, x, labels, spectrum=fv.spectrum(net, x), **options).epsilon[rest], alone.epsilon
        )
        with pytest.raises(FloatingPointError, match="image 3 of 6"):
            fv.vulnerability(net, x, labels, errors="raise", **options)

    @pytest.mark.parametrize("method", ["natural", "gradient", "pgd", "straight", "published"])
    def test_trace_margins(self, case, method):
        net, x, labels, rest, reason = case
        options = {"method": method, "max_steps": 5, "verify": method == "natural"}
        found, alone = (fv.trace_margins(net, x[at], labels[at], **options) for at in (list(range(6)), rest))
        assert torch.equal(found.length, alone.length)
        assert [rest.index(i) for i in found.sample.tolist()] == alone.sample.tolist()
        assert list(found.failures) == [3]
        row = found.frame[found.frame["sample"] == 3]
        assert len(row) == 1
        assert row.length.isna().all()
        assert row.failure.iloc[0].startswith(reason)
        assert found.probabilities[3].isnan().all()
        assert "1 of them not computed" in repr(found)
        assert "Not computed: sample 3" in found.view().html()
        assert found.shielding(resamples=10).successful == alone.shielding(resamples=10).successful
        with pytest.raises(FloatingPointError, match="image 3 of 6"):
            fv.trace_margins(net, x, labels, errors="raise", **options)

    def test_conjugate_gradients_and_targets_of_their_own(self, case):
        net, x, labels, rest, _ = case
        targets = (net(x).nan_to_num().argmax(1)[:, None] + 1) % 3
        options = {"solver": "cg", "max_steps": 3, "verify": False}
        found = fv.trace_margins(net, x, labels, targets=targets, **options)
        assert found.sample.tolist() == rest
        assert list(found.failures) == [3]

    def test_a_path_that_comes_to_such_a_place(self):
        class Cliff(nn.Module):
            def forward(self, x):
                z = x.flatten(1)[:, :2]
                left = 0.5 - z[:, 1:]
                edge = (left + left.abs()).sqrt()  # 0 with an infinite slope where x₁ > ½
                return torch.cat([z[:, :1], z[:, 1:] + 0 * edge], 1)

        t = fv.trace_margins(
            Cliff(), torch.tensor([[[[0.9, 0.45, 0, 0]]]]), trust_region=0.02, verify=True, max_steps=9
        )
        assert t.status == ("failed",)
        assert t.hit.tolist() == [-1]
        assert "gradient" in t.frame.failure[0]
        t.view().html()

    def test_shielding_curve(self, case):
        net, x, labels, _, reason = case
        curve = fv.shielding_curve(net, x, labels, dampings=[0.1], max_steps=5, resamples=10)
        assert curve.frame.failure[0].startswith(f"image 3: {reason}")
        assert "(1 of 6 images not computed)" in repr(curve.points[0])
        curve.view().html()

    def test_compare_models(self, case):
        net, x, labels, rest, reason = case
        plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
        models = {"plain": plain, "standardised": net}
        found, alone = (fv.compare_models(models, x[at], labels[at], attack_steps=3) for at in (list(range(6)), rest))
        one, other = (r.frame.drop(columns="failure").iloc[1] for r in (found, alone))
        assert one.equals(other)
        assert found.frame.failure.tolist() == ["", f"image 3: {found.models['standardised'].failures[3]}"]
        assert reason in found.frame.failure[1]
        assert any("The numbers of standardised leave out image 3" in note for note in _notes(found))
        found.view().html()

    def test_monitor(self, case):
        net, x, labels, rest, reason = case
        records = [fv.FisherMonitor(net, x[at], labels[at]).record(0) for at in (list(range(6)), rest)]
        assert records[0]["note"].startswith(f"1 of 6 images are in no number: {reason}")
        measured = ("mean_spectral_norm", "mean_frobenius", "accuracy", "loss", "cckl")
        assert [records[0][name] for name in measured] == pytest.approx([records[1][name] for name in measured])

    def test_everything_in_the_explorer(self, case):
        net, x, labels, rest, _ = case
        parts = ["plane", "radius", "bounds", "attacks", "margins", "attributions"]
        found = fv.explore(net, x, labels, include=parts)
        assert sorted(found.places) == rest
        assert found.frame.attack.isna().tolist() == [False, False, False, True, False, False]
        found.view().html()
