"""One Gaussian component of a posterior: weights, dissipation, noise and states, scaled units."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.fields import HamiltonianField
from sympgp.posterior.states import WindowStates

POINTS_AT_ONCE = 2_000_000
"""Numbers of one Jacobian block held at a time while variances are computed."""


@dataclass(frozen=True, eq=False)
class Component:
    """``theta = (w, rho) ~ N(mean, precision^-1)`` cut to ``rho >= 0``, for one set of features.

    Attributes:
        field: features and dissipation matrices that theta multiplies.
        theta: (P + K,) mode of the Gaussian before the cut; K is zero or one.
        factor: (P + K, P + K) lower Cholesky factor of its precision.
        noise_std: (D,) noise at which the precision was computed.
        noise_shape, noise_rate: (D,) of the inverse-gamma posterior of the noise variance; where
            the noise is known the shape is infinite and the rate is its variance.
        noise_group: (D,) channels with the same number share one noise level in user units.
        noise_dof: degrees of freedom of Student's t noise; None for Gaussian noise.
        hyperparameters: by name.
        states: the training trajectories' states given theta.
    """

    field: HamiltonianField
    theta: Float[Tensor, " params"]
    factor: Float[Tensor, "params params"]
    noise_std: Float[Tensor, " dim"]
    noise_shape: Float[Tensor, " dim"]
    noise_rate: Float[Tensor, " dim"]
    noise_group: Int[Tensor, " dim"]
    noise_dof: float | None
    hyperparameters: dict[str, Tensor]
    states: WindowStates

    def sample(
        self, num: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "draws params"], Float[Tensor, "draws dim"]]:
        """Draws of theta and of the noise standard deviations."""
        white = normal((num, len(self.theta)), self.theta, generator)
        step = torch.linalg.solve_triangular(self.factor.mT, white.mT, upper=True).mT
        theta = self.theta + step
        if self.field.dissipation.num_parameters:
            direction, deviation = self.damping_direction()
            free = theta[:, -1]
            uniform = torch.rand(num, generator=generator, dtype=torch.float64).to(free)
            cut = truncated_quantile(self.theta[-1], deviation, uniform)
            theta = theta + (cut - free).unsqueeze(-1) * direction
        unit = _gamma(self.noise_shape, num, generator)[:, self.noise_group]
        return theta, (self.noise_rate / unit).sqrt()

    def noise_moments(self) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
        """Mean and variance of the noise standard deviations."""
        known = self.noise_shape.isinf()
        shape = torch.where(known, 2.0, self.noise_shape)
        factor = torch.exp(torch.lgamma(shape - 0.5) - torch.lgamma(shape))
        mean = self.noise_rate.sqrt() * torch.where(known, 1.0, factor)
        variance = (self.noise_rate / (shape - 1.0) - mean**2).clamp(min=0.0)
        return mean, torch.where(known, 0.0, variance)

    def damping_direction(self) -> tuple[Tensor, Tensor]:
        """Regression of theta on the dissipation parameter, and the latter's deviation."""
        unit = torch.zeros_like(self.theta)
        unit[-1] = 1.0
        column = torch.cholesky_solve(unit.unsqueeze(-1), self.factor).squeeze(-1)
        return column / column[-1], column[-1].sqrt()

    def damping_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of the truncated dissipation parameter, (K,) each."""
        if not self.field.dissipation.num_parameters:
            return self.theta[:0], self.theta[:0]
        _, deviation = self.damping_direction()
        mean, variance = truncated_moments(self.theta[-1:], deviation.reshape(1))
        return mean, variance

    def moments(self) -> tuple[Float[Tensor, " params"], Float[Tensor, "params params"]]:
        """Mean of theta and a root of its covariance, the truncation included."""
        identity = torch.eye(len(self.theta), dtype=self.theta.dtype, device=self.theta.device)
        root = torch.linalg.solve_triangular(self.factor.mT, identity, upper=True)
        if not self.field.dissipation.num_parameters:
            return self.theta, root
        direction, deviation = self.damping_direction()
        mean, variance = truncated_moments(self.theta[-1], deviation)
        row = root[-1] / deviation
        shrink = 1.0 - variance.sqrt() / deviation
        root = root - shrink * torch.outer(root @ row, row)
        return self.theta + (mean - self.theta[-1]) * direction, root

    def field_root(
        self, z: Float[Tensor, "batch dim"], theta: Tensor, root: Tensor
    ) -> Float[Tensor, "batch dim params"]:
        """``df/dtheta root``: its rows' squares sum to the variance of the field."""
        return self.field.parameter_jacobian(z, theta) @ root

    def field_moments(
        self, z: Float[Tensor, "batch dim"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
        """Mean and variance of the scaled field, linear in theta about its mean."""
        theta, root = self.moments()
        bound = self.field.bind(theta)
        size = max(1, POINTS_AT_ONCE // (z.shape[-1] * len(theta)))
        variance = [(self.field_root(part, theta, root) ** 2).sum(-1) for part in z.split(size)]
        return bound(0.0, z), torch.cat(variance)

    def energy_moments(
        self, z: Float[Tensor, "batch dim"], reference: Float[Tensor, " dim"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Mean and variance of the scaled ``H(z) - H(reference)``."""
        theta, root = self.moments()
        num = self.field.num_weights
        basis = self.field.basis
        anchor = basis.features(reference)
        means, variances = [], []
        for part in z.split(max(1, POINTS_AT_ONCE // num)):
            features = basis.features(part) - anchor
            means.append(features @ theta[:num])
            variances.append(((features @ root[:num]) ** 2).sum(-1))
        return torch.cat(means), torch.cat(variances)


def normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal draws from a CPU generator, so that devices agree."""
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(like)


def _gamma(shape: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """Gamma(shape, 1) draws (num, D) from a CPU generator; one where the shape is infinite."""
    # What torch.distributions.Gamma draws with; the distribution itself takes no generator.
    wide = shape.cpu().double().expand(num, -1)
    draws = torch._standard_gamma(wide.masked_fill(wide.isinf(), 1.0), generator=generator)
    return draws.masked_fill(wide.isinf(), 1.0).to(shape)


def truncated_quantile(mean: Tensor, deviation: Tensor, uniform: Tensor) -> Tensor:
    """Quantiles of ``N(mean, deviation^2)`` cut to the positive half line.

    Computed from the upper tail, so that it stays accurate far below zero.
    """
    upper = torch.special.ndtr(mean / deviation)
    bulk = mean - deviation * torch.special.ndtri((upper * (1.0 - uniform)).clamp(min=1e-300))
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
