"""The attacks, one row each; those of foolbox go by its own names."""

from __future__ import annotations

from typing import Any

from fimviz._ways import named, table
from fimviz.attacks.ascent import PGD
from fimviz.attacks.attack import Attack
from fimviz.attacks.chance import RANDOM
from fimviz.attacks.eigenvector import SPECTRAL
from fimviz.attacks.gradient import FGSM
from fimviz.attacks.libraries import AUTOATTACK, FOOLBOX, foolbox_attack
from fimviz.attacks.shortest import DESCENT

ATTACKS = table(SPECTRAL, FGSM, PGD, DESCENT, RANDOM, AUTOATTACK)


def names() -> list[str]:
    """What an attack may be called."""
    return [*ATTACKS, f"{FOOLBOX}NAME"]


def attack_of(name: Any) -> Attack:
    """The attack of that name."""
    if isinstance(name, str) and name.startswith(FOOLBOX):
        return foolbox_attack(name.removeprefix(FOOLBOX))
    named("attack", name, ATTACKS, names())
    return ATTACKS[name]
