"""What a picture of several trajectories shows: draws, data and truth of each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sympgp.integrators import DivergenceWarning
from sympgp.plots import style
from sympgp.plots.choice import check_index, check_names
from sympgp.rollouts import Rollouts
from sympgp.trajectories import ArrayLike, Trajectories, as_tensor

Paths = Rollouts | Sequence[Rollouts]
"""Draws of paths: rollouts of several trajectories, or a list such as ``posterior.fitted()``."""


@dataclass(frozen=True)
class Shown:
    """Draws, data and truth of some trajectories, of the same coordinates.

    Attributes:
        names: names of the coordinates.
        units: units by name.
        labels: a name for each trajectory.
        paths: rollouts of each, N = 1; none where data are shown alone.
        data: observations, or None.
        truth: true states at the times of the rollouts, or None.
    """

    names: Sequence[str]
    units: Mapping[str, str]
    labels: Sequence[str]
    paths: Sequence[Rollouts]
    data: Trajectories | None
    truth: ArrayLike | None

    @property
    def angles(self) -> Mapping[str, float]:
        """Periods of the angles that the rollouts know of, by name."""
        return self.paths[0].angles if self.paths else {}

    def observed(self, trajectory: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Times and states of the data."""
        return None if self.data is None else observations(self.data, trajectory)

    def true(self, trajectory: int) -> np.ndarray | None:
        """True states (T, 2n)."""
        if self.truth is None:
            return None
        return true_path(self.truth, trajectory, self.paths[trajectory], len(self.paths))

    def only(self, trajectory: int) -> Shown:
        """One trajectory.

        Raises:
            ValueError: there is none of this number.
        """
        check_index("trajectory", trajectory, len(self.labels), "data or rollouts")
        label, paths, data = self.labels[trajectory : trajectory + 1], self.paths, self.data
        if data is not None and len(data) > 1:
            check_index("trajectory", trajectory, len(data), "data")
            data = data[trajectory]
        chosen = paths[trajectory : trajectory + 1]
        return Shown(self.names, self.units, label, chosen, data, self.true(trajectory))


def collect(
    source: Paths | Trajectories, data: Trajectories | None, truth: ArrayLike | None
) -> Shown:
    """Rollouts with data and truth, or data alone.

    Raises:
        ValueError: other coordinates in data than in rollouts; data or truth beside data.
    """
    if isinstance(source, Trajectories):
        if truth is not None or data is not None:
            raise ValueError("source: expected rollouts beside data or truth, got data")
        return Shown(source.names, source.units, source.labels, (), source, None)
    paths = singles(source)
    first, labels = paths[0], [str(i) for i in range(len(paths))]
    if data is not None:
        check_names("data", data.names, first.names)
        labels = list(data.labels) if len(data) == len(paths) else labels
    return Shown(first.names, first.units, labels, paths, data, truth)


def singles(paths: Paths) -> list[Rollouts]:
    """Every trajectory by itself, as ``Rollouts`` with N = 1, without energies.

    Raises:
        ValueError: no trajectory at all, or several with other coordinates.
    """
    several = [paths] if isinstance(paths, Rollouts) else list(paths)
    if not several:
        raise ValueError("rollouts: expected at least one, got none")
    for other in several:
        check_names("rollouts", other.names, several[0].names)
    return [single(rollouts, i) for rollouts in several for i in range(rollouts.num_trajectories)]


def single(rollouts: Rollouts, trajectory: int) -> Rollouts:
    """One trajectory of rollouts, as ``Rollouts`` with N = 1."""
    if rollouts.num_trajectories == 1:
        return rollouts
    with warnings.catch_warnings():
        # said when the rollouts were made
        warnings.simplefilter("ignore", DivergenceWarning)
        return Rollouts(
            rollouts.samples[:, [trajectory]],
            rollouts.times,
            rollouts.diverged[:, [trajectory]],
            noise_std=rollouts.noise_std,
            noise_dof=rollouts.noise_dof,
            names=rollouts.names,
            units=rollouts.units,
            seed=rollouts.seed,
            angles=rollouts.angles,
        )


def kept(path: Rollouts) -> Float[Tensor, "draws time dim"]:
    """The draws of rollouts of one trajectory that did not diverge."""
    return path.samples[~path.diverged[:, 0], 0]


def observations(data: Trajectories, trajectory: int) -> tuple[np.ndarray, np.ndarray]:
    """Times and states of a trajectory; of the only one, whatever is asked for."""
    index = 0 if len(data) == 1 else trajectory
    check_index("trajectory", index, len(data), "data")
    return style.numbers(data.times[index]), style.numbers(data.states[index])


def true_path(truth: ArrayLike, trajectory: int, path: Rollouts, count: int) -> np.ndarray:
    """True states (T, 2n) of one of ``count`` trajectories.

    Args:
        truth: (T, 2n), or one of these for every trajectory: (N, T, 2n) or a list.
        trajectory: which one.
        path: its rollouts, N = 1.
        count: number of trajectories.

    Raises:
        ValueError: another shape.
    """
    one = len(truth) > 0 and as_tensor(truth[0], "truth").ndim < 2
    if not one and len(truth) != count:
        raise ValueError(f"truth: expected states of {count} trajectories, got {len(truth)}")
    known = as_tensor(truth if one else truth[trajectory], "truth")
    expected = tuple(path.samples.shape[2:])
    if known.shape != expected:
        raise ValueError(
            f"truth: expected shape {expected} or {(count, *expected)}, "
            f"got {tuple(known.shape) if one else (count, *known.shape)}"
        )
    return style.numbers(known)
