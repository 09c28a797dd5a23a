"""Kinetic energies in scaled units, and their derivatives."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import Basis, GradientMap, Linearized
from sympgp.energies.differentiated import given
from sympgp.phase_space import join, split


class KineticBasis(Basis):
    """``T(z) = u' A(w) u / 2`` with ``u = shift + z_p`` and ``A`` (n, n) positive definite.

    All derivatives by the weights come from the bilinear forms ``u' (dA / dw_a) v``.

    Attributes:
        shift: (n,).
    """

    shift: Float[Tensor, " dof"]
    linear = False
    separable = True

    @abstractmethod
    def inverse_mass(self, w: Float[Tensor, "*draws weights"]) -> Float[Tensor, "*draws dof dof"]:
        """``A(w)``, symmetric."""

    @abstractmethod
    def pairing(
        self,
        u: Float[Tensor, "*batch dof"],
        v: Float[Tensor, "*other dof"],
        w: Float[Tensor, "*draws weights"] | None,
    ) -> Float[Tensor, "*both weights"]:
        """``u' (dA / dw_a) v`` for every weight; draws have u and v of (S, B, n)."""

    def _moved(self, z: Tensor) -> Tensor:
        return self.shift + split(z)[1]

    def features(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """``dT/dw``."""
        u = self._moved(z)
        return 0.5 * self.pairing(u, u, w)

    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch dim weights"]:
        """``(dA/dw) u``, and zeros for the coordinates."""
        u = self._moved(z)
        eye = torch.eye(u.shape[-1], dtype=z.dtype, device=z.device)
        below = self.pairing(u.unsqueeze(-2), eye, w)
        return torch.cat([torch.zeros_like(below), below], -2)

    def weighted_gradient(
        self,
        z: Float[Tensor, "batch stages dim"],
        weights: Float[Tensor, "batch out stages dim"],
        w: Float[Tensor, " weights"] | None = None,
    ) -> Float[Tensor, "batch out weights"]:
        """``sum_s W_s (dA/dw) u_s``."""
        return self.pairing(self._moved(z).unsqueeze(1), split(weights)[1], w).sum(-2)

    def remainder(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "*batch dim"]:
        """``grad T - (d phi / dz) w``: all of the gradient where there are no weights."""
        slope = self.gradient_map(w)(z)
        return slope - self.feature_gradient(z, w) @ w if self.num_weights else slope

    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> AffineGradient:
        """``(0, A u)``."""
        inverse = self.inverse_mass(w)
        offset = (inverse @ self.shift.unsqueeze(-1)).squeeze(-1)
        return AffineGradient(join(torch.zeros_like(offset), offset), _embedded(inverse))

    def hessian(
        self, z: Float[Tensor, "batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "batch dim dim"]:
        """``A`` among the momenta."""
        return _embedded(self.inverse_mass(w)).expand(*z.shape, z.shape[-1])

    def linearized(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> Linearized:
        """Slopes, the same second derivatives at all states, and pairings pulled back."""
        inverse = _embedded(self.inverse_mass(w)).unsqueeze(1)

        def pull_back(pull: Tensor) -> Tensor:
            return self.pairing(self._moved(z), split(pull)[1], w).sum(-2)

        hessian = inverse.expand(*z.shape, z.shape[-1])
        return Linearized(self.gradient_map(w)(z), hessian, pull_back)

    def value(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """``T(z)``."""
        u = self._moved(z)
        return 0.5 * ((u @ self.inverse_mass(w)) * u).sum(-1)


@dataclass(frozen=True, eq=False)
class KnownKineticBasis(KineticBasis):
    """A kinetic energy with nothing to find: ``A`` is known and there are no weights.

    Attributes:
        shift: (n,).
        inverse: (n, n) A.
    """

    shift: Float[Tensor, " dof"]
    inverse: Float[Tensor, "dof dof"]
    num_weights = 0

    @property
    def prior_variance(self) -> Float[Tensor, " none"]:  # type: ignore[override]
        """Empty."""
        return self.shift.new_zeros(0)

    def inverse_mass(self, w: Float[Tensor, "*draws weights"]) -> Float[Tensor, "*draws dof dof"]:
        """The same for all draws."""
        return self.inverse.expand(*w.shape[:-1], *self.inverse.shape)

    def pairing(
        self,
        u: Float[Tensor, "*batch dof"],
        v: Float[Tensor, "*other dof"],
        w: Float[Tensor, "*draws weights"] | None,
    ) -> Float[Tensor, "*both weights"]:
        """No columns."""
        return u.new_zeros(*torch.broadcast_shapes(u.shape[:-1], v.shape[:-1]), 0)


@dataclass(frozen=True, eq=False)
class QuadraticKineticBasis(KineticBasis):
    """``A = L L'`` with ``L_ii = exp(w_i)`` and ``L_ij = exp(w_i) w_ij`` below the diagonal.

    The diagonal's weights come first, then the others row by row, unless A is diagonal.

    Attributes:
        shift: (n,).
        unit: (n,) of ``A = U M^-1 U`` with ``U = diag(unit)`` and the mass matrix M.
        prior_variance: (n,) for a diagonal A, or (n (n + 1) / 2,).
    """

    shift: Float[Tensor, " dof"]
    unit: Float[Tensor, " dof"]
    prior_variance: Float[Tensor, " weights"]

    @property
    def num_weights(self) -> int:  # type: ignore[override]
        """P."""
        return self.prior_variance.shape[0]

    def _below(self) -> tuple[Tensor, Tensor]:
        n = len(self.shift)
        rows, columns = torch.tril_indices(n, n, -1, device=self.shift.device)
        return rows[: self.num_weights - n], columns[: self.num_weights - n]

    def _root(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """``exp(w_i)`` and ``L``."""
        n = len(self.shift)
        rows, columns = self._below()
        lower = torch.eye(n, dtype=w.dtype, device=w.device).repeat(*w.shape[:-1], 1, 1)
        # Sums with one entry each, so that it works inside transformations of functions.
        places = w.new_zeros(len(rows), n * n)
        places[torch.arange(len(rows), device=w.device), rows * n + columns] = 1.0
        lower = lower + (w[..., n:] @ places).reshape(*w.shape[:-1], n, n)
        diagonal = w[..., :n].exp()
        return diagonal, diagonal.unsqueeze(-1) * lower

    def inverse_mass(self, w: Float[Tensor, "*draws weights"]) -> Float[Tensor, "*draws dof dof"]:
        """``L L'``."""
        root = self._root(w)[1]
        return root @ root.mT

    def pairing(
        self,
        u: Float[Tensor, "*batch dof"],
        v: Float[Tensor, "*other dof"],
        w: Float[Tensor, "*draws weights"] | None,
    ) -> Float[Tensor, "*both weights"]:
        """``u_i (A v)_i + v_i (A u)_i`` and ``exp(w_i) (u_i (L' v)_j + v_i (L' u)_j)``."""
        w = given(w)
        rows, columns = self._below()
        diagonal, root = self._root(w)
        inverse, diagonal = root @ root.mT, diagonal[..., rows]
        if w.dim() > 1:
            diagonal = diagonal.unsqueeze(-2)
        first = u * (v @ inverse) + v * (u @ inverse)
        along_u, along_v = (u @ root)[..., columns], (v @ root)[..., columns]
        second = diagonal * (u[..., rows] * along_v + v[..., rows] * along_u)
        return torch.cat([first, second], -1)

    def mass_matrix(self, w: Float[Tensor, "*draws weights"]) -> Float[Tensor, "*draws dof dof"]:
        """The mass matrix ``M = U A^-1 U`` in user units."""
        root = self._root(w)[1]
        half = torch.linalg.solve_triangular(root, torch.diag(self.unit), upper=False)
        return half.mT @ half


class AffineGradient(GradientMap):
    """``z @ matrix + offset``, draws on a leading axis."""

    def __init__(
        self, offset: Float[Tensor, "*draws dim"], matrix: Float[Tensor, "*draws dim dim"]
    ) -> None:
        self.offset, self.matrix = offset, matrix

    def __call__(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Evaluate at (..., D) states, or (S, B, D) for S draws."""
        offset = self.offset if self.offset.dim() == 1 else self.offset.unsqueeze(-2)
        return z @ self.matrix + offset

    def transformed(self, matrix: Float[Tensor, "*draws dim dim"]) -> AffineGradient:
        """Multiply from the left."""
        right = matrix.mT
        offset = (self.offset.unsqueeze(-2) @ right).squeeze(-2)
        return AffineGradient(offset, self.matrix @ right)

    def first(self) -> AffineGradient:
        """The first of several draws alone, still with a draw axis."""
        return AffineGradient(self.offset[:1], self.matrix[:1])


def _embedded(block: Float[Tensor, "*draws dof dof"]) -> Float[Tensor, "*draws dim dim"]:
    """A matrix among the momenta as one among the states."""
    return torch.nn.functional.pad(block, (block.shape[-1], 0, block.shape[-2], 0))
