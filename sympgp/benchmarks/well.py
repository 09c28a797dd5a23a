"""A prior over Hamiltonians whose draws can be simulated from: their motion seldom runs away."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies import Energy, FourierBasis, FourierEnergy
from sympgp.energies.base import Basis, GradientMap, Hyperparameters, Linearized, LogNormal


@dataclass(frozen=True, eq=False)
class WellEnergy(Energy):
    """``H(x) = w_0 |x|^2 / 2 + Fourier features``.

    The quadratic part has one weight for all coordinates: whatever its sign, its motion goes round
    in circles. ``FourierEnergy`` has a weight for every product of two coordinates, so that most
    draws from its prior have saddles, and motion that leaves for infinity.

    Attributes:
        fourier: the features; of their polynomial part only ``|x|^2 / 2`` is kept, with its scale.
    """

    fourier: FourierEnergy

    @property
    def num_dof(self) -> int:  # type: ignore[override]
        """Degrees of freedom n."""
        return self.fourier.num_dof

    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """Those of the features."""
        return self.fourier.hyperpriors(spread)

    def basis(self, hyperparameters: Hyperparameters) -> WellBasis:
        """The features for these hyperparameters."""
        return WellBasis(self.fourier.basis(hyperparameters))

    def redraw(self, seed: int) -> WellEnergy:
        """With other frequencies."""
        return WellEnergy(self.fourier.redraw(seed))


class WellBasis(Basis):
    """The Fourier features of a basis and ``|x|^2 / 2``, as sums of the basis's own features.

    Args:
        basis: with its polynomial part.

    Raises:
        ValueError: a basis without it.
    """

    def __init__(self, basis: FourierBasis) -> None:
        if not basis.quadratic:
            raise ValueError("basis: expected one with the quadratic features")
        num, dim = basis.frequencies.shape
        rows, columns = torch.triu_indices(dim, dim)
        squares = 2 * num + dim + (rows == columns).nonzero().squeeze(-1)
        sums = torch.zeros(basis.num_weights, 2 * num + 1).to(basis.prior_variance)
        sums[: 2 * num, : 2 * num].fill_diagonal_(1.0)
        sums[squares, -1] = 1.0
        self.basis, self.sums = basis, sums
        self.num_weights = 2 * num + 1
        own = torch.cat([torch.arange(2 * num), squares[:1]]).to(sums.device)
        self.prior_variance = basis.prior_variance[own]

    def features(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """``[cos, sin, |z|^2 / 2]``."""
        return self.basis.features(z) @ self.sums

    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch dim weights"]:
        """``d phi(z) / dz``."""
        return self.basis.feature_gradient(z) @ self.sums

    def weighted_gradient(
        self,
        z: Float[Tensor, "batch stages dim"],
        weights: Float[Tensor, "batch out stages dim"],
        w: Float[Tensor, " weights"] | None = None,
    ) -> Float[Tensor, "batch out weights"]:
        """``sum_s W_s d phi(z_s) / dz``."""
        return self.basis.weighted_gradient(z, weights) @ self.sums

    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> GradientMap:
        """The gradient of H."""
        return self.basis.gradient_map(w @ self.sums.mT)

    def hessian(
        self, z: Float[Tensor, "batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "batch dim dim"]:
        """Second derivatives of H."""
        return self.basis.hessian(z, self.sums @ w)

    def linearized(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> Linearized:
        """Those of the basis."""
        inner = self.basis.linearized(z, w @ self.sums.mT)
        return inner._replace(pull_back=lambda pull: inner.pull_back(pull) @ self.sums)
