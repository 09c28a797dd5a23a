"""Paths drawn from a posterior: new trajectories, continued ones, and the training ones."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.distributed import ALONE, Ranks
from sympgp.fields import BoundField, TrajectoryField
from sympgp.integrators import Integrator
from sympgp.phase_space import CanonicalScaling
from sympgp.posterior.component import Component
from sympgp.posterior.course import Course
from sympgp.posterior.draws import Draws, FunctionDraws, Marginal, mixture_moments
from sympgp.posterior.solver import Solver
from sympgp.rollouts import Rollouts
from sympgp.trajectories.signals import InputSignal, Signal

if TYPE_CHECKING:
    from gpytorch.distributions import MultitaskMultivariateNormal

    from sympgp.posterior.posterior import Posterior
else:
    MultitaskMultivariateNormal = Posterior = Any

TOLERANCE, HALVINGS = 0.1, 2
"""Solver error, in posterior deviations, worth a warning; and how often the default step is halved
to avoid it: draws may be wilder than the mode that the fit's step was found for."""
ROUNDING = 1e-6
"""Scaled times closer than this are the same; clock times leave so much of a double."""


class SolverErrorWarning(UserWarning):
    """The solver's error is not small against the posterior's standard deviation."""


def joint_field(
    components: Sequence[Component],
    scaling: CanonicalScaling,
    z: Float[Tensor, "batch width"],
    dtype: torch.dtype,
) -> MultitaskMultivariateNormal:
    """Joint Gaussian of the field at all points: the mixture's mean and low-rank covariance."""
    from gpytorch.distributions import MultitaskMultivariateNormal
    from linear_operator.operators import RootLinearOperator

    means, roots = [], []
    for component in components:
        own, root = component.field_and_root(z)
        means.append(own * scaling.velocity_scale)
        roots.append((root * scaling.velocity_scale.unsqueeze(-1)).flatten(0, 1))
    mean = torch.stack(means).mean(0)
    spread = [(m - mean).reshape(-1, 1) for m in means]
    root = torch.cat([*roots, *spread], -1) / len(components) ** 0.5
    return MultitaskMultivariateNormal(mean.to(dtype), RootLinearOperator(root.to(dtype)))


def initial_states(posterior: Posterior) -> Marginal:
    """Moments of each training trajectory's first state, user units."""
    moments = [component.first_states() for component in posterior.components]
    scaled = mixture_moments(*zip(*moments, strict=True))
    scaling = posterior.scaling
    found = Marginal(scaling.to_user(scaled.mean), scaled.stddev * scaling.scale)
    return found.to(posterior.dtype)


def scaled_times(scaling: CanonicalScaling, times: list[float]) -> list[float]:
    """Scaled times as numbers."""
    origin, unit = float(scaling.time_origin), float(scaling.time_scale)
    return [(t - origin) / unit for t in times]


def _package(
    posterior: Posterior,
    draws: FunctionDraws,
    samples: Tensor,
    diverged: Tensor,
    times: list[float],
    seed: int,
    solver_error: float | None = None,
) -> Rollouts:
    """Rollouts in user units, with energies and noise."""
    scaling = posterior.scaling

    def energies(x: Tensor) -> Tensor:
        flat = scaling.to_scaled(x).flatten(1, 2)
        return draws.energy_along(flat).reshape(x.shape[:-1])

    result = Rollouts(
        scaling.to_user(samples).to(posterior.dtype),
        torch.tensor(times, dtype=torch.float64, device=samples.device),
        diverged,
        energies if posterior.has_energy else None,
        draws.noise_std,
        posterior.names,
        posterior.units,
        seed,
        noise_dof=posterior.components[0].noise_dof,
        angles=posterior.angles,
    )
    result.solver_error = solver_error
    if solver_error is not None and solver_error > TOLERANCE:
        warnings.warn(
            f"the solver's error is {solver_error:.2g} of the posterior's standard deviation; "
            "pass an integrator with a shorter step",
            SolverErrorWarning,
            stacklevel=4,
        )
    return result


def rollout(
    posterior: Posterior,
    z0: Float[Tensor, "trajectories dim"],
    times: list[float],
    num_samples: int,
    integrator: Integrator | None,
    seed: int,
    discrepancy: bool,
    course: Course | None,
    context: Float[Tensor, "paths width"] | None = None,
    ranks: Ranks = ALONE,
) -> Rollouts:
    """All draws from all initial states; without jumps each rank solves its part of the draws."""
    generator = torch.Generator().manual_seed(seed)
    draws = posterior._draw(num_samples, generator).to(posterior.dtype).within(context)
    z0 = z0.to(draws.parts[0].theta)
    grid = scaled_times(posterior.scaling, times)
    solver = Solver(posterior, integrator, grid[-1] - grid[0])
    if discrepancy:
        samples, diverged = [], []
        for component, part in _paired(posterior, draws):
            start, jump = z0.expand(len(part.theta), *z0.shape), component.window_states.jump
            paths, lost = solver.with_jumps(part.field, start, grid, jump, generator, course)
            samples.append(paths)
            diverged.append(lost)
        paths, lost = torch.cat(samples), torch.cat(diverged)
        return _package(posterior, draws, paths, lost, times, seed)
    shared = ranks if draws.num_samples >= ranks.count else ALONE
    for _ in range(1 + HALVINGS):
        fields = [part.field for part in draws.parts]
        if shared.several:
            fields = _own(fields, shared.part(draws.num_samples))
        solved = [solver(f, z0.expand(len(f.theta), *z0.shape), grid, course) for f in fields]
        own = [torch.cat(parts) for parts in zip(*solved, strict=True)]
        paths, lost = (shared.gather(part) for part in own)
        error = solver.error(draws, z0.expand(len(paths), *z0.shape), grid, paths, lost, course)
        error = float(shared.broadcast(torch.tensor(error, dtype=torch.float64)))
        if integrator is not None or not error > TOLERANCE:
            break
        solver.halve()
    return _package(posterior, draws, paths, lost, times, seed, error)


def _own(
    fields: Sequence[BoundField | TrajectoryField], chosen: slice
) -> list[BoundField | TrajectoryField]:
    """Some of the draws of all fields, counted through."""
    found: list[BoundField | TrajectoryField] = []
    begin = 0
    for field in fields:
        count = len(field.theta)
        low, high = (min(max(edge - begin, 0), count) for edge in (chosen.start, chosen.stop))
        if high > low:
            found.append(field.some(slice(low, high)))
        begin += count
    return found


def forecast(
    posterior: Posterior,
    times: list[float],
    trajectory: int,
    num_samples: int,
    integrator: Integrator | None,
    seed: int,
    ahead: Signal | None,
) -> Rollouts:
    """Continue a training trajectory from the joint posterior of its last window and the field."""
    wanted = scaled_times(posterior.scaling, times)
    seen = float(posterior.components[0].window_states.last[trajectory])
    scaling = posterior.scaling
    last = float(scaling.time_origin + scaling.time_scale * seen)
    if wanted[0] < seen - ROUNDING:
        raise ValueError(
            f"times: a forecast of trajectory {trajectory} begins at its last observation, "
            f"t = {last:g}, or later; got {times[0]:g} (use fitted() for earlier times)"
        )
    generator = torch.Generator().manual_seed(seed)
    draws = posterior._draw(num_samples, generator).to(posterior.dtype)
    draws = draws.within(own_context(posterior, trajectory))
    solver = Solver(posterior, integrator, wanted[-1] - seen)
    before = _own_course(posterior, trajectory)
    course = before if ahead is None else Course(ahead, scaling)
    samples, diverged = [], []
    for component, part in _paired(posterior, draws):
        states = component.window_states
        last = states.windows(trajectory)[-1]
        z, begin = _starts(part)[:, last : last + 1], float(states.times[last])
        if seen > begin:
            z = solver(part.field, z, [begin, seen], before)[0][:, :, -1]
        grid = [seen, *wanted[1:]] if wanted[0] <= seen + ROUNDING else [seen, *wanted]
        paths, lost = solver.with_jumps(part.field, z, grid, states.jump, generator, course)
        samples.append(paths[:, :, -len(times) :])
        diverged.append(lost)
    return _package(posterior, draws, torch.cat(samples), torch.cat(diverged), times, seed)


def fitted(
    posterior: Posterior, times: list[float], trajectory: int, num_samples: int, seed: int
) -> Rollouts:
    """Draws of a training trajectory: all its windows drawn together, then integrated."""
    own = posterior.data.times[trajectory]
    wanted = scaled_times(posterior.scaling, times)
    first, last = scaled_times(posterior.scaling, [float(own[0]), float(own[-1])])
    if wanted[0] < first - ROUNDING or wanted[-1] > last + ROUNDING:
        raise ValueError(
            f"times: trajectory {trajectory} was observed from t = {float(own[0]):g} to "
            f"{float(own[-1]):g}, got {times[0]:g} to {times[-1]:g} (use forecast() beyond)"
        )
    generator = torch.Generator().manual_seed(seed)
    draws = posterior._draw(num_samples, generator).to(posterior.dtype)
    draws = draws.within(own_context(posterior, trajectory))
    solver = Solver(posterior, None, 0.0)
    course = _own_course(posterior, trajectory)
    samples, diverged = [], []
    for component, part in _paired(posterior, draws):
        states = component.window_states
        windows = states.windows(trajectory)
        starts = _starts(part)[:, windows]
        pieces = []
        edges = [float(states.times[k]) for k in windows]
        # Rows before the first observation are reached backwards in time.
        early = [t for t in wanted if t < edges[0] - ROUNDING]
        if early:
            path = solver(part.field, starts[:, :1], [edges[0], *reversed(early)], course)[0]
            pieces.append(path[:, :, 1:].flip(2))
        for position, begin in enumerate(edges):
            end = edges[position + 1] - ROUNDING if position + 1 < len(edges) else float("inf")
            inside = [t for t in wanted if begin - ROUNDING <= t < end]
            if not inside:
                continue
            lead = inside[0] > begin + ROUNDING
            grid = [begin, *inside] if lead else [begin, *inside[1:]]
            path = solver(part.field, starts[:, position : position + 1], grid, course)[0]
            pieces.append(path[:, :, 1:] if lead else path)
        paths = torch.cat(pieces, 2)
        samples.append(paths)
        diverged.append(~paths.isfinite().all(-1).all(-1))
    return _package(posterior, draws, torch.cat(samples), torch.cat(diverged), times, seed)


def own_signal(posterior: Posterior, trajectory: int) -> Signal | None:
    """Inputs along a training trajectory."""
    data = posterior.data
    if data.inputs is None:
        return None
    return InputSignal(data.times[trajectory], data.inputs[trajectory], posterior.interpolation)


def own_context(posterior: Posterior, trajectory: int) -> Float[Tensor, "one width"] | None:
    """What a field that differs by trajectory sees of one of the posterior's own."""
    context = posterior.data.context
    return None if context is None else context[trajectory : trajectory + 1]


def _own_course(posterior: Posterior, trajectory: int) -> Course | None:
    signal = own_signal(posterior, trajectory)
    return None if signal is None else Course(signal, posterior.scaling)


def _starts(part: Draws) -> Float[Tensor, "draws windows dim"]:
    if part.start is None:
        raise RuntimeError("draws of a field only: they have no states")
    return part.start


def _paired(posterior: Posterior, draws: FunctionDraws) -> list[tuple[Component, Draws]]:
    """Components with their draws; with few draws the last components have none."""
    return list(zip(posterior.components, draws.parts, strict=False))
