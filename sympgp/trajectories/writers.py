"""Trajectories to files, tables and datasets."""

from __future__ import annotations

import csv
import re
from abc import ABC
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sympgp.trajectories.columns import DEFAULT_LABEL, Roles

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import Dataset
else:
    DataFrame = Dataset = Any


class Writers(ABC):
    """The writers of :class:`Trajectories`, by format."""

    times: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...] | None
    names: tuple[str, ...]
    input_names: tuple[str, ...]
    covariates: Tensor | None
    covariate_names: tuple[str, ...]
    units: dict[str, str]
    labels: tuple[str, ...]

    def to_pandas(self) -> DataFrame:
        """Return a long data frame: trajectory, time, states, inputs and covariates by name.

        The units are in its ``attrs``, where :meth:`from_pandas` finds them.
        """
        return _to_frame(self)

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write a CSV file with the columns of :meth:`to_pandas`, units behind the names.

        :meth:`from_csv` reads the same numbers, labels and units back; numbers become float64.
        Names that end in .gz, .bz2, .xz, .zip or .zst are compressed.

        Raises:
            ValueError: If the path is a folder or in none that there is, or labels or units
                cannot be told again from what would stand in the file.

        Example:
            >>> import tempfile, pathlib
            >>> from sympgp import Trajectories
            >>> data = Trajectories([0.0, 0.1], [[1.0, 0.0], [0.9, None]], units={"q": "rad"})
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = pathlib.Path(folder, "data.csv")
            ...     data.to_csv(path)
            ...     print(path.read_text())
            trajectory,time,q [rad],p
            0,0.0,1.0,0.0
            0,0.1,0.9,
            <BLANKLINE>
        """
        _write_csv(self, path)

    def to_xarray(self) -> Dataset:
        """Return a dataset with dims trajectory, time, coordinate.

        Variables: ``state`` and, where there are any, ``inputs`` with dims trajectory, time, input
        and ``covariates`` with dims trajectory, covariate. Labels and names are those of the
        dimensions; units are attributes of ``time``, ``coordinate``, ``input`` and ``covariate``
        (one for each name). Where the times of trajectories differ, ``time`` has dims (trajectory,
        sample), and ``sample`` takes its place everywhere; shorter trajectories end with NaN, in
        ``time`` too.

        Example:
            >>> from sympgp import Trajectories
            >>> data = Trajectories([0.0, 0.1], [[1.0, 0.0], [0.9, -0.2]])
            >>> dict(data.to_xarray()["state"].sizes)
            {'trajectory': 1, 'time': 2, 'coordinate': 2}
        """
        from sympgp.trajectories.dataset import to_dataset

        return to_dataset(self)

    def to_netcdf(self, path: str | PathLike[str]) -> None:
        """Write the dataset of :meth:`to_xarray` to a NetCDF file.

        Raises:
            ValueError: If the path is a folder or in none that there is.
        """
        self.to_xarray().to_netcdf(_check_path(path, "NetCDF"), engine="h5netcdf")

    def to_zarr(self, path: str | PathLike[str]) -> None:
        """Write the dataset of :meth:`to_xarray` to a Zarr store, a folder; one there is replaced.

        Raises:
            ValueError: If the name does not end in ``.zarr``, the folder it is to be in does not
                exist, or the package ``zarr`` is not installed.
        """
        from sympgp.trajectories.dataset import check_zarr, is_zarr

        if not is_zarr(path) or not Path(path).parent.is_dir():
            raise ValueError(
                f"path: expected a name that ends in .zarr, in a folder that exists, got {path!r}"
            )
        check_zarr()
        self.to_xarray().to_zarr(path, mode="w", zarr_format=2)  # 3 has no texts yet


def _to_frame(data: Writers) -> DataFrame:
    import pandas  # slow to import, and few need it

    parts = [torch.cat(data.times)[:, None], torch.cat(data.states)]
    if data.inputs is not None:
        parts.append(torch.cat(data.inputs))
    counts = [len(t) for t in data.times]
    if data.covariates is not None:
        repeats = torch.tensor(counts, device=data.covariates.device)
        parts.append(data.covariates.repeat_interleave(repeats, 0))
    columns = ["time", *data.names, *data.input_names, *data.covariate_names]
    frame = pandas.DataFrame(torch.cat(parts, 1).cpu().numpy(), columns=columns)
    frame.insert(0, DEFAULT_LABEL, np.repeat(data.labels, counts))
    frame.attrs["units"] = dict(data.units)
    return frame


def _write_csv(data: Writers, path: str | PathLike[str]) -> None:
    path = _check_path(path, "CSV")
    frame = _to_frame(data)
    numbers = frame.columns[1:]
    # In double precision the digits of every number are those that are read back.
    frame = frame.astype(dict.fromkeys(numbers, np.float64))
    header = [DEFAULT_LABEL, *(_with_unit(name, data.units.get(name, "")) for name in numbers)]
    _check_texts(data, header)
    # Quoted, a text may begin like a comment or hold the end of a line.
    plain = all(re.fullmatch(r"[^#\s\"](?:[^\r\n\"]*)", text) for text in (*header, *data.labels))
    quoting = csv.QUOTE_MINIMAL if plain else csv.QUOTE_NONNUMERIC
    try:
        frame.to_csv(path, header=header, index=False, quoting=quoting)
    except ImportError as error:
        raise ValueError(f"path: cannot write {str(path)!r}: {error}") from error


def _check_path(path: str | PathLike[str], kind: str) -> Path:
    """Return the path of a file that can be written, as far as this is known before."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"path: expected a {kind} file to write, got the folder {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(
            f"path: cannot write {str(path)!r}: there is no folder {str(path.parent)!r}"
        )
    return path


def _with_unit(name: str, unit: str) -> str:
    if not unit:
        return name
    return f"{name} ({unit})" if {*"[]"} & {*unit} else f"{name} [{unit}]"


def _check_texts(data: Writers, header: list[str]) -> None:
    """Refuse names, units and labels that a reader could not tell apart again."""
    half = len(data.names) // 2
    names, rest = data.names, (data.input_names, data.covariate_names)
    roles = Roles.of(names[:half], names[half:], "time", None, *rest)
    try:
        layout = roles.locate([name.strip() for name in header], "the file")
    except ValueError:
        layout = None
    if layout is None or layout.places != [*range(1, len(header))] or layout.units != data.units:
        raise ValueError(
            "names: expected names and units that can be told apart in the first line of a CSV "
            f"file, without blanks around them, got {header}"
        )
    for label in data.labels:
        if not label or label != label.strip():
            raise ValueError(
                "labels: expected names without blanks around them, which a CSV file "
                f"does not keep, got {label!r}"
            )
