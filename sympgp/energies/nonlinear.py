"""Energies that are not linear in their unknowns: derivatives of a written ``H(z; w)``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import Basis, GradientMap, Linearized


class NonlinearBasis(Basis):
    """Hamiltonians ``H(z; w)`` of which only ``value`` is written; the rest is differentiated.

    ``value`` takes states (..., D) with weights (P,), or (S, B, D) with (S, P), in differentiable
    tensor operations, and treats every state by itself. All derivatives come from two passes at
    most, whatever D and P: rows of second derivatives are found at copies of the states, side by
    side, rather than one after the other.

    Where much can be prepared for fixed weights, a subclass also writes ``bound``.
    """

    linear = False

    @abstractmethod
    def value(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """``H(z; w)``, up to a constant in the state."""

    def bound(self, w: Float[Tensor, "*draws weights"]) -> Callable[[Tensor], Tensor]:
        """``z -> H(z; w)`` for fixed weights, for repeated evaluation."""
        return lambda z: self.value(z, w)

    def features(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """``dH/dw``."""
        w = given(w)
        states, rows = z.reshape(-1, 1, z.shape[-1]), w.expand(z[..., 0].numel(), -1)
        keep = _followed(z, w)
        found = gradient(lambda leaf: self.value(states, leaf), rows, keep)
        return found.reshape(*z.shape[:-1], -1)

    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch dim weights"]:
        """``d grad H / dw``."""
        w = given(w)
        dim = z.shape[-1]
        states = z.reshape(-1, 1, dim)
        num = len(states)
        seeds = torch.eye(dim, dtype=z.dtype, device=z.device).repeat(num, 1).unsqueeze(1)
        copies = states.repeat_interleave(dim, 0)
        _, found = self._pull(copies, w.expand(num * dim, -1), seeds, by_weights=True)
        return found.reshape(*z.shape, -1)

    def weighted_gradient(
        self,
        z: Float[Tensor, "batch stages dim"],
        weights: Float[Tensor, "batch out stages dim"],
        w: Float[Tensor, " weights"] | None = None,
    ) -> Float[Tensor, "batch out weights"]:
        """``sum_s W_s d grad H(z_s) / dw``, pulled back for all rows at once."""
        w = given(w)
        batch, out = weights.shape[:2]
        copies = z.repeat_interleave(out, 0)
        rows = w.expand(batch * out, -1)
        return self._pull(copies, rows, weights.flatten(0, 1), by_weights=True)[1].reshape(
            batch, out, -1
        )

    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> GradientMap:
        """The gradient of H by one reverse pass a call."""
        return AutomaticGradient(self, w)

    def hessian(
        self, z: Float[Tensor, "batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "batch dim dim"]:
        """Second derivatives of H for one weight vector."""
        return self._second(z.unsqueeze(0), w.unsqueeze(0))[1].squeeze(0)

    def linearized(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> Linearized:
        """Slope and Hessian together; weights by a reverse pass where they are asked for."""
        slope, hessian = self._second(z, w)
        return Linearized(slope, hessian, lambda pull: self._pull(z, w, pull, by_weights=True)[1])

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
            lambda leaf: rows * field(leaf), z.expand(dim, *z.shape), _followed(z, w, change)
        )
        return found.movedim(0, -2)

    def _second(self, z: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients (S, B, D) and second derivatives (S, B, D, D)."""
        draws, batch, dim = z.shape
        seeds = torch.eye(dim, dtype=z.dtype, device=z.device).repeat_interleave(draws, 0)
        copies = z.repeat(dim, 1, 1)
        slope, rows = self._pull(copies, w.repeat(dim, 1), seeds.unsqueeze(1), by_weights=False)
        return slope[:draws], rows.reshape(dim, draws, batch, dim).movedim(0, 2)

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

        found = gradient(contracted, w if by_weights else z, _followed(z, w, pull))
        return slope.detach(), found


def given(w: Tensor | None) -> Tensor:
    """The weights, which have to be there.

    Raises:
        ValueError: they are not.
    """
    if w is None:
        raise ValueError("w: expected weights, as the energy is not linear in them, got None")
    return w


def gradient(function: Callable[[Tensor], Tensor], z: Tensor, keep: bool) -> Tensor:
    """Gradient of the sum of ``function(z)``, differentiable itself where ``keep`` is set."""
    # Plain reverse mode costs a third of torch.func.grad, but does not nest inside its transforms.
    if torch._C._are_functorch_transforms_active():
        return torch.func.grad(lambda leaf: function(leaf).sum())(z)
    # A slice taken while nothing is recorded says that it is, but views of it bypass it.
    recorded = torch.is_grad_enabled() and z.requires_grad
    with torch.enable_grad():
        leaf = z if recorded else z.detach().requires_grad_(True)
        total = function(leaf).sum()
        if not total.requires_grad:
            return torch.zeros_like(z)
        return torch.autograd.grad(total, leaf, create_graph=keep, materialize_grads=True)[0]


def _followed(*tensors: Tensor) -> bool:
    """Whether a caller will differentiate what is made of these."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


class AutomaticGradient(GradientMap):
    """``z -> K grad H(z; w)`` of a :class:`NonlinearBasis`, draws on a leading axis."""

    def __init__(
        self,
        basis: NonlinearBasis,
        w: Float[Tensor, "*draws weights"],
        matrix: Float[Tensor, "*own dim dim"] | None = None,
    ) -> None:
        self.basis, self.w, self.matrix = basis, w, matrix
        self.energy = basis.bound(w)

    def __call__(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Evaluate at (..., D) states, or (S, B, D) for S draws."""
        slope = gradient(self.energy, z, _followed(z, self.w))
        return slope if self.matrix is None else slope @ self.matrix.mT

    def transformed(self, matrix: Float[Tensor, "*draws dim dim"]) -> AutomaticGradient:
        """Multiply from the left."""
        whole = matrix if self.matrix is None else matrix @ self.matrix
        return AutomaticGradient(self.basis, self.w, whole)

    def first(self) -> AutomaticGradient:
        """The first of several draws alone, still with a draw axis."""
        own = self.w[:1] if self.w.dim() > 1 else self.w
        return AutomaticGradient(self.basis, own, first_matrix(self.matrix))


class TangentGradient(GradientMap):
    """``z -> K (d grad H / dw)(z; w0) c``, draws of ``c`` and K on a leading axis."""

    def __init__(
        self,
        basis: NonlinearBasis,
        nominal: Float[Tensor, " params"],
        weights: Float[Tensor, "*draws params"],
        matrix: Float[Tensor, "*own dim dim"] | None,
    ) -> None:
        self.basis, self.nominal, self.matrix = basis, nominal, matrix
        self.weights = weights
        self._column = weights.unsqueeze(-1) if weights.dim() == 1 else weights[:, None, :, None]

    def __call__(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Evaluate at (..., D) states, or (S, B, D) for S draws."""
        slope = (self.basis.feature_gradient(z, self.nominal) @ self._column).squeeze(-1)
        return slope if self.matrix is None else slope @ self.matrix.mT

    def transformed(self, matrix: Float[Tensor, "*draws dim dim"]) -> TangentGradient:
        """Multiply from the left."""
        whole = matrix if self.matrix is None else matrix @ self.matrix
        return TangentGradient(self.basis, self.nominal, self.weights, whole)

    def first(self) -> TangentGradient:
        """The first of several draws alone, still with a draw axis."""
        own = self.weights[:1] if self.weights.dim() > 1 else self.weights
        return TangentGradient(self.basis, self.nominal, own, first_matrix(self.matrix))


def first_matrix(matrix: Tensor | None) -> Tensor | None:
    """The matrix of the first draw, still with a draw axis where there was one."""
    return matrix[:1] if matrix is not None and matrix.dim() > 2 else matrix
