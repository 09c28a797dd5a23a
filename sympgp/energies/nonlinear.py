"""Energies that are not linear in their unknowns: derivatives of a written ``H(z; w)``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import GradientMap
from sympgp.energies.differentiated import (
    DifferentiatedBasis,
    WeightedMap,
    followed,
    gradient,
)


class NonlinearBasis(DifferentiatedBasis):
    """Hamiltonians ``H(z; w)`` of which only ``value`` is written; the rest is differentiated.

    ``value`` takes states (..., D) with weights (P,), or (S, B, D) with (S, P), in differentiable
    tensor operations, and treats every state by itself. All derivatives come from two passes at
    most, whatever D and P.

    Where much can be prepared for fixed weights, a subclass also writes ``bound``.
    """

    @abstractmethod
    def value(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """``H(z; w)``, up to a constant in the state."""

    def bound(self, w: Float[Tensor, "*draws weights"]) -> Callable[[Tensor], Tensor]:
        """``z -> H(z; w)`` for fixed weights, for repeated evaluation."""
        return lambda z: self.value(z, w)

    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> GradientMap:
        """The gradient of H by one reverse pass a call."""
        return AutomaticGradient(self, w)

    def tangent_map(
        self, w: Float[Tensor, " weights"], change: Float[Tensor, "*draws weights"]
    ) -> GradientMap:
        """``z -> (d grad H / dw)(z; w) c``: what a small change ``c`` of the weights adds."""
        return TangentGradient(self, w, change, None)

    def tangent_hessian(
        self,
        z: Float[Tensor, "*batch dim"],
        w: Float[Tensor, " weights"],
        change: Float[Tensor, "*draws weights"],
    ) -> Float[Tensor, "*batch dim dim"]:
        """The derivative of ``tangent_map`` by the states, (..., D) or (S, B, D) for S draws."""
        dim = z.shape[-1]
        field = TangentGradient(self, w, change, None)
        rows = torch.eye(dim, dtype=z.dtype, device=z.device)
        rows = rows.reshape(dim, *(1,) * (z.dim() - 1), dim)
        found = gradient(
            lambda leaf: rows * field(leaf), z.expand(dim, *z.shape), followed(z, w, change)
        )
        return found.movedim(0, -2)

    def _by_states(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> tuple[Float[Tensor, "draws batch dim"], Float[Tensor, "draws batch dim dim"]]:
        """Gradients and second derivatives."""
        draws, batch, dim = z.shape
        seeds = torch.eye(dim, dtype=z.dtype, device=z.device).repeat_interleave(draws, 0)
        copies = z.repeat(dim, 1, 1)
        slope, rows = self._pull(copies, w.repeat(dim, 1), seeds.unsqueeze(1), by_weights=False)
        return slope[:draws], rows.reshape(dim, draws, batch, dim).movedim(0, 2)

    def _by_weights(
        self,
        z: Float[Tensor, "draws batch dim"],
        w: Float[Tensor, "draws weights"],
        pull: Float[Tensor, "draws #batch dim"],
    ) -> Float[Tensor, "draws weights"]:
        """The derivative of ``sum pull . grad H`` by the weights of each draw."""
        return self._pull(z, w, pull, by_weights=True)[1]

    def _pull(
        self,
        z: Float[Tensor, "draws batch dim"],
        w: Float[Tensor, "draws weights"],
        pull: Float[Tensor, "draws #batch dim"],
        *,
        by_weights: bool,
    ) -> tuple[Tensor, Tensor]:
        """``grad H`` and the derivative of ``sum pull . grad H``, by the weights or the states."""
        slope = z

        def contracted(leaf: Tensor) -> Tensor:
            nonlocal slope
            states, weights = (z, leaf) if by_weights else (leaf, w)
            slope = gradient(lambda x: self.value(x, weights), states, keep=True)
            return pull * slope

        found = gradient(contracted, w if by_weights else z, followed(z, w, pull))
        return slope.detach(), found


class AutomaticGradient(WeightedMap):
    """``z -> K grad H(z; w)`` of a :class:`NonlinearBasis`, draws on a leading axis."""

    def __init__(
        self,
        basis: NonlinearBasis,
        w: Float[Tensor, "*draws weights"],
        matrix: Float[Tensor, "*own dim dim"] | None = None,
    ) -> None:
        super().__init__(w, matrix)
        self.basis, self.energy = basis, basis.bound(w)

    def slope(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """``grad H``."""
        return gradient(self.energy, z, followed(z, self.weights))

    def like(self, weights: Tensor, matrix: Tensor | None) -> AutomaticGradient:
        """The same for other weights and another matrix."""
        return AutomaticGradient(self.basis, weights, matrix)


class TangentGradient(WeightedMap):
    """``z -> K (d grad H / dw)(z; w0) c``, draws of ``c`` and K on a leading axis."""

    def __init__(
        self,
        basis: NonlinearBasis,
        nominal: Float[Tensor, " params"],
        weights: Float[Tensor, "*draws params"],
        matrix: Float[Tensor, "*own dim dim"] | None,
    ) -> None:
        super().__init__(weights, matrix)
        self.basis, self.nominal = basis, nominal
        self._column = weights.unsqueeze(-1) if weights.dim() == 1 else weights[:, None, :, None]

    def slope(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """``(d grad H / dw) c``."""
        return (self.basis.feature_gradient(z, self.nominal) @ self._column).squeeze(-1)

    def like(self, weights: Tensor, matrix: Tensor | None) -> TangentGradient:
        """The same for another change and another matrix."""
        return TangentGradient(self.basis, self.nominal, weights, matrix)
