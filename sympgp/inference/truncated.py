"""Differentiable draws from a normal distribution cut to the positive half line."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.posterior.truncated import truncated_quantile


def truncated_draws(
    mean: Float[Tensor, ""], deviation: Float[Tensor, ""], uniform: Float[Tensor, " draws"]
) -> Float[Tensor, " draws"]:
    """Quantiles of ``N(mean, deviation^2)`` cut to what is not negative, with their derivatives.

    Of ``F(rho; m, s) = u`` with u held: ``d rho / dm = 1 - M((m - rho) / s) / M(m / s)`` with
    Mills' ratio ``M = Phi / phi``, and ``rho = m d rho / dm + s d rho / ds`` since a change of
    units changes all three alike. Quantile functions that are differentiated term by term lose
    their digits far below zero.
    """
    m, s = mean.detach(), deviation.detach()
    value = truncated_quantile(m, s, uniform)
    by_mean = 1.0 - _mills((m - value) / s) / _mills(m / s)
    by_deviation = (value - m * by_mean) / s
    # Worth nothing, but with the derivatives that are wanted.
    return value + by_mean * (mean - m) + by_deviation * (deviation - s)


def _mills(x: Tensor) -> Tensor:
    """``Phi(x) / phi(x)``; beyond 30, where only that it is large matters, its value there."""
    return math.sqrt(0.5 * math.pi) * torch.special.erfcx(-x.clamp(max=30.0) / math.sqrt(2.0))
