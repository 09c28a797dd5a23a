"""Where files can be written."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path


def check_writable(path: str | PathLike[str]) -> Path:
    """The path, refused if it could not be written, before any computing starts.

    Raises:
        ValueError: its folder does not exist, it is a folder, or it may not be written.
    """
    target = Path(path)
    try:
        if target.is_dir():
            raise ValueError(f"path: expected a file to write, got the folder {fspath(path)!r}")
        if not target.parent.is_dir():
            raise ValueError(f"path: the folder {fspath(target.parent)!r} does not exist")
        existed = target.exists()
        with target.open("ab"):
            pass
    except OSError as error:
        raise ValueError(f"path: cannot write {fspath(path)!r}: {error.strerror}") from error
    if not existed:
        target.unlink()
    return target
