"""The competitors: fimviz, what its users would write themselves, and other libraries at their best settings.

All get the same frozen network in evaluation mode and the same images. Other libraries are imported when run, so
that a missing one is a row of the table.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fimviz as fv
from tests.benchmarks.floor import AT_ONCE, floor_batched, floor_loop, floor_vmap, jacrev_gram
from tests.benchmarks.settings import Setting
from tests.benchmarks.timing import Peer
from tests.benchmarks.truth import FirstClasses, rayleigh


def competitors(setting: Setting, one_by_one: int) -> list[Peer]:
    """Everyone, for one network and batch."""
    net, x = setting.net, setting.x
    some = x[:one_by_one]
    single = f"one image at a time, {len(some)} of them"
    fisher = fv.Classifier(net)
    fisher.admit(x)  # what is asked once of a model
    peers = all_rows(setting, some, single)
    for tolerance in (1e-3, 1e-6):
        for name, verify in (("", False), (", verified", True)):
            options = {"method": "lanczos", "tolerance": tolerance, "verify": verify, "vectors": False}
            peers.append(
                Peer(f"fimviz lanczos {tolerance:g}{name}", lambda o=options: fv.spectrum(fisher, x, **o), _own)
            )
    options = {"method": "power", "tolerance": 1e-3, "max_steps": 50, "verify": False, "vectors": False}
    peers.append(Peer("fimviz power 1e-3", lambda: fv.spectrum(fisher, x, **options), _own, note="at most 50 steps"))
    for xi in (1e-2, 1e-3):
        peers.append(
            Peer(
                f"foolbox VirtualAdversarialAttack, xi={xi:g}",
                lambda xi=xi: foolbox_direction(net, x, xi),
                lambda v: (rayleigh(net, x, v), None),
                note="5 steps; λ₁ is vᵀFv of its direction, in float64",
            )
        )
    peers.append(
        Peer(
            "curvlinops GGN + scipy eigsh",
            lambda: curvlinops_eigsh(net, some),
            _plain,
            len(some) / len(x),
            note=f"ncv=4, tol=1e-3; {single}",
        )
    )
    return peers


def all_rows(setting: Setting, some: Tensor, single: str) -> list[Peer]:
    """Those that take a VJP for every class: where these are too many, a part of them is timed, without a result."""
    net, x, part = setting.net, setting.x, setting.part
    fisher = {}  # networks seen by fimviz

    def spectrum(network: nn.Module, **options) -> fv.Spectrum:
        return fv.spectrum(fisher[network], x, method="exact", **options)

    at_once = None if part is None else AT_ONCE
    runs = [
        ("floor: forward + K−1 VJPs, loop", 1, lambda n: floor_loop(n, x), None),
        ("floor: the same, is_grads_batched", 1, lambda n: floor_batched(n, x), None),
        ("floor: the same, torch.func.vmap", 1, lambda n: floor_vmap(n, x), None),
        ("fimviz exact", 1, lambda n: spectrum(n, k=1, vectors=False, verify=False), _own),
        ("fimviz exact, verified", 1, lambda n: spectrum(n, k=1, vectors=False), _own),
        ("fimviz exact, verified, 5 vectors", 1, lambda n: spectrum(n, k=5), _own),
        ("vmap(jacrev) + Gram", 0, lambda n: jacrev_gram(n, x, at_once), _plain),
        ("published loop over classes", 0, lambda n: published_loop(n, some), _plain),
    ]
    if part is not None:  # verifying costs as much for a part of the classes as for all
        runs = [run for run in runs if "verified" not in run[0]]
    networks = [net] if part is None else [FirstClasses(net, part + 1), FirstClasses(net, 2)]
    for network in networks:
        fisher[network] = fv.Classifier(network)
        fisher[network].admit(x)
    peers = []
    for name, less, run, values in runs:
        peer = Peer(name, lambda r=run: r(networks[0]), values)
        if part is not None:
            peer.values, peer.few = None, lambda r=run: r(networks[1])
            peer.passes = (2 - less, part + 1 - less, setting.classes - less)
            peer.note = f"from {part} VJPs, without Gram and eigenvalues"
        if name.startswith("published"):
            peer.share, peer.note = len(some) / len(x), "; ".join(filter(None, (peer.note, single)))
        peers.append(peer)
    return peers


def _own(spectrum: fv.Spectrum) -> tuple[Tensor, Tensor]:
    return spectrum.spectral_norm, spectrum.error[:, 0]


def _plain(values: Tensor) -> tuple[Tensor, None]:
    return values, None


def foolbox_direction(net: nn.Module, x: Tensor, xi: float) -> Tensor:
    """The direction (n, …) of foolbox 3.3.4's virtual adversarial attack (Miyato 2015), a power iteration on the KL.

    Bounds wide enough that nothing is clipped: a clipped direction would be another.
    """
    import foolbox

    torch.manual_seed(0)
    model = foolbox.PyTorchModel(net, bounds=(-2, 3))
    attack = foolbox.attacks.VirtualAdversarialAttack(steps=5, xi=xi)
    moved, _, _ = attack(model, x, net(x).argmax(1), epsilons=1.0)
    return moved - x


class Shifted(nn.Module):
    """A network of x + δ, with δ its only parameter."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.net, self.delta = net, nn.Parameter(torch.zeros_like(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.delta)


def curvlinops_eigsh(net: nn.Module, images: Tensor) -> Tensor:
    """λ₁ (n,) from curvlinops' generalised Gauss–Newton operator of an additive parameter: it is F for one image."""
    import numpy as np
    from curvlinops import GGNLinearOperator
    from scipy.sparse.linalg import eigsh

    values = []
    for x in images.split(1):
        model = Shifted(net, x)
        loss = nn.CrossEntropyLoss(reduction="sum")
        data = [(x, torch.zeros(1, dtype=torch.long))]  # the Hessian of the loss does not depend on the label
        operator = GGNLinearOperator(model, loss, [model.delta], data, check_deterministic=False, num_data=1)
        start = np.random.default_rng(0).standard_normal(x.numel()).astype(np.float32)
        (value,) = eigsh(
            operator.to_scipy(np.float32), k=1, which="LA", ncv=4, tol=1e-3, v0=start, return_eigenvectors=False
        )
        values.append(float(value))
    return torch.tensor(values)


def published_loop(net: nn.Module, images: Tensor) -> Tensor:
    """λ₁ (n,) as published code for the FIM's norm loops it, written anew: `backward()` for each class.

    One image at a time; the gradients of the parameters are computed on the way, and thrown away.
    """
    parameters = list(net.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        values = []
        for x in images.split(1):
            x = x.clone().requires_grad_()
            log_p = net(x).log_softmax(1)[0]
            rows = []
            for c in range(len(log_p)):
                x.grad = None
                net.zero_grad()
                log_p[c].backward(retain_graph=True)
                rows.append(log_p[c].detach().mul(0.5).exp() * x.grad.flatten())
            a = torch.stack(rows)
            values.append(torch.linalg.eigvalsh((a @ a.T).double())[-1])
        return torch.stack(values)
    finally:
        net.zero_grad()
        for parameter in parameters:
            parameter.requires_grad_(False)
