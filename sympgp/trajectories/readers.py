"""Trajectories from files, tables and datasets: the constructors by format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from sympgp.trajectories.columns import Roles
from sympgp.trajectories.csv_reader import read_csv
from sympgp.trajectories.dialect import Dialect
from sympgp.trajectories.frames import read_frame
from sympgp.trajectories.tables import Table
from sympgp.trajectories.text import Source, check_text_options

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import DataArray, Dataset

    from sympgp.trajectories.container import Trajectories
else:
    DataArray = DataFrame = Dataset = Trajectories = Any

Columns = str | Sequence[str]

NETCDF_SUFFIXES = (".nc", ".nc4", ".cdf", ".netcdf", ".h5", ".hdf5")
DATASET_SUFFIXES = (*NETCDF_SUFFIXES, ".zarr")


class Readers(ABC):
    """The readers of :class:`Trajectories`, by format."""

    @classmethod
    @abstractmethod
    def _from_table(cls, table: Table, units: Mapping[str, str]) -> Trajectories:
        """Build the container from what a reader found."""

    @classmethod
    def from_file(cls, path: str | PathLike[str], **arguments: Any) -> Trajectories:
        """Read a NetCDF file (.nc, .h5) or a Zarr store (.zarr) by its name, else a table in text.

        Args:
            path: The file.
            arguments: What :meth:`from_netcdf` or :meth:`from_csv` take: q, p, time, trajectory,
                u and units in both, each with the defaults that these have.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: As the reader of the format does.

        Example:
            >>> import tempfile, pathlib
            >>> from sympgp import Trajectories
            >>> data = Trajectories([0.0, 1.0], [[1.0, 0.0], [0.5, -0.8]], units={"q": "rad"})
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     data.to_csv(pathlib.Path(folder, "data.csv.gz"))
            ...     data.to_netcdf(pathlib.Path(folder, "data.nc"))
            ...     for name in ("data.csv.gz", "data.nc"):
            ...         Trajectories.from_file(pathlib.Path(folder, name)).units
            {'q': 'rad'}
            {'q': 'rad'}
        """
        dataset = PurePath(path).suffix.lower() in DATASET_SUFFIXES
        return (cls.from_netcdf if dataset else cls.from_csv)(path, **arguments)

    @classmethod
    def from_csv(
        cls,
        path: Source,
        q: Columns = "q",
        p: Columns | None = "p",
        time: str = "time",
        trajectory: str | None = None,
        u: Columns | None = None,
        units: Mapping[str, str] | None = None,
        *,
        sep: str | None = None,
        decimal: str | None = None,
        comment: str | None = "#",
        skiprows: int = 0,
        encoding: str | None = None,
        compression: str | None = "infer",
        covariates: Columns | None = None,
    ) -> Trajectories:
        r"""Read a table in a text file: one row per point, the first line naming the columns.

        Rows of several trajectories may be interleaved; within a trajectory, time increases
        strictly from row to row: nothing is sorted, joined or dropped. An empty cell, ``NaN`` or
        ``NA`` is a missing observation. Passed over are blank lines, rows without any entry and
        lines that begin with a comment sign; the names of the columns may stand behind one, as
        ``numpy.savetxt`` writes them.

        A column is found by its name or by its name and a unit: ``angle`` is also
        ``angle [rad]`` or ``angle (rad)``, and takes the unit from there unless ``units`` has one.

        Args:
            path: A file, or an open one, of text or of bytes.
            q: Columns of the coordinates.
            p: Columns of the momenta, in the same order; None if only positions were measured,
                which leaves every momentum missing.
            time: Column of the times.
            trajectory: Column that says to which trajectory a row belongs. By default the column
                ``trajectory`` where there is one; without it all rows are one trajectory.
            u: Columns of external inputs.
            units: Units of the columns by name, and of time under ``"time"``.
            sep: What stands between cells, one character, or ``r"\s+"`` for blanks and tabs. By
                default whichever of comma, semicolon, tab, ``|`` and blanks brings out the columns.
            decimal: The decimal sign, ``"."`` or ``","``. By default a comma where it does not
                separate cells and numbers have commas. No sign between thousands is read.
            comment: What begins a line that is passed over; None if nothing does.
            skiprows: Number of lines at the top to pass over.
            encoding: Encoding of the text, by default UTF-8, or what a byte-order mark says.
            compression: ``"gzip"``, ``"bz2"``, ``"xz"``, ``"zip"``, ``"zstd"`` or None; by default
                what the first bytes of the file say.
            covariates: Columns of what is known of each trajectory as a whole, the same number in
                all of its rows.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is empty or not text, a column is not there or named twice, a
                cell is not a number, or the trajectories are not valid. The message gives the
                file, the line and the column; where times do not increase it says what they look
                like: repeated, unsorted, or several recordings.

        Example:
            >>> import tempfile, pathlib
            >>> from sympgp import Trajectories
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = pathlib.Path(folder, "data.csv")
            ...     _ = path.write_text("time;angle [rad];velocity\n0;1,0;0\n0,1;0,99;-0,2\n")
            ...     data = Trajectories.from_csv(path, q="angle", p="velocity")
            >>> data, data.units
            (Trajectories(1 trajectory, 2 points, 4 observations, names=('angle', 'velocity')),
             {'angle': 'rad'})
        """
        roles = Roles.of(q, p, time, trajectory, u, covariates)
        dialect = Dialect(sep, decimal, comment, skiprows)
        check_text_options(encoding, compression)
        table = read_csv(path, roles, dialect, encoding, compression)
        return cls._from_table(table, _rename_time(units, time))

    @classmethod
    def from_pandas(
        cls,
        frame: DataFrame,
        q: Columns = "q",
        p: Columns | None = "p",
        time: str = "time",
        trajectory: str | None = None,
        u: Columns | None = None,
        units: Mapping[str, str] | None = None,
        *,
        covariates: Columns | None = None,
    ) -> Trajectories:
        """Take trajectories from a long data frame; arguments and rules as in :meth:`from_csv`.

        Columns may also be named levels of the index. Times that are dates become seconds after
        the earliest one in the frame. Units that :meth:`to_pandas` left in ``frame.attrs`` are
        taken from there. Numbers become float64.

        Raises:
            ValueError: As :meth:`from_csv`, with the row of the frame in the message; units of
                time other than s where the times are dates.
        """
        roles = Roles.of(q, p, time, trajectory, u, covariates)
        return cls._from_table(read_frame(frame, roles), _rename_time(units, time))

    @classmethod
    def from_xarray(
        cls,
        dataset: Dataset | DataArray,
        q: Columns | None = None,
        p: Columns | None = "p",
        time: str = "time",
        trajectory: str | None = None,
        u: Columns | None = None,
        units: Mapping[str, str] | None = None,
    ) -> Trajectories:
        """Take trajectories from a dataset, such as :meth:`to_xarray` makes.

        Two forms are read, with dimensions in any order and without the dimension of the
        trajectories where there is one:

        - one variable ``state`` (or a DataArray) with dimensions trajectory, time and coordinate,
          the coordinate's labels being the names; ``inputs`` likewise along ``input``, and
          ``covariates`` with dimensions trajectory and covariate;
        - a variable for each coordinate and momentum, with dimensions trajectory and time.

        Times that are dates become seconds after the earliest one in the dataset. Where every
        trajectory has times of its own (trajectory, sample), NaN among them ends the shorter
        ones. States are float32 where everything but the times is.

        Args:
            dataset: What to read.
            q: Names of the coordinates: labels along ``coordinate``, or variables. By default all
                of the labels, coordinates first, then momenta; without labels ``q``.
            p: Names of the momenta, in the same order; None if only positions were measured.
            time: Variable or coordinate of the times, plain numbers or dates.
            trajectory: Dimension of the trajectories, by default ``trajectory``; its labels, if it
                has any, are theirs.
            u: Names of external inputs: labels along ``input``, or variables. By default all of
                the labels if q is not given either.
            units: Units by name, and of time under ``"time"``; otherwise taken from the attributes
                ``units`` of time, ``coordinate``, ``input`` and variables.

        Raises:
            ValueError: If there are draws, names or times are not there, dimensions are others,
                or the trajectories are not valid.

        Example:
            >>> import xarray
            >>> from sympgp import Trajectories
            >>> angle = xarray.DataArray([[0.0, 0.1], [1.0, 0.9]], dims=("time", "trajectory"))
            >>> data = xarray.Dataset({"angle": angle}, {"time": [0.0, 0.5]})
            >>> Trajectories.from_xarray(data, q="angle", p=None)
            Trajectories(2 trajectories, 4 points, 4 observations, names=('angle', 'p'))
        """
        from sympgp.trajectories.grids import from_dataset

        table = from_dataset(dataset, q, p, time, trajectory, u)
        return cls._from_table(table, _rename_time(units, time))

    @classmethod
    def from_netcdf(
        cls,
        path: str | PathLike[str],
        q: Columns | None = None,
        p: Columns | None = "p",
        time: str = "time",
        trajectory: str | None = None,
        u: Columns | None = None,
        units: Mapping[str, str] | None = None,
    ) -> Trajectories:
        """Read a NetCDF file that :meth:`to_netcdf` or others wrote; as :meth:`from_xarray`.

        A folder whose name ends in ``.zarr`` is read as a Zarr store, with the package ``zarr``.
        Times are numbers of their unit: of ``days since 2000-01-01`` the days.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is something else; as :meth:`from_xarray`.
        """
        from sympgp.trajectories.dataset import read

        dataset = read(path)
        try:
            return cls.from_xarray(dataset, q, p, time, trajectory, u, units)
        except ValueError as error:
            raise ValueError(f"{fspath(path)}: {error}") from error


def _rename_time(units: Mapping[str, str] | None, time: str) -> dict[str, str]:
    """The times may go by another name in a table than in the container."""
    return {"time" if name == time else name: unit for name, unit in (units or {}).items()}
