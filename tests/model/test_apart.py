"""Copies of models for live views: the user's own is trained on while a view computes, and never notices."""

import copy
import gc
import threading

import pytest
import torch
import traitlets
from torch import nn

import fimviz as fv
from fimviz.model.apart import apart


def network(seed=0):
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten())
    return nn.Sequential(body, nn.Linear(256, 4))


def batch(n=12):
    torch.manual_seed(1)
    return torch.rand(n, 1, 8, 8), torch.arange(n) % 4


def trained(model, steps=4):
    """The weights and buffers after some steps, and whether each counted as one of training."""
    images, labels = batch()
    torch.manual_seed(2)
    optimiser = torch.optim.SGD(model.train().parameters(), 0.05, momentum=0.9)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    assert int(model[0][1].num_batches_tracked) == steps
    return [t.clone() for t in model.state_dict().values()]


def ask_temperature(widget):
    widget.temperature = 2.0


def ask_sample(widget):
    widget._handle_custom_msg({"kind": "compute", "what": "plane", "index": 5}, [])


def ask_path(widget):
    content = {"kind": "trace", "id": 1, "sample": 1, "target": 3, "step": 0.2, "damping": 0.05, "trust_region": 0.1}
    widget._handle_custom_msg(content, [])


@pytest.mark.parametrize("ask", [ask_temperature, ask_sample, ask_path])
def test_training_beside_a_live_view_ends_in_the_same_bits(ask):
    expected, model = trained(network()), network()
    images, labels = batch()
    if ask is ask_path:
        widget = fv.trace_margins(model, images[:2], targets="runner-up", verify=False).widget()
    else:
        widget = fv.explore(model, images, labels, detail=2, include=[]).widget()
    heard, reached, go_on, ticker = [], threading.Event(), threading.Event(), widget._ticker

    def held(*given):
        tick = ticker(*given)

        def within(done, total):  # the view is in the middle of its work until the training is over
            reached.set()
            assert go_on.wait(60)
            tick(done, total)

        return within

    widget._ticker, widget.send = held, lambda content, buffers=None: heard.append(content["kind"])
    model.train()  # as the cell before the training leaves it
    ask(widget)
    assert reached.wait(60)
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    found = trained(model)
    go_on.set()
    assert widget.wait(60)
    assert heard[-1] in ("done", "traced")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    widget.close()


def test_answers_belong_to_the_model_that_is_shown():
    model = network()
    images, labels = batch()
    widget = fv.explore(model, images, labels, detail=2, include=[]).widget()
    before = copy.deepcopy(model)
    trained(model)
    widget.temperature = 2.0
    assert widget.wait(60)
    expected = fv.spectrum(fv.Classifier(before, temperature=2.0), images).spectral_norm
    torch.testing.assert_close(widget.source.first.spectrum.spectral_norm, expected, rtol=1e-5, atol=0)


class Locked(nn.Module):
    def __init__(self):
        super().__init__()
        self.own, self.lock = network(), threading.Lock()

    def forward(self, x):
        with self.lock:
            return self.own(x)


class Reaching(nn.Module):
    """Its forward runs through a function, which a copy would share with it."""

    def __init__(self):
        super().__init__()
        self.own = network()
        self.through = lambda x: self.own(x)

    def forward(self, x):
        return self.through(x)


def hooked():
    model = network()
    model.register_forward_hook(lambda module, x, out: out + 0 * model[1].bias.sum())
    return model


@pytest.mark.parametrize(
    ("make", "words"), [(Locked, "cannot pickle"), (Reaching, "through Reaching.__init__"), (hooked, "through hooked")]
)
def test_a_model_that_cannot_be_copied_is_left_alone(make, words):
    images, labels = batch()
    found = fv.explore(make(), images, labels, detail=2, include=[])
    widget, heard = found.widget(), []
    assert not widget.live
    assert words in widget.refused
    widget.send = lambda content, buffers=None: heard.append(content)
    with pytest.raises(traitlets.TraitError, match=r"cannot be copied|would run"):
        widget.temperature = 2.0
    assert widget.temperature == 1.0
    widget._handle_custom_msg({"kind": "compute", "what": "plane", "index": 5}, [])
    assert [(m["kind"], words in m["message"]) for m in heard] == [("failed", True)]
    with pytest.raises(traitlets.TraitError, match="cannot be changed"):
        widget.live = True
    paths = fv.trace_margins(make(), images[:1], targets=[3], verify=False).widget()
    assert words in paths.refused


def test_what_a_forward_pass_left_behind_is_copied_too():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    model.kept = {"last": [model(torch.rand(2, 1, 8, 8))]}  # no leaf, which deepcopy alone refuses
    twin = apart(model)
    assert torch.equal(twin.kept["last"][0], model.kept["last"][0])
    assert twin.kept["last"][0].is_leaf


def test_tied_weights_stay_tied_and_nothing_is_shared():
    first = nn.Linear(8, 8)
    model = nn.Sequential(first, nn.ReLU(), first)
    twin = apart(model)
    assert twin[0] is twin[2]
    assert not {t.data_ptr() for t in twin.parameters()} & {t.data_ptr() for t in model.parameters()}


def test_one_copy_serves_all_views_until_the_model_changes():
    model = network()
    kept = apart(model)
    assert apart(model) is kept
    with torch.no_grad():
        model[1].bias.add_(1)
    assert not torch.equal(kept[1].bias, model[1].bias)
    assert apart(model) is not kept
    images, labels = batch()
    found = fv.explore(model, images, labels, detail=2, include=[])
    one, two = found.widget(), found.widget()
    twin = one.source.first.spectrum.net.model
    assert twin is two.source.first.spectrum.net.model is one.source.first.detail.spectrum.net.model
    assert twin is not model
    del kept
    gc.collect()
    assert found.first.spectrum.net.model is model, "the result keeps the user's own"


def test_what_is_written_past_versions_makes_another_copy():
    model = network()
    kept = apart(model)
    assert apart(model) is kept
    model[1].weight.data[0, 0] += 1.0
    assert apart(model) is not kept


def test_paths_of_weights_that_changed_are_not_traced_again():
    model = network()
    images, _ = batch()
    traces = fv.trace_margins(model, images[:2], targets="runner-up", verify=False)
    model[1].weight.data.mul_(1.5)
    widget = traces.widget()
    assert not widget.live
    assert "no longer those" in widget.refused


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.module = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        t = x.flatten(1).unflatten(1, (8, 8))
        t = t + self.module(t, t, t, need_weights=False)[0]
        return self.head((t + nn.functional.scaled_dot_product_attention(t, t, t)).mean(1))


def test_a_live_view_leaves_the_switches_of_the_process_alone():
    torch.manual_seed(0)
    model, (images, labels) = Attending(), batch()
    found = fv.explore(model, images, labels, detail=2, include=[], method="lanczos")
    expected = fv.spectrum(fv.Classifier(model, temperature=2.0), images, k=1, method="lanczos").spectral_norm
    widget, seen = found.widget(), set()
    switches = torch.backends.cuda.flash_sdp_enabled, torch.backends.mha.get_fastpath_enabled
    before, ticker = [on() for on in switches], widget._ticker

    def told(*given):
        tick = ticker(*given)

        def within(done, total):
            seen.add(threading.current_thread() is threading.main_thread())
            assert [on() for on in switches] == before
            tick(done, total)

        return within

    widget._ticker = told
    sent = []
    widget.send = lambda content, buffers=None: sent.append(content)
    widget.temperature = 2.0
    assert widget.wait(60)
    assert not [m for m in sent if m["kind"] == "failed"]
    assert seen == {False}
    torch.testing.assert_close(widget.source.first.spectrum.spectral_norm, expected, rtol=1e-6, atol=0)
    widget.close()
