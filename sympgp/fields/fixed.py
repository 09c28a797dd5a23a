"""Fields of which nothing is left to find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from sympgp.fields.bound import BoundField

if TYPE_CHECKING:
    from sympgp.fields.hamiltonian import HamiltonianField
else:
    HamiltonianField = Any


@dataclass(frozen=True)
class FixedField:
    """A field whose parameters are known: a :class:`HamiltonianField` with none of its own.

    Attributes:
        family: the field.
        known: its parameters; those of the methods below are empty.
    """

    family: HamiltonianField
    known: Float[Tensor, " params"]

    @property
    def num_parameters(self) -> int:
        """Zero."""
        return 0

    def bind(self, theta: Float[Tensor, " none"]) -> BoundField:
        """The field itself."""
        return self.family.bind(self.known)

    def jacobian(
        self, points: Float[Tensor, "batch width"], theta: Float[Tensor, " none"]
    ) -> Float[Tensor, "batch dim dim"]:
        """``df/dz``."""
        return self.family.jacobian(points, self.known)

    def weighted_parameter_jacobian(
        self,
        points: Float[Tensor, "batch stages width"],
        weights: Float[Tensor, "batch out stages dim"],
        theta: Float[Tensor, " none"],
    ) -> Float[Tensor, "batch out none"]:
        """No columns."""
        return weights.new_zeros(*weights.shape[:2], 0)

    def prior_precision(self) -> Float[Tensor, " none"]:
        """No entries."""
        return self.known[:0]
