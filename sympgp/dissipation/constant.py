"""Dissipation matrices that are the same at all states and linear in one number: friction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.dissipation.base import Dissipation, ScaledDissipation
from sympgp.phase_space import CanonicalScaling


@dataclass(frozen=True, eq=False)
class LinearDissipation(ScaledDissipation):
    """``R~ = sum_k rho_k matrices[k]`` with K = 0 or 1 and ``rho >= 0``.

    Attributes:
        matrices: (K, D, D), positive semidefinite, constant in the state.
        unit: (K,) user value of each parameter per scaled value.
        prior_stddev: (K,) of the half-normal priors, scaled.
        idle: whether the matrices are zero: a counterfactual.
    """

    matrices: Float[Tensor, "params dim dim"]
    unit: Float[Tensor, " params"]
    prior_stddev: Float[Tensor, " params"]
    idle: bool = False
    constant = True

    @property
    def dim(self) -> int:
        """Width D of the states."""
        return self.matrices.shape[-1]

    @property
    def lossless(self) -> bool:
        """Whether there is no parameter, or none that does anything."""
        return self.idle or self.num_parameters == 0

    @property
    def truncated(self) -> bool:  # type: ignore[override]
        """Where there is a parameter at all."""
        return self.num_parameters > 0

    def force(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim"]:
        """``R~ g``."""
        return slope @ self.matrix(rho).mT

    def matrix(
        self, rho: Float[Tensor, "*draws params"], z: Float[Tensor, "*batch dim"] | None = None
    ) -> Float[Tensor, "*draws dim dim"]:
        """``R~`` for each row of parameters."""
        return torch.tensordot(rho, self.matrices, dims=1)

    def parameter_jacobian(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim params"]:
        """``R_k g``, whatever the parameters."""
        return torch.einsum("kde,...e->...dk", self.matrices, slope)

    def coefficients(self, rho: Float[Tensor, "*draws params"]) -> Float[Tensor, "*draws"]:
        """The one coefficient in user units; zero where there is none."""
        return (rho * self.unit).sum(-1)

    def start(self) -> Float[Tensor, " params"]:
        """A twentieth of what damps within a radian."""
        return torch.full_like(self.prior_stddev, 0.05)


@dataclass(frozen=True)
class Conservative(Dissipation):
    """No dissipation: ``R = 0``."""

    def scaled(self, scaling: CanonicalScaling) -> LinearDissipation:
        """No parameters."""
        dim = scaling.scale.shape[0]
        empty = scaling.scale.new_zeros(0)
        return LinearDissipation(scaling.scale.new_zeros(0, dim, dim), empty, empty)


@dataclass(frozen=True)
class Friction(Dissipation):
    """One friction coefficient on every momentum: ``R = diag(0, eta I)``, ``eta >= 0``.

    ``dp/dt = -dH/dq - eta dH/dp``. In scaled units the entries are ``kappa eta / scale_p^2``, tied
    to one parameter; its prior is half-normal.

    Args:
        prior_scale: prior standard deviation of the mean scaled entry. One scaled unit damps
            the motion within about one radian of its oscillation.
    """

    prior_scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.prior_scale > 0:
            raise ValueError(f"prior_scale: expected a positive number, got {self.prior_scale!r}")

    def scaled(self, scaling: CanonicalScaling) -> LinearDissipation:
        """One parameter, the mean of the scaled entries."""
        num_dof = scaling.num_dof
        entries = scaling.kappa / scaling.scale[num_dof:] ** 2
        mean = entries.mean()
        diagonal = torch.cat([torch.zeros_like(entries), entries / mean])
        return LinearDissipation(
            torch.diag(diagonal).unsqueeze(0),
            (1.0 / mean).reshape(1),
            torch.full_like(mean.reshape(1), self.prior_scale),
        )
