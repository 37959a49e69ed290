"""The one-click classroom: binder/ names what the package needs, in a size that fits."""

import importlib.metadata
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
BINDER = ROOT / "binder"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TORCH = ["torch", "torchvision"]


def by_name(lines):
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r for r in requirements}


def lines_of(name):
    """The lines that count: no comments, no blanks."""
    text = (BINDER / name).read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


@pytest.fixture(scope="module")
def pinned():
    return by_name(line for line in lines_of("requirements.txt") if not line.startswith("-"))


@pytest.fixture(scope="module")
def needed():
    extras = PROJECT["optional-dependencies"]
    wanted = by_name(PROJECT["dependencies"] + extras["lab"] + extras["photos"])
    assert wanted.pop("fimviz").extras == {"photos"}, "lab brings more than photos: name it here"
    return wanted


def exact(requirement):
    """The version of a requirement of the form name==version."""
    (clause,) = requirement.specifier
    assert clause.operator == "=="
    return Version(clause.version)


def test_every_dependency_is_pinned_within_its_range(pinned, needed):
    """A classroom of next year gets what was tested; `python -m tests.binder --lock` makes the pins anew."""
    assert "jupyterlab" in needed
    for name, requirement in needed.items():
        assert requirement.specifier.contains(exact(pinned[name]).public), name


def test_what_the_pins_need_is_pinned_too(pinned):
    """As far as this environment has the versions that are pinned."""
    known = {canonicalize_name(d.name): d for d in importlib.metadata.distributions()}
    same = [n for n in pinned if n in known and Version(known[n].version).public == exact(pinned[n]).public]
    for name in same:
        for line in known[name].requires or []:
            wanted = Requirement(line)
            if wanted.name.startswith(("nvidia", "cuda", "triton")):
                continue  # of torch's other wheels
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                pin = pinned[canonicalize_name(wanted.name)]
                assert wanted.specifier.contains(exact(pin).public, prereleases=True), f"{name} needs {line}"


def test_badge_and_citation_are_of_the_repository_that_pyproject_names():
    address = PROJECT["urls"]["Repository"]
    owner = address.removeprefix("https://github.com/")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"https://mybinder\.org/v2/gh/([\w-]+/[\w-]+)", text)) == {owner}
    (opened,) = re.findall(r"urlpath=lab/tree/([\w/.]+)", text)
    assert (ROOT / opened).exists()
    assert set(re.findall(r"https://github\.com/([\w-]+/[\w-]+)", text)) <= {owner}
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    said = dict(re.findall(r'^([\w-]+): "?(.+?)"?$', citation, re.MULTILINE))
    assert said["repository-code"] == address
    for field, key in {"title": "name", "version": "version", "license": "license", "abstract": "description"}.items():
        assert said[field] == PROJECT[key]
    assert re.findall(r"^  - name: (.+)$", citation, re.MULTILINE) == [a["name"] for a in PROJECT["authors"]]
    assert re.findall(r"^  - (?!name: )(.+)$", citation, re.MULTILINE) == PROJECT["keywords"]


@pytest.mark.parametrize("name", TORCH)
def test_torch_is_an_exact_cpu_wheel(name, pinned, needed):
    version = exact(pinned[name])
    assert version.local == "cpu"
    assert needed[name].specifier.contains(version.public)
    # +cpu wheels are on this index only.
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in lines_of("requirements.txt")


def test_torchvision_accepts_the_pinned_torch(pinned):
    installed = Version(importlib.metadata.version("torchvision")).public
    if exact(pinned["torchvision"]).public != installed:
        pytest.skip(f"torchvision {installed} is installed: only the pinned one's metadata name its torch")
    wanted = by_name(importlib.metadata.requires("torchvision"))["torch"]
    assert wanted.specifier.contains(exact(pinned["torch"]).public)


def test_post_build_installs_the_package_and_trusts_the_notebooks():
    script = BINDER / "postBuild"
    assert os.access(script, os.X_OK), "Binder runs postBuild as a program"
    assert script.read_bytes().startswith(b"#!")
    subprocess.run(["bash", "-n", script], check=True)
    commands = lines_of("postBuild")
    assert "set -euo pipefail" in commands, "a failed install must fail the build, not the lesson"
    (install,) = (c.split() for c in commands if c.startswith("pip install"))
    assert {"--no-deps", "--no-cache-dir", "."} <= set(install)
    (trust,) = (c.split()[2:] for c in commands if c.startswith("jupyter trust"))
    trusted = {path for pattern in trust for path in ROOT.glob(pattern)}
    stored = {path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts}
    assert stored == trusted


def test_runtime_is_a_python_that_the_package_accepts():
    (line,) = lines_of("runtime.txt")
    version = re.fullmatch(r"python-(\d+\.\d+)", line)
    assert version, line
    assert SpecifierSet(PROJECT["requires-python"]).contains(version[1])


def test_no_file_takes_precedence_over_the_requirements():
    overriding = {
        *("Dockerfile", "environment.yml", "environment.yaml", "Pipfile", "Pipfile.lock"),
        *("Project.toml", "JuliaProject.toml", "default.nix", "install.R", "DESCRIPTION"),
    }
    assert not overriding & {path.name for path in BINDER.iterdir()}
    assert not (ROOT / ".binder").exists(), "Binder refuses a repository with both folders"
