"""Every trait of every live view: what the page cannot show is refused, or becomes the nearest that it can."""

import pytest
import torch
import traitlets

import fimviz as fv
from tests.explorer.test_explorer import batch, model

LABELS = torch.arange(6) % 4


@pytest.fixture(scope="module")
def widgets():
    """The live view of one small result of each kind, by name."""
    images, _ = batch(n=6)
    net = fv.Classifier(model())
    results = {
        "spectrum": fv.spectrum(net, images, k=2, labels=LABELS),
        "bounds": fv.compare_bounds(net, images[:2], methods=("exact", "L6")),
        "vulnerability": fv.vulnerability(net, images, LABELS, norm=["l2", "linf"], halvings=2),
        "distance": fv.adversarial_distance(net, images[:2], LABELS[:2], method="norms", steps=2),
        "attributions": fv.attributions(net, images[:2], methods=("Saliency",)),
        "reconstruction": fv.reconstruction(fv.spectrum(net, images[:2], k=3)),
        "local accuracy": fv.local_accuracy(net, images[:2], LABELS[:2], epsilons=[0.01, 0.1]),
        "cckl": fv.cckl(net, images, LABELS),
        "margins": fv.trace_margins(net, images[:2], targets="runner-up", verify=False),
        "explorer": fv.explore(net, images, LABELS, detail=2, include=[]),
    }
    return {name: result.widget() for name, result in results.items()}


WRONG = {
    "spectrum": {"index": 99, "direction": 9, "epsilon": float("nan")},
    "bounds": {"index": 99, "method": "soup"},
    "vulnerability": {"norm": "l7", "predictor": "soup", "budget": float("nan")},
    "distance": {"model": "soup", "epsilon": float("nan"), "order": "soup", "sample": 2},
    "attributions": {"sample": 2},
    "reconstruction": {"sample": -1, "draws": float("nan")},
    "local accuracy": {"position": 2},
    "cckl": {"pair": 10**6, "quantity": "soup", "steps": 7},
    "margins": {"trace": 99, "target": 99, "step": 0.0, "damping": -1.0, "trust_region": float("inf"), "live": False},
    "explorer": {"index": 99, "selected": [99], "show": "soup", "against": "soup", "color": "soup", "sort": "soup",
                 "tab": "soup", "temperature": -1.0, "directions": 0, "direction": 9, "epsilon": float("nan"),
                 "norm": "soup", "live": False, "refused": "so"},
}  # fmt: skip
BEYOND = {
    "spectrum": {"epsilon": 1e9},
    "vulnerability": {"budget": 1e9},
    "distance": {"epsilon": 1e9},
    "reconstruction": {"draws": 1e12},
    "cckl": {"position": 10**6},
    "margins": {"position": 1e9},
    "explorer": {"epsilon": 1e9},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_shown_is_refused(widgets, name):
    widget = widgets[name]
    for trait, wrong in WRONG[name].items():
        before = getattr(widget, trait)
        with pytest.raises(traitlets.TraitError, match=trait):
            setattr(widget, trait, wrong)
        assert getattr(widget, trait) == before


@pytest.mark.parametrize("name", BEYOND)
def test_what_lies_beyond_becomes_the_end(widgets, name):
    widget = widgets[name]
    for trait, far in BEYOND[name].items():
        setattr(widget, trait, far)
        end = getattr(widget, trait)
        assert 0 < end < far
        setattr(widget, trait, type(far)(2 * end))
        assert getattr(widget, trait) == end


def test_every_trait_is_tried_here_and_says_what_it_is(widgets):
    common = set(fv.spectrum(model(), torch.rand(1, 1, 8, 8)).widget().trait_names(sync=True)) - {*WRONG["spectrum"]}
    for name, widget in widgets.items():
        own = {t: v for t, v in widget.traits(sync=True).items() if t not in common}
        assert all(v.help for v in own.values())
        free = {t for t, v in own.items() if isinstance(v, traitlets.Bool)} | {"refused"}  # which have no wrong value
        assert set(own) - free <= {*WRONG[name], *BEYOND.get(name, ())}


def test_a_budget_is_within_its_norm(widgets):
    widget = widgets["vulnerability"]
    widget.norm, widget.budget = "l2", 1e9
    most = widget.budget
    widget.norm = "linf"
    assert widget.budget < most


def test_a_step_is_one_of_the_records():
    torch.manual_seed(0)
    monitor = fv.FisherMonitor(model(), torch.rand(4, 1, 8, 8), LABELS[:4], every=10)
    widget = monitor.widget()
    for step in (0, 10, 20):
        monitor(step)
    for given, taken in ((17, 10), (10**6, 20), (-5, -1), (0, 0)):
        widget.step = given
        assert widget.step == taken
