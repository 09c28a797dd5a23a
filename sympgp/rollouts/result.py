"""The result of a rollout: draws of paths, their moments, bands and energies."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.integrators import DivergenceWarning
from sympgp.rollouts.statistics import kept_mean, kept_quantiles, kept_std
from sympgp.trajectories.naming import check_names
from sympgp.trajectories.paths import check_writable

if TYPE_CHECKING:
    from xarray import Dataset
else:
    Dataset = Any

Energies = Callable[[Tensor], Tensor]
"""States (S, N, T, D) to energies (S, N, T), slice s under the Hamiltonian of draw s."""


class Rollouts:
    """Paths of S draws of the field from N initial states at T times.

    Every draw is one function, kept for a whole path. Draws that diverged are counted, warned
    about once and left out of means, standard deviations and bands; where all draws of a
    trajectory diverged these are NaN.

    Attributes:
        samples: (S, N, T, D) states in user units; NaN from the time a draw diverged.
        times: (T,).
        diverged: (S, N), which draws of which trajectories diverged.
        energies: a function from states (S, N, T, D) to energies (S, N, T), or the energies, or
            None for a field without an energy.
        noise_std: (S, D) scale of the observation noise of each draw, its standard deviation where
            it is Gaussian; None where it is not known.
        names: names of the D coordinates; by default q, p or q1..qn, p1..pn.
        units: name -> unit of coordinates, "time" and "energy"; other names are dropped.
        seed: the seed that the draws were made with, for the record.
        noise_dof: degrees of freedom of Student's t noise, ``y = x + noise_std t``; None for
            Gaussian noise.
        angles: periods of the coordinates that are angles, by name. States run on beyond one turn;
            pictures show them within one.
        solver_error: error of the solver in units of the draws' standard deviation, where known.

    Raises:
        ValueError: shapes that do not fit together; states that are not finite although their
            draw is not marked as diverged; names that repeat or do not fit; degrees of freedom
            that are not positive; angles that are no coordinates, periods that are not positive.

    Example:
        >>> samples = torch.randn(200, 3, 5, 2, generator=torch.Generator().manual_seed(0))
        >>> diverged = torch.zeros(200, 3, dtype=torch.bool)
        >>> rollouts = Rollouts(samples, torch.arange(5.0), diverged)
        >>> lower, upper = rollouts.band(level=0.9)
        >>> lower.shape, round(upper.mean().item(), 1)
        (torch.Size([3, 5, 2]), 1.6)
    """

    samples: Tensor
    times: Tensor
    diverged: Tensor
    energies: Energies | Tensor | None
    noise_std: Tensor | None
    names: tuple[str, ...]
    units: dict[str, str]
    seed: int
    noise_dof: float | None
    angles: dict[str, float]
    solver_error: float | None

    def __init__(
        self,
        samples: Float[Tensor, "draws trajectories time dim"],
        times: Float[Tensor, " time"],
        diverged: Bool[Tensor, "draws trajectories"],
        energies: Energies | Float[Tensor, "draws trajectories time"] | None = None,
        noise_std: Float[Tensor, "draws dim"] | None = None,
        names: Sequence[str] | None = None,
        units: Mapping[str, str] | None = None,
        seed: int = 0,
        *,
        noise_dof: float | int | None = None,
        angles: Mapping[str, float | int] | None = None,
    ) -> None:
        _check_shapes(samples, times, diverged, energies, noise_std)
        if noise_dof is not None and not 0 < noise_dof < math.inf:
            raise ValueError(f"noise_dof: expected a positive number or None, got {noise_dof!r}")
        finite = samples.isfinite().all(-1)
        _check_finite(finite, diverged)
        self.samples, self.times, self.diverged = samples, times, diverged
        self.energies, self.noise_std, self.seed = energies, noise_std, seed
        self.noise_dof = None if noise_dof is None else float(noise_dof)
        self.solver_error = None
        self.names = check_names(names, samples.shape[-1], "names")
        known = (*self.names, "time", "energy")
        self.angles = _checked_angles(angles or {}, self.names)
        self.units = {name: unit for name, unit in (units or {}).items() if name in known}
        if diverged.any():
            message = _describe_divergence(times, diverged, finite)
            warnings.warn(message, DivergenceWarning, stacklevel=2)

    @property
    def num_draws(self) -> int:
        """Number of draws S, diverged ones included."""
        return self.samples.shape[0]

    @property
    def num_trajectories(self) -> int:
        """Number of initial states N."""
        return self.samples.shape[1]

    @property
    def mean(self) -> Float[Tensor, "trajectories time dim"]:
        """Mean over the draws that did not diverge, (N, T, D)."""
        return kept_mean(self.samples, self.diverged)

    @property
    def std(self) -> Float[Tensor, "trajectories time dim"]:
        """Standard deviation over the draws that did not diverge, (N, T, D); NaN for a single one.

        Of the latent states: observation noise is not in it.
        """
        return kept_std(self.samples, self.diverged)

    @property
    def median(self) -> Float[Tensor, "trajectories time dim"]:
        """Median over the draws that did not diverge, (N, T, D): the path of a typical draw.

        Where a few draws leave for far away, it stays where most are, unlike the mean.
        """
        return kept_quantiles(self.samples, self.diverged, (0.5,))[0]

    def band(
        self, level: float = 0.9, kind: str = "latent"
    ) -> tuple[Float[Tensor, "trajectories time dim"], Float[Tensor, "trajectories time dim"]]:
        """Equal-tailed band: the ``(1 - level)/2`` and ``(1 + level)/2`` quantiles at each time.

        A latent band holds one more draw with exactly this probability (Weibull's ranks).

        Args:
            level: probability inside the band, in (0, 1).
            kind: "latent" for the true state; "predictive" for an observation of it: the mixture
                over draws of Gaussians about each draw with its ``noise_std``, or of Student's t
                where ``noise_dof`` is given.

        Returns:
            The lower and the upper end, (N, T, D) each.

        Raises:
            ValueError: a level outside (0, 1); an unknown kind; a predictive band where no noise
                is known.
        """
        if not 0 < level < 1:
            raise ValueError(f"level: expected a probability in (0, 1), got {level!r}")
        if kind not in ("latent", "predictive"):
            raise ValueError(f"kind: expected 'latent' or 'predictive', got {kind!r}")
        noise_std = None
        if kind == "predictive":
            if self.noise_std is None:
                raise ValueError("kind: a predictive band needs noise_std, which is not known here")
            noise_std = self.noise_std
        tails = (0.5 - 0.5 * level, 0.5 + 0.5 * level)
        ends = kept_quantiles(self.samples, self.diverged, tails, noise_std, self.noise_dof)
        return ends[0], ends[1]

    def energy(self) -> Float[Tensor, "draws trajectories time"]:
        """Energy of each draw under its own Hamiltonian, (S, N, T); NaN once a draw has diverged.

        Raises:
            TypeError: the field these rollouts come from has no energy.
        """
        if self.energies is None:
            raise TypeError("these rollouts have no energies: their field does not come from one")
        if isinstance(self.energies, Tensor):
            return self.energies
        values = self.energies(self.samples)
        if values.shape != self.samples.shape[:-1]:
            raise ValueError(
                f"energies: expected values of shape {tuple(self.samples.shape[:-1])}, "
                f"got {tuple(values.shape)}"
            )
        return values.masked_fill(self.samples.isnan().any(-1), torch.nan)

    def to_xarray(self) -> Dataset:
        """Dataset with dims draw, trajectory, time, coordinate.

        Variables: ``state``, ``diverged`` and, where known, ``energy`` and ``noise_std``; units
        are attributes of ``time``, ``coordinate`` (one for each) and ``energy``; the seed, the
        solver's error and ``noise_dof`` are attributes of the dataset.
        """
        from sympgp.rollouts.dataset import to_dataset

        return to_dataset(self)

    @classmethod
    def from_xarray(cls, dataset: Dataset) -> Rollouts:
        """Rollouts from the dataset that :meth:`to_xarray` makes.

        Raises:
            ValueError: a variable or dimension is missing.
        """
        from sympgp.rollouts.dataset import from_dataset

        return from_dataset(dataset)

    def to_netcdf(self, path: str | PathLike[str]) -> None:
        """Write the dataset of :meth:`to_xarray` to a NetCDF file.

        Raises:
            ValueError: the folder does not exist or the file cannot be written.
        """
        check_writable(path)
        self.to_xarray().to_netcdf(path, engine="h5netcdf")

    @classmethod
    def from_netcdf(cls, path: str | PathLike[str]) -> Rollouts:
        """Rollouts from a file that :meth:`to_netcdf` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is something else.
        """
        from sympgp.rollouts.dataset import read_netcdf

        return read_netcdf(path)


def _check_shapes(
    samples: Tensor,
    times: Tensor,
    diverged: Tensor,
    energies: Energies | Tensor | None,
    noise_std: Tensor | None,
) -> None:
    shape = tuple(samples.shape)
    if len(shape) != 4 or 0 in shape or shape[-1] % 2:
        raise ValueError(
            f"samples: expected (draws, trajectories, times, 2n) with none empty, got {shape}"
        )
    for name, value, expected in [
        ("times", times, shape[2:3]),
        ("diverged", diverged, shape[:2]),
        ("energies", energies, shape[:3]),
        ("noise_std", noise_std, (shape[0], shape[3])),
    ]:
        if isinstance(value, Tensor) and tuple(value.shape) != expected:
            raise ValueError(f"{name}: expected shape {expected}, got {tuple(value.shape)}")
    if noise_std is not None and not bool((noise_std >= 0).all()):
        raise ValueError("noise_std: expected standard deviations, got a negative one or NaN")


def _checked_angles(angles: Mapping[str, float | int], names: tuple[str, ...]) -> dict[str, float]:
    coordinates = names[: len(names) // 2]
    for name, period in angles.items():
        if name not in coordinates:
            raise ValueError(f"angles: expected some of {', '.join(coordinates)}, got {name!r}")
        if not 0 < period < math.inf:
            raise ValueError(f"angles: expected a positive period of {name}, got {period!r}")
    return {name: float(period) for name, period in angles.items()}


def _check_finite(finite: Tensor, diverged: Tensor) -> None:
    broken = (~finite.all(-1) & ~diverged).nonzero().tolist()
    if broken:
        draw, trajectory = broken[0]
        raise ValueError(
            "samples: expected finite states wherever a draw is not marked as diverged, "
            f"got NaN or infinity in draw {draw} of trajectory {trajectory}"
        )


def _describe_divergence(times: Tensor, diverged: Tensor, finite: Tensor) -> str:
    """How many draws of which trajectories diverged, and from what time."""
    num_draws, num_trajectories = diverged.shape
    first = finite.logical_not().long().argmax(-1)  # 0 also where a diverged draw stayed finite
    counts = diverged.sum(0).tolist()
    described = []
    for n in diverged.any(0).nonzero().flatten().tolist():
        time = times[first[diverged[:, n], n]].min().item()
        described.append(f"{counts[n]} of trajectory {n} (the first at t = {time:.4g})")
    shown = ", ".join(described[:5]) + (", ..." if len(described) > 5 else "")
    return (
        f"{sum(counts)} of {num_draws * num_trajectories} rollouts diverged and are left out of "
        f"means and bands: draws {shown}. A shorter solver step, a shorter horizon or more data "
        "near these states may help"
    )
