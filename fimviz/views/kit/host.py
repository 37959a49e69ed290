"""The live host of a view."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from fimviz.views.kit import reload
from fimviz.views.kit.module import module_source, style_source
from fimviz.views.kit.shown import Page, Row, frame_of

if TYPE_CHECKING:
    import pandas as pd


class Widget(anywidget.AnyWidget):
    """The live host of a view. Its payload is made once; what the reader moves is in the other traits."""

    _module = ""  # the path of the view's module in fimviz/views/
    _numbers: Callable[[Page], Iterator[Row]]  # what its page prints and draws
    _css = style_source()
    payload = traitlets.Unicode(help="What the view shows, packed; never changed by the front end.").tag(sync=True)
    summary = "widget"
    # What the page can show of a trait: these values, or those from one number to another.
    offered: Mapping[str, Collection[Any]] = MappingProxyType({})
    limits: Mapping[str, tuple[float, float]] = MappingProxyType({})

    def __init_subclass__(cls) -> None:
        if "_module" in vars(cls):
            cls._esm = module_source(cls._module)
        super().__init_subclass__()

    def __init__(self, **state: Any) -> None:
        super().__init__(**state)
        if reload.wanted():
            reload.follow(self)

    def fitting(self, name: str, value: Any) -> Any:
        """The value of a trait as the page can show it: a number beyond its limits becomes the nearer of them.

        Raises:
            traitlets.TraitError: the page does not offer it, or it is no number.
        """
        if name in self.offered and value not in self.offered[name]:
            known = list(self.offered[name])
            some = ", ".join(map(repr, known[:24])) + (", …" if len(known) > 24 else "")
            raise traitlets.TraitError(f"{name} is {value!r}, expected one of those shown: {some}")
        if name in self.limits:
            if value != value:
                raise traitlets.TraitError(f"{name} is nan, expected a number")
            low, high = self.limits[name]
            return type(value)(min(high, max(low, value)))
        return value

    def set_up(self, **known: Any) -> None:
        """What Python knows of the view beside its traits, set before anybody holds it."""
        for name, value in known.items():
            setattr(self, name, value)

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take what the page sends; what came out otherwise, or was refused, goes back: both sides hold one value."""
        try:
            super().set_state(sync_data)
        finally:
            if differing := [name for name, sent in sync_data.items() if getattr(self, name, sent) != sent]:
                self.send_state(differing)

    def numbers(self) -> pd.DataFrame:
        """What the page prints and draws now: see `fimviz.views.kit.figure.Figure.numbers`."""
        return frame_of(self._numbers, {name: getattr(self, name) for name in self.trait_names(sync=True)})

    def __repr__(self) -> str:
        # anywidget's own holds a memory address, which no stored notebook output can match
        return f"{type(self).__name__}({self.summary})"
