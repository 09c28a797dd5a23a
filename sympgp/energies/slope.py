"""Vector fields that are not ``J grad H``, as families of covectors ``g`` with ``f = J g``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import Energy, GradientMap
from sympgp.energies.differentiated import (
    DifferentiatedBasis,
    WeightedMap,
    followed,
    gradient,
)
from sympgp.phase_space import join, split

WITHOUT_ENERGY = "a field without an energy: only its rates dx/dt are known, no H"
"""What is said where an energy is asked for in vain."""


def covector(rate: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """``g = J' f``, so that ``J g = f``: ``(-f_p, f_q)``."""
    f_q, f_p = split(rate)
    return join(-f_p, f_q)


class SlopeBasis(DifferentiatedBasis):
    """Fields ``f = J g(z; w)`` of which the covector ``g`` is written; the rest is differentiated.

    Any field is one of these, with ``g = J' f``. Where ``g`` is not ``grad H``, its derivative
    ``dg/dz`` is no symmetric matrix, and the flow is not symplectic.

    ``slope`` takes states (..., D) with weights (P,), or (S, B, D) with (S, P), in differentiable
    tensor operations, and treats every state by itself. All derivatives come from one reverse pass
    through it, whatever D and P. Where much can be prepared for fixed weights, a subclass also
    writes ``bound``; where there is an energy all the same, ``value`` and ``has_energy``.

    Attributes:
        has_energy: whether ``value`` is a function of the state that the family calls energy.
    """

    has_energy = False
    canonical = False

    @abstractmethod
    def slope(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch dim"]:
        """``g(z; w)``."""

    def bound(self, w: Float[Tensor, "*draws weights"]) -> Callable[[Tensor], Tensor]:
        """``z -> g(z; w)`` for fixed weights, for repeated evaluation."""
        return lambda z: self.slope(z, w)

    def value(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """The energy, of a family that has one.

        Raises:
            TypeError: this one has none.
        """
        raise TypeError(WITHOUT_ENERGY)

    def features(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """``dH/dw`` of the energy.

        Raises:
            TypeError: the family has none.
        """
        if not self.has_energy:
            raise TypeError(WITHOUT_ENERGY)
        return super().features(z, w)

    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> GradientMap:
        """``z -> g(z; w)``."""
        return SlopeMap(self, w)

    def _by_states(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> tuple[Float[Tensor, "draws batch dim"], Float[Tensor, "draws batch dim dim"]]:
        """``g`` and ``dg/dz``, a row at each of D copies."""
        draws, batch, dim = z.shape
        seeds = torch.eye(dim, dtype=z.dtype, device=z.device).repeat_interleave(batch, 0)
        slope = z

        def contracted(leaf: Tensor) -> Tensor:
            nonlocal slope
            slope = self.slope(leaf, w)
            return seeds * slope

        rows = gradient(contracted, z.repeat(1, dim, 1), followed(z, w))
        return slope[:, :batch].detach(), rows.reshape(draws, dim, batch, dim).transpose(1, 2)

    def _by_weights(
        self,
        z: Float[Tensor, "draws batch dim"],
        w: Float[Tensor, "draws weights"],
        pull: Float[Tensor, "draws #batch dim"],
    ) -> Float[Tensor, "draws weights"]:
        """The derivative of ``sum pull . g`` by the weights of each draw."""
        return gradient(lambda leaf: pull * self.slope(z, leaf), w, followed(z, w, pull))


class SlopeMap(WeightedMap):
    """``z -> K g(z; w)`` of a :class:`SlopeBasis`, draws on a leading axis."""

    def __init__(
        self,
        basis: SlopeBasis,
        w: Float[Tensor, "*draws weights"],
        matrix: Float[Tensor, "*own dim dim"] | None = None,
    ) -> None:
        super().__init__(w, matrix)
        self.basis, self.covector = basis, basis.bound(w)

    def slope(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """``g``."""
        return self.covector(z)

    def like(self, weights: Tensor, matrix: Tensor | None) -> SlopeMap:
        """The same for other weights and another matrix."""
        return SlopeMap(self.basis, weights, matrix)


class SlopeEnergy(Energy):
    """A family of fields ``J g`` where an energy would stand: its bases are :class:`SlopeBasis`."""

    @property
    def has_layers(self) -> bool:
        """True."""
        return True


def check_scalar(name: str, part: object) -> None:
    """Refuse what is not a scalar function of the state.

    Raises:
        ValueError: it is no energy, a field that is not the gradient of one, or a formula whose
            parameters differ by trajectory.
    """
    if not isinstance(part, Energy) or isinstance(part, SlopeEnergy) or part.dissipates:
        raise ValueError(
            f"{name}: expected a scalar function of the state such as NetworkEnergy, got {part!r}"
        )
    if part.pooled or part.by_covariates:
        raise ValueError(
            f"{name}: expected one function for all trajectories, got {type(part).__name__} with "
            "parameters that differ by trajectory"
        )
