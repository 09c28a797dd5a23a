"""Draws of a Gaussian component's parameters given the noise, and their densities."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.posterior.component import GaussianComponent, normal
from sympgp.posterior.truncated import truncated_quantile


def given_noise(
    component: GaussianComponent,
    noise_std: Float[Tensor, "draws dim"],
    generator: torch.Generator,
    seen: Bool[Tensor, " dim"] | None = None,
) -> tuple[Float[Tensor, "draws params"], Float[Tensor, " draws"]]:
    """Draws of theta given the noise, and their log densities.

    The component's precision is that at one noise level. What it has beyond the prior's grows as
    the data's precision does; with the product of both marginals instead, ratios would mostly say
    how many directions the data determine.

    These are draws of the Gaussian itself. Where dissipation is not linear in its parameters the
    component's own are moved along ridges, and what is moved has no density to be had.

    Args:
        component: the Gaussian.
        noise_std: the noise of each draw.
        generator: of the draws.
        seen: channels with observations; all when None. The noise of others says nothing.
    """
    stddev = component.field.prior_precision().rsqrt()
    white = stddev.unsqueeze(-1) * component.factor
    values, vectors = torch.linalg.eigh(white @ white.mT)
    ratio = component.noise_std / noise_std
    louder = (ratio if seen is None else ratio[:, seen]).square().mean(1, keepdim=True)
    precision = torch.where(values > 1.0, 1.0 + louder * (values - 1.0), values)
    axes = stddev.unsqueeze(-1) * vectors
    free = normal((len(noise_std), len(stddev)), stddev, generator)
    delta = (free / precision.sqrt()) @ axes.mT
    log_q = (precision.log() - math.log(2.0 * math.pi)).sum(1) / 2.0 - stddev.log().sum()
    if component.field.dissipation.truncated:
        column = (axes[-1] / precision) @ axes.mT
        deviation, mode = column[:, -1].sqrt(), component.theta[-1]
        uniform = torch.rand(len(delta), generator=generator, dtype=torch.float64).to(delta)
        cut = truncated_quantile(mode.expand_as(uniform), deviation, uniform)
        shift = (cut - mode - delta[:, -1]) / column[:, -1]
        delta = delta + shift.unsqueeze(-1) * column
        log_q = log_q - torch.special.log_ndtr(mode / deviation)
    along = (delta / stddev) @ vectors
    return component.theta + delta, log_q - 0.5 * (precision * along.square()).sum(1)


def log_noise(
    component: GaussianComponent, noise_std: Float[Tensor, "draws dim"]
) -> Float[Tensor, " draws"]:
    """Log density of ``log sigma``, one value per group that is not known."""
    shape, rate = component.noise_shape, component.noise_rate
    channels = torch.arange(len(shape), device=shape.device)
    free = shape.isfinite() & (component.noise_group == channels)
    a, b, v = shape[free], rate[free], noise_std[:, free] ** 2
    constant = math.log(2.0) + a * b.log() - torch.lgamma(a)
    return (constant - a * v.log() - b / v).sum(1)
