"""Readers of long tables, from CSV files and from pandas.

Every complaint names the place: the line of the file, as an editor counts lines, or the row of
the data frame.
"""

import csv
import io
import numbers
import re
from array import array
from collections.abc import Callable, Iterator
from operator import itemgetter
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sympgp.trajectories.arrays import as_tensor, is_missing
from sympgp.trajectories.columns import Roles
from sympgp.trajectories.tables import Table, assemble

if TYPE_CHECKING:
    import pandas

MISSING_CELLS = frozenset(["", "NA", "N/A", "n/a", "#N/A", "<NA>", "NULL", "null", "None"])
# A quoted cell may hold lines that begin with "#"; it is matched first and left as it is.
_QUOTED_OR_COMMENT = re.compile(r'("(?:[^"]|"")*")|^[ \t]*#[^\r\n]*', re.M)


def read_csv(path: str | PathLike[str], roles: Roles) -> Table:
    """Read a comma-separated file; see ``Trajectories.from_csv``."""
    path = Path(path)
    text = _read_text(path)
    rows = _rows(text, path)
    header = [cell.strip() for cell in next(rows, (0, []))[1]]
    if not header:
        raise ValueError(f"{path} is empty: expected a line that names the columns, then data")
    roles.check(header, str(path))
    label = roles.label_column(header)
    label_place = None if label is None else header.index(label)
    parse = _row_parser(text, header, roles, path)
    # One flat array of numbers: a file of a million rows would be slow to hold as objects.
    values, lines = array("d"), array("q")
    labels: list[str | None] = []
    for line, cells in rows:
        if len(cells) != len(header):
            raise ValueError(
                f"{path}, line {line}: expected {len(header)} cells as in the line "
                f"that names the columns, got {len(cells)}"
            )
        values.extend(parse(line, cells))
        lines.append(line)
        if label_place is not None:
            labels.append(cells[label_place].strip() or None)
    table = np.array(values).reshape(len(lines), len(roles.numeric))
    return assemble(
        table,
        None if label_place is None else labels,
        roles,
        lambda row: f"{path}, line {lines[row]}",
        str(path),
    )


def read_frame(frame: "pandas.DataFrame", roles: Roles) -> Table:
    """Take trajectories out of a data frame; see ``Trajectories.from_pandas``."""
    columns = [str(column) for column in frame.columns]
    roles.check(columns, "the data frame")
    label = roles.label_column(columns)

    def place(row: int) -> str:
        return f"row {row} of the data frame (counting from 0)"

    numeric = [_numbers(frame.iloc[:, columns.index(c)], c, place) for c in roles.numeric]
    labels = None if label is None else frame.iloc[:, columns.index(label)].tolist()
    return assemble(np.stack(numeric, 1), labels, roles, place, "the data frame")


def _read_text(path: Path) -> str:
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a CSV file")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    content = path.read_bytes()
    if b"\0" in content:
        raise ValueError(f"{path} is not a CSV file: it holds binary data, expected text in UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: expected text in UTF-8, got the byte "
            f"0x{content[error.start]:02x}"
        ) from error
    # Comments leave empty lines behind, so that lines keep their numbers.
    return _QUOTED_OR_COMMENT.sub(lambda m: m[1] or "", text) if "#" in text else text


def _rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the cells of each row that is not blank, the column names first."""
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    line = 1
    try:
        for cells in reader:
            if len(cells) > 1 or (cells and cells[0].strip()):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {line}: {error}") from error


def _row_parser(
    text: str, header: list[str], roles: Roles, path: Path
) -> Callable[[int, list[str]], tuple[float, ...]]:
    """Return a function that turns the cells of a line into its numbers, NaN where missing."""
    places = [header.index(column) for column in roles.numeric]
    pick = itemgetter(*places)
    # Python's float also reads 1_0 and digits of other scripts, which no CSV file means.
    convert = float if text.isascii() and "_" not in text else _plain_float

    def parse(line: int, cells: list[str]) -> tuple[float, ...]:
        try:
            return tuple(map(convert, pick(cells)))
        except ValueError:
            return tuple(parse_cell(line, i, cells[i].strip()) for i in places)

    def parse_cell(line: int, column: int, cell: str) -> float:
        if cell in MISSING_CELLS:
            return np.nan
        try:
            return convert(cell)
        except ValueError:
            raise ValueError(
                f"{path}, line {line}, column {header[column]!r}: expected a number, got {cell!r}"
            ) from None

    return parse


def _plain_float(cell: str) -> float:
    if "_" in cell or not cell.isascii():
        raise ValueError(f"expected a number, got {cell!r}")
    return float(cell)


def _numbers(series: "pandas.Series", column: str, place: Callable[[int], str]) -> np.ndarray:
    try:
        return as_tensor(series, column).numpy()
    except ValueError:
        for row, item in enumerate(series):
            if not is_missing(item) and (
                isinstance(item, bool) or not isinstance(item, numbers.Real)
            ):
                raise ValueError(
                    f"{place(row)}, column {column!r}: expected a number, got {item!r}"
                ) from None
        raise
