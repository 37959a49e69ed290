"""What docstrings and pages name in backticks exists, symbols keep their case, and private names keep their meaning."""

import ast
import builtins
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING"))]
SOURCES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "fimviz").rglob("*.py"))}
DOCUMENTED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module
ELSEWHERE = {"torch", "dataclasses", "Lightning"}  # whose names are not ours
TOOLS = {"training_step", "Output", "interact", "clear_output", "mypy", "venv"}  # and single ones
FILES = [
    f"/{path.relative_to(ROOT).as_posix()}"
    for at in (".", "docs", "fimviz", "tests", "notebooks")
    for path in (ROOT / at).glob("*" if at == "." else "**/*")
]
FILE = re.compile(r".*\.(py|js|md|css|toml|csv|ipynb|venv)")


def docstrings():
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, DOCUMENTED) and (said := ast.get_docstring(node)):
                yield f"{path.relative_to(ROOT)}:{getattr(node, 'name', 1)}", node, said


def words_of(node):
    """The identifiers in code, and the words of its strings: columns, options and values."""
    said = {id(n.body[0].value) for n in ast.walk(node) if isinstance(n, DOCUMENTED) and ast.get_docstring(n)}
    for n in ast.walk(node):
        match n:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.alias(name=name):
                yield from name.split(".")
            case ast.Constant(value=str(text)) if id(n) not in said:
                yield from re.findall(r"\w+", text)


def exists(name):
    """Whether a dotted name of fimviz leads to something, a field of a result included."""
    parts = re.sub(r"^fv\b", "fimviz", name.rstrip(".")).split(".")
    found, left = None, parts
    for end in range(len(parts), 0, -1):
        try:
            found, left = importlib.import_module(".".join(parts[:end])), parts[end:]
        except ModuleNotFoundError:
            continue
        break
    for part in left:
        if part in getattr(found, "__annotations__", {}):
            return True
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return found is not None


@pytest.fixture(scope="module")
def words():
    code = {word for tree in SOURCES.values() for word in words_of(tree)} | set(dir(builtins))
    scripts = {word for path in ROOT.glob("fimviz/**/*.js") for word in re.findall(r"[\w$]+", path.read_text("utf-8"))}
    return code | scripts | {part for path in SOURCES for part in path.with_suffix("").parts} | TOOLS


def missing_files(text):
    """Names of files in backticks, by as much of their paths as is given, that no file has."""
    for name in re.findall(r"`(?:\.\./)?([\w./-]+\.(?:py|js|json|md|css|csv|toml|ipynb))`", text):
        if "NAME" not in name and not any(path.endswith(f"/{name}") for path in FILES):
            yield name


def missing(text, words):
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for name in re.findall(r"(?<![\w./])(?:fv|fimviz)\.[\w.]+", text):
        if not FILE.fullmatch(name) and not exists(name):
            yield name
    for ticked in re.findall(r"`\.?([A-Za-z_]\w*(?:\.\w+)*)(?:\([^`\n]*\))?`", text):
        if FILE.fullmatch(ticked) or ticked.split(".")[0] in ELSEWHERE:
            continue
        if not words.issuperset(ticked.removeprefix("fv.").split(".")):
            yield ticked


def test_what_docstrings_name_exists(words):
    assert [(where, name) for where, _, said in docstrings() for name in missing(said, words)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_pages_name_exists(page, words):
    assert list(missing(page.read_text(encoding="utf-8"), words)) == []


def test_files_that_are_named_exist():
    sources = [*PAGES, *SOURCES, *(ROOT / "fimviz").rglob("*.js")]
    assert [(path.name, name) for path in sources for name in missing_files(path.read_text("utf-8"))] == []
    named = "`docs/words.md`, `kit/chart.js`, `nonesuch.py`, `fimviz/chart.js`"
    assert list(missing_files(named)) == ["nonesuch.py", "fimviz/chart.js"]


def test_a_name_that_does_not_exist_is_found(words):
    text = "`fimviz.attacks.smallest_change`, `spectrum`, `.spectral_nrom` of `fv.Spectrum.trace`, fv.spectre(net)"
    assert set(missing(text, words)) == {"fimviz.attacks.smallest_change", "fv.spectre", "spectral_nrom"}


def test_symbols_at_the_start_of_docstrings_keep_their_case():
    """A formatter makes `X + step` of a sentence about x; then the code knows x, and no X."""
    wrong = []
    for where, node, said in docstrings():
        symbol = re.match(r"([A-Z])(?=ᵀ| [-+−·/])", said)
        if symbol and not isinstance(node, ast.Module):
            names = set(words_of(node))
            wrong += [where] if symbol[1].lower() in names and symbol[1] not in names else []
    assert wrong == []
