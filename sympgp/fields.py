"""Vector fields in scaled units: ``f(z) = (J - R) grad H(z)`` and its derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.dissipation import ScaledDissipation
from sympgp.energies.base import Basis, GradientMap
from sympgp.phase_space import symplectic_matrix


@dataclass(frozen=True)
class BoundField:
    """A field with its parameters fixed: ``(t, z) -> dz/ds``, autonomous.

    One parameter vector takes states (B, D); S draws take (S, B, D), all in one batch.
    """

    gradient: GradientMap

    def __call__(self, t: float | Tensor, z: Float[Tensor, "*batch dim"]) -> Tensor:
        """Evaluate the field."""
        return self.gradient(z)

    def first(self) -> BoundField:
        """The first of several draws alone, still with a draw axis."""
        return BoundField(self.gradient.first())


@dataclass(frozen=True)
class HamiltonianField:
    """``f(z; theta) = (J - R(rho)) grad H(z; w)`` with ``theta = (w, rho)``, linear in ``w``.

    Its derivative with respect to ``w`` is the matrix of symplectic random Fourier features
    ``Psi(z) = (J - R) grad phi(z)`` when the basis is a Fourier one (Tanaka et al. 2022, eq. 13).
    """

    basis: Basis
    dissipation: ScaledDissipation

    @property
    def num_weights(self) -> int:
        """Number of weights P."""
        return self.basis.num_weights

    @property
    def num_parameters(self) -> int:
        """Number of weights and dissipation parameters, P + K."""
        return self.num_weights + self.dissipation.num_parameters

    def split(self, theta: Float[Tensor, "*draws params"]) -> tuple[Tensor, Tensor]:
        """Weights and dissipation parameters."""
        return theta[..., : self.num_weights], theta[..., self.num_weights :]

    def structure(self, rho: Float[Tensor, "*draws k"]) -> Float[Tensor, "*draws dim dim"]:
        """``J - R(rho)``."""
        damping = self.dissipation.matrix(rho)
        num_dof = damping.shape[-1] // 2
        return symplectic_matrix(num_dof, dtype=rho.dtype, device=rho.device) - damping

    def bind(self, theta: Float[Tensor, "*draws params"]) -> BoundField:
        """Fix the parameters; rows of ``theta`` are draws."""
        w, rho = self.split(theta)
        return BoundField(self.basis.gradient_map(w).transformed(self.structure(rho)))

    def jacobian(
        self, z: Float[Tensor, "batch dim"], theta: Float[Tensor, " params"]
    ) -> Float[Tensor, "batch dim dim"]:
        """``df/dz = (J - R) H''(z)``."""
        w, rho = self.split(theta)
        return self.structure(rho) @ self.basis.hessian(z, w)

    def features(
        self, z: Float[Tensor, "*batch dim"], rho: Float[Tensor, " k"]
    ) -> Float[Tensor, "*batch dim weights"]:
        """``Psi(z) = (J - R) grad phi(z)``, so that ``f(z) = Psi(z) w``."""
        return self.structure(rho) @ self.basis.feature_gradient(z)

    def parameter_jacobian(
        self, z: Float[Tensor, "*batch dim"], theta: Float[Tensor, " params"]
    ) -> Float[Tensor, "*batch dim params"]:
        """``df/dtheta``: ``[Psi(z), -R_1 grad H, ..., -R_K grad H]``."""
        w, rho = self.split(theta)
        gradients = self.basis.feature_gradient(z)
        psi = self.structure(rho) @ gradients
        if not self.dissipation.num_parameters:
            return psi
        slope = gradients @ w
        damping = -torch.einsum("kde,...e->...dk", self.dissipation.matrices, slope)
        return torch.cat([psi, damping], -1)

    def weighted_parameter_jacobian(
        self,
        z: Float[Tensor, "batch stages dim"],
        weights: Float[Tensor, "batch out stages dim"],
        theta: Float[Tensor, " params"],
    ) -> Float[Tensor, "batch out params"]:
        """``sum_s W_s df/dtheta(z_s)``, without the Jacobians of all stages at once."""
        w, rho = self.split(theta)
        slope = None
        if self.dissipation.num_parameters:
            slope = self.basis.gradient_map(w)(z.flatten(0, 1)).reshape(z.shape)
        return self.weighted_response(z, weights, rho, slope)

    def weighted_response(
        self,
        z: Float[Tensor, "batch stages dim"],
        weights: Float[Tensor, "batch out stages dim"],
        rho: Float[Tensor, " k"],
        slope: Float[Tensor, "batch stages dim"] | None,
    ) -> Float[Tensor, "batch out params"]:
        """As above, for friction ``rho`` and energy gradients ``slope`` known at the states."""
        psi = self.basis.weighted_gradient(z, weights @ self.structure(rho))
        if slope is None:
            return psi
        damping = -torch.einsum("bosd,kde,bse->bok", weights, self.dissipation.matrices, slope)
        return torch.cat([psi, damping], -1)

    def prior_precision(self) -> Float[Tensor, " params"]:
        """Inverse prior variances of weights and dissipation parameters."""
        stddev = self.dissipation.prior_stddev
        return torch.cat([1.0 / self.basis.prior_variance, 1.0 / stddev**2])

    def fixed(self, theta: Float[Tensor, " params"]) -> FixedField:
        """The field of one parameter vector, with nothing left to find."""
        return FixedField(self, theta)


@dataclass(frozen=True)
class FixedField:
    """A field whose parameters are known: a :class:`HamiltonianField` with none of its own.

    Attributes:
        family: the field.
        known: its parameters; those of the methods below are empty.
    """

    family: HamiltonianField
    known: Float[Tensor, " params"]

    @property
    def num_parameters(self) -> int:
        """Zero."""
        return 0

    def bind(self, theta: Float[Tensor, " none"]) -> BoundField:
        """The field itself."""
        return self.family.bind(self.known)

    def jacobian(
        self, z: Float[Tensor, "batch dim"], theta: Float[Tensor, " none"]
    ) -> Float[Tensor, "batch dim dim"]:
        """``df/dz``."""
        return self.family.jacobian(z, self.known)

    def weighted_parameter_jacobian(
        self,
        z: Float[Tensor, "batch stages dim"],
        weights: Float[Tensor, "batch out stages dim"],
        theta: Float[Tensor, " none"],
    ) -> Float[Tensor, "batch out none"]:
        """No columns."""
        return weights.new_zeros(*weights.shape[:2], 0)

    def prior_precision(self) -> Float[Tensor, " none"]:
        """No entries."""
        return self.known[:0]
