"""Where paths cross a value, between the times at which they are known."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline

BISECTIONS = 40
"""Halvings of the interval in which a crossing lies."""


def crossings(
    times: np.ndarray, paths: np.ndarray, axis: int, value: float, direction: int
) -> np.ndarray:
    """States (K, D) at which coordinate ``axis`` of paths (S, T, D) crosses a value.

    Between the times every path is its cubic spline. A crossing is found where the coordinate is
    on one side of the value at one time and on the other, or at the value, at the next: times
    have to be so close that it crosses at most once between two.

    Args:
        times: (T,) of the paths, at least two.
        paths: (S, T, D) finite states.
        axis: position of the coordinate.
        value: what it crosses.
        direction: +1 for upward crossings, -1 for downward ones, 0 for both.

    Example:
        >>> t = np.linspace(0, 7, 71)
        >>> circle = np.stack([np.cos(t), -np.sin(t)], 1)[None]
        >>> crossings(t, circle, 0, 0.0, +1).round(4) + 0.0
        array([[0., 1.]])
    """
    above = paths[:, :, axis] - value
    upward = (above[:, :-1] < 0) & (above[:, 1:] >= 0)
    downward = (above[:, :-1] > 0) & (above[:, 1:] <= 0)
    found = {1: upward, -1: downward, 0: upward | downward}[direction]
    path, interval = np.nonzero(found)
    # coefficients (4, K, D) of the pieces that cross, highest power first
    pieces = CubicSpline(times, paths, axis=1).c[:, interval, path]
    low, high = np.zeros(len(path)), np.diff(times)[interval]
    rising = upward[path, interval]
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        before = (_evaluate(pieces[:, :, axis], middle) < value) == rising
        low, high = np.where(before, middle, low), np.where(before, high, middle)
    return _evaluate(pieces, high[:, None])


def _evaluate(pieces: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Polynomials at times after the beginnings of their intervals."""
    return ((pieces[0] * time + pieces[1]) * time + pieces[2]) * time + pieces[3]
