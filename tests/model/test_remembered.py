"""What a first call has found of a model is remembered with it, and asked again once anything has changed."""

import copy
import enum
import gc
import pickle
import sys
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import fimviz as fv
from fimviz.model import probe as probing

SHIFT = 0.0


def shift():
    return SHIFT


X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Kind(enum.Enum):
    IMAGE = "image"


class Net(nn.Module):
    gain = 1.0

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.held = Kind.IMAGE, [torch.zeros(3)]
        self.conv, self.norm, self.last = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.scale, self.table = 1.0, {"shift": [0.0]}

    def forward(self, x):
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.read(x) + self.table["shift"][0] + self.held[0]

    def read(self, x):
        return self.gain * self.scale * self.last(x) + shift()


@pytest.fixture
def asked(monkeypatch):
    """How often models have been asked."""
    calls, ask = [], probing._probe
    monkeypatch.setattr(probing, "_probe", lambda *given: calls.append(1) or ask(*given))
    return calls


def test_a_bare_module_is_asked_once(asked):
    model = Net()
    first, second = (fv.spectrum(model, X, k=1, vectors=False) for _ in range(2))
    assert len(asked) == 1
    assert torch.equal(first.eigenvalues, second.eigenvalues)
    assert (second.guarantee, second.reason) == (first.guarantee, first.reason)
    one, two = first.net, second.net
    for name in ("precise", "smooth", "alone", "batched_vjp", "has_float64", "classes", "likelihood"):
        assert getattr(one, name) == getattr(two, name), name
    assert one.precise
    fv.Classifier(model, classes=["a", "b", "c"])(X[:1])  # names and the number of inputs do not matter
    assert len(asked) == 1
    with pytest.raises(ValueError, match="classes has 2 names"):
        fv.Classifier(model, classes=["a", "b"])(X)


def step(model):
    with torch.no_grad():
        model.conv.weight[0, 0, 0, 0] += 1e-7


def swap(model):
    """Another parameter in the place of one, which may get the memory of the old one."""
    shape = model.last.weight.shape
    del model.last.weight
    gc.collect()
    model.last.weight = nn.Parameter(torch.zeros(shape))


def train(model):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X).sum().backward()
    optimiser.step()
    model.zero_grad()


CHANGES = {
    "a step in place": step,
    "a training step": train,
    "a write past autograd": lambda m: m.conv.weight.data.mul_(2),
    "a swapped parameter": swap,
    "a replaced layer": lambda m: setattr(m, "last", nn.Linear(4, 3)),
    "the mode": lambda m: m.train(not m.training),
    "the mode of one layer": lambda m: m.norm.train(not m.norm.training),
    "load_state_dict": lambda m: m.load_state_dict(m.state_dict()),
    "a buffer": lambda m: m.norm.running_mean.add_(1),
    "a parametrisation": lambda m: parametrizations.weight_norm(m.last),
    "a hook": lambda m: m.conv.register_forward_hook(lambda *_: None),
    "a hook of gradients": lambda m: m.conv.register_full_backward_hook(lambda *_: None),
    "a number": lambda m: setattr(m, "scale", 2.0),
    "a number in a list in a table": lambda m: m.table["shift"].__setitem__(0, 1.0),
    "a new attribute": lambda m: setattr(m, "anything", object),
    "a patched forward": lambda m: setattr(m.norm, "forward", lambda x: x),
    "a class that was edited": lambda m: setattr(Net, "forward", lambda self, x: self.last(self.conv(x).mean((2, 3)))),
    "a method that forward calls": lambda m: setattr(Net, "read", lambda self, x: self.last(x)),
    "a number of the class": lambda m: setattr(Net, "gain", 2.0),
    "a number of the file": lambda m: setattr(sys.modules[__name__], "SHIFT", 1.0),
    "a function of the file": lambda m: setattr(sys.modules[__name__], "shift", lambda: 1.0),
    "a write past autograd into a tensor in a list": lambda m: m.held[0].data.add_(1),
    "the precision": lambda m: m.double(),
    "a number of a layer": lambda m: setattr(m.norm, "eps", 1e-3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_asked_again(change, asked, monkeypatch):
    for name in ("forward", "read", "gain"):  # which some changes set
        monkeypatch.setattr(Net, name, vars(Net)[name])
    for name in ("SHIFT", "shift"):
        monkeypatch.setattr(sys.modules[__name__], name, globals()[name])
    model = Net()
    model(X).sum().backward()  # gradients are no change of a model
    fv.Classifier(model)(X)
    model.zero_grad()
    fv.Classifier(model)(X)
    assert len(asked) == 1
    CHANGES[change](model)
    fv.Classifier(model)(X)
    assert len(asked) == 2
    fv.Classifier(model)(X)
    assert len(asked) == 2, "not remembered as it is now"


@pytest.mark.parametrize(
    "options",
    [{"mean": 0.5}, {"std": 0.5}, {"temperature": 2.0}, {"likelihood": "bernoulli"}, {"input_range": None}],
)
def test_another_wrapper_asks_again(options, asked):
    model = Net()
    fv.Classifier(model)(X)
    fv.Classifier(model, **options)(X)
    assert len(asked) == 2
    fv.Classifier(model)(X)
    fv.Classifier(model, **options)(X)
    assert len(asked) == 2
    fv.Classifier(model)(X[..., 1:])
    assert len(asked) == 3, "inputs of another shape"


def test_what_becomes_coupled_is_refused():
    model = Net()
    fv.Classifier(model)(X)
    model.norm.register_forward_hook(lambda m, a, out: out - out.mean(0))
    with pytest.raises(ValueError, match="influence each other"):
        fv.Classifier(model)(X)


def test_the_module_is_not_kept_and_copies_carry_nothing(asked):
    model = Net()
    fv.spectrum(model, X, k=1, vectors=False)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert vars(twin).keys() == vars(Net()).keys()
        before = len(asked)
        fv.Classifier(twin)(X)
        assert len(asked) == before + 1
    gone = weakref.ref(model)
    del model, twin
    gc.collect()
    assert gone() is None


class Opaque(Net):
    """Holds something that cannot be compared."""

    def __init__(self):
        super().__init__()
        self.lines = iter([1.0, 2.0])


def test_what_cannot_be_compared_is_not_remembered(asked):
    model = Opaque()
    for _ in range(2):
        fv.Classifier(model)(X)
    assert len(asked) == 2


def test_warnings_are_not_swallowed():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.Sigmoid())
    for _ in range(2):
        with pytest.warns(UserWarning, match="ends in a sigmoid"):
            fv.Classifier(model)(X)


def test_threads_share_the_memory(asked):
    model, found = Net(), []
    threads = [threading.Thread(target=lambda: found.append(fv.Classifier(model)(X))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(asked) == 1
    assert all(torch.equal(found[0], one) for one in found)
    assert len(found) == 4
