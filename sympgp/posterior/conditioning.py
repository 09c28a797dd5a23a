"""States of new trajectories under a field that is known already."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import stdtrit
from torch import Tensor

from sympgp.noise import ScaledNoise
from sympgp.posterior.component import Component, normal
from sympgp.posterior.joining import informed, join
from sympgp.posterior.joint import joint_density
from sympgp.posterior.sampled_component import SampledComponent
from sympgp.posterior.settled import settle as settle_draws
from sympgp.posterior.states import WindowStates
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.levenberg_marquardt import Solution, levenberg_marquardt
from sympgp.shooting.linearization import linearize
from sympgp.shooting.problem import Estimate, Problem
from sympgp.trajectories import Trajectories, unwrapped

if TYPE_CHECKING:
    from sympgp.posterior.posterior import Posterior
else:
    Posterior = Any

FIRST_WINDOW, FIRST_DEFECT = 3.0, 0.3
"""Duration of the first shooting windows and the jumps between them, scaled."""
MAX_ITERATIONS, TOLERANCE = 30, 0.01
"""Of the search for the states on windows of one length."""
MISFIT = 2.0
"""Size of standardized residuals beyond which data do not follow the field."""
MEDIAN_OF = 3
"""Neighbouring observations whose median the search starts from under Student's t."""


class MisfitWarning(UserWarning):
    """New data do not follow the learned field."""


@dataclass(frozen=True)
class Followed:
    """States of some data under one component's field.

    Attributes:
        nodes: the data, scaled, with the weights of their residuals.
        windows: shooting windows.
        defect_std: of the jumps between them.
        theta: (P,) parameters, those that were free as found.
        states: (N + 1, D) path at the nodes.
        solution: of the last search.
        noise: as known.
        step: solver step, scaled.
    """

    nodes: Nodes
    windows: Windows
    defect_std: float
    theta: Float[Tensor, " params"]
    states: Float[Tensor, "nodes dim"]
    solution: Solution
    noise: ScaledNoise
    step: float


def check_new_data(posterior: Posterior, data: Trajectories) -> Trajectories:
    """The data on the posterior's device and in its dtype, angles continued across the seam.

    Raises:
        ValueError: something else than trajectories, another number of coordinates or inputs, or
            other units; covariates that are missing or of another number.
    """
    if not isinstance(data, Trajectories):
        raise ValueError(f"data: expected Trajectories, got {type(data).__name__}")
    if data.num_dof != posterior.num_dof:
        raise ValueError(
            f"data: the posterior has {posterior.num_dof} degree(s) of freedom, so states of width "
            f"{2 * posterior.num_dof} are expected; got {data.state_dim}"
        )
    if data.inputs is not None and not posterior.num_inputs:
        raise ValueError("data: the field has no inputs, but the data have")
    width = 0 if data.inputs is None else data.inputs[0].shape[1]
    if width != posterior.num_inputs:
        raise ValueError(
            f"data: the field has {posterior.num_inputs} input(s), so as many are expected in the "
            f"data; got {width}"
        )
    units = {"time": "time"} | dict(zip(posterior.names, data.names, strict=True))
    known = {units[name]: unit for name, unit in posterior.units.items() if name in units}
    for name, unit in known.items():
        own = data.units.get(name, unit)
        if own != unit:
            raise ValueError(f"data: {name} is in {own}, but the field was learned in {unit}")
    named = Trajectories(
        data.times,
        data.states,
        names=data.names,
        units=known | data.units,
        labels=data.labels,
        inputs=data.inputs,
        input_names=data.input_names if data.inputs is not None else None,
        covariates=data.covariates,
        covariate_names=data.covariate_names if data.covariates is not None else None,
        dtype=posterior.scaling.center.dtype,
    )
    if posterior.angles:
        own_names = dict(zip(posterior.names, data.names, strict=True))
        angles = {own_names[name]: period for name, period in posterior.angles.items()}
        named = unwrapped(named, list(angles), list(angles.values()))
    named = named.to(device=posterior.scaling.center.device)
    context = posterior.components[0].field.context
    if context is None:
        return named
    joined = context.joined_by(named.labels, named.covariates if context.names else None)
    return named.with_context(joined.shown()[1])


def condition(posterior: Posterior, data: Trajectories) -> Posterior:
    """See ``Posterior.condition``."""
    data = check_new_data(posterior, data)
    nodes = Nodes.from_data(data, posterior.scaling, posterior.interpolation)
    components, misfit = [], torch.zeros(())
    for component in posterior.components:
        wide, free = join(component, data)
        found = follow(wide, nodes, solver_step(posterior), free)
        states, precision = _window_states(wide, found)
        components.append(informed(wide, free, found.theta, precision).with_states(states))
        residual = ((found.states - nodes.values) / component.noise_std)[nodes.mask]
        misfit = misfit + _size(residual, component.noise_dof) / len(posterior.components)
    if float(misfit) > MISFIT:
        warnings.warn(
            "the new data do not follow the learned field: their residuals are "
            f"{float(misfit):.1f} times the noise. They may be of another system, in other units, "
            "or far from all training data",
            MisfitWarning,
            stacklevel=3,
        )
    known = replace(posterior, components=tuple(components), data=data, conditioned=True)
    drawn = tuple(_with_own_states(known, component) for component in known.components)
    return replace(known, components=drawn)


def _with_own_states(posterior: Posterior, component: Component) -> Component:
    """States of each draw of a bank, where they are not linear in its parameters.

    Two linearisations: about the states of the typical draw, then about the draw's own.
    """
    if not isinstance(component, SampledComponent) or component.field.linear:
        return component
    density, states = joint_density(posterior, component), component.window_states
    theta, noise_std = component.draws.theta, component.draws.noise_std
    none = torch.zeros_like(states.mean).unsqueeze(0)
    start = states.sample(theta.new_zeros(1, theta.shape[1]), none)
    zero = none.expand(len(theta), -1, -1)
    generator = torch.Generator().manual_seed(0)
    white = normal(tuple(zero.shape), theta, generator)
    with torch.no_grad():
        start = settle_draws(density, theta, noise_std, start.expand_as(zero), zero).start
        start = settle_draws(density, theta, noise_std, start, white).start
    return component.with_drawn_states(states, start)


def _size(residual: Float[Tensor, " observations"], dof: float | None) -> Tensor:
    """How many times the noise the residuals are; outliers do not count under Student's t."""
    if dof is None:
        return residual.square().mean().sqrt().cpu()
    return residual.abs().median().cpu() / float(stdtrit(dof, 0.75))


def solver_step(posterior: Posterior) -> float:
    """The fit's solver step, scaled."""
    return float(posterior.diagnostics.solver_step / posterior.scaling.time_scale)


def follow(
    component: Component, nodes: Nodes, step: float, free: Int[Tensor, " free"] | None = None
) -> Followed:
    """States along the data for the component's mode, on windows like those of the fit.

    Parameters that are ``free`` are searched for together with the states.

    From short windows that may come apart to the fit's own: with the field known, states between
    them need no other start than straight lines through the observations.
    """
    own = component.window_states
    joined = own.jump_std == 0.0
    stages = [(FIRST_WINDOW, FIRST_DEFECT), (own.spacing, 0.1 * FIRST_DEFECT)]
    stages.append((math.inf, 0.0) if joined else (own.spacing, own.jump_std))
    noise = known_noise(component)
    states, theta = interpolated(nodes, 1 if noise.dof is None else MEDIAN_OF), component.theta
    for duration, defect in stages:
        windows = Windows.of_duration(nodes, duration)
        found = settle(
            component, theta, component.noise_std, nodes, windows, defect, states, step, free
        )
        states = states.clone()
        states[windows.nodes.reshape(-1)] = found.path.flatten(0, 1)
        theta = component.field.fixed(theta, free).whole(found.estimate.theta)
    return Followed(nodes, windows, defect, theta, states, found, noise, step)


def settle(
    component: Component,
    theta: Float[Tensor, " params"],
    noise_std: Float[Tensor, " dim"],
    nodes: Nodes,
    windows: Windows,
    defect_std: float,
    states: Float[Tensor, "nodes dim"],
    step: float,
    free: Int[Tensor, " free"] | None = None,
) -> Solution:
    """Search for the states with noise and parameters known, all but those that are free."""
    noise = replace(known_noise(component), known=noise_std)
    field = component.field.fixed(theta, free)
    inflation = torch.full_like(noise_std, 1.0 / noise.information)
    problem = Problem(nodes, windows, field, noise, step)
    start = states[windows.start]
    estimate = Estimate(theta[field.free], start, noise_std, defect_std, inflation)
    return levenberg_marquardt(
        problem, estimate, max_iterations=MAX_ITERATIONS, tolerance=TOLERANCE
    )


def known_noise(component: Component) -> ScaledNoise:
    """The component's noise, as known."""
    unit = torch.ones_like(component.noise_std)
    return ScaledNoise(component.noise_std, component.noise_group, unit, component.noise_dof)


def interpolated(nodes: Nodes, width: int) -> Float[Tensor, "nodes dim"]:
    """Straight lines through each channel's observations; zero where a channel has none.

    Each observation is replaced by the median of ``width`` neighbours, against outliers.
    """
    from scipy.ndimage import median_filter

    states = np.zeros(tuple(nodes.values.shape))
    times, values, mask = (part.cpu().numpy() for part in (nodes.times, nodes.values, nodes.mask))
    for begin, end in zip(nodes.first[:-1], nodes.first[1:], strict=True):
        for channel in range(states.shape[1]):
            seen = mask[begin:end, channel]
            if seen.any():
                own = times[begin:end]
                known = median_filter(values[begin:end, channel][seen], width, mode="nearest")
                states[begin:end, channel] = np.interp(own, own[seen], known)
    return torch.as_tensor(states).to(nodes.values)


def _window_states(
    component: Component, found: Followed
) -> tuple[WindowStates, Float[Tensor, "params params"]]:
    """Distributions of the states given theta, and the data's precision of theta without them.

    From one full linearisation.
    """
    solution, windows = found.solution, found.windows
    estimate = replace(solution.estimate, theta=found.theta)
    problem = Problem(solution.nodes, windows, component.field, found.noise, found.step)
    path, end, _ = problem.evaluate(estimate)
    linear = linearize(component.field, found.theta, path, solution.nodes, windows, found.step)
    chain = problem.eliminate(linear, estimate, end)
    spacing = component.window_states.spacing
    states = WindowStates.about(problem, estimate.start, chain, found.defect_std, spacing)
    return states, problem.normal_equations(linear, estimate, chain)[0]
