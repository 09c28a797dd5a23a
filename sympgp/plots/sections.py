"""Poincare sections of rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sympgp.plots import style
from sympgp.plots.choice import Coordinate, position, positions
from sympgp.plots.crossings import crossings
from sympgp.plots.shown import Paths, Shown, collect, kept
from sympgp.rollouts import Rollouts
from sympgp.trajectories import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any


def section(
    rollouts: Paths,
    crossing: tuple[Coordinate, float | int] = (0, 0.0),
    direction: int = 1,
    coordinates: Sequence[Coordinate] | None = None,
    ax: Axes | None = None,
    *,
    truth: ArrayLike | None = None,
) -> Axes:
    """Poincare section: the states of all draws at which one coordinate crosses a value.

    Crossings are found between the times of the rollouts by cubic splines; the times have to be
    so close that a path crosses at most once between two. Draws that diverged are left out.

    Args:
        rollouts: draws of paths, or a list such as ``posterior.fitted()``.
        crossing: name or position of the coordinate, and the value that it crosses.
        direction: +1 for upward crossings, -1 for downward ones, 0 for both.
        coordinates: names or positions of the two along the axes; by default those
            of the first degree of freedom that does not cross.
        ax: axes to draw in; None for a new figure.
        truth: true states at the rollouts' times, (T, 2n) or one for each trajectory.

    Raises:
        ValueError: coordinates that are not there, or no second degree of freedom; another
            direction; a value that no draw crosses; a truth of another shape.

    Example:
        >>> import torch
        >>> angle = torch.linspace(0, 20, 101).double().outer(torch.tensor([1.0, 1.4]).double())
        >>> samples = torch.cat([angle.sin(), angle.cos()], 1)[None, None]
        >>> rollouts = Rollouts(samples, angle[:, 0], torch.zeros(1, 1, dtype=torch.bool))
        >>> ax = section(rollouts, crossing=("q1", 0.5))
        >>> ax.get_xlabel(), ax.get_ylabel(), len(ax.get_lines()[0].get_xdata())
        ('q2', 'p2', 4)
    """
    shown = collect(rollouts, None, truth)
    names, units = shown.names, shown.units
    axis, value = position(crossing[0], names, "crossing"), float(crossing[1])
    x, y = _section_axes(coordinates, names, axis)
    if direction not in (-1, 0, 1):
        raise ValueError(f"direction: expected +1, -1 or 0, got {direction!r}")
    found = np.concatenate([_cross(path, axis, value, direction) for path in shown.paths])
    if not len(found):
        raise ValueError(
            f"crossing: expected a value that {names[axis]} crosses in this direction, got {value}"
        )
    axes = style.panels(ax, 1, 1, (5.2, 4.6))
    panel = axes[0, 0]
    look: dict[str, Any] = {"markersize": 2.0 if len(found) < 2000 else 1.4, "markeredgewidth": 0.0}
    look |= {"color": style.GREEN, "marker": "o", "linestyle": "none", "alpha": 0.8}
    many = len(found) > style.VECTORS
    panel.plot(found[:, x], found[:, y], label="draws", rasterized=many, **look)
    true = [_cross_truth(shown, i, axis, value, direction) for i in range(len(shown.paths))]
    known = np.concatenate(true)
    if len(known):
        panel.plot(known[:, x], known[:, y], label="truth", **style.TRUE_POINT)
    panel.set_xlabel(style.label(names[x], units))
    panel.set_ylabel(style.label(names[y], units))
    style.tidy(panel)
    way = {1: " upwards", -1: " downwards", 0: " both ways"}[direction]
    where = style.value_label(names[axis], value, units)
    style.legend(axes, ax is None, note=f"section at {where}, crossed{way}")
    return panel


def _section_axes(
    coordinates: Sequence[Coordinate] | None, names: Sequence[str], axis: int
) -> tuple[int, int]:
    """Positions of the two coordinates along the axes of a section."""
    num_dof = len(names) // 2
    if coordinates is not None:
        chosen, _ = positions(coordinates, names, len(names))
        if len(chosen) != 2:
            raise ValueError(f"coordinates: expected two, got {tuple(coordinates)}")
        return chosen[0], chosen[1]
    others = [d for d in range(num_dof) if d != axis % num_dof]
    if not others:
        raise ValueError("rollouts: expected two or more degrees of freedom, got one")
    return others[0], num_dof + others[0]


def _cross(path: Rollouts, axis: int, value: float, direction: int) -> np.ndarray:
    if len(path.times) < 2:
        raise ValueError("rollouts: expected two or more times, got one")
    draws = style.numbers(kept(path))
    return crossings(style.numbers(path.times), draws, axis, value, direction)


def _cross_truth(
    shown: Shown, trajectory: int, axis: int, value: float, direction: int
) -> np.ndarray:
    known = shown.true(trajectory)
    if known is None:
        return np.empty((0, len(shown.names)))
    times = style.numbers(shown.paths[trajectory].times)
    return crossings(times, known[None], axis, value, direction)
