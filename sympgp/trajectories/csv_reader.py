"""The reader of tables in text files.

Every complaint names the line of the file, as an editor counts lines, and the column.
"""

import re
from array import array
from collections.abc import Callable
from operator import itemgetter

import numpy as np

from sympgp.trajectories.columns import Roles
from sympgp.trajectories.dialect import Dialect, Sheet, find_decimal, hint_at_header, open_sheet
from sympgp.trajectories.tables import Rows, Table, assemble
from sympgp.trajectories.text import Source, read_text

MISSING_CELLS = frozenset(["", "NA", "N/A", "n/a", "#N/A", "<NA>", "NULL", "null", "None"])
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?|\d{1,2}:\d{2}.*")


def read_csv(
    source: Source,
    roles: Roles,
    dialect: Dialect,
    encoding: str | None = None,
    compression: str | None = "infer",
) -> Table:
    """Read a text file of rows and cells; see ``Trajectories.from_csv``."""
    text, where = read_text(source, encoding, compression)
    sheet = open_sheet(text, where, roles, dialect)
    found = roles.count_found(sheet.header) == len(roles.numeric)
    hint = "" if found else hint_at_header(sheet, roles)
    layout = roles.locate(sheet.header, where, hint)
    parse = _row_parser(sheet, layout.places, find_decimal(sheet, layout.places, dialect))
    # One flat array of numbers: a file of a million rows would be slow to hold as objects.
    values, lines = array("d"), array("q")
    labels: list[str | None] = []
    for line, cells in sheet.rows():
        values.extend(parse(line, cells))
        lines.append(line)
        if layout.label is not None:
            labels.append(cells[layout.label].strip() or None)
    used = {*layout.places, *([] if layout.label is None else [layout.label])}
    rows = Rows(
        np.array(values).reshape(len(lines), len(roles.numeric)),
        None if layout.label is None else labels,
        where,
        lambda row: f"{where}, line {lines[row]}",
        lambda: sheet.columns(used),
    )
    return assemble(rows, roles, layout)


def _row_parser(
    sheet: Sheet, places: list[int], decimal: str
) -> Callable[[int, list[str]], tuple[float, ...]]:
    """Return a function that turns the cells of a line into its numbers, NaN where missing."""
    pick = itemgetter(*places)
    # Python's float also reads 1_0 and digits of other scripts, which no table means.
    plain = sheet.text.isascii() and "_" not in sheet.text
    convert = {",": _comma_float, ".": float if plain else _plain_float}[decimal]

    def parse(line: int, cells: list[str]) -> tuple[float, ...]:
        try:
            return tuple(map(convert, pick(cells)))
        except ValueError:
            return tuple(parse_cell(line, place, cells) for place in places)

    def parse_cell(line: int, place: int, cells: list[str]) -> float:
        cell = cells[place].strip()
        if cell in MISSING_CELLS:
            return np.nan
        try:
            return convert(cell)
        except ValueError:
            hint = _hint_at_cell(cell, decimal) + _hint_at_units(cells, places, line, sheet)
            _refuse_repeated_header(sheet, line, cells)
            raise ValueError(
                f"{sheet.where}, line {line}, column {sheet.header[place]!r}: "
                f"expected a number, got {cell!r}{hint}"
            ) from None

    return parse


def _plain_float(cell: str) -> float:
    if "_" in cell or not cell.isascii():
        raise ValueError(f"expected a number, got {cell!r}")
    return float(cell)


def _comma_float(cell: str) -> float:
    if "." in cell:
        raise ValueError(f"expected a decimal comma, got {cell!r}")
    return _plain_float(cell.replace(",", "."))


def _refuse_repeated_header(sheet: Sheet, line: int, cells: list[str]) -> None:
    if [cell.strip() for cell in cells] != sheet.header:
        return
    rows = ([cell.strip() for cell in row] for _, row in sheet.rows())
    count = sum(row == sheet.header for row in rows)
    raise ValueError(
        f"{sheet.where}, line {line}: the columns are named again (in {count} "
        f"{'line' if count == 1 else 'lines'} of the data), as where recordings were put one "
        "after the other; remove such lines and give each recording a name of its own in a "
        "column 'trajectory', or read them one by one and join them by Trajectories.concatenate"
    )


def _hint_at_units(cells: list[str], places: list[int], line: int, sheet: Sheet) -> str:
    """A first row without any number may hold units."""
    first = next(sheet.rows())[0] == line
    if first and not any(re.search(r"\d", cells[place]) for place in places):
        return " (units are read behind the names: 'time [s]'; a line of them can begin with '#')"
    return ""


def _hint_at_cell(cell: str, decimal: str) -> str:
    if _DATE.fullmatch(cell):
        return (
            " (dates are taken from a data frame: pandas.read_csv with parse_dates, "
            "then from_pandas)"
        )
    if decimal == "." and re.fullmatch(r"[-+]?\d+,\d+", cell):
        return " (decimal=',' reads decimal commas; no sign is read between thousands)"
    return ""
