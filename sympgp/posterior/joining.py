"""Parameters of trajectories that join a posterior, where parameters differ by trajectory.

Each pooled parameter gets a deviation ``delta ~ N(0, tau^2)`` for each new trajectory. What was
found before stays what it was, and the deviations are Gaussian given it: with the precision
``Lambda`` of all parameters in the new data, window states eliminated and the field linearised at
the deviations' mode m,

    delta | theta ~ N(m - Lambda_dd^-1 Lambda_dt (theta - theta*), Lambda_dd^-1),

as in the joint fit of old and new data at the same point and hyperparameters. The new data say
nothing of the other parameters, as they do not where trajectories are all alike.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.cholesky import cholesky
from sympgp.posterior.component import Component, GaussianComponent, normal
from sympgp.posterior.sampled_component import SampledComponent
from sympgp.posterior.states import WindowStates
from sympgp.trajectories import Trajectories


def join(
    component: Component, data: Trajectories, seed: int = 0
) -> tuple[Component, Int[Tensor, " free"]]:
    """The component with deviations of these trajectories, as their prior has them.

    Trajectories that joined before leave it, without a trace.

    Args:
        component: of a posterior.
        data: the trajectories.
        seed: of the draws of a bank of draws.

    Returns:
        The component, and where its new parameters stand; none where trajectories do not differ.
    """
    context = component.field.context
    if context is None:
        return component, torch.zeros(0, dtype=torch.long, device=component.theta.device)
    known = context.joined_by(data.labels, data.covariates if context.names else None)
    field, places = component.field.joined_by(known)
    taken = torch.zeros(field.num_parameters, dtype=torch.bool, device=places.device)
    stays = places >= 0
    taken[places[stays]] = True
    free = (~taken).nonzero().squeeze(1)
    theta = component.theta.new_zeros(field.num_parameters)
    theta[places[stays]] = component.theta[stays]
    wide: dict[str, Any] = {
        "field": field,
        "theta": theta,
        "states": _widened(component, len(theta), places),
    }
    if isinstance(component, SampledComponent):
        draws = component.draws.theta
        generator = torch.Generator().manual_seed(seed)
        white = _centred((len(draws), len(theta)), theta, generator)
        drawn = white * field.prior_precision().rsqrt()
        drawn[:, places[stays]] = draws[:, stays]
        return replace(component, draws=component.draws._replace(theta=drawn), **wide), free
    if not isinstance(component, GaussianComponent):
        raise TypeError(f"component: expected draws or a Gaussian, got {type(component).__name__}")
    precision = torch.diag(field.prior_precision())
    kept = places[stays]
    precision[kept.unsqueeze(1), kept] = _marginal(component.factor, stays)
    return replace(
        component, factor=cholesky(precision, "the precision of the weights"), **wide
    ), free


def _widened(component: Component, num: int, places: Tensor) -> WindowStates | None:
    """States that the new parameters do not move."""
    states = component.states
    if states is None:
        return None
    stays = places >= 0

    def wider(slope: Tensor) -> Tensor:
        found = slope.new_zeros(*slope.shape[:-1], num)
        found[..., places[stays]] = slope[..., stays]
        return found

    return replace(states, slope=wider(states.slope), ahead_slope=wider(states.ahead_slope))


def _marginal(factor: Float[Tensor, "params params"], stays: Tensor) -> Float[Tensor, "kept kept"]:
    """Precision of some parameters."""
    if bool(stays.all()):
        return factor @ factor.mT
    identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)[:, stays]
    covariance = torch.cholesky_solve(identity, factor)[stays]
    return torch.cholesky_inverse(
        cholesky(0.5 * (covariance + covariance.mT), "the covariance of the parameters that stay")
    )


def _centred(shape: tuple[int, int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal rows whose mean is zero."""
    white = normal(shape, like, generator)
    return white - white.mean(0) if len(white) > 1 else white


def informed(
    component: Component,
    free: Int[Tensor, " free"],
    found: Float[Tensor, " params"],
    precision: Float[Tensor, "params params"],
    seed: int = 0,
) -> Component:
    """With what new data say of the deviations.

    Args:
        component: from ``join``.
        free: where the deviations stand.
        found: (P,) its centre with their mode.
        precision: (P, P) of the new data, states eliminated, and of the prior.
        seed: of the draws of a bank of draws.
    """
    if not len(free):
        return component
    old = torch.ones(len(found), dtype=torch.bool, device=found.device)
    old[free] = False
    own = precision[free.unsqueeze(1), free]
    cross = precision[free][:, old]
    root = cholesky(0.5 * (own + own.mT), "the precision of the new trajectories' deviations")
    pull = torch.cholesky_solve(cross, root)
    if isinstance(component, SampledComponent):
        draws = component.draws.theta.clone()
        generator = torch.Generator().manual_seed(seed + 1)
        white = _centred((len(draws), len(free)), found, generator)
        noise = torch.linalg.solve_triangular(root.mT, white.mT, upper=True).mT
        away = draws[:, old] - component.theta[old]
        draws[:, free] = found[free] - away @ pull.mT + noise
        return replace(component, theta=found, draws=component.draws._replace(theta=draws))
    if not isinstance(component, GaussianComponent):
        raise TypeError(f"component: expected draws or a Gaussian, got {type(component).__name__}")
    factor = component.factor
    whole = factor @ factor.mT
    indices = old.nonzero().squeeze(1)
    # Deviations had nothing to do with the other parameters before.
    whole[indices.unsqueeze(1), indices] += cross.mT @ pull
    whole[free.unsqueeze(1), indices] = cross
    whole[indices.unsqueeze(1), free] = cross.mT
    whole[free.unsqueeze(1), free] = own
    return replace(component, theta=found, factor=cholesky(whole, "the precision of the weights"))
