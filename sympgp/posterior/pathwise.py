"""Draws of an exact Gaussian process as functions: prior waves plus an update at the data.

A draw of H given data is a draw of the prior moved by the data (Matheron's rule),

    H(z) = H_0(z) + sum_j cov(H(z), grad H(z_j)) . u_j,

with H_0 from Fourier features and vectors u_j that depend on H_0. Both parts are linear in their
weights, so that such draws are a :class:`Basis` like any other.

Source: Wilson et al., *Efficiently sampling functions from Gaussian process posteriors*,
ICML 2020.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies import Basis, FourierBasis
from sympgp.energies.base import GradientMap
from sympgp.kernels import EnergyKernel, Expansion


class PathwiseBasis(Basis):
    """Features ``[phi(z), cov(H(z), grad H(z_1)), ..., cov(H(z), grad H(z_N))]``.

    Args:
        waves: Fourier features phi of the prior.
        kernel: covariance of H.
        centers: (N, D) states z_j of the data.
    """

    reducible = False

    def __init__(
        self, waves: FourierBasis, kernel: EnergyKernel, centers: Float[Tensor, "centers dim"]
    ) -> None:
        self.waves, self.kernel, self.centers = waves, kernel, centers
        self.num_weights = waves.num_weights + centers.numel()
        # The update's weights follow from the others: no prior of their own holds them.
        free = torch.full_like(centers, torch.inf).flatten()
        self.prior_variance = torch.cat([waves.prior_variance, free])

    def split(self, w: Float[Tensor, "*draws weights"]) -> tuple[Tensor, Tensor]:
        """Weights of the waves and vectors u (..., N, D)."""
        num = self.waves.num_weights
        return w[..., :num], w[..., num:].unflatten(-1, tuple(self.centers.shape))

    def features(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """``phi(z)`` and the covariances with the data's gradients."""
        flat = z.reshape(-1, z.shape[-1])
        update = self.kernel.gradient(flat, self.centers).flatten(-2)
        return torch.cat([self.waves.features(z), update.reshape(*z.shape[:-1], -1)], -1)

    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch dim weights"]:
        """Gradients of the features."""
        flat = z.reshape(-1, z.shape[-1])
        update = self.kernel.hessian(flat, self.centers).transpose(-3, -2).flatten(-2)
        return torch.cat([self.waves.feature_gradient(z), update.reshape(*z.shape, -1)], -1)

    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> PathwiseGradient:
        """Sines of the prior and matrix products with the data."""
        waves, u = self.split(w)
        update = self.kernel.expansion(self.centers, u)
        own = self.kernel.expansion(self.centers, u[:1]) if u.dim() > 2 else update
        return PathwiseGradient(self.waves.gradient_map(waves), update, own, None)

    def value(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """``H(z)``, without the features of the update one by one."""
        waves, u = self.split(w)
        if z.dim() == 1:
            return self.value(z.unsqueeze(0), w).squeeze(0)
        return self.waves.value(z, waves) + self.kernel.expansion(self.centers, u).value(z)

    def hessian(
        self, z: Float[Tensor, "batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "batch dim dim"]:
        """Second derivatives, those of the update by automatic differentiation."""
        waves, u = self.split(w)
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            slope = self.kernel.expansion(self.centers, u).gradient(leaf)
            rows = [
                torch.autograd.grad(slope[:, d].sum(), leaf, retain_graph=True)[0]
                for d in range(z.shape[1])
            ]
        return self.waves.hessian(z, waves) + torch.stack(rows, -2)


class PathwiseGradient(GradientMap):
    """``z -> K (waves(z) + sum_j cov(grad H(z), grad H(z_j)) u_j)``, draws on a leading axis."""

    def __init__(
        self,
        waves: GradientMap,
        update: Expansion,
        first: Expansion,
        matrix: Float[Tensor, "*draws dim dim"] | None,
    ) -> None:
        self.waves, self.update, self._first, self.matrix = waves, update, first, matrix

    def __call__(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Evaluate at (B, D) states, or (S, B, D) for S draws."""
        update = self.update.gradient(z)
        if self.matrix is not None:
            update = update @ self.matrix.mT
        return self.waves(z) + update

    def transformed(self, matrix: Float[Tensor, "*draws dim dim"]) -> PathwiseGradient:
        """Fold ``matrix`` into both parts."""
        whole = matrix if self.matrix is None else matrix @ self.matrix
        return PathwiseGradient(self.waves.transformed(matrix), self.update, self._first, whole)

    def first(self) -> PathwiseGradient:
        """The first of several draws alone, still with a draw axis."""
        matrix = self.matrix
        if matrix is not None and matrix.dim() > 2:
            matrix = matrix[:1]
        return PathwiseGradient(self.waves.first(), self._first, self._first, matrix)
