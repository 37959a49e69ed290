"""Checks of what a student made of an exercise: each says what is wrong with it, or what its answer means.

The truth is computed from fimviz or a closed form when the check runs, for the network and image that were given. A
wrong answer raises `Mistake`, which a notebook shows as its sentence alone, without a traceback.
"""

from fimviz.lessons.check.directions import fgsm, in_pixels, longest_change, random_step
from fimviz.lessons.check.given import Mistake
from fimviz.lessons.check.information import fisher, kl, leading, step_for
from fimviz.lessons.check.paths import distance, floor, path_length, shielding
from fimviz.lessons.check.promises import certified, lipschitz, rayleigh, two_classes

__all__ = [
    "Mistake",
    "certified",
    "distance",
    "fgsm",
    "fisher",
    "floor",
    "in_pixels",
    "kl",
    "leading",
    "lipschitz",
    "longest_change",
    "path_length",
    "random_step",
    "rayleigh",
    "shielding",
    "step_for",
    "two_classes",
]
