"""Tables of benchmark results: means over seeds with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sympgp.benchmarks.runs import Record, Value


@dataclass(frozen=True)
class Column:
    """A score in a table.

    Attributes:
        title: its heading.
        key: name of the score.
        scale: factor of what is shown.
        rms: show the root of the mean of the squares in place of the mean.
    """

    title: str
    key: str
    scale: float = 1.0
    rms: bool = False


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error, NaN of a single value."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float], rms: bool = False) -> Estimate:
        """Of independent values; of the root of their mean square by the delta method.

        Example:
            >>> Estimate.of([1.0, 2.0, 3.0]).text()
            '2.00 +- 0.58'
        """
        if rms:
            square = cls.of([value**2 for value in values])
            root = math.sqrt(square.mean)
            return cls(root, square.error / (2 * root) if root else 0.0)
        count = len(values)
        mean = math.fsum(values) / count
        if count < 2:
            return cls(mean, math.nan)
        variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
        return cls(mean, math.sqrt(variance / count))

    def text(self, sign: str = "+-") -> str:
        """The error with two digits, and the mean with as many decimals."""
        if not math.isfinite(self.mean) or not self.error > 0 or not math.isfinite(self.error):
            return f"{self.mean:.3g}"
        decimals = max(0, 1 - math.floor(math.log10(self.error)))
        if decimals > 6:
            return f"{self.mean:.2e} {sign} {self.error:.0e}"
        return f"{self.mean:.{decimals}f} {sign} {self.error:.{decimals}f}"


@dataclass(frozen=True)
class Row:
    """One group of runs: same settings but for the seed.

    Attributes:
        settings: that the group shares, by name.
        estimates: by title of the column; None where the score does not apply.
        finished: runs in them.
        failed: runs that have no scores.
    """

    settings: dict[str, Value]
    estimates: dict[str, Estimate | None]
    finished: int
    failed: int


def aggregate(records: Sequence[Record], by: Sequence[str], columns: Sequence[Column]) -> list[Row]:
    """One row for each combination of the settings ``by``, in the order of their first record.

    Scores that are NaN make the mean NaN; those that do not apply are left out.
    """
    groups: dict[tuple[Value, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record.settings[name] for name in by), []).append(record)
    rows = []
    for key, members in groups.items():
        finished = [record.scores for record in members if not record.failure]
        estimates: dict[str, Estimate | None] = {}
        for column in columns:
            given = (scores.get(column.key) for scores in finished)
            values = [column.scale * float(value) for value in given if value is not None]
            estimates[column.title] = Estimate.of(values, column.rms) if values else None
        settings = dict(zip(by, key, strict=True))
        rows.append(Row(settings, estimates, len(finished), len(members) - len(finished)))
    return rows


def _cells(rows: Sequence[Row], columns: Sequence[Column], sign: str) -> list[list[str]]:
    """Headings and rows; settings that all rows share, and scores that none has, are left out."""
    names = [
        name
        for name in (rows[0].settings if rows else ())
        if name == "system" or len({row.settings[name] for row in rows}) > 1
    ]
    used = [c.title for c in columns if any(row.estimates[c.title] for row in rows)]
    lines = [[name.replace("_", " ") for name in names] + used + ["runs"]]
    for row in rows:
        shown = [_setting(row.settings[name]) for name in names]
        for title in used:
            estimate = row.estimates[title]
            shown.append("-" if estimate is None else estimate.text(sign))
        failed = f" ({row.failed} failed)" if row.failed else ""
        lines.append([*shown, f"{row.finished}{failed}"])
    return lines


def _setting(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def common_settings(rows: Sequence[Row]) -> str:
    """The settings that all rows share, as text."""
    if not rows:
        return ""
    first = rows[0].settings
    shared = [n for n in first if len({row.settings[n] for row in rows}) == 1 and n != "system"]
    return ", ".join(f"{name.replace('_', ' ')} {_setting(first[name])}" for name in shared)


def plain_table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Columns aligned with blanks."""
    return aligned(_cells(rows, columns, "+-"))


def markdown_table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """The same as Markdown."""
    return as_markdown(_cells(rows, columns, "±"))


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Lines of cells in columns, the first line as headings; the first column to the left."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    align: list[Callable[[str, int], str]] = [str.ljust, *([str.rjust] * (len(widths) - 1))]
    lines = [
        "  ".join(put(cell, width) for put, cell, width in zip(align, line, widths, strict=True))
        for line in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def as_markdown(cells: Sequence[Sequence[str]]) -> str:
    """The same as a table in Markdown."""
    head, *body = cells
    rule = [":--", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))
