"""The solver of a posterior's paths: one integrator for the draws of every component."""

from __future__ import annotations

import math
from copy import copy
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.compiled import repays
from sympgp.fields import BoundField, DrivenField, TrajectoryField
from sympgp.integrators import RK4, FixedStepIntegrator, GaussLegendre4, Integrator
from sympgp.posterior.component import normal
from sympgp.posterior.course import Course
from sympgp.posterior.draws import FunctionDraws
from sympgp.rollouts import fused, solve_rollouts
from sympgp.rollouts.statistics import kept_std

if TYPE_CHECKING:
    from sympgp.posterior.posterior import Posterior
else:
    Posterior = Any

LIMIT = 100.0
"""A draw this many data spreads away from the data's mean has diverged."""
LONG_HORIZON = 10_000.0
"""Characteristic times beyond which rollouts default to a symplectic method."""
ONE_FUNCTION = 1e-10
"""Deviation of draws, relative to the states, below which they do not differ."""
JUMPS_A_WINDOW = 8
"""Random jumps in one window's time, as an approximation of continuous diffusion."""


class Solver:
    """One integrator applied to the draws of every component, times and states scaled."""

    def __init__(self, posterior: Posterior, integrator: Integrator | None, horizon: float) -> None:
        tau = float(posterior.scaling.time_scale)
        step = 0.5 * posterior.diagnostics.solver_step / tau
        if integrator is None:
            long = horizon > LONG_HORIZON
            integrator = GaussLegendre4(step=step) if long else RK4(step=step)
        else:
            integrator = integrator.in_time_units(tau)
            if isinstance(integrator, FixedStepIntegrator) and integrator.step is None:
                integrator = integrator.with_step(step)
        self.integrator = integrator
        self.limit = LIMIT * posterior.scaling.spread

    def halve(self) -> None:
        """Halve the step of a method that has one."""
        method = self.integrator
        if isinstance(method, FixedStepIntegrator) and method.step is not None:
            self.integrator = method.with_step(0.5 * method.step)

    def prepared(
        self,
        field: BoundField | TrajectoryField,
        z0: Float[Tensor, "draws trajectories dim"],
        times: list[float],
    ) -> BoundField | TrajectoryField:
        """The field itself, or compiled where so many evaluations repay it."""
        if fused.applies(field, z0, self.integrator):  # all steps are one kernel already
            return field
        count = self.integrator.evaluations(times)
        states = z0.shape[0] * z0.shape[1]
        return field.compiled() if repays(count, count * states * field.sines, z0.device) else field

    def __call__(
        self,
        field: BoundField | TrajectoryField,
        z0: Float[Tensor, "draws trajectories dim"],
        times: list[float],
        course: Course | None = None,
    ) -> tuple[Tensor, Bool[Tensor, "draws trajectories"]]:
        """Paths (S, N, T, D) at the times, and which of them diverged."""
        if len(times) == 1:
            return z0.unsqueeze(2), torch.zeros_like(z0[..., 0], dtype=torch.bool)
        field = self.prepared(field, z0, times)
        if course is None:
            return solve_rollouts(field, z0, times, self.integrator, limit=self.limit)
        states, z = [z0], z0
        if fused.applies(field, z0, self.integrator):
            legs = [list(course.between(*ends)) for ends in pairwise(times)]
            whole = fused.solve_legs(field, z0, legs, self.integrator, self.limit)
            if whole is not None:
                return whole, ~whole.isfinite().all(-1).all(-1)
        for begin, end in zip(times[:-1], times[1:], strict=True):
            for left, right, u in course.between(begin, end):
                driven = DrivenField(field, u)
                path, _ = solve_rollouts(
                    driven, z, [left, right], self.integrator, limit=self.limit
                )
                z = path[:, :, -1]
            states.append(z)
        samples = torch.stack(states, 2)
        return samples, ~samples.isfinite().all(-1).all(-1)

    def finer(self) -> Solver:
        """The same with half the step."""
        other = copy(self)
        other.halve()
        return other

    def with_jumps(
        self,
        field: BoundField | TrajectoryField,
        z0: Float[Tensor, "draws trajectories dim"],
        times: list[float],
        jump: tuple[float, float],
        generator: torch.Generator,
        course: Course | None = None,
    ) -> tuple[Tensor, Bool[Tensor, "draws trajectories"]]:
        """As ``__call__``, with random jumps of variance ``std^2`` per ``spacing``."""
        std, spacing = jump
        if std == 0.0:
            return self(field, z0, times, course)
        field = self.prepared(field, z0, times)
        states, z = [z0], z0
        longest = spacing / JUMPS_A_WINDOW
        for begin, end in zip(times[:-1], times[1:], strict=True):
            pieces = max(1, round((end - begin) / longest))
            deviation = std * ((end - begin) / pieces / spacing) ** 0.5
            for k in range(pieces):
                left = begin + (end - begin) * k / pieces
                right = begin + (end - begin) * (k + 1) / pieces
                z = self(field, z, [left, right], course)[0][:, :, -1]
                z = z + deviation * normal(tuple(z.shape), z, generator)
            states.append(z)
        samples = torch.stack(states, 2)
        return samples, ~samples.isfinite().all(-1).all(-1)

    def error(
        self,
        draws: FunctionDraws,
        z0: Tensor,
        times: list[float],
        samples: Tensor,
        diverged: Tensor,
        course: Course | None = None,
    ) -> float:
        """RMS change when the step is halved over the draws' deviation, for one draw a component.

        The largest over trajectories and coordinates; zero for adaptive methods, whose own
        tolerances say it, and NaN where all draws are one function.
        """
        method = self.integrator
        if not isinstance(method, FixedStepIntegrator) or method.step is None:
            return 0.0
        if len(times) < 2 or len(samples) < 2:
            return 0.0
        finer = self.finer()
        worst, begin = torch.zeros_like(samples[0, :, 0]), 0
        deviation = kept_std(samples, diverged)[:, 1:].square().mean(1).sqrt()
        for part in draws.parts:
            one = part.field.first()
            again, _ = finer(one, z0[begin : begin + 1], times, course)
            change = (again[0] - samples[begin])[:, 1:].square().mean(1).sqrt()
            worst = torch.maximum(worst, change.nan_to_num())
            begin += len(part.theta)
        # Draws that are all one function have rounding for a deviation.
        size = samples.nan_to_num().square().mean((0, 2)).sqrt()
        ratio = worst / deviation.clamp(min=torch.finfo(deviation.dtype).tiny)
        known = ratio[ratio.isfinite() & (deviation > ONE_FUNCTION * size)]
        return float(known.max()) if len(known) else math.nan
