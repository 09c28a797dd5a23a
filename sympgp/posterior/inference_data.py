"""A posterior in ArviZ's form, for versions 0.2x (InferenceData) and from 1 on (DataTree)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sympgp.fields import HamiltonianField
from sympgp.posterior.component import GaussianComponent
from sympgp.posterior.importance import (
    WeightedDraws,
    arviz_module,
    drawn,
    weights,
)
from sympgp.posterior.joint import joint_density, states_of
from sympgp.posterior.parameters import named
from sympgp.posterior.sampled_component import SampledComponent
from sympgp.posterior.settled import observed

if TYPE_CHECKING:
    from sympgp.posterior.posterior import Posterior
else:
    Posterior = Any

Group = dict[str, np.ndarray]

DIMS = {
    "noise_std": ["coordinate"],
    "initial_state": ["trajectory", "coordinate"],
    "weights": ["weight"],
    "input_matrix": ["coordinate", "input"],
    "y": ["observation"],
    "trajectory_of": ["observation"],
    "coordinate_of": ["observation"],
    "time": ["observation"],
}
"""Dimensions of each variable after those of the draws."""


def to_arviz(posterior: Posterior, num_samples: int, seed: int, with_weights: bool) -> Any:
    """See ``Posterior.to_arviz``."""
    draws = drawn(posterior, num_samples, seed)
    order = _chains(posterior, draws, seed)
    groups: dict[str, Group] = {
        "posterior": _parameters(posterior, draws, with_weights),
        "posterior_predictive": {"y": _replicated(posterior, draws, seed)},
        "log_likelihood": {"y": _numpy(draws.log_likelihood)},
        "sample_stats": _statistics(posterior, draws),
    }
    for group in groups.values():
        for name, values in group.items():
            group[name] = values[order]
    mask = [~x.isnan() for x in posterior.data.states]
    groups["observed_data"] = {
        "y": _numpy(torch.cat([x[m] for x, m in zip(posterior.data.states, mask, strict=True)]))
    }
    groups["constant_data"] = _places(posterior, mask)
    dims = DIMS | _matrix_dims(posterior, groups["posterior"])
    coords = {
        "coordinate": list(posterior.names),
        "trajectory": np.arange(len(posterior.data)),
        "observation": np.arange(len(groups["observed_data"]["y"])),
    }
    used = {axis for name in groups["posterior"] for axis in dims.get(name, ())}
    coords |= {axis: labels for axis, labels in _labels(posterior).items() if axis in used}
    units = ", ".join(f"{name}: {unit}" for name, unit in posterior.units.items())
    return _from_groups(groups, coords, dims, units)


def _chains(posterior: Posterior, draws: WeightedDraws, seed: int) -> np.ndarray:
    """Which draws make up each chain, (chains, draws).

    Markov chains stay as they were, of equal length; independent draws of all components make one
    chain, in random order.
    """
    numbers = []
    for component, part in zip(posterior.components, draws.parts, strict=False):
        if not isinstance(component, SampledComponent) or component.chain is None:
            return np.random.default_rng(seed).permutation(len(draws.log_ratio))[None]
        numbers.append(component.chain[component.spread_out(len(part.theta))])
    number = torch.cat(numbers)
    rows = [(number == chain).nonzero().flatten() for chain in number.unique()]
    return _numpy(torch.stack([own[: min(map(len, rows))] for own in rows]))


def _parameters(posterior: Posterior, draws: WeightedDraws, with_weights: bool) -> Group:
    """Dissipation, inputs, parameters of formulas, noise, first states; user units.

    And components, and weights if wanted. Noise of what was never observed is NaN, and an input
    matrix that varies with the state is that at the data's mean.
    """
    scaling, kinds = posterior.scaling, posterior.components
    pairs = list(zip(kinds, draws.parts, strict=False))
    unit = torch.where(posterior.unobserved, torch.nan, scaling.scale)
    group = {
        "noise_std": torch.cat([part.noise_std for part in draws.parts]) * unit,
        "initial_state": torch.cat(
            [scaling.to_user(states_of(part)[:, c.window_states.chain[:, 0]]) for c, part in pairs]
        ),
        "component": draws.component,
    }
    if kinds[0].field.dissipation.num_parameters:
        shown = [c.field.dissipation.coefficients(c.field.split(p.theta)[1]) for c, p in pairs]
        group["friction"] = torch.cat(shown)
    if kinds[0].field.inputs.num_parameters:
        found = [_input_matrix(c.field, part.theta) for c, part in pairs]
        group["input_matrix"] = torch.cat(found) * scaling.velocity_scale.unsqueeze(-1)
    known = [named(c.field.basis, c.field.parts(part.theta)[0]) for c, part in pairs]
    for name in known[0]:
        free = name not in group and name != "weights"
        group[name if free else f"{name}_parameter"] = torch.cat([own[name] for own in known])
    if with_weights:
        group["weights"] = torch.cat([c.field.split(part.theta)[0] for c, part in pairs])
    return {name: _numpy(values) for name, values in group.items()}


def _input_matrix(field: HamiltonianField, theta: Tensor) -> Tensor:
    """``G~`` at the data's mean, (S, D, m)."""
    z = theta.new_zeros(len(theta), 1, field.dissipation.dim)
    return field.inputs.matrix(z, field.parts(theta)[1]).squeeze(1)


def _labels(posterior: Posterior) -> dict[str, list[str]]:
    """Names along the axes of dissipation, inputs and masses."""
    momenta, every = list(posterior.names[posterior.num_dof :]), list(posterior.names)
    return {
        "momentum": momenta,
        "momentum_bis": momenta,
        "coordinate_bis": every,
        "drag": list(getattr(posterior.dissipation_family, "drag", ())),
        "input": list(posterior.data.input_names),
    }


def _matrix_dims(posterior: Posterior, group: Group) -> dict[str, list[str]]:
    """Axes of what has one entry for each momentum or coordinate, or several of them."""
    kinds = {posterior.num_dof: "momentum", 2 * posterior.num_dof: "coordinate"}
    found = {}
    for name, values in group.items():
        if name in DIMS or values.ndim == 2:  # a number a draw
            continue
        axes: list[str] = []
        for k, size in enumerate(values.shape[2:]):
            axis = kinds.get(size, f"{name}_dim_{k}")
            if name == "friction" and not k and hasattr(posterior.dissipation_family, "drag"):
                axis = "drag"
            axes.append(f"{axis}_bis" if axis in axes else axis)
        found[name] = axes
    return found


def _replicated(posterior: Posterior, draws: WeightedDraws, seed: int) -> np.ndarray:
    """Observations made again of every draw's paths, with new noise."""
    scaling, parts = posterior.scaling, []
    generator = np.random.default_rng(seed)
    for component, part in zip(posterior.components, draws.parts, strict=False):
        density = joint_density(posterior, component)
        with torch.no_grad():
            path, _, _ = density.paths(part.theta, states_of(part))
        size, dof = tuple(path.shape), component.noise_dof
        white = generator.standard_normal(size) if dof is None else generator.standard_t(dof, size)
        noise = torch.as_tensor(white).to(path) * part.noise_std[:, None, None]
        parts.append(observed(density, scaling.to_user(path + noise)))
    return _numpy(torch.cat(parts))


def _statistics(posterior: Posterior, draws: WeightedDraws) -> Group:
    """Log density; importance ratio and weight, or what the sampler kept; diverging paths."""
    group = {"diverging": ~draws.log_likelihood.isfinite().all(1)}
    if not posterior.conditioned:
        logs = []
        for component, part in zip(posterior.components, draws.parts, strict=False):
            with torch.no_grad():
                density = joint_density(posterior, component)
                logs.append(density.log_prob(part.theta, part.noise_std, states_of(part)))
        group["lp"] = torch.cat(logs)
        if isinstance(posterior.components[0], GaussianComponent):
            group["log_importance_ratio"] = draws.log_ratio
            group["log_importance_weight"] = weights(draws).log_weights
    sampled = [c for c in posterior.components if isinstance(c, SampledComponent)]
    for name in sampled[0].statistics if sampled else ():
        if name != "lp":
            rows = zip(sampled, draws.parts, strict=False)
            kept = [c.statistics[name][c.spread_out(len(part.theta))] for c, part in rows]
            group[name] = torch.cat(kept)
    return {name: _numpy(values) for name, values in group.items()}


def _places(posterior: Posterior, mask: list[Tensor]) -> Group:
    """Which trajectory and coordinate each observation is of, and when it was made."""
    places = [m.nonzero() for m in mask]
    channel = torch.cat([p[:, 1] for p in places]).tolist()
    times = [t[p[:, 0]] for t, p in zip(posterior.data.times, places, strict=True)]
    number = [torch.full_like(p[:, 0], k) for k, p in enumerate(places)]
    return {
        "trajectory_of": _numpy(torch.cat(number)),
        "coordinate_of": np.array([posterior.names[c] for c in channel]),
        "time": _numpy(torch.cat(times)),
    }


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()


def _from_groups(
    groups: dict[str, Group], coords: dict[str, Any], dims: dict[str, list[str]], units: str
) -> Any:
    """InferenceData, or a DataTree from ArviZ 1 on."""
    arviz, new = arviz_module()
    if new:
        data = arviz.from_dict(groups, coords=coords, dims=dims)
    else:
        data = arviz.from_dict(**groups, coords=coords, dims=dims)
    for group in groups:
        data[group].attrs.update(inference_library="sympgp", units=units)
    return data
