"""The reader of data frames; complaints name the row."""

import dataclasses
import numbers
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from sympgp.trajectories.arrays import as_seconds, as_tensor, is_missing
from sympgp.trajectories.columns import Roles
from sympgp.trajectories.tables import Rows, Table, assemble

if TYPE_CHECKING:
    import pandas


def read_frame(frame: "pandas.DataFrame", roles: Roles) -> Table:
    """Take trajectories out of a data frame; see ``Trajectories.from_pandas``."""
    import pandas  # slow to import, and here already where there is a frame

    if not isinstance(frame, pandas.DataFrame):
        raise ValueError(f"frame: expected a pandas DataFrame, got {type(frame).__name__}")
    noted = _noted_units(frame, roles)
    levels = [name for name in frame.index.names if name not in (None, *frame.columns)]
    frame = frame.reset_index(levels) if levels else frame
    columns = [str(column) for column in frame.columns]
    layout = roles.locate(columns, "the data frame")

    def place(row: int) -> str:
        return f"row {row} of the data frame (counting from 0)"

    dated = frame.dtypes.iloc[layout.places[0]].kind in "mM"
    values = [_numbers(frame.iloc[:, k], columns[k], place) for k in layout.places[dated:]]
    if dated:
        values.insert(0, _seconds(frame.iloc[:, layout.places[0]]))
    used = {*layout.places, layout.label}
    rows = Rows(
        np.stack(values, 1),
        None if layout.label is None else frame.iloc[:, layout.label].tolist(),
        "the data frame",
        place,
        lambda: {
            name: frame.iloc[:, k].tolist() for k, name in enumerate(columns) if k not in used
        },
    )
    table = assemble(rows, roles, layout)
    return dataclasses.replace(table, units={**noted, **table.units}, dated=dated)


def _noted_units(frame: "pandas.DataFrame", roles: Roles) -> dict[str, str]:
    """Units that ``to_pandas`` left with the frame, of the columns that are used."""
    noted = frame.attrs.get("units")
    if not isinstance(noted, Mapping):
        return {}
    units = {name: noted.get(name) for name in (*roles.names, *roles.u, *roles.covariates)}
    units["time"] = noted.get(roles.time, noted.get("time"))
    return {name: unit for name, unit in units.items() if isinstance(unit, str)}


def _seconds(series: "pandas.Series") -> np.ndarray:
    import pandas

    # Dates of a time zone are objects to NumPy.
    zoned = isinstance(series.dtype, pandas.DatetimeTZDtype)
    return as_seconds((series.dt.tz_convert(None) if zoned else series).to_numpy())


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
