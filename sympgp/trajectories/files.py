"""Trajectories in a file, of which only those that are asked for are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from sympgp.distributed import ALONE, Ranks
from sympgp.trajectories.columns import DEFAULT_LABEL
from sympgp.trajectories.container import Trajectories
from sympgp.trajectories.dataset import loaded, opened
from sympgp.trajectories.sharing import gathered

Columns = str | Sequence[str]


class TrajectoryFile:
    """Trajectories in a NetCDF file or a Zarr store, read when they are needed.

    ``fit`` takes it in place of the trajectories: each of several processes (ranks) then reads its
    own share of them from the file, so that nothing is read twice. The layouts are those of
    :meth:`Trajectories.from_xarray`: what :meth:`Trajectories.to_netcdf` and
    :meth:`Trajectories.to_zarr` write is

    - ``state`` (trajectory, time, coordinate), NaN where nothing was observed, with the times
      ``time`` (time,); where they differ by trajectory, ``sample`` takes the place of the
      dimension ``time``, and ``time`` (trajectory, sample) ends with NaN in shorter ones;
    - ``inputs`` (trajectory, time or sample, input) and ``covariates`` (trajectory, covariate),
      where there are any;
    - names as the labels of ``coordinate``, ``input`` and ``covariate``, units as their attribute
      ``units`` and as that of ``time``.

    Files in chunks of whole trajectories are read fastest.

    Args:
        path: the file, or the folder of a Zarr store, whose name ends in ``.zarr``.
        q, p, time, trajectory, u, units: as for :meth:`Trajectories.from_netcdf`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is something else, or lacks the dimension ``trajectory``.

    Example:
        >>> import tempfile, pathlib
        >>> data = Trajectories([0.0, 1.0], [[[1.0, 0.0], [0.5, -0.8]]] * 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data.to_netcdf(pathlib.Path(folder, "data.nc"))
        ...     file = TrajectoryFile(pathlib.Path(folder, "data.nc"))
        ...     len(file), file.read(slice(1, 3)).labels
        (3, ('1', '2'))
    """

    def __init__(
        self,
        path: str | PathLike[str],
        q: Columns | None = None,
        p: Columns | None = "p",
        time: str = "time",
        trajectory: str | None = None,
        u: Columns | None = None,
        units: Mapping[str, str] | None = None,
    ) -> None:
        self.path = fspath(path)
        self._arguments: dict[str, Any] = {
            "q": q,
            "p": p,
            "time": time,
            "trajectory": trajectory,
            "u": u,
            "units": units,
        }
        self._dim = trajectory or DEFAULT_LABEL
        with opened(self.path) as dataset:
            self._length = dataset.sizes.get(self._dim)
            if trajectory is not None and trajectory not in {*dataset.dims, *dataset.coords}:
                known = ", ".join(repr(str(dim)) for dim in dataset.dims)
                raise ValueError(
                    f"{self.path}: trajectory: the dataset has no dimension {trajectory!r}, only "
                    f"{known}"
                )

    def __len__(self) -> int:
        return 1 if self._length is None else self._length

    def __repr__(self) -> str:
        return f"TrajectoryFile({self.path!r}, {len(self)} trajectories)"

    def read(self, chosen: slice | None = None) -> Trajectories:
        """Read some trajectories, neighbours in the file; all of them when None.

        Raises:
            ValueError: none are chosen; the file is damaged; as :meth:`Trajectories.from_netcdf`.
        """
        if chosen is not None and not len(range(len(self))[chosen]):
            raise ValueError(f"chosen: expected some of {len(self)} trajectories, got {chosen}")
        with opened(self.path) as dataset:
            if chosen is not None and self._length is not None:
                if self._dim not in dataset.coords:  # numbers in the file, not in the share
                    names = list(map(str, range(self._length)))
                    dataset = dataset.assign_coords({self._dim: names})
                dataset = dataset.isel({self._dim: chosen})
            dataset = loaded(dataset, self.path)
        try:
            return Trajectories.from_xarray(dataset, **self._arguments)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error

    def gathered(self, ranks: Ranks = ALONE) -> Trajectories:
        """All trajectories on every rank, each of which reads its share.

        Raises:
            RankError: a rank cannot read its share, or there is none for it; on all ranks.
        """
        if not ranks.several:
            return self.read()
        ranks.check_same(
            f"data: expected the same {self.path!r} on every rank", f"{len(self)} trajectories"
        )
        own = ranks.share([1.0] * len(self))
        return gathered(ranks.agree(lambda: self.read(own)), ranks)
