"""One trajectory over time, ready to be drawn coordinate by coordinate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sympgp.plots import style
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
    """

    times: np.ndarray
    mean: np.ndarray
    band: tuple[np.ndarray, np.ndarray]
    band_label: str
    truth: np.ndarray | None = None
    observed: Observed | None = None
    forecast_start: float | None = None

    def draw(self, panel: Axes, d: int, small: bool = False) -> None:
        """Draw coordinate d, data with the marks of a small panel where it is one."""
        if len(self.times):
            lower, upper = (end[:, d] for end in self.band)
            panel.fill_between(self.times, lower, upper, label=self.band_label, **style.BAND)
            panel.plot(self.times, self.mean[:, d], label="mean", **style.MEAN)
        if self.truth is not None:
            panel.plot(self.times, self.truth[:, d], label="truth", **style.TRUE_LINE)
        if self.forecast_start is not None:
            panel.axvline(self.forecast_start, label="start of forecast", **style.START)
        if self.observed is not None:
            self._draw_data(panel, d, *self.observed, small)
        panel.margins(x=0.01)
        style.tidy(panel)

    def _draw_data(
        self, panel: Axes, d: int, times: np.ndarray, states: np.ndarray, small: bool
    ) -> None:
        start = np.inf if self.forecast_start is None else self.forecast_start
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
    )


def data_track(observed: Observed | None) -> Track:
    """Data alone."""
    none = np.empty((0, 0))
    return Track(np.empty(0), none, (none, none), "", observed=observed)
