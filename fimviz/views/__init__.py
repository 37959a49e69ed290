"""What people see: a room a question, with its Python module, its JavaScript and its plotly figure."""

from importlib import import_module
from typing import Any, Literal

from fimviz.attributions import Attributions
from fimviz.comparison import BoundComparison
from fimviz.distance import AdversarialDistance
from fimviz.divergence.crosscategory import CrossCategoryKL
from fimviz.divergence.localaccuracy import LocalAccuracy
from fimviz.divergence.reconstruction import Reconstruction
from fimviz.explorer import Explorer
from fimviz.fisher.spectrum import Spectrum
from fimviz.margins.curve import ShieldingCurve
from fimviz.margins.shielding import Shielding
from fimviz.margins.traces import MarginTraces
from fimviz.playground import Playground
from fimviz.ranking import ModelComparison
from fimviz.training import TrainingHistory
from fimviz.vulnerability import Vulnerability

ROOMS: dict[type, str] = {
    AdversarialDistance: "distance",
    Attributions: "attributions",
    BoundComparison: "comparison",
    CrossCategoryKL: "divergence",
    Explorer: "explorer",
    LocalAccuracy: "localaccuracy",
    MarginTraces: "margins",
    ModelComparison: "ranking",
    Playground: "playground",
    Reconstruction: "reconstruction",
    Shielding: "margins",
    ShieldingCurve: "margins",
    Spectrum: "perturbation",
    TrainingHistory: "training",
    Vulnerability: "vulnerability",
}


def drawn(result: Any, kind: Literal["view", "plot"], options: dict[str, Any]) -> Any:
    """The view or the plotly figure of a result: the function of that name in the module of that name in its room."""
    room = next(ROOMS[t] for t in type(result).__mro__ if t in ROOMS)
    return getattr(import_module(f"fimviz.views.{room}.{kind}"), kind)(result, **options)
