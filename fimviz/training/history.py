"""`TrainingHistory`: what one monitor or several have recorded, as a table and as charts on one step axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fimviz._options import named_options
from fimviz.result import Result
from fimviz.training.log import read_lines, tell_torn
from fimviz.training.measure import MEASURED

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from fimviz.result import Figure


@dataclass(frozen=True, eq=False, repr=False)
class TrainingHistory(Result):
    """The records of one training run or of several, to be compared.

    Attributes:
        runs: records by the run's name, ascending in their step: dictionaries as a log holds them.
        samples: how many images the probe set of each run has.
    """

    runs: Mapping[str, tuple[dict[str, Any], ...]]
    samples: Mapping[str, int]

    def __len__(self) -> int:
        return sum(map(len, self.runs.values()))

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}: {len(records)} records" for name, records in self.runs.items())
        return f"TrainingHistory({parts})"

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a run and step.

        run, step; accuracy and confidence in [0, 1]; loss, train_loss and cckl in nats; mean_frobenius,
        mean_spectral_norm, median_spectral_norm and mean_trace in nats per squared pixel unit; forwards and vjps for
        each image and seconds, what the record took; note, why something is NaN.
        """
        import pandas as pd

        columns = ["run", "step", *MEASURED, "forwards", "vjps", "seconds", "note"]
        rows = [{"run": name} | record for name, records in self.runs.items() for record in records]
        frame = pd.DataFrame(rows, columns=columns)
        numbers = [*MEASURED, "seconds"]
        whole = ["step", "forwards", "vjps"]
        return frame.astype(dict.fromkeys(numbers, float) | dict.fromkeys(whole, int))

    @property
    def last(self) -> dict[str, dict[str, Any]]:
        """The last record of each run that has one."""
        return {name: records[-1] for name, records in self.runs.items() if records}

    def beside(self, *others: TrainingHistory) -> TrainingHistory:
        """These runs and others in one history; their names differ.

        Example:
            >>> from fimviz.training import TrainingHistory
            >>> a, b = (TrainingHistory({name: ()}, {name: 8}) for name in ("standard", "madry"))
            >>> a.beside(b)
            TrainingHistory(standard: 0 records, madry: 0 records)
        """
        runs, samples = dict(self.runs), dict(self.samples)
        for other in others:
            for name in other.runs:
                if name in runs:
                    raise ValueError(f"two runs are called {name!r}: give FisherMonitor name= to tell them apart")
            runs |= other.runs
            samples |= other.samples
        return TrainingHistory(runs, samples)

    def plot(self) -> go.Figure:
        """Accuracy, loss, CCKL and ‖F‖_F against the step, one line a run, as a plotly figure."""
        return self._plotted()

    @named_options
    def view(self, *, max_bytes: int = 20_000_000) -> Figure:
        """The training view: accuracy, loss, CCKL and ‖F‖_F on one step axis, one line a run, with a scrubber.

        Args:
            max_bytes: refuse a page larger than this.
        """
        return self._viewed(max_bytes=max_bytes)


def read_log(*paths: str | Path) -> TrainingHistory:
    """The history in one log of `FisherMonitor` or in several, also of a run that was killed or still goes on.

    Args:
        paths: the logs. A torn last line is left out, with a warning; a file that is no log is refused.

    Returns:
        A `TrainingHistory` with a run for each log.
    """
    if not paths:
        raise ValueError("no log is given, expected the path of at least one")
    parts = []
    for path in paths:
        lines = read_lines(path)
        if lines.torn:
            tell_torn(path, stacklevel=3)
        if lines.header is None:
            raise ValueError(f"{path} holds no whole line: the run was killed before its first record")
        name = str(lines.header["run"])
        parts.append(TrainingHistory({name: tuple(lines.records)}, {name: int(lines.header["samples"])}))
    return parts[0].beside(*parts[1:])
