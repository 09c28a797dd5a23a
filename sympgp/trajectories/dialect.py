"""Rows and cells of a text: separators, comments, and the line that names the columns."""

import csv
import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sympgp.trajectories.columns import Roles

WHITESPACE = r"\s+"
SEPARATORS = (",", ";", "\t", "|", WHITESPACE)
# The line that names the columns is looked for in a beginning of the text.
_BEGINNING = 1 << 20
_NUMBER_WITH_COMMA = re.compile(r"[-+]?(\d+,\d*|,\d+)([eE][-+]?\d+)?")
_NUMBER_IN_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")


@dataclass(frozen=True)
class Dialect:
    """How a text is to be read, as far as a user says it; see ``Trajectories.from_csv``."""

    sep: str | None = None
    decimal: str | None = None
    comment: str | None = "#"
    skiprows: int = 0

    def __post_init__(self) -> None:
        if self.sep not in (None, WHITESPACE) and (len(self.sep) != 1 or self.sep in '"\r\n'):
            raise ValueError(
                f"sep: expected a single character, r'\\s+' for blanks and tabs, or None, "
                f"got {self.sep!r}"
            )
        if self.decimal not in (None, ".", ","):
            raise ValueError(f"decimal: expected '.', ',' or None, got {self.decimal!r}")
        if self.comment is not None and not self.comment.strip():
            raise ValueError(f"comment: expected a sign such as '#', or None, got {self.comment!r}")
        if self.skiprows < 0:
            raise ValueError(f"skiprows: expected a number of lines, got {self.skiprows}")


@dataclass(frozen=True)
class Sheet:
    """A text taken apart: the names of the columns, and how to get at the rows below."""

    where: str
    header: list[str]
    sep: str
    text: str
    skip_first: bool

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the line and the cells of every row that is not blank, one cell per column."""
        rows = split_rows(self.text, self.sep, self.where)
        if self.skip_first:
            next(rows)
        width = len(self.header)
        for line, cells in rows:
            if len(cells) == width + 1 and not cells[-1].strip():
                cells.pop()  # a separator behind the last cell
            if len(cells) != width:
                raise ValueError(
                    f"{self.where}, line {line}: expected {width} cells as in the line "
                    f"that names the columns, got {len(cells)}"
                )
            yield line, cells

    def columns(self, used: set[int]) -> dict[str, list[Any]]:
        """Return the cells of the columns that are not used, by name."""
        rest = [place for place in range(len(self.header)) if place not in used]
        cells = list(zip(*(row for _, row in self.rows()), strict=True))
        return {self.header[place]: list(cells[place]) for place in rest}


def open_sheet(text: str, where: str, roles: Roles, dialect: Dialect) -> Sheet:
    """Find the separator and the line that names the columns.

    The separator is the one that brings out the most of the columns asked for.
    """
    text = _blank_lines(text, dialect.skiprows)
    text, remark = _blank_comments(text, dialect.comment)
    beginning = text[:_BEGINNING]
    separators = SEPARATORS if dialect.sep is None else (_regular(dialect.sep),)
    headers = {sep: _first_row(beginning, sep, where) for sep in separators}
    found = {sep: roles.count_found(header) for sep, header in headers.items()}
    # Where no column is found, the separator that makes most cells; otherwise the first is best.
    sep = max(separators, key=lambda sep: found[sep] or 1 - 1 / (1 + len(headers[sep])))
    if not headers[sep]:
        next(split_rows(text, sep, where), None)  # says so where the text is not a table at all
        raise ValueError(f"{where} is empty: expected a line that names the columns, then data")
    if not found[sep]:
        # numpy.savetxt and others write the names behind the sign of a comment.
        for other in separators:
            header = _first_row(remark, other, where)
            if roles.count_found(header) == len(roles.numeric):
                return Sheet(where, header, other, text, skip_first=False)
    return Sheet(where, headers[sep], sep, text, skip_first=True)


def hint_at_header(sheet: Sheet, roles: Roles) -> str:
    """Say in which later line the columns are named, if in any of the next hundred."""
    for sep in SEPARATORS:
        rows = split_rows(sheet.text[:_BEGINNING], sep, sheet.where)
        for line, cells in itertools.islice(rows, 1, 101):
            if roles.count_found([cell.strip() for cell in cells]) == len(roles.numeric):
                return f" (line {line} names the columns: skiprows={line - 1} begins there)"
    return ""


def split_rows(text: str, sep: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the cells of each row that is not blank."""
    if sep == WHITESPACE:
        text = re.sub(r"[ \t]+(?=[\r\n]|$)", "", text).replace("\t", " ")
        sep = " "
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sep, skipinitialspace=True)
    line = 1
    try:
        for cells in reader:
            if len(cells) > 1 or (cells and cells[0].strip()):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{where}, line {line}: {error}") from error


def find_decimal(sheet: Sheet, places: list[int], dialect: Dialect) -> str:
    """Return the decimal sign: a comma where only commas occur, and not between cells.

    Raises:
        ValueError: If it cannot be told from the sign between thousands.
    """
    if dialect.decimal is not None or sheet.sep == "," or "," not in sheet.text:
        return dialect.decimal or "."
    first: tuple[int, int, str] | None = None
    for line, cells in sheet.rows():
        for place in places:
            cell = cells[place].strip()
            if _NUMBER_IN_THOUSANDS.fullmatch(cell):
                first = first or (line, place, cell)
            elif _NUMBER_WITH_COMMA.fullmatch(cell):
                return ","
    if first is not None:
        line, place, cell = first
        raise ValueError(
            f"{sheet.where}, line {line}, column {sheet.header[place]!r}: is the comma in {cell!r} "
            "a decimal sign? decimal=',' says so; numbers with a sign between thousands "
            "are not read"
        )
    return "."


def _regular(sep: str) -> str:
    return WHITESPACE if sep == " " else sep


def _first_row(text: str, sep: str, where: str) -> list[str]:
    try:
        cells = next(split_rows(text, sep, where), (0, []))[1]
    except ValueError:  # not with this separator
        return []
    return [cell.strip() for cell in (_join_units(cells) if sep == WHITESPACE else cells)]


def _join_units(cells: list[str]) -> list[str]:
    """Put units in brackets, blanks in them included, behind the names before them."""
    joined: list[str] = []
    for cell in cells:
        before = joined[-1] if joined else ""
        inside = before.count("[") + before.count("(") > before.count("]") + before.count(")")
        if inside or (joined and cell[:1] in ("[", "(")):
            joined[-1] += f" {cell}"
        else:
            joined.append(cell)
    return joined


def _blank_lines(text: str, count: int) -> str:
    """Empty the first lines, so that the others keep their numbers."""
    if not count:
        return text
    lines = io.StringIO(text, newline="").readlines()
    return "\n" * min(count, len(lines)) + "".join(lines[count:])


def _blank_comments(text: str, comment: str | None) -> tuple[str, str]:
    """Empty the lines that begin with a comment, and return what the last at the top said."""
    if comment is None or comment not in text:
        return text, ""
    sign = re.escape(comment)
    top = re.match(rf"(?:[ \t]*(?:{sign}([^\r\n]*))?(?:\r\n|\r|\n))+", text)
    # A quoted cell may hold lines that begin like a comment; it is matched first and left alone.
    pattern = rf'((?<!\w)"(?:[^"]|"")*")|(?<![^\r\n])[ \t]*{sign}[^\r\n]*'
    remark = (top[1] or "") if top else ""
    return re.sub(pattern, lambda m: m[1] or "", text), remark
