"""Trajectories taken out of xarray datasets, those that users bring included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sympgp.trajectories.arrays import as_seconds, as_tensor
from sympgp.trajectories.columns import DEFAULT_LABEL, Roles, suggest
from sympgp.trajectories.dataset import AXES, COVARIATES
from sympgp.trajectories.naming import numbered
from sympgp.trajectories.tables import Table, complete

if TYPE_CHECKING:
    from xarray import DataArray, Dataset
else:
    DataArray = Dataset = Any

Names = str | Sequence[str] | None


@dataclass(frozen=True)
class Axis:
    """A variable with several channels along one dimension, such as ``state``.

    The names are None where the dimension has no labels, or only numbers.
    """

    variable: DataArray
    dim: str
    names: tuple[str, ...] | None

    @property
    def size(self) -> int:
        """Number of channels."""
        return int(self.variable.sizes[self.dim])


@dataclass(frozen=True)
class Channel:
    """One coordinate, momentum or input."""

    name: str
    values: DataArray
    unit: str


@dataclass(frozen=True)
class Grid:
    """The times, and the dimensions of what was measured: trajectories and steps in time."""

    times: DataArray
    label: str
    step: str
    count: int

    def values(self, array: DataArray) -> np.ndarray:
        """Values of an array, trajectories first."""
        dims = [dim for dim in (self.label, self.step) if dim in array.dims]
        return np.broadcast_to(array.transpose(*dims).values, (self.count, array.sizes[self.step]))


def from_dataset(
    dataset: Dataset | DataArray,
    q: Names,
    p: Names,
    time: str,
    trajectory: str | None,
    u: Names,
) -> Table:
    """Take trajectories out of a dataset; see ``Trajectories.from_xarray``."""
    dataset = _as_dataset(dataset)
    state, inputs = _find_axis(dataset, "state"), _find_axis(dataset, "inputs")
    if q is None and state is not None:
        state, q, p = _name_states(state, p)
        if u is None and inputs is not None:
            u = inputs.names or numbered("u", inputs.size)
    if inputs is not None and inputs.names is None:
        inputs = Axis(inputs.variable, inputs.dim, numbered("u", inputs.size))
    roles = Roles.of("q" if q is None else q, p, time, trajectory, u)
    states = [_find_channel(dataset, "q", name, state) for name in roles.q]
    states += [_find_channel(dataset, "p", name, state) for name in roles.p or ()]
    forces = [_find_channel(dataset, "u", name, inputs) for name in roles.u]
    grid = _find_grid(dataset, roles, states + forces)
    for channel in states:
        _check_dims(channel, grid, shared=False)
    for channel in forces:
        _check_dims(channel, grid, shared=True)
    return _with_covariates(_assemble(dataset, grid, roles, states, forces), dataset, grid)


def _as_dataset(data: Dataset | DataArray) -> Dataset:
    import xarray  # slow to import, and few need it

    if not isinstance(data, xarray.Dataset | xarray.DataArray):
        raise ValueError(
            f"dataset: expected an xarray Dataset or DataArray, got {type(data).__name__}"
        )
    if "draw" in data.dims:
        raise ValueError(
            f"dataset: expected observed trajectories, got {data.sizes['draw']} draws along "
            "'draw': Rollouts.from_xarray reads these; dataset.isel(draw=0) is one of them"
        )
    if isinstance(data, xarray.Dataset):
        return data
    if AXES["state"] in data.dims:
        return data.to_dataset(name="state")
    if data.name is None:
        raise ValueError(
            "dataset: expected a DataArray with dimensions 'time', 'coordinate' and, where there "
            f"are several, 'trajectory', in any order, or one with a name, got {data.dims}"
        )
    return data.to_dataset()


def _find_axis(dataset: Dataset, name: str) -> Axis | None:
    """Find a variable with several channels, by its name or as the only one of its kind."""
    dim = AXES[name]
    found = {str(key): array for key, array in dataset.items() if {dim} < {*array.dims}}
    if not found:
        return None
    if name not in found and len(found) > 1:
        raise ValueError(
            f"dataset: expected one variable with the dimension {dim!r}, or one called {name!r}, "
            f"got {', '.join(found)}"
        )
    variable = found[name] if name in found else next(iter(found.values()))
    labels = dataset[dim].values  # numbers from 0 where there are none
    named = labels.dtype.kind in "OUST"
    return Axis(variable, dim, tuple(map(_as_text, labels)) if named else None)


def _name_states(state: Axis, p: Names) -> tuple[Axis, Names, Names]:
    """Take everything along the axis: all coordinates, then all momenta."""
    if p not in (None, "p"):
        raise ValueError(f"q: expected the coordinates of the momenta in p, {p!r}, got none")
    if p is None:
        names = state.names or numbered("q", state.size)
        return Axis(state.variable, state.dim, names), names, None
    if state.size % 2:
        raise ValueError(
            f"dataset: expected an even number of names along {state.dim!r} (all coordinates, then "
            f"all momenta), got {state.size}; q and p choose some, p=None says they are coordinates"
        )
    half = state.size // 2
    names = state.names or numbered("q", half) + numbered("p", half)
    return Axis(state.variable, state.dim, names), names[:half], names[half:]


def _find_channel(dataset: Dataset, argument: str, name: str, axis: Axis | None) -> Channel:
    """Find a channel along an axis or, failing that, as a variable of its own."""
    along = () if axis is None else axis.names or ()
    if axis is not None and along.count(name) == 1:
        place = along.index(name)
        units = np.atleast_1d(dataset[axis.dim].attrs.get("units", ""))
        unit = _as_text(units[place]) if len(units) == len(along) else ""
        return Channel(name, axis.variable.isel({axis.dim: place}), unit)
    if name in dataset.variables and name not in dataset.dims:
        return Channel(name, dataset[name], _as_text(dataset[name].attrs.get("units", "")))
    known = [*along, *map(str, dataset.data_vars)]
    listed = ", ".join(map(repr, known)) or "nothing"
    where = f" and no {name!r} along {axis.dim!r}" if axis is not None else ""
    raise ValueError(
        f"{argument}: the dataset has no variable {name!r}{where}, only {listed}"
        f"{suggest(name, known)}"
    )


def _find_grid(dataset: Dataset, roles: Roles, channels: Sequence[Channel]) -> Grid:
    """Find the times and tell the dimension of the trajectories from that of the steps."""
    time, label = roles.time, roles.trajectory or DEFAULT_LABEL
    known = [*map(str, dataset.variables)]
    if time not in dataset.variables:
        lacks = f"coordinate for its dimension {time!r}" if time in dataset.dims else repr(time)
        raise ValueError(
            f"time: the dataset has no {lacks}, which says the times, only "
            f"{', '.join(map(repr, known))}{suggest(time, known)}"
        )
    if label != DEFAULT_LABEL and label not in dataset.dims and label not in dataset.coords:
        raise ValueError(
            f"trajectory: the dataset has no dimension {label!r}, only "
            f"{', '.join(repr(str(dim)) for dim in dataset.dims)}"
        )
    times = dataset[time]
    steps = [dim for dim in times.dims if dim != label]
    if len(steps) != 1:
        raise ValueError(
            f"time: expected {time!r} with one dimension, or with {label!r} and another, "
            f"got {times.dims}"
        )
    if label in dataset.variables and dataset[label].dims == tuple(steps):
        raise ValueError(
            f"trajectory: expected {label!r} as a dimension, got names for every point of "
            f"{steps[0]!r}: from_pandas reads dataset.to_dataframe()"
        )
    arrays = [times, *(channel.values for channel in channels)]
    several = any(label in array.dims for array in arrays)
    return Grid(times, label, str(steps[0]), dataset.sizes[label] if several else 1)


def _check_dims(channel: Channel, grid: Grid, shared: bool) -> None:
    """Refuse a channel of other dimensions; an input may be shared by all trajectories."""
    dims = {*channel.values.dims}
    required = {grid.step} if shared or grid.count == 1 else {grid.step, grid.label}
    if not required <= dims <= {grid.step, grid.label}:
        expected = " and ".join(map(repr, sorted(required, reverse=True)))
        raise ValueError(
            f"dataset: expected {channel.name!r} with the dimensions {expected} in any order, got "
            f"{channel.values.dims}; isel chooses along a dimension, rename gives it another name"
        )


def _assemble(
    dataset: Dataset, grid: Grid, roles: Roles, states: list[Channel], forces: list[Channel]
) -> Table:
    times, channels = grid.values(grid.times), [*states, *forces]
    dated = times.dtype.kind in "mM"
    values = [grid.values(channel.values) for channel in channels]
    dtype = _common_type(values)
    t = as_tensor(as_seconds(times) if dated else times, roles.time, torch.float64)
    parts = [as_tensor(v, c.name, dtype) for v, c in zip(values, channels, strict=True)]
    x, u = torch.stack(parts[: len(states)], -1), parts[len(states) :]
    labels = _labels(dataset, grid)
    # Times of their own end with NaN where trajectories are shorter than the longest.
    own = grid.label in grid.times.dims
    keep = ~t.isnan() if own else torch.ones_like(t, dtype=torch.bool)
    _check_padding(keep, x, grid, labels)
    units = {channel.name: channel.unit for channel in channels if channel.unit}
    if not dated:
        units["time"] = _as_text(grid.times.attrs.get("units", "")).partition(" since ")[0]
    rows = range(grid.count)
    return Table(
        [t[i][keep[i]] for i in rows],
        [complete(x[i][keep[i]], roles) for i in rows],
        [torch.stack(u, -1)[i][keep[i]] for i in rows] if u else None,
        labels,
        roles.names,
        roles.u,
        units,
        dtype,
        dated,
    )


def _with_covariates(table: Table, dataset: Dataset, grid: Grid) -> Table:
    """Add what is known of each trajectory as a whole, where there is something."""
    if COVARIATES not in dataset or dataset[COVARIATES].ndim > 2:
        return table
    variable = dataset[COVARIATES]
    others = [dim for dim in variable.dims if dim != grid.label]
    if len(others) != 1 or (grid.label not in variable.dims and grid.count > 1):
        return table
    values = variable.transpose(..., others[0]).values.reshape(grid.count, -1)
    labels = dataset[others[0]].values
    named = labels.dtype.kind in "OUST"
    names = tuple(map(_as_text, labels)) if named else numbered("c", values.shape[1])
    units = np.atleast_1d(dataset[others[0]].attrs.get("units", [""] * len(names)))
    known = {n: _as_text(unit) for n, unit in zip(names, units, strict=False) if _as_text(unit)}
    found = as_tensor(values, COVARIATES, table.dtype)
    units_too = {**table.units, **known}
    return replace(table, covariates=found, covariate_names=names, units=units_too)


def _check_padding(keep: Tensor, x: Tensor, grid: Grid, labels: list[str] | None) -> None:
    lost = torch.nonzero(~keep & ~x.isnan().all(-1)).tolist()
    if lost:
        i, step = lost[0]
        who = f"trajectory {i}" if labels is None else f"trajectory {labels[i]!r}"
        raise ValueError(
            f"time: expected a time wherever something was measured, got none for step {step} of "
            f"{who} along {grid.step!r}"
        )


def _common_type(arrays: Sequence[np.ndarray]) -> torch.dtype:
    """The floating-point type that holds all of them; float64 where one is not of such a type."""
    if any(array.dtype.kind != "f" for array in arrays):
        return torch.float64
    width = max(array.dtype.itemsize for array in arrays)
    return {2: torch.float16, 4: torch.float32}.get(width, torch.float64)


def _labels(dataset: Dataset, grid: Grid) -> list[str] | None:
    if grid.label not in dataset.coords:
        return None
    labels = np.atleast_1d(dataset[grid.label].values)
    return [_as_text(label) for label in labels] if len(labels) == grid.count else None


def _as_text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
