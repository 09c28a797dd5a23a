"""Friction with one coefficient for each momentum, or for each channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from sympgp.dissipation.base import Dissipation, ScaledDissipation
from sympgp.dissipation.checks import check_positive
from sympgp.dissipation.positive import PositiveCurve, per_state
from sympgp.phase_space import CanonicalScaling


@dataclass(frozen=True, eq=False)
class DiagonalDamping(ScaledDissipation):
    """``R~ = diag(0, v(rho_1)..v(rho_K))``: zeros for the channels before the last K.

    Attributes:
        free: number of channels without friction, before the others.
        curve: the positive transform v.
        unit: (K,) user value of each entry per scaled value.
        prior_stddev: (K,), ones.
    """

    free: int
    curve: PositiveCurve
    unit: Float[Tensor, " params"]
    prior_stddev: Float[Tensor, " params"]
    constant = True

    @property
    def dim(self) -> int:
        """D."""
        return self.free + self.num_parameters

    def force(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim"]:
        """``R~ g``."""
        return slope * self._diagonal(per_state(rho))

    def bound(self, rho: Float[Tensor, "*draws params"]) -> Callable[[Tensor, Tensor], Tensor]:
        """``(z, g) -> R~ g`` with the diagonal made once."""
        diagonal = self._diagonal(per_state(rho))
        return lambda z, slope: slope * diagonal

    def matrix(
        self, rho: Float[Tensor, "*draws params"], z: Float[Tensor, "*batch dim"] | None = None
    ) -> Float[Tensor, "*draws dim dim"]:
        """``R~`` for each row of parameters."""
        return torch.diag_embed(self._diagonal(rho))

    def slope_jacobian(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim dim"]:
        """``R~``."""
        return torch.diag_embed(self._diagonal(per_state(rho)).expand_as(slope))

    def parameter_jacobian(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim params"]:
        """``v'(rho_k) g_k`` in the channel of each parameter."""
        entries = self.curve.slope(per_state(rho)) * slope[..., self.free :]
        return pad(torch.diag_embed(entries), (0, 0, self.free, 0))

    def coefficients(self, rho: Float[Tensor, "*draws params"]) -> Float[Tensor, "*draws params"]:
        """The diagonal in user units, without the zeros."""
        return self.unit * self.curve.value(rho)

    def start(self) -> Float[Tensor, " params"]:
        """The prior's median."""
        return torch.zeros_like(self.prior_stddev)

    def _diagonal(self, rho: Tensor) -> Tensor:
        return pad(self.curve.value(rho), (self.free, 0))


@dataclass(frozen=True)
class DiagonalFriction(Dissipation):
    """One friction coefficient for each momentum: ``R = diag(0, eta_1..eta_n)``, ``eta_i > 0``.

    ``dp_i/dt = -dH/dq_i - eta_i dH/dp_i``. In scaled units an entry is ``kappa eta_i / scale_i^2``;
    its prior has median ``prior_scale / 10`` and 95% from a thirtieth of that to 1.5 times
    ``prior_scale``. Coefficients are (n,).

    Args:
        positions: also one for each coordinate, ``R = diag(xi_1..xi_n, eta_1..eta_n)``;
            coefficients are then (2n,).
        prior_scale: scaled entry that is strong friction, seldom exceeded. One scaled unit damps
            the motion within about one radian of its oscillation.

    Raises:
        ValueError: the scale is not positive.
    """

    positions: bool = False
    prior_scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("prior_scale", self.prior_scale)

    def scaled(self, scaling: CanonicalScaling) -> DiagonalDamping:
        """A parameter for each entry."""
        first = 0 if self.positions else scaling.num_dof
        unit = scaling.scale[first:] ** 2 / scaling.kappa
        curve = PositiveCurve.of_friction(self.prior_scale)
        return DiagonalDamping(first, curve, unit, torch.ones_like(unit))
