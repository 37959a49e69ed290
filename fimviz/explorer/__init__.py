"""Where is a model fragile? All of it for a batch, some samples in full detail."""

from fimviz.explorer.explore import explore
from fimviz.explorer.results import Explorer

__all__ = ["Explorer", "explore"]
