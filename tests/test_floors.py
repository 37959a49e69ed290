"""The house: every import, lazy ones and those for types included, goes down, but for one edge out of result.py."""

import ast
import re
from pathlib import Path

import pytest

import fimviz

PACKAGE = Path(fimviz.__file__).parent
# From the top; rooms of one floor do not import each other. "_" are the modules with such names, which all may use.
FLOORS = [
    ["fimviz"],
    ["lessons"],
    ["views"],
    ["explorer"],
    ["vulnerability", "attributions", "comparison", "distance"],
    ["ranking", "training", "divergence", "playground"],
    ["bounds", "margins"],
    ["attacks"],
    ["fisher", "zoo"],
    ["model"],
    ["result"],
    ["_"],
]
# Rooms of `fimviz/views/`: the explorer shows other views, and all draw with the kit.
VIEWS = [
    ["views"],
    ["explorer"],
    ["attributions", "comparison", "margins", "perturbation"],
    ["distance", "localaccuracy", "playground", "prediction", "ranking", "reconstruction", "training", "vulnerability"],
    ["divergence"],
    ["kit", "uploads"],
]
UP = ("result", "views")  # a result displays itself


def names(root, package):
    """Modules of a package by their names, with their files."""
    found = {}
    for path in root.rglob("*.py"):
        parts = [package, *path.relative_to(root).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path, known):
    """(line, module) of each import in a file that reaches into `known`, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            reached = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno} imports by dots: name the module"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            reached = [name if name in known else node.module for name in inner]
        else:
            continue
        yield from ((node.lineno, name) for name in reached if name in known)


def wrong_edges(root, package, floors, up=None):
    """Imports that do not go down, as lines to read."""
    known = names(root, package)
    height = {room: -i for i, rooms in enumerate(floors) for room in rooms}
    depth = package.count(".") + 1
    rooms = {name: (name.split(".")[depth:] or [package.rsplit(".", 1)[-1]])[0] for name in known}
    rooms = {name: "_" if room.startswith("_") else room for name, room in rooms.items()}
    assert set(rooms.values()) == set(height), "FLOORS names every room, and no other"
    wrong = []
    for name, path in known.items():
        for line, reached in imports(path, known):
            a, b = rooms[name], rooms[reached]
            if a != b and height[a] <= height[b] and (a, b) != up:
                wrong.append(f"{path.relative_to(root)}:{line} imports {reached}")
    return wrong


def circles(root, package, up=None):
    """Sets of modules that import each other while they run, at any moment, but for one edge between modules."""
    known = names(root, package)
    graph = {name: set() for name in known}
    for name, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        unrun = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
        skipped = {line for n in unrun for line in range(n.lineno, n.end_lineno + 1)}
        reached = {other for line, other in imports(path, known) if line not in skipped}
        graph[name] = reached - {name} - ({f"{package}.{up[1]}"} if up and name == f"{package}.{up[0]}" else set())
    for name in list(graph):  # who reaches whom, by Warshall
        for other in graph:
            if name in graph[other]:
                graph[other] = graph[other] | graph[name]
    return sorted({tuple(sorted(m for m in graph[name] if name in graph[m])) for name in graph if name in graph[name]})


@pytest.fixture
def house(tmp_path):
    """A package of two rooms, which a test furnishes."""

    def furnish(**rooms):
        for name in ("low", "high"):
            (tmp_path / f"{name}.py").write_text(rooms.get(name, ""))
        (tmp_path / "__init__.py").write_text("")
        return tmp_path, "house", [["house"], ["high"], ["low"]]

    return furnish


@pytest.mark.parametrize(
    "text",
    ["from house.high import a", "import house.high", "from house import high", "def f():\n    import house.high"],
)
def test_an_edge_upward_is_seen(house, text):
    line = text.count("\n") + 1
    assert wrong_edges(*house(low=text)) == [f"low.py:{line} imports house.high"]
    assert wrong_edges(*house(low=text), up=("low", "high")) == []
    assert wrong_edges(*house(high=text.replace("high", "low"))) == []


def test_a_circle_is_seen(house):
    root, package, _ = house(high="import house.low", low="def f():\n    import house.high")
    assert circles(root, package) == [("house.high", "house.low")]
    assert circles(root, package, up=("low", "high")) == []
    types = "if TYPE_CHECKING:\n    import house.high"
    house(high="import house.low", low=types)
    assert circles(root, package) == []


def test_rooms_import_downward_but_for_one_edge():
    assert wrong_edges(PACKAGE, "fimviz", FLOORS, UP) == []


def test_views_import_downward():
    assert wrong_edges(PACKAGE / "views", "fimviz.views", VIEWS) == []


def test_no_modules_import_each_other():
    assert circles(PACKAGE, "fimviz", UP) == []


def test_the_edge_upward_is_one_function():
    """Of `result.py`, what runs reaches the table of rooms and nothing that draws."""
    known = names(PACKAGE, "fimviz")
    up = [name for _, name in imports(PACKAGE / "result.py", known) if name.startswith("fimviz.views")]
    assert set(up) == {"fimviz.views", "fimviz.views.kit.figure"}


def test_the_table_of_views_alone_imports_by_a_name_that_it_puts_together():
    """What the tests above cannot read."""
    found = [
        p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py") if re.search(r"import_module|__import__", p.read_text())
    ]
    assert found == [Path("views/__init__.py")]
