"""Counterfactuals: what is left of a dissipation when nothing is dissipated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.dissipation.base import ScaledDissipation
from sympgp.dissipation.constant import LinearDissipation
from sympgp.dissipation.matrix import MatrixDamping
from sympgp.dissipation.state_dependent import StateDependentDamping


@dataclass(frozen=True, eq=False)
class Undamped(ScaledDissipation):
    """No force, with the parameters of another family, on which nothing depends.

    Attributes:
        num_channels: D.
        shape: of the other family's coefficients, here all zero.
        prior_stddev: (K,), the other family's.
        truncated: the other family's, so that draws are the same.
        of: the other family.
    """

    num_channels: int
    shape: tuple[int, ...]
    prior_stddev: Float[Tensor, " params"]
    truncated: bool = False
    of: ScaledDissipation | None = None
    constant = True

    @property
    def dim(self) -> int:
        """D."""
        return self.num_channels

    @property
    def lossless(self) -> bool:
        """Yes."""
        return True

    def force(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim"]:
        """Zero."""
        return torch.zeros_like(slope)

    def matrix(
        self, rho: Float[Tensor, "*draws params"], z: Float[Tensor, "*batch dim"] | None = None
    ) -> Float[Tensor, "*draws dim dim"]:
        """Zero."""
        return rho.new_zeros(*rho.shape[:-1], self.dim, self.dim)

    def slope_jacobian(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim dim"]:
        """Zero."""
        return slope.new_zeros(*slope.shape, self.dim)

    def parameter_jacobian(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim params"]:
        """Zero."""
        return slope.new_zeros(*slope.shape, rho.shape[-1])

    def coefficients(self, rho: Float[Tensor, "*draws params"]) -> Tensor:
        """Zeros of the other family's shape."""
        return rho.new_zeros(*rho.shape[:-1], *self.shape)

    def start(self) -> Float[Tensor, " params"]:
        """Zeros."""
        return torch.zeros_like(self.prior_stddev)


def undamped(dissipation: ScaledDissipation) -> ScaledDissipation:
    """The same parameters with nothing dissipated, ``g . d = 0``; what keeps the energy stays.

    That is the skew part of a :class:`GradientField`; all others are without force.

    Args:
        dissipation: any.
    """
    if isinstance(dissipation, LinearDissipation):
        return replace(
            dissipation,
            matrices=torch.zeros_like(dissipation.matrices),
            unit=torch.zeros_like(dissipation.unit),
            idle=True,
        )
    if isinstance(dissipation, (MatrixDamping, StateDependentDamping)):
        if len(dissipation.factors.skew):
            return replace(dissipation, factors=replace(dissipation.factors, damped=False))
    start = dissipation.start()
    shape = tuple(dissipation.coefficients(start).shape)
    truncated, of = dissipation.truncated, damped(dissipation)
    return Undamped(dissipation.dim, shape, dissipation.prior_stddev, truncated, of)


def damped(dissipation: ScaledDissipation) -> ScaledDissipation:
    """What was given to ``undamped``: itself where that was not called; not of one friction.

    Args:
        dissipation: any but a :class:`LinearDissipation`, whose matrices are then gone.
    """
    if isinstance(dissipation, Undamped) and dissipation.of is not None:
        return dissipation.of
    if isinstance(dissipation, (MatrixDamping, StateDependentDamping)):
        return replace(dissipation, factors=replace(dissipation.factors, damped=True))
    return dissipation
