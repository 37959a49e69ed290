"""Attacks: changes of an image, of at most a given length, that should make the model miss a label.

All run in pixel space, because a `Classifier` holds the normalisation. Whatever a method proposes,
`fimviz.attacks.problem.Problem.moved` alone makes images of it, so that all of them stay within the budget and the
input range.
"""

from fimviz.attacks.ascent import pgd
from fimviz.attacks.chance import random
from fimviz.attacks.eigenvector import spectral
from fimviz.attacks.gradient import fgsm
from fimviz.attacks.shortest import descent

__all__ = ["descent", "fgsm", "pgd", "random", "spectral"]
