"""Attacks: changes of an image, of at most a given length, that should make the model miss a label.

All run in pixel space, because a `Classifier` holds the normalisation. Whatever a method proposes,
`fimviz.attacks.problem.Problem.moved` alone makes images of it, so that all of them stay within the budget and the
input range.
"""

from fimviz.attacks.named import descent, fgsm, pgd, random, spectral

__all__ = ["descent", "fgsm", "pgd", "random", "spectral"]
