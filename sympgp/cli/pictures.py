"""The pictures that the commands draw, and how they are written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import torch

from sympgp import plots
from sympgp.cli.parameters import find_trajectory
from sympgp.integrators import DivergenceWarning
from sympgp.posterior import Posterior, load
from sympgp.rollouts import Rollouts

# Files only: commands open no window and need no display.
matplotlib.use("Agg")

DOTS_PER_INCH = 150
NETCDF_SIGNATURE = b"\x89HDF\r\n\x1a\n"
PHASE_SPACE: dict[str, Callable[..., Any]] = {
    "phase": plots.phase_portrait,
    "hamiltonian": plots.hamiltonian,
    "field": plots.vector_field,
}
POINTS = 301
"""Times at which a curve is drawn."""


def save(axes: Any, path: Path) -> None:
    """Write the figure that the axes belong to, and close it."""
    import matplotlib.pyplot as plt

    figure = getattr(axes, "flat", [axes])[0].figure
    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)


def read(path: Path) -> Posterior | Rollouts:
    """A posterior or rollouts, told apart by what the file holds, not by its name.

    Raises:
        ValueError: the file is something else.
    """
    with path.open("rb") as file:
        netcdf = file.read(len(NETCDF_SIGNATURE)) == NETCDF_SIGNATURE
    if netcdf:
        return Rollouts.from_netcdf(path)
    try:
        return load(path)
    except ValueError as error:
        reason = str(error).removeprefix("path: ")
        raise ValueError(f"{reason}, and no netCDF file of draws either") from error


def kinds_of(source: Posterior | Rollouts) -> tuple[str, ...]:
    """What can be drawn of it, in the order in which to look at it."""
    if isinstance(source, Posterior):
        return ("fitted", "phase", "hamiltonian", "energy", "field")
    return ("bands", "energy") if source.energies is not None else ("bands",)


def draw(
    source: Posterior | Rollouts, kind: str, trajectory: int = 0, dof: int = 0, band: str = "latent"
) -> Any:
    """One picture of a posterior or of rollouts.

    Args:
        source: what to draw.
        kind: one of ``kinds_of(source)``.
        trajectory: of pictures over time.
        dof: degree of freedom of pictures in phase space.
        band: "latent" or "predictive", of pictures of states over time.

    Returns:
        Axes, one or an array of them.
    """
    if isinstance(source, Posterior):
        if kind in PHASE_SPACE:
            return PHASE_SPACE[kind](source, dof=dof)
        path, data = fitted(source, trajectory), source.data[trajectory]
        return plots.energy(path) if kind == "energy" else plots.bands(path, data, kind=band)
    if kind == "energy":
        return plots.energy(source, trajectory=trajectory)
    return plots.bands(source, trajectory=trajectory, kind=band)


def position(source: Posterior | Rollouts, trajectory: str | None) -> int:
    """Position of the trajectory with this name or number, the first when None.

    Raises:
        ValueError: there is none.
    """
    if isinstance(source, Posterior):
        return find_trajectory(trajectory, source.data.labels)
    return find_trajectory(trajectory, [str(i) for i in range(source.num_trajectories)])


def fitted(
    posterior: Posterior, trajectory: int, num_samples: int = 100, seed: int = 0
) -> Rollouts:
    """Draws of one training trajectory, at times close enough to draw curves."""
    own = posterior.data.times
    times = [t[:1] for t in own]
    start, end = float(own[trajectory][0]), float(own[trajectory][-1])
    times[trajectory] = torch.linspace(start, end, POINTS, dtype=torch.float64)
    return posterior.fitted(times, num_samples, seed)[trajectory]


def continued(posterior: Posterior, ahead: Rollouts, trajectory: int) -> Any:
    """A training trajectory with its data and its forecast, in predictive bands."""
    before = fitted(posterior, trajectory, ahead.num_draws, ahead.seed)
    return plots.bands(join(before, ahead), posterior.data[trajectory], kind="predictive")


def join(before: Rollouts, after: Rollouts) -> Rollouts:
    """One trajectory's fitted draws and its forecast, end to end."""
    later = after.times > before.times[-1]
    with warnings.catch_warnings():
        # said already, of the parts
        warnings.simplefilter("ignore", DivergenceWarning)
        return Rollouts(
            torch.cat([before.samples, after.samples[:, :, later]], 2),
            torch.cat([before.times, after.times[later]]),
            before.diverged | after.diverged,
            noise_std=after.noise_std,
            names=after.names,
            units=after.units,
            seed=after.seed,
        )
