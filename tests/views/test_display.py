"""Showing a result computes nothing: whatever a view needs of the model is asked for in the call."""

import pytest
import torch

import fimviz as fv
from tests.explorer.test_explorer import batch, model

LABELS = torch.arange(6) % 4


def made(net, images):
    """Results of every kind that asks a model."""
    yield fv.compare_bounds(net, images[:2], methods=("exact", "lanczos", "L6"))
    yield fv.vulnerability(net, images, LABELS, halvings=2)
    yield fv.adversarial_distance({"a": net, "b": net}, images, LABELS, method="norms", steps=2)
    yield fv.attributions(net, images[:2], methods=("Saliency",))
    yield fv.reconstruction(fv.spectrum(net, images[:2], k=3))
    yield fv.local_accuracy(net, images[:2], LABELS[:2], epsilons=[0.01, 0.1])
    yield fv.compare_models({"a": net, "b": fv.Classifier(net.model, temperature=2.0)}, images, LABELS, attack_steps=1)
    traces = fv.trace_margins(net, images[:2], LABELS[:2], targets="runner-up", verify=False)
    yield traces
    yield traces.shielding()
    yield fv.shielding_curve(net, images[:2], LABELS[:2], dampings=[0.1, 1.0])
    parts = ["plane", "radius", "bounds", "attacks", "margins", "attributions"]
    yield fv.explore(net, images, LABELS, detail=3, include=parts)
    # Numbers first, in loops too: their first view computes what it draws, and keeps it.
    for numbers in (fv.spectrum(net, images, labels=LABELS), fv.cckl(net, images, LABELS)):
        numbers.view()
        yield numbers


@pytest.fixture(scope="module")
def counted():
    asked = [0]
    net = fv.Classifier(model())
    net.model[1].register_forward_hook(lambda *given: asked.__setitem__(0, asked[0] + 1))
    return asked, net


def test_showing_a_result_asks_the_model_nothing(counted):
    asked, net = counted
    images, _ = batch(n=6)
    for result in made(net, images):
        before = asked[0]
        for show in (
            result._repr_mimebundle_,
            lambda r=result: r.view().html() if hasattr(r, "view") else "",
            lambda r=result: r.widget() if hasattr(r, "widget") else "",
            lambda r=result: r.frame if hasattr(r, "frame") else "",
            lambda r=result: r.plot() if hasattr(r, "plot") else "",
            lambda r=result: repr(r),
        ):
            show()
            assert asked[0] == before, f"{type(result).__name__} asked the model while it was shown"
