"""The numeric tests with the oldest versions that pyproject.toml allows, as `python -m tests.oldest`.

Makes an environment with this Python in a temporary folder (two to six gigabytes), or in one that is given and then
kept, installs every dependency at its lower bound, and runs `NUMERIC`. Arguments after `--` go to pytest instead of
these.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
NUMERIC = ("model", "fisher", "bounds", "attacks", "margins", "divergence", "test_tables.py", "test_ranks.py")
TOOLS = ("pytest", "hypothesis")


def oldest() -> list[str]:
    """Every dependency at its lower bound, as pip takes it."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    return [f"{r.name}=={floor_of(r)}" for r in map(Requirement, declared)]


def floor_of(requirement: Requirement) -> str:
    (floor,) = [part.version for part in requirement.specifier if part.operator == ">="]
    return floor


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.oldest", description=__doc__.splitlines()[0])
    parser.add_argument("--at", type=Path, help="where the environment is or shall be; by default temporary")
    parser.add_argument("arguments", nargs="*", help="for pytest, after --")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = given.at or Path(folder)
        python = place / "bin" / "python"
        if not python.exists():
            venv.create(place, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-e", ROOT, *oldest(), *TOOLS], check=True)
        subprocess.run([python, "-m", "pip", "list"], check=True)
        chosen = given.arguments or [f"tests/{name}" for name in NUMERIC]
        # without what pyproject.toml asks of pytest: notebooks are no numeric tests
        return subprocess.run([python, "-m", "pytest", "-o", "addopts=", "-q", *chosen], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
