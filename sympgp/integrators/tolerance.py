"""Step lengths from a tolerance, with the error that was found."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.integrators.base import (
    FixedStepIntegrator,
    Integrator,
    Times,
    VectorField,
    host_times,
    step_counts,
)


class ToleranceWarning(UserWarning):
    """No step that was tried is accurate enough."""


class StepChoice(NamedTuple):
    """A step and what is known of its error.

    Attributes:
        step: longest step for the integrator.
        error: estimated error of a solve with that step at the requested times, relative to the
            scale; the worst of all states, times and coordinates. Infinite where a path was not
            finite.
        reached: whether the error is within the tolerance.
    """

    step: float
    error: float
    reached: bool


def step_for(
    integrator: Integrator,
    field: VectorField,
    x0: Float[Tensor, "*batch dim"],
    times: Times,
    tolerance: float,
    *,
    scale: float | Float[Tensor, " dim"] | None = None,
    max_halvings: int = 10,
) -> StepChoice:
    """Halve the step until the error of the path at ``times`` is within a tolerance.

    With the paths of steps ``h`` and ``h/2`` (every step of the first taken in two) and a method
    of order p, Richardson's estimate of the first's error is

        |x_h - x_(h/2)| 2^p / (2^p - 1).

    Halving starts at the integrator's own step, or at the longest interval between times. All
    steps of the paths are taken for the states of ``x0``: a few that stand for the others will do,
    without those that run away, since a path that is not finite is never accurate.

    Args:
        integrator: a fixed-step method, with or without a step.
        field: ``(t, x) -> dx/dt``.
        x0: (..., D) states at the first of ``times``.
        times: (T,) as for ``integrator.solve``.
        tolerance: largest error, relative to ``scale``.
        scale: size of each coordinate, a number or (D,), in the units of the state; None for the
            standard deviation of the first finite path, coordinate by coordinate.
        max_halvings: halvings after which the search ends, with a :class:`ToleranceWarning`.

    Raises:
        ValueError: an adaptive method; a tolerance or scale that is not positive; fewer than two
            times; whatever ``integrator.solve`` refuses.

    Example:
        >>> import math, torch
        >>> from sympgp.integrators import RK4
        >>> def field(t, x):
        ...     return torch.stack([x[..., 1], -x[..., 0]], -1)
        >>> x0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> found = step_for(RK4(), field, x0, [0.0, 1.0, 2.0], 1e-4, scale=1.0)
        >>> found.step, found.reached, f"{found.error:.0e}"
        (0.25, True, '6e-05')
    """
    grid, rounding = host_times(times)
    method = _fixed_step(integrator)
    step = _first_step(method, grid, tolerance, scale, max_halvings)
    counts, path = step_counts(grid, rounding, step), None
    for halving in range(max_halvings + 1):
        doubled = [2 * count for count in counts]
        coarse = method.carry(field, x0, grid, counts) if path is None else path
        fine = method.carry(field, x0, grid, doubled)
        if scale is None and bool(fine.isfinite().all()):
            scale = _spread(fine)
        error = _richardson(coarse, fine, method.order, 1.0 if scale is None else scale)
        if error <= tolerance:
            return StepChoice(step, error, True)
        if halving < max_halvings:
            step = 0.5 * step
            counts = step_counts(grid, rounding, step)
            # Intervals no longer than the step before were not split: another path than fine.
            path = fine if counts == doubled else None
    warnings.warn(
        f"{type(integrator).__name__}: the error is still {error:.1e} of the scale, above the "
        f"tolerance {tolerance:.1e}, at a step of {step:.3g} after {max_halvings} halvings; raise "
        "the tolerance or max_halvings, or take a method of higher order",
        ToleranceWarning,
        stacklevel=2,
    )
    return StepChoice(step, error, False)


def _fixed_step(integrator: Integrator) -> FixedStepIntegrator:
    if not isinstance(integrator, FixedStepIntegrator):
        raise ValueError(
            "integrator: expected a fixed-step method, got one that chooses its own steps: "
            f"{integrator!r}"
        )
    return integrator


def _first_step(
    method: FixedStepIntegrator,
    grid: list[float],
    tolerance: float,
    scale: float | Tensor | None,
    max_halvings: int,
) -> float:
    """The step to begin with, if the arguments make sense."""
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance: expected a positive finite number, got {tolerance!r}")
    if scale is not None and not bool((torch.as_tensor(scale) > 0).all()):
        raise ValueError(f"scale: expected positive sizes, got {scale!r}")
    if max_halvings < 0:
        raise ValueError(f"max_halvings: expected at least 0, got {max_halvings!r}")
    if len(grid) < 2:
        raise ValueError("times: expected at least two times, got one")
    longest = max(abs(b - a) for a, b in zip(grid[:-1], grid[1:], strict=True))
    return longest if method.step is None else min(method.step, longest)


def _spread(path: Tensor) -> Tensor:
    """Standard deviation of each coordinate over states and times; one where nothing moves."""
    spread = path.detach().reshape(-1, path.shape[-1]).std(0)
    return torch.where(spread > 0, spread, 1.0)


def _richardson(coarse: Tensor, fine: Tensor, order: int, scale: float | Tensor) -> float:
    worst = float(((coarse - fine).detach().abs() / scale).max())
    return worst * 2**order / (2**order - 1) if math.isfinite(worst) else math.inf
