"""A log that survives a killed run: JSON lines, one header, then one record a line, appended whole."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fimviz._files import destination

FORMAT = "fimviz training log"


@dataclass(frozen=True)
class Lines:
    """The whole lines of a log; `end` is the byte behind the last of them, and `torn` what follows it."""

    header: dict[str, Any] | None
    records: list[dict[str, Any]]
    end: int
    torn: int


def read_lines(path: str | Path) -> Lines:
    """Read a log, without what a killed run left of its last line."""
    raw = Path(path).expanduser().read_bytes()
    *whole, rest = raw.split(b"\n")
    parsed: list[dict[str, Any]] = []
    end = 0
    for i, line in enumerate(whole, 1):
        try:
            parsed.append(_entry(line, first=i == 1))
        except ValueError as error:
            if i > 1 and i == len(whole) and not rest:  # some file systems leave zeros where a line was to be
                break
            raise ValueError(f"{path}, line {i}: {error}") from None
        end += len(line) + 1
    header = parsed[0] if parsed else None
    return Lines(header, parsed[1:], end, len(raw) - end)


def _entry(line: bytes, first: bool) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if first:
        if not isinstance(entry, dict) or entry.get("format") != FORMAT:
            raise ValueError("this is no training log of fimviz: give another file to log=")
        return entry
    if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
        raise ValueError("not a record: mend or remove this line")
    return entry


class Log:
    """A file to append records to, new or resumed.

    Args:
        path: where, as `fimviz._files.destination` has it.
        header: what the log is of; another log is refused.
        resume: whether to go on where an existing log ends. Without it an existing file is refused.
    """

    def __init__(self, path: str | Path, header: dict[str, Any], resume: bool) -> None:
        self.path, self.header = destination(path), header
        self.records: list[dict[str, Any]] = []
        if not self.path.exists() or not self.path.stat().st_size:
            self.append({"format": FORMAT, **header})
            return
        if not resume:
            raise FileExistsError(
                f"{self.path} exists already: pass resume=True to go on with it, or another file to log="
            )
        lines = read_lines(self.path)
        if lines.header is not None:
            self._compare(lines.header, header)
        if lines.torn:
            tell_torn(self.path, stacklevel=5)
            os.truncate(self.path, lines.end)
        if lines.header is None:
            self.append({"format": FORMAT, **header})
        self.records = lines.records

    def _compare(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        for key, what in (("run", "the run"), ("probe", "the probe set"), ("model", "a model like")):
            if found.get(key) != wanted[key]:
                raise ValueError(
                    f"{self.path} is the log of {what} {found.get(key)!r}, expected {wanted[key]!r}: give another file "
                    "to log=, or resume with the same name, model, images and labels"
                )

    def reopened(self) -> Log:
        """The same log as the file has it now; where there is none, a new one with what was recorded so far."""
        kept = self.path.exists() and self.path.stat().st_size
        log = Log(self.path, self.header, resume=True)
        if not kept:
            for record in self.records:
                log.append(record)
            log.records = self.records
        return log

    def append(self, entry: dict[str, Any]) -> None:
        """Add one line and wait until it is on the disk."""
        line = json.dumps(entry, allow_nan=False, separators=(",", ":")) + "\n"
        with self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())


def tell_torn(path: str | Path, stacklevel: int) -> None:
    """Say that an unfinished line was left out."""
    warnings.warn(f"{path} ends in a torn line, which is left out: the run was killed", stacklevel=stacklevel)
