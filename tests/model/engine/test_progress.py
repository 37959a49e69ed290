"""A bar's share is time: on a clock that the test moves, and on one that counts what the model was asked."""

import pytest

import fimviz as fv
from fimviz.model.engine.progress import Stages


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def run(true, forecast, pieces=10):
    """The share that a bar tells and that of time, at every report of stages of these true and forecast costs."""
    clock, told = Clock(), []
    bar = Stages(lambda done, total: told.append((clock.now, done / total)), forecast, total=1000, clock=clock)
    for _, cost in true:
        tick = bar.next()
        for i in range(pieces):
            clock.now += cost / pieces
            tick(i + 1, pieces)
    bar.end()
    return [(now / clock.now, share) for now, share in told]


def test_right_forecasts_give_the_share_of_time():
    costs = [("a", 5.0), ("b", 100.0), ("a", 5.0), ("c", 20.0)]
    told = run(costs, [(kind, 7 * cost) for kind, cost in costs])
    assert max(abs(time - share) for time, share in told) < 0.01
    assert told[-1] == (1.0, 1.0)
    assert [s for _, s in told] == sorted(s for _, s in told)


def test_a_wrong_forecast_is_mended_by_what_was_measured():
    true = [("a", 10.0), ("b", 40.0), ("a", 10.0), ("b", 40.0)]
    told = run(true, [("a", 10.0), ("b", 80.0), ("a", 10.0), ("b", 80.0)])
    assert max(abs(time - share) for time, share in told) < 0.15
    late = [abs(time - share) for time, share in told if time > 0.5]
    assert max(late) < 0.01, "once the first of each kind is done, the second is known"


def passes_clock(net, monkeypatch):
    """A clock that counts the passes of a network; one back takes as long as two forward."""
    clock = Clock()

    def asked(module, inputs, output):
        clock.now += len(output)
        if output.requires_grad:
            output.register_hook(lambda g: setattr(clock, "now", clock.now + 2 * len(output)))

    net.model.register_forward_hook(asked)
    monkeypatch.setitem(Stages.__init__.__kwdefaults__, "clock", clock)
    return clock


def furthest(call, clock):
    """How far a bar's share is from that of time at most, over all reports of a call."""
    start, told = clock.now, []
    call(lambda done, total: told.append((clock.now - start, done / total)))
    whole = clock.now - start
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    return max(abs(now / whole - share) for now, share in told)


FEW = ("exact", "power", "blackbox", "L2")
BARS = {
    "bounds": lambda net, x, y, bar: fv.compare_bounds(net, x, methods=FEW, progress=bar),
    "radius": lambda net, x, y, bar: fv.certified_radius(net, x, method="norms", progress=bar),
    "vulnerability": lambda net, x, y, bar: fv.vulnerability(net, x, y, progress=bar),
    "attributions": lambda net, x, y, bar: fv.attributions(net, x, progress=bar),
    "cckl": lambda net, x, y, bar: fv.cckl(net, x, y, progress=bar),
    "local": lambda net, x, y, bar: fv.local_accuracy(net, x, y, progress=bar),
    "models": lambda net, x, y, bar: fv.compare_models({"a": net, "b": net}, x, y, progress=bar),
    "distance": lambda net, x, y, bar: fv.adversarial_distance(
        {"a": net, "b": net}, x, y, method="norms", steps=10, progress=bar
    ),
    "paths": lambda net, x, y, bar: fv.trace_margins(net, x[:4], progress=bar),
    "retried": lambda net, x, y, bar: fv.trace_margins(net, x[:4], max_steps=4, progress=bar),
}


@pytest.mark.parametrize("name", BARS)
def test_every_bar_is_the_time_that_the_model_takes(name, monkeypatch):
    net = fv.zoo.load("digits-mlp")
    images, labels = (t[:16] for t in fv.zoo.digits())
    net(images[:2])
    clock = passes_clock(net, monkeypatch)
    assert furthest(lambda bar: BARS[name](net, images, labels, bar), clock) < (0.3 if name == "retried" else 0.15)


@pytest.mark.parametrize("include", [["plane"], ["plane", "bounds", "margins"], ["plane", "attacks"]])
def test_the_explorers_bar_is_the_time_that_the_model_takes(monkeypatch, include):
    net = fv.zoo.load("digits-mlp")
    images, labels = (t[:16] for t in fv.zoo.digits())
    net(images[:2])
    clock = passes_clock(net, monkeypatch)
    off = furthest(lambda bar: fv.explore(net, images, labels, detail=8, include=include, progress=bar), clock)
    assert off < 0.15
