"""See how a torch classifier's prediction reacts to its input.

The eigen-decomposition of the input-space Fisher information matrix, as numbers with stated errors and as
views that people can move. Functions give results; results show themselves.
"""

from fimviz import attacks, zoo
from fimviz.attributions import Attributions, attributions
from fimviz.blackbox import BlackBox, BudgetExceeded
from fimviz.bounds.certificate import CertifiedRadius, certified_radius
from fimviz.classifier import Classifier
from fimviz.comparison import BoundComparison, compare_bounds
from fimviz.fisher.methods import spectrum
from fimviz.fisher.spectrum import Spectrum
from fimviz.margins.curve import ShieldingCurve, shielding_curve
from fimviz.margins.shielding import Shielding
from fimviz.margins.trace import trace_margins
from fimviz.margins.traces import MarginTraces
from fimviz.ranking import ModelComparison, compare_models
from fimviz.vulnerability import Vulnerability, vulnerability
from fimviz.zoo.pretrained import from_torchvision

__all__ = [
    "Attributions",
    "BlackBox",
    "BoundComparison",
    "BudgetExceeded",
    "CertifiedRadius",
    "Classifier",
    "MarginTraces",
    "ModelComparison",
    "Shielding",
    "ShieldingCurve",
    "Spectrum",
    "Vulnerability",
    "attacks",
    "attributions",
    "certified_radius",
    "compare_bounds",
    "compare_models",
    "from_torchvision",
    "shielding_curve",
    "spectrum",
    "trace_margins",
    "vulnerability",
    "zoo",
]
