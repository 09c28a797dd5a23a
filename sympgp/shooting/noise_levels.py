"""Noise levels by their fixed point, with what the fit uses up of the observations."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.distributed import ALONE, Ranks
from sympgp.shooting.linearization import Linearization
from sympgp.shooting.problem import Problem
from sympgp.shooting.reduction import Reduction


def squares_after(
    linear: Linearization,
    step: Float[Tensor, " params"],
    moved: Float[Tensor, "windows dim"],
    ranks: Ranks = ALONE,
) -> Float[Tensor, " dim"]:
    """Residual sum of squares of each channel after a step of the linearised model."""
    dim = moved.shape[-1]
    full = torch.cat([step, step.new_ones(1)])
    shared = torch.einsum("i,cij,j->c", full, linear.shared, full)
    side = linear.local[..., dim:] @ full
    block = (linear.local[..., :dim] @ moved.unsqueeze(-1)).squeeze(-1)
    own = ((2.0 * side + block) * moved).sum((1, 2))
    return (shared + ranks.sum(own)).clamp(min=0.0)


def noise_update(
    reduced: Reduction,
    precision: Float[Tensor, "params params"],
    squares: Float[Tensor, " dim"],
) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
    """``sigma_c^2 = (RSS_c + 2 b) / (n_c - gamma_c + 2 a + 2)`` by group of channels, and gamma.

    ``gamma_c = tr(precision^-1 J_c' J_c) / sigma_c^2`` over all unknowns, states included.
    """
    problem, linear, estimate = reduced.problem, reduced.linear, reduced.estimate
    dim = squares.shape[0]
    inverse = _inverse(precision, problem.field.prior_precision().to(precision))
    own = inverse.new_zeros(dim)
    for part, windows, chain in reduced.chains():
        _, slope, cov = chain.smooth(windows)
        pulled = slope @ inverse
        for channel in range(dim):
            local = linear.local[channel, part]
            block, side = local[..., :dim], local[..., dim:-1]
            cross = side + 0.5 * (block @ slope)
            own[channel] += 2.0 * (pulled * cross).sum() + (cov * block).sum()
    if problem.ranks.first:
        own += (inverse * linear.shared[:, :-1, :-1]).sum((1, 2))
    degrees = problem.ranks.sum(own)
    gamma = degrees * estimate.precision
    spare = (problem.nodes.counts - gamma).clamp(min=0.0)
    return problem.noise.update(squares, spare).to(estimate.noise_std), gamma


def _inverse(precision: Tensor, prior: Tensor) -> Tensor:
    """Of a symmetric matrix, by its Cholesky factor where it has one, in half the time."""
    stddev = prior.rsqrt()
    factor, failed = torch.linalg.cholesky_ex(precision * stddev[:, None] * stddev)
    if bool(failed):
        return torch.linalg.inv(precision)
    return torch.cholesky_inverse(factor) * stddev[:, None] * stddev


def fine_enough(problem: Problem, degrees: Tensor) -> Tensor:
    """Largest change of the logarithm of the noise that does not matter, per channel."""
    spare = (problem.nodes.counts - degrees).clamp(min=1.0)
    return (0.05 / (2.0 * spare).sqrt()).clamp(max=0.01)


def accelerated(change: Float[Tensor, " dim"], before: Float[Tensor, " dim"]) -> Tensor:
    """Change of the noise's logarithm with the rest of its geometric series, at most fivefold.

    Successive changes of the fixed point shrink by a nearly constant ratio; where they do, the
    sum of all to come is known (Aitken's extrapolation). Changes that swing to and fro are halved,
    large and growing ones are left alone.
    """
    ratio = (change / before).nan_to_num(0.0)
    steady = (ratio > 0.0) & (ratio < 1.0) & (change.abs() < 0.1)
    onward = torch.where(steady, change / (1.0 - ratio).clamp(min=0.2), change)
    return torch.where(ratio < 0.0, 0.5 * change, onward)
