"""Distribution function and quantiles of Student's t."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from scipy.special import stdtr, stdtrit
from torch import Tensor

LONGEST_SERIES = 32.0
"""Degrees of freedom up to which the finite series is faster than the incomplete beta function."""


def standard_quantile(probability: float, dof: float) -> float:
    """The t below which Student's t with ``dof`` degrees of freedom is with this probability."""
    return float(stdtrit(dof, probability))


def signed_probability(t: Float[Tensor, "*batch"], dof: float) -> Float[Tensor, "*batch"]:
    """``2 F(t) - 1`` for the distribution function F of Student's t; odd in t.

    For whole ``dof`` a finite series in ``cos(angle)^2``, ``angle = atan(t / sqrt(dof))``, that
    stays on the device; otherwise the incomplete beta function, on the CPU.

    Source: Abramowitz and Stegun, *Handbook of Mathematical Functions*, 26.7.3 and 26.7.4.

    Example:
        >>> signed_probability(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64), 2.0)
        tensor([-0.5774,  0.0000,  0.5774], dtype=torch.float64)
    """
    if dof == 1.0:
        return (2.0 / math.pi) * torch.atan(t)
    if not dof.is_integer() or not 2 <= dof <= LONGEST_SERIES:
        return torch.as_tensor(2.0 * stdtr(dof, t.detach().cpu().numpy()) - 1.0).to(t)
    angle = torch.atan(t / math.sqrt(dof))
    sine, cosine = angle.sin(), angle.cos()
    square, series = cosine.square(), torch.ones_like(t)
    for power in range(int(dof) - 2, 1, -2):
        series = series.mul_(square).mul_((power - 1) / power).add_(1.0)
    if dof % 2:
        return (2.0 / math.pi) * (angle + sine * cosine * series)
    return sine * series
