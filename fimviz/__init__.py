"""See how a torch classifier's prediction reacts to its input.

The eigen-decomposition of the input-space Fisher information matrix, as numbers with stated errors and as
views that people can move. Functions give results; results show themselves.
"""

from fimviz import attacks, zoo
from fimviz.attributions import Attributions, attributions
from fimviz.bounds.ball import BallBound, ball_bound
from fimviz.bounds.certificate import CertifiedRadius, certified_radius
from fimviz.comparison import BoundComparison, compare_bounds
from fimviz.distance import AdversarialDistance, adversarial_distance
from fimviz.divergence.cckl import cckl
from fimviz.divergence.crosscategory import CrossCategoryKL
from fimviz.divergence.local import local_accuracy
from fimviz.divergence.localaccuracy import LocalAccuracy
from fimviz.divergence.reconstruction import Reconstruction, reconstruction
from fimviz.explorer import Explorer, explore
from fimviz.fisher.methods import spectrum
from fimviz.fisher.spectrum import Spectrum
from fimviz.margins.curve import ShieldingCurve, shielding_curve
from fimviz.margins.shielding import Shielding
from fimviz.margins.trace import trace_margins
from fimviz.margins.traces import MarginTraces
from fimviz.model.blackbox import BlackBox, BudgetExceeded
from fimviz.model.classifier import Classifier
from fimviz.model.likelihoods import Gaussian
from fimviz.playground import playground
from fimviz.ranking import ModelComparison, compare_models
from fimviz.training import FisherMonitor, TrainingHistory
from fimviz.vulnerability import Vulnerability, vulnerability
from fimviz.zoo.timm import from_timm
from fimviz.zoo.torchvision import from_torchvision
from fimviz.zoo.transformers import from_transformers

__all__ = [
    "AdversarialDistance",
    "Attributions",
    "BallBound",
    "BlackBox",
    "BoundComparison",
    "BudgetExceeded",
    "CertifiedRadius",
    "Classifier",
    "CrossCategoryKL",
    "Explorer",
    "FisherMonitor",
    "Gaussian",
    "LocalAccuracy",
    "MarginTraces",
    "ModelComparison",
    "Reconstruction",
    "Shielding",
    "ShieldingCurve",
    "Spectrum",
    "TrainingHistory",
    "Vulnerability",
    "adversarial_distance",
    "attacks",
    "attributions",
    "ball_bound",
    "cckl",
    "certified_radius",
    "compare_bounds",
    "compare_models",
    "explore",
    "from_timm",
    "from_torchvision",
    "from_transformers",
    "local_accuracy",
    "playground",
    "reconstruction",
    "shielding_curve",
    "spectrum",
    "trace_margins",
    "vulnerability",
    "zoo",
]
