"""Components of a posterior: weights, dissipation, noise and states together, scaled units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.fields import HamiltonianField
from sympgp.posterior.inverse_gamma import inverse_gamma_draws, inverse_gamma_moments
from sympgp.posterior.ridge import on_ridge
from sympgp.posterior.states import WindowStates
from sympgp.posterior.truncated import truncated_moments, truncated_quantile

DAMPING_DRAWS = 200
"""Of each component: some are moved one by one, see :mod:`sympgp.posterior.ridge`."""
POINTS_AT_ONCE = 2_000_000
"""Numbers of one Jacobian block held at a time while variances are computed."""


class JointDraws(NamedTuple):
    """Draws of everything that one component is about, scaled units.

    Attributes:
        theta: (S, P + K) weights and dissipation parameters.
        noise_std: (S, D).
        start: (S, W, D) states at the starts of all shooting windows of the training
            trajectories; None where the posterior is about a field only.
    """

    theta: Float[Tensor, "draws params"]
    noise_std: Float[Tensor, "draws dim"]
    start: Float[Tensor, "draws windows dim"] | None


@dataclass(frozen=True, eq=False)
class Component(ABC):
    """One part of a posterior: ``theta = (w, rho)``, noise and states for one set of features.

    Attributes:
        field: features and dissipation matrices that theta multiplies.
        theta: (P + K,) centre of the distribution, about which the states are linearised.
        noise_std: (D,) a typical noise, at which other states are inferred.
        noise_group: (D,) channels with the same number share one noise level in user units.
        noise_dof: degrees of freedom of Student's t noise; None for Gaussian noise.
        hyperparameters: by name.
        states: the training trajectories' states given theta; None without trajectories.
    """

    field: HamiltonianField
    theta: Float[Tensor, " params"]
    noise_std: Float[Tensor, " dim"]
    noise_group: Int[Tensor, " dim"]
    noise_dof: float | None
    hyperparameters: dict[str, Tensor]
    states: WindowStates | None

    @abstractmethod
    def sample(self, num: int, generator: torch.Generator) -> JointDraws:
        """Draws of theta, the noise and the states together."""

    @abstractmethod
    def moments(self) -> tuple[Float[Tensor, " params"], Float[Tensor, "params root"]]:
        """Mean of theta and a root of its covariance, the truncation included."""

    @abstractmethod
    def noise_moments(self) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
        """Mean and variance of the noise standard deviations."""

    @abstractmethod
    def damping_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of the dissipation parameters, (K,) each."""

    @cached_property
    def damping_draws(self) -> Float[Tensor, "draws k"]:
        """Draws of the dissipation parameters, made once, for moments that have no formula."""
        theta = self.sample(DAMPING_DRAWS, torch.Generator().manual_seed(0)).theta
        return self.field.split(theta)[1]

    @abstractmethod
    def first_states(self) -> tuple[Float[Tensor, "paths dim"], Float[Tensor, "paths dim"]]:
        """Mean and variance of each training trajectory's first state."""

    @abstractmethod
    def with_states(self, states: WindowStates) -> Component:
        """The same parameters with the states of other trajectories, given theta."""

    @property
    def window_states(self) -> WindowStates:
        """The states, where there are any.

        Raises:
            ValueError: the posterior is about a field only.
        """
        if self.states is None:
            raise ValueError("this posterior was learned from derivatives: it has no trajectories")
        return self.states

    def typical(self) -> Float[Tensor, " params"]:
        """Parameters of a typical function, about which others may be linearised."""
        return self.moments()[0]

    def field_root(
        self, z: Float[Tensor, "batch width"], theta: Tensor, root: Tensor
    ) -> Float[Tensor, "batch dim root"]:
        """``df/dtheta root``: its rows' squares sum to the variance of the field."""
        return self.field.parameter_jacobian(z, theta) @ root

    def field_and_root(
        self, z: Float[Tensor, "batch width"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim root"]]:
        """Mean of the scaled field at all points, and a root of its joint covariance."""
        theta, root = self.moments()
        return self.field.bind(theta)(0.0, z), self.field_root(z, theta, root)

    def field_moments(
        self, z: Float[Tensor, "batch width"]
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
        basis = self.field.basis
        num = basis.num_weights
        w = theta[:num]
        anchor, zero = basis.features(reference, w), basis.value(reference, w)
        means, variances = [], []
        for part in z.split(max(1, POINTS_AT_ONCE // max(1, num))):
            features = basis.features(part, w) - anchor
            means.append(features @ w if basis.linear else basis.value(part, w) - zero)
            variances.append(((features @ root[:num]) ** 2).sum(-1))
        return torch.cat(means), torch.cat(variances)


@dataclass(frozen=True, eq=False)
class GaussianComponent(Component):
    """``theta ~ N(mode, precision^-1)`` cut to ``rho >= 0``, states Gaussian given theta.

    Attributes:
        factor: (P + K, P + K) lower Cholesky factor of the precision of the Gaussian before the
            cut, whose mode is ``theta``, at the noise ``noise_std``.
        noise_shape, noise_rate: (D,) of the inverse-gamma posterior of the noise variance; where
            the noise is known the shape is infinite and the rate is its variance.
        anchors: scaled states of the data at which draws of dissipation that is not linear in its
            parameters are brought back to the linear field, see :mod:`sympgp.posterior.ridge`;
            None where the Gaussian is one of draws as they are.
    """

    factor: Float[Tensor, "params params"]
    noise_shape: Float[Tensor, " dim"]
    noise_rate: Float[Tensor, " dim"]
    anchors: Float[Tensor, "anchors dim"] | None = None

    def sample(self, num: int, generator: torch.Generator) -> JointDraws:
        """Draws of theta, the noise and the states together."""
        white = normal((num, len(self.theta)), self.theta, generator)
        step = torch.linalg.solve_triangular(self.factor.mT, white.mT, upper=True).mT
        theta = self.theta + step
        if self.field.dissipation.truncated:
            direction, deviation = self.damping_direction()
            free = theta[:, -1]
            uniform = torch.rand(num, generator=generator, dtype=torch.float64).to(free)
            cut = truncated_quantile(self.theta[-1], deviation, uniform)
            theta = theta + (cut - free).unsqueeze(-1) * direction
        noise_std = inverse_gamma_draws(
            self.noise_shape, self.noise_rate, self.noise_group, num, generator
        )
        # Paths follow the linear field, and so do the states that come with a draw.
        start = self._draw_states(theta, generator)
        return JointDraws(self._on_ridge(theta), noise_std, start)

    def _on_ridge(self, theta: Tensor) -> Tensor:
        if self.anchors is None or self.field.dissipation.truncated:
            return theta
        return on_ridge(self.field, self.theta, self.moments()[1], theta, self.anchors)

    def with_states(self, states: WindowStates) -> Component:
        """The same parameters with other states."""
        return replace(self, states=states)

    def _draw_states(self, theta: Tensor, generator: torch.Generator) -> Tensor | None:
        if self.states is None:
            return None
        white = normal((len(theta), *self.states.mean.shape), theta, generator)
        return self.states.sample(theta - self.theta, white)

    def noise_moments(self) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
        """Mean and variance of the noise standard deviations."""
        return inverse_gamma_moments(self.noise_shape, self.noise_rate)

    def damping_direction(self) -> tuple[Tensor, Tensor]:
        """Regression of theta on the dissipation parameter, and the latter's deviation."""
        unit = torch.zeros_like(self.theta)
        unit[-1] = 1.0
        column = torch.cholesky_solve(unit.unsqueeze(-1), self.factor).squeeze(-1)
        return column / column[-1], column[-1].sqrt()

    def damping_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of the truncated dissipation parameter, (K,) each."""
        damping = self.field.dissipation
        if not damping.truncated:
            num = damping.num_parameters
            _, root = self.moments()
            return self.theta[len(self.theta) - num :], root[len(root) - num :].square().sum(1)
        _, deviation = self.damping_direction()
        mean, variance = truncated_moments(self.theta[-1:], deviation.reshape(1))
        return mean, variance

    def moments(self) -> tuple[Float[Tensor, " params"], Float[Tensor, "params params"]]:
        """Mean of theta and a root of its covariance, the truncation included."""
        identity = torch.eye(len(self.theta), dtype=self.theta.dtype, device=self.theta.device)
        root = torch.linalg.solve_triangular(self.factor.mT, identity, upper=True)
        if not self.field.dissipation.truncated:
            return self.theta, root
        direction, deviation = self.damping_direction()
        mean, variance = truncated_moments(self.theta[-1], deviation)
        row = root[-1] / deviation
        shrink = 1.0 - variance.sqrt() / deviation
        root = root - shrink * torch.outer(root @ row, row)
        return self.theta + (mean - self.theta[-1]) * direction, root

    def first_states(self) -> tuple[Float[Tensor, "paths dim"], Float[Tensor, "paths dim"]]:
        """Mean and variance of each training trajectory's first state."""
        theta, root = self.moments()
        states = self.window_states
        means, variances = [], []
        for trajectory in range(len(states.chain)):
            centre, slope, cov = states.smoothed_start(trajectory)
            means.append(centre + slope @ (theta - self.theta))
            variances.append(cov.diagonal() + ((slope @ root) ** 2).sum(-1))
        return torch.stack(means), torch.stack(variances)


def normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal draws from a CPU generator, so that devices agree."""
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(like)
