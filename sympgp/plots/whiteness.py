"""A picture of what a fit leaves unexplained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from scipy.special import betaincinv, ndtr, ndtri
from torch import Tensor

from sympgp.plots import style
from sympgp.plots.choice import Coordinate, positions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any

MOST_ROWS = 6
LAGS = 20
LIMIT = 1.96
"""A standard normal number is within plus and minus this with probability 0.95."""
LIMITS = "95% limits of white noise"
QUANTILES = 500
"""Points of a normal quantile plot; of more residuals some are left out, evenly along its axis."""


@runtime_checkable
class StandardizedResiduals(Protocol):
    """What the picture asks of the residuals of a fit."""

    @property
    def times(self) -> tuple[Tensor, ...]:
        """Times of each trajectory, (T_i,)."""

    @property
    def standardized(self) -> tuple[Tensor, ...]:
        """(Observation - fitted mean) / noise standard deviation, (T_i, D), NaN where missing."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the D coordinates."""

    @property
    def units(self) -> Mapping[str, str]:
        """Units by name, "time" among them where known."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the trajectories."""

    def autocorrelation(self, max_lag: int) -> Tensor:
        """Autocorrelation at lags 0 to ``max_lag``, (max_lag + 1, D)."""


@runtime_checkable
class HasResiduals(Protocol):
    """A posterior that can tell its residuals."""

    def residuals(self) -> StandardizedResiduals:
        """What the fit leaves unexplained of its data."""


def residuals(
    source: StandardizedResiduals | HasResiduals,
    ax: Any = None,
    *,
    coordinates: Sequence[Coordinate] | None = None,
    max_lag: int | None = None,
) -> np.ndarray:
    """Standardized residuals of a fit: over time, their distribution, their autocorrelation.

    Each row is one coordinate:

    - ``(observation - fitted mean) / noise_std`` of all trajectories over time;
    - the sorted residuals against the quantiles of the standard normal distribution. In the band
      lie 95% of each order statistic of as many independent normal numbers: a steeper line means
      residuals larger than the noise, ends that leave it outliers;
    - their autocorrelation over the lag in observations. That of n independent numbers is within
      ``+-1.96 / sqrt(n)`` at 95% of the lags.

    Residuals of a fit that has found the structure look like independent standard normal numbers;
    slow waves over time and autocorrelation outside its limits show what the model cannot follow.

    Args:
        source: residuals, or a posterior that has them.
        ax: three axes for each coordinate; None for a new figure.
        coordinates: names or positions of those to draw; by default all, or the first three and
            their momenta.
        max_lag: the longest lag; by default 20, or half a trajectory.

    Returns:
        Axes (coordinates, 3).

    Raises:
        ValueError: a coordinate that is not there; another number of axes.
    """
    found = source.residuals() if isinstance(source, HasResiduals) else source
    chosen, left_out = positions(coordinates, found.names, MOST_ROWS)
    if max_lag is None:
        max_lag = min(LAGS, max(len(times) for times in found.times) // 2)
    if max_lag < 1:
        raise ValueError(f"max_lag: expected at least 1, got {max_lag}")
    times = np.concatenate([style.numbers(part) for part in found.times])
    values = np.concatenate([style.numbers(part) for part in found.standardized])
    correlation = style.numbers(found.autocorrelation(max_lag))
    axes = style.panels(ax, len(chosen), 3, (3.4, 2.0), share_x="col")
    for row, d in zip(axes, chosen, strict=True):
        seen = np.isfinite(values[:, d])
        bound = 1.15 * np.abs(values[seen, d]).max(initial=3.0)
        _draw_times(row[0], times[seen], values[seen, d])
        _draw_quantiles(row[1], np.sort(values[seen, d]))
        _draw_correlation(row[2], correlation[1:, d], int(seen.sum()))
        beside = (f"{found.names[d]}: residual\n/ noise std", "sorted residual", "autocorrelation")
        for panel, text in zip(row, beside, strict=True):
            panel.set_ylabel(text)
            style.tidy(panel)
        for panel in row[:2]:
            panel.set_ylim(-bound, bound)
    below = [style.label("time", found.units), "standard normal quantile", "lag [observations]"]
    for panel, text in zip(axes[-1], below, strict=True):
        panel.set_xlabel(text)
    style.legend(axes, ax is None, note=left_out if coordinates is None else "")
    return axes


def _draw_times(panel: Axes, times: np.ndarray, values: np.ndarray) -> None:
    for limit in (-LIMIT, LIMIT):
        panel.axhline(limit, label=LIMITS, **style.LIMIT)
    panel.axhline(0.0, **style.ZERO)
    look = style.SEEN | {"markersize": style.marker_size(len(values)), "markeredgewidth": 0.0}
    panel.plot(
        times, values, label="residuals", alpha=0.6, rasterized=len(values) > style.VECTORS, **look
    )
    panel.margins(x=0.01)


def _draw_quantiles(panel: Axes, ordered: np.ndarray) -> None:
    """Order statistics over normal quantiles, in the band of independent normal numbers."""
    count = len(ordered)
    if not count:
        return
    edge = ndtri((count - 0.5) / count)
    rank = np.arange(count)
    if count > QUANTILES:
        rank = np.unique((count * ndtr(np.linspace(-edge, edge, QUANTILES))).astype(int))
    expected = ndtri((rank + 0.5) / count)
    # the order statistic of rank i of n uniform numbers has a Beta(i, n + 1 - i) distribution
    tails = ((1 - 0.95) / 2, (1 + 0.95) / 2)
    lower, upper = (ndtri(betaincinv(rank + 1.0, count - rank, tail)) for tail in tails)
    band: dict[str, Any] = {"color": style.GUIDE, "alpha": 0.25, "linewidth": 0.0}
    panel.fill_between(expected, lower, upper, **band)
    panel.plot(expected, expected, **style.ZERO)
    panel.plot(expected, ordered[rank], **style.SEEN | {"markersize": 2.0})


def _draw_correlation(panel: Axes, correlation: np.ndarray, count: int) -> None:
    lags = np.arange(1, len(correlation) + 1)
    panel.axhline(0.0, **style.ZERO)
    if count:
        for sign in (-1, 1):
            panel.axhline(sign * LIMIT / np.sqrt(count), **style.LIMIT)
    panel.vlines(lags, 0.0, correlation, colors=style.DATA, linewidth=1.0)
    panel.plot(lags, correlation, **style.SEEN | {"markersize": 2.5})
    known = np.abs(correlation[np.isfinite(correlation)])
    # about zero, and not so close that white noise looks like structure
    bound = max(0.25, 1.15 * known.max(initial=0.0), 1.3 * LIMIT / np.sqrt(max(count, 1)))
    panel.set_ylim(-bound, bound)
