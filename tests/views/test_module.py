"""The loader: a view of many modules becomes one, and what it does not carry is refused with its file and line."""

import os
import time

import pytest

from fimviz.views.kit import module as modules
from fimviz.views.kit.host import Widget
from tests.views.test_views import in_node


@pytest.fixture
def views(tmp_path, monkeypatch):
    """A folder of modules in the place of the package's own: give their texts, get the first one inlined."""
    monkeypatch.setattr(modules, "VIEWS", tmp_path)
    (tmp_path / "kit").mkdir()

    def write(**texts):
        modules.module_source.cache_clear()
        for name, text in texts.items():
            (tmp_path / f"{name.replace('_', '/')}.js").write_text(text)
        return modules.module_source(f"{next(iter(texts)).replace('_', '/')}.js")

    yield write
    monkeypatch.undo()  # first, lest something that still runs remembers a text of this folder once more
    modules.module_source.cache_clear()
    modules.style_source.cache_clear()


HELPER = """const own = 2;
export const twice = (x) => own * x;
export async function later(x) { return twice(x); }
export class Kind { name() { return "kind"; } }
export default { render: () => "whole" };
"""


def test_every_form_that_is_carried(views):
    (modules.VIEWS / "kit/data.json").write_text('{"a": [1, 2]}')
    source = views(
        a="""import { twice, later,
  Kind } from "./kit/b.js";
import whole from "./kit/b.js";
import data from "./kit/data.json" with { type: "json" };
import { from } from "./kit/c.js";
const own = 1;
export default { render: async () => [own, twice(2), await later(3), new Kind().name(), whole.render(), data.a, from] };
""",
        kit_b=HELPER,
        kit_c='import { twice } from "./b.js";\nexport const from = twice(4); // an import in words: no statement\n',
    )
    assert source.count("const own = 2") == 1, "a helper of two stands once"
    code = "const made = await import('data:text/javascript,' + encodeURIComponent(data.source));"
    assert in_node(f"{code} return made.default.render()", source=source) == [1, 4, 6, "kind", "whole", [1, 2], 8]


REFUSED = {
    'import * as b from "./kit/b.js";': "this form is not carried",
    'import "./kit/b.js";': "this form is not carried",
    "import { twice } from './kit/b.js';": "this form is not carried",
    'import { twice } from "./kit/b.js"': "this form is not carried",
    'import { twice } from "lodash";': "this form is not carried",
    'import { twice } from "https://a.b/c.js";': "this form is not carried",
    '  import { twice } from "./kit/b.js";': "this form is not carried",
    'const a = 1; import { twice } from "./kit/b.js";': "this form is not carried",
    'import whole, { twice } from "./kit/b.js";': "this form is not carried",
    'import { twice as two } from "./kit/b.js";': "'twice as two' is not carried",
    'import { thrice } from "./kit/b.js";': "kit/b.js exports no thrice, but twice, later, Kind",
    'import { twice } from "./kit/d.js";': "there is no kit/d.js",
    'import c from "./kit/c.js";': "kit/c.js has no default",
    'import { back } from "./kit/e.js";': "fimviz/views/kit/e.js:1: a.js imports this module: a circle",
    'import { twice } from "./kit/b.js" with { type: "json" };': "data, and data alone",
    "export let a = 1;": "this form is not carried",
    "export { a };": "this form is not carried",
    'export * from "./kit/b.js";': "this form is not carried",
    'export { twice } from "./kit/b.js";': "this form is not carried",
    "export function* steps() {}": "this form is not carried",
    "export const { a } = {};": "this form is not carried",
    "export default {\n};": "this form is not carried",
    "export const a = 1;\nexport const a = 2;": "is exported twice",
    "export default 1;\nexport default 2;": "is exported twice",
    'const b = () => import("./kit/b.js");': "import( is not carried",
    "const here = import.meta.url;": "import.meta is not carried",
    "const a = await 1;": "is not carried: import at the top, await in a function",
}


@pytest.mark.parametrize("line", REFUSED)
def test_anything_else_is_refused_by_file_and_line(views, line):
    others = {
        "kit_b": HELPER,
        "kit_c": "export const c = 1;\n",
        "kit_e": 'import { a } from "../a.js";\nexport const back = a;\n',
    }
    with pytest.raises(modules.ModuleError) as refused:
        views(a=f"// a view\n{line}\n", **others)
    assert REFUSED[line] in str(refused.value)
    place = "kit/e.js:1" if "circle" in REFUSED[line] else f"a.js:{3 if 'exported twice' in REFUSED[line] else 2}"
    assert f"fimviz/views/{place}: " in str(refused.value)


def test_every_module_of_the_package_is_carried():
    paths = [path.relative_to(modules.VIEWS) for path in modules.VIEWS.rglob("*.js")]
    assert len(paths) > 30
    for path in paths:
        assert 'from "' not in modules.module_source(path.as_posix())


def test_a_live_view_follows_its_files_while_it_is_written(views, monkeypatch, request):
    (modules.VIEWS / "kit/data.json").write_text('["red"]')
    own = 'import { b } from "./kit/b.js";\nimport data from "./kit/data.json" with { type: "json" };\n'
    views(a=f"{own}export default {{ render: () => [b, data] }};\n", kit_b="export const b = 1;\n")
    (modules.VIEWS / "kit/style.css").write_text(".a {}")
    monkeypatch.setenv("ANYWIDGET_HMR", "1")

    class Written(Widget):
        _module = "a.js"

    widget = Written(payload="")
    request.addfinalizer(widget.close)

    def saved(name, text, seen):
        path = modules.VIEWS / name
        path.write_text(text)
        os.utime(path, ns=(time.time_ns(),) * 2)
        for _ in range(200):
            if seen():
                return True
            time.sleep(0.05)
        return False

    assert saved("kit/b.js", "export const b = 2;\n", lambda: "const b = 2" in widget._esm), "a helper"
    assert saved("kit/data.json", '["blue"]', lambda: '["blue"]' in widget._esm), "the colours"
    assert saved("kit/style.css", ".b {}", lambda: ".b" in widget._css), "the style"
    assert saved("a.js", "export { b };\n", lambda: "fimviz/views/a.js:1: this form" in widget._esm), "the error shows"
    assert saved("a.js", "export default 3;\n", lambda: widget._esm.strip() == "export default 3;")


def test_what_these_tests_wrote_is_forgotten():
    """A style sheet of theirs once stayed with the process, and every page saved after it was bare."""
    assert modules.style_source() == (modules.VIEWS / "kit/style.css").read_text()
    assert ".fv-slider" in modules.style_source()
