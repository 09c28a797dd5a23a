"""The inverse-gamma posterior of noise variances; a level that is known has an infinite shape."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def inverse_gamma_draws(
    shape: Float[Tensor, " dim"],
    rate: Float[Tensor, " dim"],
    group: Int[Tensor, " dim"],
    num: int,
    generator: torch.Generator,
) -> Float[Tensor, "draws dim"]:
    """Draws of the standard deviations, those of one group together, from a CPU generator."""
    # What torch.distributions.Gamma draws with; the distribution itself takes no generator.
    wide = shape.cpu().double().expand(num, -1)
    known = wide.isinf()
    unit = torch._standard_gamma(wide.masked_fill(known, 1.0), generator=generator)
    return (rate / unit.masked_fill(known, 1.0).to(shape)[:, group]).sqrt()


def inverse_gamma_moments(
    shape: Float[Tensor, " dim"], rate: Float[Tensor, " dim"]
) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
    """Mean and variance of the standard deviations."""
    known = shape.isinf()
    finite = torch.where(known, 2.0, shape)
    factor = torch.exp(torch.lgamma(finite - 0.5) - torch.lgamma(finite))
    mean = rate.sqrt() * torch.where(known, 1.0, factor)
    variance = (rate / (finite - 1.0) - mean**2).clamp(min=0.0)
    return mean, torch.where(known, 0.0, variance)


def inverse_gamma_log_density(
    noise_std: Float[Tensor, "draws dim"],
    shape: Float[Tensor, " dim"],
    rate: Float[Tensor, " dim"],
    group: Int[Tensor, " dim"],
) -> Float[Tensor, " draws"]:
    """Log density of the logarithms of standard deviations, one value a group."""
    channels = torch.arange(len(group), device=noise_std.device)
    free = shape.isfinite() & (group == channels)
    own, ratio = shape[free], rate[free] / noise_std[:, free] ** 2
    each = math.log(2.0) + own * ratio.log() - ratio - torch.lgamma(own)
    return each.sum(1)
