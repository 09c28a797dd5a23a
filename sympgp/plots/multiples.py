"""Small multiples: the same picture of many trajectories side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sympgp.plots import style
from sympgp.plots.choice import Coordinate, positions, select
from sympgp.plots.shown import Paths, Shown, collect
from sympgp.plots.tracks import Track, data_track, make_track
from sympgp.plots.turns import Wrap, periods_of
from sympgp.trajectories import ArrayLike, Trajectories

MOST_COLUMNS = 6
MOST_ROWS = 8


def small_multiples(
    source: Paths | Trajectories,
    data: Trajectories | None = None,
    ax: Any = None,
    *,
    trajectories: Sequence[int] | None = None,
    coordinates: Sequence[Coordinate] | None = None,
    truth: ArrayLike | None = None,
    level: float = 0.9,
    kind: str = "latent",
    wrap: Wrap = None,
) -> np.ndarray:
    """Many trajectories over time: a column for each, a row for each coordinate.

    The panels of a column share their times, those of a row their scale.

    Args:
        source: what to draw: rollouts, a list of them such as ``posterior.fitted()``, or data
            alone.
        data: observations of the same trajectories, in the same order.
        ax: rows times columns axes to draw in; None for a new figure.
        trajectories: which ones; by default the first six.
        coordinates: names or positions of those to draw; by default all, or the first four and
            their momenta.
        truth: true states of every trajectory at the rollouts' times, (T, 2n) each.
        level: probability inside the band.
        kind: "latent" or "predictive" band, see :meth:`Rollouts.band`.
        wrap: angles to draw within one turn, as for :func:`bands`.

    Returns:
        Axes (rows, columns).

    Raises:
        ValueError: trajectories or coordinates that are not there; data or truth of another
            number of trajectories or of other coordinates; another number of axes.

    Example:
        >>> import torch
        >>> data = Trajectories([0.0, 1.0, 2.0], torch.ones(9, 3, 2))
        >>> axes = small_multiples(data)
        >>> axes.shape, axes[0, 5].get_title()
        ((2, 6), 'trajectory 5')
    """
    shown = collect(source, data, truth)
    count, names, units = len(shown.labels), shown.names, shown.units
    if data is not None and len(data) != count:
        raise ValueError(f"data: expected {count} trajectories as in the rollouts, got {len(data)}")
    chosen, fewer = select(trajectories, count, MOST_COLUMNS)
    rows, left_out = positions(coordinates, names, MOST_ROWS)
    periods = periods_of(wrap, names, shown.angles)
    axes = style.panels(ax, len(rows), len(chosen), (2.3, 1.5), share_x="col", share_y="row")
    for column, index in enumerate(chosen):
        track, text = _track(shown, index, level, kind, periods), shown.labels[index]
        for panel, d in zip(axes[:, column], rows, strict=True):
            track.draw(panel, d, small=True)
        text = f"trajectory {text}" if text.isdecimal() else text
        style.heading(axes[0, column], text, own_figure=ax is None)
    style.label_grid(
        axes,
        [style.label("time", units)] * len(chosen),
        [style.label(names[d], units) for d in rows],
        own_figure=ax is None,
    )
    left = [
        fewer if trajectories is None else "",
        left_out if coordinates is None else "",
    ]
    style.legend(axes, ax is None, note=" and ".join(filter(None, left)))
    return axes


def _track(
    shown: Shown, trajectory: int, level: float, kind: str, periods: Mapping[int, float]
) -> Track:
    observed = shown.observed(trajectory)
    if not shown.paths:
        return data_track(observed, periods)
    path, true = shown.paths[trajectory], shown.true(trajectory)
    return make_track(path, level, kind, true, observed, periods=periods)
