"""Trajectories as an xarray dataset and as a NetCDF file."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sympgp.trajectories.columns import DEFAULT_LABEL
from sympgp.trajectories.writers import Writers

if TYPE_CHECKING:
    from xarray import Dataset

else:
    Dataset = Any

AXES = {"state": "coordinate", "inputs": "input"}
"""Variables with several channels, and the dimension along which these are named."""
COVARIATES = "covariates"
"""The variable of what is known of each trajectory as a whole, (trajectory, covariate)."""


def to_dataset(data: Writers) -> Dataset:
    """Dataset with dims trajectory, time, coordinate; see ``Trajectories.to_xarray``."""
    import xarray

    shared = all(torch.equal(t, data.times[0]) for t in data.times)
    dims = (DEFAULT_LABEL, "time" if shared else "sample")
    times = data.times[0].cpu().numpy() if shared else _pad(data.times)
    channels = {"state": (data.states, data.names)}
    if data.inputs is not None:
        channels["inputs"] = (data.inputs, data.input_names)
    dataset = xarray.Dataset(
        {name: ((*dims, AXES[name]), _pad(parts)) for name, (parts, _) in channels.items()},
        coords={
            DEFAULT_LABEL: list(data.labels),
            "time": (dims[1:] if shared else dims, times),
            **{AXES[name]: list(names) for name, (_, names) in channels.items()},
        },
        attrs={"title": "observed trajectories"},
    )
    if data.covariates is not None:
        values = data.covariates.cpu().numpy()
        dataset[COVARIATES] = ((DEFAULT_LABEL, "covariate"), values)
        dataset = dataset.assign_coords(covariate=list(data.covariate_names))
        units = [data.units.get(name, "") for name in data.covariate_names]
        dataset["covariate"].attrs.update({"units": units} if any(units) else {})
    if "time" in data.units:
        dataset["time"].attrs["units"] = data.units["time"]
    for name, (_, names) in channels.items():
        if any(channel in data.units for channel in names):
            units = [data.units.get(channel, "") for channel in names]
            dataset[AXES[name]].attrs["units"] = units
    return dataset


def _pad(parts: Sequence[Tensor]) -> np.ndarray:
    """Stack arrays of different lengths, NaN behind the shorter ones."""
    return (
        torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=torch.nan)
        .cpu()
        .numpy()
    )


def read_netcdf(path: str | PathLike[str]) -> Dataset:
    """The dataset in a file, in memory."""
    import xarray

    try:
        with Path(path).open("rb") as file:
            classic = file.read(3) == b"CDF"
        # Times are plain numbers: a unit such as "days" is not to become a calendar.
        engine = "scipy" if classic else "h5netcdf"
        with xarray.open_dataset(path, engine=engine, decode_times=False) as dataset:
            return dataset.load()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {fspath(path)}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"path: expected a NetCDF file, got {fspath(path)!r}: {error}") from error
