"""The joint density whose posterior a component is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.noise import ScaledNoise
from sympgp.posterior.component import Component, GaussianComponent, JointDraws
from sympgp.posterior.draws import Draws
from sympgp.posterior.sampled_component import SampledComponent
from sympgp.posterior.states import WindowStates
from sympgp.shooting.density import JointDensity
from sympgp.shooting.layout import Nodes, Windows

if TYPE_CHECKING:
    from sympgp.posterior.posterior import Posterior
else:
    Posterior = Any


def joint_density(posterior: Posterior, component: Component) -> JointDensity:
    """The joint density whose posterior a component is, scaled units."""
    nodes = Nodes.from_data(posterior.data, posterior.scaling, posterior.interpolation)
    states = component.window_states
    known = torch.where(_fixed(posterior, component), component.noise_std, torch.nan)
    noise = ScaledNoise(known, component.noise_group, posterior.scaling.scale, component.noise_dof)
    step = float(posterior.diagnostics.solver_step / posterior.scaling.time_scale)
    windows = _windows(nodes, states)
    tau = inflation_of(posterior)
    return JointDensity(
        nodes, windows, component.field, noise, states.jump_std, step, inflation=tau
    )


def part_of(part: Draws) -> JointDraws:
    """Field, noise and states of draws."""
    return JointDraws(part.theta, part.noise_std, part.start)


def states_of(draws: JointDraws) -> Float[Tensor, "draws windows dim"]:
    """The states of draws that have some."""
    if draws.start is None:
        raise RuntimeError("these draws have no states")
    return draws.start


def inflation_of(posterior: Posterior) -> Float[Tensor, " dim"]:
    """How many observations of each channel count as one: for the training data only."""
    unit = posterior.scaling.scale
    if posterior.conditioned:
        return torch.ones_like(unit)
    return unit.new_tensor(posterior.diagnostics.inflation)


def _fixed(posterior: Posterior, component: Component) -> Bool[Tensor, " dim"]:
    """Channels whose noise is known."""
    if isinstance(component, GaussianComponent):
        return component.noise_shape.isinf()
    banks = [c.draws.noise_std for c in posterior.components if isinstance(c, SampledComponent)]
    every = torch.cat(banks)
    return (every == every[0]).all(0)


def _windows(nodes: Nodes, states: WindowStates) -> Windows:
    """The shooting windows at whose starts the states are."""
    for duration in (states.spacing, math.inf):
        windows = Windows.of_duration(nodes, duration)
        if windows.chain.shape == states.chain.shape and torch.allclose(
            nodes.times[windows.start], states.times
        ):
            return windows
    raise RuntimeError("the windows of these states are unknown")
