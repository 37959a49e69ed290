"""What an attack is: an object that its file makes and `fimviz.attacks.table` lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from fimviz._ways import Way
from fimviz.attacks.problem import Problem
from fimviz.attacks.steps import Ascent
from fimviz.fisher.spectrum import Spectrum
from fimviz.model.classifier import Classifier
from fimviz.model.engine.progress import Tick

# From which inputs of a part, and budgets ε (m,), to images changed by ε at most.
Attempt = Callable[[Tensor, Tensor], Tensor]
# From a part of a problem and its places in it.
Aim = Callable[[Problem, Tensor], Attempt]
# From a part, its places, the largest budget and a progress to the smallest ε that succeeds (m,), or ∞, and images.
Search = Callable[[Problem, Tensor, float, Tick], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What attacks are told beside the problem, as in `fimviz.vulnerability`; `spectrum` is that of its inputs."""

    ascent: Ascent = field(default_factory=Ascent)
    halvings: int = 7
    seed: int = 0
    spectrum: Spectrum | None = None


def _nothing(net: Classifier, norm: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Attack(Way):
    """A way to change inputs so that the model misses; the ε that it finds is an upper bound of the smallest.

    Attributes:
        search: what looks for the smallest budget that is enough, made for a whole problem, inside `at_rest()`.
        aim: the same for a budget that is given; None where the attack knows none.
        passes: options → forward passes that the search takes at an input, roughly: one back takes as long as two.
        refuse: raises, before work starts, where the attack cannot be run on this model and in this norm.
        vectors: whether it goes along eigenvectors of F.
    """

    guarantee: str = "upper"
    search: Callable[[Problem, Options], Search]
    aim: Callable[[Problem, Options], Aim] | None = None
    passes: Callable[[Options], float]
    refuse: Callable[[Classifier, str], None] = _nothing
    vectors: bool = False
