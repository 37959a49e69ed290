"""The loop that long computations share: parts that fit, what an interrupt leaves, and one word on memory."""

import inspect

import pytest
import torch
from torch import nn

import fimviz as fv
from fimviz.model.engine.parts import Work, answers, by_rows, in_parts
from fimviz.model.engine.plan import footprint
from fimviz.model.failures import NonFiniteError

# Doors that only read, wrap or load, or take small networks alone.
SHORT = ("from_timm", "from_torchvision", "from_transformers", "playground", "reconstruction")


def scarce(most):
    """Compute that has room for so many places at a time, and the sizes that it was asked for."""
    sizes = []

    def compute(places):
        sizes.append(len(places))
        if len(places) > most:
            raise torch.OutOfMemoryError("feigned")
        return [place * place for place in places]

    return compute, sizes


class TestParts:
    def test_all_in_order(self):
        compute, sizes = scarce(9)
        assert list(in_parts(range(5), 2, compute)) == [([0, 1], [0, 1]), ([2, 3], [4, 9]), ([4], [16])]
        assert sizes == [2, 2, 1]

    def test_half_as_many_where_memory_runs_out_and_from_then_on(self):
        compute, sizes = scarce(3)
        assert [place for places, _ in in_parts(range(9), 9, compute) for place in places] == list(range(9))
        assert sizes == [9, 5, 3, 3, 3]

    def test_one_that_does_not_fit(self):
        with pytest.raises(torch.OutOfMemoryError):
            list(in_parts(range(4), 4, scarce(0)[0]))

    def test_cotangents_are_halved_too(self):
        seen = []

        def compute(places, cotangents):
            seen.append((len(places), cotangents))
            if len(places) * cotangents > 3:
                raise torch.OutOfMemoryError("feigned")
            return 0

        assert len(list(by_rows(range(2), 2, 8, compute))) == 2
        assert seen == [(2, 8), (1, 4), (1, 2), (1, 2)]

    def test_what_is_not_finite_is_left_out(self):
        work = Work(5, errors="mark")

        def compute(places, _):
            if 3 in places:
                raise NonFiniteError("no number", [places.index(3)])
            return places

        assert [places for places, _ in work.parts(2, 1, compute)] == [[0, 1], [2, 4]]
        assert (work.done, work.failures) == (5, {3: "no number"})


class TestWork:
    def test_an_interrupt_leaves_what_is_complete(self):
        def compute(places, _):
            if 4 in places:
                raise KeyboardInterrupt
            return places

        with Work(6) as work:
            for _ in work.parts(2, 1, compute):
                pass
        assert (work.done, work.stopped) == (4, "interrupted")

    @pytest.mark.parametrize("anyway", [False, True])
    def test_before_anything_is_complete(self, anyway):
        def stop():
            with Work(6, anyway=anyway) as work:
                raise KeyboardInterrupt
            return work.stopped

        if anyway:
            assert stop() == "interrupted"
        else:
            with pytest.raises(KeyboardInterrupt):
                stop()

    def test_a_budget_that_is_used_up_says_so_and_other_errors_pass(self):
        with Work(2) as work:
            work.reached(1)
            raise fv.BudgetExceeded("no more questions")
        assert work.stopped == "no more questions"
        work.stopped = ""
        assert not work.__exit__(ValueError, ValueError("another"), None)
        assert not work.stopped


class Small(nn.Module):
    """A network for which memory runs out beyond so many images at a time, if it is told to."""

    most = 10**9

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 5))

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("feigned")
        return self.body(x)


DOORS = {
    "spectrum": lambda net, x, y: fv.spectrum(net, x).eigenvalues,
    "questions": lambda net, x, y: fv.spectrum(net, x[:2], method="blackbox", probes=10).eigenvalues,
    "bounds": lambda net, x, y: torch.tensor(
        fv.compare_bounds(net, x, methods=["L1", "L3", "lower-pair", "hutchinson-trace"]).frame.value
    ),
    "radius": lambda net, x, y: fv.certified_radius(net, x, steps=3).attack,
    "paths": lambda net, x, y: fv.trace_margins(net, x, verify=False, keep_images=False).length,
    "cckl": lambda net, x, y: fv.cckl(net, x, y).g1,
    "local": lambda net, x, y: fv.local_accuracy(net, x, y, epsilons=[0.01], directions=["worst", "fgsm"]).kl,
    "vulnerability": lambda net, x, y: fv.vulnerability(net, x, y, attacks=["fgsm", "pgd"], steps=3).epsilon,
    "models": lambda net, x, y: torch.tensor(
        fv.compare_models({"a": net, "b": net}, x, y, attack_steps=2).frame.spectral_norm
    ),
    "explore": lambda net, x, y: fv.explore(net, x, y, detail=2, include=["radius"]).first.spectrum.spectral_norm,
    "attributions": lambda net, x, y: fv.attributions(net, x, methods=["Saliency"]).maps,
    "attack": lambda net, x, y: fv.attacks.fgsm(net, x, y, 0.1),
    "answers": lambda net, x, y: answers(net, x),
}


@pytest.mark.parametrize("door", DOORS)
def test_memory_that_runs_out_changes_no_result(door):
    x, y = torch.rand(9, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 5
    net = fv.Classifier(Small().double())
    x = net.admit(x.double())
    whole = DOORS[door](net, x, y)
    net.model.most = 5
    torch.testing.assert_close(DOORS[door](net, x, y), whole, rtol=1e-6, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("grad", [True, False])
def test_what_a_pass_keeps_is_the_same_wherever_it_is_asked_for(grad):
    net, x = fv.Classifier(Small()), torch.rand(2, 1, 4, 4)
    net.model.train()
    with torch.set_grad_enabled(grad):
        answers(net, net.admit(x))
        kept, largest, *_ = footprint(net, x[:1])
    assert net.model.training
    assert (kept, largest) == (4 * (16 + 12 + 1), 4 * 16)  # the input, what tanh gave and the temperature


def test_the_multiplications_of_a_pass_are_counted():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(4, 6, 3, groups=2),
        torch.nn.Flatten(1),
        torch.nn.Linear(96, 5),
        torch.nn.Linear(5, 3, bias=False),
    )
    net, x = fv.Classifier(net), torch.rand(2, 4, 6, 6)
    answers(net, net.admit(x))
    *_, count = footprint(net, x[:1])
    assert count == 6 * 16 * 2 * 9 + 96 * 5 + 5 * 3


DOORS_OF = {
    **{name: getattr(fv, name) for name in fv.__all__ if inspect.isfunction(getattr(fv, name)) and name not in SHORT},
    **{f"attacks.{name}": getattr(fv.attacks, name) for name in fv.attacks.__all__},
}


@pytest.mark.parametrize("name", DOORS_OF)
def test_every_door_takes_progress_and_max_memory_alike(name):
    options = inspect.signature(DOORS_OF[name]).parameters
    assert (options["max_memory"].annotation, options["max_memory"].default) == ("float | None", None)
    assert (options["progress"].annotation, options["progress"].default) == (
        "bool | Callable[[int, int], None]",
        False,
    )
    assert options["progress"].kind == options["max_memory"].kind == inspect.Parameter.KEYWORD_ONLY


CALLS = {
    "spectrum": lambda x, y, o: fv.spectrum(Small(), x, **o),
    "compare_bounds": lambda x, y, o: fv.compare_bounds(Small(), x, **o),
    "certified_radius": lambda x, y, o: fv.certified_radius(Small(), x, **o),
    "trace_margins": lambda x, y, o: fv.trace_margins(Small(), x, **o),
    "shielding_curve": lambda x, y, o: fv.shielding_curve(Small(), x, **o),
    "cckl": lambda x, y, o: fv.cckl(Small(), x, y, **o),
    "local_accuracy": lambda x, y, o: fv.local_accuracy(Small(), x, y, **o),
    "vulnerability": lambda x, y, o: fv.vulnerability(Small(), x, y, **o),
    "explore": lambda x, y, o: fv.explore(Small(), x, y, **o),
    "compare_models": lambda x, y, o: fv.compare_models({"a": Small(), "b": Small()}, x, y, **o),
    "attributions": lambda x, y, o: fv.attributions(Small(), x, **o),
    "pgd": lambda x, y, o: fv.attacks.pgd(Small(), x, y, 0.1, **o),
}


@pytest.mark.parametrize("name", CALLS)
def test_too_little_memory_is_one_sentence(name):
    x, y = torch.rand(4, 1, 4, 4), torch.arange(4)
    with pytest.raises(MemoryError, match=r"at least .* are needed, for .*, and 10 B may be taken: .* max_memory= or "):
        CALLS[name](x, y, {"max_memory": 10})
    with pytest.raises(ValueError, match="max_memory is 0, expected a number of bytes"):
        CALLS[name](x, y, {"max_memory": 0})
    with pytest.raises(TypeError, match="progress is 'yes', expected True or False"):
        CALLS[name](x, y, {"progress": "yes"})
