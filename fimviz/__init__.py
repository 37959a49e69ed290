"""See how a torch classifier's prediction reacts to its input.

The eigen-decomposition of the input-space Fisher information matrix, as numbers with stated errors and as
views that people can move. Functions give results; results show themselves.
"""

from fimviz import zoo
from fimviz.classifier import Classifier
from fimviz.fisher.methods import spectrum
from fimviz.fisher.spectrum import Spectrum

__all__ = ["Classifier", "Spectrum", "spectrum", "zoo"]
