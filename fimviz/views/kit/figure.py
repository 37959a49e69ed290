"""One view, three ways to show it: in a notebook's output, in a file of its own, as a live widget.

A view is a hand-written ES module in anywidget's shape and a dictionary of state. `Figure.html` inlines both with
a small stand-in for the model (host.js), so that the result needs no kernel and no network. A module may import
pure helpers from other modules (`import { a } from "../kit/b.js";`) or a whole view (`import b from "../b/view.js";`);
they are put in its place when it is read.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import posixpath
import re
import warnings
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anywidget
import numpy as np
import traitlets

from fimviz._files import destination, write_whole

KIT = Path(__file__).parent
VIEWS = KIT.parent
_IMPORT = re.compile(r'^import (\{[^}]*\}|\w+) from "(\.{1,2}/[\w/]+\.js)";\n', re.M)
_EXPORT = re.compile(r"^export (?:async )?(?:function|class|const) (\w+)", re.M)
WARN_BYTES = 5_000_000
_NAMED = 12  # samples that a page does not hold, up to which it names them


@cache
def module_source(path: str) -> str:
    """The ES module at a path in `fimviz/views/`, with its helpers inlined, each in a scope of its own."""
    parts: dict[str, str] = {}

    def read(own: str) -> None:
        source = (VIEWS / own).read_text(encoding="utf-8")
        beside = posixpath.dirname(own)
        for _, helper in _IMPORT.findall(source):
            if (other := posixpath.normpath(f"{beside}/{helper}")) not in parts:
                read(other)
        source = _IMPORT.sub(lambda found: _from_scope(found, beside), source)
        parts[own] = source if own == path else _scope(own, source)

    read(path)
    return "\n".join(parts.values())


def _name(path: str) -> str:
    return "$" + path.removesuffix(".js").replace("/", "_")


def _from_scope(found: re.Match[str], beside: str) -> str:
    names, helper = found.groups()
    scope = _name(posixpath.normpath(f"{beside}/{helper}"))
    return f"const {names} = {scope}{'' if names.startswith('{') else '.whole'};\n"


def _scope(path: str, source: str) -> str:
    """A helper as an object of what it exports; its default, a whole view, goes by the name `whole`."""
    names = _EXPORT.findall(source)
    body = re.sub(r"^export default (.*);$", r"const whole = \1;", source, flags=re.M)
    names += ["whole"] if body != source else []
    body = re.sub(r"^export ", "", body, flags=re.M)
    return f"const {_name(path)} = (() => {{\n{body}\nreturn {{ {', '.join(names)} }};\n}})();"


@cache
def style_source() -> str:
    """The style sheet that all views share."""
    return (KIT / "style.css").read_text(encoding="utf-8")


def deflated(content: bytes) -> str:
    """Bytes as a string that a page can carry: deflated, in base64."""
    return base64.b64encode(zlib.compress(content, 9)).decode()


class Payload:
    """A JSON value and arrays as one string that both hosts can carry: deflated, in base64.

    Layout before deflation: the JSON text's length (4 bytes, little-endian), the text, the arrays' bytes.
    """

    def __init__(self) -> None:
        self._arrays = bytearray()

    def add(self, array: np.ndarray) -> list[int]:
        """Append an array; return the [offset, length] that stands for it in the JSON value."""
        raw = np.ascontiguousarray(array).tobytes()
        self._arrays += raw
        return [len(self._arrays) - len(raw), len(raw)]

    def pack(self, data: dict[str, Any]) -> str:
        """The string; NaN and infinities are refused, JSON has none."""
        text = json.dumps(data, separators=(",", ":"), allow_nan=False).encode()
        whole = len(text).to_bytes(4, "little") + text + bytes(self._arrays)
        return deflated(whole)


class Widget(anywidget.AnyWidget):
    """The live host of a view. Its payload is made once; what the reader moves is in the other traits."""

    _css = style_source()
    payload = traitlets.Unicode(help="What the view shows, packed; never changed by the front end.").tag(sync=True)
    summary = "widget"
    # What the page can show of a trait: these values, or those from one number to another.
    offered: Mapping[str, Collection[Any]] = MappingProxyType({})
    limits: Mapping[str, tuple[float, float]] = MappingProxyType({})

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

    def __repr__(self) -> str:
        # anywidget's own holds a memory address, which no stored notebook output can match
        return f"{type(self).__name__}({self.summary})"


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
        host = (KIT / "host.js").read_text(encoding="utf-8").rstrip()
        return (
            f"<style>{style_source()}</style>\n"
            f'<div data-fimviz="{key}"><div class="fimviz fimviz-still">{self.still}'
            '<p class="fimviz-note">This is a still picture: the view moves where scripts may run (in JupyterLab, '
            "trust the notebook).</p></div>"
            f'<script type="application/json">{content}</script></div>\n'
            f"<script>{host}({key!r});</script>"
        )

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
