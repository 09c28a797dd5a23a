"""Angles in pictures: everything within one turn, curves cut where they leave it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sympgp.plots.choice import position
from sympgp.trajectories.angles import TURN, wrapped

Wrap = str | Sequence[str] | Mapping[str, float | int] | None
"""Angles by name, of period 2 pi unless a mapping says another; None for those known as angles."""


def periods_of(
    wrap: Wrap, names: Sequence[str], known: Mapping[str, float] | None = None
) -> dict[int, float]:
    """Periods of the angles, by their position in a state.

    Args:
        wrap: the angles; none for an empty sequence, and those ``known`` for None.
        names: of the coordinates and momenta.
        known: angles that a posterior or rollouts know of.

    Raises:
        ValueError: an angle that is no coordinate; a period that is not positive.
    """
    if wrap is None:
        wrap = known or ()
    given = {wrap: TURN} if isinstance(wrap, str) else wrap
    if not isinstance(given, Mapping):
        given = dict.fromkeys(given, TURN)
    found: dict[int, float] = {}
    for name, period in given.items():
        place = position(name, names[: len(names) // 2], "wrap")
        if not (math.isfinite(period) and period > 0):
            raise ValueError(f"wrap: expected a positive period of {name}, got {period!r}")
        found[place] = float(period)
    return found


def wrapped_columns(values: np.ndarray, periods: Mapping[int, float]) -> np.ndarray:
    """States (..., D) with their angles in ``[-period/2, period/2)``."""
    if not periods:
        return values
    result = values.copy()
    for d, period in periods.items():
        result[..., d] = wrapped(values[..., d], period)
    return result


def pieces(
    lower: np.ndarray, upper: np.ndarray, period: float | None
) -> Iterator[tuple[slice, float]]:
    """What of a curve is within ``[-period/2, period/2]``, turn by turn.

    Args:
        lower: (T,) lower end of what is drawn; the curve itself where it is a line.
        upper: (T,) upper end.
        period: None for a coordinate that is no angle.

    Yields:
        Neighbouring times with one more on either side, and how far to shift the curve; limits of
        the axis cut what is beyond them.
    """
    if period is None:
        yield slice(None), 0.0
        return
    known = np.isfinite(lower) & np.isfinite(upper)
    if not known.any():
        return
    first = math.floor(lower[known].min() / period + 0.5)
    last = math.floor(upper[known].max() / period + 0.5)
    for turn in range(first, last + 1):
        inside = known & (upper >= (turn - 0.5) * period) & (lower <= (turn + 0.5) * period)
        # a step from one turn to the next has an end in each of them
        inside[1:] |= inside[:-1].copy()
        inside[:-1] |= inside[1:].copy()
        edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(int)))
        for begin, end in edges.reshape(-1, 2):
            yield slice(begin, end), -turn * period


def clipped_band(
    lower: np.ndarray, upper: np.ndarray, period: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """A band no wider than one turn about its middle, so that it is not drawn over itself."""
    if period is None:
        return lower, upper
    middle, half = 0.5 * (lower + upper), 0.5 * np.minimum(upper - lower, period)
    return middle - half, middle + half


def path_pieces(
    x: np.ndarray, y: np.ndarray, x_period: float | None, y_period: float | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A path (T,), (T,) in a plane of coordinates that may be angles, cut where it leaves a turn.

    Yields:
        Pieces to draw as lines; limits of the axes cut what is beyond them.
    """
    for rows, shift in pieces(x, x, x_period):
        own_x, own_y = x[rows] + shift, y[rows]
        for part, lift in pieces(own_y, own_y, y_period):
            yield own_x[part], own_y[part] + lift
