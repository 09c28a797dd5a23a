"""The Gaussian posterior of a network made linear about trained weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.energies import Energy, Hyperparameters, TangentBasis
from sympgp.energies.base import Basis
from sympgp.fields import HamiltonianField
from sympgp.inference.evidence import optimise_hyperparameters
from sympgp.inference.networks.density import Density
from sympgp.inference.networks.linear_gaussian import LinearGaussian
from sympgp.inference.networks.linearisation import (
    Point,
    improved,
    linear_about,
    with_field,
    with_noise,
)
from sympgp.posterior.inverse_gamma import inverse_gamma_draws
from sympgp.posterior.truncated import truncated_quantile

ROUNDS = 3
"""Of weights, noise and scales, one after another; each is nearly right after two."""
EVIDENCE_ROWS = 1500
"""Rows of the linear model that the evidence of scales is taken of."""
PROBES, MOVED = 5, 1.1
"""States at which functions are compared, and the factor of a scale that must not change them."""


@dataclass(frozen=True)
class TangentFit:
    """A linear model with its Gaussian posterior's mode.

    Attributes:
        density: of the data, with the tangent field.
        at: the mode; its noise is that of the mode.
        noise_shape: (D,) of the inverse-gamma posterior of the noise variance.
        hyperparameters: scales of the priors.
    """

    density: Density
    at: Point
    noise_shape: Float[Tensor, " dim"]
    hyperparameters: Hyperparameters

    @classmethod
    def of(
        cls,
        density: Density,
        at: Point,
        chosen: Int[Tensor, " weights"],
        energy: Energy,
        spread: Float[Tensor, " dim"],
        hyperparameters: Hyperparameters,
        learn: bool,
    ) -> TangentFit:
        """Linearise trained weights, then find mode, noise and scales of the linear model.

        Args:
            density: of the data.
            at: trained unknowns.
            chosen: weights of the energy that vary.
            energy: to which the scales belong, in scaled units.
            spread: of the data's channels, for the hyperpriors.
            hyperparameters: scales to begin with.
            learn: find the scales by the evidence of the linear model.
        """
        fit = _start(density, at, chosen, hyperparameters)
        learn = learn and scales_alone(energy, hyperparameters, at.theta)
        for _ in range(ROUNDS):
            fit = fit.settled()
            if learn:
                fit = fit.with_scales(energy, spread)
        return fit.settled()

    def settled(self) -> TangentFit:
        """With the mode at the present noise and scales, and the noise of its residuals."""
        at, shape = with_noise(self.density, improved(self.density, self.at))
        return replace(self, at=at, noise_shape=shape)

    def with_scales(self, energy: Energy, spread: Float[Tensor, " dim"]) -> TangentFit:
        """With the scales of largest evidence about the present mode."""
        linear = linear_about(self.density, self.at).thinned(EVIDENCE_ROWS)
        field = self.density.field

        def evidence(basis: Basis) -> Tensor:
            return linear.log_evidence(variances(field.with_basis(_like(field.basis, basis))))

        priors = energy.hyperpriors(spread)
        found = optimise_hyperparameters(evidence, energy, priors, self.hyperparameters)
        hyper = found.hyperparameters(found.mean)
        basis = _like(field.basis, energy.basis(hyper))
        density = with_field(self.density, field.with_basis(basis))
        return replace(self, density=density, hyperparameters=hyper)

    def linear(self) -> LinearGaussian:
        """The linear model about the mode."""
        return linear_about(self.density, self.at)

    def sample(self, num: int, generator: torch.Generator) -> Float[Tensor, "draws params"]:
        """Draws of theta.

        Friction that may not be negative is cut at zero, and takes along what it goes with.
        """
        linear = self.linear()
        theta = linear.sample(num, generator)
        if not self.density.field.dissipation.truncated:
            return theta
        mean, column = linear.mean()[-1], linear.covariance(len(self.at.theta) - 1)
        uniform = torch.rand(num, generator=generator, dtype=torch.float64).to(theta)
        cut = truncated_quantile(mean, column[-1].sqrt(), uniform)
        return theta + (cut - theta[:, -1]).unsqueeze(1) * column / column[-1]

    def drawn_noise(self, num: int, generator: torch.Generator) -> Float[Tensor, "draws dim"]:
        """Draws of the noise's inverse-gamma posterior, whose mode is that of the fit."""
        shape, noise = self.noise_shape, self.density.noise
        rate = torch.where(shape.isinf(), 1.0, shape + 1.0) * self.at.noise_std**2
        return inverse_gamma_draws(shape, rate, noise.group, num, generator)

    def states(
        self, theta: Float[Tensor, "draws params"]
    ) -> Float[Tensor, "draws windows dim"] | None:
        """The most probable window states given each draw; None for pairs."""
        if self.at.start is None:
            return None
        return self.at.start + self.linear().states(theta).unflatten(1, self.at.start.shape)


def _start(
    density: Density, at: Point, chosen: Int[Tensor, " weights"], hyper: Hyperparameters
) -> TangentFit:
    field = density.field
    basis, num = field.basis, field.basis.num_weights
    if not basis.linear:
        basis = TangentBasis(basis, at.theta[:num], chosen)
        at = at._replace(theta=torch.cat([at.theta[chosen], at.theta[num:]]))
    density = with_field(density, field.with_basis(basis))
    return TangentFit(density, at, torch.zeros_like(at.noise_std), hyper)


def _like(own: Basis, basis: Basis) -> Basis:
    """The basis with other prior variances, linear as the present one is."""
    return replace(own, basis=basis) if isinstance(own, TangentBasis) else basis


def variances(field: HamiltonianField) -> Float[Tensor, " params"]:
    """Prior variances of all parameters."""
    return torch.cat([field.weight_variance, field.dissipation.prior_stddev**2]).double()


def scales_alone(energy: Energy, hyper: Hyperparameters, theta: Float[Tensor, " params"]) -> bool:
    """Whether hyperparameters act on prior variances alone, and functions of weights stay."""
    generator = torch.Generator().manual_seed(0)
    size = (PROBES, 2 * energy.num_dof)
    z = torch.randn(size, generator=generator, dtype=torch.float64).to(theta)
    first, second = energy.basis(hyper), energy.basis({k: MOVED * v for k, v in hyper.items()})
    w = theta[: first.num_weights]
    one, other = first.gradient_map(w)(z), second.gradient_map(w)(z)
    return bool(hyper) and bool(torch.equal(one, other))
