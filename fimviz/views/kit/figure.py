"""One view, three ways to show it: in a notebook's output, in a file of its own, as a live widget.

A view is a hand-written ES module in anywidget's shape and a dictionary of state. `Figure.html` inlines both with
a small stand-in for the model (host.js), so that the result needs no kernel and no network.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
import warnings
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fimviz._files import destination, write_whole
from fimviz.views.kit.host import Widget
from fimviz.views.kit.module import module_source, style_source
from fimviz.views.kit.payload import deflated
from fimviz.views.kit.shown import frame_of

if TYPE_CHECKING:
    import pandas as pd

WARN_BYTES = 5_000_000
_NAMED = 12  # samples that a page does not hold, up to which it names them


def left_out(shown: Collection[int], known: Collection[int], which: str, how: str) -> str:
    """What a page says of samples that it does not hold, and how to get them; nothing where it holds all."""
    missing = sorted(set(known) - set(shown))
    if not missing:
        return ""
    those = f"; not {', '.join(map(str, missing))}" if len(missing) <= _NAMED else ""
    return f"{len(shown)} of {len(known)} samples are here, {which}{those}: {how} shows all."


@dataclass(frozen=True, eq=False)
class Figure:
    """A view of a result.

    Attributes:
        widget_class: the live host; its module has the name of the file that defines it.
        state: the synced traits and their values, the packed payload among them.
        still: HTML without scripts: a first picture and the main numbers, for readers without scripts.
        summary: one line about the content.
    """

    widget_class: type[Widget]
    state: dict[str, Any]
    still: str
    summary: str
    max_bytes: int
    fewer: str = ""  # the options of the view that make it smaller
    setup: dict[str, Any] = field(default_factory=dict)  # attributes of the live widget that do not travel

    def __repr__(self) -> str:
        return f"Figure({self.summary})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self.html()}

    def html(self) -> str:
        """A self-contained fragment for a notebook's output."""
        self._weigh()
        data = {"module": deflated(str(self.widget_class._esm).encode()), "state": self.state}
        # inside a script element only "</" and "<!--" could end or change it
        content = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
        key = hashlib.sha256((content + style_source()).encode()).hexdigest()[:16]
        host = module_source("kit/host.js").replace('"the view\'s key"', repr(key))
        return (
            f"<style>{style_source()}</style>\n"
            f'<div data-fimviz="{key}"><div class="fimviz fimviz-still">{self.still}'
            '<p class="fimviz-note">This is a still picture: the view moves where scripts may run (in JupyterLab, '
            "trust the notebook).</p></div>"
            f'<script type="application/json">{content}</script></div>\n'
            f"<script>{{\n{host}}}</script>"  # a block, whose names meet nothing of the page
        )

    def numbers(self) -> pd.DataFrame:
        """What the view prints and draws as it opens, read from its payload as the page reads it.

        Returns:
            one row a number: `part` of the page (a table by its caption), `item` that it is of, its `name`, its
            `value` (float64; NaN for words) and the `text` that the page prints.
        """
        return frame_of(self.widget_class._numbers, self.state)

    def save(self, path: str | Path) -> Path:
        """Write one HTML file that needs no kernel and no network, whole or not at all; return its path.

        Args:
            path: of the file; `~` is the home folder. A file that is there is replaced and keeps its mode, a new one
                gets what the umask leaves, a symbolic link stays one.

        Raises:
            OSError: the folder does not exist, or the path is a folder, a device, write-protected or too long a name.
        """
        destination(path)
        page = (
            '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{self.widget_class.__name__}: {html.escape(self.summary)} — fimviz</title>"
            "<style>:root{color-scheme:light dark}"
            "body{background:Canvas;max-width:1400px;margin:24px auto;padding:0 16px}</style>"
            "</head>\n"
            f"<body>\n<main>\n{self.html()}\n</main>\n</body>\n</html>\n"
        )
        write_whole(path, page)
        return Path(path).expanduser()

    def widget(self) -> Widget:
        """The live widget, linked to Python through its traits."""
        self._weigh()
        widget = self.widget_class(**self.state)
        widget.set_up(**self.setup, summary=self.summary)
        return widget

    def _weigh(self) -> None:
        size = sum(len(v) for v in self.state.values() if isinstance(v, str))
        if size > self.max_bytes:
            raise ValueError(
                f"the view would take {size / 1e6:.1f} MB and max_bytes is {self.max_bytes / 1e6:.1f} MB: "
                + (f"show fewer {self.fewer}, or " if self.fewer else "")
                + f"allow more with .view(max_bytes={math.ceil(size / 1e6)}e6)"
            )
        if size > WARN_BYTES:
            warnings.warn(f"this view takes {size / 1e6:.1f} MB of the notebook or file", stacklevel=4)
