"""Regression of rates on states: linear in the weights, or in the kernel of infinitely many.

Given hyperparameters, noise and friction, ``dz/ds = (J - R) grad H(z) + noise`` is a linear
Gaussian model. Friction multiplies H, so it is found by Gauss-Newton: about (H_0, rho_0)

    f(z) = (J - R(rho_0)) grad H(z) - sum_k (rho_k - rho_0k) R_k grad H_0(z).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.dissipation import ScaledDissipation
from sympgp.energies import Energy, Hyperparameters, LogNormal
from sympgp.fields import HamiltonianField
from sympgp.inference.pairs import Pairs
from sympgp.posterior import Component
from sympgp.posterior.component import GaussianComponent
from sympgp.posterior.exact import JITTER


@dataclass(frozen=True)
class NoiseFit:
    """The noise that a component is packaged with.

    Attributes:
        std: (D,).
        shape, rate: (D,) of its inverse-gamma posterior.
        group: (D,) shared levels.
    """

    std: Float[Tensor, " dim"]
    shape: Float[Tensor, " dim"]
    rate: Float[Tensor, " dim"]
    group: Tensor


class Solution(ABC):
    """A linear Gaussian posterior at fixed hyperparameters and noise.

    Attributes:
        rho: (K,) mode of the friction before the cut at zero.
        squares: (D,) sums of squared residuals.
        degrees: (D,) observations that the fit uses up.
    """

    rho: Float[Tensor, " k"]
    squares: Float[Tensor, " dim"]
    degrees: Float[Tensor, " dim"]

    @abstractmethod
    def refined(self, noise_std: Float[Tensor, " dim"]) -> Solution:
        """One Gauss-Newton step from here under this noise."""

    @abstractmethod
    def component(self, noise: NoiseFit, hyperparameters: Hyperparameters) -> Component:
        """Package for the posterior."""


class Regression(ABC):
    """A prior over H with its hyperpriors, and the regression under it.

    Attributes:
        dissipation: scaled.
    """

    dissipation: ScaledDissipation

    @abstractmethod
    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """Of the hyperparameters."""

    @abstractmethod
    def redraw(self, seed: int) -> Regression:
        """The same prior with other random features, where there are any."""

    @abstractmethod
    def evidence(
        self,
        pairs: Pairs,
        hyperparameters: Hyperparameters,
        rho: Float[Tensor, " k"],
        noise_std: Float[Tensor, " dim"],
    ) -> Float[Tensor, ""]:
        """Log marginal likelihood with H integrated out, differentiable in all but the pairs."""

    @abstractmethod
    def solve(
        self,
        pairs: Pairs,
        hyperparameters: Hyperparameters,
        rho: Float[Tensor, " k"],
        noise_std: Float[Tensor, " dim"],
    ) -> Solution:
        """The posterior of H at this friction, the start of Gauss-Newton."""


@dataclass(frozen=True)
class FeatureRegression(Regression):
    """The features of an energy: ``f(z) = Psi(z) w``.

    Attributes:
        energy: prior over H.
        dissipation: scaled.
    """

    energy: Energy
    dissipation: ScaledDissipation

    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """The energy's."""
        return self.energy.hyperpriors(spread)

    def redraw(self, seed: int) -> FeatureRegression:
        """Other features."""
        return FeatureRegression(self.energy.redraw(seed), self.dissipation)

    def evidence(
        self,
        pairs: Pairs,
        hyperparameters: Hyperparameters,
        rho: Float[Tensor, " k"],
        noise_std: Float[Tensor, " dim"],
    ) -> Float[Tensor, ""]:
        """``log N(y; 0, Psi V Psi' + Sigma)``, in the smaller of the two spaces."""
        field = HamiltonianField(self.energy.basis(hyperparameters), self.dissipation)
        rows = field.features(pairs.z, rho)[pairs.observed] * field.basis.prior_variance.sqrt()
        std = _with_jitter(noise_std[pairs.channel], rows)
        rows, target = rows / std.unsqueeze(-1), pairs.values / std
        wide = rows.shape[0] < rows.shape[1]
        gram = rows @ rows.mT if wide else rows.mT @ rows
        factor = torch.linalg.cholesky(gram + torch.eye(len(gram)).to(gram))
        right = (target if wide else rows.mT @ target).unsqueeze(-1)
        white = torch.linalg.solve_triangular(factor, right, upper=False)
        fitted = (white**2).sum()
        quadratic = fitted if wide else (target**2).sum() - fitted
        logdet = 2.0 * (factor.diagonal().log().sum() + std.log().sum())
        return gaussian_log_density(quadratic, logdet, len(std))

    def solve(
        self,
        pairs: Pairs,
        hyperparameters: Hyperparameters,
        rho: Float[Tensor, " k"],
        noise_std: Float[Tensor, " dim"],
    ) -> FeatureSolution:
        """Ridge regression at this friction."""
        field = HamiltonianField(self.energy.basis(hyperparameters), self.dissipation)
        theta = torch.cat([rho.new_zeros(field.num_weights), rho])
        # About H = 0 the friction has no effect, so that this solves for the weights alone.
        first = FeatureSolution.about(field, pairs, theta, noise_std)
        start = torch.cat([first.theta[: field.num_weights], rho])
        return FeatureSolution.about(field, pairs, start, noise_std)


@dataclass(frozen=True)
class FeatureSolution(Solution):
    """``theta = (w, rho)`` with its precision.

    Attributes:
        field: features and friction.
        pairs: the data.
        theta: (P + K,) mode.
        factor: lower Cholesky factor of the precision.
    """

    field: HamiltonianField
    pairs: Pairs
    theta: Float[Tensor, " params"]
    factor: Float[Tensor, "params params"]
    squares: Float[Tensor, " dim"]
    degrees: Float[Tensor, " dim"]

    @classmethod
    def about(
        cls,
        field: HamiltonianField,
        pairs: Pairs,
        start: Float[Tensor, " params"],
        noise_std: Float[Tensor, " dim"],
    ) -> FeatureSolution:
        """Solve the model that is linear about ``start``."""
        num = field.num_weights
        jacobian = field.parameter_jacobian(pairs.z, start)[pairs.observed]
        target = pairs.values + jacobian[:, num:] @ start[num:]
        stddev = field.prior_precision().rsqrt()
        prior = jacobian[:, :num] * stddev[:num]
        inverse = 1.0 / _with_jitter(noise_std[pairs.channel], prior)
        rows = jacobian * inverse.unsqueeze(-1) * stddev
        gram = rows.mT @ rows + torch.eye(len(stddev)).to(rows)
        white = torch.linalg.cholesky(gram)
        right = (rows.mT @ (target * inverse)).unsqueeze(-1)
        theta = stddev * torch.cholesky_solve(right, white).squeeze(-1)
        residual = target - jacobian @ theta
        used = torch.linalg.solve_triangular(white, rows.mT, upper=False).square().sum(0)
        factor = white / stddev.unsqueeze(-1)
        squares = pairs.per_channel(residual**2)
        return cls(field, pairs, theta, factor, squares, pairs.per_channel(used))

    @property
    def rho(self) -> Float[Tensor, " k"]:  # type: ignore[override]
        """The friction's mode."""
        return self.theta[self.field.num_weights :]

    def refined(self, noise_std: Float[Tensor, " dim"]) -> FeatureSolution:
        """One Gauss-Newton step."""
        return FeatureSolution.about(self.field, self.pairs, self.theta, noise_std)

    def component(self, noise: NoiseFit, hyperparameters: Hyperparameters) -> Component:
        """A Gaussian in the weights."""
        return GaussianComponent(
            field=self.field,
            theta=self.theta,
            factor=self.factor,
            noise_std=noise.std,
            noise_shape=noise.shape,
            noise_rate=noise.rate,
            noise_group=noise.group,
            noise_dof=None,
            hyperparameters=hyperparameters,
            states=None,
        )


def _with_jitter(
    std: Float[Tensor, " observations"], rows: Float[Tensor, "observations weights"]
) -> Float[Tensor, " observations"]:
    """Noise that rounding does not drown; ``rows`` are a root of the rates' prior covariance."""
    return (std**2 + JITTER * rows.square().sum(-1).mean()).sqrt()


def gaussian_log_density(quadratic: Tensor, logdet: Tensor, count: int) -> Float[Tensor, ""]:
    """``-(quadratic + logdet + count log 2 pi) / 2``."""
    return -0.5 * (quadratic + logdet + count * math.log(2.0 * math.pi))
