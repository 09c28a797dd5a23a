"""Matrices ``A A' - S`` that never put energy in, as functions of their entries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.phase_space import CanonicalScaling


@dataclass(frozen=True, eq=False)
class Factors:
    """``D = A A' - S`` with ``A = sum_k e_k factor[k]`` and S the same sum of skew matrices.

    ``g . D g = |A' g|^2`` whatever the entries e, (..., E): those of A, then those of S.

    Attributes:
        factor: (E_A, D, r).
        skew: (E_S, D, D), each skew.
        damped: whether A is there; without it the rest turns the flow and keeps the energy.
    """

    factor: Float[Tensor, "factor dim rank"]
    skew: Float[Tensor, "skew dim dim"]
    damped: bool = True

    @classmethod
    def lower(cls, scaling: CanonicalScaling, size: int, rank: int, skew: bool = False) -> Factors:
        """Lower trapezoidal A in the last ``size`` rows, in the order of ``is_diagonal``.

        Other square factors A O of the same matrix, O orthogonal, would be directions in which
        nothing changes.
        """
        dim = scaling.scale.shape[0]
        rows, columns = torch.tril_indices(size, rank)
        factor = torch.zeros(len(rows), dim, rank)
        factor[torch.arange(len(rows)), dim - size + rows, columns] = 1.0
        below, left = torch.tril_indices(dim, dim, -1) if skew else torch.zeros(2, 0).long()
        turns, every = torch.zeros(len(below), dim, dim), torch.arange(len(below))
        turns[every, below, left], turns[every, left, below] = 1.0, -1.0
        return cls(factor.to(scaling.scale), turns.to(scaling.scale))

    @property
    def dim(self) -> int:
        """D."""
        return self.factor.shape[1]

    @property
    def num_entries(self) -> int:
        """E."""
        return len(self.factor) + len(self.skew)

    def is_diagonal(self) -> Bool[Tensor, " entries"]:
        """Which entries stand on the diagonal of A's block; none of S do."""
        first = self.dim - int(self.factor.any(-1).any(0).sum())
        rank = torch.arange(self.factor.shape[2])
        on = self.factor[:, first + rank, rank].any(-1)
        return torch.cat([on, on.new_zeros(len(self.skew))])

    def split(self, entries: Float[Tensor, "*batch entries"]) -> tuple[Tensor, Tensor]:
        """A (..., D, r) and S (..., D, D)."""
        own, turning = entries.split([len(self.factor), len(self.skew)], -1)
        factor = torch.tensordot(own, self.factor, dims=1)
        if not self.damped:
            factor = torch.zeros_like(factor)
        return factor, torch.tensordot(turning, self.skew, dims=1)

    def matrix(self, entries: Float[Tensor, "*batch entries"]) -> Tensor:
        """D, (..., D, D)."""
        factor, skew = self.split(entries)
        return factor @ factor.mT - skew

    def apply(
        self, entries: Float[Tensor, "*entry entries"], slope: Float[Tensor, "*batch dim"]
    ) -> Float[Tensor, "*batch dim"]:
        """``D g`` without D."""
        factor, skew = self.split(entries)
        column = slope.unsqueeze(-1)
        found = factor @ (factor.mT @ column)
        return (found - skew @ column if len(self.skew) else found).squeeze(-1)

    def response(
        self, entries: Float[Tensor, "*entry entries"], slope: Float[Tensor, "*batch dim"]
    ) -> Float[Tensor, "*batch dim entries"]:
        """``d(D g) / de``: ``E_k A' g + A E_k' g`` and ``-S_k g``."""
        factor, _ = self.split(entries)
        onto = (factor.mT @ slope.unsqueeze(-1)).squeeze(-1)
        own = torch.einsum("kdr,...r->...dk", self.factor, onto) if self.damped else 0.0
        turned = torch.einsum("ker,...e->...rk", self.factor, slope)
        own = own + factor @ turned
        return torch.cat([own, -torch.einsum("kde,...e->...dk", self.skew, slope)], -1)


def block_unit(scaling: CanonicalScaling, size: int) -> Float[Tensor, "size size"]:
    """User value of each entry of the last rows and columns of R per scaled value."""
    scale = scaling.scale[-size:]
    return torch.outer(scale, scale) / scaling.kappa
