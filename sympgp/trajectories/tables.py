"""A long table of numbers and labels, taken apart into trajectories."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sympgp.trajectories.arrays import is_missing
from sympgp.trajectories.columns import DEFAULT_LABEL, Layout, Roles
from sympgp.trajectories.time_axis import RECORDINGS, TABLE_ADVICE, Points, diagnose


@dataclass(frozen=True)
class Table:
    """Trajectories taken out of a file or table: the arguments of ``Trajectories``.

    ``dated`` says that the times were dates and are now in seconds.
    """

    times: list[Tensor]
    states: list[Tensor]
    inputs: list[Tensor] | None
    labels: list[str] | None
    names: tuple[str, ...]
    input_names: tuple[str, ...]
    units: dict[str, str]
    dtype: torch.dtype = torch.float64
    dated: bool = False
    covariates: Tensor | None = None
    covariate_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """The rows of a long table.

    Attributes:
        values: Rows of numbers, a column for each of ``Roles.numeric``.
        labels: The name of each row's trajectory; None if there is no such column.
        where: What to call the table in a message.
        place: From the number of a row to where it stands, such as ``data.csv, line 7``.
        others: The entries of the columns that are not used, by name.
    """

    values: np.ndarray
    labels: Sequence[Any] | None
    where: str
    place: Callable[[int], str]
    others: Callable[[], Mapping[str, Sequence[Any]]]


@dataclass(frozen=True)
class Groups:
    """Which rows make up which trajectory: rows in order of trajectory, their trajectories."""

    rows: np.ndarray
    codes: np.ndarray
    names: list[str]


def assemble(table: Rows, roles: Roles, layout: Layout) -> Table:
    """Group rows by trajectory, in the order of first appearance."""
    empty = np.isnan(table.values).all(1)
    if table.labels is not None:
        for row in np.flatnonzero(empty).tolist():
            empty[row] = _is_unnamed(table.labels[row])
    rows = np.flatnonzero(~empty)
    if not len(rows):
        raise ValueError(f"{table.where} has no rows of data")
    _check_values(table, rows, roles)
    codes, names = _group(table.labels, rows, table.place)
    order = np.argsort(codes, kind="stable")
    groups = Groups(rows[order], codes[order], names)
    _check_times(table, groups, roles)
    cuts = np.flatnonzero(np.diff(groups.codes)) + 1
    parts = [torch.from_numpy(part) for part in np.split(table.values[groups.rows], cuts)]
    end = 1 + len(roles.q) + len(roles.p or ())
    last = end + len(roles.u)
    covariates = None
    if roles.covariates:
        covariates = torch.stack([part[0, last:] for part in parts])
        _check_constant(table, groups, roles, last)
    return Table(
        [part[:, 0] for part in parts],
        [complete(part[:, 1:end], roles) for part in parts],
        [part[:, end:last] for part in parts] if roles.u else None,
        None if table.labels is None else names,
        roles.names,
        roles.u,
        layout.units,
        covariates=covariates,
        covariate_names=roles.covariates,
    )


def _check_constant(table: Rows, groups: Groups, roles: Roles, first: int) -> None:
    """Refuse covariates that change within a trajectory."""
    values = table.values[groups.rows][:, first:]
    changed = (np.diff(values, axis=0) != 0) & (np.diff(groups.codes) == 0)[:, None]
    if changed.any():
        row, column = np.argwhere(changed)[0]
        raise ValueError(
            f"{table.place(int(groups.rows[row + 1]))}, column {roles.covariates[column]!r}: "
            f"expected one value for all of trajectory {groups.names[groups.codes[row]]!r}, got "
            f"{values[row + 1, column]} after {values[row, column]} (what changes in time is an "
            "input, u)"
        )


def complete(observed: Tensor, roles: Roles) -> Tensor:
    """Return states with missing momenta where only coordinates were observed."""
    if roles.p is not None:
        return observed
    return torch.nn.functional.pad(observed, (0, len(roles.q)), value=torch.nan)


def _is_unnamed(label: Any) -> bool:
    return is_missing(label) or label != label


def _check_values(table: Rows, rows: np.ndarray, roles: Roles) -> None:
    """Refuse infinite numbers, and missing times, inputs and covariates."""
    values = table.values[rows]
    always = {roles.time, *roles.u, *roles.covariates}
    needed = np.array([column in always for column in roles.numeric])
    bad = np.isinf(values) | (np.isnan(values) & needed)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        got = values[row, column]
        raise ValueError(
            f"{table.place(int(rows[row]))}, column {roles.numeric[column]!r}: expected a finite "
            f"number{'' if needed[column] else ', or none where missing'}, "
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


def _check_times(table: Rows, groups: Groups, roles: Roles) -> None:
    """Refuse trajectories of one point, and times that do not increase from row to row."""
    rows, codes, names = groups.rows, groups.codes, groups.names
    counts = np.bincount(codes)
    if counts.min() < 2:
        lonely = int(counts.argmin())
        row = int(rows[np.flatnonzero(codes == lonely)[0]])
        hint = ""
        if len(counts) > 1 and counts.max() == 1:
            column = roles.trajectory or DEFAULT_LABEL
            hint = f"; every row has a name of its own in column {column!r}"
        raise ValueError(
            f"{table.place(row)}: expected at least two points of trajectory {names[lonely]!r}, "
            f"got one{hint}"
        )
    times = table.values[:, 0]
    late = np.flatnonzero((np.diff(times[rows]) <= 0) & (np.diff(codes) == 0))
    if len(late):
        before, now = rows[late[0]], rows[late[0] + 1]
        code = codes[late[0]]
        more = len(np.unique(codes[late])) - 1
        raise ValueError(
            f"{table.place(int(now))}: expected strictly increasing times, but trajectory "
            f"{names[code]!r} has {times[now]} after {times[before]} "
            f"({table.place(int(before))}): {_explain(table, rows[codes == code], roles)}"
            + (f" (trajectories out of order: {more + 1})" if more else "")
        )


def _explain(table: Rows, rows: np.ndarray, roles: Roles) -> str:
    """Say what the times of a trajectory's rows look like, and what to do."""

    def place(point: int) -> str:
        # The table's name stands before the first comma, and in the message already.
        return table.place(int(rows[point])).removeprefix(f"{table.where}, ")

    values = table.values[rows]
    found = diagnose(Points(values[:, 0], values[:, 1:], roles.numeric[1:], place))
    keys = [roles.time] if table.labels is None else [roles.trajectory or DEFAULT_LABEL, roles.time]
    advice = TABLE_ADVICE[found.kind].format(keys=keys)
    if table.labels is not None:
        if found.kind == RECORDINGS:
            advice = "give each a name of its own"
    elif found.kind != "duplicates":
        columns = _telling_columns(table, rows)
        if columns:
            listed = ", ".join(map(repr, columns))
            them = "column" if len(columns) == 1 else "columns"
            advice = f"{them} {listed} may tell recordings apart: trajectory={columns[0]!r}"
    return f"{found.text}; {advice}"


def _telling_columns(table: Rows, rows: np.ndarray) -> list[str]:
    """Return unused columns by which the rows fall into trajectories of increasing times."""
    times = table.values[rows, 0]
    found = []
    for name, entries in table.others().items():
        chosen = [entries[row] for row in rows.tolist()]
        _, codes = np.unique(np.array([str(entry) for entry in chosen]), return_inverse=True)
        order = np.argsort(codes, kind="stable")
        inside = np.diff(codes[order]) == 0
        if np.bincount(codes).min() > 1 and (np.diff(times[order])[inside] > 0).all():
            found.append(name)
    return found
