"""Which number ranks models by how easily they are fooled?"""

from fimviz.ranking.compare import compare_models
from fimviz.ranking.comparison import Correlation, ModelComparison
from fimviz.ranking.numbers import ModelNumbers

__all__ = ["Correlation", "ModelComparison", "ModelNumbers", "compare_models"]
