"""A lesson as one HTML file: no kernel, no network, formulas as MathML, views alive.

nbconvert's own pages fetch MathJax, require.js and, as slides, reveal.js from elsewhere, and show raw TeX where they
cannot. Here its reading of markdown is kept, and latex2mathml, which depends on nothing, writes what browsers draw
themselves.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

try:
    import nbformat
    from latex2mathml.converter import convert
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer
except ImportError as error:
    raise ImportError(f"pages of lessons need {error.name}: pip install 'fimviz[lessons]'") from None

_FETCHING = {"src", "srcset", "data", "poster", "background"}  # attributes by which an element loads something
_WIDE = '<div class="wide" tabindex="0" role="group" aria-label="Table">'
_LATER = '<details class="later"><summary>Then look: what the notebook shows next</summary>'
_FUNCTION = re.compile(r"<mi>([a-z]{2,})</mi>(?=(?P<bare><m(?!o|space))?)")
_ALIGNED = re.compile(r"^ |\S {2}", re.M)  # columns of a table, which may not break
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class _Section:
    """What stands from one piece of text to the next: with code and output a screen of the slides."""

    title: str  # of the heading that it stands under
    opens: bool  # whether it begins with that heading
    parts: list[str] = field(default_factory=list)
    asks: bool = False  # whether a prediction stands in it, whose answer what follows may say


class _Markdown(IPythonRenderer):
    """Markdown with formulas as MathML."""

    def __init__(self) -> None:
        super().__init__(escape=False, exclude_anchor_links=True)

    def block_math(self, body: str) -> str:
        return f'<div class="formula" tabindex="0" role="group" aria-label="Formula">{_formula(body, "block")}</div>'

    def inline_math(self, body: str) -> str:
        return _formula(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")


def _formula(tex: str, display: str) -> str:
    try:
        made = str(convert(tex.strip(), display=display))
    except Exception as error:  # its parser raises what it happens to meet
        raise ValueError(f"the formula {tex.strip()!r} is not understood: {type(error).__name__} {error}") from None
    if unknown := re.search(r">(\\\w+)<", made):
        raise ValueError(f"the formula {tex.strip()!r} has {unknown[1]}, which latex2mathml does not know")
    made = _FUNCTION.sub(_spaced, made)
    label = html.escape(" ".join(tex.split()), quote=True)
    return made.replace('xmlns="http://www.w3.org/1998/Math/MathML"', f'alttext="{label}"')


def _spaced(name: re.Match[str]) -> str:
    """The name of a function apart from what stands around it, as TeX has it and latex2mathml leaves out."""
    before = name.string[: name.start()].endswith(("</mo>", "<mrow>"))
    spaces = f'lspace="{0 if before else 0.167}em" rspace="{0.167 if name["bare"] else 0}em"'
    return f'<mo form="prefix" {spaces}>{name[1]}</mo>'


def notebooks(sources: Iterable[Path]) -> list[Path]:
    """The notebooks among files and in folders, in order.

    Raises:
        FileNotFoundError: a source that is not there, or a folder without notebooks.
        ValueError: a file that is no notebook by its name.
    """
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = sorted(source.glob("*.ipynb"))
            if not inside:
                raise FileNotFoundError(f"there is no notebook in the folder {str(source)!r}")
            found += inside
        elif not source.exists():
            raise FileNotFoundError(f"there is no file or folder {str(source)!r}")
        elif source.suffix != ".ipynb":
            raise ValueError(f"{str(source)!r} is no notebook: expected a name that ends in .ipynb")
        else:
            found.append(source)
    return found


def page(path: Path) -> str:
    """The HTML of a notebook as a page to read, with its stored outputs.

    Raises:
        ValueError: a formula that cannot be written as MathML, or an output that would fetch something from elsewhere.
    """
    sections = list(_sections(path))
    links = "".join(f'<li><a href="#s{i}">{s.title}</a></li>' for i, s in enumerate(sections) if i and s.opens)
    contents = f'<nav aria-label="Contents"><details><summary>Contents</summary><ol>{links}</ol></details></nav>'
    parts = []
    for i, section in enumerate(sections):
        within = "".join(section.parts)
        parts.append(f'<section id="s{i}">{within}{contents if i == 0 and links else ""}</section>')
    return _whole(sections, "page", "".join(parts))


def slides(path: Path) -> str:
    """The HTML of a notebook as slides: a screen for each piece of text, with arrow keys, buttons and swipes.

    Raises:
        ValueError: as in `page`.
    """
    sections = list(_sections(path))
    parts = [
        f'<section id="s{i}" tabindex="0" aria-label="Slide {i + 1} of {len(sections)}: {_plain(s.title)}">'
        f"<div>{''.join(s.parts)}</div></section>"
        for i, s in enumerate(sections)
    ]
    steps = (
        '<nav class="steps" aria-label="Slides"><button type="button" data-step="-1" aria-label="Previous slide">←'
        '</button><output></output><button type="button" data-step="1" aria-label="Next slide">→</button></nav>'
    )
    return _whole(sections, "slides", "".join(parts), steps)


def _whole(sections: list[_Section], kind: str, body: str, after: str = "") -> str:
    title = _plain(sections[0].title) if sections else "Lesson"
    style = files("fimviz.lessons").joinpath("page.css").read_text(encoding="utf-8")
    script = files("fimviz.lessons").joinpath("slides.js").read_text(encoding="utf-8")
    sheets: set[str] = set()

    def once(found: re.Match[str]) -> str:
        new = found[0] not in sheets
        sheets.add(found[0])
        return found[0] if new else ""

    body = re.sub(r"<style>.*?</style>", once, body, flags=re.S)  # every view brings the same sheet
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title>\n<style>\n{style}</style></head>\n"
        f'<body class="{kind}">\n<main>{body}</main>\n{after}'
        + (f"<script>{{\n{script}}}</script>\n" if kind == "slides" else "")
        + "</body>\n</html>\n"
    )


def _sections(path: Path) -> Iterator[_Section]:
    """The cells of a notebook as HTML, parted before each piece of text."""
    read = MarkdownWithMath(renderer=_Markdown()).render
    section = _Section("", opens=False)
    for place, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "markdown":
            text = read(cell.source)
            text = text.replace("<table>", f"{_WIDE}<table>").replace("</table>", "</table></div>")
            _stays(text, place)
            if section.parts:
                yield section
            heading = re.search(r"<h[12][^>]*>(.*?)</h[12]>", text, re.S)
            section = _Section(heading[1] if heading else section.title, bool(heading), [text])
        elif cell.cell_type == "code":
            hidden = cell.metadata.get("jupyter", {}).get("source_hidden")
            said = "".join(_output(output, place) for output in cell.outputs)
            exercise = "solution" in cell.metadata.get("tags", [])
            code = "" if hidden or not cell.source else _code(cell.source, exercise)
            if section.asks and not exercise and (code or said):
                folded = section.parts.pop() if section.parts[-1].startswith(_LATER) else f"{_LATER}</details>"
                section.parts.append(f"{folded.removesuffix('</details>')}{code}{said}</details>")
            elif code or said:
                section.parts.append(code + said)
            plain = (output.get("data", {}).get("text/plain", "") for output in cell.outputs)
            section.asks |= any(text.startswith("Figure(predict first:") for text in plain)
    if section.parts:
        yield section


def _code(source: str, exercise: bool) -> str:
    lines = highlight(source, PythonLexer(), HtmlFormatter(nowrap=True))
    blank = re.search(r"\.\.\.\s+# ✎", source)
    said = "Exercise: replace each <code>...</code> in the notebook" if blank else "Exercise, solved"
    note = f'<p class="mark">{said}</p>' if exercise else ""
    return (
        f'<div class="cell{" exercise" if exercise else ""}">{note}<pre class="code"><code>{lines}</code></pre></div>'
    )


def _output(output: Any, place: int) -> str:
    """An output as HTML, the richest form that needs no kernel."""
    data = output.get("data", {})
    if "text/html" in data:
        _stays(data["text/html"], place)
        return f'<div class="shown">{data["text/html"]}</div>'
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return f'<div class="shown"><img alt="" src="data:{kind};base64,{data[kind].strip()}"></div>'
    text = output.get("text") or "\n".join(output.get("traceback", [])) or data.get("text/plain", "")
    text = html.escape(_COLOURS.sub("", text).rstrip())
    if text and not _ALIGNED.search(text):
        return f'<pre class="said words">{text}</pre>'
    return f'<pre class="said" tabindex="0" role="group" aria-label="Output">{text}</pre>' if text else ""


class _Loads(HTMLParser):
    """The addresses that a piece of HTML loads from."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element loads; a link that a reader may follow loads nothing."""
        names = _FETCHING | ({"href"} if tag in ("link", "use", "image") else set())
        self.found += [value for name, value in attrs if value and name in names and not value.startswith("data:")]


def _stays(text: str, place: int) -> None:
    """Refuse what a page without a network could not show."""
    loads = _Loads()
    loads.feed(text)
    if loads.found:
        raise ValueError(f"cell {place + 1} loads {loads.found[0]!r}, which a page without a network cannot: embed it")


def _plain(text: str) -> str:
    """The words of a heading, with formulas as they were written."""
    text = re.sub(r'<math[^>]*alttext="([^"]*)"[^>]*>.*?</math>', r"\1", text, flags=re.S)
    return re.sub(r"<[^>]+>", "", text).strip()
