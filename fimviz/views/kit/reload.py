"""While ANYWIDGET_HMR is 1, a live view follows its files: what is saved shows in the page a moment later."""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING

from fimviz.views.kit import module

if TYPE_CHECKING:
    from fimviz.views.kit.host import Widget

_SECONDS = 0.3  # between two looks
_SAID = "export default {{ render({{ el }}) {{ el.textContent = {}; }} }};"


def wanted() -> bool:
    """Whether a view is being written: anywidget's own switch."""
    return os.environ.get("ANYWIDGET_HMR") == "1"


def follow(widget: Widget) -> None:
    """Give a widget its module and the style anew after every change of a file, until it is closed or forgotten."""
    threading.Thread(target=_watch, args=(weakref.ref(widget), _stamp()), daemon=True).start()


def _stamp() -> list[tuple[str, int]]:
    files = (path for kind in ("js", "json", "css") for path in module.VIEWS.rglob(f"*.{kind}"))
    return sorted((str(path), path.stat().st_mtime_ns) for path in files)


def _watch(view: weakref.ref[Widget], seen: list[tuple[str, int]]) -> None:
    while (widget := view()) is not None and widget.comm is not None:
        try:
            now = _stamp()
        except FileNotFoundError:  # an editor replaces a file by another
            now = seen
        if now != seen:
            seen = now
            _give(widget)
        del widget  # nothing here keeps it alive while nobody looks
        time.sleep(_SECONDS)


def _give(widget: Widget) -> None:
    module.module_source.cache_clear()
    module.style_source.cache_clear()
    try:
        text = module.module_source(widget._module)
    except (OSError, ValueError, module.ModuleError) as error:
        text = _SAID.format(json.dumps(str(error)))  # in the page, where the writer looks
    widget._esm = text
    widget._css = module.style_source()
