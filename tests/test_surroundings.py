"""The same numbers inside whatever the code around a call has set, or one sentence."""

import contextlib
import io
import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fimviz as fv
from fimviz import bounds
from fimviz.fisher.matched import matched_spectral_norm


@contextlib.contextmanager
def default(set_to, value, before):
    set_to(value)
    try:
        yield
    finally:
        set_to(before)


CONTEXTS = {
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "device meta": lambda: default(torch.set_default_device, "meta", None),
    "a device's context": lambda: torch.device("meta"),
    "dtype float64": lambda: default(torch.set_default_dtype, torch.float64, torch.float32),
    "dtype bfloat16": lambda: default(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "deterministic": lambda: default(torch.use_deterministic_algorithms, True, False),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


DOORS = {
    "call": lambda m, x, y: fv.Classifier(m)(x),
    "spectrum": lambda m, x, y: fv.spectrum(m, x, labels=y).spectral_norm,
    "walk": lambda m, x, y: fv.spectrum(m, x).walk().kl,
    "view": lambda m, x, y: torch.tensor(len(fv.spectrum(m, x).view().html()) > 1000, device="cpu"),
    "frame": lambda m, x, y: torch.tensor(fv.spectrum(m, x).frame.spectral_norm, device="cpu"),
    "compare_bounds": lambda m, x, y: torch.tensor(fv.compare_bounds(m, x, probes=3).frame.value, device="cpu"),
    "certified_radius": lambda m, x, y: fv.certified_radius(m, x, steps=2, restarts=1).radius,
    "vulnerability": lambda m, x, y: torch.tensor(
        fv.vulnerability(m, x, y, steps=2).correlations.rho.iloc[:3], device="cpu"
    ),
    "cckl": lambda m, x, y: fv.cckl(m, x, y, resamples=2).path(0, 1).kl,
    "local_accuracy": lambda m, x, y: fv.local_accuracy(m, x, y).kl,
    "trace_margins": lambda m, x, y: fv.trace_margins(m, x[:1], targets="runner-up", max_steps=4, verify=False).length,
    "attributions": lambda m, x, y: fv.attributions(m, x).cosine,
    "reconstruction": lambda m, x, y: fv.reconstruction(fv.spectrum(m, x)).share,
    "explore": lambda m, x, y: fv.explore(m, x, y, k=1).first.spectrum.trace,
    "pgd": lambda m, x, y: fv.attacks.pgd(m, x, y, 0.1, steps=2),
    "zoo": lambda m, x, y: fv.spectrum(fv.zoo.load("digits-mlp"), fv.zoo.digits().images[:3]).spectral_norm,
    "network_bound": lambda m, x, y: torch.tensor(
        bounds.network_bound(m, x).features, device="cpu", dtype=torch.float64
    ),
    "local_bound": lambda m, x, y: bounds.local_bound(m, x).features,
    "matched": lambda m, x, y: matched_spectral_norm(fv.Classifier(m), x, confidence=0.5),
    "matched, a batch": lambda m, x, y: matched_spectral_norm(fv.Classifier(m), x, confidence=0.5, per="batch"),
    "fgsm": lambda m, x, y: fv.attacks.fgsm(m, x, y, 0.1),
    "spectral": lambda m, x, y: fv.attacks.spectral(m, x, y, 0.1),
    "random": lambda m, x, y: fv.attacks.random(m, x, y, 0.1),
    "descent": lambda m, x, y: fv.attacks.descent(m, x, y, steps=2),
    "monitor": lambda m, x, y: torch.tensor(
        fv.FisherMonitor(m, x, y).record(0)["mean_spectral_norm"], device="cpu", dtype=torch.float64
    ),
    "black box": lambda m, x, y: (
        fv.spectrum(
            fv.BlackBox(lambda a: m(torch.from_numpy(a)).detach().numpy().astype("float32")), x, probes=3
        ).spectral_norm
    ),
}


@pytest.fixture(scope="module")
def truth():
    x, y = batch()
    return {name: door(network(), x, y) for name, door in DOORS.items()}


def batch():
    torch.manual_seed(1)
    return torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])


@pytest.mark.parametrize("door", DOORS)
def test_every_door_says_the_same_in_all_surroundings(door, truth):
    for context in CONTEXTS:
        if door == "black box" and context in ("autocast", "dtype bfloat16"):
            continue  # the function is the user's, and rounds in theirs
        model, (x, y) = network(), batch()
        with CONTEXTS[context](), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Anomaly Detection")
            here = torch.is_inference_mode_enabled(), torch.get_default_dtype(), torch.get_default_device()
            found = DOORS[door](model, x, y).detach()
            assert here == (torch.is_inference_mode_enabled(), torch.get_default_dtype(), torch.get_default_device())
        assert torch.allclose(found.double(), truth[door].double(), rtol=1e-5, atol=1e-6, equal_nan=True), context


def test_results_are_looked_at_in_all_surroundings():
    model, (x, y) = network(), batch()
    results = fv.spectrum(model, x), fv.vulnerability(model, x, y, attacks=["fgsm"]), fv.cckl(model, x, y)
    said = [repr(r) for r in results]
    for context in ("device meta", "inference mode", "dtype bfloat16"):
        with CONTEXTS[context]():
            assert [repr(r) for r in results] == said
            assert all(r.view().html() for r in results)
            assert all(r.plot() for r in results)


def test_the_models_own_code_sees_the_users_default_type():
    class Own(nn.Module):
        def forward(self, x):
            seen.append((torch.zeros(1).dtype, torch.zeros(1).device.type))
            return x.flatten(1)[:, :3]

    seen, (x, _) = [], batch()
    with CONTEXTS["dtype float64"](), CONTEXTS["device meta"]():
        fv.spectrum(Own(), x)
    assert set(seen) == {(torch.float64, "cpu")}


def test_transforms_are_refused():
    model, (x, _) = network(), batch()
    with pytest.raises(RuntimeError, match=r"inside a transform of torch\.func"):
        torch.func.grad(lambda a: fv.spectrum(model, a).spectral_norm.sum())(x)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward-mode"):
        fv.spectrum(model, x)


def stored(script):
    memory = io.BytesIO()
    torch.jit.save(script, memory)
    memory.seek(0)
    return torch.jit.load(memory)


KINDS = {
    "traced": lambda m, x: torch.jit.trace(m, x),
    "scripted": lambda m, x: torch.jit.script(m),
    "frozen": lambda m, x: torch.jit.freeze(torch.jit.script(m)),
    "loaded": lambda m, x: stored(torch.jit.script(m)),
    "loaded, traced": lambda m, x: stored(torch.jit.trace(m, x)),
    "exported": lambda m, x: torch.export.export(m, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module(),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning:torch")
@pytest.mark.parametrize("kind", KINDS)
def test_stored_and_compiled_forms_of_a_network_say_what_it_says(kind, truth):
    x, y = batch()
    model = KINDS[kind](network(), x)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    found = fv.spectrum(model, x)
    assert torch.allclose(found.spectral_norm, truth["spectrum"], rtol=1e-4)
    assert found.changed == ""
    assert torch.allclose(found.walk().kl[:, 10], truth["walk"][:, 10], rtol=1e-2)
    assert fv.FisherMonitor(model, x, y).record(0)["accuracy"] is not None
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


class Reentrant(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(64, 3)

    def forward(self, x):
        return checkpoint(self.lin, x.flatten(1), use_reentrant=True)


class Returned(nn.Module):
    def __init__(self, turn):
        super().__init__()
        self.turn = turn

    def forward(self, x):
        return self.turn(x.flatten(1)[:, :3])


REFUSED = {
    "never run": (lambda x: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), r"never been run.*1\.weight.*once first"),
    "never run, norm": (lambda x: nn.Sequential(nn.Flatten(), nn.LazyBatchNorm1d()), "never been run"),
    "one size": (lambda x: torch.export.export(network(), (x,)).module(), "exported for batches of one size.*DYNAMIC"),
    "reentrant": (lambda x: Reentrant(), "reentrant checkpoints.*use_reentrant=False"),
    "sparse logits": (lambda x: Returned(lambda z: z.to_sparse()), "sparse or nested tensor, expected dense logits"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_asked_is_refused_in_a_sentence(kind):
    make, sentence = REFUSED[kind]
    x, _ = batch()
    model = make(x)
    with pytest.raises(ValueError, match=sentence):
        fv.spectrum(model, x)


def test_sparse_and_nested_images_are_refused():
    x, _ = batch()
    with pytest.raises(TypeError, match=r"images are sparse.*to_dense\(\)"):
        fv.spectrum(network(), x.to_sparse())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nested = torch.nested.nested_tensor(list(x))
    with pytest.raises(TypeError, match="nested tensor"):
        fv.spectrum(network(), nested)
