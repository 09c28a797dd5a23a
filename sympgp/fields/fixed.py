"""Fields of which nothing, or little, is left to find."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.fields.bound import BoundField

if TYPE_CHECKING:
    from sympgp.fields.hamiltonian import HamiltonianField
else:
    HamiltonianField = Any


@dataclass(frozen=True)
class FixedField:
    """A :class:`HamiltonianField` of which all parameters are known, or all but a few.

    Attributes:
        family: the field.
        known: (P,) its parameters.
        free: (F,) places of those that are not known, of which the methods below are; often none.
    """

    family: HamiltonianField
    known: Float[Tensor, " params"]
    free: Int[Tensor, " free"]

    @classmethod
    def of(
        cls, family: HamiltonianField, known: Tensor, free: Int[Tensor, " free"] | None
    ) -> FixedField:
        """With nothing left to find when None."""
        return cls(family, known, known.new_zeros(0).long() if free is None else free)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type that the field is computed in."""
        return self.family.dtype

    @property
    def num_parameters(self) -> int:
        """Number F of parameters to find."""
        return len(self.free)

    @property
    def compiles(self) -> bool:
        """Whether :meth:`compiled` changes anything."""
        return self.family.compiles

    def compiled(self) -> FixedField:
        """The same field with derivatives at many states compiled, where they can be."""
        return replace(self, family=self.family.compiled())

    def whole(self, theta: Float[Tensor, " free"]) -> Float[Tensor, " params"]:
        """All parameters, in the type of those that are known."""
        if not len(self.free):
            return self.known
        return self.known.index_copy(0, self.free, theta.to(self.known))

    def bind(self, theta: Float[Tensor, " free"]) -> BoundField:
        """The field itself."""
        return self.family.bind(self.whole(theta))

    def jacobian(
        self, points: Float[Tensor, "batch width"], theta: Float[Tensor, " free"]
    ) -> Float[Tensor, "batch dim dim"]:
        """``df/dz``."""
        return self.family.jacobian(points, self.whole(theta))

    def weighted_parameter_jacobian(
        self,
        points: Float[Tensor, "batch stages width"],
        weights: Float[Tensor, "batch out stages dim"],
        theta: Float[Tensor, " free"],
    ) -> Float[Tensor, "batch out free"]:
        """Columns of the free parameters, without any where there are none."""
        if not len(self.free):
            return weights.new_zeros(*weights.shape[:2], 0)
        whole = self.family.weighted_parameter_jacobian(points, weights, self.whole(theta))
        return whole[..., self.free]

    def prior_precision(self) -> Float[Tensor, " free"]:
        """Of the free parameters."""
        return self.family.prior_precision()[self.free] if len(self.free) else self.known[:0]
