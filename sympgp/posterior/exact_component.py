"""A component of a posterior that is an exact Gaussian process."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies import FourierBasis
from sympgp.fields import HamiltonianField
from sympgp.posterior.component import Component, JointDraws, normal
from sympgp.posterior.exact import ExactGaussian
from sympgp.posterior.inverse_gamma import inverse_gamma_draws, inverse_gamma_moments
from sympgp.posterior.pathwise import PathwiseBasis
from sympgp.posterior.states import WindowStates
from sympgp.posterior.truncated import truncated_moments, truncated_quantile

WAVES = 800
"""Spectral points of the prior part of a draw."""


@dataclass(frozen=True, eq=False)
class ExactComponent(Component):
    """``H | y`` as a Gaussian process, with the friction cut to ``rho >= 0``.

    Moments of the field and the energy are exact (linear about the mean where there is friction).
    Draws are functions: prior waves plus an update at the data, see :class:`PathwiseBasis`, whose
    weights are ``theta``; only their prior part is approximated, by many waves.

    Attributes:
        gaussian: the conditional Gaussian.
        noise_shape, noise_rate: (D,) of the inverse-gamma posterior of the noise variance of
            dz/ds; where the noise is known the shape is infinite and the rate is its variance.
        refusal: why functions cannot be drawn; None where they can.
    """

    gaussian: ExactGaussian
    noise_shape: Float[Tensor, " dim"]
    noise_rate: Float[Tensor, " dim"]
    refusal: str | None = None

    @property
    def basis(self) -> PathwiseBasis:
        """Of the draws."""
        basis = self.field.basis
        if not isinstance(basis, PathwiseBasis):
            raise TypeError(f"field: expected a field of pathwise draws, got {type(basis)}")
        if self.refusal is not None:
            raise ValueError(self.refusal)
        return basis

    def sample(self, num: int, generator: torch.Generator) -> JointDraws:
        """Draws of theta and the noise; there are no trajectories."""
        gaussian, basis = self.gaussian, self.basis
        waves = basis.waves
        w = normal((num, waves.num_weights), self.theta, generator) * waves.prior_variance.sqrt()
        rho = normal((num, len(gaussian.anchor)), self.theta, generator)
        rho = rho * gaussian.friction_variance.sqrt()
        white = normal((num, len(gaussian.alpha)), self.theta, generator)
        change = w @ self._wave_rows.mT + rho @ gaussian.lever.mT + white * self._deviation
        alpha = gaussian.alpha - gaussian.solve(change.mT).mT
        rho = rho + (alpha @ gaussian.lever) * gaussian.friction_variance
        if self._num_damping:
            uniform = torch.rand(num, generator=generator, dtype=torch.float64).to(rho)
            mode, variance = gaussian.rho[-1], gaussian.friction_covariance[-1, -1]
            step = truncated_quantile(mode, variance.sqrt(), uniform) - rho[:, -1]
            alpha = alpha + torch.outer(step / variance, gaussian.tilt[:, -1])
            rho = (rho + step.unsqueeze(-1)).clamp(min=0.0)
        theta = torch.cat([w, gaussian.vectors(alpha).flatten(-2), rho], -1)
        noise = inverse_gamma_draws(
            self.noise_shape, self.noise_rate, self.noise_group, num, generator
        )
        return JointDraws(theta, noise, None)

    @property
    def _num_damping(self) -> int:
        return len(self.gaussian.anchor)

    @property
    def _wave_rows(self) -> Float[Tensor, "observations weights"]:
        """``A grad phi`` at the data."""
        gaussian = self.gaussian
        gradients = self.basis.waves.feature_gradient(gaussian.centers)
        return (gaussian.structure @ gradients)[gaussian.observed]

    @property
    def _deviation(self) -> Float[Tensor, " observations"]:
        """Noise of each observation."""
        gaussian = self.gaussian
        return gaussian.noise_std.expand(gaussian.observed.shape)[gaussian.observed]

    def _cut(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean of alpha and of rho after the cut, and the variance of rho left by it."""
        gaussian = self.gaussian
        if not self._num_damping:
            return gaussian.alpha, gaussian.rho, gaussian.rho.sum()
        mode, variance = gaussian.rho[-1], gaussian.friction_covariance[-1, -1]
        mean, left = truncated_moments(mode, variance.sqrt())
        alpha = gaussian.alpha + gaussian.tilt[:, -1] * (mean - mode) / variance
        return alpha, mean.reshape(1), left

    def moments(self) -> tuple[Float[Tensor, " params"], Float[Tensor, "params root"]]:
        """Mean of the draws' theta and a root of its covariance, the truncation included."""
        gaussian, basis = self.gaussian, self.basis
        alpha, rho, left = self._cut()
        stddev = basis.waves.prior_variance.sqrt()
        spread = gaussian.friction_variance.sqrt()
        causes = [self._wave_rows * stddev, gaussian.lever * spread, torch.diag(self._deviation)]
        moved = -gaussian.solve(torch.cat(causes, -1))
        w = torch.zeros(len(stddev), moved.shape[1]).to(moved)
        w[:, : len(stddev)] = torch.diag(stddev)
        friction = gaussian.friction_variance.unsqueeze(-1) * (gaussian.lever.mT @ moved)
        friction[:, len(stddev) : len(stddev) + len(rho)] += torch.diag(spread)
        u = gaussian.vectors(moved.mT).flatten(-2).mT
        root = torch.cat([w, u, friction])
        if self._num_damping:
            # As in ``sample``: rho is replaced by an independent one, and H follows.
            along = gaussian.vectors(gaussian.tilt[:, -1] / gaussian.friction_covariance[-1, -1])
            one = torch.ones_like(rho)
            direction = torch.cat([torch.zeros_like(stddev), along.flatten(), one])
            rest = root - torch.outer(direction, root[-1])
            root = torch.cat([rest, (left.sqrt() * direction).unsqueeze(-1)], -1)
        mean = torch.cat([torch.zeros_like(stddev), gaussian.vectors(alpha).flatten(), rho])
        return mean, root

    def field_moments(
        self, z: Float[Tensor, "batch dim"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
        """Mean and variance of the scaled field."""
        means, variances = [], []
        for part in z.split(self.gaussian.at_once):
            loading = self.gaussian.gradient_loading(part)
            white = self._whiten(loading)
            prior = self.gaussian.kernel.hessian_at(part)
            cov = prior - torch.einsum("nbd,nbe->bde", white, white)
            tangent = self._tangent(part, loading)
            variance = (tangent.onto @ cov @ tangent.onto.mT).diagonal(dim1=-2, dim2=-1)
            along, own = tangent.along, tangent.own
            variance = variance - tangent.taken * along**2
            variance = variance + 2.0 * tangent.ratio * along * own + tangent.left * own**2
            means.append(tangent.mean)
            variances.append(variance)
        return torch.cat(means), torch.cat(variances).clamp(min=0.0)

    def joint_moments(
        self, z: Float[Tensor, "batch dim"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "all all"]]:
        """Mean (B, D) and covariance (B D, B D) of the scaled field at all states together."""
        loading = self.gaussian.gradient_loading(z)
        white = self._whiten(loading)
        prior = self.gaussian.kernel.hessian(z, z)
        cov = prior - torch.einsum("nbd,nce->bcde", white, white)
        tangent = self._tangent(z, loading)
        moved = tangent.onto @ cov @ tangent.onto.mT
        whole = moved.transpose(1, 2).flatten(0, 1).flatten(1, 2)
        along, own = tangent.along.flatten(), tangent.own.flatten()
        mixed = torch.outer(along, own)
        whole = whole - tangent.taken * torch.outer(along, along)
        whole = whole + tangent.ratio * (mixed + mixed.mT) + tangent.left * torch.outer(own, own)
        return tangent.mean, 0.5 * (whole + whole.mT)

    def _tangent(
        self, z: Float[Tensor, "batch dim"], loading: Float[Tensor, "observations batch dim"]
    ) -> _Tangent:
        gaussian = self.gaussian
        alpha, rho, left = self._cut()
        slope = gaussian.kernel.expansion(gaussian.centers, gaussian.vectors(alpha)).gradient(z)
        onto = self.field.structure(rho)
        mean = slope @ onto.mT
        none = torch.zeros_like(mean)
        if not self._num_damping:
            return _Tangent(mean, onto, none, none, left, left, left)
        before = gaussian.friction_covariance[-1, -1]
        along = torch.einsum("nbd,n->bd", loading, gaussian.tilt[:, -1]) @ onto.mT
        own = -self.field.dissipation.parameter_jacobian(z, slope, rho)[..., -1]
        ratio = left / before
        return _Tangent(mean, onto, along, own, left, ratio, (1.0 - ratio) / before)

    def _whiten(self, loading: Tensor) -> Tensor:
        flat = torch.linalg.solve_triangular(self.gaussian.factor, loading.flatten(1), upper=False)
        return flat.reshape(loading.shape)

    def energy_moments(
        self, z: Float[Tensor, "batch dim"], reference: Float[Tensor, " dim"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Mean and variance of the scaled ``H(z) - H(reference)``."""
        gaussian = self.gaussian
        kernel, anchor = gaussian.kernel, reference.unsqueeze(0)
        alpha, _, left = self._cut()
        mean = kernel.expansion(gaussian.centers, gaussian.vectors(alpha))
        base = mean.value(anchor)
        own = gaussian.energy_loading(anchor)
        means, variances = [], []
        for part in z.split(gaussian.at_once):
            means.append(mean.value(part) - base)
            loading = gaussian.energy_loading(part) - own
            prior = kernel.variance_at(part) + kernel.variance_at(anchor)
            prior = prior - 2.0 * kernel.value(part, anchor).squeeze(-1)
            variance = prior - self._whiten(loading).square().sum(0)
            if self._num_damping:
                before = gaussian.friction_covariance[-1, -1]
                cross = loading.mT @ gaussian.tilt[:, -1]
                variance = variance - (1.0 - left / before) / before * cross**2
            variances.append(variance)
        return torch.cat(means), torch.cat(variances).clamp(min=0.0)

    def noise_moments(self) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
        """Mean and variance of the noise standard deviations."""
        return inverse_gamma_moments(self.noise_shape, self.noise_rate)

    def damping_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of the friction after the cut, (K,) each."""
        _, rho, left = self._cut()
        return rho, left.expand(rho.shape)

    def first_states(self) -> tuple[Float[Tensor, "paths dim"], Float[Tensor, "paths dim"]]:
        """There are none.

        Raises:
            ValueError: always.
        """
        raise ValueError("this posterior was learned from derivatives: it has no trajectories")

    def with_states(self, states: WindowStates) -> Component:
        """The same field with the states of trajectories, given theta."""
        return replace(self, states=states)


@dataclass(frozen=True)
class _Tangent:
    """The field linearised about its mean: ``A grad H + (rho - mean) own``.

    Attributes:
        mean: (B, D).
        onto: ``A``, (D, D).
        along: ``A cov(grad H, rho)`` before the cut, (B, D).
        own: ``-R grad H``, (B, D).
        left: variance of rho after the cut.
        ratio: of that to the one before.
        taken: variance that the cut takes, per squared covariance with rho.
    """

    mean: Tensor
    onto: Tensor
    along: Tensor
    own: Tensor
    left: Tensor
    ratio: Tensor
    taken: Tensor


def exact_component(
    gaussian: ExactGaussian,
    noise: tuple[Tensor, Tensor, Tensor, Tensor],
    hyperparameters: dict[str, Tensor],
    seed: int = 0,
    num_waves: int = WAVES,
) -> ExactComponent:
    """Package a conditional Gaussian with the waves of its draws, where its kernel has them.

    Args:
        gaussian: H and rho given the data.
        noise: its standard deviations, the shape and rate of their posterior, and the groups.
        hyperparameters: by name.
        seed: of the waves.
        num_waves: how many.
    """
    try:
        waves = gaussian.kernel.spectrum(gaussian.centers.shape[1], num_waves, seed).basis()
        refusal = None
    except ValueError as error:
        none = gaussian.centers.new_zeros(0, gaussian.centers.shape[1])
        waves, refusal = FourierBasis(none, none[:, 0]), str(error)
    basis = PathwiseBasis(waves, gaussian.kernel, gaussian.centers)
    u = gaussian.vectors(gaussian.alpha).flatten()
    std, shape, rate, group = noise
    return ExactComponent(
        field=HamiltonianField(basis, gaussian.dissipation),
        theta=torch.cat([torch.zeros_like(waves.prior_variance), u, gaussian.rho]),
        noise_std=std,
        noise_group=group,
        noise_dof=None,
        hyperparameters=hyperparameters,
        states=None,
        gaussian=gaussian,
        noise_shape=shape,
        noise_rate=rate,
        refusal=refusal,
    )
