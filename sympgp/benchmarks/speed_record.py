"""What a measurement of speed is: a time with its floor, its aim, and files of them."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Quantity = Literal["seconds", "ratio", "slope", "memory_gib"]
SHOWN: dict[Quantity, str] = {
    "seconds": "{} s",
    "ratio": "{}x",
    "slope": "{}",
    "memory_gib": "{} GiB",
}


@dataclass(frozen=True)
class Aim:
    """The most that a quantity should be.

    Example:
        >>> Aim("ratio", 1.5).text()
        'ratio <= 1.5x'
    """

    quantity: Quantity
    most: int | float

    def text(self) -> str:
        """The quantity and its bound."""
        bound = SHOWN[self.quantity].format(f"{self.most:g}")
        return f"{self.quantity.removesuffix('_gib')} <= {bound}"


@dataclass(frozen=True)
class Measurement:
    """One figure: a median time, a slope, or a peak of memory.

    Attributes:
        part: of the benchmark.
        what: was done.
        size: of it, in words.
        seconds: median over the repeats; None of slopes.
        floor: seconds that it is compared with, measured in the same run.
        floor_of: what takes these.
        aim: for one of the quantities; None where there is none.
        amount: what is done in these seconds, in ``unit``; None where it is not counted.
        unit: of the amount, such as "points".
        slope: on log-log axes, of the times of one axis; None of times.
        memory_gib: peak memory of a process that did nothing else, in GiB.
        axis: what grows in a series, "trajectories" or another; empty where nothing does.
        value: how many there are of it.
        repeats: that the median is over.
        device: where it was done.
    """

    part: str
    what: str
    size: str = ""
    seconds: float | None = None
    floor: float | None = None
    floor_of: str = ""
    aim: Aim | None = None
    amount: int | float | None = None
    unit: str = ""
    slope: float | None = None
    memory_gib: float | None = None
    axis: str = ""
    value: int | float | None = None
    repeats: int = 0
    device: str = "cpu"

    @property
    def ratio(self) -> float | None:
        """Seconds over the floor."""
        return self.seconds / self.floor if self.seconds and self.floor else None

    @property
    def rate(self) -> float | None:
        """Amount a second."""
        return self.amount / self.seconds if self.amount and self.seconds else None


def slope(sizes: Sequence[int | float], seconds: Sequence[float]) -> float:
    """Exponent ``k`` of ``seconds = c sizes^k``: the least-squares line on log-log axes.

    Args:
        sizes: positive.
        seconds: positive, as many.

    Raises:
        ValueError: numbers that are not positive, or not two sizes that differ.

    Example:
        >>> round(slope([1, 10, 100], [0.02, 0.2, 2.0]), 6)
        1.0
    """
    if len(sizes) != len(seconds):
        raise ValueError(f"seconds: expected {len(sizes)} of them, got {len(seconds)}")
    if len(set(sizes)) < 2 or not min([*sizes, *seconds]) > 0:
        raise ValueError(f"sizes: expected two that differ, all positive, got {list(sizes)}")
    x, y = [math.log(size) for size in sizes], [math.log(time) for time in seconds]
    x_mean, y_mean = math.fsum(x) / len(x), math.fsum(y) / len(y)
    squares = math.fsum((one - x_mean) ** 2 for one in x)
    products = math.fsum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return products / squares


def series(measurements: Sequence[Measurement], axis: str, what: str) -> list[Measurement]:
    """The times of one thing along one axis, by size."""
    found = [m for m in measurements if (m.axis, m.what) == (axis, what) and m.seconds]
    return sorted(found, key=lambda one: one.value or 0.0)


COLUMNS = (
    "part",
    "what",
    "size",
    "axis",
    "value",
    "seconds",
    "floor",
    "floor_of",
    "ratio",
    "rate",
    "unit",
    "slope",
    "memory_gib",
    "aim",
    "repeats",
    "device",
)
"""Of the file; ``rate`` is in ``unit`` a second."""
MACHINE = ("threads", "machine", "torch", "sympgp")
"""Columns that are the same in all rows."""
HEADINGS = (
    *("what", "size", "time", "floor", "ratio", "floor is", "a second", "memory", "slope", "aim"),
)
"""Of the tables on the terminal."""


def write_csv(
    measurements: Sequence[Measurement], machine: dict[str, str | int], path: Path
) -> None:
    """A row for every measurement; the file is replaced as a whole.

    Args:
        measurements: in the order of the rows.
        machine: what is the same of all, by name in ``MACHINE``.
        path: of the file.
    """
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *MACHINE])
        for one in measurements:
            values = [_cell(getattr(one, name)) for name in COLUMNS]
            writer.writerow([*values, *(machine[name] for name in MACHINE)])
    os.replace(partial, path)


def _cell(value: object) -> object:
    if isinstance(value, Aim):
        return value.text()
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else value


def table(measurements: Sequence[Measurement]) -> list[list[str]]:
    """Headings and rows for the terminal: every figure with its aim beside it."""
    lines = [list(HEADINGS)]
    for one in measurements:
        lines.append(
            [
                one.what if one.device == "cpu" else f"{one.what} ({one.device})",
                one.size,
                duration(one.seconds),
                duration(one.floor),
                "" if one.ratio is None else f"{one.ratio:.3g}x",
                one.floor_of,
                "" if one.rate is None else f"{one.rate:.3g} {one.unit}",
                "" if one.memory_gib is None else f"{one.memory_gib:.2f} GiB",
                "" if one.slope is None else f"{one.slope:.2f}",
                "" if one.aim is None else one.aim.text(),
            ]
        )
    used = [any(column) for column in zip(*lines[1:], strict=True)]
    return [[cell for cell, shown in zip(line, used, strict=True) if shown] for line in lines]


def fits_and_stages(stages: Sequence[Measurement]) -> tuple[list[str], list[str]]:
    """Names of fits and of their stages, each once, in the order in which they were done.

    Args:
        stages: measurements of "fit: stage".
    """
    parts = [m.what.rpartition(": ") for m in stages]
    names = list(dict.fromkeys(name for name, _, _ in parts))
    kinds: list[str] = []
    for name in names:
        after = 0
        for _, _, kind in (part for part in parts if part[0] == name):
            if kind not in kinds:
                kinds.insert(after, kind)
            after = kinds.index(kind) + 1
    return names, kinds


def stage_table(stages: Sequence[Measurement]) -> list[list[str]]:
    """Headings and a row for each fit, with the seconds of each stage in columns."""
    names, kinds = fits_and_stages(stages)
    seconds = {m.what: m.seconds for m in stages}
    lines = [["fit", *kinds]]
    for name in names:
        lines.append([name, *(duration(seconds.get(f"{name}: {kind}")) for kind in kinds)])
    return lines


def duration(seconds: float | None) -> str:
    """In the unit that suits it; empty for None.

    Example:
        >>> duration(0.00123), duration(12.34)
        ('1.23 ms', '12.3 s')
    """
    if seconds is None:
        return ""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"
