"""Dissipation matrices that are the same at all states, with every entry unknown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.dissipation.base import Dissipation, ScaledDissipation
from sympgp.dissipation.checks import check_positive
from sympgp.dissipation.factors import Factors, block_unit
from sympgp.dissipation.positive import PositiveCurve, per_state
from sympgp.phase_space import CanonicalScaling

# Prior standard deviation of an entry of A off its diagonal, by the root of the prior's scale.
OFF_DIAGONAL = 0.5


@dataclass(frozen=True, eq=False)
class MatrixDamping(ScaledDissipation):
    """``d = D g`` with ``D = A A' - S``, the diagonal of A positive, the same at all states.

    Attributes:
        factors: D of the entries of A and S.
        curve: the positive transform.
        positive: (K,) which entries are ``v(rho)``; the others are rho itself.
        unit: (size, size) user value of the entries of D's last rows and columns, those that
            users are shown, per scaled value.
        prior_stddev: (K,).
    """

    factors: Factors
    curve: PositiveCurve
    positive: Bool[Tensor, " params"]
    unit: Float[Tensor, "size size"]
    prior_stddev: Float[Tensor, " params"]
    constant = True

    @property
    def dim(self) -> int:
        """D."""
        return self.factors.dim

    def force(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim"]:
        """``D g``."""
        return slope @ self.matrix(rho).mT

    def bound(self, rho: Float[Tensor, "*draws params"]) -> Callable[[Tensor, Tensor], Tensor]:
        """``(z, g) -> D g`` with the matrix made once."""
        transposed = self.matrix(rho).mT
        return lambda z, slope: slope @ transposed

    def matrix(
        self, rho: Float[Tensor, "*draws params"], z: Float[Tensor, "*batch dim"] | None = None
    ) -> Float[Tensor, "*draws dim dim"]:
        """D for each row of parameters; its symmetric part is R~."""
        return self.factors.matrix(self._entries(rho))

    def slope_jacobian(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim dim"]:
        """D."""
        matrix = self.factors.matrix(self._entries(per_state(rho)))
        return matrix.expand(*slope.shape, -1).clone()

    def parameter_jacobian(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim params"]:
        """Response to each entry times the slope of its transform."""
        rho = per_state(rho)
        slopes = torch.where(self.positive, self.curve.slope(rho), torch.ones_like(rho))
        return self.factors.response(self._entries(rho), slope) * slopes.unsqueeze(-2)

    def coefficients(self, rho: Float[Tensor, "*draws params"]) -> Float[Tensor, "*draws m m"]:
        """The block that is not zero, in user units."""
        size = self.unit.shape[0]
        return self.unit * self.matrix(rho)[..., -size:, -size:]

    def start(self) -> Float[Tensor, " params"]:
        """The prior's median: a weak diagonal, and nothing beside it."""
        return torch.zeros_like(self.prior_stddev)

    def _entries(self, rho: Tensor) -> Tensor:
        return torch.where(self.positive, self.curve.value(rho), rho)


def matrix_damping(
    scaling: CanonicalScaling, size: int, prior_scale: float, skew_scale: float = 0.0
) -> MatrixDamping:
    """A full matrix in the last ``size`` rows and columns; skew entries where they have a scale."""
    factors = Factors.lower(scaling, size, size, skew=skew_scale > 0)
    positive = factors.is_diagonal()
    stddev = scaling.scale.new_full((factors.num_entries,), OFF_DIAGONAL * prior_scale**0.5)
    stddev[positive] = 1.0
    stddev[len(factors.factor) :] = skew_scale
    curve = PositiveCurve.of_root(prior_scale)
    return MatrixDamping(factors, curve, positive, block_unit(scaling, size), stddev)


@dataclass(frozen=True)
class MatrixFriction(Dissipation):
    """A full positive semidefinite friction matrix between the momenta: ``R = diag(0, L L')``.

    ``dp/dt = -dH/dq - L L' dH/dp`` with L lower triangular and its diagonal positive.
    Coefficients are ``L L'`` in user units, (n, n): ``scale_i scale_j / kappa`` times the scaled
    ones, scales of the momenta. The squares of L's scaled diagonal have medians
    ``prior_scale / 10``; the entries beside it are ``N(0, prior_scale / 4)``.

    Args:
        prior_scale: scaled entry that is strong friction, seldom exceeded. One scaled unit damps
            the motion within about one radian of its oscillation.

    Raises:
        ValueError: the scale is not positive.
    """

    prior_scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("prior_scale", self.prior_scale)

    def scaled(self, scaling: CanonicalScaling) -> MatrixDamping:
        """A parameter for each entry of L."""
        return matrix_damping(scaling, scaling.num_dof, self.prior_scale)
