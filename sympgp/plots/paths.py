"""Pictures over time: bands against data, and energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sympgp.plots import style
from sympgp.plots.choice import Coordinate, check_index, check_names, positions
from sympgp.plots.shown import observations, single, true_path
from sympgp.plots.tracks import make_track
from sympgp.plots.turns import Wrap, periods_of
from sympgp.rollouts import Rollouts
from sympgp.rollouts.statistics import kept_mean, kept_quantiles
from sympgp.trajectories import ArrayLike, Trajectories, as_tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any

MOST_COORDINATES = 20
"""Coordinates and momenta drawn without being asked for."""


def bands(
    rollouts: Rollouts,
    data: Trajectories | None = None,
    ax: Any = None,
    *,
    truth: ArrayLike | None = None,
    level: float = 0.9,
    trajectory: int = 0,
    kind: str = "latent",
    forecast_start: float | None = None,
    coordinates: Sequence[Coordinate] | None = None,
    wrap: Wrap = None,
) -> np.ndarray:
    """Mean and band of every coordinate over time, with the data on top.

    Args:
        rollouts: what to draw.
        data: observations of the same system; a container of one trajectory is drawn whatever
            ``trajectory`` is.
        ax: one axes for each coordinate, momenta last; None for a new figure.
        truth: true states at the rollouts' times, (T, 2n) or (N, T, 2n).
        level: probability inside the band.
        trajectory: which initial state of the rollouts to draw.
        kind: "latent" or "predictive" band, see :meth:`Rollouts.band`.
        forecast_start: time of a vertical line, after which observations are drawn open because
            the fit has not seen them; by default the last observation, where the rollouts go on
            behind it.
        coordinates: names or positions of those to draw; by default all, or the first ten and
            their momenta.
        wrap: coordinates that are angles, by name, to draw within one turn: ``"angle"``, several
            names, or names with their periods such as ``{"angle": 360}``; 2 pi unless said. Those
            that the rollouts know as angles when None; ``()`` for none.

    Returns:
        One axes for each coordinate, in their order.

    Raises:
        ValueError: a trajectory that is not there; names of data and rollouts that differ; a
            truth of another shape; another number of axes than coordinates; an angle that is no
            coordinate.

    Example:
        >>> import torch
        >>> samples = torch.randn(50, 1, 9, 2, generator=torch.Generator().manual_seed(0))
        >>> diverged = torch.zeros(50, 1, dtype=torch.bool)
        >>> rollouts = Rollouts(samples, torch.arange(9.0), diverged, units={"time": "s"})
        >>> axes = bands(rollouts)
        >>> [ax.get_ylabel() for ax in axes], axes[1].get_xlabel()
        (['q', 'p'], 'time [s]')
    """
    check_index("trajectory", trajectory, rollouts.num_trajectories, "rollouts")
    observed = None
    if data is not None:
        check_names("data", data.names, rollouts.names)
        observed = observations(data, trajectory)
    path, count = single(rollouts, trajectory), rollouts.num_trajectories
    known = None if truth is None else true_path(truth, trajectory, path, count)
    chosen, left_out = positions(coordinates, rollouts.names, MOST_COORDINATES)
    periods = periods_of(wrap, rollouts.names, rollouts.angles)
    track = make_track(path, level, kind, known, observed, forecast_start, periods)
    # coordinates beside their momenta, where there are as many
    columns = 2 if coordinates is None and len(chosen) > 2 else 1
    size = (6.4 if columns == 1 else 4.4, 2.1)
    given = style.panels(ax, len(chosen) // columns, columns, size, share_x=True)
    axes = given.ravel() if ax is not None else given.T.ravel()
    for d, panel in zip(chosen, axes, strict=True):
        track.draw(panel, d)
        panel.set_ylabel(style.label(rollouts.names[d], rollouts.units))
    for panel in axes if ax is not None else given[-1]:
        panel.set_xlabel(style.label("time", rollouts.units))
    style.legend(axes, ax is None, note=left_out if coordinates is None else "")
    return axes


def energy(
    rollouts: Rollouts,
    ax: Axes | None = None,
    *,
    trajectory: int = 0,
    level: float = 0.9,
    truth: ArrayLike | None = None,
) -> Axes:
    """Mean and band of the energy over time, each draw under its own Hamiltonian.

    Args:
        rollouts: what to draw.
        ax: axes to draw in; None for a new figure.
        trajectory: which initial state of the rollouts to draw.
        level: probability inside the band.
        truth: true energies at the rollouts' times, (T,) or (N, T), from the same reference.

    Raises:
        TypeError: the rollouts have no energies.
        ValueError: a trajectory that is not there; a truth of another shape.
    """
    check_index("trajectory", trajectory, rollouts.num_trajectories, "rollouts")
    values = rollouts.energy().narrow(1, trajectory, 1).unsqueeze(-1)
    diverged = rollouts.diverged.narrow(1, trajectory, 1)
    tails = (0.5 - 0.5 * level, 0.5 + 0.5 * level)
    ends = [style.numbers(end.flatten()) for end in kept_quantiles(values, diverged, tails)]
    mean = style.numbers(kept_mean(values, diverged).flatten())
    axes = style.panels(ax, 1, 1, (6.4, 2.8))
    panel = axes[0, 0]
    times = style.numbers(rollouts.times)
    panel.fill_between(times, ends[0], ends[1], label=f"{level:.0%} band", **style.BAND)
    panel.plot(times, mean, label="mean", **style.MEAN)
    if truth is not None:
        known = as_tensor(truth, "truth")
        known = known[trajectory] if known.ndim == 2 else known
        if known.shape != rollouts.times.shape:
            raise ValueError(
                f"truth: expected energies at the {len(times)} times of the rollouts, "
                f"got shape {tuple(known.shape)}"
            )
        panel.plot(times, style.numbers(known), label="truth", **style.TRUE_LINE)
    panel.set_xlabel(style.label("time", rollouts.units))
    panel.set_ylabel(style.energy_label("energy", rollouts.names, rollouts.units))
    panel.margins(x=0.01)
    style.tidy(panel)
    style.legend(axes, own_figure=ax is None)
    return panel
