"""Normal distributions cut to what is not negative."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def truncated_quantile(mean: Tensor, deviation: Tensor, uniform: Tensor) -> Tensor:
    """Quantiles of ``N(mean, deviation^2)`` cut to the positive half line.

    Computed from the upper tail, so that it stays accurate far below zero.
    """
    upper = torch.special.ndtr(mean / deviation)
    least = torch.finfo(upper.dtype).tiny
    bulk = mean - deviation * torch.special.ndtri((upper * (1.0 - uniform)).clamp(min=least))
    # Where hardly anything of the normal is left, Newton's method on the logarithm of the tail,
    # from the quantile of exp(-alpha x - x^2 / 2).
    alpha = (-mean / deviation).clamp(min=6.0)
    log_tail = torch.log1p(-uniform)
    x = (alpha**2 - 2.0 * log_tail).sqrt() - alpha
    target = torch.special.log_ndtr(-alpha) + log_tail
    for _ in range(3):
        x = x + (torch.special.log_ndtr(-alpha - x) - target) / _hazard(alpha + x)
    far = mean < -6.0 * deviation
    return torch.where(far, deviation * x, bulk).clamp(min=0.0)


def _hazard(alpha: Tensor) -> Tensor:
    """``phi(alpha) / Phi(-alpha)`` through the scaled complementary error function."""
    return math.sqrt(2.0 / math.pi) / torch.special.erfcx(alpha / math.sqrt(2.0))


def truncated_moments(mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``N(mean, deviation^2)`` cut to the positive half line."""
    alpha = -mean / deviation
    hazard = _hazard(alpha)
    first = mean + deviation * hazard
    second = deviation**2 * (1.0 + alpha * hazard - hazard**2)
    return first.clamp(min=0.0), second.clamp(min=1e-12 * deviation**2)
