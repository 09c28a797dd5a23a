"""The exact Gaussian-process posterior of H given noisy ``(J - R) grad H`` at known states.

With friction the model is linearised about a fit (H_0, rho_0), as Gauss-Newton does:

    y = A grad H(Z) + g (rho - rho_0) + noise,    A = J - R(rho_0),  g_k = -R_k grad H_0(Z),

so that H and rho ~ N(0, S) are jointly Gaussian given y.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.cholesky import cholesky
from sympgp.dissipation import LinearDissipation
from sympgp.kernels import EnergyKernel
from sympgp.phase_space import symplectic_matrix

JITTER = 1e-10
"""Added to the noise variances, in units of the field's mean prior variance."""
NUMBERS_AT_ONCE = 4_000_000
"""Entries of one block of covariances held at a time."""


@dataclass(frozen=True, eq=False)
class ExactGaussian:
    """H and rho given the rates at the states Z.

    Attributes:
        kernel: covariance of H.
        centers: (N, D) states Z.
        observed: (N, D) which rates were measured; n in all.
        dissipation: scaled.
        anchor: (K,) rho_0.
        lever: (n, K) the columns g.
        factor: (n, n) Cholesky factor of the covariance C of the target ``y + g rho_0``.
        alpha: (n,) ``C^-1 (y + g rho_0)``.
        noise_std: (D,), jitter included.
    """

    kernel: EnergyKernel
    centers: Float[Tensor, "centers dim"]
    observed: Bool[Tensor, "centers dim"]
    dissipation: LinearDissipation
    anchor: Float[Tensor, " k"]
    lever: Float[Tensor, "observations k"]
    factor: Float[Tensor, "observations observations"]
    alpha: Float[Tensor, " observations"]
    noise_std: Float[Tensor, " dim"]

    @classmethod
    def about(
        cls,
        kernel: EnergyKernel,
        curvature: Float[Tensor, "centers dim centers dim"],
        data: tuple[Tensor, Tensor, Bool[Tensor, "centers dim"]],
        dissipation: LinearDissipation,
        anchor: Float[Tensor, " k"],
        slope: Float[Tensor, "centers dim"] | None,
        noise_std: Float[Tensor, " dim"],
    ) -> ExactGaussian:
        """Condition on rates.

        Args:
            kernel: covariance of H.
            curvature: ``cov(grad H(z_i), grad H(z_j))`` of the data's states, [i, :, j, :].
            data: states (N, D), rates (N, D) and which of them were measured.
            dissipation: scaled.
            anchor: rho_0.
            slope: ``grad H_0`` at the states; friction stays at rho_0 when None.
            noise_std: (D,).
        """
        centers, rates, observed = data
        structure = structure_of(dissipation, anchor)
        cov = field_covariance(curvature, structure)[observed][:, observed]
        lever = cov.new_zeros(len(cov), len(anchor))
        if slope is not None and len(anchor):
            lever = -torch.einsum("kde,ne->ndk", dissipation.matrices, slope)[observed]
        total = (noise_std**2 + jitter(cov)).sqrt()
        spread = lever * dissipation.prior_stddev
        diagonal = (total**2).expand(observed.shape)[observed]
        factor = cholesky(
            cov + spread @ spread.mT + torch.diag(diagonal), "the covariance of the derivatives"
        )
        target = rates[observed] + lever @ anchor
        alpha = torch.cholesky_solve(target.unsqueeze(-1), factor).squeeze(-1)
        return cls(kernel, centers, observed, dissipation, anchor, lever, factor, alpha, total)

    @property
    def structure(self) -> Float[Tensor, "dim dim"]:
        """``A = J - R(rho_0)``."""
        return structure_of(self.dissipation, self.anchor)

    @property
    def friction_variance(self) -> Float[Tensor, " k"]:
        """Prior variances of rho."""
        return self.dissipation.prior_stddev**2

    @property
    def rho(self) -> Float[Tensor, " k"]:
        """Mode of rho before the cut at zero."""
        return self.friction_variance * (self.lever.mT @ self.alpha)

    def solve(self, right: Float[Tensor, "observations columns"]) -> Tensor:
        """``C^-1 right``."""
        return torch.cholesky_solve(right, self.factor)

    @property
    def tilt(self) -> Float[Tensor, "observations k"]:
        """``beta`` with ``cov(H(z), rho) = cov(H(z), y) beta``."""
        return -self.solve(self.lever * self.friction_variance)

    @property
    def friction_covariance(self) -> Float[Tensor, "k k"]:
        """Posterior covariance of rho before the cut."""
        spread = self.lever * self.friction_variance
        return torch.diag(self.friction_variance) + spread.mT @ self.tilt

    def vectors(self, alpha: Float[Tensor, "*draws observations"]) -> Float[Tensor, "*draws n d"]:
        """``u = A' alpha`` at every state, zero for what was not measured."""
        whole = alpha.new_zeros(*alpha.shape[:-1], *self.observed.shape)
        whole[..., self.observed] = alpha
        return whole @ self.structure

    def slope(self, z: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Posterior mean of ``grad H`` before the cut."""
        return self.kernel.expansion(self.centers, self.vectors(self.alpha)).gradient(z)

    def gradient_loading(
        self, z: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "observations batch dim"]:
        """``cov(y, grad H(z))``."""
        cross = self.kernel.hessian(z, self.centers) @ self.structure.mT
        return cross.permute(1, 3, 0, 2)[self._rows]

    def energy_loading(self, z: Float[Tensor, "batch dim"]) -> Float[Tensor, "observations batch"]:
        """``cov(y, H(z))``."""
        cross = self.kernel.gradient(z, self.centers) @ self.structure.mT
        return cross.permute(1, 2, 0)[self._rows]

    @property
    def _rows(self) -> tuple[Tensor, Tensor]:
        found = self.observed.nonzero()
        return found[:, 0], found[:, 1]

    @property
    def at_once(self) -> int:
        """States whose covariances with the data are held at a time."""
        return max(1, NUMBERS_AT_ONCE // (self.centers.numel() * self.centers.shape[1]))


def jitter(cov: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """What keeps a covariance of the field positive definite in spite of rounding."""
    return JITTER * cov.diagonal().mean()


def structure_of(
    dissipation: LinearDissipation, rho: Float[Tensor, " k"]
) -> Float[Tensor, "dim dim"]:
    """``J - R(rho)``."""
    damping = dissipation.matrix(rho)
    return symplectic_matrix(len(damping) // 2, dtype=rho.dtype, device=rho.device) - damping


def field_covariance(
    curvature: Float[Tensor, "rows dim columns dim"], structure: Float[Tensor, "dim dim"]
) -> Float[Tensor, "rows dim columns dim"]:
    """``A cov(grad H, grad H) A'``, pair by pair."""
    blocks = structure @ curvature.transpose(1, 2) @ structure.mT
    return blocks.transpose(1, 2)
