"""Rollouts as an xarray dataset and as a NetCDF file."""

from __future__ import annotations

import math
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sympgp.rollouts.result import Rollouts

if TYPE_CHECKING:
    from xarray import Dataset
else:
    Dataset = Any

STATE_DIMS = ("draw", "trajectory", "time", "coordinate")
DIMS = {
    "state": STATE_DIMS,
    "diverged": STATE_DIMS[:2],
    "energy": STATE_DIMS[:3],
    "noise_std": ("draw", "coordinate"),
}


def to_dataset(rollouts: Rollouts) -> Dataset:
    """Dataset with dims draw, trajectory, time, coordinate; see :meth:`Rollouts.to_xarray`."""
    import xarray

    values: dict[str, Tensor] = {"state": rollouts.samples, "diverged": rollouts.diverged}
    if rollouts.energies is not None:
        values["energy"] = rollouts.energy()
    if rollouts.noise_std is not None:
        values["noise_std"] = rollouts.noise_std
    names, units = rollouts.names, rollouts.units
    dataset = xarray.Dataset(
        {name: (DIMS[name], value.detach().cpu().numpy()) for name, value in values.items()},
        coords={
            "draw": np.arange(rollouts.num_draws),
            "trajectory": np.arange(rollouts.num_trajectories),
            "time": rollouts.times.detach().cpu().numpy(),
            "coordinate": list(names),
        },
        attrs={"title": "rollouts of a learned vector field", "seed": rollouts.seed},
    )
    for name in ("solver_error", "noise_dof"):
        if (value := getattr(rollouts, name)) is not None:
            dataset.attrs[name] = value
    for name in ("time", "energy"):
        if name in units and name in dataset:
            dataset[name].attrs["units"] = units[name]
    if rollouts.angles:
        periods = [rollouts.angles.get(name, math.inf) for name in names]
        dataset["coordinate"].attrs["period"] = periods
    if any(name in units for name in names):
        dataset["coordinate"].attrs["units"] = [units.get(name, "") for name in names]
    return dataset


def from_dataset(dataset: Dataset) -> Rollouts:
    """The inverse of :func:`to_dataset`."""
    for name in ("state", "diverged"):
        if name not in dataset:
            raise ValueError(
                f"dataset: expected a variable {name!r} as written by Rollouts.to_xarray, "
                f"found {sorted(map(str, dataset.variables))}"
            )
    for name in DIMS.keys() & set(dataset.variables):
        if dataset[name].dims != DIMS[name]:
            raise ValueError(
                f"dataset: expected {name!r} with dimensions {DIMS[name]}, got {dataset[name].dims}"
            )
    values = {name: torch.from_numpy(np.array(dataset[name])) for name in DIMS if name in dataset}
    names = tuple(map(str, dataset["coordinate"].values))
    units = {
        name: str(unit)
        for name, unit in zip(names, dataset["coordinate"].attrs.get("units", ()), strict=False)
        if str(unit)
    }
    for name in ("time", "energy"):
        if name in dataset and "units" in dataset[name].attrs:
            units[name] = str(dataset[name].attrs["units"])
    dof = dataset.attrs.get("noise_dof")
    periods = zip(names, dataset["coordinate"].attrs.get("period", ()), strict=False)
    rollouts = Rollouts(
        samples=values["state"],
        times=torch.from_numpy(np.array(dataset["time"])),
        diverged=values["diverged"].bool(),
        energies=values.get("energy"),
        noise_std=values.get("noise_std"),
        names=names,
        units=units,
        seed=int(dataset.attrs.get("seed", 0)),
        noise_dof=None if dof is None else float(dof),
        angles={name: float(period) for name, period in periods if math.isfinite(period)},
    )
    if "solver_error" in dataset.attrs:
        rollouts.solver_error = float(dataset.attrs["solver_error"])
    return rollouts


def read_netcdf(path: str | PathLike[str]) -> Rollouts:
    """Rollouts from a file; see :meth:`Rollouts.from_netcdf`."""
    import xarray

    try:
        # Times are plain numbers: a unit such as "days" is not to become a calendar.
        with xarray.open_dataset(path, engine="h5netcdf", decode_times=False) as dataset:
            return from_dataset(dataset.load())
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(
            f"path: expected a NetCDF file of rollouts, got {fspath(path)!r}: {error}"
        ) from error
