"""Pictures over time: bands against data, and energy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sympgp.plots import style
from sympgp.rollouts import Rollouts
from sympgp.rollouts.statistics import kept_mean, kept_quantiles
from sympgp.trajectories import ArrayLike, Trajectories, as_tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any


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
) -> np.ndarray:
    """Mean and band of every coordinate over time, with the data on top.

    Args:
        rollouts: what to draw.
        data: observations of the same system; a container of one trajectory is drawn whatever
            ``trajectory`` is.
        ax: 2n axes to draw in, coordinates first; None for a new figure.
        truth: true states at the rollouts' times, (T, 2n) or (N, T, 2n).
        level: probability inside the band.
        trajectory: which initial state of the rollouts to draw.
        kind: "latent" or "predictive" band, see :meth:`Rollouts.band`.
        forecast_start: time of a vertical line, after which observations are drawn open because
            the fit has not seen them; by default the last observation, where the rollouts go on
            behind it.

    Returns:
        The 2n axes, in the order of the coordinates.

    Raises:
        ValueError: a trajectory that is not there; names of data and rollouts that differ; a
            truth of another shape; another number of axes than coordinates.

    Example:
        >>> import torch
        >>> samples = torch.randn(50, 1, 9, 2, generator=torch.Generator().manual_seed(0))
        >>> diverged = torch.zeros(50, 1, dtype=torch.bool)
        >>> rollouts = Rollouts(samples, torch.arange(9.0), diverged, units={"time": "s"})
        >>> axes = bands(rollouts)
        >>> [ax.get_ylabel() for ax in axes], axes[1].get_xlabel()
        (['q', 'p'], 'time [s]')
    """
    _check_index("trajectory", trajectory, rollouts.num_trajectories, "rollouts")
    dim = len(rollouts.names)
    observed = None if data is None else _observations(data, rollouts, trajectory)
    known = None if truth is None else _truth(truth, rollouts, trajectory)
    if forecast_start is None and observed is not None:
        last = observed[0][-1]
        forecast_start = last if last < rollouts.times.max().item() else None
    rows, columns = (2, 1) if dim == 2 else (dim // 2, 2)
    given = style.panels(ax, rows, columns, (6.4 if columns == 1 else 4.4, 2.1), share_x=True)
    axes = given.ravel() if ax is not None else given.T.ravel()
    times, mean = style.numbers(rollouts.times), style.numbers(rollouts.mean[trajectory])
    lower, upper = (style.numbers(end[trajectory]) for end in rollouts.band(level, kind))
    for d, (panel, name) in enumerate(zip(axes, rollouts.names, strict=True)):
        band_label = f"{level:.0%} {kind} band"
        panel.fill_between(times, lower[:, d], upper[:, d], label=band_label, **style.BAND)
        panel.plot(times, mean[:, d], label="mean", **style.MEAN)
        if known is not None:
            panel.plot(times, known[:, d], label="truth", **style.TRUE_LINE)
        if forecast_start is not None:
            panel.axvline(forecast_start, label="start of forecast", **style.START)
        if observed is not None:
            _draw_observations(panel, observed[0], observed[1][:, d], forecast_start)
        panel.set_ylabel(style.label(name, rollouts.units))
        panel.margins(x=0.01)
        style.tidy(panel)
    for panel in axes if ax is not None else given[-1]:
        panel.set_xlabel(style.label("time", rollouts.units))
    style.legend(axes, own_figure=ax is None)
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
    _check_index("trajectory", trajectory, rollouts.num_trajectories, "rollouts")
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


def _check_index(name: str, index: int, count: int, where: str) -> None:
    if not 0 <= index < count:
        raise ValueError(f"{name}: expected 0 to {count - 1} for these {where}, got {index}")


def _observations(
    data: Trajectories, rollouts: Rollouts, trajectory: int
) -> tuple[np.ndarray, np.ndarray]:
    """Times and states of the trajectory to draw."""
    if data.names != rollouts.names:
        raise ValueError(
            f"data: expected the coordinates {rollouts.names} of the rollouts, got {data.names}"
        )
    index = 0 if len(data) == 1 else trajectory
    _check_index("trajectory", index, len(data), "data")
    return style.numbers(data.times[index]), style.numbers(data.states[index])


def _truth(truth: ArrayLike, rollouts: Rollouts, trajectory: int) -> np.ndarray:
    known: Tensor = as_tensor(truth, "truth")
    expected = rollouts.samples.shape[1:]
    if known.shape == expected:
        known = known[trajectory]
    if known.shape != expected[1:]:
        raise ValueError(
            f"truth: expected shape {tuple(expected[1:])} or {tuple(expected)}, "
            f"got {tuple(known.shape)}"
        )
    return style.numbers(known.to(torch.float64))


def _draw_observations(
    panel: Axes, times: np.ndarray, values: np.ndarray, forecast_start: float | None
) -> None:
    unseen = times > (np.inf if forecast_start is None else forecast_start)
    size = style.marker_size(len(times))
    for rows, text, look in ((~unseen, "data", style.SEEN), (unseen, "not seen", style.UNSEEN)):
        if rows.any():
            panel.plot(times[rows], values[rows], label=text, **look | {"markersize": size})
