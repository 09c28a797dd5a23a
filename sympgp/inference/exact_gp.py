"""The exact symplectic Gaussian process on pairs of states and derivatives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.cholesky import cholesky
from sympgp.dissipation import LinearDissipation
from sympgp.energies import Energy, Hyperparameters, LogNormal
from sympgp.inference.derivative_fit import DerivativeEngine
from sympgp.inference.pairs import Pairs, PreparedPairs
from sympgp.inference.regression import NoiseFit, Regression, Solution, gaussian_log_density
from sympgp.kernels import EnergyKernel, fourier_limit
from sympgp.models import HamiltonianModel
from sympgp.posterior.component import Component
from sympgp.posterior.exact import ExactGaussian, field_covariance, jitter, structure_of
from sympgp.posterior.exact_component import exact_component

if TYPE_CHECKING:
    from gpytorch.kernels import Kernel
else:
    Kernel = Any

SEARCHED = 800
"""Observations that the hyperparameters are sought from; all of them make the posterior."""


@dataclass(frozen=True)
class ExactGP(DerivativeEngine):
    """Gaussian-process regression of dx/dt with the kernel ``(J - R) grad grad' k (J - R)'``.

    H is a Gaussian process with the covariance that the model's features tend to, so there is no
    error of random features; lengthscales, scales and noise maximise the marginal likelihood under
    the package's log-normal hyperpriors, and their uncertainty is carried by a mixture. The cost
    grows with the cube of the number of derivatives: some thousands are the limit.

    Args:
        base_kernel: a GPyTorch kernel of H on scaled states (each coordinate's spread is near one)
            in place of the model's own, such as ``MaternKernel(nu=2.5, ard_num_dims=2)``. Of its
            parameters, lengthscales and output scales get the package's hyperpriors, others
            log-normal ones about their present values; ``LogNormalPrior``s of its own are kept. A
            scale is put around it if it has none.
        num_components: Gaussian processes in the mixture; one ignores hyperparameter uncertainty.

    Raises:
        ValueError: a number below one; a base kernel whose functions have no gradient.

    Example:
        >>> from sympgp import SSGP, ExactGP, StateDerivatives, fit
        >>> x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> pairs = StateDerivatives(x, torch.stack([x[:, 1], -x[:, 0].sin()], -1))
        >>> engine = ExactGP(num_components=1)
        >>> posterior = fit(SSGP(num_dof=1), pairs, inference=engine, progress=False)
        >>> posterior.sample(3)(x).shape
        torch.Size([3, 30, 2])
    """

    base_kernel: Kernel | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base_kernel is not None:
            from gpytorch.kernels import Kernel as Expected

            if not isinstance(self.base_kernel, Expected):
                raise ValueError(
                    f"base_kernel: expected a GPyTorch kernel, got {self.base_kernel!r}"
                )

    def regression(self, model: HamiltonianModel, prepared: PreparedPairs) -> Regression:
        """The exact kernel's."""
        dissipation = model.dissipation.scaled(prepared.scaling)
        if not isinstance(dissipation, LinearDissipation):
            raise ValueError(
                "inference: ExactGP() takes Conservative() or Friction(), got "
                f"{type(model.dissipation).__name__}; DerivativeRegression() takes others"
            )
        family: KernelFamily = EnergyFamily(model.energy)
        if self.base_kernel is not None:
            from sympgp.inference.base_kernels import BaseKernelFamily

            family = BaseKernelFamily.of(self.base_kernel, 2 * model.num_dof)
        return KernelRegression(family, dissipation)

    def searched(self, pairs: Pairs) -> Pairs:
        """A part of many data."""
        return pairs.thinned(SEARCHED)


class KernelFamily(ABC):
    """Covariances of H by their hyperparameters."""

    @abstractmethod
    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """Of the hyperparameters."""

    @abstractmethod
    def kernel(self, hyperparameters: Hyperparameters) -> EnergyKernel:
        """The covariance, differentiable in the hyperparameters."""


@dataclass(frozen=True)
class EnergyFamily(KernelFamily):
    """What the features of an energy tend to."""

    energy: Energy

    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """The energy's."""
        return self.energy.hyperpriors(spread)

    def kernel(self, hyperparameters: Hyperparameters) -> EnergyKernel:
        """The limit of its features."""
        return fourier_limit(self.energy, hyperparameters)


@dataclass(frozen=True)
class KernelRegression(Regression):
    """Regression under a kernel.

    Attributes:
        family: covariances of H.
        dissipation: scaled.
    """

    family: KernelFamily
    dissipation: LinearDissipation

    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """The family's."""
        return self.family.hyperpriors(spread)

    def redraw(self, seed: int) -> KernelRegression:
        """Itself: there are no features."""
        return self

    def evidence(
        self,
        pairs: Pairs,
        hyperparameters: Hyperparameters,
        rho: Float[Tensor, " k"],
        noise_std: Float[Tensor, " dim"],
    ) -> Float[Tensor, ""]:
        """``log N(y; 0, K + Sigma)``."""
        curvature = _curvature(self.family.kernel(hyperparameters), pairs)
        whole = field_covariance(curvature, structure_of(self.dissipation, rho))
        cov = whole[pairs.observed][:, pairs.observed]
        variance = noise_std[pairs.channel] ** 2 + jitter(cov)
        return centred_log_density(pairs.values, cov + torch.diag(variance))

    def solve(
        self,
        pairs: Pairs,
        hyperparameters: Hyperparameters,
        rho: Float[Tensor, " k"],
        noise_std: Float[Tensor, " dim"],
    ) -> KernelSolution:
        """Condition at this friction."""
        kernel = self.family.kernel(hyperparameters)
        curvature = _curvature(kernel, pairs)
        held = KernelSolution(pairs, curvature, kernel, self.dissipation, rho, None, noise_std)
        return held.refined(noise_std) if len(rho) else held


def centred_log_density(
    values: Float[Tensor, " n"], cov: Float[Tensor, "n n"]
) -> Float[Tensor, ""]:
    """``log N(values; 0, cov)``, once differentiable in the covariance.

    The gradient ``(cov^-1 y y' cov^-1 - cov^-1) / 2`` is written down, which costs a fraction of
    what differentiating the Cholesky factorisation does.
    """
    with torch.no_grad():
        factor = cholesky(cov, "the covariance of the derivatives")
        alpha = torch.cholesky_solve(values.unsqueeze(-1), factor).squeeze(-1)
        logdet = 2.0 * factor.diagonal().log().sum()
        density = gaussian_log_density(values @ alpha, logdet, len(values))
        slope = 0.5 * (torch.outer(alpha, alpha) - torch.cholesky_inverse(factor))
    moved = (slope * cov).sum()
    return density + (moved - moved.detach())


def _curvature(kernel: EnergyKernel, pairs: Pairs) -> Float[Tensor, "points dim points dim"]:
    return kernel.hessian(pairs.z, pairs.z).transpose(1, 2)


class KernelSolution(Solution):
    """The exact posterior of H, linear about a friction and a slope of H.

    Args:
        pairs: the data.
        curvature: ``cov(grad H, grad H)`` at their states.
        kernel: covariance of H.
        dissipation: scaled.
        anchor: (K,) friction to be linear about.
        slope: (N, D) ``grad H`` at the states there; the friction is held when None.
        noise_std: (D,).
    """

    def __init__(
        self,
        pairs: Pairs,
        curvature: Float[Tensor, "points dim points dim"],
        kernel: EnergyKernel,
        dissipation: LinearDissipation,
        anchor: Float[Tensor, " k"],
        slope: Float[Tensor, "points dim"] | None,
        noise_std: Float[Tensor, " dim"],
    ) -> None:
        self.pairs, self.curvature = pairs, curvature
        data = (pairs.z, pairs.rates, pairs.observed)
        self.gaussian = ExactGaussian.about(
            kernel, curvature, data, dissipation, anchor, slope, noise_std
        )
        channel = pairs.channel
        variance = self.gaussian.noise_std[channel] ** 2
        self.rho = self.gaussian.rho if slope is not None else anchor
        self.squares = pairs.per_channel((variance * self.gaussian.alpha) ** 2)
        eye = torch.eye(len(channel)).to(variance)
        inverse = torch.linalg.solve_triangular(self.gaussian.factor, eye, upper=False)
        self.degrees = pairs.per_channel(1.0 - variance * inverse.square().sum(0))

    def refined(self, noise_std: Float[Tensor, " dim"]) -> KernelSolution:
        """One Gauss-Newton step."""
        gaussian = self.gaussian
        slope = gaussian.slope(self.pairs.z) if len(self.rho) else None
        return KernelSolution(
            self.pairs,
            self.curvature,
            gaussian.kernel,
            gaussian.dissipation,
            self.rho,
            slope,
            noise_std,
        )

    def component(self, noise: NoiseFit, hyperparameters: Hyperparameters) -> Component:
        """The Gaussian process."""
        parts = (noise.std, noise.shape, noise.rate, noise.group)
        return exact_component(self.gaussian, parts, hyperparameters)
