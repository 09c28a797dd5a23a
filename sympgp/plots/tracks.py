"""One trajectory over time, ready to be drawn coordinate by coordinate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sympgp.plots import style
from sympgp.plots.turns import clipped_band, pieces, wrapped_columns
from sympgp.rollouts import Rollouts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any

Observed = tuple[np.ndarray, np.ndarray]
"""Times (T,) and states (T, D)."""


@dataclass(frozen=True)
class Track:
    """What is drawn of one trajectory.

    Attributes:
        times: (T,) of the curves; empty where only data are drawn.
        mean: (T, D).
        band: lower and upper end, (T, D) each.
        band_label: what the band is.
        truth: (T, D) or None.
        observed: data or None.
        forecast_start: time of the vertical line or None.
        periods: of angles, by their position; they are drawn within one turn.
    """

    times: np.ndarray
    mean: np.ndarray
    band: tuple[np.ndarray, np.ndarray]
    band_label: str
    truth: np.ndarray | None = None
    observed: Observed | None = None
    forecast_start: float | None = None
    periods: Mapping[int, float] = field(default_factory=dict)

    def draw(self, panel: Axes, d: int, small: bool = False) -> None:
        """Draw coordinate d, data with the marks of a small panel where it is one."""
        if len(self.times):
            self._draw_band(panel, d)
            self._draw_line(panel, d, self.mean, "mean", style.MEAN)
        if self.truth is not None:
            self._draw_line(panel, d, self.truth, "truth", style.TRUE_LINE)
        if self.forecast_start is not None:
            panel.axvline(self.forecast_start, label="start of forecast", **style.START)
        if self.observed is not None:
            self._draw_data(panel, d, *self.observed, small)
        panel.margins(x=0.01)
        if d in self.periods:
            panel.set_ylim(-0.5 * self.periods[d], 0.5 * self.periods[d])
        style.tidy(panel)

    def _draw_band(self, panel: Axes, d: int) -> None:
        period = self.periods.get(d)
        lower, upper = clipped_band(self.band[0][:, d], self.band[1][:, d], period)
        text: str | None = self.band_label
        for rows, shift in pieces(lower, upper, period):
            ends = lower[rows] + shift, upper[rows] + shift
            panel.fill_between(self.times[rows], *ends, label=text, **style.BAND)
            text = None

    def _draw_line(
        self, panel: Axes, d: int, states: np.ndarray, text: str | None, look: dict[str, Any]
    ) -> None:
        values = states[:, d]
        for rows, shift in pieces(values, values, self.periods.get(d)):
            panel.plot(self.times[rows], values[rows] + shift, label=text, **look)
            text = None

    def _draw_data(
        self, panel: Axes, d: int, times: np.ndarray, states: np.ndarray, small: bool
    ) -> None:
        start = np.inf if self.forecast_start is None else self.forecast_start
        states = wrapped_columns(states, self.periods)
        unseen = times > start
        size = {"markersize": style.marker_size(len(times)) * (0.6 if small else 1.0)}
        for rows, text, look in ((~unseen, "data", style.SEEN), (unseen, "not seen", style.UNSEEN)):
            if rows.any():
                panel.plot(times[rows], states[rows, d], label=text, **look | size)


def make_track(
    rollouts: Rollouts,
    level: float,
    kind: str,
    truth: np.ndarray | None = None,
    observed: Observed | None = None,
    forecast_start: float | None = None,
    periods: Mapping[int, float] | None = None,
) -> Track:
    """Mean and band of rollouts of one trajectory.

    The forecast starts with the last observation, where the rollouts go on behind it and no
    other time is given.
    """
    if forecast_start is None and observed is not None:
        last = observed[0][-1]
        forecast_start = last if last < rollouts.times.max().item() else None
    lower, upper = (style.numbers(end[0]) for end in rollouts.band(level, kind))
    return Track(
        style.numbers(rollouts.times),
        style.numbers(rollouts.mean[0]),
        (lower, upper),
        f"{level:.0%} {kind} band",
        truth,
        observed,
        forecast_start,
        periods or {},
    )


def data_track(observed: Observed | None, periods: Mapping[int, float] | None = None) -> Track:
    """Data alone."""
    none = np.empty((0, 0))
    return Track(np.empty(0), none, (none, none), "", observed=observed, periods=periods or {})
