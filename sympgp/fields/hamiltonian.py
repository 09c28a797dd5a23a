"""Families of Hamiltonian vector fields and their derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.dissipation import undamped
from sympgp.energies import Context
from sympgp.energies.base import Basis, LocalDerivatives
from sympgp.fields.bound import BoundField
from sympgp.fields.fixed import FixedField
from sympgp.fields.layout import FieldLayout
from sympgp.fields.linearized import LinearizedField
from sympgp.fields.precision import WideField, converted, in_own_dtype
from sympgp.phase_space import symplectic_matrix


@dataclass(frozen=True)
class HamiltonianField(FieldLayout):
    """``f = J grad H(z; w) - d(z, grad H; rho) + G(z; gamma) u`` with ``theta = (w, gamma, rho)``.

    Where H is linear in ``w`` and ``d = R g``, the derivative with respect to ``w`` is the matrix
    ``Psi(z) = (J - R) grad phi(z)``: of symplectic random Fourier features when the basis is a
    Fourier one (Tanaka et al. 2022, eq. 13).

    A field computes in its own ``dtype`` and answers in that of what it is asked at: a search in
    float64 may have its features in float32.
    """

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type that the field is computed in."""
        return self.basis.prior_variance.dtype

    def to(self, dtype: torch.dtype) -> HamiltonianField:
        """The same field computed in another type; formulas in user units stay as they are."""
        if dtype == self.dtype or not self.basis.reducible:
            return self
        return self._beside(converted(self.basis, dtype))

    def _beside(self, basis: Basis) -> HamiltonianField:
        """Another basis with all else in its type."""
        dtype = basis.prior_variance.dtype
        parts = converted(self.dissipation, dtype), converted(self.driven, dtype)
        return HamiltonianField(basis, *parts)

    def symplectic(self, like: Tensor) -> Float[Tensor, "dim dim"]:
        """``J``, in the type and on the device of another tensor."""
        return symplectic_matrix(self.dissipation.dim // 2, dtype=like.dtype, device=like.device)

    @property
    def linear(self) -> bool:
        """Whether the field is linear in the weights, and in the dissipation about any of them."""
        return self.basis.linear and self.dissipation.constant and self.driven is None

    def undamped(self) -> HamiltonianField:
        """The same with nothing dissipated, whatever the parameters.

        Raises:
            TypeError: what is dissipated is learned with the rest of the field.
        """
        if not self.basis.lossless:
            raise TypeError(
                "without_dissipation: this field has no part of its own for what is dissipated, "
                "which is learned with the rest"
            )
        return HamiltonianField(self.basis, undamped(self.dissipation), self.driven)

    def with_basis(self, basis: Basis) -> HamiltonianField:
        """The same field with another basis of the energy."""
        return self._beside(converted(basis, self.dtype) if basis.reducible else basis)

    @property
    def compiles(self) -> bool:
        """Whether :meth:`compiled` changes anything."""
        return self.basis.compiled() is not self.basis

    def compiled(self) -> HamiltonianField:
        """The same field with derivatives at many states compiled, where they can be."""
        return self.with_basis(self.basis.compiled())

    def about(self, theta: Float[Tensor, " params"]) -> HamiltonianField:
        """What a Gaussian over the parameters about ``theta`` is a posterior of."""
        return self.with_basis(self.basis.about(self.parts(theta)[0]))

    @in_own_dtype
    def slopes(
        self, points: Float[Tensor, "batch stages width"], w: Float[Tensor, " energy"]
    ) -> Float[Tensor, "batch stages dim"]:
        """``grad H`` at the points."""
        at = self.energy_points(points)
        return self.basis.gradient_map(w)(at.flatten(0, 1)).unflatten(0, points.shape[:2])

    def structure(self, rho: Float[Tensor, "*draws k"]) -> Float[Tensor, "*draws dim dim"]:
        """``J - R(rho)`` of a dissipation that is the same at all states."""
        return self.symplectic(rho) - self.dissipation.matrix(rho)

    def turn(self, z: Tensor, slope: Tensor | None, rho: Tensor) -> Float[Tensor, "*batch dim dim"]:
        """``df/dg = J - dd/dg``: (D, D), or a matrix a state; of several draws on their axis."""
        if self.dissipation.constant:
            turn = self.structure(rho)
            return turn.unsqueeze(-3) if rho.dim() > 1 else turn
        if slope is None:
            raise ValueError("slope: this dissipation needs grad H")
        return self.symplectic(z) - self.dissipation.slope_jacobian(z, slope, rho)

    def bind(self, theta: Float[Tensor, "*draws params"]) -> BoundField:
        """Fix the parameters; rows of ``theta`` are draws."""
        return BoundField(self, theta) if theta.dtype == self.dtype else WideField(self, theta)

    @in_own_dtype
    def jacobian(
        self, points: Float[Tensor, "batch width"], theta: Float[Tensor, " params"]
    ) -> Float[Tensor, "batch dim dim"]:
        """``df/dz = (J - dd/dg) H'' - dd/dz + d(G u)/dz``."""
        z, u = self.split_points(points)
        w, gamma, rho = self.parts(theta)
        at = self.energy_points(points)
        slope = None if self.dissipation.constant else self.basis.gradient_map(w)(at)
        whole = self.turn(z, slope, rho) @ self.basis.hessian(at, w)
        return self.with_state_terms(whole, z, u, slope, gamma, rho)

    def with_state_terms(
        self,
        whole: Tensor,
        z: Tensor,
        u: Tensor | None,
        slope: Tensor | None,
        gamma: Tensor,
        rho: Tensor,
    ) -> Tensor:
        """Add what dissipation and inputs change with the state beside the slope."""
        if not self.dissipation.constant and slope is not None:
            whole = whole - self.dissipation.state_jacobian(z, slope, rho)
        if u is not None:
            own = self.inputs.state_jacobian(z, u, gamma)
            whole = whole if own is None else whole + own
        return whole

    def linearized(
        self, points: Float[Tensor, "draws batch width"], theta: Float[Tensor, "draws params"]
    ) -> LinearizedField:
        """Derivatives of the fields of several draws, each at its own points."""
        wanted, points, theta = points.dtype, points.to(self.dtype), theta.to(self.dtype)
        z, u = self.split_points(points)
        w, gamma, rho = self.parts(theta)
        known = self.basis.linearized(self.energy_points(points), w)
        turn = self.turn(z, known.slope, rho)
        whole = self.with_state_terms(turn @ known.hessian, z, u, known.slope, gamma, rho)
        return LinearizedField(self, z, u, rho, known, turn, whole.to(wanted))

    @in_own_dtype
    def features(
        self, z: Float[Tensor, "*batch dim"], rho: Float[Tensor, " k"]
    ) -> Float[Tensor, "*batch dim weights"]:
        """``Psi(z) = (J - R) grad phi(z)``, so that ``f(z) = Psi(z) w``."""
        return self.structure(rho) @ self.basis.feature_gradient(z)

    @in_own_dtype
    def parameter_jacobian(
        self, points: Float[Tensor, "*batch width"], theta: Float[Tensor, " params"]
    ) -> Float[Tensor, "*batch dim params"]:
        """``df/dtheta = [(J - dd/dg) d(grad H)/dw, d(G u)/dgamma, -dd/drho]``."""
        z, u = self.split_points(points)
        w, _, rho = self.parts(theta)
        at = self.energy_points(points)
        gradients = self.basis.feature_gradient(at, w)
        slope = None
        if self.dissipation.num_parameters:
            known = gradients @ w if self.basis.linear else None
            flat = at.reshape(-1, at.shape[-1])
            slope = self.basis.gradient_map(w)(flat).reshape(z.shape) if known is None else known
        blocks = [self.turn(z, slope, rho) @ gradients]
        if u is not None:
            blocks.append(self.inputs.parameter_jacobian(z, u))
        if slope is not None:
            blocks.append(-self.dissipation.parameter_jacobian(z, slope, rho))
        return torch.cat(blocks, -1) if len(blocks) > 1 else blocks[0]

    @in_own_dtype
    def weighted_parameter_jacobian(
        self,
        points: Float[Tensor, "batch stages width"],
        weights: Float[Tensor, "batch out stages dim"],
        theta: Float[Tensor, " params"],
    ) -> Float[Tensor, "batch out params"]:
        """``sum_s W_s df/dtheta(z_s)``, without the Jacobians of all stages at once."""
        slope, (w, _, rho) = None, self.parts(theta)
        if self.dissipation.num_parameters:
            slope = self.slopes(points, w)
        return self.weighted_response(points, weights, w, rho, slope)

    @in_own_dtype
    def weighted_response(
        self,
        points: Float[Tensor, "batch stages width"],
        weights: Float[Tensor, "batch out stages dim"],
        w: Float[Tensor, " energy"],
        rho: Float[Tensor, " k"],
        slope: Float[Tensor, "batch stages dim"] | None,
        known: Sequence[LocalDerivatives] = (),
    ) -> Float[Tensor, "batch out all"]:
        """As above, for energy gradients ``slope`` that are known at the states.

        Weights ``w`` matter to energies that are not linear in them only; ``known`` are the
        energy's derivatives at each stage, where they are at hand.
        """
        z, u = self.split_points(points)
        turn = self.turn(z, slope, rho)
        if self.dissipation.constant:
            onto = weights @ turn
        else:
            onto = (weights.unsqueeze(-2) @ turn.unsqueeze(1)).squeeze(-2)
        at = self.energy_points(points)
        own = None if self.basis.linear else w
        if known:
            blocks = [self.basis.gathered_gradient(known, at, onto, own)]
        else:
            blocks = [self.basis.weighted_gradient(at, onto, own)]
        if u is not None:
            own = self.inputs.parameter_jacobian(z, u)
            blocks.append(torch.einsum("bosd,bsdk->bok", weights, own))
        if slope is not None:
            own = self.dissipation.parameter_jacobian(z, slope, rho)
            blocks.append(-torch.einsum("bosd,bsdk->bok", weights, own))
        return torch.cat(blocks, -1) if len(blocks) > 1 else blocks[0]

    @in_own_dtype
    def remainder(
        self, points: Float[Tensor, "batch width"], theta: Float[Tensor, " params"]
    ) -> Float[Tensor, "batch dim"] | None:
        """``f - (df/dtheta) theta``: what a model linear about theta adds; None if nothing.

        ``(J - dd/dg) r + (dd/dg) g - d + (dd/drho) rho + G_known u``, where ``r`` is the
        remainder of the energy's gradient.
        """
        if self.linear and not self.dissipation.num_parameters:
            return None
        z, u = self.split_points(points)
        w, _, rho = self.parts(theta)
        at = self.energy_points(points)
        slope = self.basis.gradient_map(w)(at)
        own = self.basis.remainder(at, w)
        total = torch.zeros_like(z)
        if own is not None:
            total = (self.turn(z, slope, rho) @ own.unsqueeze(-1)).squeeze(-1)
        if self.dissipation.num_parameters:
            total = total + self.dissipation.parameter_jacobian(z, slope, rho) @ rho
        if not self.dissipation.constant:
            onto = self.dissipation.slope_jacobian(z, slope, rho) @ slope.unsqueeze(-1)
            total = total + onto.squeeze(-1) - self.dissipation.force(z, slope, rho)
        if u is not None:
            total = total + u @ self.inputs.known.mT
        return total

    def prior_precision(self) -> Float[Tensor, " params"]:
        """Inverse prior variances of weights and dissipation parameters."""
        return 1.0 / torch.cat([self.weight_variance, self.dissipation.prior_stddev**2])

    @property
    def weight_variance(self) -> Float[Tensor, " weights"]:
        """Prior variances of the weights, those of the inputs last."""
        if self.driven is None:
            return self.basis.prior_variance
        return torch.cat([self.basis.prior_variance, self.driven.prior_variance])

    def fixed(self, theta: Float[Tensor, " params"], free: Tensor | None = None) -> FixedField:
        """The field of one parameter vector, with a few entries, or nothing, left to find."""
        return FixedField.of(self, theta, free)

    def joined_by(self, context: Context) -> tuple[HamiltonianField, Int[Tensor, " params"]]:
        """For trajectories that join, and where each parameter stands there, see ``Basis``."""
        basis, places = self.basis.joined_by(context)
        rest = torch.arange(self.num_parameters - self.basis.num_weights, device=places.device)
        return self.with_basis(basis), torch.cat([places, basis.num_weights + rest])
