"""The reference solver: an explicit Runge-Kutta method of order 8 with a tight tolerance."""

from collections.abc import Callable

import numpy as np
from scipy.integrate import DOP853

MAX_STEPS = 100_000
"""Steps after which it gives up: a field near a singularity."""


def advance(
    rate: Callable[[float, np.ndarray], np.ndarray],
    y: np.ndarray,
    begin: float,
    end: float,
    wanted: tuple[np.ndarray, np.ndarray],
    tolerance: float,
) -> np.ndarray:
    """Carry the states (N, D) of several trajectories from begin to end, together.

    Args:
        rate: From time and all states as one vector to their rates.
        y: (N, D) states at begin.
        begin: Of the time to cover.
        end: Of it.
        wanted: Times (N, T) of the trajectories, and their states (N, T, D), which are filled in
            where ``begin < time <= end``.
        tolerance: Relative error of a step; the absolute one is a tenth of it.

    Raises:
        RuntimeError: If the solution runs into a singularity of the field.
    """
    shape, (t, states) = y.shape, wanted
    solver = DOP853(rate, begin, y.reshape(-1), end, rtol=tolerance, atol=tolerance / 10)
    steps = 0
    while solver.status == "running":
        message, steps = solver.step(), steps + 1
        if solver.status == "failed" or steps > MAX_STEPS:
            raise RuntimeError(
                f"the solution stops at t = {solver.t}, after {steps} steps: is there a "
                f"singularity ahead? {message or 'They became too small.'}"
            )
        # The interpolant of the step serves the trajectories that have a time within it.
        i, k = np.nonzero((t > solver.t_old) & (t <= solver.t))
        values = solver.dense_output()(t[i, k]).reshape(*shape, len(i))
        states[i, k] = values[i, :, np.arange(len(i))]
    return solver.y.reshape(shape)
