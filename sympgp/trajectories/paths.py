"""Where files can be written."""

from __future__ import annotations

import errno
import os
from os import PathLike, fspath
from pathlib import Path


def check_writable(path: str | PathLike[str]) -> Path:
    """The path, refused if it could not be written, before any computing starts.

    Nothing is created, since other processes may look at the same path.

    Raises:
        ValueError: its folder does not exist, it is a folder, or it may not be written.
    """
    target = Path(path)
    try:
        if target.is_dir():
            raise ValueError(f"path: expected a file to write, got the folder {fspath(path)!r}")
        if not target.parent.is_dir():
            raise ValueError(f"path: the folder {fspath(target.parent)!r} does not exist")
        if _exists(target):
            with target.open("ab"):
                pass
        elif not os.access(target.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ValueError(f"path: cannot write {fspath(path)!r}: {error.strerror}") from error
    return target


def _exists(path: Path) -> bool:
    """Whether there is such a file; an error, unlike ``Path.exists``, for names that none has."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True
