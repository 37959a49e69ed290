"""What people install: the wheel is whole, works away from the source tree, and imports light."""

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.oldest import oldest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def python(*args, cwd, **env):
    """Standard output of this Python, run in `cwd` with `env` added to the environment."""
    run = subprocess.run(
        [sys.executable, *map(str, args)], cwd=cwd, env=os.environ | env, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    # --no-isolation: the build backend is here already, and the tests need no network. Not run in ROOT, where
    # a leftover build/ folder would be imported in place of the build program.
    python("-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def carried(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_carries_every_file_of_the_package(carried):
    files = [p.relative_to(ROOT) for p in (ROOT / "fimviz").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    visible = {p.as_posix() for p in files if not any(part.startswith(".") for part in p.parts)}
    assert visible <= carried
    # A file that is missing from the source tree as well passes the line above.
    for kind in (".js", ".safetensors", "/py.typed"):
        assert any(name.endswith(kind) for name in carried), f"no {kind} in the wheel"


def test_wheel_carries_the_package_alone(carried):
    metadata = f"fimviz-{PROJECT['version']}.dist-info"
    assert {name.split("/")[0] for name in carried} == {"fimviz", metadata}
    assert not [name for name in carried if Path(name).name.startswith("test_") or name.endswith(".ipynb")]


def test_installed_wheel_renders_a_view_away_from_the_source_tree(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    python("-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=elsewhere)
    code = """if True:
        import fimviz as fv
        print(fv.__file__)
        fv.spectrum(fv.zoo.load("digits-mlp"), fv.zoo.digits().images[:2], k=2).save("x.html")
    """
    # PYTHONPATH comes before what site-packages adds, which is where an editable install points to the source
    # tree; -P keeps the working directory out.
    first_line = python("-P", "-c", code, cwd=elsewhere, PYTHONPATH=str(site)).splitlines()[0]
    assert Path(first_line).is_relative_to(site)
    page = (elsewhere / "x.html").read_text(encoding="utf-8")
    assert "<html" in page
    assert "http://" not in page
    assert "https://" not in page


def test_import_leaves_the_notebook_world_alone(tmp_path):
    heavy = ["anywidget", "ipywidgets", "plotly", "captum", "sklearn", "IPython", "matplotlib", "fimviz.views"]
    heavy += ["lightning", "transformers", "timm", "safetensors"]
    code = f"import fimviz, json, sys; print(json.dumps([name for name in {heavy} if name in sys.modules]))"
    assert json.loads(python("-c", code, cwd=tmp_path)) == []


def test_versions_agree():
    assert importlib.metadata.version("fimviz") == PROJECT["version"]
    assert PROJECT["version"] in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_dependency_states_the_oldest_version_that_will_do():
    pins = [Requirement(pin) for pin in oldest()]
    assert [r.name for r in pins] == [Requirement(given).name for given in PROJECT["dependencies"]]
    assert all(str(r.specifier).startswith("==") for r in pins)
