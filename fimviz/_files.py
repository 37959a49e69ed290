"""Files that users name: checked before work begins, written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any


def destination(path: Any) -> Path:
    """The file to write to, with ~ expanded and links followed; an error that says why it cannot be written."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"the path is a {type(path).__name__}, expected the name of a file, for instance 'view.html'")
    try:
        given = Path(path).expanduser()
    except RuntimeError:
        raise FileNotFoundError(f"the home folder in {str(path)!r} is not known: write it out") from None
    try:
        goal = Path(os.path.realpath(given)) if given.is_symlink() else given
        mode = goal.lstat().st_mode
    except OSError as error:
        _explain(error, given)
        mode = None
    if not goal.parent.is_dir():
        raise FileNotFoundError(f"the folder {str(goal.parent)!r} does not exist: create it first")
    if mode is None:
        return goal
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{str(path)!r} is a folder, expected the name of a file in it")
    if stat.S_ISLNK(mode):
        raise OSError(f"the link {str(path)!r} leads to itself: give another name")
    if not stat.S_ISREG(mode):
        raise OSError(f"{str(path)!r} is a device or pipe, expected the name of a file")
    if not os.access(goal, os.W_OK):
        raise PermissionError(f"the file {str(path)!r} is write-protected: give another name, or change its mode")
    return goal


def write_whole(path: Any, text: str) -> None:
    """Replace a file by text at once, so that no reader and no failure finds half of it.

    A file that exists keeps its mode and its group, a new one gets what the umask leaves; a symbolic link stays one,
    and what it leads to is written. Another hard link to an old file keeps what it had.
    """
    goal = destination(path)
    before = goal.stat() if goal.exists() else None
    draft = goal.with_name(f".{secrets.token_hex(8)}.draft")  # no longer than a name may be, whatever the file's is
    try:
        # The kernel takes the umask from 0o666 here; a private file's draft is private from its first byte.
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if before is None else 0o600)
    except PermissionError:
        raise PermissionError(f"the folder {str(goal.parent)!r} may not be written to: give another one") from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        if before is not None:
            with suppress(PermissionError, AttributeError):  # a group that is not one's own; a system without any
                os.chown(draft, -1, before.st_gid)
            draft.chmod(stat.S_IMODE(before.st_mode))
        draft.replace(goal)
    finally:
        draft.unlink(missing_ok=True)


def _explain(error: OSError, path: Path) -> None:
    """Raise what a path cannot be; return where it is only not there yet."""
    if error.errno == errno.ENAMETOOLONG:
        raise OSError(
            f"the name {path.name[:20]}… has {len(path.name)} characters, too long for a file: give a shorter one"
        )
    if isinstance(error, NotADirectoryError):
        raise NotADirectoryError(f"a part of {str(path.parent)!r} is a file, expected a folder")
    if not isinstance(error, FileNotFoundError):
        raise error
