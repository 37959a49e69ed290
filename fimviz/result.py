"""What all results share: a frame of numbers, a picture, a live widget, a file, and a display of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fimviz._files import destination
from fimviz._surroundings import looked_at_in_ordinary

if TYPE_CHECKING:
    import anywidget
    import pandas as pd
    import plotly.graph_objects as go

    from fimviz.views.kit.figure import Figure as Figure


class Result(ABC):
    """Numbers that show themselves. A subclass gives `frame`, `plot` and `view`; views are imported when shown.

    What a result works out when it is looked at, it works out in ordinary surroundings.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        looked_at_in_ordinary(cls)

    @property
    @abstractmethod
    def frame(self) -> pd.DataFrame:
        """One tidy row a sample or pair."""

    @abstractmethod
    def plot(self) -> go.Figure:
        """A plotly figure, to zoom, hover and publish."""

    @abstractmethod
    def view(self) -> Figure:
        """The interactive view, which needs no kernel."""

    def _plotted(self, **options: Any) -> go.Figure:
        """What `plot` in the room of this type of result gives."""
        from fimviz.views import drawn

        return drawn(self, "plot", options)

    def _viewed(self, **options: Any) -> Figure:
        """What `view` in the room of this type of result gives."""
        return viewed(self, **options)

    def numbers(self, **options: Any) -> pd.DataFrame:
        """What the view prints and draws, as a frame made from its payload; see `Figure.numbers` of the view.

        Args:
            options: of `view`.

        Returns:
            one row a number: `part`, `item`, `name`, `value` (float64) and the `text` that is printed.

        Example, of a linear model, whose page says λ₁ in its title:
            >>> import torch
            >>> import fimviz as fv
            >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
            >>> _ = torch.nn.init.eye_(net[1].weight)
            >>> shown = fv.spectrum(net, torch.full((1, 1, 2, 2), 0.5), k=1).numbers()
            >>> shown[shown.part == "title"][["item", "name", "text"]].values.tolist()
            [['sample 0', 'λ₁', '0.5'], ['sample 0', 'place', '1'], ['sample 0', 'of', '1']]
        """
        return self.view(**options).numbers()

    def widget(self, **options: Any) -> anywidget.AnyWidget:
        """The live widget: its selection is in traits that Python can read, set and observe.

        A view that computes what the reader asks for does so on a copy of the model as it is now: the explorer and the
        margin view take one here, as large as the model's weights. Meanwhile the model itself can be trained; one that
        cannot be copied is not asked, and the view says why.
        """
        return self.view(**options).widget()

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write the view as one HTML file that needs no kernel and no network; return its path.

        The path is checked before the view is made; see `fimviz.views.kit.figure.Figure.save`.
        """
        destination(path)
        return self.view(**options).save(path)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self.view().html()}


def viewed(thing: Any, **options: Any) -> Figure:
    """What `view` in the room of something's type gives: the way up to the views."""
    from fimviz.views import drawn

    view: Figure = drawn(thing, "view", options)
    return view
