"""Components of a posterior from where a search or training ended."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sympgp.cholesky import cholesky
from sympgp.distributed import ALONE
from sympgp.energies.base import Hyperparameters
from sympgp.inference.approximation import Approximation
from sympgp.inference.search import OSCILLATION, Search
from sympgp.posterior import GaussianComponent, WindowStates
from sympgp.posterior.ridge import chosen_states
from sympgp.shooting.levenberg_marquardt import Solution


def as_component(q: Approximation, like: GaussianComponent) -> GaussianComponent:
    """A distribution as a component; features and windows are those of ``like``."""
    own = q.detached().whitened()
    slope, ahead = own.slope @ own.inverse, own.following.ahead
    states = replace(
        like.window_states,
        mean=own.mean,
        slope=slope,
        gain=own.gain,
        cov=own.chol @ own.chol.mT,
        ahead_mean=own.mean[ahead],
        ahead_slope=slope[ahead],
    )
    upper = torch.linalg.qr(own.inverse).R
    signs = torch.where(upper.diagonal() < 0, -1.0, 1.0).to(upper)
    return replace(
        like,
        theta=own.centre,
        factor=(signs.unsqueeze(1) * upper).mT.contiguous(),
        noise_std=own.noise_std,
        noise_shape=own.noise_shape,
        noise_rate=own.noise_rate,
        states=states,
        anchors=None,
    )


def component(search: Search, hyper: Hyperparameters) -> GaussianComponent:
    """Package the present solution as one Gaussian of the posterior."""
    solution = search.solution
    if solution is None:
        raise RuntimeError("there is no solution to package: solve first")
    estimate = solution.estimate
    shape, rate = _noise_posterior(search, solution)
    spacing = search.duration if math.isfinite(search.duration) else OSCILLATION
    ranks = search.sharing
    start, chain = ranks.gather(estimate.start), solution.chain.gathered(ranks)
    whole = replace(search, ranks=ALONE).problem()
    states = WindowStates.about(whole, start, chain, search.defect_std, spacing)
    return GaussianComponent(
        field=search.field.about(estimate.theta),
        theta=estimate.theta,
        factor=cholesky(solution.precision, "the precision of the weights"),
        noise_std=estimate.noise_std,
        noise_shape=shape,
        noise_rate=rate,
        noise_group=search.noise.group,
        noise_dof=search.noise.dof,
        hyperparameters=hyper,
        states=states,
        anchors=chosen_states(search.states[search.nodes.mask.any(1)]),
    )


def _noise_posterior(search: Search, solution: Solution) -> tuple[Tensor, Tensor]:
    """Inverse-gamma shape and rate whose mode is the estimated noise variance.

    Of a known level the shape is infinite, and the rate is the variance itself.
    """
    estimate = solution.estimate
    # Inflation is over that of white residuals.
    inflation = estimate.inflation * search.noise.information
    spare = (search.nodes.counts - solution.degrees).clamp(min=0.0) / inflation
    shape = search.noise.shape(spare)
    rate = torch.where(shape.isinf(), 1.0, shape + 1.0) * estimate.noise_std**2
    return shape, rate
