"""A training run with fimviz between its steps ends in the bits of one without, whatever its layers do on the way."""

import contextlib
import functools
import warnings
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import fimviz as fv

STEPS = 3


class Merging(nn.Module):
    """A low-rank part that is folded into the weight on eval() and taken out on train()."""

    def __init__(self):
        super().__init__()
        self.merged = False
        self.w, self.a, self.b = (nn.Parameter(torch.randn(*s) / 8) for s in ((8, 64), (8, 2), (2, 64)))
        self.w.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.w.data += (-1 if mode else 1) * (self.a @ self.b).data
            self.merged = not mode
        return self

    def forward(self, x):
        return x @ self.w.T if self.merged else x @ self.w.T + (x @ self.b.T) @ self.a.T


class MergingOnEval(Merging):
    """The same by an `eval` of its own, and with a count of what was folded."""

    folds = 0

    def eval(self):
        self.folds += 1
        return super().eval()


class Cached(nn.Module):
    """Attention that keeps its biases in evaluation mode, as LeViT's, until it is trained again."""

    def __init__(self):
        super().__init__()
        self.lin, self.bias = nn.Linear(64, 8), nn.Parameter(torch.randn(3, 8))
        self.register_buffer("places", torch.arange(8) % 3)
        self.cache = {}

    def train(self, mode=True):
        super().train(mode)
        if mode and self.cache:
            self.cache = {}
        return self

    def biases(self, x):
        if self.training:
            return self.bias[self.places].sum(1)
        if str(x.device) not in self.cache:
            self.cache[str(x.device)] = self.bias[self.places].sum(1)
        return self.cache[str(x.device)]

    def forward(self, x):
        return self.lin(x) + self.biases(x)


class Grid(nn.Module):
    """A table by the size of the batch, of the precision and for the modes in which it was first wanted."""

    tables: ClassVar = {}

    def __init__(self):
        super().__init__()
        self.lin, self.grid, self.pair = nn.Linear(64, 8), None, (torch.zeros(8), "kept")

    def forward(self, x):
        if self.grid is None or len(self.grid) != len(x):
            self.grid = torch.linspace(0, 1, 8, dtype=x.dtype).repeat(len(x), 1)
        if len(x) not in self.tables:
            self.tables[len(x)] = [torch.ones(8, dtype=x.dtype)]
        self.pair = (self.pair[0].to(x.dtype), "kept")
        return self.lin(x) + self.grid + self.tables[len(x)][0] + self.pair[0]


@functools.lru_cache
def angles(count):
    return torch.arange(count) * scale[0]


scale = [None]


class Remembered(nn.Module):
    """A table that functools keeps, of whatever precision the weights have at that moment."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(64, 8)
        self.register_buffer("scale", torch.ones(1))
        angles.cache_clear()

    @functools.lru_cache  # noqa: B019
    def table(self, count):
        return torch.arange(count) * self.scale

    def forward(self, x):
        scale[0] = self.scale
        return self.lin(x) + self.table(8) + angles(8)


class Renormed(nn.Module):
    """A weight that every pass brings back to a largest norm, as EEGNet's, by another memory or in place."""

    def __init__(self, in_place):
        super().__init__()
        self.lin, self.in_place = nn.Linear(64, 8), in_place

    def forward(self, x):
        bounded = torch.renorm(self.lin.weight.data, 2, 0, 0.5 + 0.01 * self.training)
        if self.in_place:
            self.lin.weight.data.copy_(bounded)
        else:
            self.lin.weight.data = bounded
        return self.lin(x)


class Helper:
    def __init__(self):
        self.last, self.seen = torch.zeros(8), []


class Counting(nn.Module):
    """States in plain attributes, in an object beside, and in a list of layers that is not registered."""

    def __init__(self):
        super().__init__()
        self.lin, self.calls, self.helper, self.mean = nn.Linear(64, 8), 0, Helper(), torch.zeros(8)
        self.layers = [nn.BatchNorm1d(8)]
        self.register_forward_hook(lambda m, given, out: setattr(m, "activation", out.detach()))

    def forward(self, x):
        self.calls += 1
        z = self.lin(x)
        self.helper.last = z.detach()[0]
        self.helper.seen.append(self.calls)
        self.mean.data.mul_(0.9).add_(0.1)
        return z + (0.0 if not self.training else self.mean * 0.01)


class FrozenNorm(nn.Module):
    """Normalisation that stays in evaluation mode in training."""

    def __init__(self):
        super().__init__()
        self.lin, self.norm = nn.Linear(64, 8), nn.BatchNorm1d(8)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(self.lin(x))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(8, 8, batch_first=True)

    def forward(self, x):
        return self.rnn(x.view(-1, 8, 8))[0][:, -1]


def old(wrap):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return wrap(nn.Linear(64, 8))


LAYERS = {
    "merging": Merging,
    "merging on eval": MergingOnEval,
    "cached biases": Cached,
    "grid": Grid,
    "lru_cache": Remembered,
    "data replaced": lambda: Renormed(False),
    "weights written": lambda: Renormed(True),
    "states": Counting,
    "frozen norm": FrozenNorm,
    "norm": lambda: nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8)),
    "dropout": lambda: nn.Sequential(nn.Linear(64, 8), nn.Dropout()),
    "recurrent": Recurrent,
    "householder": lambda: parametrizations.orthogonal(nn.Linear(64, 8), orthogonal_map="householder"),
    "cayley": lambda: parametrizations.orthogonal(nn.Linear(64, 8), orthogonal_map="cayley"),
    "matrix_exp": lambda: parametrizations.orthogonal(nn.Linear(64, 8), orthogonal_map="matrix_exp"),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(64, 8)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(64, 8)),
    "spectral norm by a hook": lambda: old(nn.utils.spectral_norm),
    "weight norm by a hook": lambda: old(nn.utils.weight_norm),
}


def network(layer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), LAYERS[layer](), nn.Tanh(), nn.Linear(8, 3)).train()
    return model, torch.rand(6, 1, 8, 8), torch.arange(6) % 3


def run(layer, between, context=contextlib.nullcontext):
    """The bits that a training ends in, with something between each pass forward, pass back and step."""
    model, x, y = network(layer)
    Grid.tables.clear()
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1, momentum=0.9)
    # torch cannot copy what the hook of weight_norm leaves behind
    average = torch.optim.swa_utils.AveragedModel(model if "hook" not in layer else nn.Linear(1, 1), use_buffers=True)
    door = between(model, average, x, y)
    losses = []
    for step in range(STEPS):
        with context():
            door(step)
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            door(step)
            loss.backward()
            door(step)
            optimiser.step()
            if "hook" not in layer:
                average.update_parameters(model)
            losses.append(loss.detach().double())
    end = [p.detach().double().flatten() for m in (model, average) for p in (*m.parameters(), *m.buffers())]
    assert all(m.training for m in model.modules() if not isinstance(m, nn.BatchNorm1d))
    return torch.cat([*end, torch.stack(losses)])


def nothing(model, average, x, y):
    return lambda step: None


def monitored(model, average, x, y):
    monitors = [fv.FisherMonitor(m, x, y) for m in (model, average) if len(list(m.modules())) > 2]
    return lambda step: [m.record(m.last_step + 1 if m.last_step is not None else 0) for m in monitors]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_monitored_training_ends_in_the_same_bits(layer):
    assert torch.equal(run(layer, nothing), run(layer, monitored))


@pytest.mark.parametrize("layer", ["householder", "spectral norm"])
def test_parametrisations_that_the_user_caches_stay_those_of_training(layer):
    plain, watched = (run(layer, between, parametrize.cached) for between in (nothing, monitored))
    assert torch.equal(plain, watched)


DOORS = {
    "spectrum": lambda m, x, y: fv.spectrum(m, x[:2]).walk(),
    "lanczos": lambda m, x, y: fv.spectrum(m, x[:2], k=1, method="lanczos"),
    "call": lambda m, x, y: fv.Classifier(m)(x),
    "vulnerability": lambda m, x, y: fv.vulnerability(m, x[:2], y[:2], steps=2),
    "compare_bounds": lambda m, x, y: fv.compare_bounds(m, x[:2], probes=3),
    "certified_radius": lambda m, x, y: fv.certified_radius(m, x[:2], steps=2, restarts=1),
    "cckl": lambda m, x, y: fv.cckl(m, x[:3], y[:3], resamples=2),
    "local_accuracy": lambda m, x, y: fv.local_accuracy(m, x[:2], y[:2]),
    "trace_margins": lambda m, x, y: fv.trace_margins(m, x[:1], targets="runner-up", max_steps=4, verify=False),
    "attributions": lambda m, x, y: fv.attributions(m, x[:2]),
    "explore": lambda m, x, y: fv.explore(m, x[:2], y[:2], k=1).view(),
    "an error": lambda m, x, y: refused(m, x),
}


def refused(model, x):
    with pytest.raises(ValueError, match="images run from"):
        fv.spectrum(model, torch.full_like(x, 3.0))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("layer", ["merging", "cached biases"])
def test_every_door_leaves_a_training_as_it_was(layer, door):
    def between(model, average, x, y):
        return lambda step: DOORS[door](model, x, y) if step == 1 else None

    assert torch.equal(run(layer, nothing), run(layer, between))


def test_a_record_is_of_the_weights_as_they_are_then():
    for layer in ("cached biases", "merging", "lru_cache", "grid"):
        model, x, y = network(layer)
        monitor = fv.FisherMonitor(model, x, y)
        monitor.record(0)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.5)
        said = monitor.record(1)["mean_spectral_norm"]
        assert said == pytest.approx(fv.spectrum(model, x).spectral_norm.mean().item(), rel=1e-4)
        twin, *_ = network(layer)
        twin.load_state_dict(model.state_dict())
        assert said == pytest.approx(fv.spectrum(twin.eval(), x).spectral_norm.mean().item(), rel=1e-4)


@pytest.mark.parametrize("layer", ["cached biases", "grid", "lru_cache", "recurrent", "states"])
def test_tables_of_one_precision_are_none_for_another(layer):
    model, x, _ = network(layer)
    net = fv.Classifier(model)
    found = fv.spectrum(net, x[:2])
    assert net.has_float64
    assert net.dtype == torch.float32
    twin, *_ = network(layer)
    truth = fv.spectrum(twin.double(), x[:2].double())
    assert torch.allclose(found.spectral_norm, truth.spectral_norm, rtol=1e-4)
    model.train()
    assert model(x).dtype == torch.float32
    assert model.eval()(x).dtype == torch.float32


def test_what_was_left_behind_in_inference_mode_can_be_differentiated():
    for layer in ("cached biases", "grid"):
        model, x, _ = network(layer)
        with torch.inference_mode():
            model.eval()(x[:2])
        assert fv.spectrum(model, x[:2]).spectral_norm.isfinite().all()
