"""Log prior densities of a field's parameters and of the noise, for draws of them."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from sympgp.fields import HamiltonianField
from sympgp.noise import SHAPE, ScaledNoise


def prior_terms(
    field: HamiltonianField,
    noise: ScaledNoise,
    theta: Float[Tensor, "draws params"],
    noise_std: Float[Tensor, "draws dim"],
) -> dict[str, Float[Tensor, " draws"]]:
    """Normalised log densities by name.

    - "weights": ``w ~ N(0, prior_variance)``.
    - "dissipation": normal, or half-normal and minus infinity below zero.
    - "noise": of the logarithms of the levels, see ``noise_log_prior``.
    """
    w, rho = field.split(theta)
    damping = field.dissipation
    dissipation = normal_log_density(rho, damping.prior_stddev**2)
    if damping.truncated:
        half = dissipation + math.log(2.0) * rho.shape[1]
        dissipation = half.masked_fill((rho < 0).any(1), -math.inf)
    return {
        "weights": normal_log_density(w, field.weight_variance),
        "dissipation": dissipation,
        "noise": noise_log_prior(noise, noise_std),
    }


def noise_log_prior(
    noise: ScaledNoise, noise_std: Float[Tensor, "draws dim"]
) -> Float[Tensor, " draws"]:
    """Of ``log sigma``, where ``sigma^2`` is inverse-gamma; zero where it is known.

    One value for each group of channels that share a level. The logarithm makes it the same in all
    units: of ``v = sigma^2`` it is ``log 2 + a log b - log Gamma(a) - a log v - b / v``.
    """
    variance, rate = noise_std[:, noise.leaders] ** 2, noise.level_rate()
    constant = math.log(2.0) - math.lgamma(SHAPE)
    return (constant + SHAPE * (rate / variance).log() - rate / variance).sum(1)


def normal_log_density(
    values: Float[Tensor, "draws entries"], variance: Float[Tensor, "*entries"]
) -> Float[Tensor, " draws"]:
    """Of independent normals with mean zero, row by row; the variances broadcast."""
    constant = 0.5 * (2.0 * math.pi * variance).log().expand(values.shape[1]).sum()
    return -0.5 * (values**2 / variance).sum(1) - constant
