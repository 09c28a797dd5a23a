"""Dissipation matrices R(x), positive semidefinite, of the field ``(J - R) grad H``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.phase_space import CanonicalScaling


@dataclass(frozen=True)
class ScaledDissipation:
    """``R~ = sum_k rho_k matrices[k]`` in scaled units, with all ``rho_k >= 0``.

    Attributes:
        matrices: (K, D, D), positive semidefinite, constant in the state.
        unit: (K,) user value of each parameter per scaled value.
        prior_stddev: (K,) of the half-normal priors, scaled.
    """

    matrices: Float[Tensor, "params dim dim"]
    unit: Float[Tensor, " params"]
    prior_stddev: Float[Tensor, " params"]

    @property
    def num_parameters(self) -> int:
        """K."""
        return self.matrices.shape[0]

    def matrix(self, rho: Float[Tensor, "*draws params"]) -> Float[Tensor, "*draws dim dim"]:
        """``R~`` for each row of parameters."""
        return torch.tensordot(rho, self.matrices, dims=1)


class Dissipation(ABC):
    """A family of dissipation matrices with a prior over its parameters."""

    @abstractmethod
    def scaled(self, scaling: CanonicalScaling) -> ScaledDissipation:
        """The family in scaled units: ``R~ = kappa S^-1 R S^-1``."""

    @abstractmethod
    def reshape(self, parameters: Float[Tensor, "*batch params"], num_dof: int) -> Tensor:
        """Parameters in user units in the shape that users see."""


@dataclass(frozen=True)
class Conservative(Dissipation):
    """No dissipation: ``R = 0``."""

    def scaled(self, scaling: CanonicalScaling) -> ScaledDissipation:
        """No parameters."""
        dim = scaling.scale.shape[0]
        empty = scaling.scale.new_zeros(0)
        return ScaledDissipation(scaling.scale.new_zeros(0, dim, dim), empty, empty)

    def reshape(self, parameters: Float[Tensor, "*batch params"], num_dof: int) -> Tensor:
        """Zero."""
        return parameters.new_zeros(parameters.shape[:-1])


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

    def scaled(self, scaling: CanonicalScaling) -> ScaledDissipation:
        """One parameter, the mean of the scaled entries."""
        num_dof = scaling.num_dof
        entries = scaling.kappa / scaling.scale[num_dof:] ** 2
        mean = entries.mean()
        diagonal = torch.cat([torch.zeros_like(entries), entries / mean])
        return ScaledDissipation(
            torch.diag(diagonal).unsqueeze(0),
            (1.0 / mean).reshape(1),
            torch.full_like(mean.reshape(1), self.prior_scale),
        )

    def reshape(self, parameters: Float[Tensor, "*batch params"], num_dof: int) -> Tensor:
        """The one coefficient, without its axis."""
        return parameters[..., 0]
