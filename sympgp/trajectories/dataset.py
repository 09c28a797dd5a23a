"""Trajectories as an xarray dataset, a NetCDF file and a Zarr store."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path, PurePath
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


@contextmanager
def opened(path: str | PathLike[str]) -> Iterator[Dataset]:
    """The dataset in a NetCDF file or Zarr store, of which values are read when they are used.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is something else; it is a Zarr store and there is no ``zarr``.
    """
    import xarray

    kind = "Zarr store" if is_zarr(path) else "NetCDF file"
    if not Path(path).exists():
        raise FileNotFoundError(
            f"there is no {'folder' if is_zarr(path) else 'file'} {fspath(path)}"
        )
    try:
        # Times are plain numbers: a unit such as "days" is not to become a calendar.
        dataset = xarray.open_dataset(path, engine=_engine(path), decode_times=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"path: expected a {kind}, got {fspath(path)!r}: {error}") from error
    with dataset:
        yield dataset


def is_zarr(path: str | PathLike[str]) -> bool:
    """Whether the name is that of a Zarr store."""
    return PurePath(path).suffix.lower() == ".zarr"


def _engine(path: str | PathLike[str]) -> str:
    if is_zarr(path):
        check_zarr()
        return "zarr"
    with Path(path).open("rb") as file:
        return "scipy" if file.read(3) == b"CDF" else "h5netcdf"


def check_zarr() -> None:
    """Refuse Zarr stores where nothing reads them.

    Raises:
        ValueError: the package is not installed.
    """
    if importlib.util.find_spec("zarr") is None:
        raise ValueError('Zarr stores need the package zarr: pip install "sympgp[zarr]"')


def read(path: str | PathLike[str]) -> Dataset:
    """The dataset in a NetCDF file or Zarr store, in memory; errors as of :func:`opened`."""
    with opened(path) as dataset:
        return loaded(dataset, path)


def loaded(dataset: Dataset, path: str | PathLike[str]) -> Dataset:
    """What is left of an open dataset, in memory.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return dataset.load()
    except (OSError, RuntimeError, ValueError) as error:  # by format and compression
        raise ValueError(f"path: cannot read {fspath(path)!r}: {error}") from error
