"""Projections of paths in phase space onto pairs of coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sympgp.plots import style
from sympgp.plots.choice import Coordinate, positions
from sympgp.plots.shown import Paths, Shown, collect, kept
from sympgp.plots.turns import Wrap, path_pieces, periods_of, wrapped_columns
from sympgp.trajectories import ArrayLike, Trajectories

MOST_COORDINATES = 6


def pairs(
    source: Paths | Trajectories,
    data: Trajectories | None = None,
    ax: Any = None,
    *,
    coordinates: Sequence[Coordinate] | None = None,
    trajectory: int | None = None,
    truth: ArrayLike | None = None,
    wrap: Wrap = None,
) -> np.ndarray:
    """Every pair of coordinates against each other: data, some draws and the true paths.

    With k coordinates the panels of a new figure are the lower triangle of a matrix, one column
    for each but the last and one row for each but the first.

    Args:
        source: rollouts, a list of them such as ``posterior.fitted()``, or data alone.
        data: observations of the same system.
        ax: k (k - 1) / 2 axes, row by row; None for a new figure.
        coordinates: names or positions; by default all, or the first three and their momenta.
        trajectory: the only one to draw, of rollouts, data and truth; by default all.
        truth: true states at the rollouts' times, (T, 2n) or (N, T, 2n).
        wrap: angles to draw within one turn, as for :func:`bands`.

    Returns:
        k (k - 1) / 2 axes, row by row.

    Raises:
        ValueError: coordinates or a trajectory that are not there; fewer than two coordinates;
            names of data and rollouts that differ; a truth of another shape; another number of
            axes.

    Example:
        >>> data = Trajectories([0.0, 1.0, 2.0], torch.eye(3, 4))
        >>> [ax.get_xlabel() for ax in pairs(data)]
        ['', '', '', 'q1', 'q2', 'p1']
    """
    shown = collect(source, data, truth)
    shown = shown if trajectory is None else shown.only(trajectory)
    chosen, left_out = positions(coordinates, shown.names, MOST_COORDINATES)
    if len(chosen) < 2:
        raise ValueError(f"coordinates: expected two or more, got {coordinates!r}")
    axes = _triangle(ax, len(chosen))
    both = [(j, i) for i in range(1, len(chosen)) for j in range(i)]
    paths, true, text = _curves(shown)
    periods = periods_of(wrap, shown.names, shown.angles)
    for panel, (column, row) in zip(axes, both, strict=True):
        x, y = chosen[column], chosen[row]
        turns = periods.get(x), periods.get(y)
        for path in (one for several in paths for one in several):
            for own in path_pieces(path[:, x], path[:, y], *turns):
                panel.plot(*own, label=text, **style.PATH)
        for known in true:
            for own in path_pieces(known[:, x], known[:, y], *turns):
                panel.plot(*own, label="truth", **style.TRUE_LINE)
        if shown.data is not None:
            states = wrapped_columns(style.numbers(torch.cat(shown.data.states)), periods)
            panel.plot(states[:, x], states[:, y], label="data", **style.CLOUD)
        if ax is not None or row == len(chosen) - 1:
            panel.set_xlabel(style.label(shown.names[x], shown.units))
        if ax is not None or column == 0:
            panel.set_ylabel(style.label(shown.names[y], shown.units))
        for set_limits, turn in zip((panel.set_xlim, panel.set_ylim), turns, strict=True):
            if turn is not None:
                set_limits(-0.5 * turn, 0.5 * turn)
        style.tidy(panel)
    style.legend(axes, ax is None, note=left_out if coordinates is None else "")
    return axes


def _triangle(ax: Any, count: int) -> np.ndarray:
    """One panel for each pair, row by row: in a new figure, those below a matrix's diagonal."""
    size = {2: 4.6, 3: 2.9}.get(count, 2.1)
    if ax is not None:
        return style.panels(ax, 1, count * (count - 1) // 2, (size, size))[0]
    shape = (count - 1, count - 1)
    matrix = style.panels(None, *shape, (size, size), share_x="col", share_y="row")
    for row, column in zip(*np.triu_indices(count - 1, 1), strict=True):
        matrix[row, column].remove()
    return matrix[np.tril_indices(count - 1)]


def _curves(shown: Shown) -> tuple[list[np.ndarray], list[np.ndarray], str]:
    """Some draws (K, T, D) and the true paths (T, D) of their trajectories, and a label."""
    if not shown.paths:
        return [], [], ""
    draws, count = style.some_paths(shown.paths[0].num_draws, len(shown.paths))
    some = [style.numbers(kept(path)[:draws]) for path in shown.paths[:count]]
    paths = [path for path in some if len(path)]
    true = [known for i in range(count) if (known := shown.true(i)) is not None]
    total = sum(path.num_draws for path in shown.paths)
    return paths, true, style.paths_label(sum(map(len, paths)), total)
