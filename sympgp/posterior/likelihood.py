"""Log likelihood of data under draws from a posterior, observation by observation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.noise import log_density
from sympgp.posterior.component import Component
from sympgp.posterior.conditioning import Followed, check_new_data, follow, settle, solver_step
from sympgp.posterior.joining import join
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.sensitivities import (
    INITIAL_VARIANCE,
    Drive,
    chain_sensitivities,
    freeze,
    nominal_path,
)
from sympgp.trajectories import Trajectories

if TYPE_CHECKING:
    from sympgp.posterior.posterior import Posterior
else:
    Posterior = Any


def log_likelihood(
    posterior: Posterior, data: Trajectories | None, num_samples: int, seed: int
) -> Float[Tensor, "draws observations"]:
    """See ``Posterior.log_likelihood``."""
    if data is None or data is posterior.data:
        return _of_fitted(posterior, num_samples, seed)
    data = check_new_data(posterior, data)
    nodes = Nodes.from_data(data, posterior.scaling, posterior.interpolation)
    step = solver_step(posterior)
    # Parameters that differ by trajectory are drawn for each of the new ones.
    wide = tuple(join(component, data, seed)[0] for component in posterior.components)
    generator = torch.Generator().manual_seed(seed)
    draws = replace(posterior, components=wide)._draw(num_samples, generator)
    parts = []
    for component, part in zip(wide, draws.parts, strict=False):
        found = follow(component, nodes, step)
        rows = [
            _predictive(component, found, theta, noise)
            for theta, noise in zip(part.theta, part.noise_std, strict=True)
        ]
        parts.append(torch.stack(rows))
    return torch.cat(parts) - _log_units(posterior, nodes)


def _log_units(posterior: Posterior, nodes: Nodes) -> Float[Tensor, " observations"]:
    """A density per scaled unit is this much more, in logarithms, than one per user unit."""
    return posterior.scaling.scale.log().expand(nodes.values.shape)[nodes.mask]


def _of_fitted(posterior: Posterior, num_samples: int, seed: int) -> Tensor:
    """Under each draw's own states: of the data that the states were inferred from."""
    parts = []
    # Differences from paths: of values far from zero float32 would leave few digits.
    paths = posterior.in_dtype(torch.float64).fitted(num_samples=num_samples, seed=seed)
    dof = posterior.components[0].noise_dof
    for states, path in zip(posterior.data.states, paths, strict=True):
        noise_std = path.noise_std
        if noise_std is None:
            raise RuntimeError("fitted paths carry no noise")
        density = log_density(states - path.samples[:, 0], noise_std.unsqueeze(1), dof)
        parts.append(density[:, ~states.isnan()].nan_to_num(nan=-math.inf))
    return torch.cat(parts, 1)


@dataclass(frozen=True)
class _Linear:
    """The path of one draw and its derivatives with respect to the windows' first states."""

    path: Float[Tensor, "windows slots dim"]
    end: Float[Tensor, "windows dim"]
    start: Float[Tensor, "windows dim"]
    slope: Float[Tensor, "windows slots dim dim"]
    transition: Float[Tensor, "windows dim dim"]


def _predictive(
    component: Component,
    found: Followed,
    theta: Float[Tensor, " params"],
    noise_std: Float[Tensor, " dim"],
) -> Float[Tensor, " observations"]:
    """Log predictive densities of a draw, each observation given those before it (scaled).

    Their sum is the logarithm of the marginal likelihood of the data with the first states
    integrated out, in the Laplace approximation about the states that suit this draw best.
    """
    windows, step = found.windows, found.step
    solution = settle(
        component, theta, noise_std, found.nodes, windows, found.defect_std, found.states, step
    )
    start = solution.estimate.start
    linear = _linearized(component, theta, start, found.nodes, windows, step)
    return _filter(
        linear, solution.nodes, windows, noise_std, found.defect_std, component.noise_dof
    )


def _linearized(
    component: Component, theta: Tensor, start: Tensor, nodes: Nodes, windows: Windows, step: float
) -> _Linear:
    field = component.field
    path, end = nominal_path(field.bind(theta), start, nodes, windows, step)
    count, slots, dim = path.shape
    index = windows.nodes.reshape(-1)
    drive = Drive.over(nodes, index)
    frozen = freeze(field, theta, path.reshape(-1, dim), nodes.dt[index], step, drive)
    eye = torch.eye(dim, dtype=path.dtype, device=path.device).expand(count, dim, dim)
    steps = frozen.transition.reshape(count, slots, dim, dim)
    slope, transition = chain_sensitivities(steps, None, eye)
    return _Linear(path, end, start, slope, transition)


def _filter(
    linear: _Linear,
    nodes: Nodes,
    windows: Windows,
    noise_std: Float[Tensor, " dim"],
    defect_std: float,
    dof: float | None,
) -> Float[Tensor, " observations"]:
    """Kalman filter over each trajectory's windows, one observed entry after another."""
    dim = len(noise_std)
    density = torch.zeros_like(nodes.values)
    chain = windows.chain
    mean = -linear.start[chain[:, 0]]
    eye = torch.eye(dim, dtype=mean.dtype, device=mean.device)
    cov = (INITIAL_VARIANCE * eye).expand(len(mean), dim, dim)
    for position in range(chain.shape[1]):
        live = chain[:, position] >= 0
        index = chain[live, position]
        m, p = mean[live], cov[live]
        for slot in range(windows.nodes.shape[1]):
            node = windows.nodes[index, slot]
            for channel in range(dim):
                seen = nodes.mask[node, channel]
                lever = linear.slope[index, slot, channel]
                ahead = linear.path[index, slot, channel] + (lever * m).sum(-1)
                gain = (p @ lever.unsqueeze(-1)).squeeze(-1)
                spread = (lever * gain).sum(-1)
                residual = nodes.values[node, channel] - ahead
                scale = (spread + noise_std[channel] ** 2).sqrt()
                entry = log_density(residual, scale, dof)
                density[node[seen], channel] = entry[seen]
                variance = noise_std[channel] ** 2 / nodes.weights[node, channel].clamp(min=1e-9)
                gain = gain * (seen / (spread + variance)).unsqueeze(-1)
                m = m + gain * residual.unsqueeze(-1)
                p = p - gain.unsqueeze(-1) * (p @ lever.unsqueeze(-1)).mT
        mean, cov = mean.clone(), cov.clone()
        if position + 1 == chain.shape[1]:
            break
        ahead_window = chain[live, position + 1].clamp(min=0)
        onward = linear.transition[index]
        jump = linear.end[index] - linear.start[ahead_window]
        mean[live] = (onward @ m.unsqueeze(-1)).squeeze(-1) + jump
        cov[live] = onward @ p @ onward.mT + defect_std**2 * eye
    return density[nodes.mask]
