"""A warning that points at the user's line, however deep inside fimviz it is found out."""

from __future__ import annotations

import sys
import warnings


def tell(message: str) -> None:
    """Warn, as if from the line outside of fimviz that called it."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "fimviz":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
