"""What Binder builds, in a clean environment without Docker: `python -m tests.binder`.

Makes an environment with this Python in a temporary folder (two gigabytes), or in one that is given and then kept,
installs what `binder/` names, runs `binder/postBuild` on a copy of the tree, starts JupyterLab as `binder/start` does,
and runs notebooks beside it. Prints the most memory that all of it takes at a time, which a free session of Binder
ends at 2 GB, and fails where that is more. `--lock` writes `binder/requirements.txt` anew: the newest versions of what
pyproject.toml asks for, every one of them pinned.

The CPU wheels of torch are on an index of their own: where that cannot be reached, name others with `--instead`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import venv
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "binder" / "requirements.txt"
NOTEBOOKS = ("01_quickstart.ipynb", "06_explore_a_model.ipynb")
LIMIT = 2e9  # bytes that a free session of Binder has
TOOLS = {"pip", "wheel", "fimviz"}
TORCH = {"torch", "torchvision"}  # pinned by hand, to CPU wheels that fit each other


def comments_and_pins() -> tuple[list[str], list[str]]:
    """The lines of binder/requirements.txt: comments and options, and pins."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith(("#", "-"))]
    return [line for line in lines if line.startswith(("#", "-"))], pins


def name_of(line: str) -> str:
    return Requirement(line).name


def lock(python: Path) -> None:
    """Pin what an environment has, which is what pyproject.toml led to; torch and torchvision stay as they were."""
    head, pins = comments_and_pins()
    frozen = subprocess.run([python, "-m", "pip", "freeze", "--all"], check=True, capture_output=True, text=True).stdout
    others = [line for line in frozen.splitlines() if "==" in line and name_of(line) not in {*TOOLS, *TORCH}]
    lines = [*head, "", *(pin for pin in pins if name_of(pin) in TORCH), *others, ""]
    REQUIREMENTS.write_text("\n".join(lines), encoding="utf-8")


def wanted() -> list[str]:
    """What pyproject.toml asks for, with the pins of torch and torchvision as they are."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = [r for r in (*project["dependencies"], *extras["photos"], *extras["lab"]) if name_of(r) not in TOOLS]
    torch = [pin for pin in comments_and_pins()[1] if name_of(pin) in TORCH]
    return [*torch, *(r for r in named if name_of(r) not in TORCH)]


def memory(process: int) -> int:
    """Bytes that a process and its children take, what they share counted once."""
    total, waiting = 0, [process]
    while waiting:
        pid = waiting.pop()
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024
            waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        except (OSError, StopIteration):  # it has ended meanwhile
            continue
    return total


def peak(command: list[str | Path], beside: int, **options: object) -> int:
    """The most memory of a command and of another process while it runs."""
    found, ended = [0], threading.Event()
    with subprocess.Popen(command, **options) as running:

        def watch() -> None:
            while not ended.wait(0.05):
                found[0] = max(found[0], memory(running.pid) + memory(beside))

        watching = threading.Thread(target=watch)
        watching.start()
        code = running.wait()
        ended.set()
        watching.join()
    if code:
        raise subprocess.CalledProcessError(code, command)
    return found[0]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.binder", description=__doc__.splitlines()[0])
    parser.add_argument("--at", type=Path, help="where the environment is or shall be; by default temporary")
    parser.add_argument("--instead", nargs="+", default=[], metavar="NAME==VERSION", help="pins to take instead")
    parser.add_argument("--lock", action="store_true", help="write binder/requirements.txt anew, and measure nothing")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place, tree = (given.at or Path(folder, "environment")).resolve(), Path(folder, "tree")
        python = place / "bin" / "python"
        if not python.exists():
            venv.create(place, with_pip=True)
        options = [part for line in comments_and_pins()[0] if line.startswith("-") for part in line.split()]
        asked = wanted() if given.lock else comments_and_pins()[1]
        others = {name_of(line) for line in given.instead}
        pins = [*given.instead, *(line for line in asked if name_of(line) not in others)]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *options, *pins], check=True)
        if given.lock:
            lock(python)
            return 0
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "*.html", "__pycache__"))
        jupyter = {f"JUPYTER_{part}_DIR": str(Path(folder, part.lower())) for part in ("CONFIG", "DATA", "RUNTIME")}
        here = {**os.environ, **jupyter, "PATH": f"{place / 'bin'}:{os.environ['PATH']}"}
        here.pop("PYTHONPATH", None)  # which would bring another fimviz
        subprocess.run([tree / "binder" / "postBuild"], check=True, cwd=tree, env=here)
        start = [tree / "binder" / "start", "jupyter", "lab", "--no-browser", "--allow-root", "--port=0"]
        with subprocess.Popen(start, cwd=tree, env=here, stderr=subprocess.DEVNULL) as lab:
            time.sleep(5)
            try:
                run = ["jupyter", "nbconvert", "--to", "notebook", "--execute", "--output-dir", folder]
                most = {name: peak([*run, f"notebooks/{name}"], lab.pid, cwd=tree, env=here) for name in NOTEBOOKS}
            finally:
                lab.terminate()
        for name, taken in most.items():
            print(f"{name}: at most {taken / 1e9:.2f} GB, JupyterLab included")
        return int(max(most.values()) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
