"""Sums of Hamiltonians, each part evaluated in its own fast way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.energies.base import Basis, GradientMap, Linearized
from sympgp.energies.contextual import Context
from sympgp.energies.contextual_basis import ContextualBasis
from sympgp.energies.nonlinear import NonlinearBasis
from sympgp.energies.physics_basis import PhysicsBasis


def formula_of(basis: Basis) -> PhysicsBasis | None:
    """The formula of known physics, that of a typical trajectory where it differs; None of else."""
    if isinstance(basis, ContextualBasis):
        return basis.inner
    return basis if isinstance(basis, PhysicsBasis) else None


@dataclass(eq=False)
class SumBasis(Basis):
    """``H = sum_i H_i`` with the parts' weights side by side; each part keeps its fast ways.

    Where a part differs by trajectory, states may have its context behind them; the other parts
    are asked at the states alone.

    Attributes:
        parts: their bases.
        names: one for each.
    """

    parts: tuple[Basis, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        self.sizes = [part.num_weights for part in self.parts]
        self.num_weights = sum(self.sizes)
        self.prior_variance = torch.cat([part.prior_variance for part in self.parts])
        self.linear = all(part.linear for part in self.parts)
        self.separable = all(part.separable for part in self.parts)
        self.has_energy = all(part.has_energy for part in self.parts)
        self.canonical = all(part.canonical for part in self.parts)
        self.lossless = all(part.lossless for part in self.parts)
        self.reducible = all(part.reducible for part in self.parts)
        # All have the context of the same trajectories.
        first = next((part for part in self.parts if isinstance(part, ContextualBasis)), None)
        if first is not None:
            self.context, self._dim = first.context, first.dim

    @property
    def angles(self) -> dict[int, float]:
        """Those of any part."""
        return {k: period for part in self.parts for k, period in part.angles.items()}

    def split(self, w: Float[Tensor, "*draws weights"]) -> tuple[Tensor, ...]:
        """The weights of each part."""
        return w.split(self.sizes, -1)

    def _each(self, w: Tensor | None) -> Iterator[tuple[Basis, Tensor | None]]:
        own = (None,) * len(self.parts) if w is None else self.split(w)
        return zip(self.parts, own, strict=True)

    def _at(self, z: Tensor, part: Basis) -> Tensor:
        """What a part is asked at: points with their context, or the states alone."""
        return z if self.context is None or part.context is not None else z[..., : self._dim]

    def values(
        self, w: Float[Tensor, "*draws weights"], covariates: Any = None
    ) -> dict[str, Tensor]:
        """The physics' unknown parameters in user units, by name (``"part.name"`` if shared).

        Where they differ by trajectory, those of one without a deviation, at its covariates or at
        the data's means.
        """
        found: dict[str, Tensor] = {}
        for name, part, own in zip(self.names, self.parts, self.split(w), strict=True):
            if formula_of(part) is not None:
                more = (covariates,) if isinstance(part, ContextualBasis) else ()
                values = part.values(own, *more)  # type: ignore[attr-defined]
                found |= {k if k not in found else f"{name}.{k}": v for k, v in values.items()}
        return found

    def features(
        self, z: Float[Tensor, "*batch width"], w: Float[Tensor, "*draws weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """Side by side."""
        return torch.cat([part.features(self._at(z, part), own) for part, own in self._each(w)], -1)

    def feature_gradient(
        self, z: Float[Tensor, "*batch width"], w: Float[Tensor, "*draws weights"] | None = None
    ) -> Float[Tensor, "*batch dim weights"]:
        """Side by side."""
        return torch.cat(
            [part.feature_gradient(self._at(z, part), own) for part, own in self._each(w)], -1
        )

    def weighted_gradient(
        self,
        z: Float[Tensor, "batch stages width"],
        weights: Float[Tensor, "batch out stages dim"],
        w: Float[Tensor, " weights"] | None = None,
    ) -> Float[Tensor, "batch out weights"]:
        """Side by side."""
        found = [
            part.weighted_gradient(self._at(z, part), weights, own) for part, own in self._each(w)
        ]
        return torch.cat(found, -1)

    def remainder(
        self, z: Float[Tensor, "*batch width"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "*batch dim"] | None:
        """The sum over the parts that are not linear."""
        total: Tensor | None = None
        for part, own in zip(self.parts, self.split(w), strict=True):
            found = part.remainder(self._at(z, part), own)
            if found is not None:
                total = found if total is None else total + found
        return total

    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> SumGradient:
        """The parts' own, added."""
        pairs = zip(self.parts, self.split(w), strict=True)
        maps = [(part, part.gradient_map(own)) for part, own in pairs]
        if self.context is not None:
            alone = {id(part) for part in self.parts if part.context is None}
            maps = [(p, StatesAlone(m, self._dim) if id(p) in alone else m) for p, m in maps]
        return SumGradient(tuple(found for _, found in maps))

    def about(self, w: Float[Tensor, " weights"]) -> SumBasis:
        """Each part about its own weights."""
        pairs = zip(self.parts, self.split(w), strict=True)
        return replace(self, parts=tuple(part.about(own) for part, own in pairs))

    def joined_by(self, context: Context) -> tuple[SumBasis, Int[Tensor, " weights"]]:
        """Each part for itself."""
        parts, places, begin = [], [], 0
        for part in self.parts:
            found, own = part.joined_by(context)
            parts.append(found)
            places.append(torch.where(own < 0, own, own + begin))
            begin += found.num_weights
        return replace(self, parts=tuple(parts)), torch.cat(places)

    def tangent_map(
        self, w: Float[Tensor, " weights"], change: Float[Tensor, "*draws weights"]
    ) -> SumGradient:
        """``z -> (d grad H / dw)(z; w) c``, of nonlinear parts."""
        own = zip(self._nonlinear(), self.split(w), self.split(change), strict=True)
        return SumGradient(tuple(part.tangent_map(at, by) for part, at, by in own))

    def tangent_hessian(
        self,
        z: Float[Tensor, "*batch dim"],
        w: Float[Tensor, " weights"],
        change: Float[Tensor, "*draws weights"],
    ) -> Float[Tensor, "*batch dim dim"]:
        """The derivative of ``tangent_map`` by the states."""
        own = zip(self._nonlinear(), self.split(w), self.split(change), strict=True)
        return torch.stack([part.tangent_hessian(z, at, by) for part, at, by in own]).sum(0)

    def _nonlinear(self) -> list[NonlinearBasis]:
        found = [part for part in self.parts if isinstance(part, NonlinearBasis)]
        if len(found) < len(self.parts):
            raise TypeError("tangents: expected nonlinear parts only")
        return found

    def hessian(
        self, z: Float[Tensor, "batch width"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "batch dim dim"]:
        """The parts' own, added."""
        pairs = zip(self.parts, self.split(w), strict=True)
        return torch.stack([part.hessian(self._at(z, part), own) for part, own in pairs]).sum(0)

    def linearized(
        self, z: Float[Tensor, "draws batch width"], w: Float[Tensor, "draws weights"]
    ) -> Linearized:
        """The parts' own, added; their pull-backs side by side."""
        pairs = zip(self.parts, self.split(w), strict=True)
        found = [part.linearized(self._at(z, part), own) for part, own in pairs]
        slope = torch.stack([known.slope for known in found]).sum(0)
        hessian = torch.stack([known.hessian for known in found]).sum(0)
        return Linearized(
            slope, hessian, lambda pull: torch.cat([known.pull_back(pull) for known in found], -1)
        )

    def value(
        self, z: Float[Tensor, "*batch width"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """The parts' own, added."""
        pairs = zip(self.parts, self.split(w), strict=True)
        return torch.stack([part.value(self._at(z, part), own) for part, own in pairs]).sum(0)


class SumGradient(GradientMap):
    """The sum of several gradient maps, each as fast as it is alone."""

    def __init__(self, parts: tuple[GradientMap, ...]) -> None:
        self.parts = parts
        self.sines = sum(part.sines for part in parts)

    def __call__(self, z: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch dim"]:
        """Evaluate all."""
        total = self.parts[0](z)
        for part in self.parts[1:]:
            total = total + part(z)
        return total

    def transformed(self, matrix: Float[Tensor, "*draws dim dim"]) -> SumGradient:
        """Every part transformed."""
        return SumGradient(tuple(part.transformed(matrix) for part in self.parts))

    def first(self) -> SumGradient:
        """The first draw of every part."""
        return SumGradient(tuple(part.first() for part in self.parts))

    def compiled(self) -> SumGradient:
        """Every part compiled that can be."""
        return SumGradient(tuple(part.compiled() for part in self.parts))


class StatesAlone(GradientMap):
    """A gradient map of states (..., D), asked at points with a context behind them."""

    def __init__(self, inner: GradientMap, dim: int) -> None:
        self.inner, self.dim = inner, dim
        self.sines = inner.sines

    def __call__(self, z: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch dim"]:
        """Evaluate at the states."""
        return self.inner(z[..., : self.dim])

    def transformed(self, matrix: Float[Tensor, "*draws dim dim"]) -> StatesAlone:
        """The inner map transformed."""
        return StatesAlone(self.inner.transformed(matrix), self.dim)

    def first(self) -> StatesAlone:
        """The first draw of the inner map."""
        return StatesAlone(self.inner.first(), self.dim)

    def compiled(self) -> StatesAlone:
        """The inner map compiled where it can be."""
        return StatesAlone(self.inner.compiled(), self.dim)
