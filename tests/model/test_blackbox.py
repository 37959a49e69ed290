"""Queries only: counted, never over budget, sent again, checked; and the spectrum that they show."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from torch import nn

import fimviz as fv
from fimviz.fisher.sketch import Differences, frame, moments, sketch
from fimviz.model.blackbox import BlackBox, BudgetExceeded


def small_net(seed=0, classes=5, width=12, inputs=6):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, classes))


def asked(model):
    """The function of a black box: NumPy in, NumPy out."""

    def predict(x):
        assert isinstance(x, np.ndarray)
        with torch.no_grad():
            return model(torch.from_numpy(x)).numpy()

    return predict


def estimate(net, images, k=1, vectors=True, **options):
    x = net.admit(images)
    with net.at_rest():
        return sketch(net, x, k, vectors, **options)


def covered(block, truth):
    return (block.eigenvalues - truth.eigenvalues).abs() <= block.error


class TestQueries:
    def test_log_probabilities_are_the_models(self):
        model, x = small_net(), torch.rand(5, 6)
        box = BlackBox(asked(model), classes=list("abcde"))
        assert torch.allclose(box(x), model(x).detach().double().log_softmax(1), atol=1e-6)
        assert box.classes == list("abcde")
        assert box.queries == 2 + 5

    @pytest.mark.parametrize("shape", ["numpy", "torch", "lists", "session"])
    def test_what_predict_may_return(self, shape):
        kinds = {"numpy": np.asarray, "torch": torch.tensor, "lists": np.ndarray.tolist, "session": lambda z: [z]}
        box = BlackBox(lambda x: kinds[shape](x @ np.eye(3) + 1))
        assert torch.allclose(box(torch.eye(3)), torch.eye(3).double().log_softmax(1))

    def test_torch_batches_on_wish(self):
        box = BlackBox(nn.Identity(), as_torch=True, precision="float64")
        assert box.admit([[0.0, 0.5]]).dtype == torch.float64
        assert box([[0.0, 0.5]]).shape == (1, 2)

    def test_predict_may_write_into_its_batch(self):
        def predict(x):
            x -= 5
            return x

        x = torch.rand(3, 4)
        before = x.clone()
        box = BlackBox(predict)
        assert torch.allclose(box(x), before.double().log_softmax(1), atol=1e-6)
        assert torch.equal(x, before)

    def test_batches_are_no_larger_than_asked(self):
        sizes = []
        box = BlackBox(lambda x: sizes.append(len(x)) or x, batch_size=4)
        box(torch.rand(11, 3))
        assert sizes == [2, 4, 4, 3]
        assert box.queries == sum(sizes)

    def test_budget_is_never_exceeded(self):
        sent = []
        box = BlackBox(lambda x: sent.append(len(x)) or x, budget=10, batch_size=4)
        with pytest.raises(BudgetExceeded, match="10 of 10 queries"):
            box(torch.rand(50, 3))
        assert sum(sent) == box.queries == 10
        box.budget = 13
        box(torch.rand(3, 3))
        assert sum(sent) == 13

    def test_budget_holds_across_threads(self):
        sent, stopped = [], []

        def predict(x):
            sent.append(len(x))
            return x

        box = BlackBox(predict, budget=100)
        box.admit(torch.rand(1, 3))

        def use():
            try:
                for _ in range(40):
                    box.logits(torch.rand(3, 3))
            except BudgetExceeded:
                stopped.append(1)

        threads = [threading.Thread(target=use) for _ in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert sum(sent) == box.queries <= 100
        assert 100 - box.queries < 3
        assert len(stopped) == 8

    def test_one_user_at_a_time(self):
        inside, most = [], []

        def predict(x):
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.002)
            inside.pop()
            return x

        box = BlackBox(predict)
        threads = [threading.Thread(target=box, args=(torch.rand(2, 3),)) for _ in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert max(most) == 1

    def test_failing_queries_are_sent_again_and_counted(self):
        calls = []

        def predict(x):
            calls.append(len(x))
            if len(calls) in (2, 3):
                raise ConnectionError("the line is dead")
            return x + 1

        box = BlackBox(predict)
        assert torch.allclose(box(torch.eye(3)), torch.eye(3).double().log_softmax(1))
        assert calls == [2, 3, 3, 3]
        assert box.queries == sum(calls)

    def test_the_last_error_comes_through_with_a_note(self):
        def predict(x):
            raise ConnectionError("the line is dead")

        box = BlackBox(predict, retries=1)
        with pytest.raises(ConnectionError, match="dead") as caught:
            box(torch.rand(1, 3))
        assert "4 queries are done" in caught.value.__notes__[0]

    def test_retries_stay_within_the_budget(self):
        def predict(x):
            raise ConnectionError

        box = BlackBox(predict, retries=100, budget=7)
        with pytest.raises(BudgetExceeded):
            box(torch.rand(1, 3))
        assert box.queries == 6

    def test_a_pickled_box_goes_on_counting(self):
        box = BlackBox(np.negative, budget=20)
        box(torch.rand(3, 3))
        for copied in (pickle.loads(pickle.dumps(box)), copy.deepcopy(box)):
            assert torch.equal(copied(torch.eye(3)), box(torch.eye(3)))
            assert (copied.queries, copied.classes, copied.budget) == (8, ["0", "1", "2"], 20)

    def test_an_interrupt_is_not_retried(self):
        def predict(x):
            raise KeyboardInterrupt

        box = BlackBox(predict)
        with pytest.raises(KeyboardInterrupt):
            box(torch.rand(1, 3))
        assert box.queries == 2


class TestOutputs:
    def test_probabilities_and_logits_agree(self):
        model, x = small_net(), torch.rand(4, 6)
        soft = BlackBox(lambda a: torch.softmax(model(torch.from_numpy(a)).detach(), 1), outputs="probabilities")
        assert torch.allclose(soft(x), BlackBox(asked(model))(x), atol=1e-6)

    def test_zero_probabilities_stay_finite(self):
        for kind, floor in ((np.float32, 1.1754944e-38), (np.float64, 2.2250738585072014e-308)):
            rest = np.array(0.3123456789, kind)
            box = BlackBox(
                lambda x, kind=kind, rest=rest: np.array([[1 - rest, 0, rest]] * len(x), kind), outputs="probabilities"
            )
            assert box.logits(box.admit(torch.rand(1, 2)))[0, 1].item() == pytest.approx(np.log(floor), rel=1e-6)
            assert torch.equal(estimate(box, torch.rand(2, 2)).eigenvalues, torch.zeros(2, 1).double())

    def test_one_score_is_a_binary_model(self):
        p = 0.75
        for outputs, score in (("logits", np.log(p / (1 - p))), ("probabilities", p)):
            for shape in ((-1,), (-1, 1)):
                box = BlackBox(
                    lambda x, s=score, n=shape: np.full(len(x), s).reshape(n),
                    outputs=outputs, likelihood="bernoulli", classes=["pneumonia"],
                )  # fmt: skip
                assert box(torch.rand(1, 2)).exp().tolist()[0] == pytest.approx([0.25, 0.75])
                assert box.classes == ["not pneumonia", "pneumonia"]

    def test_labels_that_are_certain_stay_finite(self):
        box = BlackBox(
            lambda x: np.array([[1.0, 0.0, 0.4321234]] * len(x)), outputs="probabilities", likelihood="bernoulli"
        )
        z = box.logits(box.admit(torch.rand(1, 2)))[0]
        assert z.isfinite().all()
        assert z[0] > 30
        assert z[1] < -600
        assert z[2] == pytest.approx(np.log(0.4321234 / (1 - 0.4321234)))

    @pytest.mark.parametrize(
        ("predict", "options", "message"),
        [
            (lambda x: np.ones((len(x) + 1, 3)), {}, r"shape \(3, 3\) for 2 inputs, expected \(2, K\)"),
            (lambda x: np.ones((len(x), 3, 2)), {}, r"expected \(2, K\)"),
            (lambda x: np.full((len(x), 3), np.nan), {}, "NaN"),
            (lambda x: np.full((len(x), 2), 0.7), {"outputs": "probabilities"}, "sum to 1 ± 0.4"),
            (lambda x: np.array([[1.5, -0.5]] * len(x)), {"outputs": "probabilities"}, "expected probabilities"),
            (lambda x: np.full((len(x), 4), 0.25), {}, "outputs='probabilities'"),
            (lambda x: np.ones((len(x), 1)), {}, "likelihood='bernoulli'"),
            (lambda x: np.eye(len(x), 3) + 2, {}, "random"),
            (lambda x: np.ones((len(x), 3)) * 2, {"classes": ["a", "b"]}, "2 names"),
        ],
    )
    def test_wrong_outputs_are_refused(self, predict, options, message):
        with pytest.raises(ValueError, match=message):
            BlackBox(predict, **options).admit(torch.rand(1, 2))

    def test_outputs_that_change_are_refused(self):
        widths = iter([3, 4])
        box = BlackBox(lambda x: np.ones((len(x), next(widths))) * 2)
        with pytest.raises(ValueError, match=r"expected \(1, 3\)"):
            box(torch.rand(1, 2))

    def test_no_numbers(self):
        with pytest.raises(TypeError, match="str"):
            BlackBox(lambda x: "cat").admit(torch.rand(1, 2))

    @pytest.mark.parametrize(
        ("images", "error", "message"),
        [
            (torch.zeros(2, 3, dtype=torch.uint8), TypeError, "255"),
            (torch.rand(3), ValueError, "batch"),
            (torch.rand(0, 3), ValueError, "at least one"),
            (torch.full((1, 3), torch.nan), ValueError, "NaN"),
            (torch.rand(1, 3) + 1.5, ValueError, "input_range="),
        ],
    )
    def test_wrong_inputs_cost_no_query(self, images, error, message):
        box = BlackBox(lambda x: x)
        with pytest.raises(error, match=message):
            box(images)
        assert box.queries == 0

    @pytest.mark.parametrize(
        "options",
        [{"outputs": "logit"}, {"precision": "float16"}, {"likelihood": "probit"}, {"input_range": (1, 0)},
         {"batch_size": 0}, {"retries": -1}, {"budget": -1}],
    )  # fmt: skip
    def test_wrong_options(self, options):
        with pytest.raises(ValueError, match="expected"):
            BlackBox(lambda x: x, **options)
        with pytest.raises(TypeError, match="did you mean batch_size"):
            BlackBox(lambda x: x, batchsize=3)
        with pytest.raises(TypeError, match="function"):
            BlackBox(3)


class TestSketch:
    def test_linear_softmax_with_all_directions(self):
        """m = D orthonormal directions: F = Wᵀ(diag p − p pᵀ)W itself, with its eigenvectors."""
        torch.manual_seed(0)
        model, x = nn.Linear(7, 4).double(), torch.rand(3, 7).double()
        box = BlackBox(asked(model), precision="float64")
        block, truth = estimate(box, x, 3, step=1e-3), fv.spectrum(model, x)
        assert torch.allclose(block.eigenvalues, truth.eigenvalues, rtol=1e-6)
        assert torch.allclose(block.trace, truth.trace, rtol=1e-6)
        assert torch.allclose(block.frobenius, truth.frobenius, rtol=1e-6)
        assert torch.allclose(block.eigenvectors, truth.eigenvectors, atol=1e-4)
        assert covered(block, truth).all()
        assert (block.error[:, 0] < 0.01 * block.eigenvalues[:, 0]).all()

    def test_queries_are_two_a_probe_and_one(self):
        box = BlackBox(asked(small_net(inputs=50)))
        block = estimate(box, 0.1 + 0.8 * torch.rand(3, 50), probes=20, step=0.01)
        assert block.forwards.tolist() == [41] * 3
        assert box.queries == 2 + 3 * 41
        edge = BlackBox(asked(small_net(inputs=50)))
        assert estimate(edge, torch.zeros(1, 50), probes=20, step=0.01).forwards.tolist() == [49]
        assert edge.queries == 51
        chosen = estimate(box, torch.rand(3, 50), probes=20)
        assert box.queries == 2 + 3 * 41 + int(chosen.forwards.sum())

    def test_trace_and_squared_norm_are_unbiased(self):
        """Over 2000 frames of orthonormal probes, and both exact for a full frame."""
        torch.manual_seed(0)
        a = torch.randn(8, 8).double()
        b = a @ a.T
        g = torch.linalg.qr(torch.randn(2000, 8, 5).double())[0]
        trace, _, frobenius, _ = moments(g.mT @ b @ g, 8)
        assert trace.mean().item() == pytest.approx(b.trace().item(), rel=0.03)
        assert frobenius.square().mean().item() == pytest.approx(b.square().sum().item(), rel=0.03)
        full = torch.linalg.qr(torch.randn(8, 8).double())[0]
        trace, trace_error, frobenius, frobenius_error = moments(full.T @ b @ full, 8)
        assert [trace.item(), frobenius.item()] == pytest.approx([b.trace().item(), b.norm().item()])
        assert trace_error == frobenius_error == 0

    def test_little_bias_and_honest_intervals(self):
        """300 seeds on a net of comparable eigenvalues: the plain estimate would be 10 % too large on average."""
        net = BlackBox(asked(small_net(seed=3, inputs=60, classes=7)))
        x = torch.rand(1, 60, generator=torch.Generator().manual_seed(0))
        truth = fv.spectrum(small_net(seed=3, inputs=60, classes=7), x, k=2)
        blocks = [estimate(net, x, 2, vectors=False, probes=20, step=0.01, seed=s) for s in range(300)]
        ratio = torch.cat([b.eigenvalues for b in blocks]) / truth.eigenvalues
        assert ratio[:, 0].mean().item() == pytest.approx(1, abs=0.05)
        hold = torch.cat([covered(b, truth) for b in blocks]).double().mean(0)
        assert (hold > 0.88).all(), hold
        assert sum((b.trace - truth.trace).abs() <= b.trace_error for b in blocks).item() > 0.88 * 300
        assert sum((b.frobenius - truth.frobenius).abs() <= b.frobenius_error for b in blocks).item() > 0.88 * 300

    def test_estimates_do_not_depend_on_the_batch(self):
        box, x = BlackBox(asked(small_net(inputs=50))), torch.rand(4, 50)
        whole, last = estimate(box, x, probes=20), estimate(box, x[3:], probes=20)
        assert torch.allclose(whole.eigenvalues[3], last.eigenvalues[0], rtol=1e-3)
        assert not torch.allclose(frame(x[0], 50, 20, 0)[0], frame(x[1], 50, 20, 0)[0])
        assert not torch.allclose(frame(x[0], 50, 20, 0)[0], frame(x[0], 50, 20, 1)[0])

    def test_eigenvectors_are_projections(self):
        """Cosine √(m/D) with the true one, and along +v the prediction loses."""
        model, x = small_net(inputs=400, classes=2), torch.rand(8, 400)
        block = estimate(BlackBox(asked(model)), x, probes=100)
        truth = fv.spectrum(model, x)
        cosine = (block.eigenvectors * truth.eigenvectors).sum(2)[:, 0]
        assert cosine.mean().item() == pytest.approx(0.5, abs=0.06)
        assert (cosine > 0.3).all()
        assert torch.allclose(block.eigenvectors.norm(dim=2), torch.ones(8, 1), atol=1e-5)

    def test_saturated_predictions_keep_their_digits(self):
        model = small_net(inputs=20, classes=4).double()
        model[-1].weight.data *= 500
        x = torch.rand(6, 20)
        block = estimate(BlackBox(asked(model), precision="float64"), x)
        truth = fv.spectrum(model, x, k=1)
        assert truth.spectral_norm.min() < 1e-20
        assert (block.eigenvalues / truth.eigenvalues - 1).abs().max() < 0.01

    def test_the_step_climbs_over_rounded_outputs(self):
        """Probabilities of four decimals: the first step sees nothing."""
        model, x = nn.Linear(40, 3), torch.rand(6, 40)
        rounded = BlackBox(
            lambda a: np.round(torch.softmax(model(torch.from_numpy(a)).detach().double(), 1).numpy(), 4),
            outputs="probabilities",
        )
        block, truth = estimate(rounded, x), fv.spectrum(model, x, k=1)
        assert (block.eigenvalues / truth.eigenvalues - 1).abs().max() < 0.1
        assert covered(block, truth).all()
        fixed = estimate(rounded, x, step=1e-4)
        assert (fixed.eigenvalues / truth.eigenvalues - 1).abs().min() > 0.5

    def test_a_kink_at_the_input_is_seen(self):
        """Where z = |x₁| both sides average to 0, whatever the step: the error says that nothing is known."""
        box = BlackBox(lambda x: np.stack([np.abs(x[:, 0] - 0.5) + 0.1 * x[:, 1], 0 * x[:, 0]], 1))
        block = estimate(box, torch.tensor([[0.5, 0.2]]))
        assert block.eigenvalues[0, 0] == pytest.approx(0.25 * 0.01, rel=1e-2)
        assert block.error[0, 0] > 0.25

    def test_a_constant_model_has_no_information(self):
        block = estimate(BlackBox(lambda x: np.ones((len(x), 3)) * 2), torch.rand(2, 5), 2)
        assert torch.equal(block.eigenvalues, torch.zeros(2, 2).double())
        assert block.error.isfinite().all()
        assert block.eigenvectors.isfinite().all()

    def test_slopes_are_the_jacobian(self):
        model, x = small_net().double(), torch.rand(6).double()
        net = fv.Classifier(model)
        net.admit(x[None])
        with net.at_rest():
            ask = Differences(net, x)
            slopes, bends = ask.along(torch.eye(6).double(), 1e-4)
        jacobian = torch.func.jacrev(model)(x).detach()
        assert torch.allclose(slopes, ask.factor.from_logits(jacobian[None])[0], atol=1e-7)
        assert bends.abs().max() < 1e-3

    @pytest.mark.parametrize(("options", "message"), [({"probes": 2}, "at least 3"), ({"step": 0.0}, "positive"),
                                                      ({"k": 4, "probes": 3}, "raise probes")])  # fmt: skip
    def test_wrong_options(self, options, message):
        box = BlackBox(asked(small_net(inputs=50)))
        with pytest.raises(ValueError, match=message):
            estimate(box, torch.rand(1, 50), **options)
        assert box.queries == 2


def softened(name, temperature):
    """A network of the zoo that is sure of little, so that few digits show something, with float64 answers."""
    zoo = fv.zoo.load(name)
    net = fv.Classifier(zoo.model, mean=zoo.mean, std=zoo.std, temperature=temperature)
    net.admit(fv.zoo.digits().images[:2])

    def logits(x):
        with net.at_rest(), torch.no_grad():
            return net.logits(torch.from_numpy(np.ascontiguousarray(x)).float()).double().numpy()

    return net, logits


def shares(z):
    odds = np.exp(z - z.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def clipped_shares(z, least=1e-3):
    p = shares(z).clip(least, 1)
    return p / p.sum(1, keepdims=True)


PROBABLE = {"outputs": "probabilities"}
SERVICES = {  # what one does to inputs and to logits; options of the box; how far log λ₁ may be off, if it is shown
    "plain": (lambda x: x, lambda z: z, {}, 0.02),
    "eight bits in": (lambda x: np.round(255 * x) / 255, lambda z: z, {}, 0.25),
    "eight bits": (
        lambda x: np.round(255 * x) / 255,
        lambda z: np.round(255 * shares(z)) / 255,
        PROBABLE,
        None,
    ),
    "four decimals": (lambda x: x, lambda z: shares(z).round(4), PROBABLE, 0.15),
    "three decimals": (lambda x: x, lambda z: shares(z).round(3), PROBABLE, 0.4),
    "two decimals": (lambda x: x, lambda z: shares(z).round(2), PROBABLE, None),
    "logits of one decimal": (lambda x: x, lambda z: z.round(1), {}, None),
    "half precision": (lambda x: x, lambda z: shares(z).astype(np.float16), PROBABLE, 0.2),
    "clipped probabilities": (lambda x: x, clipped_shares, PROBABLE, None),
    "clipped logits": (lambda x: x, lambda z: z.clip(-1, 1), {}, None),
    "answers in steps": (lambda x: np.round(4 * x) / 4, lambda z: z, {}, None),
}


class TestServices:
    """Boxes as services are, against the exact spectrum; each refuses pixels beyond its range."""

    @pytest.mark.filterwarnings("ignore:at .* inputs the answers")
    @pytest.mark.parametrize(("name", "temperature"), [("digits-mlp", 1), ("digits-vgg", 8)])
    @pytest.mark.parametrize("kind", SERVICES)
    def test_intervals_cover_the_exact_value(self, kind, name, temperature):
        before, after, options, off = SERVICES[kind]
        net, logits = softened(name, temperature)

        def service(x):
            if x.min() < 0 or x.max() > 1:
                raise ValueError(f"pixels from {x.min()} to {x.max()}")
            return after(logits(before(x)))

        x = fv.zoo.digits().images[20:24]  # half of their pixels are 0 or 1
        s = fv.spectrum(BlackBox(service, retries=0, **options), x, k=1, vectors=False)
        truth = fv.spectrum(net, x, k=1).spectral_norm
        assert ((s.spectral_norm - truth).abs() <= s.error[:, 0]).all()
        if temperature > 1 and off:
            assert (s.spectral_norm / truth).log().abs().median() < off, s.spectral_norm / truth
        if kind == "answers in steps":
            assert "at 4 of 4 inputs the answers do not change smoothly" in s.reason
            assert (s.error[:, 0] > s.spectral_norm).all()
        if kind == "plain":
            assert "smoothly" not in s.reason
            assert (s.error[:, 0] < 0.1 * s.spectral_norm).all()

    def test_that_answers_go_in_steps_is_said_once(self):
        box = BlackBox(lambda x: 3 * np.round(x[:, :3]))
        with pytest.warns(UserWarning, match="at 2 of 2 inputs the answers of .* do not change smoothly") as told:
            fv.spectrum(box, torch.tensor([[0.6, 0.2, 0.3, 0.5], [0.7, 0.4, 0.8, 0.5]]))
        assert len(told) == 1

    @pytest.mark.parametrize("edge", [0.0, 1.0])
    def test_differences_at_the_edge_are_those_of_the_closed_form(self, edge):
        """All directions of a linear model at a corner of its box: F = Wᵀ(diag p − p pᵀ)W itself."""
        torch.manual_seed(0)
        model, x, sent = nn.Linear(7, 4).double(), torch.full((2, 7), edge).double(), []
        box = BlackBox(lambda v: sent.append((v.min(), v.max())) or asked(model)(v), precision="float64")
        for options in ({}, {"step": 1e-3}):
            s, truth = fv.spectrum(box, x, k=3, **options), fv.spectrum(model, x)
            assert torch.allclose(s.eigenvalues, truth.eigenvalues, rtol=1e-5)
            assert (s.error[:, 0] < 0.02 * s.spectral_norm).all()
        s.walk(), s.view()  # neither asks for more
        assert min(low for low, _ in sent) >= 0
        assert max(high for _, high in sent) <= 1

    def test_curvature_beside_the_edge_is_in_the_error(self):
        """z = 100 x² at x = 0 has no slope; inside it has, and the steps tell."""
        box = BlackBox(lambda x: np.stack([100 * x.sum(1) ** 2, 0 * x[:, 0]], 1))
        s = fv.spectrum(box, torch.zeros(1, 6), step=0.1)
        assert s.error[0, 0] >= s.spectral_norm[0] > 0

    def test_labels_alone_are_refused_with_the_reason(self):
        x = torch.rand(4, 6)
        best = lambda v: np.eye(6)[v.argmax(1)]  # noqa: E731
        for predict, options, said in (
            (best, PROBABLE, "labels alone, 1 for one class and 0 for the others at 12 inputs"),
            (best, {}, "labels alone"),
            (lambda v: v.argmax(1), {}, "one number for each of 2 inputs, .* of class ids alone there is no Fisher"),
            (lambda v: v.argmax(1).tolist(), PROBABLE, "of class ids alone"),
            (lambda v: ["cat"] * len(v), {}, "no array of numbers"),
        ):
            with pytest.raises((ValueError, TypeError), match=said):
                fv.spectrum(BlackBox(predict, **options), x)

    def test_one_sure_answer_is_no_label(self):
        w = 200 * torch.eye(6).double()[:, :3].numpy()
        box = BlackBox(lambda v: shares(v.astype(np.float64) @ w).astype(np.float32), **PROBABLE)
        sure = torch.eye(6)[:1]
        assert box(sure).shape == (1, 3)
        assert box.resolution == 0

    def test_the_digits_of_answers_are_seen(self):
        for places, q in ((2, 0.01), (4, 1e-4)):
            box = BlackBox(lambda v, n=places: shares(v @ np.eye(6)[:, :3]).round(n).astype(np.float32), **PROBABLE)
            box(torch.rand(9, 6))
            assert box.resolution == pytest.approx(q)
            assert box.digit == box.resolution

    def test_answers_of_bfloat16(self):
        box = BlackBox(lambda v: (2 * v).bfloat16(), as_torch=True)
        assert torch.allclose(box(torch.eye(3)), (2 * torch.eye(3).double()).log_softmax(1))
        x = torch.rand(3, 3)
        s, truth = fv.spectrum(box, x, vectors=False), fv.spectrum(fv.Classifier(nn.Identity(), temperature=0.5), x)
        assert ((s.spectral_norm - truth.spectral_norm).abs() <= s.error[:, 0]).all()


class TestRealModels:
    def test_cifar10_resnet20_with_100_probes(self, realdata):
        """The median of estimate/true within 10 % of 1."""
        model = realdata.network("cifar10-resnet20")
        images, _ = realdata.images("cifar10-test", 20)
        block = estimate(BlackBox(asked(model)), images, probes=100)
        truth = fv.spectrum(model, images, k=1)
        assert (block.eigenvalues / truth.eigenvalues).median().item() == pytest.approx(1, abs=0.1)
        assert covered(block, truth).double().mean() >= 0.85
        assert (block.error / block.eigenvalues).median() < 0.5

    @pytest.mark.parametrize("name", ["cifar10-marabou", "cifar10-cnn-robust"])
    def test_networks_that_it_was_not_tuned_on(self, realdata, name):
        model = realdata.network(name)
        images, _ = realdata.images("cifar10-test", 32)
        block = estimate(BlackBox(asked(model)), images, 3, probes=100)
        truth = fv.spectrum(model, images, k=3)
        assert (block.eigenvalues / truth.eigenvalues).median(0).values[0].item() == pytest.approx(1, abs=0.1)
        assert (covered(block, truth).double().mean(0) >= 0.85).all()

    def test_onnx_runtime(self, tmp_path):
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name)
        import onnxruntime

        net = fv.zoo.load("digits-resnet")
        images = fv.zoo.digits().images[:6]
        path = tmp_path / "digits.onnx"
        batch = torch.export.Dim("batch")
        torch.onnx.export(
            net.model, (images[:2],), path, input_names=["x"], dynamic_shapes=({0: batch},), dynamo=True, verbose=False
        )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        box = BlackBox(lambda x: session.run(None, {"x": x}), classes=net.classes)
        truth = fv.spectrum(net, images, k=3)
        everything = estimate(box, images, 3)
        assert (everything.eigenvalues / truth.eigenvalues - 1).abs().max() < 0.02
        assert covered(everything, truth).all()
        assert covered(estimate(box, images, 3, probes=30), truth).double().mean() > 0.8

    def test_scikit_learn_logistic_regression(self):
        """F = Wᵀ(diag p − p pᵀ)W in closed form, from predict_proba alone."""
        from sklearn.datasets import load_digits
        from sklearn.linear_model import LogisticRegression

        data, labels = load_digits(return_X_y=True)
        fitted = LogisticRegression(max_iter=2000, C=0.01).fit(data, labels)
        box = BlackBox(
            fitted.predict_proba,
            outputs="probabilities", input_range=(0, 16), precision="float64", classes=fitted.classes_,
        )  # fmt: skip
        block = estimate(box, data[:5], 3)
        sampled = estimate(box, data[:5], 3, probes=40)
        for i, p in enumerate(fitted.predict_proba(data[:5])):
            fisher = fitted.coef_.T @ (np.diag(p) - np.outer(p, p)) @ fitted.coef_
            expected = torch.tensor(np.linalg.eigvalsh(fisher)[::-1][:3].copy())
            assert torch.allclose(block.eigenvalues[i], expected, rtol=1e-3)
            assert ((block.eigenvalues[i] - expected).abs() <= block.error[i]).all()
            assert ((sampled.eigenvalues[i] - expected).abs() <= sampled.error[i]).sum() >= 2

    def test_scikit_learn_perceptron(self):
        """MLPClassifier has no gradients; the same weights in torch have."""
        from sklearn.datasets import load_digits
        from sklearn.neural_network import MLPClassifier

        data, labels = load_digits(return_X_y=True)
        data = data / 16
        fitted = MLPClassifier((32,), max_iter=30, random_state=0, tol=1.0).fit(data, labels)
        twin = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).double()
        for layer, w, b in zip((twin[0], twin[2]), fitted.coefs_, fitted.intercepts_, strict=True):
            layer.weight.data, layer.bias.data = torch.tensor(w.T), torch.tensor(b)
        box = BlackBox(fitted.predict_proba, outputs="probabilities", precision="float64")
        truth = fv.spectrum(twin, data[:8], k=2)
        block = estimate(box, data[:8], 2)
        assert (block.eigenvalues / truth.eigenvalues - 1).abs().max() < 0.05
        assert covered(block, truth).all()
