"""One ES module of many: a view with what it imports put in its place, for hosts that load a single piece of text.

A module may take from others, by paths that start with a dot,

    import { a, b } from "../kit/chart.js";                      what they export by name
    import bounds from "../comparison/view.js";                  a whole view
    import palette from "./palette.json" with { type: "json" };  data

and give `export function`, `export async function`, `export class`, `export const` and one `export default …;`.
Anything else is refused when Python reads it, with its file and line: what was left out silently would fail in a
reader's page.
"""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

VIEWS = Path(__file__).parents[1]

_STATEMENT = re.compile(r"(?:^|(?<=[;{}]))[ \t]*(?:import|export)\b(?!\s*[:=,)])", re.M)
_IMPORT = re.compile(
    r'^import (?P<names>\{[^}]*\}|[A-Za-z]\w*) from "(?P<path>\.{1,2}/[\w/]+\.(?:js|json))"'
    r'(?P<json> with \{ type: "json" \})?;$',
    re.M,
)
_EXPORT = re.compile(r"^export (?:(?:async )?function|class|const) ([A-Za-z]\w*)\b", re.M)
_COMMENT = re.compile(r"^[ \t]*(?://.*|/\*\*[\s\S]*?\*/[ \t]*)\n", re.M)
_DEFAULT = re.compile(r"^export default (?=.*;$)", re.M)
_ELSEWHERE = re.compile(
    r"\bimport\s*\((?=\s*[\"'`])|\bimport\.meta\b|^(?:export )?(?:(?:const|let|var) [^=\n]+= *)?await\b", re.M
)


class ModuleError(ImportError):
    """A module of a view that cannot be put into one piece."""


@dataclass(frozen=True)
class _Module:
    """A module as it was read: its own text, and what it gives and takes."""

    path: str
    source: str
    takes: list[re.Match[str]]
    gives: list[str]
    whole: bool  # whether it has a default

    def error(self, at: int, what: str) -> ModuleError:
        """The error for a place in the source."""
        return ModuleError(f"fimviz/views/{self.path}:{self.source.count(chr(10), 0, at) + 1}: {what}")

    def target(self, found: re.Match[str]) -> str:
        """The path, from `fimviz/views/`, of what an import takes from."""
        return posixpath.normpath(posixpath.join(posixpath.dirname(self.path), found["path"]))


@cache
def module_source(path: str) -> str:
    """The module at a path in `fimviz/views/`, with all that it imports in scopes of their own.

    Raises:
        ModuleError: it, or one that it takes from, has an import or export of another form, takes what is not there,
            or takes from itself by a circle; the message names file and line.
    """
    placed: dict[str, _Module | None] = {}  # None while its own imports are read
    parts: list[str] = []

    def place(path: str) -> _Module:
        module, placed[path] = _read(path), None
        for found in module.takes:
            target = module.target(found)
            if not (VIEWS / target).is_file():
                raise module.error(found.start(), f"there is no {target}")
            if found["json"]:
                if target not in placed:
                    parts.append(f"const {_scope(target)} = {json.dumps(_data(target))};")
                    placed[target] = _Module(target, "", [], [], True)
            elif target not in placed:
                place(target)
            if (other := placed[target]) is None:
                raise module.error(found.start(), f"{target} imports this module: a circle")
            _check(module, found, other)
        placed[path] = module
        parts.append(_own(module) if path == entry else _scoped(module))
        return module

    entry = path
    place(path)
    return "\n".join(parts)


def _read(path: str) -> _Module:
    source = (VIEWS / path).read_text(encoding="utf-8")
    takes, gives, whole = (list(form.finditer(source)) for form in (_IMPORT, _EXPORT, _DEFAULT))
    module = _Module(path, source, takes, [g[1] for g in gives], bool(whole))
    carried = {found.start() for found in (*takes, *gives, *whole)}
    for found in _STATEMENT.finditer(source):
        if found.start() not in carried:
            line = source[found.start() :].lstrip().split("\n", 1)[0]
            raise module.error(found.end() - 1, f"this form is not carried, see fimviz/views/kit/module.py: {line}")
    for found in _ELSEWHERE.finditer(source):
        raise module.error(found.start(), f"{found[0].strip()} is not carried: import at the top, await in a function")
    for found in takes:
        if bool(found["json"]) != found["path"].endswith(".json"):
            raise module.error(found.start(), 'data, and data alone, is imported with { type: "json" }')
    for count, found in enumerate(gives):
        if found[1] in module.gives[:count]:
            raise module.error(found.start(), f"{found[1]} is exported twice")
    for found in whole[1:]:
        raise module.error(found.start(), "the default is exported twice")
    return module


def _check(module: _Module, found: re.Match[str], other: _Module) -> None:
    """Whether what an import names is there."""
    if not found["names"].startswith("{"):
        if not other.whole:
            raise module.error(found.start(), f"{other.path} has no default")
        return
    for name in _names(found):
        if not re.fullmatch(r"[A-Za-z]\w*", name):
            raise module.error(found.start(), f"{name!r} is not carried: import names as they are")
        if name not in other.gives:
            known = ", ".join(other.gives) or "nothing by name"
            raise module.error(found.start(), f"{other.path} exports no {name}, but {known}")


def _names(found: re.Match[str]) -> list[str]:
    return [name for part in found["names"].strip("{}").split(",") if (name := part.strip())]


def _data(path: str) -> object:
    return json.loads((VIEWS / path).read_text(encoding="utf-8"))


def _scope(path: str) -> str:
    return "$" + re.sub(r"\W", "$", path.removesuffix(".js"))


def _own(module: _Module) -> str:
    """Its text, in which imports have become constants, without the comments that are for writers alone."""

    def taken(found: re.Match[str]) -> str:
        whole = not found["names"].startswith("{") and not found["json"]
        return f"const {found['names']} = {_scope(module.target(found))}{'.whole' if whole else ''};"

    return _COMMENT.sub("", _IMPORT.sub(taken, module.source))


def _scoped(module: _Module) -> str:
    """The module as an object of what it exports; its default, a whole view, goes by the name `whole`."""
    body = re.sub(r"^export ", "", _DEFAULT.sub("const whole = ", _own(module)), flags=re.M)
    names = [*module.gives, *["whole"] * module.whole]
    return f"const {_scope(module.path)} = (() => {{\n{body}\nreturn {{ {', '.join(names)} }};\n}})();"


@cache
def style_source() -> str:
    """The style sheet that all views share."""
    return (VIEWS / "kit/style.css").read_text(encoding="utf-8")
