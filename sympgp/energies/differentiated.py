"""Bases of which one function is written and all else differentiated, state by state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import Basis, GradientMap, Linearized


class DifferentiatedBasis(Basis):
    """What follows from two derivatives of the slope ``g(z; w)``: by the states, by the weights.

    Rows of either are found at copies of the states, side by side, rather than one after the
    other, so that each takes one pass, whatever D and P.
    """

    linear = False

    @abstractmethod
    def _by_states(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> tuple[Float[Tensor, "draws batch dim"], Float[Tensor, "draws batch dim dim"]]:
        """``g`` and ``dg/dz``."""

    @abstractmethod
    def _by_weights(
        self,
        z: Float[Tensor, "draws batch dim"],
        w: Float[Tensor, "draws weights"],
        pull: Float[Tensor, "draws #batch dim"],
    ) -> Float[Tensor, "draws weights"]:
        """The derivative of ``sum pull . g`` by the weights of each draw."""

    def features(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """``dH/dw``."""
        w = given(w)
        states, rows = z.reshape(-1, 1, z.shape[-1]), w.expand(z[..., 0].numel(), -1)
        found = gradient(lambda leaf: self.value(states, leaf), rows, followed(z, w))
        return found.reshape(*z.shape[:-1], -1)

    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch dim weights"]:
        """``dg/dw``."""
        w = given(w)
        dim = z.shape[-1]
        states = z.reshape(-1, 1, dim)
        num = len(states)
        seeds = torch.eye(dim, dtype=z.dtype, device=z.device).repeat(num, 1).unsqueeze(1)
        copies = states.repeat_interleave(dim, 0)
        return self._by_weights(copies, w.expand(num * dim, -1), seeds).reshape(*z.shape, -1)

    def weighted_gradient(
        self,
        z: Float[Tensor, "batch stages dim"],
        weights: Float[Tensor, "batch out stages dim"],
        w: Float[Tensor, " weights"] | None = None,
    ) -> Float[Tensor, "batch out weights"]:
        """``sum_s W_s dg(z_s)/dw``, pulled back for all rows at once."""
        w = given(w)
        batch, out = weights.shape[:2]
        copies, rows = z.repeat_interleave(out, 0), w.expand(batch * out, -1)
        found = self._by_weights(copies, rows, weights.flatten(0, 1))
        return found.reshape(batch, out, -1)

    def hessian(
        self, z: Float[Tensor, "batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "batch dim dim"]:
        """``dg/dz`` for one weight vector: entry (i, j) is ``dg_i/dz_j``."""
        return self._by_states(z.unsqueeze(0), w.unsqueeze(0))[1].squeeze(0)

    def linearized(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> Linearized:
        """``g`` and ``dg/dz`` together; weights by a reverse pass where they are asked for."""
        slope, hessian = self._by_states(z, w)
        return Linearized(slope, hessian, lambda pull: self._by_weights(z, w, pull))


class WeightedMap(GradientMap):
    """``z -> K g(z; w)`` for fixed weights, draws of w and of K on a leading axis."""

    def __init__(
        self,
        weights: Float[Tensor, "*draws weights"],
        matrix: Float[Tensor, "*own dim dim"] | None = None,
    ) -> None:
        self.weights, self.matrix = weights, matrix

    @abstractmethod
    def slope(self, z: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch dim"]:
        """``g(z; w)``; states may have a context behind them."""

    @abstractmethod
    def like(self, weights: Tensor, matrix: Tensor | None) -> WeightedMap:
        """The same for other weights and another matrix."""

    def __call__(self, z: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch dim"]:
        """Evaluate at (..., D) states, or (S, B, D) for S draws."""
        slope = self.slope(z)
        return slope if self.matrix is None else slope @ self.matrix.mT

    def transformed(self, matrix: Float[Tensor, "*draws dim dim"]) -> WeightedMap:
        """Multiply from the left."""
        return self.like(self.weights, matrix if self.matrix is None else matrix @ self.matrix)

    def first(self) -> WeightedMap:
        """The first of several draws alone, still with a draw axis."""
        own = self.weights[:1] if self.weights.dim() > 1 else self.weights
        return self.like(own, first_matrix(self.matrix))


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


def followed(*tensors: Tensor) -> bool:
    """Whether a caller will differentiate what is made of these."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def first_matrix(matrix: Tensor | None) -> Tensor | None:
    """The matrix of the first draw, still with a draw axis where there was one."""
    return matrix[:1] if matrix is not None and matrix.dim() > 2 else matrix
