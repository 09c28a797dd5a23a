"""Vector fields that are not ``J grad H``, as families of covectors ``g`` with ``f = J g``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import Basis, Energy, GradientMap, Linearized
from sympgp.energies.nonlinear import first_matrix, given, gradient
from sympgp.phase_space import join, split

WITHOUT_ENERGY = "a field without an energy: only its rates dx/dt are known, no H"
"""What is said where an energy is asked for in vain."""


def covector(rate: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """``g = J' f``, so that ``J g = f``: ``(-f_p, f_q)``."""
    f_q, f_p = split(rate)
    return join(-f_p, f_q)


class SlopeBasis(Basis):
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

    linear = False
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
        found = self._by_weights(copies, w.expand(num * dim, -1), seeds)
        return found.reshape(*z.shape, -1)

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

    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> GradientMap:
        """``z -> g(z; w)``."""
        return SlopeMap(self, w)

    def hessian(
        self, z: Float[Tensor, "batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "batch dim dim"]:
        """``dg/dz`` for one weight vector: entry (i, j) is ``dg_i/dz_j``, not symmetric."""
        return self._linear(z.unsqueeze(0), w.unsqueeze(0))[1].squeeze(0)

    def linearized(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> Linearized:
        """``g`` and ``dg/dz`` together; weights by a reverse pass where they are asked for."""
        slope, hessian = self._linear(z, w)
        return Linearized(slope, hessian, lambda pull: self._by_weights(z, w, pull))

    def _linear(self, z: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """``g`` (S, B, D) and its derivatives (S, B, D, D), a row at each of D copies."""
        draws, batch, dim = z.shape
        seeds = torch.eye(dim, dtype=z.dtype, device=z.device).repeat_interleave(batch, 0)
        slope = z

        def contracted(leaf: Tensor) -> Tensor:
            nonlocal slope
            slope = self.slope(leaf, w)
            return seeds * slope

        rows = gradient(contracted, z.repeat(1, dim, 1), followed(z, w))
        return slope[:, :batch].detach(), rows.reshape(draws, dim, batch, dim).transpose(1, 2)

    def _by_weights(self, z: Tensor, w: Tensor, pull: Tensor) -> Tensor:
        """The derivative of ``sum pull . g`` by the weights of each draw."""
        return gradient(lambda leaf: pull * self.slope(z, leaf), w, followed(z, w, pull))


def followed(*tensors: Tensor) -> bool:
    """Whether a caller will differentiate what is made of these."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


class SlopeMap(GradientMap):
    """``z -> K g(z; w)`` of a :class:`SlopeBasis`, draws on a leading axis."""

    def __init__(
        self,
        basis: SlopeBasis,
        w: Float[Tensor, "*draws weights"],
        matrix: Float[Tensor, "*own dim dim"] | None = None,
    ) -> None:
        self.basis, self.w, self.matrix = basis, w, matrix
        self.slope = basis.bound(w)

    def __call__(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Evaluate at (..., D) states, or (S, B, D) for S draws."""
        slope = self.slope(z)
        return slope if self.matrix is None else slope @ self.matrix.mT

    def transformed(self, matrix: Float[Tensor, "*draws dim dim"]) -> SlopeMap:
        """Multiply from the left."""
        whole = matrix if self.matrix is None else matrix @ self.matrix
        return SlopeMap(self.basis, self.w, whole)

    def first(self) -> SlopeMap:
        """The first of several draws alone, still with a draw axis."""
        own = self.w[:1] if self.w.dim() > 1 else self.w
        return SlopeMap(self.basis, own, first_matrix(self.matrix))


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
