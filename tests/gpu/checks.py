"""What fimviz gives on the device against float64 on the CPU: checks that return what they measured, or fail."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import fimviz as fv
from fimviz.fisher import precision
from fimviz.fisher.matched import matched_spectral_norm
from tests.benchmarks.truth import dense_spectrum, frozen, lanczos_truth, rayleigh
from tests.gpu import pack
from tests.gpu.networks import network
from tests.gpu.runner import Place, Task

Found = dict[str, Any]
_CHECKS: list[Callable[[Place], Found]] = []


def check(run: Callable[[Place], Found]) -> Callable[[Place], Found]:
    _CHECKS.append(run)
    return run


class Pixels(nn.Module):
    """A classifier of the zoo as one module from pixels to logits, for the oracle."""

    def __init__(self, net: fv.Classifier) -> None:
        super().__init__()
        self.model, self.temperature = net.model, net.temperature
        self.register_buffer("mean", net.mean.float())
        self.register_buffer("std", net.std.float())

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return self.model((x - self.mean.view(shape)) / self.std.view(shape)) / self.temperature


@functools.cache
def zoo(name: str, count: int = 4) -> tuple[nn.Module, Tensor, Tensor]:
    """A network of the zoo on the CPU, images and labels."""
    images, labels = fv.zoo.digits()
    return frozen(Pixels(fv.zoo.load(f"digits-{name}"))), images[:count], labels[:count]


def networks(place: Place) -> list[tuple[str, nn.Module, Tensor]]:
    """Those on which spectra are checked, on the CPU: trained ones of every kind."""
    names = ("resnet", "vit", "mlp") if place.quick else ("resnet", "vit", "mlp", "vgg", "densenet")
    found = [(name, *zoo(name)[:2]) for name in names]
    for name in ("cifar10-resnet20", "mnist-lenet5-robust"):
        if (real := pack.real(name, 4)) is not None:
            found.append((name, frozen(real[0]), real[1]))
    return found


def there(net: nn.Module, place: Place) -> nn.Module:
    """A copy of the network on the device."""
    return copy.deepcopy(net).to(place.device)


def compared(s: fv.Spectrum, truth: Tensor, worst: float) -> Found:
    """How far a spectrum is from the truth (n, r), relative to λ₁, at most `worst`, and to what it states."""
    truth = truth[:, : s.eigenvalues.shape[1]]
    off = (s.eigenvalues - truth).abs()
    relative, stated = float((off / truth[:, :1]).max()), float((off / s.error).max())
    assert s.eigenvalues.device.type == s.error.device.type == "cpu", "results belong on the CPU"
    assert relative <= worst, f"λ is off by {relative:.2g} of λ₁, expected at most {worst:.2g}"
    assert stated <= 1, f"λ is off by {stated:.3g} times the error that is stated"
    return {"worst": relative, "of stated": stated}


def most(parts: dict[str, Found]) -> Found:
    """The largest of each figure, and where it was found."""
    found: Found = {}
    for name, part in parts.items():
        for key, value in part.items():
            if not value <= found.get(key, -math.inf):
                found |= {key: value, f"{key} in": name}
    return found


def close(name: str, a: Any, b: Any, tolerance: float) -> Found:
    """Whether values agree relative to the larger one's size; infinities and NaN have to stand in the same places."""
    a, b = (torch.asarray(v, copy=True).detach().cpu().double().flatten() for v in (a, b))
    finite = a.isfinite()
    assert torch.equal(finite, b.isfinite()), f"{name}: {int((finite != b.isfinite()).sum())} values are lost on one"
    apart = (a - b).abs()[finite] / torch.maximum(a.abs(), b.abs())[finite].clamp_min(1e-300)
    off = float(apart.max()) if len(apart) else 0.0
    assert off <= tolerance, f"{name} differs by {off:.2g}, expected at most {tolerance:.2g}"
    return {name: off}


@functools.cache
def truth(name: str, place: Place) -> Tensor:
    """The whole spectrum in float64 on the CPU, by plain autograd."""
    _, net, x = next(one for one in networks(place) if one[0] == name)
    return dense_spectrum(net, x)


def spectra(place: Place, worst: float, **options: Any) -> Found:
    """`spectrum` of all networks against the truth; where not verified, kinks may have been crossed."""
    parts = {}
    for name, net, x in networks(place):
        s = fv.spectrum(there(net, place), x, **options)
        parts[name] = compared(s, truth(name, place), worst)
        if s.eigenvectors is not None:
            v = s.eigenvectors[:, 0]
            parts[name]["λ₁ − vᵀFv"] = float((1 - rayleigh(net, x[:2], v[:2]) / truth(name, place)[:2, 0]).max())
            assert parts[name]["λ₁ − vᵀFv"] <= 1e-3, "the first eigenvector is not that of λ₁"
    return most(parts)


@check
def exact_verified(place: Place) -> Found:
    return spectra(place, 1e-4, method="exact")


@check
def float64_forward_alone(place: Place) -> Found:
    """Convolutions, ReLUs and the like go back in float32, also on a card: all in float64 cost three times as much."""
    parts = {}
    for name in ("resnet", "mlp"):
        net, x, _ = zoo(name)
        classifier = fv.Classifier(there(net, place))
        classifier.admit(x)
        assert classifier.precise, f"{name} runs in float64 altogether"
        parts[name] = compared(fv.spectrum(classifier, x, k=1), truth(name, place), 1e-4)
    return most(parts)


@check
def lanczos_verified(place: Place) -> Found:
    return spectra(place, 1e-4, method="lanczos", k=2)


def unverified(place: Place, **options: Any) -> Found:
    """Rounding may have moved an input across a kink, which `error` then says nothing of: counted, not refused."""
    parts, outside, images = {}, 0, 0
    for name, net, x in networks(place):
        s = fv.spectrum(there(net, place), x, verify=False, vectors=False, **options)
        off = (s.spectral_norm - truth(name, place)[:, 0]).abs()
        outside, images = outside + int((off > s.error[:, 0]).sum()), images + len(x)
        parts[name] = {"worst": float((off / truth(name, place)[:, 0]).max())}
        assert float((off / truth(name, place)[:, 0]).median()) <= 1e-3, f"{name}: half of the values are wrong"
    return most(parts) | {"outside of the stated error": outside, "images": images}


@check
def exact_unverified(place: Place) -> Found:
    return unverified(place, method="exact")


@check
def lanczos_unverified(place: Place) -> Found:
    return unverified(place, method="lanczos")


@check
def power(place: Place) -> Found:
    parts = {}
    for name, net, x in networks(place)[:2]:
        s = fv.spectrum(there(net, place), x, method="power", tolerance=1e-3, max_steps=40)
        over = ((s.spectral_norm - truth(name, place)[:, 0]) / truth(name, place)[:, 0]).max()
        assert over <= 1e-4, f"a lower bound lies {over:.2g} above the truth"
        parts[name] = {"above the truth": float(over)}
    return most(parts)


@check
def many_classes(place: Place) -> Found:
    """Lanczos with 1000 classes, against Lanczos in float64 by plain autograd."""
    real = None if place.quick and not place.card else pack.real("imagenet-squeezenet", 2)
    if real is None:
        net, x = network("ResNet-18", 1000), torch.rand(1, 3, 64, 64)
    else:
        net, x = frozen(real[0]), real[1]
    expected, residual, _ = lanczos_truth(net, x, 1, 1e-7)
    s = fv.spectrum(there(net, place), x, k=1)
    assert s.method == "lanczos"
    return compared(s, expected, 1e-4) | {"residual of the reference": float(residual.max())}


@check
def black_box(place: Place) -> Found:
    net, x, _ = zoo("resnet", 2)
    model = there(net, place)

    def predict(batch: Tensor) -> Tensor:
        with torch.no_grad():
            return model(batch.to(place.device)).cpu()

    box = fv.spectrum(fv.BlackBox(predict, as_torch=True), x)
    asked = fv.spectrum(model, x, method="blackbox")
    expected = dense_spectrum(net, x)[:, 0]
    assert ((asked.spectral_norm - expected).abs() <= asked.error[:, 0]).all(), "outside of its interval"
    return close("as a box and as a classifier", box.spectral_norm, asked.spectral_norm, 1e-2)


@check
def saturated(place: Place) -> Found:
    """Logits times 64: λ₁ down to 1e-200 and less keeps its digits."""
    parts = {}
    for name in ("resnet", "vit"):
        net, x, _ = zoo(name)
        sharp = frozen(copy.deepcopy(net))
        sharp.temperature = sharp.temperature / 64
        parts[name] = compared(fv.spectrum(there(sharp, place), x), dense_spectrum(sharp, x), 1e-4)
        parts[name]["−log₁₀ λ₁"] = float(-fv.spectrum(there(sharp, place), x, k=1).spectral_norm.log10().min())
    return most(parts)


@check
def half_precision(place: Place) -> Found:
    found: Found = {}
    for dtype in (torch.bfloat16, torch.float16):
        net, x, _ = zoo("resnet", 4)
        half = copy.deepcopy(net).to(dtype)
        expected = dense_spectrum(copy.deepcopy(half).float(), x)
        found |= {f"{dtype}: {k}": v for k, v in compared(fv.spectrum(there(half, place), x), expected, 1e-4).items()}
        wide = fv.spectrum(there(half, place), x.to(place.device, dtype), k=1, verify=False)
        assert wide.spectral_norm.isfinite().all()
    return found


@check
def channels_last(place: Place) -> Found:
    name = "resnet"
    net, x, _ = zoo(name)
    s = fv.spectrum(there(net, place).to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last))
    return compared(s, truth(name, place), 1e-4)


@check
def compiled(place: Place) -> Found:
    name = "resnet"
    net, x, _ = zoo(name)
    model = torch.compile(there(net, place))
    first = compared(fv.spectrum(model, x), truth(name, place), 1e-4)
    if place.card:
        with torch.no_grad():
            model(x.to(place.device))  # compiled code exists now, and must not be used
        return compared(fv.spectrum(model, x), truth(name, place), 1e-4)
    return first


@check
def tensors_on_the_device(place: Place) -> Found:
    """Images, labels, normalisation and ε on the card, as one may hand them over."""
    name = "resnet"
    net, x, y = zoo(name)
    classifier = fv.Classifier(
        there(net, place), mean=torch.zeros(1, device=place.device), std=torch.ones(1, device=place.device)
    )
    s = fv.spectrum(classifier, x.to(place.device), labels=y.to(place.device))
    found = compared(s, truth(name, place), 1e-4)
    assert s.images.device.type == "cpu"
    assert torch.equal(s.labels, y)
    s.walk(0, torch.tensor([0.1], device=place.device))
    fv.attacks.random(
        classifier, x.to(place.device), y.to(place.device), torch.full((len(x),), 0.1, device=place.device)
    )
    other = (y[:1] + 1) % 10
    fv.trace_margins(classifier, x[:1].to(place.device), targets=other.to(place.device), max_steps=3)
    fv.cckl(classifier, x.to(place.device), y.to(place.device), pairs=4)
    return found


@check
def default_device(place: Place) -> Found:
    """torch.set_default_device(card), which many scripts begin with."""
    name = "resnet"
    net, x, y = zoo(name)
    expected = truth(name, place)
    torch.set_default_device(place.device)
    try:
        model = there(net, place)
        found = compared(fv.spectrum(model, x), expected, 1e-4)
        found |= {
            f"lanczos: {k}": v
            for k, v in compared(fv.spectrum(model, x, k=1, method="lanczos"), expected, 1e-4).items()
        }
        fv.spectrum(model, x[:1], method="power", max_steps=3)
        fv.spectrum(model, x[:1], method="blackbox", probes=8).walk()
        fv.compare_bounds(model, x[:1], methods=["exact", "L4", "L5", "hutchinson-trace"])
        fv.certified_radius(model, x[:1], steps=2)
        fv.trace_margins(model, x[:1], max_steps=3)
        fv.cckl(model, x, y, pairs=4)
        fv.FisherMonitor(model, x, y).record(0)
        return found
    finally:
        torch.set_default_device(None)


@check
def left_as_it_came(place: Place) -> Found:
    class Nosy(nn.Module):
        """Counts its calls, draws in training mode, and would move its statistics."""

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Dropout(), nn.Linear(32, 4)
            )
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.net(x)

    torch.manual_seed(0)
    model = Nosy().to(place.device).train()
    model.net[1].weight.requires_grad_(False)
    seen: list[int] = []
    model.net.register_forward_hook(lambda *_: seen.append(1))
    x, y = zoo("mlp")[1].clone(), torch.arange(4)
    before = copy.deepcopy(model.state_dict())
    state = torch.cuda.get_rng_state(place.device) if place.card else torch.get_rng_state()
    for run in (
        lambda: fv.spectrum(model, x),
        lambda: fv.spectrum(model, x, k=1, method="lanczos"),
        lambda: fv.compare_bounds(model, x[:2], methods=["exact", "L5"]),
        lambda: fv.certified_radius(model, x[:2], steps=2),
        lambda: fv.trace_margins(model, x[:2], max_steps=2),
        lambda: fv.cckl(model, x, y, pairs=4),
        lambda: fv.spectrum(model, x.fill_(math.nan)),
    ):
        try:
            run()
        except ValueError:
            assert bool(x.isnan().any())
    assert model.training
    assert all(m.training for m in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [False, *[True] * (len(list(model.parameters())) - 1)]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()), "the state changed"
    after = torch.cuda.get_rng_state(place.device) if place.card else torch.get_rng_state()
    assert torch.equal(state, after), "the random stream moved"
    return {"calls": len(seen)}


class Rows(nn.Module):
    """A recurrent classifier of the rows of a digit."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = kind(8, 24, num_layers=2, batch_first=True), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x[:, 0])[0][:, -1])


@check
def recurrent(place: Place) -> Found:
    """LSTM, GRU and RNN: cuDNN refuses their backward passes in evaluation mode."""
    parts, x = {}, zoo("mlp")[1]
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        net = frozen(Rows(kind))
        expected = dense_spectrum(net, x)
        for method in ("exact", "lanczos"):
            s = fv.spectrum(there(net, place), x, k=2, method=method)
            parts[f"{kind.__name__} {method}"] = compared(s, expected, 1e-4)
    return most(parts)


@check
def bounds(place: Place) -> Found:
    """Every rung and estimate, on the device and on the CPU; and no upper bound below the truth."""
    parts = {}
    for name in ("mlp", "resnet") if place.quick else ("mlp", "resnet", "vgg", "densenet", "vit"):
        net, x, _ = zoo(name, 2)
        here, other = (fv.compare_bounds(m, x).frame for m in (net, there(net, place)))
        assert list(here.method) == list(other.method)
        for method, a, b in zip(here.method, here.itertuples(), other.itertuples(), strict=True):
            tolerance = {"power": 1e-2, "published-blackbox": 0.2, "blackbox": 0.1}.get(method, 1e-3)
            if math.isfinite(a.value):
                parts[f"{name} {method}"] = close("apart from the CPU", a.value, b.value, tolerance)
        expected = dense_spectrum(net, x)[:, 0]
        upper = other[other.method.str.match("L[1-6]")]
        assert (upper.value.to_numpy() >= (1 - 1e-9) * expected.numpy()[upper["sample"]]).all(), "a bound is broken"
    return most(parts)


@check
def certificates(place: Place) -> Found:
    parts = {}
    for name in ("mlp", "resnet"):
        net, x, _ = zoo(name, 2)
        here, other = (fv.certified_radius(m, x, steps=10) for m in (net, there(net, place)))
        assert bool(other.holds.all()), "an attack within the radius succeeded"
        parts[name] = close("radius", here.radius, other.radius, 1e-6) | close("attack", here.attack, other.attack, 0.1)
    return most(parts)


@check
def paths(place: Place) -> Found:
    parts = {}
    targets = "runner-up" if place.quick else "all"
    for name in ("mlp", "resnet"):
        net, x, y = zoo(name)
        here, other = (fv.trace_margins(m, x, y, targets=targets).frame for m in (net, there(net, place)))
        same = (here.hit == other.hit).to_numpy()
        assert same.mean() > 0.8, f"{(~same).sum()} of {len(same)} paths meet another class than on the CPU"
        assert (other.length >= other.bound * (1 - 1e-9)).all(), "a length lies below its bound"
        parts[name] = close("length", here.length[same].to_numpy(), other.length[same].to_numpy(), 0.2)
        parts[name]["paths that meet another class"] = float((~same).mean())
    return most(parts)


@check
def divergences(place: Place) -> Found:
    parts = {}
    for name in ("mlp", "resnet") if place.quick else ("mlp", "resnet", "vit"):
        net, x, y = zoo(name)
        here, other = (fv.cckl(m, x, y) for m in (net, there(net, place)))
        parts[name] = close("KL", here.kl, other.kl, 1e-6) | close("G1", here.g1, other.g1, 1e-5)
        parts[name] |= close("limit", here.limit, other.limit, 1e-4)
        one, two = (
            fv.local_accuracy(m, x[:2], y[:2], directions=("worst", "random")) for m in (net, there(net, place))
        )
        parts[name] |= close("KL nearby", one.kl, two.kl, 1e-3)
    return most(parts)


@check
def walks(place: Place) -> Found:
    """What results compute later: walks, planes, one-sided curvature, reconstruction, λ₁ at matched confidence."""
    net, x, _ = zoo("resnet", 4)
    here, other = (fv.spectrum(m, x, k=3) for m in (net, there(net, place)))
    found = close("reach", here.reach, other.reach, 1e-9)
    found |= close("KL on a walk", here.walk(0, [0.05, 0.1]).kl, other.walk(0, [0.05, 0.1]).kl, 1e-2)
    ours, theirs = here.plane(points=5), other.plane(points=5)
    moved = (ours.kl - theirs.kl).abs() > ours.kl_error + theirs.kl_error  # in the middle KL is nothing but rounding
    found |= close("KL on a plane", ours.kl[moved], theirs.kl[moved], 0.1)
    found |= close("one-sided", here.one_sided, other.one_sided, 1e-3)
    found |= close("reconstruction", fv.reconstruction(here).std, fv.reconstruction(other).std, 1e-3)
    matched = (matched_spectral_norm(fv.Classifier(m), x) for m in (net, there(net, place)))
    return found | close("matched λ₁", *matched, 1e-4)


@check
def monitor(place: Place) -> Found:
    """Records in training; and the training ends in the same bits with a monitor as without."""
    images, labels = fv.zoo.digits("train")
    x, y = images[:128].to(place.device), labels[:128].to(place.device)

    def trained(watched: bool) -> tuple[nn.Module, Any]:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(512, 10),
        ).to(place.device)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        watch = fv.FisherMonitor(model, images[:16], labels[:16], every=2) if watched else None
        for step in range(6):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            if watch is not None:
                watch(step, loss=loss)
        return model, watch

    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        (plain, _), (model, watch) = trained(False), trained(True)
    finally:
        torch.use_deterministic_algorithms(False)
    same = all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), model.state_dict().values(), strict=True))
    assert same, "the training ended in other bits with a monitor"
    last = watch.history.frame.iloc[-1]
    twin = fv.FisherMonitor(copy.deepcopy(model).cpu(), images[:16], labels[:16])
    watch.record(100)
    now, other = watch.history.frame.iloc[-1], twin.record(100)
    names = ("loss", "confidence", "cckl", "mean_frobenius", "mean_spectral_norm", "mean_trace")
    found = most({name: close("apart from the CPU", now[name], other[name], 1e-3) for name in names})
    return found | {"seconds a record": float(last["seconds"])}


@check
def attacks(place: Place) -> Found:
    """The smallest change that fools, where captum is, else the spectral attack alone."""
    net, x, y = zoo("resnet")
    try:
        import captum  # noqa: F401

        named: tuple[str, ...] = ("spectral", "fgsm", "pgd")
    except ModuleNotFoundError:
        named = ("spectral",)
    here, other = (fv.vulnerability(m, x, y, attacks=named) for m in (net, there(net, place)))
    kept = here.epsilon.isfinite() & other.epsilon.isfinite()
    assert (here.epsilon.isfinite() == other.epsilon.isfinite()).double().mean() > 0.8
    return close("ε", here.epsilon[kept], other.epsilon[kept], 0.2)


@check
def explored(place: Place) -> Found:
    net, x, y = zoo("mlp")
    here, other = (next(iter(fv.explore(m, x, y).models.values())) for m in (net, there(net, place)))
    found = close("λ₁", here.spectrum.spectral_norm, other.spectrum.spectral_norm, 1e-4)
    return found | close("certified radius", here.radius, other.radius, 1e-6)


@check
def models_compared(place: Place) -> Found:
    x, y = zoo("mlp", 6)[1:]
    nets = {name: zoo(name)[0] for name in ("mlp", "mlp-robust")}
    here = fv.compare_models(nets, x, y)
    other = fv.compare_models({name: there(net, place) for name, net in nets.items()}, x, y)
    columns = [c for c in here.frame.columns if here.frame[c].dtype.kind == "f" and c != "seconds"]
    return most(
        {c: close("apart from the CPU", here.frame[c].to_numpy(), other.frame[c].to_numpy(), 0.2) for c in columns}
    )


@check
def out_of_memory(place: Place) -> Found:
    """A chunk that does not fit is halved until it does, and the result is that of a plan that fitted at once."""
    if place.card:
        net, x = network("ResNet-18", 10), torch.rand(64, 3, 224, 224)
    else:
        net, x, _ = zoo("resnet", 16)
    model = there(net, place)
    expected = fv.spectrum(model, x, k=1, vectors=False, verify=False)
    found: Found = {}
    for method in ("exact", "lanczos"):
        tried: list[int] = []
        with scarce(place, tried):
            s = fv.spectrum(model, x, k=1, vectors=False, verify=False, method=method, max_memory=1e15)
        assert len(tried) > 1, "the chunk was never too large: nothing was tested"
        assert tried[0] > tried[-1]
        found |= close(f"{method}, in parts", expected.spectral_norm, s.spectral_norm, 1e-3)
        found[f"{method}, inputs at once"] = " ".join(map(str, tried))
    return found


@contextmanager
def scarce(place: Place, tried: list[int]) -> Any:
    """Little memory; notes how many inputs were tried at once. A processor's is not scarce: there it is feigned."""
    inner = precision._found

    def counted(net: fv.Classifier, x: Tensor, *rest: Any) -> Any:
        tried.append(len(x))  # before the first pass, which may be what does not fit
        if not place.card and len(x) > 4:
            raise torch.OutOfMemoryError("feigned")
        return inner(net, x, *rest)

    if place.card:
        torch.cuda.empty_cache()
        card = torch.device(place.device).index or 0
        total = torch.cuda.get_device_properties(card).total_memory
        room = torch.cuda.memory_allocated(card) + 1.2e9
        torch.cuda.set_per_process_memory_fraction(room / total, card)
    try:
        with mock.patch.object(precision, "_found", counted):
            yield
    finally:
        if place.card:
            torch.cuda.set_per_process_memory_fraction(1.0, card)


CHECKS = [Task(run.__name__.replace("_", " "), "checks", run) for run in _CHECKS]
