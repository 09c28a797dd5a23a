"""The pictures that the commands draw, and how they are written."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
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
MOST = 6
"""Trajectories that are drawn side by side."""


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
    several = len(source.names) > 2
    if isinstance(source, Posterior):
        shown = dict.fromkeys(("fitted", "residuals", *PHASE_SPACE, "energy"), True)
        shown |= {"trajectories": len(source.data) > 1, "pairs": several}
        if not source.has_energy:
            shown |= {"hamiltonian": False, "energy": False}
    else:
        shown = {"bands": True, "energy": source.energies is not None}
        shown |= {"trajectories": source.num_trajectories > 1, "pairs": several, "section": several}
    return tuple(kind for kind, possible in shown.items() if possible)


def draw(
    source: Posterior | Rollouts,
    kind: str,
    trajectory: int = 0,
    dof: int = 0,
    band: str = "latent",
    covariates: Sequence[float] | None = None,
) -> Any:
    """One picture of a posterior or of rollouts.

    Args:
        source: what to draw.
        kind: one of ``kinds_of(source)``.
        trajectory: of pictures over time.
        dof: degree of freedom of pictures in phase space.
        band: "latent" or "predictive", of pictures of states over time.
        covariates: of the field in pictures in phase space, where it needs some.

    Returns:
        Axes, one or an array of them.
    """
    if isinstance(source, Posterior):
        return _draw_posterior(source, kind, trajectory, dof, band, covariates)
    if kind == "energy":
        return plots.energy(source, trajectory=trajectory)
    if kind == "trajectories":
        return plots.small_multiples(source, kind=band)
    if kind == "section":
        return plots.section(source)
    if kind == "pairs":
        return plots.pairs(source)
    return plots.bands(source, trajectory=trajectory, kind=band)


def _draw_posterior(
    source: Posterior,
    kind: str,
    trajectory: int,
    dof: int,
    band: str,
    covariates: Sequence[float] | None,
) -> Any:
    if kind in PHASE_SPACE:
        region = _region(source, dof)
        return PHASE_SPACE[kind](source, dof=dof, region=region, covariates=covariates)
    if kind == "residuals":
        return plots.residuals(source)
    if kind in ("trajectories", "pairs"):
        curves = _curves(source, range(MOST))
        if kind == "pairs":
            return plots.pairs(curves, source.data)
        return plots.small_multiples(curves, source.data, kind=band)
    path, data = fitted(source, trajectory), source.data[trajectory]
    if kind == "energy":
        return plots.energy(path)
    return plots.bands(path, data, kind=band)


def _region(source: Posterior, dof: int) -> plots.Region | None:
    """What to show of phase space where no momenta were observed: where the fitted paths are."""
    chosen = [dof, source.num_dof + dof]
    if not bool(source.unobserved[chosen].any()):
        return None
    means = torch.cat([path.mean[0] for path in source.fitted(num_samples=20)])[:, chosen]
    low, high = means.amin(0), means.amax(0)
    margin = 0.15 * (high - low)
    (q, p) = torch.stack([low - margin, high + margin], 1).tolist()
    return (q[0], q[1]), (p[0], p[1])


def covariates_of(
    source: Posterior | Rollouts, given: Sequence[float] | None
) -> Sequence[float] | None:
    """Covariates of the field to draw: the means of the data's where none are given but needed.

    Raises:
        ValueError: covariates of another number, or where no parameter depends on any.
    """
    context = None if isinstance(source, Rollouts) else source.components[0].field.context
    if context is None or not context.names:
        if given is not None:
            raise ValueError("covariates: expected none, since no parameter depends on any")
        return None
    if given is None:
        return context.mean.tolist()
    context.standardised(given)
    return given


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
    return _curves(posterior, (trajectory,), num_samples, seed)[trajectory]


def _curves(
    posterior: Posterior, chosen: Sequence[int], num_samples: int = 100, seed: int = 0
) -> list[Rollouts]:
    """Draws of all training trajectories; those not chosen at their first time only."""
    times = []
    for i, own in enumerate(posterior.data.times):
        start, end = float(own[0]), float(own[-1])
        curve = torch.linspace(start, end, POINTS, dtype=torch.float64)
        times.append(curve if i in chosen else curve[:1])
    return posterior.fitted(times, num_samples, seed)


def continued(posterior: Posterior, ahead: Rollouts, trajectory: int) -> Any:
    """A training trajectory with its data and its forecast, in predictive bands."""
    before = fitted(posterior, trajectory, ahead.num_draws, ahead.seed)
    whole, data = join(before, ahead), posterior.data[trajectory]
    return plots.bands(whole, data, kind="predictive")


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
            noise_dof=after.noise_dof,
            angles=after.angles,
        )
