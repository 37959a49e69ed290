"""The methods of `spectrum`, one row each."""

from fimviz._ways import table
from fimviz.fisher.exact import EXACT
from fimviz.fisher.lanczos import LANCZOS
from fimviz.fisher.power import POWER
from fimviz.fisher.sketch import SKETCH

METHODS = table(EXACT, LANCZOS, POWER, SKETCH)


def by_gradients(*, totals: bool = False) -> list[str]:
    """The names of those that look into the network; with `totals`, of those that give tr F and ‖F‖_F of it too."""
    return [m.name for m in METHODS.values() if not m.answers and m.totals >= totals]
