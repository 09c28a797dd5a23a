"""Priors stated in fixed units, whatever scaling an engine chooses from the data.

The package states its priors in units that are found from the data. A joint distribution of
parameters and data to simulate from needs them fixed beforehand: here an energy and a friction of
fixed units are put into the units of a scaling, weight by weight the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.dissipation import Friction, LinearDissipation
from sympgp.energies import Energy
from sympgp.energies.base import Basis, GradientMap, Hyperparameters, Linearized, LogNormal
from sympgp.phase_space import CanonicalScaling


@dataclass(frozen=True, eq=False)
class FixedEnergy(Energy):
    """An energy whose prior holds in user units, seen in the units of one scaling.

    With ``x = center + S z`` and ``H~(z) = H(x) time_scale / kappa`` the weights of both are the
    same. The features are not redrawn: they belong to the prior.

    Attributes:
        energy: with its weights' prior in user units.
        priors: of its hyperparameters, in user units.
        scaling: that the engine is going to find.
    """

    energy: Energy
    priors: dict[str, LogNormal]
    scaling: CanonicalScaling

    @property
    def num_dof(self) -> int:  # type: ignore[override]
        """Degrees of freedom n."""
        return self.energy.num_dof

    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """Those given, whatever the data."""
        return self.priors

    def basis(self, hyperparameters: Hyperparameters) -> FixedBasis:
        """The energy's own, seen in scaled units."""
        return FixedBasis(self.energy.basis(hyperparameters), self.scaling)

    def redraw(self, seed: int) -> FixedEnergy:
        """Itself."""
        return self


class FixedBasis(Basis):
    """``phi~(z) = unit phi(center + S z)`` with ``unit = time_scale / kappa``."""

    def __init__(self, basis: Basis, scaling: CanonicalScaling) -> None:
        self.basis, self.scaling = basis, scaling
        self.num_weights, self.prior_variance = basis.num_weights, basis.prior_variance
        self.unit = 1.0 / scaling.energy_scale
        self.slope_unit = self.unit * scaling.scale

    def features(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """``unit phi(x)``."""
        return self.unit * self.basis.features(self.scaling.to_user(z))

    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch dim weights"]:
        """``unit S d phi(x) / dx``."""
        gradient = self.basis.feature_gradient(self.scaling.to_user(z))
        return self.slope_unit.unsqueeze(-1) * gradient

    def weighted_gradient(
        self,
        z: Float[Tensor, "batch stages dim"],
        weights: Float[Tensor, "batch out stages dim"],
        w: Float[Tensor, " weights"] | None = None,
    ) -> Float[Tensor, "batch out weights"]:
        """``sum_s W_s d phi~(z_s) / dz``."""
        return self.basis.weighted_gradient(self.scaling.to_user(z), weights * self.slope_unit)

    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> FixedGradient:
        """``z -> unit S grad H(x)``."""
        scaled = self.basis.gradient_map(w).transformed(torch.diag(self.slope_unit))
        return FixedGradient(scaled, self.scaling)

    def hessian(
        self, z: Float[Tensor, "batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "batch dim dim"]:
        """``unit S H''(x) S``."""
        inner = self.basis.hessian(self.scaling.to_user(z), w)
        return self.slope_unit.unsqueeze(-1) * inner * self.scaling.scale

    def linearized(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> Linearized:
        """Of the energy itself, scaled."""
        inner = self.basis.linearized(self.scaling.to_user(z), w)
        return Linearized(
            inner.slope * self.slope_unit,
            self.slope_unit.unsqueeze(-1) * inner.hessian * self.scaling.scale,
            lambda pull: inner.pull_back(pull * self.slope_unit),
        )


@dataclass(frozen=True)
class FixedGradient(GradientMap):
    """``z -> inner(center + S z)``."""

    inner: GradientMap
    scaling: CanonicalScaling

    def __call__(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Evaluate at scaled states."""
        return self.inner(self.scaling.to_user(z))

    def transformed(self, matrix: Float[Tensor, "*draws dim dim"]) -> FixedGradient:
        """Multiply by a matrix."""
        return FixedGradient(self.inner.transformed(matrix), self.scaling)

    def first(self) -> FixedGradient:
        """The first of several draws alone."""
        return FixedGradient(self.inner.first(), self.scaling)


@dataclass(frozen=True)
class FixedFriction(Friction):
    """Friction whose half-normal prior of deviation ``prior_scale`` holds in user units."""

    def scaled(self, scaling: CanonicalScaling) -> LinearDissipation:
        """One parameter, its prior in scaled units."""
        usual = super().scaled(scaling)
        return replace(usual, prior_stddev=self.prior_scale / usual.unit)
