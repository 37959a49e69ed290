"""Cross-category divergences against closed forms, dense float64 forms and simulation."""

import itertools
import math
import warnings

import pytest
import torch
from torch import nn

import fimviz as fv
from fimviz.divergence import curvature
from fimviz.divergence.curvature import points
from fimviz.divergence.pairs import choose, standard_errors


def linear(weight, **options):
    """p = softmax(Wx), whose J is W everywhere."""
    model = nn.Linear(weight.shape[1], weight.shape[0], bias=False).double()
    model.weight.data.copy_(weight)
    return fv.Classifier(model, input_range=None, **options)


def dense_g1(model, x, y):
    """½ (x_j − x_i)ᵀ F(x_i) (x_j − x_i) for all pairs from dense float64 Jacobians and D×D matrices.

    F = Σ_{a<b} p_a p_b (J_a − J_b)(J_a − J_b)ᵀ: diag(p) − ppᵀ has three digits left at p = 1 − 1e-13, where a real
    ResNet-20 goes.
    """
    model, x = model.double(), x.double()
    out = []
    for a in x:
        jacobian = torch.func.jacrev(lambda v: model(v[None])[0])(a).flatten(1)
        p = model(a[None])[0].log_softmax(0).exp()
        one, other = torch.triu_indices(len(p), len(p), 1)
        rows = (p[one] * p[other]).sqrt()[:, None] * (jacobian[one] - jacobian[other])
        fisher = rows.T @ rows
        deltas = (x - a).flatten(1)
        out.append(0.5 * torch.einsum("md,de,me->m", deltas, fisher, deltas))
    return torch.stack(out).detach()[y[:, None] != y]


class TestClosedForm:
    @pytest.fixture
    def case(self):
        g = torch.Generator().manual_seed(0)
        x, w = torch.randn(9, 6, generator=g).double(), torch.randn(4, 6, generator=g).double()
        return linear(w), x, torch.arange(9) % 3, w

    def test_kl_and_g1_of_a_linear_model(self, case):
        net, x, y, w = case
        r = fv.cckl(net, x, y)
        log_p = (x @ w.T).log_softmax(1)
        p = log_p.exp()
        at = 0
        for i in range(9):
            for j in range(9):
                if y[i] == y[j]:
                    continue
                assert (int(r.i[at]), int(r.j[at])) == (i, j)
                assert r.kl[at].item() == pytest.approx(float((p[i] * (log_p[i] - log_p[j])).sum()), rel=1e-12)
                u = w @ (x[j] - x[i])
                variance = float((p[i] * u**2).sum() - (p[i] * u).sum() ** 2)
                assert r.g1[at].item() == pytest.approx(variance / 2, rel=1e-12)
                assert r.l2[at].item() == pytest.approx(float((x[j] - x[i]).norm()), rel=1e-12)
                at += 1
        assert at == len(r)
        assert torch.equal(r.g2, r.kl - r.g1)
        assert r.cckl == pytest.approx(float(r.kl.mean()))

    def test_a_saturated_prediction_keeps_its_digits(self):
        # p₂ = e^−200: G1 = ½ p₁p₂ (w₁ − w₂)²δ², and ‖Δ‖ = 1
        net = linear(torch.tensor([[100.0], [-100.0]]))
        r = fv.cckl(net, torch.tensor([[1.0], [0.0]]), [0, 1])
        assert r.g1[0].item() == pytest.approx(0.5 * math.exp(-200) * 200**2, rel=1e-12)
        assert r.kl[0].item() == pytest.approx(math.log(2), rel=1e-12)
        assert r.limit[0].item() == pytest.approx(r.g1[0].item(), rel=1e-12)  # two classes: F has rank one

    def test_equal_images_of_different_labels(self):
        r = fv.cckl(linear(torch.eye(2)), torch.ones(2, 2), [0, 1])
        assert r.kl.tolist() == r.g1.tolist() == [0, 0]
        assert r.ratio.isnan().all()

    def test_products_agree_with_gradients(self, case, monkeypatch):
        net, x, y, _ = case
        by_rows = fv.cckl(net, x, y)
        monkeypatch.setattr(curvature, "_GRADIENTS", 0)
        kept = fv.cckl(net, x, y, pairs=4)  # three gradients an input, fewer displacements
        wide = {(int(i), int(j)): at for at, (i, j) in enumerate(zip(by_rows.i, by_rows.j, strict=True))}
        places = [wide[int(i), int(j)] for i, j in zip(kept.i, kept.j, strict=True)]
        torch.testing.assert_close(kept.g1, by_rows.g1[places], rtol=1e-9, atol=0)
        torch.testing.assert_close(kept.limit, by_rows.limit[places], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "name",
    [
        "mnist-lenet5",
        "mnist-lenet5-robust",
        "cifar10-cnn-robust",
        "cifar10-marabou",
        "cifar10-resnet4b-robust",
        "cifar10-resnet20",
    ],
)
def test_g1_is_the_dense_quadratic_form_on_real_networks(realdata, name):
    x, y = (t[100:106] for t in realdata.images(realdata.NETWORKS[name][4], 106))
    r = fv.cckl(realdata.network(name), x, y)
    torch.testing.assert_close(r.g1, dense_g1(realdata.network(name), x, y), rtol=1e-6, atol=0)
    assert (r.g1 <= r.limit * (1 + 1e-9)).all()
    assert r.theorem(alpha=0.9).bound <= r.cckl


def test_many_classes_take_products(realdata):
    x, y = realdata.imagenet_samples(resize=72, crop=64)
    x, y = x[:2], y[:2]
    r = fv.cckl(realdata.network("imagenet-squeezenet"), x, y)
    model = realdata.network("imagenet-squeezenet").double()
    for at, (i, j) in enumerate([(0, 1), (1, 0)]):
        a, delta = x[i : i + 1].double(), (x[j] - x[i])[None].double()
        z, u = (t.detach() for t in torch.func.jvp(model, (a,), (delta,)))
        p = z.softmax(1)
        assert r.g1[at].item() == pytest.approx(0.5 * float((p * (u - (p * u).sum()) ** 2).sum()), rel=1e-6)
    assert (r.g1 <= r.limit * (1 + 1e-9)).all()


class TestTheorem:
    @pytest.mark.parametrize("name", fv.zoo.names())
    def test_it_and_eq_16_hold_on_the_zoo(self, name):
        images, labels = fv.zoo.digits()
        zeros = (labels == 0).nonzero()[:20, 0]
        for some in (torch.arange(40), torch.cat([zeros, torch.arange(5)])):  # the second is unbalanced
            r = fv.cckl(fv.zoo.load(name), images[some], labels[some])
            assert (r.g1 <= r.limit * (1 + 1e-9)).all()
            for alpha in (0.3, 0.9, 0.99, 1 - 1e-6):
                t = r.theorem(alpha=alpha)
                assert t.bound <= t.cckl
                assert t.vacuous == (t.bound <= 0)
        assert r.theorem(alpha=1).bound == -math.inf

    def test_unbalanced_samples_need_the_pairs_own_shares(self):
        # Hundred sure and right samples of one class, one of the other that is wrong: over samples alike the right side
        # is above CCKL, over the pairs' samples it is not.
        logits = torch.cat([torch.tensor([[4.0, 0.0]]).repeat(100, 1), torch.tensor([[4.0, 0.0]])])
        labels = torch.tensor([0] * 100 + [1])
        r = fv.cckl(linear(torch.eye(2)), logits, labels, alpha=0.95)
        t = r.theorem()
        log_p = logits.double().log_softmax(1)
        y = torch.full_like(log_p, 0.025).scatter(1, labels[:, None], 0.975)
        alike = float(t.js - (y * (y.log() - log_p)).sum(1).mean() - (log_p.exp() * (log_p - y.log())).sum(1).mean())
        assert alike > r.cckl == 0
        assert t.bound < 0

    def test_terms_by_hand(self):
        r = fv.cckl(linear(torch.eye(2)), torch.tensor([[2.0, 0.0], [0.0, 1.0]]), [0, 1], alpha=0.8)
        t = r.theorem()
        y = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).double()
        m = y.mean(0)
        f = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).double().softmax(1)
        assert t.js == pytest.approx(float((y * (y / m).log()).sum() / 2))
        assert t.loss == pytest.approx(float((y * (y / f).log()).sum(1).mean()))
        assert t.co_loss == pytest.approx(float((f * (f / y).log()).sum(1).mean()))
        assert r.theorem_bound == t.bound == pytest.approx(t.js - t.loss - t.co_loss)

    def test_it_can_say_something(self):
        r = fv.cckl(linear(20 * torch.eye(2)), torch.eye(2), [0, 1], alpha=0.999)
        assert 0 < r.theorem_bound < r.cckl
        assert "vacuous" not in str(r.theorem())
        assert "vacuous" in str(r.theorem(alpha=0))


class TestPairs:
    def test_all_are_those_of_different_labels(self):
        y = torch.tensor([0, 1, 1, 2])
        i, j = choose(y, "all", 0, 1e9)
        assert list(zip(i.tolist(), j.tolist(), strict=True)) == [
            (0, 1), (0, 2), (0, 3), (1, 0), (1, 3), (2, 0), (2, 3), (3, 0), (3, 1), (3, 2),
        ]  # fmt: skip

    @pytest.mark.parametrize("wanted", [10, 11, 1000, 2000])
    def test_drawn_pairs_are_different_seeded_and_both_ways(self, wanted):
        y = torch.arange(60) % 4
        i, j = choose(y, wanted, 3, 1e9)
        codes = i * 60 + j
        assert len(codes) == len(codes.unique()) == wanted + wanted % 2
        assert (y[i] != y[j]).all()
        assert torch.equal(codes, codes.sort().values)
        assert torch.equal((j * 60 + i).sort().values, codes)
        assert torch.equal(choose(y, wanted, 3, 1e9)[1], j)
        assert not torch.equal(choose(y, wanted, 4, 1e9)[1], j)

    def test_drawn_pairs_have_the_values_of_all(self):
        images, labels = fv.zoo.digits()
        net = fv.zoo.load("digits-mlp")
        everything = fv.cckl(net, images[:50], labels[:50])
        some = fv.cckl(net, images[:50], labels[:50], pairs=60, seed=1)
        assert len(some) == 60
        for at in range(60):
            same = everything.place(int(some.i[at]), int(some.j[at]))
            assert some.kl[at] == pytest.approx(float(everything.kl[same]), rel=1e-9)
            assert some.g1[at] == pytest.approx(float(everything.g1[same]), rel=1e-9)
        assert some.theorem().bound <= some.cckl


class TestErrors:
    @pytest.mark.parametrize("pairs", ["all", 60])
    def test_the_standard_error_is_that_of_repeated_samples(self, pairs):
        # KL of a fixed linear model on fresh samples: the spread of CCKL over 120 of them, against what each states.
        g = torch.Generator().manual_seed(0)
        net = linear(torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]]))
        means, stated = [], []
        for trial in range(120):
            x = torch.randn(40, 2, generator=g)
            y = torch.randint(3, (40,), generator=g)
            r = fv.cckl(net, x, y, pairs=pairs, resamples=100, seed=trial)
            means.append(r.cckl)
            stated.append(r.cckl_error)
        spread = float(torch.tensor(means).std())
        assert 0.8 * spread < math.sqrt(float((torch.tensor(stated) ** 2).mean())) < 1.3 * spread

    def test_pairs_that_share_no_sample(self):
        # then it is the plain standard error of a mean over independent pairs
        g = torch.Generator().manual_seed(0)
        one = torch.randn(300, generator=g).double()
        i, j = torch.arange(600), torch.arange(600) ^ 1
        values = one.repeat_interleave(2)[:, None]
        error = standard_errors(values, i, j, 600, 4000, 0)
        assert float(error) == pytest.approx(float(one.std()) / 300**0.5, rel=0.1)

    def test_too_few_samples_to_tell(self):
        r = fv.cckl(linear(torch.eye(2)), torch.tensor([[1.0, 0.0], [0.0, 2.0]]), [0, 1])
        assert math.isnan(r.cckl_error)
        assert "CCKL" in r.view().still

    def test_seeded(self):
        images, labels = fv.zoo.digits()
        net = fv.zoo.load("digits-mlp")
        errors = [fv.cckl(net, images[:20], labels[:20], seed=s).cckl_error for s in (0, 0, 1)]
        assert errors[0] == errors[1] != errors[2]


@pytest.fixture(scope="module")
def result():
    images, labels = fv.zoo.digits()
    return fv.cckl(fv.zoo.load("digits-resnet"), images[:30], labels[:30])


class TestResult:
    def test_frame_and_tables(self, result):
        frame = result.frame
        assert list(frame.columns) == [
            "i", "j", "class_i", "class_j", "kl", "g1", "g2", "ratio", "limit", "l2", "g1_error", "failure",
        ]  # fmt: skip
        assert (frame.class_i != frame.class_j).all()
        assert (frame.kl - frame.g1 - frame.g2).abs().max() < 1e-12
        assert (frame.g1_error <= 1e-9 * frame.g1 + 1e-9 * frame.limit).all()
        for name in ("kl", "g1", "g2"):
            table = frame.pivot_table(name, "class_i", "class_j")
            torch.testing.assert_close(
                torch.tensor(table.values), torch.tensor(result.by_class[name].values), equal_nan=True
            )
        assert result.by_class["pairs"].values.sum() == len(result)
        assert result.summary.loc["kl", "median"] == pytest.approx(frame.kl.median())
        assert result.summary.loc["g2", "mean"] == pytest.approx(result.means["kl"].value - result.means["g1"].value)
        assert repr(result).startswith(f"CrossCategoryKL({len(result)} pairs of 30 samples: CCKL ")

    def test_path_runs_from_one_sample_to_the_other(self, result):
        at = int(result.kl.argmax())
        i, j = int(result.i[at]), int(result.j[at])
        path = result.path(i, j, steps=10)
        assert path.t.tolist() == pytest.approx([t / 10 for t in range(11)])
        assert path.kl[0] == 0
        assert path.kl[-1] == pytest.approx(float(result.kl[at]), rel=1e-12)
        assert path.quadratic[-1] == pytest.approx(float(result.g1[at]), rel=1e-12)
        middle = (result.images[i] + result.images[j])[None] / 2
        torch.testing.assert_close(path.probabilities[5], result.net(middle)[0].exp().double(), rtol=1e-4, atol=1e-6)
        # near its start KL is the quadratic form
        near = result.path(i, j, steps=100_000 // 50).kl[1] / (result.g1[at] / 2000**2)
        assert float(near) == pytest.approx(1, abs=0.2)
        with pytest.raises(ValueError, match="no pair"):
            result.path(i, i)
        assert result.path(i, j, steps=1).kl.tolist() == [0, float(path.kl[-1])]

    @pytest.mark.parametrize("show", ["plot", "view"])
    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"against": {"robust": 3}}, TypeError, "'robust': a int}, expected results of fv.cckl by name"),
            ({"against": [1]}, TypeError, "against is a list"),
            ({"against": "self", "name": "mine"}, ValueError, "two models are called 'mine'"),
        ],
    )
    def test_what_does_not_stand_beside_it(self, result, show, options, error, words):
        options = {**options, "against": {"mine": result} if options["against"] == "self" else options["against"]}
        with pytest.raises(error, match=words):
            getattr(result, show)(**options)

    def test_interrupt_keeps_complete_pairs(self, monkeypatch):
        images, labels = fv.zoo.digits()

        def ten(*args):
            yield from itertools.islice(points(*args), 10)
            raise KeyboardInterrupt

        monkeypatch.setattr("fimviz.divergence.cckl.points", ten)

        with pytest.warns(UserWarning, match="interrupted"):
            r = fv.cckl(fv.zoo.load("digits-mlp"), images[:20], labels[:20])
        assert set(r.i.tolist()) == set(r.j.tolist()) == set(range(10))
        assert r.theorem().bound <= r.cckl

    def test_the_model_is_left_as_it_came(self):
        images, labels = fv.zoo.digits()
        model = fv.zoo.load("digits-resnet").model.train()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fv.cckl(fv.Classifier(model), images[:4], labels[:4])
        assert model.training
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"labels": [1, 1, 1, 1]}, ValueError, "at least two categories"),
            ({"labels": None}, TypeError, "expected one for each of 4 images"),
            ({"labels": [0, 1, 2]}, ValueError, "class indices"),
            ({"labels": [0, 1, 2, 99]}, ValueError, r"labels\[3\] is 99"),
            ({"pairs": "some"}, ValueError, "'all' or a number"),
            ({"pairs": 1}, ValueError, "at least 2"),
            ({"pairs": 100}, ValueError, "use pairs='all'"),
            ({"alpha": 1.5}, ValueError, "from 0 to 1"),
            ({"alpha": "high"}, TypeError, "expected a number"),
            ({"max_memory": 100}, MemoryError, "at least .* are needed, for 12 pairs"),
            ({"max_memory": 10_000}, MemoryError, "at least .* are needed, for .* at one input"),
            ({"max_memory": -1}, ValueError, "number of bytes"),
            ({"seeds": 1}, TypeError, "did you mean seed"),
        ],
    )
    def test_bad_input(self, options, error, words):
        images, _ = fv.zoo.digits()
        arguments = {"labels": [0, 1, 2, 3], **options}
        with pytest.raises(error, match=words):
            fv.cckl(fv.zoo.load("digits-mlp"), images[:4], **arguments)

    def test_several_yes_no_labels(self):
        net = fv.Classifier(nn.Linear(4, 3), likelihood="bernoulli")
        with pytest.raises(ValueError, match="several yes/no labels"):
            fv.cckl(net, torch.rand(2, 4), torch.ones(2, 3))

    def test_a_black_box(self):
        with pytest.raises(TypeError, match="a BlackBox, which gives answers and no gradients"):
            fv.cckl(fv.BlackBox(lambda x: x), torch.rand(2, 4), [0, 1])


def test_two_yes_no_classes_from_one_logit():
    net = fv.Classifier(nn.Linear(4, 1), likelihood="bernoulli", classes=["cat"])
    r = fv.cckl(net, torch.rand(6, 4), [0, 1, 0, 1, 0, 1])
    assert len(r) == 18
    u = (net.model.weight.double() @ (r.images[r.j] - r.images[r.i]).double().T)[0].detach()
    p = r.net.likelihood.mean(r.logits)[r.i]
    torch.testing.assert_close(r.g1, 0.5 * p[:, 0] * p[:, 1] * u**2, rtol=1e-6, atol=0)


def test_passes_in_float32_stay_within_the_stated_error():
    class Narrow(nn.Module):
        """A network that cannot run in float64."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x.float())

    images, labels = fv.zoo.digits()
    net = fv.zoo.load("digits-resnet-robust")
    exact = fv.cckl(net, images[:12], labels[:12])
    narrow = fv.cckl(Narrow(net.model), images[:12], labels[:12])
    assert not narrow.net.has_float64
    assert (narrow.g1 != exact.g1).any()
    assert ((narrow.g1 - exact.g1).abs() <= narrow.g1_error).all()
    assert (narrow.g1_error <= 0.05 * narrow.limit).all()


def test_points_take_memory_as_allowed():
    images, _ = fv.zoo.digits()
    net = fv.zoo.load("digits-mlp")
    x = net.admit(images[:30])
    with net.at_rest():
        many = [p.spectral_norm for p in points(net, x, 10, None)]
        few = [p.spectral_norm for p in points(net, x, 10, 1_000_000)]
    assert many == pytest.approx(few, rel=1e-12)
