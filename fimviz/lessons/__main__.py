"""Pages and slides of lessons: python -m fimviz.lessons build FOLDER … [--out DIR]."""

from __future__ import annotations

import argparse
from pathlib import Path

from fimviz._files import write_whole
from fimviz.lessons.page import notebooks, page, slides


def main(arguments: list[str] | None = None) -> None:
    """Write NAME.html and NAME-slides.html for every notebook named, or in a folder named."""
    parser = argparse.ArgumentParser(prog="python -m fimviz.lessons", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="make a page and slides of each notebook")
    build.add_argument("source", nargs="+", type=Path, help="notebooks, or folders of them")
    build.add_argument("--out", type=Path, help="where to write; beside each notebook if left out")
    given = parser.parse_args(arguments)
    try:
        found = notebooks(given.source)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for path in found:
        folder = given.out or path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"cannot write to {str(folder)!r}: {error.strerror}")
        for make, name in ((page, f"{path.stem}.html"), (slides, f"{path.stem}-slides.html")):
            try:
                written = make(path)
            except ValueError as error:
                parser.error(f"{path}: {error}")
            write_whole(folder / name, written)
            print(folder / name)


if __name__ == "__main__":
    main()
