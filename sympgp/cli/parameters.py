"""Kinds of values that options take, checked before anything is computed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

MAX_TIMES = 1_000_000
"""More times than this in one prediction are a slip of the step."""

PICTURES = (".png", ".pdf", ".svg")


class Vector(click.ParamType):
    """The entries of a vector, numbers separated by commas: ``1.0,0.0``.

    Args:
        expected: what they should be, for the error.
        positive: refuse others.
    """

    name = "numbers"

    def __init__(self, expected: str, positive: bool = False) -> None:
        self.expected, self.positive = expected, positive

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """The numbers, in order."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in value.split(","))
        except ValueError:
            numbers = (math.nan,)
        least = 0.0 if self.positive else -math.inf
        if not all(least < number < math.inf for number in numbers):
            self.fail(f"expected {self.expected}, got {value!r}", param, ctx)
        return numbers


class Unit(click.ParamType):
    """A unit, written ``NAME=UNIT``."""

    name = "unit"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """The name and its unit."""
        if isinstance(value, tuple):
            return value
        name, _, unit = value.partition("=")
        if not name.strip() or not unit.strip():
            self.fail(f"expected NAME=UNIT, such as angle=rad, got {value!r}", param, ctx)
        return name.strip(), unit.strip()


class NoiseLevel(click.ParamType):
    """A standard deviation, of one column where it is written ``NAME=NUMBER``."""

    name = "level"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """The name, empty for all columns, and the number."""
        if isinstance(value, tuple):
            return value
        name, _, number = value.rpartition("=")
        try:
            level = float(number)
        except ValueError:
            level = math.nan
        if not (math.isfinite(level) and level > 0):
            self.fail(
                f"expected a positive number, or NAME=NUMBER such as angle=0.05, got {value!r}",
                param,
                ctx,
            )
        return name.strip(), level


class Number(click.ParamType):
    """A finite number, positive where asked."""

    name = "number"

    def __init__(self, positive: bool = False) -> None:
        self.positive = positive

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or (self.positive and number <= 0):
            kind = "positive" if self.positive else "finite"
            self.fail(f"expected a {kind} number, got {value!r}", param, ctx)
        return number


class Numbers(click.ParamType):
    """Numbers separated by commas; whole ones also as a range: ``0-9``, ``0,3,5-7``."""

    name = "numbers"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int | float, ...]:
        """The numbers, each once."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = [number for part in value.split(",") for number in self._part(part.strip())]
        except ValueError:
            numbers = []
        if not numbers or min(numbers) < 0 or not math.isfinite(max(numbers)):
            example = "0-9 or 0,3" if self.kind is int else "3,5,10"
            self.fail(f"expected numbers such as {example}, got {value!r}", param, ctx)
        return tuple(dict.fromkeys(numbers))

    def _part(self, text: str) -> Sequence[int | float]:
        first, dash, last = text.partition("-")
        if dash and first and self.kind is int:
            return range(int(first), int(last) + 1)
        return [self.kind(text)]


class OutputFile(click.ParamType):
    """A file to write, refused at once if it could not be written in the end.

    Of the processes that ``torchrun`` starts the first one writes, so that it alone looks.
    """

    name = "file"

    def __init__(self, suffixes: Sequence[str] = ()) -> None:
        self.suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path; the file itself is left as it is."""
        from sympgp.posterior.storage import check_writable

        path = Path(value)
        if self.suffixes and path.suffix.lower() not in self.suffixes:
            known = ", ".join(self.suffixes)
            self.fail(f"expected a name that ends in one of {known}, got {value!r}", param, ctx)
        if os.environ.get("RANK", "0") != "0":
            return path
        try:
            check_writable(path)
        except ValueError as error:
            self.fail(str(error).removeprefix("path: "), param, ctx)
        return path


InputFile = click.Path(exists=True, dir_okay=False, path_type=Path)


class DataFile(click.Path):
    """A file that exists, or the folder of a Zarr store, whose name ends in ``.zarr``."""

    def __init__(self) -> None:
        super().__init__(exists=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        if Path(value).suffix.lower() == ".zarr":
            return super().convert(value, param, ctx)
        return InputFile.convert(value, param, ctx)


def _use_threads(ctx: click.Context, param: click.Parameter, value: int) -> None:
    import torch

    torch.set_num_threads(value)


threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="COUNT",
    default=1,
    show_default=True,
    expose_value=False,
    callback=_use_threads,
    help="CPU threads. Small problems are fastest with one.",
)


@contextmanager
def as_option(argument: str, option: str) -> Iterator[None]:
    """Let errors about an argument name the option that it was given by.

    Raises:
        ValueError: the same as within, with ``option`` for ``argument`` at its beginning.
    """
    try:
        yield
    except ValueError as error:
        message = str(error)
        if not message.startswith(f"{argument}: "):
            raise
        raise ValueError(f"{option}{message.removeprefix(argument)}") from error


def refuse_same_file(source: Path, target: Path | None) -> None:
    """Refuse to write a result over the file it is made from.

    Raises:
        ValueError: if both are the same file.
    """
    if target is not None and target.exists() and target.samefile(source):
        raise ValueError(f"{target} is the file that is read: expected another one to write")


def time_grid(start: float, until: float, step: float | None) -> list[float]:
    """Times from ``start`` every ``step`` (one 200th of the span when None), and ``until``.

    Raises:
        ValueError: if ``until`` is not after ``start``, or the times would be too many.
    """
    span = until - start
    if not span > 0:
        raise ValueError(f"--until: expected a time after {start:g}, got {until:g}")
    step = span / 200 if step is None else step
    if span / step > MAX_TIMES:
        raise ValueError(
            f"--step: {span / step:.3g} times of a forecast are too many, expected at most "
            f"{MAX_TIMES:,}: a larger step"
        )
    whole = math.floor(span / step * (1 + 1e-12))
    times = [start + k * step for k in range(whole + 1)]
    if until - times[-1] > 1e-9 * step:
        return [*times, until]
    return [*times[:-1], until]


def find_trajectory(name: str | None, labels: Sequence[str]) -> int:
    """Position of the trajectory with this name; numbers from 0 do where no name is a number.

    Raises:
        ValueError: if there is none.
    """
    if name is None:
        return 0
    if name in labels:
        return list(labels).index(name)
    if not any(label.isdecimal() for label in labels) and name.isdecimal():
        if int(name) < len(labels):
            return int(name)
    shown = ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")
    raise ValueError(f"--trajectory: there is no trajectory {name!r}, only {shown}")
