"""The text of a file, whatever its compression and its encoding."""

import bz2
import codecs
import gzip
import importlib
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Readable(Protocol):
    """An open file, of text or of bytes."""

    def read(self) -> str | bytes:
        """Return everything from here to the end."""


Source = str | PathLike[str] | Readable
"""The path of a file, or an open one."""

ZSTD_MODULES = ("compression.zstd", "backports.zstd", "zstandard")
"""Modules that read Zstandard files, the first since Python 3.14."""

# Each is looked for at the beginning of a file; a file need not be called what it is.
_SIGNATURES = {
    "gzip": b"\x1f\x8b",
    "bz2": b"BZh",
    "xz": b"\xfd7zXZ\0",
    "zip": b"PK\x03\x04",
    "zstd": b"\x28\xb5\x2f\xfd",
}
# The marks of UTF-32 begin with those of UTF-16 and come first.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def check_text_options(encoding: str | None, compression: str | None) -> None:
    """Refuse an encoding or a compression that does not exist, before any file is read."""
    if compression not in ("infer", None, *_SIGNATURES):
        raise ValueError(
            f"compression: expected 'infer', None or one of {', '.join(_SIGNATURES)}, "
            f"got {compression!r}"
        )
    try:
        "a".encode(encoding or "utf-8")
    except LookupError as error:
        raise ValueError(f"encoding: expected the name of a text encoding, got {error}") from None


def read_text(source: Source, encoding: str | None, compression: str | None) -> tuple[str, str]:
    """Return the text and what to call the file in a message."""
    if not isinstance(source, str | PathLike):
        name = getattr(source, "name", None)
        where = name if isinstance(name, str) else "the open file"
        content = source.read()
    else:
        content, where = _read_file(Path(source)), str(Path(source))
    if isinstance(content, bytes):
        content = _decode(_decompress(content, compression, where), encoding, where)
    if "\0" in content:
        _refuse_binary(where)
    return content.removeprefix("\ufeff"), where


def _read_file(path: Path) -> bytes:
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a CSV file")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    return path.read_bytes()


def _decompress(content: bytes, compression: str | None, where: str) -> bytes:
    if compression == "infer":
        kinds = (kind for kind, start in _SIGNATURES.items() if content.startswith(start))
        compression = next(kinds, None)
    if compression is None:
        return content
    readers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.decompress,
        "bz2": bz2.decompress,
        "xz": lzma.decompress,
        "zip": _unzip,
        "zstd": _decompress_zstd,
    }
    try:
        return readers[compression](content)
    # The last is a password that is asked for.
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, RuntimeError) as error:
        raise ValueError(
            f"{where}: expected a whole file compressed with {compression}, got {error}"
        ) from error


def _unzip(content: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [n for n in archive.namelist() if not n.endswith("/") and "__MACOSX" not in n]
            if len(names) == 1:
                return archive.read(names[0])
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error
    raise ValueError(
        f"an archive of {len(names)} files where one is expected "
        "(a workbook is read with pandas.read_excel, then from_pandas)"
    )


def _decompress_zstd(content: bytes) -> bytes:
    for name in ZSTD_MODULES:
        try:
            zstd = importlib.import_module(name)
        except ImportError:
            continue
        try:
            return zstd.decompress(content) if name != "zstandard" else _join_frames(zstd, content)
        except zstd.ZstdError as error:
            raise ValueError(str(error)) from error
    raise ValueError("a kind that this Python does not read (pip install zstandard)")


def _join_frames(zstandard: Any, content: bytes) -> bytes:
    """Decompress frame by frame: this module passes over the lack of an end."""
    parts = []
    while content:
        frame = zstandard.ZstdDecompressor().decompressobj()
        parts.append(frame.decompress(content))
        if not frame.eof:
            raise ValueError("data that end too early")
        content = frame.unused_data
    return b"".join(parts)


def _decode(content: bytes, encoding: str | None, where: str) -> str:
    marked = (name for mark, name in _MARKS.items() if content.startswith(mark))
    used = encoding or next(marked, None)
    if used is None:
        used = "utf-8"
        if b"\0" in content:
            # Every other byte of a plain text in UTF-16 is zero.
            odd = content[1::2].count(0) > len(content) // 4
            _refuse_binary(where, ", unless encoding='utf-16-le' reads it" if odd else "")
    try:
        return content.decode(used)
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(used, errors="replace")
        line = len(re.findall(r"\r\n|\r|\n", before)) + 1
        hint = "; try encoding='cp1252' (Windows) or 'latin-1'" if encoding is None else ""
        raise ValueError(
            f"{where}, line {line}: expected text in {used.upper().removesuffix('-SIG')}, got the "
            f"byte 0x{content[error.start]:02x}{hint}"
        ) from error


def _refuse_binary(where: str, hint: str = "") -> None:
    raise ValueError(
        f"{where} is not a CSV file: it holds binary data, expected text in UTF-8{hint} "
        "(from_netcdf reads NetCDF files)"
    )
