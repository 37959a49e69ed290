"""Networks that do not react, or hardly: every view of every result is drawn, with strict JSON in it."""

import base64
import json
import warnings
import zlib

import pytest
import torch
from torch import nn

import fimviz as fv


def linear(classes, *, scale=1.0, weight=1.0):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, classes)).eval()
    net[1].weight.data *= scale * weight
    net[1].bias.data *= scale
    return net


def dead():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Threshold(1e3, 0.0), nn.Linear(4, 3)).eval()


def binary():
    return fv.Classifier(linear(1, weight=0), likelihood="bernoulli")


def labels(net, count, kind="in turn"):
    said = net(torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))).argmax(1)
    classes = len(net.classes)
    return {"in turn": torch.arange(count) % classes, "wrong": (said + 1) % classes, "one": torch.zeros(count).long()}[
        kind
    ]


NETWORKS = {
    "constant, 3 classes": (lambda: linear(3, weight=0), "in turn"),
    "constant, 2 classes": (lambda: linear(2, weight=0), "in turn"),
    "one sigmoid": (binary, "in turn"),
    "a tie": (lambda: linear(3, scale=0.0), "in turn"),
    "saturated": (lambda: linear(3, scale=1e4), "in turn"),
    "far beyond": (lambda: linear(3, scale=1e7), "wrong"),
    "dead": (dead, "one"),
    "wrong": (lambda: linear(3), "wrong"),
}
PARTS = ["plane", "radius", "bounds", "attacks", "margins", "attributions"]
RESULTS = {
    "spectrum": lambda net, x, y: fv.spectrum(net, x, labels=y),
    "power": lambda net, x, y: fv.spectrum(net, x, labels=y, method="power", max_steps=3),
    "blackbox": lambda net, x, y: fv.spectrum(net, x, method="blackbox", probes=4),
    "bounds": lambda net, x, y: fv.compare_bounds(net, x, probes=4),
    "explore": lambda net, x, y: fv.explore(net, x, y, include=PARTS),
    "two models": lambda net, x, y: fv.explore({"a": net, "b": net}, x, y),
    "vulnerability": lambda net, x, y: fv.vulnerability(net, x, y, halvings=1, steps=2, norm="both"),
    "distance": lambda net, x, y: fv.adversarial_distance(net, x, y, steps=2, restarts=1),
    "attributions": lambda net, x, y: fv.attributions(net, x, methods=["Saliency"]),
    "margins": lambda net, x, y: fv.trace_margins(net, x, y, max_steps=22),
    "curve": lambda net, x, y: fv.shielding_curve(net, x, y, max_steps=3, dampings=[0.1, 1.0], resamples=5),
    "cckl": lambda net, x, y: fv.cckl(net, x, y),
    "local": lambda net, x, y: fv.local_accuracy(net, x, y, epsilons=[0.01, 0.02]),
    "reconstruction": lambda net, x, y: fv.reconstruction(fv.spectrum(net, x)),
    "models": lambda net, x, y: fv.compare_models({"a": net, "b": net}, x, y, attack_steps=2),
    "monitor": lambda net, x, y: history(net, x, y),
}


def history(net, x, y):
    monitor = fv.FisherMonitor(net, x, y)
    monitor.record(0)
    return monitor.history


def strict(text):
    """JSON without the NaN and Infinity that Python reads and browsers do not."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in a payload"))


def check(result):
    """Its page, text, frame and figure; the page's data."""
    view = result.view()
    page = view.html()
    content = page.split('<script type="application/json">')[1].split("</script>")[0]
    state = strict(content)["state"]
    raw = zlib.decompress(base64.b64decode(state["payload"]))
    size = int.from_bytes(raw[:4], "little")
    strict(raw[4 : 4 + size])
    still = page.split("</style>", 1)[1].split("<script", 1)[0]
    assert not any(word in still.replace(">", " ").replace("<", " ").split() for word in ("nan", "inf", "-inf"))
    assert " nan" not in repr(result)
    result.frame  # noqa: B018
    strict(result.plot().to_json())
    return state


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_view_is_drawn(network, result):
    torch.manual_seed(0)
    make, kind = NETWORKS[network]
    net = make() if isinstance(make(), fv.Classifier) else fv.Classifier(make())
    x = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = labels(net, 3, kind)
    if result in ("cckl", "monitor") and len(y.unique()) < 2:
        pytest.skip("needs two classes, and says so")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*do not change smoothly")  # as is true of answers that never change
        check(RESULTS[result](net, x, y))


@pytest.mark.parametrize("result", [name for name in RESULTS if name not in ("cckl", "monitor")])
def test_one_sample(result):
    net = fv.Classifier(linear(2, weight=0))
    check(RESULTS[result](net, torch.rand(1, 1, 4, 4), labels(net, 1)))


def test_several_yes_or_no_labels():
    net = fv.Classifier(linear(3, weight=0), likelihood="bernoulli")
    x, y = torch.rand(3, 1, 4, 4), torch.eye(3).long()
    for name in ("spectrum", "power", "bounds", "two models", "vulnerability", "distance", "reconstruction"):
        check(RESULTS[name](net, x, y))


def test_words_for_what_does_not_react():
    net = fv.Classifier(linear(3, weight=0))
    x = torch.rand(3, 1, 4, 4)
    local = fv.local_accuracy(net, x, labels(net, 3), epsilons=[0.01])
    assert "moves the prediction: KL is 0" in local.view().still
    assert "can be compared, one of them being 0 everywhere" in fv.attributions(net, x, methods=["Saliency"]).verdict
