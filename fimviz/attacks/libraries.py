"""Attacks of foolbox and AutoAttack where these are installed: found by name, run in pixel space, checked like ours."""

from __future__ import annotations

import difflib
import math
from typing import Any

import torch
from torch import Tensor, nn

from fimviz.attacks.attack import Attack, Options, Search
from fimviz.attacks.problem import Problem
from fimviz.model.classifier import Classifier
from fimviz.model.engine.progress import Tick

FOOLBOX = "foolbox:"
_GRID = 24  # budgets, a factor √2 apart, for attacks that want one budget for a whole batch


class _Logits(nn.Module):
    """The classifier as libraries want it: a module in evaluation mode, pixels in, logits out."""

    def __init__(self, net: Classifier) -> None:
        super().__init__()
        self._net = net

    def forward(self, x: Tensor) -> Tensor:
        return self._net.logits(x)


def foolbox_attack(name: str) -> Attack:
    """The attack "foolbox:NAME" for a class of foolbox.attacks."""
    full = f"{FOOLBOX}{name}"

    def made(net: Classifier, norm: str) -> Any:
        try:
            import foolbox
        except ModuleNotFoundError:
            raise ImportError(f"the attack {full!r} needs foolbox: pip install foolbox") from None
        valid = [n for n, c in vars(foolbox.attacks).items() if isinstance(c, type) and issubclass(c, foolbox.Attack)]
        if name not in valid:
            near = difflib.get_close_matches(name, valid, 1)
            raise ValueError(f"foolbox has no attack {name!r}" + (f": did you mean {near[0]}?" if near else ""))
        _plain(net, full)
        attack = getattr(foolbox.attacks, name)()
        p = getattr(getattr(attack, "distance", None), "p", None)
        if p != (2 if norm == "l2" else math.inf):
            raise ValueError(f"the attack {full!r} measures L{p or '?'}, expected one of norm {norm!r}")
        return attack

    def search(problem: Problem, options: Options) -> Search:
        import foolbox

        net, attack = problem.net, made(problem.net, problem.norm)
        minimal = isinstance(attack, foolbox.attacks.base.MinimizationAttack)

        def smallest(part: Problem, at: Tensor, top: float, progress: Tick) -> tuple[Tensor, Tensor]:
            low, high = net.input_range or (part.x.min().item(), part.x.max().item())
            model = foolbox.PyTorchModel(_Logits(net).eval(), bounds=(low, high), device=part.x.device)
            budgets = [top] if minimal else _budgets(top)
            _, images, _ = attack(model, part.x, part.labels, epsilons=[None] if minimal else budgets)
            return _smallest(part, images, budgets)

        return smallest

    return Attack(
        name=full,
        search=search,
        passes=_passes,
        refuse=made,
        needs="the point, its label, and what foolbox asks of the model",
        short=f"{name} of foolbox",
    )


def _standard(net: Classifier, norm: str) -> Any:
    try:
        from autoattack import AutoAttack
    except ModuleNotFoundError:
        raise ImportError(
            "the attack 'autoattack' needs AutoAttack: pip install git+https://github.com/fra31/auto-attack"
        ) from None
    _plain(net, "autoattack")
    if net.input_range != (0, 1):
        raise ValueError(f"AutoAttack clips to [0, 1], and this model's inputs are in {net.input_range}: leave it out")
    return AutoAttack


def _by_autoattack(problem: Problem, options: Options) -> Search:
    made, net = _standard(problem.net, problem.norm), problem.net
    kind = "L2" if problem.norm == "l2" else "Linf"

    def search(part: Problem, at: Tensor, top: float, progress: Tick) -> tuple[Tensor, Tensor]:
        images = []
        for epsilon in (budgets := _budgets(top)):
            attack = made(_Logits(net).eval(), norm=kind, eps=epsilon, device=part.x.device, verbose=False)
            images.append(attack.run_standard_evaluation(part.x, part.labels, bs=len(part.x)))
        return _smallest(part, images, budgets)

    return search


def _passes(options: Options) -> float:
    return 4000  # nobody knows


AUTOATTACK = Attack(
    name="autoattack",
    search=_by_autoattack,
    passes=_passes,
    refuse=_standard,
    needs="the point, its label, and gradients and answers wherever it goes",
    short="AutoAttack, four attacks",
)


def _plain(net: Classifier, name: str) -> None:
    net.likelihood.one_of_classes(f"the attack {name!r} knows no other models")


def _budgets(top: float) -> list[float]:
    return [top * 2 ** (-k / 2) for k in range(_GRID)][::-1]


def _smallest(part: Problem, images: list[Tensor], budgets: list[float]) -> tuple[Tensor, Tensor]:
    """Of what a library proposes, the shortest change that is seen to succeed within its budget; its length is ε."""
    best = torch.full((len(part.x),), math.inf, dtype=torch.float64)
    kept = part.x.clone()
    best[part.missed(part.x).cpu()] = 0
    for there, budget in zip(images, budgets, strict=True):
        d = there.detach() - part.x
        size = part.length(d).cpu().double()
        moved = part.moved(d / size.to(d).clamp_min(1e-30).view(-1, *[1] * (d.ndim - 1)), size)
        closer = part.fooled(moved).cpu() & (size <= budget * (1 + 1e-4)) & (size < best)
        best = torch.where(closer, size, best)
        kept[closer.to(kept.device)] = moved[closer.to(kept.device)]
    return best, kept
