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
        if len(i):
            states[i, k] = _interpolated(solver, i, t[i, k], shape)
    return solver.y.reshape(shape)


def _interpolated(
    solver: DOP853, i: np.ndarray, moments: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """States (K, D) of trajectories i (K,) at a moment (K,) each within the last step.

    SciPy's interpolant evaluates every trajectory at every moment, of which each is wanted once:
    its polynomial ``y + F_1 x + F_2 x (1 - x) + F_3 x^2 (1 - x) + ..`` (Hairer, Norsett and
    Wanner, Solving Ordinary Differential Equations I, II.6) is evaluated here, innermost first.
    """
    known = solver.dense_output()
    x = ((moments - known.t_old) / known.h)[:, None]
    value = np.zeros((len(i), shape[-1]))
    for order, coefficient in enumerate(reversed(known.F)):
        value += coefficient.reshape(shape)[i]
        value *= 1.0 - x if order % 2 else x
    return value + known.y_old.reshape(shape)[i]
