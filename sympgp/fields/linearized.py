"""Fields of several draws linearised, each at points of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import Linearized

if TYPE_CHECKING:
    from sympgp.fields.hamiltonian import HamiltonianField
else:
    HamiltonianField = Any


@dataclass(frozen=True)
class LinearizedField:
    """Fields of several draws linearised, each at its own points (S, B, D + m).

    Attributes:
        family: the field.
        z, u: states and inputs.
        rho: (S, K).
        known: derivatives of the energies.
        turn: ``df/dg``, (S, 1 or B, D, D).
        jacobian: ``df/dz``, (S, B, D, D).
    """

    family: HamiltonianField
    z: Tensor
    u: Tensor | None
    rho: Tensor
    known: Linearized
    turn: Tensor
    jacobian: Tensor

    def pull_back(self, pull: Float[Tensor, "draws batch dim"]) -> Float[Tensor, "draws params"]:
        """``sum_b v_b . df/dtheta(z_b)`` of each draw."""
        wanted, pull = pull.dtype, pull.to(self.z.dtype)
        if self.family.dissipation.constant:
            onto = pull @ self.turn.squeeze(1)
        else:
            onto = (pull.unsqueeze(-2) @ self.turn).squeeze(-2)
        blocks = [self.known.pull_back(onto)]
        if self.u is not None:
            own = self.family.inputs.parameter_jacobian(self.z, self.u)
            blocks.append(torch.einsum("sbd,sbdk->sk", pull, own))
        damping = self.family.dissipation
        if damping.num_parameters:
            own = damping.parameter_jacobian(self.z, self.known.slope, self.rho)
            blocks.append(-torch.einsum("sbd,sbdk->sk", pull, own))
        return torch.cat(blocks, 1).to(wanted)
