"""What a field's parameters and points are made of, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.dissipation import ScaledDissipation
from sympgp.energies import Context
from sympgp.energies.base import Basis
from sympgp.inputs import ScaledInputs, no_inputs


@dataclass(frozen=True)
class FieldLayout:
    """Parameters ``theta = (w, gamma, rho)`` and points (states, inputs, context) of a field.

    Attributes:
        basis: of the energy.
        dissipation: of what the field loses.
        driven: what inputs do; None where there are none.
    """

    basis: Basis
    dissipation: ScaledDissipation
    driven: ScaledInputs | None = None

    @cached_property
    def inputs(self) -> ScaledInputs:
        """``G``; one without any inputs where there are none."""
        if self.driven is not None:
            return self.driven
        return no_inputs(self.basis.prior_variance.new_zeros(self.dissipation.dim))

    @property
    def num_inputs(self) -> int:
        """Number m of inputs."""
        return 0 if self.driven is None else self.driven.num_inputs

    @property
    def context(self) -> Context | None:
        """By what the energy tells trajectories apart; None where they are all alike."""
        return self.basis.context

    @property
    def num_extra(self) -> int:
        """Number of columns behind the states of a point: inputs, then the context."""
        return self.num_inputs + self.basis.num_context

    @property
    def num_weights(self) -> int:
        """Number of parameters of the energy and the inputs, P."""
        extra = 0 if self.driven is None else self.driven.num_parameters
        return self.basis.num_weights + extra

    @property
    def num_parameters(self) -> int:
        """Number of weights and dissipation parameters, P + K."""
        return self.num_weights + self.dissipation.num_parameters

    def split(self, theta: Float[Tensor, "*draws params"]) -> tuple[Tensor, Tensor]:
        """Weights (of the energy, then of the inputs) and dissipation parameters."""
        return theta[..., : self.num_weights], theta[..., self.num_weights :]

    def parts(self, theta: Float[Tensor, "*draws params"]) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of the energy, of the inputs, and dissipation parameters."""
        num = self.basis.num_weights
        return theta[..., :num], theta[..., num : self.num_weights], theta[..., self.num_weights :]

    def split_points(self, points: Float[Tensor, "*batch width"]) -> tuple[Tensor, Tensor | None]:
        """States, and inputs where there are any."""
        if not self.num_extra:
            return points, None
        dim = self.dissipation.dim
        least = dim + self.num_inputs
        if points.shape[-1] not in (least, dim + self.num_extra):
            raise ValueError(
                f"inputs: the field needs {self.num_inputs} of them beside {dim} coordinates, got "
                f"points of width {points.shape[-1]}"
            )
        return points[..., :dim], points[..., dim:least] if self.num_inputs else None

    def energy_points(self, points: Float[Tensor, "*batch width"]) -> Tensor:
        """What the energy is asked at: states, with the context behind them where there is one."""
        if not self.num_inputs:
            return points
        dim = self.dissipation.dim
        if points.shape[-1] == dim + self.num_inputs:
            return points[..., :dim]
        return torch.cat([points[..., :dim], points[..., dim + self.num_inputs :]], -1)
