"""Positive numbers as functions of standard normal ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

# Scaled friction that damps within a radian of the oscillation is one; a tenth is weak.
WEAK = 0.1


@dataclass(frozen=True)
class PositiveCurve:
    """``v(rho) = scale softplus(a + steepness rho)`` with ``v(0) = median``.

    Exponential well below ``scale`` and linear above it. With steepness near 1.75, tails of the
    prior reach from a thirtieth of the median to beyond the scale, and a normal approximation in
    rho serves values that data determine, and still bounds values that they only bound: steeper
    curves approach zero closer, but an error of rho then leaves the bound by orders of magnitude.

    Attributes:
        scale: where the curve bends.
        median: prior median, of standard normal rho.
        steepness: slope of log v far below the scale.
    """

    scale: float
    median: float
    steepness: float

    @classmethod
    def of_friction(cls, prior_scale: float) -> PositiveCurve:
        """For scaled coefficients: weak in the median."""
        return cls(prior_scale, WEAK * prior_scale, 1.75)

    @classmethod
    def of_root(cls, prior_scale: float) -> PositiveCurve:
        """For numbers whose squares are scaled coefficients, with nearly the prior of those."""
        return cls(math.sqrt(prior_scale), math.sqrt(WEAK * prior_scale), 0.9)

    @property
    def _intercept(self) -> float:
        return math.log(math.expm1(self.median / self.scale))

    def value(self, rho: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """``v``."""
        # above 50 the logarithm of one plus the exponential is the argument in either precision
        return self.scale * softplus(self._intercept + self.steepness * rho, threshold=50.0)

    def slope(self, rho: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """``dv / drho``."""
        by_argument = torch.sigmoid(self._intercept + self.steepness * rho)
        return self.scale * self.steepness * by_argument


def per_state(rho: Float[Tensor, "*draws params"]) -> Tensor:
    """Parameters that broadcast with states: rows of draws get an axis for the states of each."""
    return rho.unsqueeze(-2) if rho.dim() > 1 else rho
