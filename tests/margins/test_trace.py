"""Traces: what must hold for any network, for the zoo's, and for real ones."""

import math
import sys
import warnings

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fimviz as fv
from fimviz.margins import length as lengths
from fimviz.margins import simplex, stepper
from fimviz.margins.collect import collect
from fimviz.margins.state import Attempt, OpenPath, fallbacks
from fimviz.margins.trace import trace_margins


def small_net(seed=0, classes=4, inputs=6, scale=4.0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, classes)).double()
    model[2].weight.data *= scale
    return model


class Valley(nn.Module):
    """Two classes whose gap narrows toward grey pixels and widens beyond."""

    def forward(self, x):
        gap = (x - 0.5).square().sum(1) + 0.5
        return torch.stack([gap, torch.zeros_like(gap)], 1)


def check(t):
    """What holds for every trace of every method."""
    f = t.flipped
    slack = 1e-9
    assert (t.length >= t.distance - slack).all()
    assert (t.distance[f] >= t.bound[f] - slack).all()
    z = t.net(t.ends.clamp(*t.net.input_range) if t.net.input_range else t.ends)
    assert torch.equal(z.argmax(1)[f], t.hit[f])
    assert (t.hit[~f] == -1).all()
    assert (t.hit[f] != t.source[f]).all()
    for i, path in enumerate(t.paths):
        assert len(path.probabilities) == int(t.steps[i]) + 1 == len(path.l2) + 1 == len(path.pace) + 1
        assert path.fr[-1].item() == pytest.approx(t.length[i].item(), abs=1e-12)
        assert (path.fr.diff() >= 0).all()


class TestClosedForms:
    def test_two_classes_from_every_confidence(self):
        """Two classes have one path on the simplex, so the length is the closed-form bound."""
        net = fv.Classifier(nn.Identity().double(), input_range=None)
        x = torch.stack([torch.tensor([0.3, 2.0, 8.0, 30.0]).double(), torch.zeros(4).double()], 1)
        t = trace_margins(net, x, trust_region=2.0)
        assert t.status == ("flipped",) * 4
        assert torch.allclose(t.length, t.bound, atol=2e-4)
        assert ((t.length - t.bound).abs() <= t.length_error).all()

    def test_little_damping_follows_the_simplex(self):
        """J of rank K − 1, three classes: the gradient flow exchanges mass of source and target, the rest stays."""
        net = fv.Classifier(nn.Identity().double(), input_range=None)
        x = torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.9, 0.0]]).double()
        t = trace_margins(net, x, targets=[2], damping=1e-8, step=0.02, trust_region=5.0, verify=False)
        p = x.softmax(1)
        # What stays may be met before the two are equal: in the second image, class 1 shields class 2.
        assert t.hit.tolist() == [2, 1]
        for i, path in enumerate(t.paths):
            assert torch.allclose(path.probabilities[:, 1], p[i, 1].expand(len(path.fr)), atol=2e-2)
        # With a + b = m the length is that of a circle's arc of radius 2√m, from (√p_y, √p_k) to the diagonal.
        m = float(p[0, 0] + p[0, 2])
        expected = 2 * math.sqrt(m) * (math.acos(math.sqrt(float(p[0, 2]) / m)) - math.pi / 4)
        assert t.length[0].item() == pytest.approx(expected, rel=5e-3)

    def test_local_law(self):
        """Fisher–Rao length ≈ √(δᵀFδ) as δ → 0."""
        model = small_net()
        net = fv.Classifier(model)
        x = torch.rand(1, 6).double()
        s = fv.spectrum(net, x)
        delta = torch.randn(6, generator=torch.Generator().manual_seed(0)).double()
        delta /= delta.norm()
        predicted = (s.eigenvalues[0] * (s.eigenvectors[0] @ delta).square()).sum().sqrt()
        for size, tolerance in ((1e-3, 1e-2), (1e-5, 1e-4)):
            found = lengths.between(model(x).detach(), model(x + size * delta).detach())
            assert found.item() == pytest.approx(size * predicted.item(), rel=tolerance)

    def test_measured_length_of_a_curve(self):
        """Logits along (cos, sin)(φ)-like pieces: the sum grows with points and its growth covers the truth."""
        a, b = torch.tensor([[4.0, 0.0, -1.0]]).double(), torch.tensor([[-1.0, 2.0, 3.0]]).double()

        def at(rows, shares):
            return a[rows] + (b - a)[rows] * shares[:, None]

        fine = at(torch.zeros(4097).long(), torch.linspace(0, 1, 4097).double())
        truth = float(lengths.between(fine[:-1], fine[1:]).sum())
        middle = at(torch.tensor([0]), torch.tensor([0.5]).double())
        coarse, _ = lengths.measure(at, a, middle, b, levels=0)
        found, growth = lengths.measure(at, a, middle, b)
        assert float(coarse) < float(found) <= truth + 1e-12
        assert truth - float(found) <= float(growth)
        assert float(growth) < 2e-3 * truth


class TestInvariants:
    @given(
        st.integers(0, 10**5),
        st.integers(2, 6),
        st.floats(0.5, 30),
        st.sampled_from(["natural", "gradient", "geodesic"]),
    )
    @settings(max_examples=8, deadline=None)
    def test_random_networks(self, seed, classes, scale, method):
        net = fv.Classifier(small_net(seed, classes, scale=scale))
        x = torch.rand(3, 6, generator=torch.Generator().manual_seed(seed)).double()
        t = trace_margins(net, x, method=method, max_steps=60)
        check(t)
        assert t.ends.min() >= 0
        assert t.ends.max() <= 1

    @given(st.integers(0, 10**5), st.integers(2, 6), st.floats(0.5, 30))
    @settings(max_examples=8, deadline=None)
    def test_the_error_of_a_length_covers_half_the_steps(self, seed, classes, scale):
        """Always, of the paths that it was made from, each from its start by what made its like."""
        net, kept = fv.Classifier(small_net(seed, classes, scale=scale)), []

        def collected(*args):
            kept.append(collect(*args))
            halved = [args[5][id(path)] for path in args[4]]
            length = torch.tensor([sum(s.fr for s in path.steps) for path in halved]).double()
            assert [path.attempt for path in halved] == [path.attempt for path in args[4]]
            assert ((length - kept[0].length).abs() <= kept[0].length_error).all()
            return kept[0]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fimviz.margins.trace.collect", collected)
            x = torch.rand(3, 6, generator=torch.Generator().manual_seed(seed)).double()
            trace_margins(net, x, max_steps=60)
        assert kept

    @pytest.mark.parametrize("method", ["natural", "gradient", "geodesic"])
    def test_the_error_of_a_length_is_an_estimate_that_mostly_holds(self, method):
        """On 529, 540 and 532 of 540 paths of sixty networks; kinks send the others elsewhere with smaller steps."""
        inside = []
        for seed in range(8):
            net = fv.Classifier(small_net(seed, 2 + seed % 5, scale=(0.5, 2, 8, 30)[seed % 4]))
            x = torch.rand(3, 6, generator=torch.Generator().manual_seed(seed)).double()
            t = trace_margins(net, x, method=method, max_steps=60)
            half = {"step": 0.1, "trust_region": t.settings.trust_region / 2}
            finer = trace_margins(net, x, method=method, max_steps=120, verify=False, **half)
            inside.append((finer.length - t.length).abs() <= t.length_error)
        assert torch.cat(inside).double().mean() >= 0.95

    @pytest.mark.parametrize("name", ["digits-vit", "digits-mlp-robust"])
    @pytest.mark.parametrize("method", ["natural", "gradient", "pgd", "geodesic", "straight", "published"])
    def test_zoo(self, name, method):
        images, labels = fv.zoo.digits()
        t = trace_margins(fv.zoo.load(name), images[:1], labels[:1], method=method, verify=False)
        if method == "published":
            f = t.flipped
            assert (t.length >= t.distance - 1e-9).all()
            assert (t.distance[f] >= t.bound[f] - 1e-9).all()
            assert torch.equal(t.counted, t.steps.double())
        else:
            check(t)
            assert t.ends.min() >= 0
            assert t.ends.max() <= 1
            assert t.flipped.all()

    @pytest.mark.parametrize(("name", "step"), [("digits-resnet", 0.2), ("digits-mlp", 1.0)])
    def test_the_same_path_measured_much_finer(self, name, step, monkeypatch):
        """Every step in 128 pieces: kinks of a network can make one halving add little by chance."""
        images, _ = fv.zoo.digits()
        options = {"step": step, "verify": False, "keep_images": False}
        t = trace_margins(fv.zoo.load(name), images[:4], **options)
        for floor in ("_TOLERANCE", "_FLOOR"):
            monkeypatch.setattr(lengths, floor, -1.0)
        fine = trace_margins(fv.zoo.load(name), images[:4], **options)
        assert torch.equal(t.ends, fine.ends)
        assert (fine.length >= t.length - 1e-9).all()
        assert (fine.length - t.length <= t.length_error).all()

    @pytest.mark.parametrize("parts", [2, 4, 8])
    def test_smaller_steps_where_the_trust_region_sets_the_pace(self, parts):
        images, _ = fv.zoo.digits()
        net, options = fv.zoo.load("digits-mlp"), {"targets": "runner-up", "keep_images": False}
        t = trace_margins(net, images[8:20], **options)
        assert (t.pace[:, 1] > 0.3).any()
        smaller = {"step": t.settings.step / parts, "trust_region": t.settings.trust_region / parts}
        finer = trace_margins(net, images[8:20], **options, **smaller, max_steps=3000, verify=False)
        assert ((finer.length - t.length).abs() <= t.length_error).all()

    def test_scaling_logits_changes_lengths_not_regions(self):
        model = small_net(1)
        x = torch.rand(4, 6).double()
        plain, sharp = (trace_margins(fv.Classifier(model, temperature=t), x, verify=False) for t in (1.0, 0.25))
        assert torch.equal(plain.source, sharp.source)
        assert (sharp.length > plain.length).float().mean() > 0.9
        for t in (plain, sharp):
            assert torch.equal(model(t.ends).argmax(1)[t.flipped], t.hit[t.flipped])

    def test_cg_agrees_with_gram(self):
        images, _ = fv.zoo.digits()
        net = fv.zoo.load("digits-resnet")
        gram, cg = (trace_margins(net, images[:1], solver=s, verify=False) for s in ("gram", "cg"))
        assert torch.equal(gram.hit, cg.hit)
        assert torch.allclose(gram.length, cg.length, rtol=0.05)


class TestOptions:
    def test_labels_and_targets(self):
        net = fv.zoo.load("digits-mlp")
        images, labels = fv.zoo.digits()
        wrong = labels[:3].clone()
        wrong[1] = (wrong[1] + 1) % 10
        t = trace_margins(net, images[:3], wrong, verify=False)
        assert len(t) == 27
        assert t.correct.tolist() == [True] * 9 + [False] * 9 + [True] * 9
        assert int(wrong[1]) in t.target[9:18].tolist()
        runner = trace_margins(net, images[:3], targets="runner-up", verify=False)
        two = net(images[:3]).topk(2).indices
        assert torch.equal(runner.source, two[:, 0])
        assert torch.equal(runner.target, two[:, 1])
        named = trace_margins(net, images[:1], targets=["1", 2], verify=False)
        assert named.target.tolist() == [1, 2]
        own = trace_margins(net, images[:3], targets=two[:, 1:], verify=False)
        assert torch.equal(own.length, runner.length)
        rows = trace_margins(net, images[:3], targets=list(two[:, 1:]), verify=False)
        assert torch.equal(rows.target, runner.target)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"labels": torch.tensor([0, 10, 2])}, "expected class indices from 0 to 9"),
            ({"targets": [4]}, "is the class that the model predicts for image 0"),
            ({"targets": [12]}, "expected 0 to 9"),
            ({"targets": "nearest"}, "expected 'all', 'runner-up'"),
            ({"targets": ["cat"]}, "is no class of this model"),
            ({"targets": []}, "targets are empty"),
            ({"targets": [1, 1]}, "name a class twice"),
            ({"targets": torch.tensor([[1], [2]])}, "one for each of 3 images"),
            ({"step": 0.0}, "step is 0.0, expected a positive"),
            ({"damping": -1}, "damping is -1"),
            ({"trust_region": float("inf")}, "trust_region is inf"),
            ({"max_steps": 0}, "expected at least 1"),
            ({"method": "newton"}, "expected one of natural"),
            ({"solver": "lu"}, "expected one of auto"),
            ({"max_memory": 10}, "at least .* are needed"),
        ],
    )
    def test_wrong_inputs(self, options, message):
        images, _ = fv.zoo.digits()
        with pytest.raises((ValueError, MemoryError), match=message):
            trace_margins(fv.zoo.load("digits-mlp"), images[:3], options.pop("labels", None), **options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"targets": 3}, "targets is 3, expected 'all'"),
            ({"targets": None}, "targets is None, expected 'all'"),
            ({"targets": torch.tensor(3)}, "expected 'all', 'runner-up' or a list"),
            ({"verify": "no"}, "verify is 'no', expected True or False"),
            ({"keep_images": 1}, "keep_images is 1, expected True or False"),
        ],
    )
    def test_wrong_kinds(self, options, message):
        images, _ = fv.zoo.digits()
        with pytest.raises(TypeError, match=message):
            trace_margins(fv.zoo.load("digits-mlp"), images[:3], **options)

    def test_wrong_pictures(self):
        images, _ = fv.zoo.digits()
        t = trace_margins(fv.zoo.load("digits-mlp"), images[:1], targets="runner-up", verify=False)
        with pytest.raises(TypeError, match="expected a ShieldingCurve"):
            t.view(curve=3)
        with pytest.raises(TypeError, match="expected a whole number"):
            t.plot(trace=1.5)
        with pytest.raises(ValueError, match="trace is 1, expected a place among 1 traces"):
            t.plot(trace=1)

    def test_who_set_the_pace(self):
        """No step said to be as long as the trust region is shorter, and an end closed in on says so."""
        images, _ = fv.zoo.digits()
        t = trace_margins(fv.zoo.load("digits-resnet"), images[:2], damping=1.0, verify=False)
        names = [name for path in t.paths for name in path.pace]
        assert {"trust region", "boundary"} <= set(names)
        radius = t.settings.trust_region
        for path in t.paths:
            assert set(path.pace[:-1]) <= {"step", "trust region", "box", "line search"}
            assert all(size > 0.89 * radius for size, n in zip(path.l2, path.pace, strict=True) if n == "trust region")
        assert torch.allclose(t.pace.sum(1), torch.ones(len(t)).double())

    def test_a_step_past_a_valley_is_shortened_by_the_line_search(self):
        t = trace_margins(Valley(), torch.full((1, 1), 0.43).double(), trust_region=0.4, step=1.0, verify=False)
        path = t.paths[0]
        # 0.4 and 0.2 end further up the other side, 0.1 lower than it began: 0.53.
        assert path.pace[0] == "line search"
        assert path.l2[0].item() == pytest.approx(0.1)
        assert path.gap[1] < path.gap[0]
        assert t.status == ("stalled",)

    @pytest.mark.parametrize("solver", ["gram", "cg"])
    def test_smoothed_slopes_depend_on_the_seed_alone(self, solver):
        x = torch.linspace(0.3, 0.6, 8).double().view(2, 4)
        options = {"solver": solver, "verify": False, "keep_images": False}
        t, again, other = (trace_margins(Valley(), x, **options, seed=seed) for seed in (0, 0, 1))
        check(t)
        assert (t.smoothed > 0).all()
        for path, share in zip(t.paths, t.smoothed.tolist(), strict=True):
            assert sum(path.smoothed) == pytest.approx(share * len(path.pace))
            assert not any(path.smoothed[:3]), "three steps have to gain nothing first"
            assert all(path.smoothed[path.smoothed.index(True) :])
        assert torch.equal(t.ends, again.ends)
        assert not torch.equal(t.ends, other.ends)
        alone = trace_margins(Valley(), x[1:], **options)
        assert torch.allclose(alone.ends, t.ends[1:])
        for method in ("published", "pgd", "straight"):
            assert (trace_margins(Valley(), x, **options, method=method, max_steps=9).smoothed == 0).all()

    def test_random_start_does_not_depend_on_the_place(self):
        images, _ = fv.zoo.digits()
        options = {"method": "pgd", "targets": "runner-up", "verify": False, "keep_images": False}
        net = fv.zoo.load("digits-mlp")
        together = trace_margins(net, images[:3], **options).length
        alone = torch.cat([trace_margins(net, images[i : i + 1], **options).length for i in range(3)])
        assert torch.allclose(together, alone, atol=1e-4)

    def test_wrong_models(self):
        with pytest.raises(ValueError, match="one predicted class"):
            trace_margins(fv.Classifier(nn.Linear(4, 3), likelihood="bernoulli"), torch.rand(2, 4))
        with pytest.raises(TypeError, match="a BlackBox, which gives answers and no gradients"):
            trace_margins(fv.BlackBox(lambda x: x @ torch.ones(4, 3)), torch.rand(2, 4))
        with pytest.raises(TypeError, match="did you mean damping"):
            trace_margins(nn.Linear(4, 3), torch.rand(2, 4), dampings=1)

    def test_binary_model_of_one_logit(self):
        net = fv.Classifier(nn.Linear(4, 1).double(), likelihood="bernoulli")
        check(trace_margins(net, torch.rand(2, 4).double(), verify=False))

    def test_budget_and_stall(self):
        images, _ = fv.zoo.digits()
        t = trace_margins(fv.zoo.load("digits-mlp"), images[:1], max_steps=1, verify=False)
        assert set(t.status) == {"budget"}
        assert t.ratio.isnan().all()
        far = nn.Linear(2, 2, bias=True).double()
        far.weight.data.copy_(torch.eye(2))
        far.bias.data.copy_(torch.tensor([5.0, 0.0]))
        stuck = trace_margins(far, torch.rand(1, 2).double(), verify=False)
        assert stuck.status == ("stalled",)
        assert stuck.pace[0, 2] > 0

    @pytest.mark.parametrize("verify", [False, True])
    def test_what_fails_is_tried_again_with_what_works(self, verify):
        """Of 27 paths 13 need no other attempt and stay as they are, bit for bit; 7 are brought nowhere by any."""
        images, labels = fv.zoo.digits()
        net, options = fv.zoo.load("digits-mlp"), {"max_steps": 10, "verify": verify}
        first = trace_margins(net, images[:3], labels[:3], **options, retry=False)
        t = trace_margins(net, images[:3], labels[:3], **options)
        kept = first.flipped
        assert not first.retried.any()
        assert not t.retried[kept].any()
        assert torch.equal(t.length[kept], first.length[kept])
        assert torch.equal(t.ends[kept], first.ends[kept])
        assert torch.equal(t.flipped, kept | t.retried)
        lost = ~t.flipped
        assert torch.equal(t.length[lost], first.length[lost])
        assert {made for made, again in zip(t.made_by, t.retried, strict=True) if again} == {
            ("natural", 1.0),
            ("pgd", 0.01),
        }
        for i in t.retried.nonzero()[:, 0].tolist():
            made = t.made_by[i]
            sample, target = int(t.sample[i]), int(t.target[i])
            one = trace_margins(net, images[sample : sample + 1], targets=[target], method=made.method,
                                damping=made.damping, **options, retry=False)  # fmt: skip
            assert one.status == ("flipped",)
            assert t.length[i].item() == pytest.approx(one.length.item(), rel=1e-5)
            assert t.length_error[i].item() == pytest.approx(one.length_error.item(), rel=0.05, abs=1e-5)
        frame = t.frame
        assert list(frame.retried) == t.retried.tolist()
        assert set(frame.method[frame.retried]) == {"natural", "pgd"}
        assert f"{int(t.flipped.sum())} flipped, of which 6 by natural, damping 1 and 1 by pgd at" in repr(t)
        assert "another attempt" in repr(t.shielding(resamples=10))

    @pytest.mark.parametrize(("method", "others"), [("published", []), ("straight", [("straight", 1.0)]),
        ("pgd", [("natural", 1.0)]), ("gradient", [("natural", 1.0), ("pgd", 0.01)])])  # fmt: skip
    def test_what_is_tried(self, method, others):
        assert fallbacks(Attempt(method, 0.01)) == others

    def test_model_comes_back_and_results_repeat(self):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10)).train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        images, _ = fv.zoo.digits()
        one, two = (trace_margins(model, images[:2], method="pgd", seed=4, verify=False) for _ in range(2))
        other = trace_margins(model, images[:2], method="pgd", seed=5, verify=False)
        assert torch.equal(one.length, two.length)
        assert not torch.equal(one.length, other.length)
        assert model.training
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

    def test_an_interrupt_returns_what_is_there(self, monkeypatch):
        images, _ = fv.zoo.digits()
        own, calls = stepper.Stepper.advance, []

        def advance(self, traces):
            if len(calls) == 8:
                raise KeyboardInterrupt
            calls.append(1)
            own(self, traces)

        monkeypatch.setattr(stepper.Stepper, "advance", advance)
        with pytest.warns(UserWarning, match="interrupted: .* of 36 paths"):
            t = trace_margins(fv.zoo.load("digits-mlp"), images[:4])
        assert len(t) == 36
        assert "interrupted" in t.status
        assert t.length_error.isinf().all()
        assert (t.length >= t.distance - 1e-9).all()

    @pytest.mark.parametrize("function", ["advance", "take"])
    def test_an_interrupt_on_any_line_of_a_step(self, function):
        """It may come between any two lines: a trace then has all of a step or nothing of it."""
        net = fv.Classifier(small_net(), input_range=None)
        x = torch.rand(2, 6, generator=torch.Generator().manual_seed(0)).double()
        code = getattr({"advance": stepper.Stepper, "take": OpenPath}[function], function).__code__

        def interrupted(line):
            """Traces of a run that is interrupted on the n-th line of the function that is come to."""
            left = [line]

            def watch(frame, event, _):
                if event == "line":
                    left[0] -= 1
                    if left[0] == 0:
                        sys.settrace(None)
                        raise KeyboardInterrupt
                return watch

            before = sys.gettrace()
            sys.settrace(lambda frame, *_: watch if frame.f_code is code else None)
            try:
                with warnings.catch_warnings(record=True) as heard:
                    warnings.simplefilter("always")
                    return trace_margins(net, x, targets="runner-up", step=0.05, verify=False), heard
            finally:
                sys.settrace(before)

        for line in range(1, 160 if function == "advance" else 8):
            t, heard = interrupted(line)
            assert "interrupted: " in str(heard[0].message)
            assert "interrupted" in t.status
            for i, path in enumerate(t.paths):
                steps = len(path.pace)
                assert len(path.probabilities) == len(path.fr) == len(path.spectral_norm) == steps + 1
                assert len(path.images) == steps + 1 if steps else path.images is None
                assert torch.allclose(net(t.ends[[i]]).exp(), path.probabilities[-1:]), (
                    "the end is that of the last whole step"
                )

    def test_progress_counts_the_traces_that_are_complete(self):
        images, _ = fv.zoo.digits()
        seen = []
        trace_margins(fv.zoo.load("digits-mlp"), images[:2], progress=lambda *a: seen.append(a))
        done = [d for d, _ in seen]
        assert done == sorted(done)
        assert done[0] == 0
        assert done[-1] == 18
        assert len(set(done)) > 3

    @pytest.mark.parametrize("steep", [1.0, 1e4])
    def test_images_on_the_way_keep_small_changes(self, steep):
        """Absolute pixels in half precision would be off by 2e-4 each, which is more than the steep path moves."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
        model[1].weight.data *= steep
        x = torch.rand(2, 3, 4, 4)
        t = trace_margins(model, x, targets="runner-up", verify=False, step=0.02)
        for i, path in enumerate(t.paths):
            assert torch.equal(path.images[0], x[int(t.sample[i])])
            assert torch.equal(path.images[-1], t.ends[i])
            assert len(path.units) > 1
            for j, image in enumerate(path.images):
                difference = path.difference(j)
                assert (difference.norm() == 0) == (j == 0)
                # what is kept leads to the class that the path has there
                away = (image.double() - x[int(t.sample[i])].double() - difference).abs().max()
                assert away <= 1e-7
                z = model(image[None])[0].double() - path.logits[j]
                assert z.abs().max() <= 2e-3 * steep * float(difference.norm()) + 1e-5 * steep
        with pytest.raises(ValueError, match=r"keep_images=True"):
            trace_margins(model, x, targets="runner-up", verify=False, keep_images=False).paths[0].difference(1)

    def test_progress_frame_and_repr(self):
        images, labels = fv.zoo.digits()
        seen = []
        t = trace_margins(
            fv.zoo.load("digits-mlp"), images[:2], labels[:2], progress=lambda *a: seen.append(a), verify=False
        )
        assert seen[-1] == (18, 18)
        wanted = ["sample", "source", "target", "hit", "length", "length_error", "bound", "l2", "steps", "status"]
        assert set(wanted) <= set(t.frame.columns)
        assert isinstance(t.frame, pd.DataFrame)
        assert repr(t).startswith("MarginTraces(18 traces of 2 inputs, natural: 18 flipped, median length 1.")
        path = t.paths[0]
        assert path.images.shape == (len(path.fr), 1, 8, 8)
        assert path.images.dtype == torch.float32
        assert path.spectral_norm[:-1].isfinite().all()
        s = fv.spectrum(t.net, images[:1], k=1)
        assert path.spectral_norm[0].item() == pytest.approx(s.spectral_norm[0].item(), rel=1e-4)
        assert simplex.distance(*path.probabilities.log()[[0, -1]]).item() == pytest.approx(
            t.distance[0].item(), abs=1e-6
        )
