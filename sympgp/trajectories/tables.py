"""A long table of numbers and labels, taken apart into trajectories."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sympgp.trajectories.arrays import is_missing
from sympgp.trajectories.columns import DEFAULT_LABEL, Roles

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Table:
    """Trajectories taken out of a long table: the arguments of ``Trajectories``."""

    times: list[Tensor]
    states: list[Tensor]
    inputs: list[Tensor] | None
    labels: list[str]
    names: tuple[str, ...]
    input_names: tuple[str, ...]


def assemble(
    values: np.ndarray,
    labels: Sequence[Any] | None,
    roles: Roles,
    place: Callable[[int], str],
    where: str,
) -> Table:
    """Group rows by trajectory, in the order of first appearance."""
    empty = np.isnan(values).all(1)
    if labels is not None:
        for row in np.flatnonzero(empty).tolist():
            empty[row] = _is_unnamed(labels[row])
    rows = np.flatnonzero(~empty)
    if not len(rows):
        raise ValueError(f"{where} has no rows of data")
    _check_values(values, rows, roles, place)
    codes, names = _group(labels, rows, place)
    order = np.argsort(codes, kind="stable")
    rows, codes = rows[order], codes[order]
    cuts = np.flatnonzero(np.diff(codes)) + 1
    _check_times(values[:, 0], rows, codes, names, place)
    parts = [torch.from_numpy(part) for part in np.split(values[rows], cuts)]
    dim = 2 * len(roles.q)
    states = [part[:, 1 : dim + 1] for part in parts]
    if roles.p is None:
        states = [
            torch.nn.functional.pad(part[:, 1 : dim // 2 + 1], (0, dim // 2), value=torch.nan)
            for part in parts
        ]
    return Table(
        [part[:, 0] for part in parts],
        states,
        [part[:, -len(roles.u) :] for part in parts] if roles.u else None,
        names,
        roles.names,
        roles.u,
    )


def _is_unnamed(label: Any) -> bool:
    return is_missing(label) or label != label


def _check_values(
    values: np.ndarray, rows: np.ndarray, roles: Roles, place: Callable[[int], str]
) -> None:
    """Refuse infinite numbers, and missing times and inputs."""
    needed = np.array([column == roles.time or column in roles.u for column in roles.numeric])
    bad = np.isinf(values[rows]) | (np.isnan(values[rows]) & needed)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        got = values[rows[row], column]
        raise ValueError(
            f"{place(int(rows[row]))}, column {roles.numeric[column]!r}: expected a finite number"
            f"{'' if needed[column] else ', or none where missing'}, "
            f"got {'none' if np.isnan(got) else got}"
        )


def _group(
    labels: Sequence[Any] | None, rows: np.ndarray, place: Callable[[int], str]
) -> tuple[np.ndarray, list[str]]:
    """Return the number of each row's trajectory and the trajectories' names."""
    if labels is None:
        return np.zeros(len(rows), dtype=np.int64), ["0"]
    numbers: dict[Any, int] = {}
    codes = np.array([numbers.setdefault(labels[row], len(numbers)) for row in rows.tolist()])
    for label, code in numbers.items():
        if _is_unnamed(label):
            row = int(rows[np.argmax(codes == code)])
            raise ValueError(f"{place(row)}: expected the name of a trajectory, got none")
    return codes, [str(label) for label in numbers]


def _check_times(
    times: np.ndarray,
    rows: np.ndarray,
    codes: np.ndarray,
    names: list[str],
    place: Callable[[int], str],
) -> None:
    """Refuse trajectories of one point, and times that do not increase from row to row."""
    counts = np.bincount(codes)
    if counts.min() < 2:
        lonely = int(counts.argmin())
        row = int(rows[np.flatnonzero(codes == lonely)[0]])
        raise ValueError(
            f"{place(row)}: expected at least two points of trajectory {names[lonely]!r}, got one"
        )
    late = np.flatnonzero((np.diff(times[rows]) <= 0) & (np.diff(codes) == 0))
    if len(late):
        before, now = rows[late[0]], rows[late[0] + 1]
        raise ValueError(
            f"{place(int(now))}: expected strictly increasing times, but trajectory "
            f"{names[codes[late[0]]]!r} has {times[now]} after {times[before]} "
            f"({place(int(before))})"
        )


def to_frame(values: np.ndarray, columns: list[str], labels: np.ndarray) -> "pandas.DataFrame":
    """Return a long data frame, the labels in front."""
    import pandas  # slow to import, and few need it

    frame = pandas.DataFrame(values, columns=columns)
    frame.insert(0, DEFAULT_LABEL, labels)
    return frame
