"""Exact Gaussian-process regression on (x, dx/dt) pairs as a GPyTorch model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpytorch import distributions
from gpytorch.likelihoods import MultitaskGaussianLikelihood
from gpytorch.means import MultitaskMean, ZeroMean
from gpytorch.models import ExactGP
from jaxtyping import Float
from torch import Tensor

from sympgp.kernels.symplectic import SymplecticKernel

if TYPE_CHECKING:
    from gpytorch.distributions import MultitaskMultivariateNormal
else:  # its bases cannot be checked at run time
    MultitaskMultivariateNormal = Any


class SymplecticGP(ExactGP):
    """``dx/dt = f(x) + noise`` with ``f ~ GP(0, SymplecticKernel)``, for GPyTorch's own training.

    Args:
        states: (N, 2n).
        derivatives: (N, 2n), none missing.
        kernel: covariance of f; add a ``QuadraticKernel`` to its base for a quadratic part of H.
        likelihood: noise of each channel; ``symplectic_likelihood(n)`` when None.

    Raises:
        ValueError: shapes that do not fit together.

    Example:
        >>> import gpytorch, torch
        >>> x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> rates = torch.stack([x[:, 1], -x[:, 0].sin()], -1)
        >>> kernel = SymplecticKernel(gpytorch.kernels.RBFKernel(), num_dof=1)
        >>> model = SymplecticGP(x, rates, kernel).double()
        >>> loss = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
        >>> loss(model(x), rates).shape
        torch.Size([])
        >>> model.eval()(x[:5]).mean.shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        states: Float[Tensor, "points dim"],
        derivatives: Float[Tensor, "points dim"],
        kernel: SymplecticKernel,
        likelihood: MultitaskGaussianLikelihood | None = None,
    ) -> None:
        dim = 2 * kernel.num_dof
        if states.shape != derivatives.shape or states.shape[-1] != dim:
            raise ValueError(
                f"states and derivatives: expected (N, {dim}) each, got {tuple(states.shape)} and "
                f"{tuple(derivatives.shape)}"
            )
        super().__init__(states, derivatives, likelihood or symplectic_likelihood(kernel.num_dof))
        self.mean_module = MultitaskMean(ZeroMean(), num_tasks=dim)
        self.covar_module = kernel

    def forward(self, x: Float[Tensor, "*batch points dim"]) -> MultitaskMultivariateNormal:
        """The prior of f at states x."""
        return distributions.MultitaskMultivariateNormal(self.mean_module(x), self.covar_module(x))


def symplectic_likelihood(num_dof: int) -> MultitaskGaussianLikelihood:
    """Gaussian noise with a level of its own for each of the 2n channels of dx/dt."""
    return MultitaskGaussianLikelihood(num_tasks=2 * num_dof, has_global_noise=False)
