"""Angles: which turn each sample belongs to, and angles brought back into one turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from torch import Tensor

from sympgp.trajectories.arrays import as_tensor
from sympgp.trajectories.container import Trajectories

TURN = 2.0 * math.pi
INNER = (0.05, 0.95)
"""Quantiles between which values of one turn lie; those outside may be outliers."""
LONG_STEP = 3.0
"""A step this many median steps long is a gap; rates are continued for as many times their span."""
SLOWNESS = 0.01
"""How squared rates count against squared errors of prediction, where several starts are tried."""

Values = TypeVar("Values", Tensor, np.ndarray)


def wrapped(values: Values, period: float = TURN, center: float | Values = 0.0) -> Values:
    """Angles within half a period of ``center``: ``center - period/2 <= y < center + period/2``.

    Values that lie there already come back bit by bit.

    Args:
        values: a tensor or an array of angles, of any shape; NaN stays NaN.
        period: of one turn, in the units of the values.
        center: middle of the interval; or one for each value, such as a prediction's means, near
            which true angles compare with it in any metric.

    Raises:
        ValueError: a period that is not positive.

    Example:
        >>> import torch
        >>> wrapped(torch.tensor([3.0, 4.0, -190.0]), period=360.0, center=-180.0)
        tensor([-357., -356., -190.])
    """
    _check_period(period)
    turns = (values - center) / period + 0.5
    floor = turns.floor() if isinstance(turns, Tensor) else np.floor(turns)
    return values - period * floor


def unwrapped(
    data: Trajectories,
    coordinates: Sequence[str | int] | str | int,
    period: float | Sequence[float] = TURN,
) -> Trajectories:
    """Continue angles across the seam, so that they run on beyond one turn.

    Each observed angle ``y_k`` becomes ``y_k + m_k period`` with the whole number ``m_k`` that
    brings it nearest to a straight continuation of the samples before it,

        x_k = x_{k-1} + (t_k - t_{k-1}) (x_{k-1} - x_j) / (t_{k-1} - t_j),

    from ``j = k - 2``, or from earlier so that ``t_{k-1} - t_j`` is no shorter than the step. So a
    coordinate may move by up to half a turn a sample, or more where sampling is irregular.
    Of the turns that the first step may make, those are taken that the later samples bear out;
    evenly sampled, these are the ones with the slowest motion. Across a gap the rate is continued
    unless the angle has turned back in twice as long a time before the gap: then it is taken to
    oscillate, and stays in its turn. The first observed value of a trajectory stays as it is, as
    does everything that is unwrapped already: the angles of a trajectory most of which do not fit
    into one period, and all steps that the rule above leaves alone.

    It must fail, silently, where the increment between samples changes by more than half a turn
    from one sample to the next; where an evenly sampled coordinate makes half a turn or more a
    sample on the average (it then seems to turn the other way, as wheels do in films); and where
    the turns made in a gap cannot be told from the motion before it.

    Args:
        data: trajectories; NaN and uneven times are allowed.
        coordinates: names, or positions from 0, of the coordinates that are angles.
        period: one turn in the units of the data, 360 for degrees; one number, or one for each
            of ``coordinates``.

    Raises:
        ValueError: a coordinate that is not there, is named twice or is a momentum; a period that
            is not positive, or another number of periods than coordinates.

    Example:
        >>> angle = [0.0, 2.0, -2.28, -0.28, 1.72]
        >>> data = Trajectories([0.0, 1.0, 2.0, 3.0, 4.0], [[q, float("nan")] for q in angle])
        >>> unwrapped(data, "q").states[0][:, 0].round(decimals=2).tolist()
        [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    chosen = _check_coordinates(data, coordinates)
    turns = [period] * len(chosen) if isinstance(period, int | float) else list(period)
    if len(turns) != len(chosen):
        raise ValueError(f"period: expected one number or {len(chosen)}, got {len(turns)}")
    states = [x.clone() for x in data.states]
    for channel, turn in zip(chosen, turns, strict=True):
        _check_period(turn)
        for t, x in zip(data.times, states, strict=True):
            seen = ~x[:, channel].isnan()
            own = t[seen].cpu().double().numpy(), x[seen, channel].cpu().double().numpy()
            count = as_tensor(_count_turns(*own, turn), "turns", x.dtype, x.device)
            x[seen, channel] = x[seen, channel] + turn * count
    return data.with_states(states)


def _check_period(period: float) -> None:
    if not 0.0 < period < math.inf:
        raise ValueError(f"period: expected a positive number, got {period!r}")


def _check_coordinates(
    data: Trajectories, coordinates: Sequence[str | int] | str | int
) -> list[int]:
    """Channels of the coordinates."""
    given = [coordinates] if isinstance(coordinates, str | int) else list(coordinates)
    positions = data.names[: data.num_dof]
    channels = []
    for one in given:
        if one in data.names[data.num_dof :] or (
            isinstance(one, int) and data.num_dof <= one < data.state_dim
        ):
            name = data.names[one] if isinstance(one, int) else one
            raise ValueError(
                f"coordinates: expected an angle among {positions}, got the momentum {name!r}"
            )
        known = one in positions if isinstance(one, str) else 0 <= one < data.num_dof
        if not known:
            raise ValueError(
                f"coordinates: expected some of {positions}, or numbers from 0 to "
                f"{data.num_dof - 1}, got {one!r}"
            )
        channels.append(positions.index(one) if isinstance(one, str) else one)
    if len(set(channels)) < len(channels):
        raise ValueError(f"coordinates: expected each of them once, got {coordinates!r}")
    return channels


def _count_turns(times: np.ndarray, values: np.ndarray, period: float) -> np.ndarray:
    """Whole turns to add to each value, (T,), zero for the first."""
    still = np.zeros(len(values))
    if len(values) < 2 or np.diff(np.quantile(values, INNER)) > period:
        return still
    step = float(np.median(np.diff(times)))
    nearest = round((values[0] - values[1]) / period)
    best, found = math.inf, still
    for first in (nearest, nearest - 1, nearest + 1):
        turns, error = _follow(times, values, period, first, LONG_STEP * step)
        rates = np.diff(values / period + turns) / np.diff(times) * step
        score = error + SLOWNESS * float((rates**2).sum())
        # An alias of evenly sampled angles has the same errors, up to rounding.
        if score < best * (1.0 - 1e-9):
            best, found = score, turns
    return found


def _follow(
    times: np.ndarray, values: np.ndarray, period: float, first: int, long: float
) -> tuple[np.ndarray, float]:
    """Turns of each value given those of the second, and the sum of squared errors in turns."""
    turns = np.zeros(len(values))
    turns[1] = first
    path = values / period + turns
    error = 0.0
    for k in range(2, len(values)):
        ahead = _expect(times[:k], path[:k], times[k] - times[k - 1], long)
        turns[k] = np.round(ahead - values[k] / period)
        path[k] = values[k] / period + turns[k]
        error += (path[k] - ahead) ** 2
    return turns, error


def _expect(times: np.ndarray, path: np.ndarray, step: float, long: float) -> float:
    """Where a path, in turns, is to be expected a step after its end."""
    reach = times[-1] - step * (1.0 + 1e-9)
    if step > long:
        recent = path[np.searchsorted(times, reach - step) :]
        moves = np.diff(recent)
        if not (np.all(moves > 0) or np.all(moves < 0)):
            return float(recent.mean())
    # The last sample that is as long before the end as the step is after it.
    begin = max(int(np.searchsorted(times, reach, side="right")) - 1, 0)
    begin = min(begin, len(times) - 2)
    span = times[-1] - times[begin]
    return float(path[-1] + (path[-1] - path[begin]) * min(step / span, LONG_STEP))
