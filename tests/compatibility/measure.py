"""What one network gives, column by column."""

from __future__ import annotations

import copy
import math
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

import fimviz as fv
import fimviz.bounds as bounds
from tests.compatibility.network import Network

COLUMNS = ("exact", "lanczos", "bounds", "certificate", "paths", "view")
Cell = dict[str, Any]  # verdict: "works", "refused", "failed" or "wrong"; words; forwards: cost, or None


def cells(network: Network, columns: Collection[str] = COLUMNS) -> Iterator[tuple[str, Cell]]:
    """(column, cell) one after the other, first ("unit", …), one forward pass of the input."""
    few, many = network.classes or (0, 0)
    plain, x = network.plain(few), network.inputs()
    handed = network.handed(copy.deepcopy(plain))
    unit = _unit(handed, x)
    yield "unit", {"verdict": "works", "words": f"{1e3 * unit:.3g} ms", "forwards": 1.0, "seconds": unit}
    found: dict[str, Any] = {}

    def timed(compute: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = compute()
        found["seconds"] = time.process_time() - start
        return result

    def spectrum() -> str:
        found["spectrum"] = s = timed(lambda: fv.spectrum(net, x, method="exact"))
        return _against(s, _truth(plain, x, network))

    def lanczos() -> str:
        wide, large = plain, net
        if few != many:
            wide = network.plain(many)
            large = _classifier(network, network.handed(copy.deepcopy(wide)))
            large.admit(x)
        s = timed(lambda: fv.spectrum(large, x, k=1, method="lanczos"))
        return _against(s, _truth(wide, x, network))

    def both() -> str:
        here, there = timed(lambda: (bounds.local_bound(net, x), bounds.network_bound(net, x)))
        return _bounds(here, there, plain, x, network)

    def certificate() -> str:
        r = fv.certified_radius(net, x, method="norms", attack=False)
        if r.reason:
            raise _RefusedError(r.reason.removeprefix("no bound holds at every x: "))
        return f"{r.radius.item():.1e}"

    def paths() -> str:
        t = fv.trace_margins(net, x, targets=[_second(found["spectrum"])], max_steps=30)
        return str(t.frame.status.iloc[0])

    def view() -> str:
        size = len(found["spectrum"].view().html())
        return f"{size / 1e3:.0f} kB"

    try:
        net = _classifier(network, handed)
        net.admit(x)
    except Exception as error:
        cell = _refusal(error)
        yield from ((column, cell) for column in columns)
        return
    # What can take longest comes last.
    ways = {"exact": spectrum, "lanczos": lanczos, "paths": paths, "view": view, "certificate": certificate}
    for column, compute in {**ways, "bounds": both}.items():
        if column in columns:
            yield column, _cell(compute, unit, found)


class _RefusedError(Exception):
    """A result that says why it is none."""


class _WrongError(Exception):
    """A number that is not what it says."""


def _cell(compute: Callable[[], str], unit: float, found: dict[str, Any]) -> Cell:
    found.pop("seconds", None)
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            words = compute()
    except _WrongError as error:
        return {"verdict": "wrong", "words": str(error), "forwards": None}
    except Exception as error:
        return _refusal(error)
    seconds = found.get("seconds", time.process_time() - start)
    return {"verdict": "works", "words": words, "forwards": seconds / unit, "seconds": seconds}


def _refusal(error: Exception) -> Cell:
    """Refused where fimviz says so itself, failed where an error of somebody else came through."""
    if isinstance(error, KeyError):
        return {"verdict": "refused", "words": "there is no spectrum", "forwards": None}
    frame = traceback.extract_tb(error.__traceback__)[-1]
    own = isinstance(error, _RefusedError) or "/fimviz/" in frame.filename
    words = " ".join(str(error).split()) or type(error).__name__
    return {"verdict": "refused" if own else "failed", "words": words if own else f"{type(error).__name__}: {words}",
            "forwards": None}  # fmt: skip


def _classifier(network: Network, model: nn.Module) -> fv.Classifier:
    return fv.Classifier(model, **network.options)


def _unit(model: nn.Module, x: Tensor) -> float:
    """Seconds of a forward pass, of this one thread: other programs do not count."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = next((p for p in model.parameters() if p.is_floating_point()), None)
        given = x if weights is None or not x.is_floating_point() else x.to(weights.dtype)
        model(given)
        start, passes = time.process_time(), 0
        while (took := time.process_time() - start) < 0.2:  # the clock may tick a hundred times a second only
            model(given)
            passes += 1
    return took / passes


def _logits(model: nn.Module, x: Tensor, network: Network) -> Tensor:
    # Twice: torch 2.15 goes back through some networks wrongly for one input alone (`Classifier.in_company`).
    z: Any = model(torch.cat([x, x.detach()]))
    z = z["logits"] if isinstance(z, dict) else getattr(z, "logits", z)
    z = z[:1]
    if network.options.get("likelihood") == "bernoulli" and z.shape[1] == 1:
        return torch.cat([torch.zeros_like(z), z], 1)
    return z


def _truth(plain: nn.Module, x: Tensor, network: Network) -> float:
    """λ₁ of F = JᵀSJ by autograd in float64: from all gradients, or of many classes by an iteration on products."""
    model = copy.deepcopy(plain)
    if network.name == "bfloat16":
        model = model.bfloat16()
    model = model.double()
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        x = x.double().requires_grad_()
        z = _logits(model, x, network)
        metric = _metric(z.detach()[0], network)
        if z.shape[1] <= 10:
            rows = torch.stack([torch.autograd.grad(one, x, retain_graph=True)[0].flatten() for one in z[0]])
            return float(torch.linalg.eigvals(metric(rows @ rows.T)).real.amax())
        forth = _along(model, x, z, network)

        def product(v: Tensor) -> Tensor:
            w = metric(forth(v.view(x.shape)))
            return torch.autograd.grad(z, x, w[None], retain_graph=True)[0].flatten()

        return _largest(product, torch.randn(x.numel(), generator=torch.Generator().manual_seed(0)).double())


def _along(model: nn.Module, x: Tensor, z: Tensor, network: Network) -> Callable[[Tensor], Tensor]:
    """v → J v, by differentiating twice, or forward where torch has no second derivative."""
    u = torch.zeros_like(z, requires_grad=True)
    (back,) = torch.autograd.grad(z, x, u, create_graph=True)
    try:
        torch.autograd.grad(back, u, torch.zeros_like(x), retain_graph=True)
    except RuntimeError:

        def forward(v: Tensor) -> Tensor:
            with forward_ad.dual_level():
                along = _logits(model, forward_ad.make_dual(x.detach(), v), network)
                return forward_ad.unpack_dual(along).tangent[0]

        return forward
    return lambda v: torch.autograd.grad(back, u, v, retain_graph=True)[0][0]


def _largest(product: Callable[[Tensor], Tensor], v: Tensor) -> float:
    """The largest eigenvalue of a symmetric map, by Lanczos' iteration with every vector orthogonal to all before."""
    basis, found = [v / v.norm()], -1.0
    images: list[Tensor] = []
    for _ in range(60):
        w = product(basis[-1])
        images.append(w)
        Q = torch.stack(basis)
        previous, found = found, float(torch.linalg.eigvalsh(Q @ torch.stack(images).T)[-1])
        for _ in range(2):
            w = w - Q.T @ (Q @ w)
        if found - previous <= 1e-10 * found or w.norm() <= 1e-13 * found:
            break
        basis.append(w / w.norm())
    return found


def _metric(z: Tensor, network: Network) -> Callable[[Tensor], Tensor]:
    likelihood = network.options.get("likelihood", "categorical")
    if isinstance(likelihood, fv.Gaussian):
        return lambda w: w / likelihood.sigma**2
    if likelihood == "bernoulli" and network.classes is not None:
        return lambda w: (w.T * (z.sigmoid() * (-z).sigmoid())).T
    p, top = z.softmax(0), z.argmax()

    def metric(w: Tensor) -> Tensor:
        w = w - w[top]  # what all classes share does not count, and in a sure answer would cancel to the last digit
        return (p * (w - p @ w).T).T

    return metric


def _against(s: fv.Spectrum, truth: float) -> str:
    if s.failures:
        raise _RefusedError(next(iter(s.failures.values())))
    value, error = s.spectral_norm.item(), s.error[0, 0].item()
    away = abs(value - truth)
    relative = away / truth if truth else math.inf if away else 0.0
    if away > error + 1e-8 * truth:
        raise _WrongError(f"{value:.9g} ± {error:.1g}, and float64 says {truth:.9g}")
    return f"{relative:.0e}" + (", void" if s.guarantee == "void" else "")


def _bounds(here: Any, there: Any, plain: nn.Module, x: Tensor, network: Network) -> str:
    if here.log10_logits is None:
        raise _RefusedError(here.reason)
    model = copy.deepcopy(plain).double()
    wide = x.double().requires_grad_()
    z = _logits(model, wide, network)
    rows = [torch.autograd.grad(one, wide, retain_graph=True)[0].flatten() for one in z[0]]
    exact = torch.linalg.matrix_norm(torch.stack(rows), 2).log10().item()
    for bound in (here.log10_logits.item(), there.log10_logits):
        if bound is not None and bound < exact - 1e-9:
            raise _WrongError(f"10^{bound:.3f} bounds ‖J‖ = 10^{exact:.3f}")
    if there.log10_logits is None:
        return "at x"
    return "at x and everywhere"


def _second(s: fv.Spectrum) -> int:
    """The class that is next to the predicted one."""
    return int(s.logits[0].topk(2).indices[1])
