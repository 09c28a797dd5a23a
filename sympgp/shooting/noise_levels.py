"""Noise levels by their fixed point, with what the fit uses up of the observations."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.shooting.elimination import Chain
from sympgp.shooting.problem import Estimate, Problem
from sympgp.shooting.sensitivities import Linearization


def squares_after(
    linear: Linearization,
    step: Float[Tensor, " params"],
    moved: Float[Tensor, "windows dim"],
) -> Float[Tensor, " dim"]:
    """Residual sum of squares of each channel after a step of the linearised model."""
    dim = moved.shape[-1]
    full = torch.cat([step, step.new_ones(1)])
    shared = torch.einsum("i,cij,j->c", full, linear.shared, full)
    side = linear.local[..., dim:] @ full
    block = (linear.local[..., :dim] @ moved.unsqueeze(-1)).squeeze(-1)
    return (shared + ((2.0 * side + block) * moved).sum((1, 2))).clamp(min=0.0)


def noise_update(
    problem: Problem,
    linear: Linearization,
    estimate: Estimate,
    chain: Chain,
    precision: Tensor,
    squares: Float[Tensor, " dim"],
) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
    """``sigma_c^2 = (RSS_c + 2 b) / (n_c - gamma_c + 2 a + 2)`` by group of channels, and gamma.

    ``gamma_c = tr(precision^-1 J_c' J_c) / sigma_c^2`` over all unknowns, states included.
    """
    dim = squares.shape[0]
    _, slope, cov = chain.smooth(problem.windows)
    inverse = torch.linalg.inv(precision)
    pulled = slope @ inverse
    degrees = []
    for channel in range(dim):
        local = linear.local[channel]
        block, side = local[..., :dim], local[..., dim:-1]
        cross = side + 0.5 * (block @ slope)
        total = (inverse * linear.shared[channel, :-1, :-1]).sum() + 2.0 * (pulled * cross).sum()
        degrees.append(total + (cov * block).sum())
    gamma = torch.stack(degrees) * estimate.precision
    spare = (problem.nodes.counts - gamma).clamp(min=0.0)
    return problem.noise.update(squares, spare), gamma


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
